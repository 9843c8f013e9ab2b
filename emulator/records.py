"""The org's record tables: what REST answers are made from. Times are milliseconds UTC; no I/O, no events."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from random import Random
from typing import Any

_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_SUFFIX = "ABCDEFGHIJKLMNOPQRSTUVWXYZ012345"


def id_suffix(id15: str) -> str:
    """The three characters that make a 15-character id safe to compare without case."""
    chunks = (id15[0:5], id15[5:10], id15[10:15])
    return "".join(_SUFFIX[sum(1 << bit for bit, char in enumerate(chunk) if char.isupper())] for chunk in chunks)


def record_id(prefix: str, number: int) -> str:
    """An 18-character id of the given key prefix."""
    digits = ""
    for _ in range(6):
        number, rest = divmod(number, 62)
        digits = _BASE62[rest] + digits
    id15 = f"{prefix}Rj0000{digits}"
    return id15 + id_suffix(id15)


@dataclass
class Record:
    """One record; compound fields are nested as in change events."""

    id: str
    fields: dict[str, Any]
    created_ms: int
    modified_ms: int
    modified_by: str
    is_deleted: bool = False


class Table:
    """The records of one object, live ones and those in the recycle bin."""

    def __init__(self) -> None:
        self.records: dict[str, Record] = {}
        self._live: list[str] = []
        self._place: dict[str, int] = {}
        self.bin: list[str] = []

    def insert(self, record: Record) -> None:
        """Add a live record."""
        self.records[record.id] = record
        self._place[record.id] = len(self._live)
        self._live.append(record.id)

    def delete(self, identity: str, time_ms: int) -> Record:
        """Move a live record to the recycle bin."""
        place, last = self._place.pop(identity), self._live.pop()
        if last != identity:
            self._live[place] = last
            self._place[last] = place
        record = self.records[identity]
        record.is_deleted, record.modified_ms = True, time_ms
        self.bin.append(identity)
        return record

    def undelete(self, identity: str, time_ms: int) -> Record:
        """Take a record out of the recycle bin."""
        self.bin.remove(identity)
        record = self.records[identity]
        record.is_deleted, record.modified_ms = False, time_ms
        self._place[identity] = len(self._live)
        self._live.append(identity)
        return record

    def pick(self, random: Random) -> Record:
        """Some live record."""
        return self.records[self._live[random.randrange(len(self._live))]]

    def live_count(self) -> int:
        """How many records are not deleted."""
        return len(self._live)

    def changed(self, start_ms: int, end_ms: int, deleted: bool) -> Iterable[Record]:
        """Records (or deletions) whose last change lies in the span."""
        return [r for r in self.records.values() if r.is_deleted is deleted and start_ms <= r.modified_ms < end_ms]


def merge(fields: dict[str, Any], changes: dict[str, Any]) -> None:
    """Apply changed fields; of a compound field only the components that are given."""
    for name, value in changes.items():
        if isinstance(value, dict) and isinstance(fields.get(name), dict):
            fields[name] = {**fields[name], **value}
        else:
            fields[name] = value
