"""Asks the org whether records changed behind a channel that delivers nothing: silence is not health.

It asks each channel's entities at most once an interval, across runs, in the background, and never holds up a run. It
judges only what a run has listened to; a verdict stands until an event lands or the org shows no change.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime, timedelta

from cdc import background
from cdc.continuity import Position, kept_for
from cdc.errors import CdcError, RequestLost, RestFailed
from cdc.events import TIP
from cdc.layout import RunRecord
from cdc.report import RunReport
from cdc.salesforce import Token
from cdc.signals import Emit
from cdc.starting import REST_GRACE_S, Channel, RestQuestions
from cdc.waiting import Waiting

CHANNELS_AT_ONCE = 4
MAX_ENTITIES = 10  # asked in one check; of more, the next ones in the next check
SAME_CHANGE = timedelta(seconds=2)  # a record's SystemModstamp may be a moment later than its event's commitTimestamp
DELIVERY_S = 60.0  # a change younger than that, or than half of what was listened to, may still be on its way
LISTEN_S, LISTEN_SHARE = 60.0, 0.3  # listened to in one session before the org is asked; of a short run that share
END_S = 30.0  # a run asks when no more than that, or LISTEN_SHARE of it, is left


@dataclass(frozen=True)
class Finding:
    """What the org said: the entity that changed last and when, or nothing; of all of the channel's entities or not."""

    entity: str = ""
    changed: datetime | None = None
    is_complete: bool = True


def silent_from(channel: str, position: Position, now: datetime) -> datetime | None:
    """Return the time from which on a changed record must have made an event that was to be delivered.

    What changed before a later generation began is told by its gap record, or is what an operator's order passes over.
    None where nobody can tell: a platform event leaves no record, and a channel that never started has no such time.
    """
    generation = position.generation
    if generation is None or not channel.startswith("/data/"):
        return None
    times = [position.last_time or generation.t0, now - kept_for(channel)]
    times += [generation.t0] if generation.start == TIP or generation.number > 1 else []
    times += [position.quiet_to] if position.quiet_to else []
    return max(times)


def ask(rest: RestQuestions, channel: str, entities: list[str], after: datetime, until: datetime, turn: int) -> Finding:
    """Ask for changes of a channel's entities, one by one up to the first that has changed.

    Raises: RestFailed where none has changed and one could not be asked.
    """
    first = turn * MAX_ENTITIES % len(entities)
    chosen = [*entities[first:], *entities[:first]][:MAX_ENTITIES]
    trouble: RestFailed | None = None
    for entity in chosen:
        try:
            changed = rest.newest_change(channel, entity, after, until)
        except RestFailed as error:
            trouble = trouble or error
            continue
        if changed is not None:
            return Finding(entity, changed)
    if trouble is not None:
        raise trouble
    return Finding(is_complete=len(chosen) == len(entities))


@dataclass
class _Watched:
    """What a run knows of one channel's silence."""

    channel: Channel
    asked: datetime | None = None  # by this run or one before it
    asked_s: float = -math.inf  # by this run
    since: datetime | None = None
    asking: Future[Finding] | None = None
    is_told: bool = False  # that it is silent, or that this is unknown


class SilenceWatch:
    """Watches the channels of one run; `interval_s` 0 switches it off. Called by the run's main thread alone."""

    def __init__(
        self,
        channels: Iterable[Channel],
        report: RunReport,
        waiting: Waiting,
        emit: Emit,
        open_rest: Callable[[Token], RestQuestions],
        *,
        interval_s: float,
    ) -> None:
        self._watched = {channel.name: _Watched(channel) for channel in channels} if interval_s > 0 else {}
        self._report = report
        self._waiting = waiting
        self._clock = waiting.clock
        self._emit = emit
        self._open_rest = open_rest
        self._interval = timedelta(seconds=interval_s)
        self._began_s = self._clock.monotonic()
        run_s = waiting.left_s
        self._listen_s = min(LISTEN_S, LISTEN_SHARE * run_s)
        self._end_s = min(END_S, LISTEN_SHARE * run_s)
        self._entities: dict[str, list[str]] = {}
        self._is_restored = False

    def restore(self, known: RunRecord | None) -> None:
        """Take over what the runs before this one found out: between two checks their verdict stands."""
        if self._is_restored:
            return
        self._is_restored = True
        for name, watched in self._watched.items():
            run = known.channels.get(name) if known else None
            if run is None:
                continue
            watched.asked = run.silence_asked
            position = watched.channel.log.known_position
            last = position.last_time if position else None
            is_over = watched.channel.heard_s > -math.inf or bool(last and run.silent_since and last > run.silent_since)
            if run.silent_since is not None and not is_over:
                asked = f" at {run.silence_asked:%Y-%m-%d %H:%M} UTC" if run.silence_asked else ""
                watched.since = run.silent_since
                silence = _silent(name, watched.since, f"behind it had changed when the org was asked{asked}")
                self._report.note_silence(name, silence, watched.since)

    def heard(self, channel: Channel) -> None:
        """The channel has delivered something: it is not silent."""
        channel.heard_s = self._clock.monotonic()
        self._report.clear_silence(channel.name)

    def next_look_s(self, listening_since_s: float) -> float:
        """Return the seconds to the next moment at which something may be due."""
        if not self._watched:
            return math.inf
        now_s = self._clock.monotonic()
        moments = (self._waiting.deadline_s - self._end_s, listening_since_s + self._listen_s)
        return min([moment - now_s for moment in moments if moment > now_s] + [self._interval.total_seconds() / 10])

    def look(self, *, listening_since_s: float, now: datetime, token: Token) -> None:
        """Start the checks that are due and judge those that are through; `now` is by the server's clock."""
        listened_s = self._clock.monotonic() - listening_since_s
        due = [watched for watched in self._watched.values() if self._is_due(watched, listened_s, now)]
        calls = []
        for watched in due:
            until = now - timedelta(seconds=min(DELIVERY_S, listened_s / 2))
            calls.append(background.bind(self._ask, watched.channel.name, watched.since, until, now, token))
            watched.asked, watched.asked_s = now, self._clock.monotonic()
            self._report.channels[watched.channel.name].silence_asked = now
        for watched, asking in zip(due, background.start_each("silence", calls, at_once=CHANNELS_AT_ONCE), strict=True):
            watched.asking = asking
        if not self._is_near_end:
            for watched in self._watched.values():
                if watched.asking is not None and watched.asking.done():
                    self._judge(watched, watched.asking)

    @property
    def _is_near_end(self) -> bool:
        return self._waiting.left_s <= self._end_s

    def _is_due(self, watched: _Watched, listened_s: float, now: datetime) -> bool:
        channel, position = watched.channel, watched.channel.log.known_position
        if watched.asking is not None or position is None or not channel.is_wanted or listened_s < self._listen_s:
            return False
        quiet_s = self._clock.monotonic() - max(self._began_s, channel.heard_s)
        is_quiet = quiet_s >= self._interval.total_seconds()
        if not is_quiet and not (self._is_near_end and channel.heard_s == -math.inf):
            return False
        since = silent_from(channel.name, position, now)
        if since is None or now - since < self._interval:
            return False
        if watched.asked is not None and timedelta(0) <= now - watched.asked < self._interval:
            return False
        watched.since = since
        return True

    def _ask(self, channel: str, since: datetime, until: datetime, now: datetime, token: Token) -> Finding:
        rest = self._open_rest(token)
        if channel not in self._entities:
            self._entities[channel] = rest.unfiltered_entities(channel)
        turn = int(now.timestamp() / self._interval.total_seconds())
        return ask(rest, channel, self._entities[channel], since + SAME_CHANGE, until, turn)

    def _judge(self, watched: _Watched, asking: Future[Finding], *, grace_s: float | None = None) -> None:
        """Draw the consequence of a check; an event that has arrived meanwhile is stronger."""
        watched.asking, name = None, watched.channel.name
        try:
            finding = self._waiting.result(asking, f"asking the org for changes behind {name}", grace_s=grace_s)
        except (RestFailed, RequestLost) as error:
            if not watched.is_told:
                self._emit("silence.unknown", level=logging.WARNING, channel=name, error=error, next_step=_UNKNOWN_HINT)
            watched.is_told = True
            return
        if watched.channel.heard_s > watched.asked_s or watched.since is None:
            return
        if finding.changed is not None:
            changed = f"of {finding.entity} changed at {finding.changed:%Y-%m-%d %H:%M:%S} UTC"
            silence = _silent(name, watched.since, changed)
            self._report.note_silence(name, silence, watched.since)
            self._tell(watched, silence, finding.entity)
        elif finding.is_complete:
            self._report.clear_silence(name)

    def _tell(self, watched: _Watched, error: CdcError, entity: str = "") -> None:
        watched.is_told = True
        self._emit(
            "channel.silent",
            level=logging.ERROR,
            channel=watched.channel.name,
            since=watched.since,
            entity=entity,
            next_step=error.hint,
        )

    def conclude(self) -> None:
        """The run is over: wait for the checks under way, within the run's grace; say again what still stands."""
        for name, watched in self._watched.items():
            if watched.asking is not None:
                self._judge(watched, watched.asking, grace_s=REST_GRACE_S)
            silence = self._report.channels[name].silence
            if silence is not None and not watched.is_told:
                self._tell(watched, silence)


def _silent(channel: str, since: datetime, change: str) -> CdcError:
    return CdcError(
        f"{channel} is subscribed and silent since {since:%Y-%m-%d %H:%M} UTC, but records {change}", hint=_SILENT_HINT
    )


_SILENT_HINT = (
    "Salesforce may still be searching its event bus, and starts anew in each session: raise CDC_RUN_SECONDS first, "
    'where the plan allows it up to hours; then see "Silent channel" in docs/operations.md: an unfiltered channel, '
    "the run-as user's permission on the entity, changes that make no event"
)
_UNKNOWN_HINT = (
    "give the run-as user API Enabled and View All on the entity, or set CDC_SILENCE_CHECK_MINUTES to 0; until then "
    "nobody can tell this channel's silence from health"
)
