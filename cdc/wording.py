"""How counts, spans of time and moments are spelled for people. Pure: it looks at no clock."""

from __future__ import annotations

from datetime import UTC, datetime


def plural(count: int, noun: str) -> str:
    """`1 event`, `2,000 events`."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


def duration(seconds: float | None) -> str:
    """`0.4 s`, `45 s`, `12 min`, `5.2 h`, `3.1 d`; `-` for none."""
    if seconds is None:
        return "-"
    if seconds < 120:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    if seconds < 7_200:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3_600:.1f} h" if seconds < 172_800 else f"{seconds / 86_400:.1f} d"


def moment(time: datetime, now: datetime, *, seconds: bool = False) -> str:
    """`17:05`, on another day than `now` `26 Nov 17:05`; UTC, with seconds where they matter."""
    time = time.astimezone(UTC)
    clock = f"{time:%H:%M:%S}" if seconds else f"{time:%H:%M}"
    day = "" if time.date() == now.astimezone(UTC).date() else f"{time.day} {time:%b} "
    return day + clock
