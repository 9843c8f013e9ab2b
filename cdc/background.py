"""Runs one call in a thread of its own, so that nothing that hangs can hold up its caller, or the end of the process.

The thread is a daemon: a call that never returns is left behind, and its answer, should one still come, goes nowhere.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def bind(call: Callable[..., T], *arguments: object) -> Callable[[], T]:
    """Return `call` with its arguments, to be started later."""
    return lambda: call(*arguments)


def start(name: str, call: Callable[[], T]) -> Future[T]:
    """Return the future of `call`, which runs at once in a daemon thread called `name`."""
    return start_each(name, [call], at_once=1)[0]


def start_each(name: str, calls: list[Callable[[], T]], *, at_once: int) -> list[Future[T]]:
    """Return the futures of `calls`, of which at most `at_once` run side by side, taken in their order."""
    futures: list[Future[T]] = [Future() for _ in calls]
    waiting = iter(list(zip(calls, futures, strict=True)))
    taking = threading.Lock()

    def work() -> None:
        while True:
            with taking:
                job = next(waiting, None)
            if job is None:
                return
            call, future = job
            try:
                result = call()
            except BaseException as error:
                future.set_exception(error)
            else:
                future.set_result(result)

    for _ in range(min(at_once, len(calls))):
        threading.Thread(target=work, name=name, daemon=True).start()
    return futures
