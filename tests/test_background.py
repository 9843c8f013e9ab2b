"""Calls in threads of their own: what they answer comes back, what hangs is left behind, threads are used again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future

import pytest

from cdc import background


def test_a_call_answers_and_fails_through_its_future() -> None:
    def fail() -> None:
        raise ValueError("no")

    assert background.start("answering", lambda: 7).result(60) == 7
    with pytest.raises(ValueError, match="no"):
        background.start("answering", fail).result(60)


def test_threads_are_daemons_of_the_calls_name_and_used_again() -> None:
    threads = {background.start("again", threading.current_thread).result(60) for _ in range(200)}
    [thread] = threads  # one call after the other, however soon the next one comes
    assert (thread.name, thread.daemon) == ("again", True)


def test_a_thread_that_hangs_is_left_behind_and_holds_up_nothing() -> None:
    ends = threading.Event()
    hanging = background.start("hanging", lambda: ends.wait(60))
    assert background.start("hanging", lambda: 7).result(60) == 7
    assert not hanging.done()
    ends.set()
    assert hanging.result(60)


def test_a_thread_without_work_ends_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background, "_IDLE_S", 0.01)
    thread = background.start("ending", threading.current_thread).result(60)
    thread.join(60)
    assert not thread.is_alive()
    assert background.start("ending", lambda: 7).result(60) == 7


@pytest.mark.parametrize("run", [background.start_each, background.run_each])
def test_of_many_calls_so_many_run_side_by_side_and_all_are_answered(run: Callable[..., list[Future[int]]]) -> None:
    running, most, lock = 0, 0, threading.Lock()

    def call(number: int) -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        with lock:
            running -= 1
        return number

    futures = run("many", [background.bind(call, number) for number in range(50)], at_once=3)
    assert [future.result(60) for future in futures] == list(range(50))
    assert most <= 3
