"""Follows the logs of channels: yields each line soon after it has landed, in the log's order; only reads.

A look costs one GET a channel; where the log's last folder is an earlier date's, a listing beside it, as the next
segment may begin a new folder. A quiet channel is looked at once a second, a busy one as fast as it lands.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec

from cdc import background, layout
from cdc.deriving import find_end, find_partitions, find_segment
from cdc.errors import ContainerMissing
from cdc.events import Delivery, read_message
from cdc.store import Blob, Container

CHANNELS_AT_ONCE = 8
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 1.0
LIST_EVERY_S = 30.0  # where the last folder is today's, only an event with a date to come begins another


class _Header(msgspec.Struct, frozen=True, gc=False):
    changeType: Any = None  # noqa: N815 (Salesforce's names)
    entityName: Any = None  # noqa: N815
    recordIds: Any = None  # noqa: N815


class _Payload(msgspec.Struct, frozen=True, gc=False):
    ChangeEventHeader: _Header = _Header()


class _Data(msgspec.Struct, frozen=True, gc=False):
    payload: _Payload = _Payload()


class _Line(msgspec.Struct, frozen=True, gc=False):
    data: _Data = _Data()


_LINE = msgspec.json.Decoder(_Line)


@dataclass(frozen=True)
class Seen:
    """One landed line, and what is read from it for people; what it lacks is "" or None."""

    channel: str
    segment: int
    landed: datetime  # by the storage's clock, whole seconds
    line: bytes = field(repr=False)
    replay_id: str = ""
    time: datetime | None = None
    change: str = ""
    entity: str = ""
    records: tuple[str, ...] = ()

    @property
    def lag(self) -> timedelta | None:
        """Commit to landed."""
        return max(self.landed - self.time, timedelta(0)) if self.time else None


@dataclass
class Follower:
    """One channel's log from a segment on. `partition` is None where nothing of it was seen yet."""

    events: Container
    channel: str
    now: Callable[[], datetime]
    number: int  # the last segment that was seen
    partition: date | None = None
    _listed_s: float = -LIST_EVERY_S

    def look(self) -> list[Seen]:
        """Return the lines of the next segment, none where it has not landed yet. Raises: StorageError."""
        try:
            name, partition = self._next()
            blob = self.events.read(name) if name else None
        except ContainerMissing:
            return []
        if blob is None or partition is None:
            return []
        number = layout.read_segment_number(blob.name)
        self.number, self.partition = number or self.number + 1, partition
        return [_seen(self.channel, self.number, blob, line) for line in blob.body.removesuffix(b"\n").split(b"\n")]

    def _next(self) -> tuple[str, date | None]:
        """Return the name of the next segment as far as one is there, or may be, and its partition."""
        if self.partition is not None:
            name = layout.segment_name(self.channel, self.partition, self.number + 1)
            every_s = LONGEST_PAUSE_S if self.now().date() > self.partition else LIST_EVERY_S
            if time.monotonic() - self._listed_s < every_s or self.events.head(name) is not None:
                return name, self.partition
        self._listed_s = time.monotonic()
        for day in find_partitions(self.events, self.channel):
            name = layout.segment_name(self.channel, day, self.number + 1)
            if (self.partition is None or day > self.partition) and self.events.head(name) is not None:
                return name, day
        return "", None


def follow(followers: Sequence[Follower], *, seconds: float | None = None) -> Iterator[list[Seen]]:
    """Yield each segment's lines as it is found, for so many seconds or for ever. Raises: StorageError."""
    ends_s = time.monotonic() + seconds if seconds is not None else float("inf")
    pause_s = FIRST_PAUSE_S
    while True:
        looks = background.start_each("tail", [each.look for each in followers], at_once=CHANNELS_AT_ONCE)
        found = [lines for lines in (look.result() for look in looks) if lines]
        yield from found
        left_s = ends_s - time.monotonic()
        if left_s <= 0:
            return
        pause_s = FIRST_PAUSE_S if found else min(LONGEST_PAUSE_S, pause_s * 2)
        if not found:
            time.sleep(min(pause_s, left_s))


def start_at(events: Container, state: Container, channel: str, segment: int | None, now: datetime) -> Follower:
    """Return a follower of what lands from now on, or of the log from a segment on (or the first there is after it).

    Raises: StorageError, LogInconsistent.
    """
    position = find_end(events, state, channel, now=now, warn=lambda text: None).position
    found = None
    if segment is not None and segment <= position.segment:
        found = find_segment(events, channel, segment)
    number, partition = (found[0] - 1, found[1]) if found else (position.segment, position.partition)
    return Follower(events, channel, _utc_now, number, partition)


def _utc_now() -> datetime:
    return datetime.now(UTC)


def _seen(channel: str, segment: int, blob: Blob, line: bytes) -> Seen:
    message = read_message(line)
    header = _header(line)
    records = header.recordIds if isinstance(header.recordIds, list) else []
    return Seen(
        channel,
        segment,
        blob.last_modified,
        line,
        replay_id=message.replay_id if isinstance(message, Delivery) else "",
        time=message.time if isinstance(message, Delivery) else None,
        change=header.changeType if isinstance(header.changeType, str) else "",
        entity=header.entityName if isinstance(header.entityName, str) else "",
        records=tuple(record for record in records if isinstance(record, str)),
    )


def _header(line: bytes) -> _Header:
    """Events are kept whatever they hold: one that cannot be read has no header here."""
    try:
        return _LINE.decode(line).data.payload.ChangeEventHeader
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return _Header()
