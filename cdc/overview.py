"""Reads where every channel stands: its position, its age, what is left of the retention window, gaps, the last run.

It reads storage alone, writes nothing and creates nothing, not even a container.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from cdc import background, layout
from cdc.continuity import Position, kept_for
from cdc.deriving import find_end
from cdc.errors import CdcError, ContainerMissing, StorageError
from cdc.layout import Gap, RunRecord, Unreadable, spell_time
from cdc.store import Container

CHANNELS_AT_ONCE = 8


@dataclass(frozen=True)
class ChannelState:
    """Where one channel stands; with an `error` nothing else of it is known."""

    channel: str
    position: Position = field(default_factory=Position)
    polled: datetime | None = None  # the newest clean poll
    silent_since: datetime | None = None  # it delivers nothing while the org's records change: its polls prove nothing
    gaps: tuple[Gap, ...] = ()
    warnings: tuple[str, ...] = ()
    error: CdcError | None = None

    @property
    def retention(self) -> timedelta:
        """How long Salesforce surely keeps this channel's events."""
        return kept_for(self.channel)

    @property
    def lag(self) -> timedelta | None:
        """Commit to landed, of the last landed event."""
        return self.position.lag

    @property
    def captured_to(self) -> datetime | None:
        """The time up to which nothing is left to fetch (`continuity.Position`)."""
        return self.position.captured_to(None if self.silent_since else self.polled)

    def retention_left(self, now: datetime) -> timedelta | None:
        """How long capture may pause before Salesforce drops an event that was not fetched; negative: it may have."""
        return self.retention - (now - self.captured_to) if self.captured_to else None


@dataclass(frozen=True)
class GroupState:
    """One group's channels and its last run, None where there was none or its record cannot be read."""

    name: str
    last_run: RunRecord | None
    channels: tuple[ChannelState, ...]


@dataclass(frozen=True)
class Overview:
    """All groups as storage shows them at `now`; with an `error` storage could not be read at all."""

    now: datetime
    groups: tuple[GroupState, ...] = ()
    warnings: tuple[str, ...] = ()
    error: CdcError | None = None

    @property
    def errors(self) -> list[CdcError]:
        """All that could not be read."""
        mine = [self.error] if self.error else []
        return mine + [each.error for group in self.groups for each in group.channels if each.error]

    def to_json(self) -> dict[str, Any]:
        """Return the document that `status --json` prints."""
        return {
            "time": spell_time(self.now),
            "groups": {
                group.name: {
                    "lastRun": _run_json(group.last_run),
                    "channels": {each.channel: _channel_json(each, self.now) for each in group.channels},
                }
                for group in self.groups
            },
            "warnings": list(self.warnings),
            "errors": [{"message": str(error), "hint": error.hint} for error in self.errors],
        }


def read(groups: Mapping[str, Sequence[str]], events: Container, state: Container, now: datetime) -> Overview:
    """Return where the channels of the groups (name -> channels) stand. Raises nothing foreseeable."""
    warnings = list[str]()
    try:
        runs = _runs(state, warnings)
    except StorageError as error:
        return Overview(now, error=error)
    polls = _newest_polls(runs.values())
    by_age = sorted(runs.values(), key=lambda record: record.finished)  # a channel may have changed its group
    silent = {name: run.silent_since for record in by_age for name, run in record.channels.items()}
    calls = [
        background.bind(_channel, events, state, channel, polls.get(channel), silent.get(channel), now)
        for names in groups.values()
        for channel in names
    ]
    states = iter([each.result() for each in background.start_each("overview", calls, at_once=CHANNELS_AT_ONCE)])
    found = tuple(
        GroupState(name, runs.get(name), tuple(next(states) for _ in channels)) for name, channels in groups.items()
    )
    return Overview(now, found, tuple(warnings))


def _runs(state: Container, warnings: list[str]) -> dict[str, RunRecord]:
    runs = {}
    for name in _names(state, layout.RUNS_PREFIX):
        blob = state.read(name)
        try:
            if blob:
                record = RunRecord.from_blob(blob.body)
                runs[record.group] = record
        except Unreadable as error:
            warnings.append(f"{name} cannot be read ({error}); what that run did is unknown")
    return runs


def _names(state: Container, prefix: str) -> list[str]:
    """Return the records below a folder; none where there was no run yet."""
    try:
        return state.names(prefix)
    except ContainerMissing:
        return []


def _newest_polls(runs: Iterable[RunRecord]) -> dict[str, datetime]:
    newest: dict[str, datetime] = {}
    for run in runs:
        for channel, polled in run.clean_polls.items():
            newest[channel] = max(polled, newest.get(channel, polled))
    return newest


def _channel(
    events: Container,
    state: Container,
    channel: str,
    polled: datetime | None,
    silent_since: datetime | None,
    now: datetime,
) -> ChannelState:
    warnings: list[str] = []
    try:
        end = find_end(events, state, channel, now=now, warn=warnings.append)
        gaps = tuple(_gaps(state, channel, warnings))
    except CdcError as error:
        return ChannelState(channel, error=error)
    return ChannelState(channel, end.position, polled, silent_since, gaps, tuple(warnings))


def _gaps(state: Container, channel: str, warnings: list[str]) -> Iterable[Gap]:
    for name in _names(state, layout.gaps_prefix(channel)):
        blob = state.read(name)
        try:
            if blob:
                yield Gap.from_blob(blob.body, channel)
        except Unreadable as error:
            warnings.append(f"{name} cannot be read ({error}); what that gap says is unknown")


def _run_json(run: RunRecord | None) -> dict[str, Any] | None:
    if run is None:
        return None
    return {
        "runId": run.run_id,
        "outcome": run.outcome,
        "started": spell_time(run.started),
        "finished": spell_time(run.finished),
        "errors": list(run.errors),
    }


def _channel_json(state: ChannelState, now: datetime) -> dict[str, Any]:
    position, left = state.position, state.retention_left(now)
    return {
        "segment": position.segment,
        "replayId": position.replay_id,
        "generation": position.generation.number if position.generation else None,
        "lastEvent": spell_time(position.last_time) or None,
        "age": _seconds(now - position.last_time if position.last_time else None),
        "lag": _seconds(state.lag),
        "lastCleanPoll": spell_time(state.polled) or None,
        "retentionLeftHours": round(left.total_seconds() / 3600, 2) if left is not None else None,
        "gaps": [_gap_json(gap) for gap in state.gaps],
        "warnings": list(state.warnings),
        "error": {"message": str(state.error), "hint": state.error.hint} if state.error else None,
    }


def _seconds(time: timedelta | None) -> float | None:
    return round(time.total_seconds(), 3) if time is not None else None


def record_of(gap: Gap) -> str:
    """Return the name of the blob in which the gap stands."""
    return layout.gap_name(gap.channel, gap.number)


def _gap_json(gap: Gap) -> dict[str, Any]:
    return {
        "generation": gap.number,
        "cause": gap.cause,
        "since": spell_time(gap.since) or None,
        "until": spell_time(gap.until) or None,
        "record": record_of(gap),
    }
