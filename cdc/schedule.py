"""When the timer was last due: NCRONTAB expressions, as the Functions host reads them.

Pure: no clock. Where it cannot read an expression it says None and guesses nothing; the host decides what is valid.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta

_LONGEST = 4 * 366  # days: a 29th of February comes back within them
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
# Second, minute, hour, day, month, day of the week: the lowest and the highest value, and the names of values.
_FIELDS: tuple[tuple[int, int, tuple[str, ...]], ...] = (
    *((0, 59, ()), (0, 59, ()), (0, 23, ())),
    *((1, 31, ()), (1, 12, _MONTHS), (0, 6, _DAYS)),
)
_PART = re.compile(r"(?:(\*)|([0-9]+|[a-z]{3,9})(?:-([0-9]+|[a-z]{3,9}))?)(?:/([0-9]+))?")


def last_due(schedule: str, until: datetime) -> datetime | None:
    """Return the newest moment, not after `until`, at which a timer with this schedule (5 or 6 fields, UTC) is due.

    Day and day of the week must both match (NCRONTAB), unlike in a crontab. None: never, or not to be read.
    """
    texts = schedule.lower().split()
    texts = ["0", *texts] if len(texts) == 5 else texts
    if len(texts) != len(_FIELDS):
        return None
    fields = [_values(text, *field) for text, field in zip(texts, _FIELDS, strict=True)]
    if not all(fields):
        return None
    seconds, minutes, hours, days, months, weekdays = fields
    until = until.astimezone(UTC)
    for back in range(_LONGEST):
        day = until.date() - timedelta(days=back)
        if day.day in days and day.month in months and (day.weekday() + 1) % 7 in weekdays:
            found = next(_moments(day, hours, minutes, seconds, until), None)
            if found:
                return found
    return None


def _moments(day: date, hours: set[int], minutes: set[int], seconds: set[int], until: datetime) -> Iterator[datetime]:
    """The day's due moments that are not after `until`, newest first."""
    for hour in sorted(hours, reverse=True):
        for minute in sorted(minutes, reverse=True):
            if datetime.combine(day, time(hour, minute), UTC) <= until:
                for second in sorted(seconds, reverse=True):
                    moment = datetime.combine(day, time(hour, minute, second), UTC)
                    if moment <= until:
                        yield moment


def _values(text: str, low: int, high: int, names: tuple[str, ...]) -> set[int]:
    """Return the values that one field allows; none where it cannot be read."""
    found: set[int] = set()
    for part in text.split(","):
        match = _PART.fullmatch(part)
        if not match:
            return set()
        star, first, last, step = match.groups()
        start = low if star else _value(first, low, names)
        end = high if star or (step and not last) else _value(last or first, low, names)
        if start is None or end is None or not low <= start <= end <= high or step == "0":
            return set()
        found.update(range(start, end + 1, int(step or 1)))
    return found


def _value(text: str, low: int, names: tuple[str, ...]) -> int | None:
    if text.isdigit():
        return int(text)
    return names.index(text[:3]) + low if text[:3] in names else None
