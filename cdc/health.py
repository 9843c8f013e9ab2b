"""Judges what storage shows: is all well, should someone look, does capture fail; and what is at risk until when.

Pure: an overview and a time go in, a verdict comes out. It knows no door and no colour.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from cdc.allocation import WARNING_PERCENT, forecast_percent, used_percent
from cdc.errors import CdcError, SettingsInvalid
from cdc.layout import ChannelRun, Gap, Reading, RunRecord
from cdc.overview import ChannelState, GroupState, Overview, record_of
from cdc.schedule import last_due
from cdc.settings import GRACE_SECONDS
from cdc.wording import duration, moment

Level = Literal["well", "look", "failing"]

RECENT = timedelta(minutes=15)  # a run that ended, or gave word of itself, so lately is recent under any schedule
STARTING = timedelta(seconds=60)  # from due to started: a cold start, and clocks that differ
LOOK_BELOW, FAILING_BELOW = 2 / 3, 1 / 3  # of the retention window left: 48 h and 24 h of 72
_WORST_FIRST: dict[Level, int] = {"failing": 0, "look": 1, "well": 2}


@dataclass(frozen=True)
class Detail:
    """One thing that was reported, and what to do about it; what to do about all of a finding has no text."""

    text: str
    next_step: str = ""


@dataclass(frozen=True)
class Finding:
    """Something that is not well, of a group, a channel, or of all (""); subject and title make a sentence."""

    level: Level
    subject: str
    title: str
    details: tuple[Detail, ...] = ()

    @property
    def headline(self) -> str:
        """The finding in one line, its subject first."""
        return f"{self.subject} {self.title}".strip()


@dataclass(frozen=True)
class Risk:
    """What follows `since` in this channel, as far as it is not captured, is safe in Salesforce until `until`."""

    channel: str
    since: datetime
    until: datetime
    others: int  # channels to which the same may happen later


@dataclass(frozen=True)
class Verdict:
    """The findings, worst first, and what is at risk: of the channels that fail, else of all, the first to run out."""

    findings: tuple[Finding, ...]
    risk: Risk | None = None

    @property
    def level(self) -> Level:
        """The worst level of all findings."""
        return self.findings[0].level if self.findings else "well"

    @property
    def headline(self) -> str:
        """`All well`, or the worst finding after `Look: ` or `Failing: `."""
        if not self.findings:
            return "All well"
        more = f", and {len(self.findings) - 1} more" if len(self.findings) > 1 else ""
        return f"{'Failing' if self.level == 'failing' else 'Look'}: {self.findings[0].headline}{more}"

    def level_of(self, subject: str) -> Level:
        """The worst level of one group or channel."""
        return min((each.level for each in self.findings if each.subject == subject), key=rank, default="well")


def rank(level: Level) -> int:
    """The worst level has the lowest."""
    return _WORST_FIRST[level]


def expected_since(schedule: str, run_seconds: float, now: datetime) -> datetime:
    """Return the time since when a run must have ended, or given word of itself, where timers do what they should."""
    due = last_due(schedule, now - STARTING - timedelta(seconds=run_seconds + GRACE_SECONDS))
    return min(due or now, now - RECENT)


def judge(seen: Overview, expected: datetime) -> Verdict:
    """Return the verdict on what storage shows; a run must have ended since `expected`.

    Of an overview of runs alone it is the verdict on the runs alone.
    """
    findings = list(_findings(seen, expected))
    findings.sort(key=lambda finding: rank(finding.level))
    return Verdict(tuple(findings), _risk(seen, {each.subject for each in findings if each.level == "failing"}))


def _risk(seen: Overview, failing: set[str]) -> Risk | None:
    states = [
        state
        for group in seen.groups
        for state in group.channels
        if state.captured_to and (not failing or failing & {group.name, state.channel})
    ]
    risks = [
        Risk(state.channel, state.captured_to, state.captured_to + state.retention, others=len(states) - 1)
        for state in states
        if state.captured_to
    ]
    return min(risks, key=lambda risk: risk.until, default=None)


def _findings(seen: Overview, expected: datetime) -> Iterator[Finding]:
    if seen.error is not None:
        yield _unreadable(seen.error)
    for group in seen.groups:
        yield from _of_runs(group, expected, seen.now)
        for channel, run in (group.last_run.channels if group.last_run else {}).items():
            yield from _of_channel_run(channel, run, seen.now)
        for state in group.channels:
            yield from _of_channel(state, seen.now)
    yield from _of_allocation(readings_of(seen))
    if seen.warnings:
        yield Finding("look", "", "a record cannot be read", tuple(map(Detail, seen.warnings)))


def _unreadable(error: CdcError) -> Finding:
    if isinstance(error, SettingsInvalid):
        problems = (*map(Detail, error.problems), Detail("", error.hint))
        return Finding("failing", "", "the settings cannot be used", problems)
    return Finding("failing", "", "storage cannot be read", (Detail(str(error), error.hint),))


# --- runs ------------------------------------------------------------------------------------------------------------


def _of_runs(group: GroupState, expected: datetime, now: datetime) -> Iterator[Finding]:
    run = group.last_run
    if run is None:
        yield _unknown(group)
        return
    if run.outcome != "ok":
        level: Level = "look" if run.outcome == "degraded" else "failing"
        did = "failed" if level == "failing" else "was degraded"
        doing = "is failing" if level == "failing" else "is degraded"
        yield Finding(
            level, group.name, f"{doing} in this run" if run.is_under_way else f"{did} in its last run", _said(run)
        )
    if run.finished < expected:
        ago = duration((now - run.finished).total_seconds())
        title = f"gave no word of its run for {ago}" if run.is_under_way else f"has ended no run for {ago}"
        yield Finding("failing", group.name, title, (Detail(f"The last one was {run.run_id}.", _NO_RUN),))


def _unknown(group: GroupState) -> Finding:
    if group.is_unreadable:
        text = "What its last run did is unknown, so nothing proves that it captures."
        step = "the next run writes the record anew; if it does not, look at its invocation"
        return Finding("failing", group.name, "has a run record that cannot be read", (Detail(text, step),))
    return Finding(
        "failing", group.name, "has no run on record", (Detail("Nothing proves that it captures.", _NO_RUN),)
    )


def _said(run: RunRecord) -> tuple[Detail, ...]:
    steps = (*run.next_steps, *[""] * len(run.errors))
    return tuple(map(Detail, run.errors, steps))


def _of_channel_run(channel: str, run: ChannelRun, now: datetime) -> Iterator[Finding]:
    if run.silent_since:
        text = f"Since {moment(run.silent_since, now)} UTC records of it changed in the org, and no event came."
        yield Finding("failing", channel, "is silent though its records change", (Detail(text, _SILENT),))


# --- channels --------------------------------------------------------------------------------------------------------


def _of_channel(state: ChannelState, now: datetime) -> Iterator[Finding]:
    if state.error is not None:
        yield Finding("look", state.channel, "cannot be read", (Detail(str(state.error), state.error.hint),))
        return
    yield from _of_retention(state, now)
    if state.gaps:
        yield Finding("look", state.channel, "may lack events", tuple(_of_gap(gap, now) for gap in state.gaps))
    if state.warnings:
        yield Finding("look", state.channel, "has a record that cannot be read", tuple(map(Detail, state.warnings)))


def _of_retention(state: ChannelState, now: datetime) -> Iterator[Finding]:
    left = state.retention_left(now)
    if left is None or state.captured_to is None or left > LOOK_BELOW * state.retention:
        return
    level: Level = "failing" if left <= FAILING_BELOW * state.retention else "look"
    to, hours = moment(state.captured_to, now), f"{state.retention.total_seconds() / 3600:.0f}"
    text = f"Captured up to {to} UTC; Salesforce keeps events for {hours} hours."
    if left <= timedelta(0):
        yield Finding("failing", state.channel, "may have lost events already", (Detail(text, _CAPTURE),))
    else:
        title = f"has only {left.total_seconds() / 3600:.1f} h left until Salesforce drops events"
        yield Finding(level, state.channel, title, (Detail(text, _CAPTURE),))


def _of_gap(gap: Gap, now: datetime) -> Detail:
    since = f"{moment(gap.since, now)}" if gap.since else "an unknown time"
    until = moment(gap.until or gap.detected, now)
    text = f"Between {since} and {until} UTC; {gap.cause}, generation {gap.number}, record {record_of(gap)}."
    return Detail(text, _RECONCILE)


# --- the org ---------------------------------------------------------------------------------------------------------


def readings_of(seen: Overview) -> tuple[Reading, ...]:
    """Return the readings of the org's allocation, newest first, of the group that has the newest."""
    known = [group.last_run.allocation for group in seen.groups if group.last_run and group.last_run.allocation]
    return max(known, key=lambda readings: readings[0].read, default=())


def _of_allocation(readings: tuple[Reading, ...]) -> Iterator[Finding]:
    used = used_percent(readings[0]) if readings else None
    forecast = forecast_percent(readings) if readings else None
    if used is None or max(used, forecast or 0.0) <= WARNING_PERCENT:
        return
    newest = readings[0]
    text = f"{newest.max - newest.remaining:,} of {newest.max:,} events delivered in 24 hours, to all subscribers."
    title = f"{used:.0f} % of the event delivery allocation is used"
    if used <= WARNING_PERCENT:
        title = f"the event delivery allocation is going towards {forecast:.0f} %"
    yield Finding("look", "", title, (Detail(text, _ALLOCATION),))


# --- next steps ------------------------------------------------------------------------------------------------------

_NO_RUN = "see whether its timer fires and its invocations fail: is the app running, do its settings load?"
_SILENT = "let runs listen longer (CDC_RUN_SECONDS); a session that ends too early never gets through a backlog"
_CAPTURE = "see why runs fail or do not start, and capture now: python -m cdc run"
_RECONCILE = "reconcile the records that changed in that interval, then close the gap"
_ALLOCATION = "find out which subscriber takes most; drop channels or raise the allocation, at 100 % deliveries stop"
