"""Logs once per process what `check` finds while the first run goes on, so that Azure's logs show it after a start.

It opens no CometD session, fails no run and takes none of its time: it works beside it, and what it has not found out
by its own time limit stays unsaid.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import wait
from contextlib import contextmanager

from cdc import background
from cdc.finding import Finding
from cdc.signals import Emit

CHECK_S = 12.0  # from the start of the first run; below the grace of the shortest run, so that no host limit comes near

_LEVELS = {"warning": logging.WARNING, "failed": logging.ERROR, "skipped": logging.WARNING}
_lock = threading.Lock()
_is_done = False


@contextmanager
def beside(check: Callable[[], Iterator[Finding]], emit: Emit) -> Iterator[None]:
    """Check beside the first block of this process, and emit what was found at its end; nothing beside any later one.

    The events come from the block's own thread: what a thread logs that a function has started, Azure cannot tie to
    the invocation, and may not show.
    """
    if not _is_first():
        yield
        return
    found: list[Finding] = []
    began = time.monotonic()
    checking = background.start("check", lambda: _collect(check, found))
    try:
        yield
    finally:
        wait([checking], timeout=max(0.0, began + CHECK_S - time.monotonic()))
        _report(list(found), emit, is_whole=checking.done() and checking.exception() is None)


def _is_first() -> bool:
    global _is_done
    with _lock:
        first, _is_done = not _is_done, True
    return first


def _collect(check: Callable[[], Iterator[Finding]], found: list[Finding]) -> None:
    for finding in check():
        found.append(finding)


def _report(found: list[Finding], emit: Emit, *, is_whole: bool) -> None:
    for finding in found:
        if finding.verdict in _LEVELS:
            emit(
                "check.finding",
                level=_LEVELS[finding.verdict],
                subject=finding.subject,
                verdict=finding.verdict,
                text=finding.text,
                next_step=finding.next_step,
            )
    counts = Counter(finding.verdict for finding in found)
    outcome = "failed" if counts["failed"] else "ok" if is_whole else "unfinished"
    emit("check.finished", outcome=outcome, ok=counts["ok"], warning=counts["warning"], failed=counts["failed"])
