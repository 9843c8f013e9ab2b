"""Reads where every channel stands: its position, its age, what is left of the retention window, gaps, the last run.

It reads storage alone, writes nothing and creates nothing, not even a container. From the log itself (`read`), or from
the checkpoints container alone (`read_records`, `read_runs`), for whoever asks often.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from cdc import background, layout
from cdc.continuity import Position, kept_for
from cdc.deriving import find_end, read_checkpoint
from cdc.errors import CdcError, ContainerMissing, StorageError
from cdc.layout import ChannelRun, Gap, GapClosing, PastRun, Reading, Record, RunRecord, Unreadable, spell_time
from cdc.store import Container

R = TypeVar("R", bound=Record)

CHANNELS_AT_ONCE = 8
FindPosition = Callable[[str, Callable[[str], None]], Position]  # a channel, and whom to warn -> where its log ends
QUARANTINE_SEEN = 1000  # blobs: one page of a listing at most


@dataclass(frozen=True)
class ChannelState:
    """Where one channel stands; with an `error` nothing else of it is known."""

    channel: str
    position: Position = field(default_factory=Position)
    polled: datetime | None = None  # the newest clean poll
    silent_since: datetime | None = None  # it delivers nothing while the org's records change: its polls prove nothing
    gaps: tuple[Gap, ...] = ()  # the open ones
    closed_gaps: int = 0
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
    is_unreadable: bool = False  # the record of its last run

    def run_of(self, channel: str) -> ChannelRun:
        """Return the channel's part of the last run; an empty one where there was none."""
        return (self.last_run.channels if self.last_run else {}).get(channel, ChannelRun())


@dataclass(frozen=True)
class Overview:
    """All groups as storage shows them at `now`; with an `error` storage could not be read at all."""

    now: datetime
    groups: tuple[GroupState, ...] = ()
    warnings: tuple[str, ...] = ()
    error: CdcError | None = None
    quarantined: int | None = None  # messages that wait there, by the first QUARANTINE_SEEN blobs; None: not looked at

    @property
    def allocation(self) -> tuple[Reading, ...]:
        """The readings of the org's delivery allocation, newest first, of the group that has the newest."""
        known = [group.last_run.allocation for group in self.groups if group.last_run and group.last_run.allocation]
        return max(known, key=lambda readings: readings[0].read, default=())

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
                    "channels": {
                        each.channel: _channel_json(each, group.run_of(each.channel), self.now)
                        for each in group.channels
                    },
                }
                for group in self.groups
            },
            **({"quarantined": self.quarantined} if self.quarantined is not None else {}),
            "warnings": list(self.warnings),
            "errors": [{"message": str(error), "hint": error.hint} for error in self.errors],
        }


def read(groups: Mapping[str, Sequence[str]], events: Container, state: Container, now: datetime) -> Overview:
    """Return where the channels of the groups (name -> channels) stand. Raises nothing foreseeable."""

    def find(channel: str, warn: Callable[[str], None]) -> Position:
        return find_end(events, state, channel, now=now, warn=warn).position

    seen = _read(groups, state, now, find)
    return seen if seen.error else replace(seen, quarantined=_quarantined(events))


def read_records(groups: Mapping[str, Sequence[str]], state: Container, now: datetime) -> Overview:
    """Return the same by the records alone: checkpoints, gaps, runs. A checkpoint may be seconds behind its log.

    Raises nothing foreseeable.
    """

    def find(channel: str, warn: Callable[[str], None]) -> Position:
        return _checkpointed(state, channel, warn)

    return _read(groups, state, now, find)


def read_runs(names: Sequence[str], state: Container, now: datetime) -> Overview:
    """Return the groups' last runs and nothing else: one blob is read per group. Raises nothing foreseeable."""
    warnings = list[str]()
    try:
        runs = _runs(state, map(layout.run_name, names), warnings)
    except ContainerMissing:
        runs = {}
    except StorageError as error:
        return Overview(now, error=error)
    return Overview(now, tuple(_group(name, runs, ()) for name in names), tuple(warnings))


def _read(groups: Mapping[str, Sequence[str]], state: Container, now: datetime, find: FindPosition) -> Overview:
    warnings = list[str]()
    try:
        runs = _runs(state, _names(state, layout.RUNS_PREFIX), warnings)
    except StorageError as error:
        return Overview(now, error=error)
    known = sorted((run for run in runs.values() if run), key=lambda record: record.finished)
    polls = _newest_polls(known)
    silent = {name: run.silent_since for record in known for name, run in record.channels.items()}  # the newest decides
    calls = [
        background.bind(_channel, find, state, channel, polls.get(channel), silent.get(channel))
        for names in groups.values()
        for channel in names
    ]
    states = iter([each.result() for each in background.start_each("overview", calls, at_once=CHANNELS_AT_ONCE)])
    found = tuple(_group(name, runs, tuple(next(states) for _ in channels)) for name, channels in groups.items())
    return Overview(now, found, tuple(warnings))


def _quarantined(events: Container) -> int:
    try:
        names = events.names(layout.QUARANTINE_PREFIX, at_most=QUARANTINE_SEEN)
    except StorageError:
        return 0  # a container that is missing holds none, and one that cannot be read has been told of
    waiting = [name for name in names if layout.read_quarantine_name(name)]
    return sum(layout.redriving_name(name) not in names for name in waiting)


def _group(name: str, runs: Mapping[str, RunRecord | None], channels: tuple[ChannelState, ...]) -> GroupState:
    run = layout.run_name(name)
    return GroupState(name, runs.get(run), channels, is_unreadable=run in runs and runs[run] is None)


def _runs(state: Container, blobs: Iterable[str], warnings: list[str]) -> dict[str, RunRecord | None]:
    """Blob name -> record, None for one that cannot be read; a blob that is not there is left out."""
    runs: dict[str, RunRecord | None] = {}
    for name in blobs:
        blob = state.read(name)
        try:
            if blob:
                runs[name] = RunRecord.from_blob(blob.body)
        except Unreadable as error:
            runs[name] = None
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
    find: FindPosition, state: Container, channel: str, polled: datetime | None, silent_since: datetime | None
) -> ChannelState:
    warnings: list[str] = []
    try:
        position = find(channel, warnings.append)
        gaps, closed = _open_gaps(state, channel, warnings)
    except CdcError as error:
        return ChannelState(channel, error=error)
    return ChannelState(
        channel,
        position=position,
        polled=polled,
        silent_since=silent_since,
        gaps=gaps,
        closed_gaps=closed,
        warnings=tuple(warnings),
    )


def _checkpointed(state: Container, channel: str, warn: Callable[[str], None]) -> Position:
    """Return where the checkpoint says that the log ends."""
    try:
        checkpoint, _ = read_checkpoint(state, channel, warn)
    except ContainerMissing:
        checkpoint = None
    if checkpoint is None:
        return Position()
    return Position(
        segment=checkpoint.segment,
        partition=checkpoint.partition,
        replay_id=checkpoint.replay_id,
        last_replay_id=checkpoint.replay_id,
        last_time=checkpoint.last_time,
        generation=checkpoint.generation,
        skipped_to=checkpoint.skipped_to,
        quiet_to=checkpoint.quiet_to,
        segment_written=checkpoint.segment_written,
    )


def _open_gaps(state: Container, channel: str, warnings: list[str]) -> tuple[tuple[Gap, ...], int]:
    """Return the gaps that nobody has closed, and how many are closed: of those the names are enough."""
    names = _names(state, layout.gaps_prefix(channel))
    known = {name: number for name in names if (number := layout.read_gap_number(name))}
    still_open = [name for name, number in known.items() if layout.gap_closing_name(channel, number) not in names]
    found = [_read_record(state, name, channel, Gap, warnings) for name in still_open]
    return tuple(gap for gap in found if gap), len(known) - len(still_open)


def read_gaps(state: Container, channel: str, warnings: list[str]) -> Iterator[tuple[Gap, GapClosing | None]]:
    """Yield a channel's gaps in order, each with its closing (None: open); `warnings` takes what cannot be read.

    Raises: StorageError.
    """
    names = _names(state, layout.gaps_prefix(channel))
    for name in names:
        number = layout.read_gap_number(name)
        gap = _read_record(state, name, channel, Gap, warnings) if number else None
        if number and gap is not None:
            closing = layout.gap_closing_name(channel, number)
            is_closed = closing in names
            yield gap, _read_record(state, closing, channel, GapClosing, warnings) if is_closed else None


def _read_record(state: Container, name: str, channel: str, kind: type[R], warnings: list[str]) -> R | None:
    blob = state.read(name)
    try:
        return kind.from_blob(blob.body, channel) if blob else None
    except Unreadable as error:
        warnings.append(f"{name} cannot be read ({error}); what that gap says is unknown")
        return None


def _run_json(run: RunRecord | None) -> dict[str, Any] | None:
    if run is None:
        return None
    return {
        "runId": run.run_id,
        "outcome": run.outcome,
        "started": spell_time(run.started),
        "finished": spell_time(run.finished),
        "isUnderWay": run.is_under_way,
        "events": run.events,
        "sessions": run.sessions,
        "lostSessions": run.lost_sessions,
        "errors": list(run.errors),
        "nextSteps": list(run.next_steps),
        "past": [_past_json(past) for past in run.past],
        "allocation": [_reading_json(reading) for reading in run.allocation],
        "allocationProblem": run.allocation_problem or None,
    }


def _past_json(run: PastRun) -> dict[str, Any]:
    times = {"started": spell_time(run.started), "finished": spell_time(run.finished)}
    return {"runId": run.run_id, "outcome": run.outcome, **times, "events": run.events}


def _reading_json(reading: Reading) -> dict[str, Any]:
    return {"read": spell_time(reading.read), "max": reading.max, "remaining": reading.remaining}


def _channel_json(state: ChannelState, run: ChannelRun, now: datetime) -> dict[str, Any]:
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
        "silentSince": spell_time(run.silent_since) or None,
        "lastRun": {
            "outcome": run.outcome or None,
            "events": run.events,
            "segments": run.segments,
            "bytes": run.bytes,
            "medianLag": run.lag_p50_s,
            "maxLag": run.lag_max_s,
        },
        "hours": run.hours,
        "gaps": [_gap_json(gap) for gap in state.gaps],
        "closedGaps": state.closed_gaps,
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
