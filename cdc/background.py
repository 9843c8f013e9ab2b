"""Runs calls in threads of their own, so that nothing that hangs can hold up its caller, or the end of the process.

The threads are daemons: a call that never returns is left behind with its thread, and its answer, should one still
come, goes nowhere. A thread that is through with its call waits a while for the next one of its name: making a thread
for each costs time, and memory too, for the C library gives each thread a heap that becomes as large as what it does.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from typing import TypeVar

T = TypeVar("T")
_Work = Callable[[], Callable[[], None]]
"""Does something, and returns how to tell that it is done."""

_IDLE_S = 30.0  # a thread without work ends after that


def bind(call: Callable[..., T], *arguments: object) -> Callable[[], T]:
    """Return `call` with its arguments, to be started later."""
    return lambda: call(*arguments)


def start(name: str, call: Callable[[], T]) -> Future[T]:
    """Return the future of `call`, which runs at once in a daemon thread called `name`."""
    future: Future[T] = Future()
    _run(name, lambda: _outcome(future, call))
    return future


def start_each(name: str, calls: list[Callable[[], T]], *, at_once: int) -> list[Future[T]]:
    """Return the futures of `calls`, of which at most `at_once` run side by side, taken in their order."""
    futures, work = _shared(calls)
    for _ in range(min(at_once, len(calls))):
        _run(name, work)
    return futures


def run_each(name: str, calls: list[Callable[[], T]], *, at_once: int) -> list[Future[T]]:
    """The same, but this thread does its share: it comes back when no call is left to be begun."""
    futures, work = _shared(calls)
    for _ in range(min(at_once, len(calls)) - 1):
        _run(name, work)
    work()()
    return futures


def _shared(calls: list[Callable[[], T]]) -> tuple[list[Future[T]], _Work]:
    """Return the futures of `calls`, and what each of several threads does until all are done."""
    futures: list[Future[T]] = [Future() for _ in calls]
    waiting = iter(list(zip(calls, futures, strict=True)))
    taking = threading.Lock()

    def work() -> Callable[[], None]:
        tell: Callable[[], None] = _nothing
        while True:
            with taking:
                job = next(waiting, None)
            if job is None:
                return tell
            tell()
            call, future = job
            tell = _outcome(future, call)

    return futures, work


def _outcome(future: Future[T], call: Callable[[], T]) -> Callable[[], None]:
    try:
        result = call()
    except BaseException as error:
        return partial(future.set_exception, error)
    return partial(future.set_result, result)


def _nothing() -> None:
    """There is nothing to tell."""


class _Thread(threading.Thread):
    """Does what it is given, one after the other, and waits among the idle of its name in between."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.given: SimpleQueue[_Work] = SimpleQueue()

    def run(self) -> None:
        """Work until nothing came for a while."""
        while True:
            try:
                work = self.given.get(timeout=_IDLE_S)
            except Empty:
                with suppress(ValueError):  # somebody has just taken it: then there is work
                    _idle[self.name].remove(self)
                    return
                continue
            tell = work()
            _idle[self.name].append(self)  # first: whoever is told may have the next call at once
            tell()
            del work, tell  # and with them everything that they held


_idle: defaultdict[str, list[_Thread]] = defaultdict(list)


def _run(name: str, work: _Work) -> None:
    try:
        thread = _idle[name].pop()
    except IndexError:
        thread = _Thread(name)
        thread.start()
    thread.given.put(work)
