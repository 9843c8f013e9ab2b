"""Reads a storage log as docs/storage-log.md describes it to anybody: list, take what is new, split on line ends.

It shares no code with cdc, so that what it finds is evidence. It writes nothing.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import BlobServiceClient

SEGMENT = re.compile(r"[0-9]{12}\.jsonl\Z")


@dataclass(frozen=True)
class Segment:
    """One blob of the log and its events, in order."""

    name: str
    number: int
    generation: int
    lines: list[bytes]


@dataclass(frozen=True)
class Verdict:
    """What was published on a channel against what lies in its log."""

    channel: str
    published: int
    landed: int
    lost: int
    duplicated: int
    out_of_order: int
    foreign: int

    @property
    def is_good(self) -> bool:
        """Every published event is there once, in its place, and nothing else is."""
        return not (self.lost or self.duplicated or self.out_of_order or self.foreign)


class LogReader:
    """Reads the logs of several channels; each call of `new_segments` goes on where the last one ended."""

    def __init__(
        self, connection_string: str, events: str = "cdc-events", checkpoints: str = "cdc-checkpoints"
    ) -> None:
        self._service = BlobServiceClient.from_connection_string(connection_string)
        self._events = self._service.get_container_client(events)
        self._checkpoints = self._service.get_container_client(checkpoints)
        self._read: dict[str, int] = {}

    def close(self) -> None:
        """Give back the connections."""
        self._service.close()

    def forget(self) -> None:
        """Read everything again from the first segment on."""
        self._read.clear()

    def new_segments(self, channel: str) -> list[Segment]:
        """Return the segments behind the last one that was read, by number. Numbers have no holes: one ends it.

        Raises: ValueError where a segment is not what its metadata says.
        """
        found = {}
        for blob in _listed(self._events, channel.removeprefix("/") + "/"):
            name = blob.name.rpartition("/")[2]
            if SEGMENT.match(name) and int(name[:12]) > self._read.get(channel, 0):
                found[int(name[:12])] = blob
        segments = []
        while (number := self._read.get(channel, 0) + 1) in found:
            segments.append(self._segment(number, found[number]))
            self._read[channel] = number
        return segments

    def _segment(self, number: int, blob: Any) -> Segment:
        content = self._events.download_blob(blob.name).readall()
        metadata = blob.metadata or {}
        if hashlib.sha256(content).hexdigest() != metadata.get("sha256") or not content.endswith(b"\n"):
            raise ValueError(f"reading {blob.name}: its content is not what its metadata says")
        return Segment(blob.name, number, int(metadata["generation"]), content[:-1].split(b"\n"))

    def records(self) -> dict[str, Any]:
        """Return every record of the checkpoints container by name."""
        names = [blob.name for blob in _listed(self._checkpoints, "")]
        return {name: json.loads(self._checkpoints.download_blob(name).readall()) for name in names}


def _listed(container: Any, prefix: str) -> Iterator[Any]:
    """The blobs below a prefix; none where the container is not there yet."""
    try:
        yield from container.list_blobs(name_starts_with=prefix, include=["metadata"])
    except ResourceNotFoundError:
        return


def compare(channel: str, published: Sequence[bytes], landed: Sequence[bytes]) -> Verdict:
    """Compare byte for byte; `out_of_order` counts the events that stand behind one that was published later."""
    wanted, found = Counter(published), Counter(landed)
    places = {line: place for place, line in enumerate(published)}
    out_of_order, furthest = 0, -1
    for line in landed:
        place = places.get(line, furthest)
        out_of_order += place < furthest
        furthest = max(furthest, place)
    foreign = sum(count for line, count in found.items() if line not in wanted)
    return Verdict(
        channel=channel,
        published=len(published),
        landed=len(landed),
        lost=(wanted - found).total(),
        duplicated=(found - wanted).total() - foreign,
        out_of_order=out_of_order,
        foreign=foreign,
    )
