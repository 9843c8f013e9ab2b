"""Finds where a channel's log ends: the log is the truth, the checkpoint a cache of its end.

Only reads, and at a cost that does not grow with the log. It guesses nothing: what cannot be read, or contradicts
itself, is an error and never a fresh start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date, datetime

from cdc import layout
from cdc.continuity import RETENTION, Position
from cdc.errors import ContainerMissing, LogInconsistent, StorageUnavailable
from cdc.layout import Checkpoint, Generation, SegmentFacts, Turn, Unreadable
from cdc.store import Blob, Container

Warn = Callable[[str], None]


@dataclass(frozen=True)
class End:
    """Where a log ends, and the checkpoint as it was found (None where missing or garbled, then without its ETag)."""

    position: Position
    checkpoint: Checkpoint | None
    checkpoint_etag: str | None
    has_state_container: bool
    has_events_container: bool


@dataclass(frozen=True)
class _Segment:
    number: int
    partition: date
    facts: SegmentFacts
    written: datetime


def find_end(events: Container, state: Container, channel: str, *, now: datetime, warn: Warn) -> End:
    """Return the end of a channel's log; `warn` is told of what the log has overruled.

    Raises: StorageError, LogInconsistent.
    """
    has_state, has_events = True, True
    checkpoint, etag, segment = None, None, None
    try:
        checkpoint, etag = read_checkpoint(state, channel, warn)
    except ContainerMissing:
        has_state = False
    try:
        segment = _Reader(events, channel, now, warn).last(checkpoint)
    except ContainerMissing:
        has_events = False
    try:
        # Read last: whoever landed that segment had written its generation's record before.
        generation = _newest_generation(state, channel, checkpoint.generation if checkpoint else None)
    except ContainerMissing:
        generation = None
    if checkpoint is None and segment is None and generation is not None:
        # The checkpoint stands before the first record: if there is one now, another run has just begun the log.
        if read_checkpoint(state, channel, warn)[0] is not None:
            return find_end(events, state, channel, now=now, warn=warn)
        raise LogInconsistent(
            f"opening the log of {channel}: generation {generation.number} has a record, but there is neither a "
            "checkpoint nor a segment",
            hint="restore the missing blobs, or move the channel's generation records away to start anew",
        )
    if etag is None and segment is not None:
        if _has_checkpoint(state, channel):
            return find_end(events, state, channel, now=now, warn=warn)  # another run has just begun the log
        warn(f"the checkpoint of {channel} is missing; the log decides")
    if checkpoint is not None and checkpoint.segment and segment is None and has_events:
        raise LogInconsistent(
            f"opening the log of {channel}: the checkpoint knows segment {checkpoint.segment}, but there is none",
            hint="restore the deleted blobs, or move the channel's checkpoint and generation records away",
        )
    if checkpoint is not None and not has_events:
        raise LogInconsistent(
            f"opening the log of {channel}: container {events.name} is missing, but {state.name} holds its state",
            hint="check CDC_STORAGE and CDC_EVENTS_CONTAINER; if the log is really gone, move the channel's state "
            "away and capture starts anew",
        )
    return End(_position(channel, checkpoint, segment, generation, warn), checkpoint, etag, has_state, has_events)


def find_segments_after(events: Container, channel: str, partition: date, number: int) -> Iterator[tuple[int, str]]:
    """Yield number and name of the segments after a number, in order; none of them lies before `partition`.

    Raises: StorageError.
    """
    for day in find_partitions(events, channel):
        if day >= partition:
            numbers = _numbers(events, channel, day)
            yield from ((each, layout.segment_name(channel, day, each)) for each in numbers if each > number)


def find_segment(events: Container, channel: str, number: int) -> tuple[int, date] | None:
    """Return the first segment that is there from a number on, and its partition; the newest are looked at first.

    Raises: StorageError.
    """
    found = None
    for day in reversed(find_partitions(events, channel)):
        numbers = _numbers(events, channel, day)
        later = [each for each in numbers if each >= number]
        found = (later[0], day) if later else found
        if numbers and numbers[0] <= number:
            break
    return found


def find_partitions(events: Container, channel: str) -> list[date]:
    """Return the dates of a channel's partitions, sorted; foreign folders do not count. Raises: StorageError."""
    folders = events.folders(layout.segments_prefix(channel))
    return sorted(day for day in map(layout.read_partition, folders) if day)


def _numbers(events: Container, channel: str, partition: date) -> list[int]:
    prefix = layout.partition_prefix(channel, partition)
    names = (name for name in events.names(prefix) if "/" not in name.removeprefix(prefix))
    return sorted(number for number in map(layout.read_segment_number, names) if number)


def _has_checkpoint(state: Container, channel: str) -> bool:
    try:
        return state.head(layout.checkpoint_name(channel)) is not None
    except ContainerMissing:
        return False


def _position(
    channel: str, checkpoint: Checkpoint | None, segment: _Segment | None, generation: Generation | None, warn: Warn
) -> Position:
    position = Position(generation=generation)
    if segment is not None:
        facts = segment.facts
        if generation is None or facts.generation > generation.number:
            warn(f"generation {facts.generation} of {channel} has no record; its segments stand for it")
            generation = _implied_generation(channel, segment)
        position = Position(
            segment=segment.number,
            partition=segment.partition,
            replay_id=facts.last_replay_id if facts.generation == generation.number else None,
            last_replay_id=facts.last_replay_id or None,
            last_time=facts.last_time,
            generation=generation,
            segment_written=segment.written,
        )
    if checkpoint and checkpoint.segment == position.segment and checkpoint.generation == generation:
        return replace(position, skipped_to=checkpoint.skipped_to, quiet_to=checkpoint.quiet_to)
    return position


def _implied_generation(channel: str, segment: _Segment) -> Generation:
    facts = segment.facts
    return Generation(
        channel=channel,
        number=facts.generation,
        cause="record-missing",
        start=facts.first_replay_id,
        t0=facts.first_time or segment.written,
        after_segment=segment.number,
        partition=segment.partition,
        org_id=facts.org_id,
        user_id="",
        run_id=facts.run_id,
    )


# --- records ---------------------------------------------------------------------------------------------------------


def read_checkpoint(state: Container, channel: str, warn: Warn) -> tuple[Checkpoint | None, str | None]:
    """Return the checkpoint and its blob's ETag; no checkpoint where it is missing or garbled: then the log decides.

    Raises: StorageError.
    """
    blob = state.read(layout.checkpoint_name(channel))
    if blob is None:
        return None, None
    try:
        return Checkpoint.from_blob(blob.body, channel), blob.etag
    except Unreadable as error:
        warn(f"the checkpoint of {channel} cannot be read ({error}); the log decides")
        return None, blob.etag


def read_generation(state: Container, channel: str, number: int) -> Generation | None:
    """Return a generation's record, None where there is none.

    Raises: LogInconsistent where it cannot be read: without it a start cannot be known. StorageError.
    """
    name = layout.generation_name(channel, number)
    blob = state.read(name)
    try:
        record = Generation.from_blob(blob.body, channel) if blob else None
    except Unreadable as error:
        raise LogInconsistent(
            f"opening the log of {channel}: {name} cannot be read: {error}",
            hint="restore the record from a backup or a blob version; without it the start cannot be known",
        ) from None
    if record and record.number != number:
        raise LogInconsistent(
            f"opening the log of {channel}: {name} is the record of generation {record.number}",
            hint="put the generation records back under their own numbers",
        )
    return record


def read_turn(state: Container, channel: str, number: int) -> Turn | None:
    """Return the record of the folder that one segment must lie in, None where there is none.

    Raises: LogInconsistent where it cannot be read; StorageError.
    """
    name = layout.turn_name(channel, number)
    blob = state.read(name)
    try:
        return Turn.from_blob(blob.body, channel) if blob else None
    except Unreadable as error:
        raise LogInconsistent(
            f"writing segment {number} of {channel}: {name} cannot be read: {error}",
            hint="stop all runs of this channel, delete that blob, and start them again",
        ) from None


def _newest_generation(state: Container, channel: str, cached: Generation | None) -> Generation | None:
    """Return the newest generation record; with a checkpoint only a newer one is looked for."""
    if cached is None:
        names = state.names(layout.generations_prefix(channel))
        newest = max((number for number in map(layout.read_generation_number, names) if number), default=0)
        cached = read_generation(state, channel, newest) if newest else None
    while True:
        following = read_generation(state, channel, cached.number + 1 if cached else 1)
        if following is None:
            return cached
        cached = following


# --- segments --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Reader:
    """Looks at one channel's segments. Raises: StorageError, LogInconsistent."""

    events: Container
    channel: str
    now: datetime
    warn: Warn

    def last(self, checkpoint: Checkpoint | None) -> _Segment | None:
        """Return the last segment: by the checkpoint where the log agrees with it, else by the log."""
        if checkpoint is None or checkpoint.partition is None:
            return self._last_of(self._partitions())
        name = layout.segment_name(self.channel, checkpoint.partition, checkpoint.segment)
        found = self.events.from_name(layout.segments_prefix(self.channel), name, at_most=2)
        if [blob.name for blob in found] == [name]:
            return self._believed(checkpoint, checkpoint.partition, found[0])  # it is there, and nothing follows it
        # Something does, or the storage knows no listing from a name on, or the segment is gone: look step by step.
        blob = self.events.head(name)
        partitions = self._partitions()
        if blob is None:
            if self.now - (checkpoint.segment_written or checkpoint.written) >= RETENTION:
                return self._expired(checkpoint, partitions)
            self.warn(f"the checkpoint of {self.channel} is ahead: {name} is missing; the log decides")
            return self._last_of(partitions)
        following = layout.segment_name(self.channel, checkpoint.partition, checkpoint.segment + 1)
        if max(partitions, default=checkpoint.partition) > checkpoint.partition or self.events.head(following):
            return self._last_of(partitions)
        return self._believed(checkpoint, checkpoint.partition, blob)

    def _believed(self, checkpoint: Checkpoint, partition: date, blob: Blob) -> _Segment:
        segment = self._segment(partition, checkpoint.segment, blob)
        if checkpoint.replay_id not in (None, segment.facts.last_replay_id):
            self.warn(f"the checkpoint of {self.channel} contradicts {blob.name}; the log decides")
        return segment

    def _partitions(self) -> list[date]:
        return find_partitions(self.events, self.channel)

    def _expired(self, checkpoint: Checkpoint, partitions: list[date]) -> _Segment | None:
        """A lifecycle rule has taken the segment: nothing was written since, and the checkpoint stands."""
        newer = self._last_of(partitions)
        generation, replay_id = checkpoint.generation, checkpoint.replay_id
        if (newer and newer.number > checkpoint.segment) or generation is None or checkpoint.partition is None:
            return newer
        facts = SegmentFacts(
            first_replay_id=replay_id or "",
            last_replay_id=replay_id or "",
            count=1,
            first_time=checkpoint.last_time,
            last_time=checkpoint.last_time,
            # Nothing landed in the newest generation: then the lost segment was an earlier one's.
            generation=generation.number if replay_id else generation.number - 1,
            run_id=checkpoint.run_id,
            org_id=checkpoint.org_id,
            sha256="",
        )
        return _Segment(
            checkpoint.segment, checkpoint.partition, facts, checkpoint.segment_written or checkpoint.written
        )

    def _last_of(self, partitions: list[date]) -> _Segment | None:
        """Find the last segment in the last partition that has one; the partition before it must end earlier."""
        found: list[tuple[date, list[int]]] = []
        for partition in reversed(partitions):
            numbers = _numbers(self.events, self.channel, partition)
            found += [(partition, numbers)] if numbers else []
            if len(found) == 2:
                break
        if not found:
            return None
        last, numbers = found[0]
        if len(found) == 2 and found[1][1][-1] >= numbers[0]:
            raise LogInconsistent(
                f"opening the log of {self.channel}: segment {numbers[0]} lies in date={last}, but "
                f"date={found[1][0]} already reaches {found[1][1][-1]}",
                hint="two writers forked the log, or blobs were copied in: keep one of the segments of each number",
            )
        name = layout.segment_name(self.channel, last, numbers[-1])
        blob = self.events.head(name)
        if blob is None:
            raise StorageUnavailable(f"reading {name}: it was listed and is gone", hint="the run tries again by itself")
        return self._segment(last, numbers[-1], blob)

    def _segment(self, partition: date, number: int, blob: Blob) -> _Segment:
        try:
            facts = SegmentFacts.from_metadata(blob.metadata)
        except Unreadable as error:
            raise LogInconsistent(
                f"opening the log of {self.channel}: {blob.name} is not ours: {error}",
                hint="something else wrote or copied this blob without its metadata: restore it, or move it away",
            ) from None
        return _Segment(number, partition, facts, blob.last_modified)
