"""Waits for what runs in the background, never longer than a run may last; the only place that knows the time left.

Nothing here decides what a time-out means. Tests pass a clock of their own.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from cdc.errors import RequestLost

T = TypeVar("T")

_HANGS = "the next run tries again; if it lasts, check the network path"


class Clock:
    """Time as a run sees it."""

    def now(self) -> datetime:
        """The wall clock, UTC: for records, never for decisions about the deadline."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds that only ever grow."""
        return time.monotonic()

    def wait(self, futures: Sequence[Future[Any]], timeout_s: float) -> None:
        """Return when one of the futures is done, or after `timeout_s`."""
        wait(futures, timeout=max(0.0, timeout_s), return_when=FIRST_COMPLETED)


@dataclass(frozen=True)
class Waiting:
    """A deadline on the monotonic clock, and `stop`, whose result ends the run sooner."""

    clock: Clock
    deadline_s: float
    stop: Future[None] = field(repr=False)

    @property
    def left_s(self) -> float:
        """Seconds to the deadline, negative after it."""
        return self.deadline_s - self.clock.monotonic()

    @property
    def is_stopped(self) -> bool:
        """True where someone asked the run to end."""
        return self.stop.done()

    def result(
        self, future: Future[T], what: str, *, grace_s: float | None = None, at_most_s: float = float("inf")
    ) -> T:
        """Return the future's result, waiting for it until the deadline and no longer than `at_most_s`.

        With `grace_s` what must be finished is waited for: so long after the deadline, and though the run be stopped.
        Raises: RequestLost when the time is up; what the future raises.
        """
        ends_s = min(self.deadline_s + (grace_s or 0.0), self.clock.monotonic() + at_most_s)
        watched: list[Future[Any]] = [future] if grace_s is not None else [future, self.stop]
        while not any(each.done() for each in watched) and self.clock.monotonic() < ends_s:
            self.clock.wait(watched, ends_s - self.clock.monotonic())
        if not future.done():
            raise RequestLost(f"{what}: no answer before the run had to end", hint=_HANGS)
        return future.result()

    def first(self, futures: Sequence[Future[Any]], timeout_s: float) -> None:
        """Return when one of the futures is done or the run is stopped, or after `timeout_s`."""
        self.clock.wait([*futures, self.stop], timeout_s)

    def pause(self, seconds: float) -> None:
        """Let time pass, but not beyond the deadline, and not when the run is stopped."""
        seconds = min(seconds, self.left_s)
        if seconds > 0:
            self.clock.wait([self.stop], seconds)
