"""The storage log of each channel: appends segments, writes checkpoints, generation and gap records, quarantine.

Where a log ends is found by `deriving`. Nothing here overwrites a segment or a record, or records a replay id before
its event lies in a segment. docs/storage-log.md has the layout and its guarantees.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from itertools import accumulate, takewhile

from cdc import layout
from cdc.continuity import REWIND, Opening, Position, Start
from cdc.deriving import Warn, find_end, read_checkpoint, read_generation, read_turn
from cdc.errors import (
    BlobChanged,
    BlobExists,
    ContainerMissing,
    ContinuityStopped,
    Fenced,
    LatePut,
    LogInconsistent,
    OtherOrg,
    RunClosed,
    StorageUnavailable,
)
from cdc.events import TIP, Deliveries, Stray, from_ms, to_ms
from cdc.layout import Checkpoint, Gap, Generation, RunRecord, SegmentFacts, Turn, Unreadable
from cdc.store import Container

MAX_SEGMENT_BYTES = 16 * 1024 * 1024  # far below the limit of a single PUT; a larger event is a segment of its own
CHECKPOINT_EVERY_S = 10.0
_REDRIVE_TRIES = 200  # beside a run that lands many segments a second
_DAY_MS = 86_400_000
_WINDOW = 10_000  # at least so many replay ids are remembered for dropping duplicates; what came at once goes at once


@dataclass(frozen=True)
class Landed:
    """One segment that is durably in the log."""

    channel: str
    segment: int
    count: int
    size_bytes: int
    last_replay_id: str
    last_time: datetime | None


class StorageLog:
    """The log of one run: the two containers, who writes, and whether writing is still allowed."""

    def __init__(self, events: Container, state: Container, *, run_id: str, now: Callable[[], datetime]) -> None:
        self.events = events
        self.state = state
        self.run_id = run_id
        self.now = now
        self._is_closed = False
        self._creating = threading.Lock()
        self._run_before: RunRecord | None = None  # the group's last record that is not this run's
        self._run_etag: str | None = None

    def close(self) -> None:
        """From now on no write starts: the run is over, whatever still hangs."""
        self._is_closed = True

    def check_open(self) -> None:
        """Raises: RunClosed."""
        if self._is_closed:
            raise RunClosed("writing: the run is over", hint="nothing: the next run goes on from the last landed event")

    def create_events_container(self) -> None:
        """Create the missing events container, unless the checkpoints container says that there was one.

        Raises: LogInconsistent, StorageError, RunClosed.
        """
        with self._creating:
            if self._has_events_container():
                return  # another channel or run has just created it
            has_state = self.state.folders("generations/") or self.state.names("data/") or self.state.names("event/")
            if has_state:
                if self._has_events_container():
                    return  # another run has just created it, and state after it
                raise LogInconsistent(
                    f"opening the log: container {self.events.name} is missing, but {self.state.name} holds its state",
                    hint=f"check CDC_STORAGE and CDC_EVENTS_CONTAINER; if the log is really gone, move the blobs of "
                    f"{self.state.name} away and capture starts anew",
                )
            self.check_open()
            self.events.ensure()

    def _has_events_container(self) -> bool:
        try:
            self.events.folders("quarantine/")
        except ContainerMissing:
            return False
        return True

    def keep(self, stray: Stray) -> bool:
        """Put a message that cannot be placed into quarantine, whole; True if it was not there yet.

        Raises: StorageError, RunClosed.
        """
        self.check_open()
        name = layout.quarantine_name(stray.channel, stray.raw)
        try:
            self.events.create(name, stray.raw, content_type=layout.RECORD_TYPE)
        except BlobExists:
            return False
        return True

    def last_clean_poll(self, channel: str) -> datetime | None:
        """Return the newest clean poll of a channel that any group has recorded, None where that is unknown.

        Raises: StorageError.
        """
        polls = []
        for name in self.state.names(layout.RUNS_PREFIX):
            blob = self.state.read(name)
            try:
                polls += [RunRecord.from_blob(blob.body).clean_polls[channel]] if blob else []
            except (Unreadable, KeyError):
                continue
        return max(polls, default=None)

    def read_run(self, group: str) -> RunRecord | None:
        """Return the record of the group's last run, None where there is none or it cannot be read.

        Raises: StorageError.
        """
        blob = self.state.read(layout.run_name(group))
        self._run_etag = blob.etag if blob else None
        try:
            record = RunRecord.from_blob(blob.body) if blob else None
        except Unreadable:
            record = None
        if record is None or record.run_id != self.run_id:
            self._run_before = record
        return self._run_before

    def write_run(self, record: RunRecord) -> None:
        """Write the group's run record by compare-and-swap; what runs remember is taken over from the one before it.

        Raises: StorageError, RunClosed.
        """
        for attempt in range(3):
            self.check_open()
            if attempt or self._run_before is None:
                self.read_run(record.group)
            body = record.after(self._run_before).to_blob()
            try:
                self._run_etag = self.state.replace(
                    layout.run_name(record.group), body, etag=self._run_etag, content_type=layout.RECORD_TYPE
                )
                return
            except BlobChanged:
                continue


@dataclass
class _Window:
    """The replay ids that were just landed, or are about to be: what comes again is dropped."""

    known: set[str] = field(default_factory=set)
    batches: deque[list[str]] = field(default_factory=deque)  # the same, in the order in which they came

    def add(self, replay_ids: list[str]) -> list[int] | None:
        """Remember the ids; returns the places of those that were not known yet, None where that is all of them."""
        ids = set(replay_ids)
        if len(ids) == len(replay_ids) and ids.isdisjoint(self.known):
            self.known |= ids
            self._keep(replay_ids)
            return None
        places = []
        for place, replay_id in enumerate(replay_ids):
            if replay_id not in self.known:
                self.known.add(replay_id)
                places.append(place)
        self._keep([replay_ids[place] for place in places])
        return places

    def _keep(self, replay_ids: list[str]) -> None:
        if not replay_ids:
            return
        self.batches.append(replay_ids)
        while len(self.known) - len(self.batches[0]) >= _WINDOW:
            self.known.difference_update(self.batches.popleft())


class ChannelLog:
    """One channel's log: its position, and the writes that move it. One thread at a time."""

    def __init__(self, log: StorageLog, channel: str, warn: Warn) -> None:
        self.channel = channel
        self.duplicates = 0
        self._log = log
        self._warn = warn
        self._position: Position | None = None
        self._window = _Window()
        self._skip_before: datetime | None = None
        self._checkpoint: Checkpoint | None = None
        self._checkpoint_etag: str | None = None
        self._checkpoint_at: datetime | None = None
        self._org_id = ""

    def __repr__(self) -> str:
        return f"<ChannelLog {self.channel} {self._position}>"

    @property
    def is_known(self) -> bool:
        """False at first and after any error: the position must be derived (again)."""
        return self._position is not None

    @property
    def is_started(self) -> bool:
        """True where the position is known and the channel has its first generation."""
        return self._position is not None and self._position.generation is not None

    @property
    def known_position(self) -> Position | None:
        """Where the log ends; None at first and after any error. May be read while another thread lands."""
        return self._position

    @property
    def position(self) -> Position:
        """Where the log ends."""
        if self._position is None:
            raise AssertionError(f"the position of {self.channel} was not derived")
        return self._position

    def _forget(self) -> None:
        """A cached position is dropped on any error."""
        self._position = None

    # --- finding the end ---------------------------------------------------------------------------------------------

    def derive(self) -> None:
        """Find where the log ends (`deriving`), and create what a first start finds missing.

        Raises: StorageError, LogInconsistent.
        """
        self._forget()
        end = find_end(self._log.events, self._log.state, self.channel, now=self._log.now(), warn=self._warn)
        if not end.has_state_container:
            self._log.check_open()
            self._log.state.ensure()
        if not end.has_events_container:
            self._log.create_events_container()
        self._checkpoint, self._checkpoint_etag = end.checkpoint, end.checkpoint_etag
        self._adopt(end.position)

    def _adopt(self, position: Position) -> None:
        self._position = position
        self._window = _Window()
        if position.replay_id is not None:
            self._window.add([position.replay_id])

    # --- starting ----------------------------------------------------------------------------------------------------

    def check_org(self, org_id: str) -> None:
        """Bind this run to the org that it logged in to.

        Raises: OtherOrg where the log holds another org's events.
        """
        generation = self.position.generation
        known = generation.org_id if generation else (self._checkpoint.org_id if self._checkpoint else "")
        if known and org_id and known[:15] != org_id[:15]:
            raise OtherOrg(
                f"opening the log of {self.channel}: it is org {known}'s, but the settings log in to org {org_id}",
                hint="correct SALESFORCE_LOGIN_URL, or give this org containers of its own (CDC_EVENTS_CONTAINER, "
                "CDC_CHECKPOINTS_CONTAINER)",
            )
        self._org_id = org_id

    def begin(self, start: Start) -> None:
        """Take note of the start that the next subscribe uses."""
        self._skip_before = start.skip_before

    def open_generation(self, opening: Opening, *, t0: datetime, user_id: str) -> tuple[Start | None, bool]:
        """Write a new generation's record, after its gap's, and adopt it; the loser of a race adopts the winner's.

        Returns the start, where it can only be this one (the tip, sent once by the writer of the record), else None
        (choose again); and whether this run opened a gap or went on after one. Where the log has grown meanwhile
        nothing is written: choose again.
        Raises: ContinuityStopped where the opening's start is "stop"; StorageError, LogInconsistent, RunClosed.
        """
        known = self.position.generation
        is_order = opening.cause == REWIND  # whoever orders it lands nothing: the end may move on meanwhile
        if known is not None and not is_order and not self._is_still_the_end():
            newest = self.position.generation
            is_ours = newest is not None and newest.number > known.number and newest.run_id == self._log.run_id
            return None, opening.is_gap and is_ours  # ours: written before, its answer lost
        position = self.position
        number = position.generation.number + 1 if position.generation else 1
        opened = False
        if opening.is_gap:
            opened = self._open_gap(opening, number, t0)
        if self._checkpoint_etag is None:
            # A generation record without any checkpoint means a lost log: so there must be one before the first record.
            self.save_checkpoint(force=True)
        record = Generation(
            channel=self.channel,
            number=number,
            cause=opening.cause,
            start=opening.start,
            t0=t0,
            after_segment=position.segment,
            partition=position.partition or (position.generation.partition if position.generation else t0.date()),
            org_id=self._org_id,
            user_id=user_id,
            run_id=self._log.run_id,
            may_repeat_earlier_events=number > 1,
        )
        written = self._create_record(layout.generation_name(self.channel, number), record.to_blob())
        adopted = record if written else read_generation(self._log.state, self.channel, number)
        if adopted is None:
            raise StorageUnavailable(
                f"reading generation {number} of {self.channel}: it exists and is gone", hint=_AGAIN
            )
        if adopted.run_id != record.run_id:
            self.derive()  # the winner may have landed before it, and since
            return None, opened
        self._adopt(
            replace(position, replay_id=None, generation=adopted, skipped_to=None, quiet_to=None),
        )
        # The record of an earlier try, whose answer was lost, has that session's T0: -1 would not be that moment.
        sent_once = adopted.t0 == record.t0 and adopted.start == TIP
        return (Start(TIP) if sent_once else None), opening.is_gap

    def _is_still_the_end(self) -> bool:
        """Derive once more. A generation that began behind a stale end would use segment numbers twice."""
        known = self.position
        self.derive()
        if (self.position.segment, self.position.generation) != (known.segment, known.generation):
            return False
        self._position = known
        return True

    def _open_gap(self, opening: Opening, number: int, t0: datetime) -> bool:
        position = self.position
        gap = Gap(
            channel=self.channel,
            org_id=self._org_id,
            run_id=self._log.run_id,
            number=number,
            cause=opening.cause,
            after_segment=position.segment,
            after_replay_id=position.last_replay_id,
            since=opening.since,
            until=t0,
            detected=t0,
            start=opening.start,
        )
        name = layout.gap_name(self.channel, number)
        opened = self._create_record(name, gap.to_blob())
        if opening.start == "stop":
            raise ContinuityStopped(
                f"capturing {self.channel}: continuity is broken ({opening.cause}, {name}) and "
                "CDC_ON_REPLAY_EXPIRED is stop",
                hint="read the gap record, reconcile, then set CDC_ON_REPLAY_EXPIRED to earliest or tip to go on",
            )
        return opened

    def _create_record(self, name: str, body: bytes) -> bool:
        self._log.check_open()
        try:
            self._log.state.create(name, body, content_type=layout.RECORD_TYPE)
        except BlobExists:
            return False
        return True

    def forget_skipped(self) -> None:
        """The last skipped replay id is refused: start again from the earliest and skip once more."""
        self._position = replace(self.position, skipped_to=None)

    def note_quiet(self, until: datetime) -> None:
        """The org has proved that nothing changed between the last landed event and `until`."""
        self._position = replace(self.position, quiet_to=until)

    # --- landing -----------------------------------------------------------------------------------------------------

    def land(self, deliveries: Deliveries) -> Iterator[Landed]:
        """Append deliveries in their order, and yield each segment once it is durable. The first failure ends it all.

        Raises: Fenced, LatePut, LogInconsistent, StorageError, RunClosed; the position must then be derived again.
        """
        fresh = self._skip(self._new(deliveries))
        try:
            while fresh:
                partition, count = self._cut(fresh)
                yield self._put(self._agree(partition), fresh[:count])
                fresh = fresh[count:]
        except BaseException:
            self._forget()
            raise

    def _new(self, deliveries: Deliveries) -> Deliveries:
        """Leave out what was just landed."""
        places = self._window.add(deliveries.replay_ids)
        if places is None:
            return deliveries
        self.duplicates += len(deliveries) - len(places)
        return deliveries.at(places)

    def _skip(self, deliveries: Deliveries) -> Deliveries:
        """Leave out the leading deliveries from before the tip; the first that is newer or has no time ends that."""
        if self._skip_before is None:
            return deliveries
        before = self._skip_before
        older = takewhile(lambda time_ms: time_ms is not None and from_ms(time_ms) < before, deliveries.times_ms)
        count = sum(1 for _ in older)
        if count < len(deliveries):
            self._skip_before = None
        if count:
            self._position = replace(self.position, skipped_to=deliveries.replay_ids[count - 1])
        return deliveries[count:]

    def _cut(self, deliveries: Deliveries) -> tuple[date, int]:
        """Return the next segment's partition and how many it takes: up to a change of date, or until it is full.

        The partition is a function of the log and the next event alone, so that two writers choose the same name; a
        generation's first segment lies where the log ended, for its writers may see different events first.
        """
        position = self.position
        generation = position.generation
        if generation is None:
            raise AssertionError(f"landing in {self.channel} before its first generation")
        is_first = position.replay_id is None
        previous = max(position.partition or generation.partition, generation.partition)
        first_ms = None if is_first else deliveries.times_ms[0]
        day = previous if first_ms is None else max(previous, from_ms(first_ms).date())
        day_ends_ms = to_ms(datetime.combine(day, datetime.min.time(), UTC)) + _DAY_MS
        later = (place for place, time_ms in enumerate(deliveries.times_ms) if time_ms and time_ms >= day_ends_ms)
        count = next(later, len(deliveries)) or 1
        if deliveries.size_bytes > MAX_SEGMENT_BYTES:
            sizes = accumulate(len(line) + 1 for line in deliveries.lines[:count])
            count = max(1, bisect_right(list(sizes), MAX_SEGMENT_BYTES))
        return day, count

    def _agree(self, partition: date, *, is_contended: bool = False) -> date:
        """Return the partition in which the next segment lies: ours, or the one that another run has chosen before.

        Inside a partition the next name follows from the log. Where a date or a generation begins, two runs in
        different generations could give one number two names, and put-if-absent would hold neither off. So there the
        choice itself is put if absent, under the number alone. `is_contended`: the writer does not know the next event.
        """
        position = self.position
        is_following = partition == position.partition and position.replay_id is not None and not is_contended
        if position.partition is None or is_following:
            return partition
        number = position.segment + 1
        turn = Turn(
            channel=self.channel, org_id=self._org_id, run_id=self._log.run_id, number=number, partition=partition
        )
        if self._create_record(layout.turn_name(self.channel, number), turn.to_blob()):
            return partition
        chosen = read_turn(self._log.state, self.channel, number)
        if chosen is None:
            raise StorageUnavailable(f"reading turn {number} of {self.channel}: it exists and is gone", hint=_AGAIN)
        return max(chosen.partition, position.partition)

    def _put(self, partition: date, deliveries: Deliveries) -> Landed:
        position = self.position
        generation = position.generation
        number = position.segment + 1
        name = layout.segment_name(self.channel, partition, number)
        content = deliveries.take_content()
        facts = SegmentFacts(
            first_replay_id=deliveries.replay_ids[0],
            last_replay_id=deliveries.replay_ids[-1],
            count=len(deliveries),
            first_time=_first_time(deliveries.times_ms),
            last_time=_first_time(reversed(deliveries.times_ms)),
            generation=generation.number if generation else 0,
            run_id=self._log.run_id,
            org_id=self._org_id,
            sha256=layout.sha256(content),
        )
        self._log.check_open()
        try:
            self._log.events.create(name, content, metadata=facts.to_metadata(), content_type=layout.SEGMENT_TYPE)
        except BlobExists:
            self._compare(name, facts)
        self._move(number, partition, facts, skipped_to=None, quiet_to=None)
        return Landed(self.channel, number, facts.count, len(content), facts.last_replay_id, facts.last_time)

    def _move(self, number: int, partition: date, facts: SegmentFacts, **more: None) -> None:
        """The log now ends with the segment of these facts."""
        self._position = replace(
            self.position,
            segment=number,
            partition=partition,
            replay_id=facts.last_replay_id,
            last_replay_id=facts.last_replay_id,
            last_time=facts.last_time or self.position.last_time,
            segment_written=self._log.now(),
            **more,
        )

    def redrive(self, lines: Sequence[bytes]) -> Landed:
        """Append messages out of quarantine as one segment; the position's replay id and times stay as they are.

        A run may land meanwhile: where it has the number, the next one is tried.
        Raises: LatePut where the log must be derived again; StorageError, LogInconsistent, RunClosed.
        """
        content = b"\n".join([*lines, b""])
        for _ in range(_REDRIVE_TRIES):
            facts = self._redriven_facts(len(lines), content)
            position, number = self.position, self.position.segment + 1
            partition = self._agree(position.partition or self._log.now().date(), is_contended=True)
            name = layout.segment_name(self.channel, partition, number)
            self._log.check_open()
            try:
                self._log.events.create(name, content, metadata=facts.to_metadata(), content_type=layout.SEGMENT_TYPE)
                theirs = facts
            except BlobExists:
                theirs = self._read_back(name)
            if theirs.generation != facts.generation:
                break
            self._move(number, partition, theirs)
            if theirs.redriven and theirs.sha256 == facts.sha256:
                return Landed(self.channel, number, facts.count, len(content), facts.last_replay_id, facts.last_time)
        self._forget()
        raise LatePut(f"re-driving into {self.channel}: the log's end moved", hint=_AGAIN)

    def _redriven_facts(self, count: int, content: bytes) -> SegmentFacts:
        position = self.position
        if position.generation is None or position.replay_id is None:
            raise AssertionError(f"re-driving into {self.channel}, in whose generation nothing is landed")
        return SegmentFacts(
            first_replay_id=position.replay_id,
            last_replay_id=position.replay_id,
            count=count,
            first_time=position.last_time,
            last_time=position.last_time,
            generation=position.generation.number,
            run_id=self._log.run_id,
            org_id=position.generation.org_id,
            sha256=layout.sha256(content),
            redriven=True,
        )

    def _compare(self, name: str, ours: SegmentFacts) -> None:
        """The segment exists. Ours, because the answer to our own write was lost, or another's: compare, never assume.

        Raises: LatePut, Fenced, LogInconsistent, StorageError.
        """
        theirs = self._read_back(name)
        if theirs.redriven:
            raise LatePut(f"writing {name}: an operator has landed a message there out of quarantine", hint=_AGAIN)
        if theirs.run_id != ours.run_id:
            raise Fenced(
                f"writing {name}: run {theirs.run_id} wrote it before this run, {ours.run_id}",
                hint=_TWO_APPS,
            )
        if (theirs.sha256, theirs.generation) != (ours.sha256, ours.generation):
            raise LatePut(f"writing {name}: an earlier write of this run has arrived after all", hint=_AGAIN)

    def _read_back(self, name: str) -> SegmentFacts:
        """Return what a segment that exists says of itself. Raises: LogInconsistent, StorageError."""
        blob = self._log.events.head(name)
        if blob is None:
            raise StorageUnavailable(f"reading {name} back: it exists and is gone", hint=_AGAIN)
        try:
            return SegmentFacts.from_metadata(blob.metadata)
        except Unreadable as error:
            raise LogInconsistent(
                f"writing {name}: a blob of that name is not a segment: {error}",
                hint="something else writes here: move that blob away and give the log a container of its own",
            ) from None

    # --- the checkpoint ----------------------------------------------------------------------------------------------

    def save_checkpoint(self, *, force: bool) -> None:
        """Write the checkpoint if it says something new; without `force` at most every CHECKPOINT_EVERY_S seconds.

        By compare-and-swap: another's checkpoint that is as far stands.
        Raises: Fenced where another run has opened a newer generation; StorageError, RunClosed.
        """
        if self._position is None:
            return
        ours, now = self._checkpoint_now(), self._log.now()
        if self._checkpoint is not None and ours.says_the_same(self._checkpoint):
            return
        if not force and self._checkpoint_at and (now - self._checkpoint_at).total_seconds() < CHECKPOINT_EVERY_S:
            return
        name = layout.checkpoint_name(self.channel)
        for _ in range(3):
            self._log.check_open()
            try:
                self._checkpoint_etag = self._log.state.replace(
                    name, ours.to_blob(), etag=self._checkpoint_etag, content_type=layout.RECORD_TYPE
                )
                self._checkpoint, self._checkpoint_at = ours, now
                return
            except BlobChanged:
                theirs, self._checkpoint_etag = read_checkpoint(self._log.state, self.channel, self._warn)
                self._checkpoint = theirs
                if theirs is None or theirs.progress < ours.progress:
                    continue
                if theirs.progress[0] > ours.progress[0]:
                    self._forget()
                    raise Fenced(
                        f"writing {name}: run {theirs.run_id} opened generation {theirs.progress[0]} while this run, "
                        f"{self._log.run_id}, was in generation {ours.progress[0]}",
                        hint=_TWO_APPS,
                    ) from None
                return

    def _checkpoint_now(self) -> Checkpoint:
        position = self.position
        # A run that never logged in knows the log's org only from the log.
        org_id = self._org_id or (position.generation.org_id if position.generation else "")
        return Checkpoint(
            channel=self.channel,
            org_id=org_id,
            run_id=self._log.run_id,
            segment=position.segment,
            partition=position.partition,
            replay_id=position.replay_id,
            last_time=position.last_time,
            generation=position.generation,
            skipped_to=position.skipped_to,
            quiet_to=position.quiet_to,
            segment_written=position.segment_written,
            written=self._log.now(),
        )


def _first_time(times_ms: Iterable[int | None]) -> datetime | None:
    time_ms = next((time_ms for time_ms in times_ms if time_ms is not None), None)
    return None if time_ms is None else from_ms(time_ms)


_TWO_APPS = "two apps, or two runs at once, share this storage: stop one, or give it containers of its own"
_AGAIN = "nothing: the run derives the position again and goes on"
