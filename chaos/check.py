"""Compares what an org published with what lies in the log; pure. It must be able to fail, and its tests show that."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

# At the end of a delivery; the payload may hold anything, and need not be JSON that Python's parser takes.
_REPLAY_ID = re.compile(rb'"event":\{[^{}]*"replayId":"?([0-9]+)"?[^{}]*\}\},"channel":"[^"]*"\}$')


@dataclass(frozen=True)
class Published:
    """One delivery of the ledger: its replay id and its very bytes."""

    replay_id: int
    body: bytes


@dataclass(frozen=True)
class Segment:
    """One segment as a reader of the log sees it."""

    number: int
    partition: str
    metadata: dict[str, str]
    content: bytes

    @property
    def lines(self) -> list[bytes]:
        """Its deliveries."""
        return self.content.removesuffix(b"\n").split(b"\n")


@dataclass
class Findings:
    """What is wrong with one channel, each entry in words; all empty where every event lies in the log once."""

    channel: str
    published: int = 0
    landed: int = 0
    segments: int = 0
    before_tip: int = 0  # published before the log began; not lost
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    out_of_order: list[str] = field(default_factory=list)
    altered: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    layout: list[str] = field(default_factory=list)

    def kinds(self) -> dict[str, list[str]]:
        """Kind -> its entries, in the order of the table."""
        names = ("lost", "duplicated", "out_of_order", "altered", "unknown", "layout")
        return {name.replace("_", " "): getattr(self, name) for name in names}

    @property
    def is_clean(self) -> bool:
        """True where nothing was found."""
        return not any(self.kinds().values())


def compare(
    channel: str, published: Sequence[Published], segments: Sequence[Segment], *, required_from: int = 0
) -> Findings:
    """Return what is wrong with a channel's log.

    A log that began at the tip may lack leading events before index `required_from`, and none after its first one.
    """
    found = Findings(channel, published=len(published), segments=len(segments))
    index_of = {event.replay_id: index for index, event in enumerate(published)}
    index_of_body = {event.body: index for index, event in enumerate(published)}
    seen: dict[int, str] = {}
    last = -1
    for segment in segments:
        for number, line in enumerate(segment.lines):
            found.landed += 1
            where = f"{place(segment)} line {number + 1}"
            replay_id = replay_id_of(line)
            index = index_of_body.get(line, index_of.get(-1 if replay_id is None else replay_id))
            if index is None:
                found.unknown.append(f"{where}: replay id {replay_id}, {line[:120]!r}")
                continue
            if index in seen:
                found.duplicated.append(f"{where}: replay id {replay_id} (event {index}) lies in {seen[index]} already")
                continue
            seen[index] = where
            if line != published[index].body:
                found.altered.append(f"{where}: event {index}: {difference(published[index].body, line)}")
            if index < last:
                found.out_of_order.append(f"{where}: event {index} comes after event {last}")
            last = max(last, index)
    first = min(min(seen, default=len(published)), required_from)
    found.before_tip = first
    for index in range(first, len(published)):
        if index not in seen:
            before = next((seen[i] for i in range(index - 1, -1, -1) if i in seen), "the beginning")
            found.lost.append(f"event {index}, replay id {published[index].replay_id}: should come after {before}")
    found.layout = layout_faults(segments)
    return found


def layout_faults(segments: Sequence[Segment]) -> list[str]:
    """Numbers start at 1 and have no hole, partitions never go back, metadata describes the content."""
    found = []
    last = ""
    for expected, segment in enumerate(segments, 1):
        where, metadata = place(segment), segment.metadata
        if segment.number != expected:
            found.append(f"{where}: number {expected} was to come")
        if segment.partition < last:
            found.append(f"{where}: lies before {last}, where the segment before it lies")
        last = max(last, segment.partition)
        if not segment.content.endswith(b"\n"):
            found.append(f"{where}: does not end with a line end")
        facts = {
            "sha256": hashlib.sha256(segment.content).hexdigest(),
            "count": str(len(segment.lines)),
            "first_replay_id": str(replay_id_of(segment.lines[0])),
            "last_replay_id": str(replay_id_of(segment.lines[-1])),
            "generation": "1",
        }
        for name, fact in facts.items():
            if metadata.get(name) != fact:
                found.append(f"{where}: metadata {name} is {metadata.get(name)}, should be {fact}")
    return found


def place(segment: Segment) -> str:
    """Where a segment lies and which run wrote it."""
    return f"{segment.partition}/{segment.number:012d} (run {segment.metadata.get('run_id', '?')})"


def replay_id_of(line: bytes) -> int | None:
    """Return a delivery's replay id, None where it has none that can be read."""
    found = _REPLAY_ID.search(line)
    return int(found[1]) if found else None


def difference(published: bytes, landed: bytes) -> str:
    """Return where two lines part, in a few words."""
    at = next((i for i, (a, b) in enumerate(zip(published, landed, strict=False)) if a != b), None)
    at = min(len(published), len(landed)) if at is None else at
    return f"at byte {at}: published {published[at : at + 30]!r}, landed {landed[at : at + 30]!r}"


def total(findings: Sequence[Findings]) -> Counter[str]:
    """How many of each kind, all channels."""
    return Counter({kind: sum(len(each.kinds()[kind]) for each in findings) for kind in Findings("").kinds()})
