"""One channel's event stream: deliveries in order with their replay ids, kept as bytes or rendered when asked for.

It knows nothing of sessions or HTTP. A delivery's bytes never change once it is published.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from random import Random
from typing import Protocol


class Block(Protocol):
    """A run of consecutive deliveries."""

    def __len__(self) -> int: ...
    def replay_id(self, index: int) -> int: ...
    def time_ms(self, index: int) -> int: ...
    def entity(self, index: int) -> str: ...
    def size(self, index: int) -> int: ...
    def entities_from(self, index: int) -> Iterable[str]: ...
    def render(self, start: int, stop: int) -> list[bytes]: ...


@dataclass
class Kept:
    """Deliveries whose bytes are kept as they were published."""

    bodies: list[bytes] = field(default_factory=list)
    ids: array[int] = field(default_factory=lambda: array("q"))
    times: array[int] = field(default_factory=lambda: array("q"))
    entities: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.bodies)

    def replay_id(self, index: int) -> int:
        return self.ids[index]

    def time_ms(self, index: int) -> int:
        return self.times[index]

    def entity(self, index: int) -> str:
        return self.entities[index]

    def size(self, index: int) -> int:
        return len(self.bodies[index])

    def entities_from(self, index: int) -> Iterable[str]:
        return islice(self.entities, index, None)

    def render(self, start: int, stop: int) -> list[bytes]:
        return self.bodies[start:stop]


@dataclass(frozen=True)
class Template:
    """A delivery as a % format.

    Its places take, in this order: created and last modified (the same text), commit number, transaction number,
    commit time (ms), record number, replay id. What a template does not show it takes with `%.0s` (text) or
    `%.0a` (numbers).
    """

    entity: str
    form: bytes
    id_prefix: str
    id_suffix: str


@dataclass(frozen=True)
class Backlog:
    """Deliveries that are a function of their index: a million cost no more memory than one."""

    count: int
    first_id: int
    start_ms: int
    end_ms: int
    commit_number: int
    first_record: int
    templates: tuple[Template, ...]

    def __len__(self) -> int:
        return self.count

    def replay_id(self, index: int) -> int:
        return self.first_id + 4 * index + (index * 2_654_435_761 >> 9 & 3)

    def time_ms(self, index: int) -> int:
        exact = self.start_ms + (self.end_ms - self.start_ms) * index // self.count
        return exact - exact % 1000

    def entity(self, index: int) -> str:
        return self.templates[index % len(self.templates)].entity

    def record_id(self, index: int) -> str:
        template = self.templates[index % len(self.templates)]
        return f"{template.id_prefix}{self.first_record + index:08d}{template.id_suffix}"

    def size(self, index: int) -> int:
        return len(self.templates[index % len(self.templates)].form) + 40

    def entities_from(self, index: int) -> Iterable[str]:
        return (template.entity for template in self.templates)

    def render(self, start: int, stop: int) -> list[bytes]:
        forms = [template.form for template in self.templates]
        kinds, span, count, base = len(forms), self.end_ms - self.start_ms, self.count, self.start_ms
        first_id, commit, record = self.first_id, self.commit_number, self.first_record
        rendered = []
        last_ms, last_text = -1, b""
        for index in range(start, stop):
            exact = base + span * index // count
            time_ms = exact - exact % 1000
            if time_ms != last_ms:
                last_ms, last_text = time_ms, iso_time(time_ms).encode()
            number = record + index
            replay_id = first_id + 4 * index + (index * 2_654_435_761 >> 9 & 3)
            rendered.append(
                forms[index % kinds] % (last_text, last_text, commit + 7 * index, number, time_ms, number, replay_id)
            )
        return rendered


def iso_time(time_ms: int) -> str:
    """`2026-11-23T12:00:00.000Z`, as Salesforce writes datetimes in event payloads."""
    stamp = datetime.fromtimestamp(time_ms / 1000, UTC)
    return f"{stamp:%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03d}Z"


@dataclass(frozen=True)
class LedgerRow:
    """One published delivery, for a checker."""

    index: int
    epoch: int
    replay_id: int
    time_ms: int
    entity: str
    body: bytes


class Stream:
    """All deliveries ever published on one exact channel, and which of them are still retained."""

    def __init__(self, channel: str, seed: int) -> None:
        self.channel = channel
        self.blocks: list[Block] = []
        self.starts: list[int] = []  # index of each block's first delivery
        self.total = 0
        self.first = 0  # index of the first retained delivery
        self.epoch_starts: list[int] = [0]  # an epoch ends when the stream is reset
        self._epoch_block = 0
        self._random = Random(f"{seed}{channel}")
        self.next_id = self._random.randrange(1_000, 9_000_000)

    # publishing

    def append(self, body: bytes, entity: str, time_ms: int) -> int:
        """Publish one delivery under `next_id`; returns that id and moves it on by a gap of 1 to 7."""
        last = self.blocks[-1] if len(self.blocks) > self._epoch_block else None
        if not isinstance(last, Kept):
            last = Kept()
            self.blocks.append(last)
            self.starts.append(self.total)
        replay_id = self.next_id
        last.bodies.append(body)
        last.ids.append(replay_id)
        last.times.append(time_ms)
        last.entities.append(entity)
        self.total += 1
        self.next_id += self._random.randrange(1, 8)
        return replay_id

    def append_backlog(self, block: Backlog) -> None:
        """Publish a backlog that starts at `next_id`."""
        self.blocks.append(block)
        self.starts.append(self.total)
        self.total += len(block)
        self.next_id = block.replay_id(len(block) - 1) + self._random.randrange(1, 8)

    # retention

    def purge_before(self, time_ms: int) -> None:
        """Purge the leading deliveries that are older than `time_ms`."""
        while self.first < self.total:
            block, offset = self._at(self.first)
            if block.time_ms(offset) >= time_ms:
                return
            stop = len(block)
            if block.time_ms(stop - 1) >= time_ms:
                stop = bisect_left(range(len(block)), time_ms, lo=offset, key=block.time_ms)
            self.first += max(1, stop - offset)

    def purge_through(self, replay_id: int) -> None:
        """Purge everything up to and including an id."""
        for index in range(len(self.blocks) - 1, self._epoch_block - 1, -1):
            block = self.blocks[index]
            if block.replay_id(0) <= replay_id:
                offset = bisect_right(range(len(block)), replay_id, key=block.replay_id)
                self.first = max(self.first, self.starts[index] + offset)
                return

    def purge_all(self) -> None:
        """Purge everything that has been published."""
        self.first = self.total

    def reset(self, next_id: int | None) -> None:
        """Lose all retained deliveries; ids go on from `next_id`, which may repeat ids of the lost epoch."""
        self.first = self.total
        self.epoch_starts.append(self.total)
        self._epoch_block = len(self.blocks)
        self.next_id = next_id if next_id is not None else self.next_id + self._random.randrange(1_000, 100_000)

    # reading

    def find(self, replay_id: int) -> int | None:
        """The index of a retained delivery with exactly this id in the present epoch."""
        for number in range(len(self.blocks) - 1, self._epoch_block - 1, -1):
            block = self.blocks[number]
            if block.replay_id(0) <= replay_id:
                offset = bisect_left(range(len(block)), replay_id, key=block.replay_id)
                found = offset < len(block) and block.replay_id(offset) == replay_id
                index = self.starts[number] + offset
                return index if found and index >= self.first else None
        return None

    def take(
        self, cursor: int, events: int, size: int, silent: frozenset[str], at_least_one: bool = True
    ) -> tuple[list[bytes], int, int]:
        """Deliveries from `cursor` on, at most so many and about so many bytes; the new cursor; their bytes.

        Entities in `silent` are passed over.
        """
        taken: list[bytes] = []
        room = size
        cursor = max(cursor, self.first)
        while cursor < self.total and len(taken) < events:
            block, offset = self._at(cursor)
            stop = min(len(block), offset + events - len(taken))
            stop = self._fit(block, offset, stop, room, at_least_one and not taken)
            if stop == offset:
                break
            for index, body in zip(range(offset, stop), block.render(offset, stop), strict=True):
                if silent and block.entity(index) in silent:
                    continue
                taken.append(body)
                room -= len(body)
            cursor += stop - offset
        return taken, cursor, size - room

    def has_any(self, cursor: int, silent: frozenset[str]) -> bool:
        """Whether `take` would find something."""
        cursor = max(cursor, self.first)
        if not silent:
            return cursor < self.total
        while cursor < self.total:
            block, offset = self._at(cursor)
            if any(entity not in silent for entity in block.entities_from(offset)):
                return True
            cursor += len(block) - offset
        return False

    def ledger(self, start: int = 0, step: int = 1_000) -> Iterator[list[LedgerRow]]:
        """Every delivery ever published, purged ones included, a chunk at a time."""
        index = start
        while index < self.total:
            block, offset = self._at(index)
            stop = min(len(block), offset + step)
            yield [
                LedgerRow(
                    index + n,
                    bisect_right(self.epoch_starts, index + n),
                    block.replay_id(offset + n),
                    block.time_ms(offset + n),
                    block.entity(offset + n),
                    body,
                )
                for n, body in enumerate(block.render(offset, stop))
            ]
            index += stop - offset

    def changed_backlog_records(self, entity: str, start_ms: int, end_ms: int) -> Iterator[tuple[str, str]]:
        """(record id, change type) of the lazily rendered changes of an entity within a time span."""
        for block in self.blocks:
            if isinstance(block, Backlog):
                low = bisect_left(range(len(block)), start_ms, key=block.time_ms)
                high = bisect_left(range(len(block)), end_ms, key=block.time_ms)
                for index in range(low, high):
                    template = block.templates[index % len(block.templates)]
                    if template.entity == entity:
                        yield block.record_id(index), "DELETE" if b'"DELETE"' in template.form else "UPDATE"

    def _at(self, index: int) -> tuple[Block, int]:
        number = bisect_right(self.starts, index) - 1
        return self.blocks[number], index - self.starts[number]

    @staticmethod
    def _fit(block: Block, start: int, stop: int, room: int, at_least_one: bool) -> int:
        """How far from `start` the deliveries fit."""
        if isinstance(block, Backlog):
            largest = max(block.size(i) for i in range(len(block.templates)))
            return min(stop, start + max(int(at_least_one), room // largest))
        index = start
        while index < stop and (block.size(index) <= room or (at_least_one and index == start)):
            room -= block.size(index)
            index += 1
        return index
