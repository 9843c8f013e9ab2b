"""Reads the org's rolling 24-hour event delivery allocation at most every few minutes, and where it is going.

In the background, never holding up a run and never failing one. Without the right it says so once and leaves it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from datetime import datetime, timedelta

from cdc import background
from cdc.errors import RestDenied, RestFailed
from cdc.layout import READINGS_KEPT, Reading, RunRecord
from cdc.salesforce import Token
from cdc.signals import Emit
from cdc.starting import RestQuestions

EVERY = timedelta(minutes=5)  # /limits is accurate within 5 minutes; Salesforce asks not to read it in rapid succession
EVERY_DENIED = timedelta(days=1)
SPAN = timedelta(hours=1)  # a forecast from less would take every burst for a trend
WARNING_PERCENT = 80.0
_DAY = timedelta(hours=24)


def used_percent(reading: Reading) -> float | None:
    """The share of the allocation that the last 24 hours have used; None where there is no allocation."""
    return 100.0 * (reading.max - reading.remaining) / reading.max if reading.max else None


def forecast_percent(readings: Sequence[Reading]) -> float | None:
    """The share that will be used if the pace since the oldest reading (of at least an hour ago) goes on for a day.

    Use is a sum over a moving window: what is delivered comes in, what is 24 hours old goes out. At a pace p after a
    steady q it begins at 24 q, moves by p - q an hour, and ends at 24 p: the use at the oldest reading, and 24 hours of
    its change per hour since. None where the readings do not reach back so far.
    """
    newest, oldest = max(readings, key=_read), min(readings, key=_read)
    if newest.read - oldest.read < SPAN or not newest.max:
        return None
    used, before = newest.max - newest.remaining, oldest.max - oldest.remaining
    grown = (used - before) * (_DAY / (newest.read - oldest.read))
    return max(0.0, 100.0 * (before + grown) / newest.max)


def _read(reading: Reading) -> datetime:
    return reading.read


class AllocationWatch:
    """What one run reads of the allocation, and what runs remember of it. Called by the run's main thread alone."""

    def __init__(self, emit: Emit, open_rest: Callable[[Token], RestQuestions]) -> None:
        self.readings: tuple[Reading, ...] = ()  # newest first
        self.problem = ""  # why it cannot be read
        self.asked: datetime | None = None
        self._emit = emit
        self._open_rest = open_rest
        self._asking: Future[tuple[int, int]] | None = None
        self._is_restored = False

    def restore(self, known: RunRecord | None) -> None:
        """Take over what the runs before this one have read."""
        if known is not None and not self._is_restored:
            self.readings, self.problem, self.asked = known.allocation, known.allocation_problem, known.allocation_asked
        self._is_restored = True

    def look(self, now: datetime, token: Token) -> None:
        """Start a reading that is due, take one that is there."""
        self.settle()
        every = EVERY_DENIED if self.problem else EVERY
        if self._asking is None and (self.asked is None or not timedelta(0) <= now - self.asked < every):
            self.asked = now
            self._asking = background.start("limits", lambda: self._open_rest(token).delivery_allocation())

    def settle(self) -> None:
        """Take the reading that is there, if one is."""
        asking = self._asking
        if asking is None or not asking.done() or self.asked is None:
            return
        self._asking = None
        try:
            maximum, remaining = asking.result()
        except RestDenied as error:
            if not self.problem:
                self._emit("org.limits_unknown", level=logging.WARNING, error=error, next_step=error.hint)
            self.problem = str(error)
            return
        except RestFailed:
            return  # it may be there in five minutes
        reading = Reading(read=self.asked, max=maximum, remaining=remaining)
        self.readings, self.problem = (reading, *self.readings)[:READINGS_KEPT], ""
        used, forecast = used_percent(reading), forecast_percent(self.readings)
        is_high = max(used or 0.0, forecast or 0.0) > WARNING_PERCENT
        self._emit(
            "org.limits",
            level=logging.WARNING if is_high else logging.INFO,
            max=maximum,
            remaining=remaining,
            used_percent=used,
            forecast_percent=forecast,
        )
