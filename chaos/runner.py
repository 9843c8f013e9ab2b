"""`python -m chaos.runner`: starts the app again and again, each time as a process of its own, forked from a warm one.

One JSON order a line on standard input, one JSON line on standard output for each start and each end. What a process
runs is the command line of the app; where its wall clock is to be wrong, the same parts with that clock. When standard
input ends, everything that still runs is killed.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import importlib
import json
import logging
import os
import select
import signal
import sys
import time
from concurrent.futures import Future, wait
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

POLL_S = 0.005


class WrongClock:
    """Wall-clock time that is `offset_s` off and jumps by `jump_s` after `jump_after_s`."""

    def __init__(self, offset_s: float, jump_s: float, jump_after_s: float) -> None:
        self._offset = timedelta(seconds=offset_s)
        self._jump = timedelta(seconds=jump_s)
        self._jumps_at = time.monotonic() + jump_after_s

    def now(self) -> datetime:
        """The wrong time, UTC."""
        return datetime.now(UTC) + self._offset + (self._jump if time.monotonic() > self._jumps_at else timedelta())


def capture_with(clock: WrongClock, seconds: float) -> int:
    """Capture every group at once, as the command line does, but by this wall clock; prints the same document."""
    from cdc import app, background
    from cdc.waiting import Clock

    class RunClock(Clock):
        def now(self) -> datetime:
            return clock.now()

    settings = app.load_settings()
    stop: Future[None] = Future()

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    app.quiet_foreign_logs()

    def end(*_: object) -> None:
        if not stop.done():
            stop.set_result(None)

    signal.signal(signal.SIGTERM, end)
    capture = partial(app.capture, settings, seconds=seconds, stop=stop, clock=RunClock())
    captures = [background.start(group.name, partial(capture, group)) for group in settings.channel_groups]
    wait(captures)
    reports = [each.result() for each in captures]
    print(json.dumps({"groups": {report.group: report.to_json() for report in reports}}))
    return 0 if all(report.outcome == "ok" for report in reports) else 1


def carry_out(order: dict[str, Any]) -> int:
    """In the forked process: become the app that the order describes; returns its exit code."""
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(order[name], os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    faulthandler.enable()
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    seconds, clock = float(order["seconds"]), order["clock"]
    if clock:
        return capture_with(WrongClock(*clock), seconds)
    from cdc.__main__ import start

    sys.argv = ["cdc", "run", "--seconds", str(seconds), "--json"]
    return start()


def warm_up() -> None:
    """Import what the app will need, so that a fork starts at once."""
    for name in ("azure.identity", "azure.storage.blob", "jwt", "simple_salesforce", "cdc.__main__", "cdc.cli"):
        importlib.import_module(name)
    gc.freeze()


def main() -> None:
    """Serve orders: {"start": n, environment, seconds, clock, out, err} and {"signal": number, "pid": pid}."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever ordered the processes ends them
    warm_up()
    tell({"ready": os.getpid()})
    running: set[int] = set()
    pending = b""
    try:
        while True:
            readable, _, _ = select.select([0], [], [], POLL_S)
            data = os.read(0, 65_536) if readable else None
            if data == b"":
                return
            *lines, pending = (pending + (data or b"")).split(b"\n")
            for line in lines:
                follow(json.loads(line), running)
            reap(running)
    finally:
        for pid in running:
            os.kill(pid, signal.SIGKILL)
        while running:
            reap(running)
            time.sleep(POLL_S)


def follow(order: dict[str, Any], running: set[int]) -> None:
    """Carry out one order."""
    if "signal" in order:
        if order["pid"] in running:
            os.kill(order["pid"], order["signal"])
        return
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            code = carry_out(order)
        except BaseException:
            import traceback

            traceback.print_exc()
        finally:
            with contextlib.suppress(Exception):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)
    running.add(pid)
    tell({"started": order["start"], "pid": pid})


def reap(running: set[int]) -> None:
    """Tell of every process that has ended; a signal is a negative code."""
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        running.discard(pid)
        tell({"ended": pid, "code": os.waitstatus_to_exitcode(status)})


def tell(line: dict[str, Any]) -> None:
    """Write one line to whoever gives the orders."""
    with contextlib.suppress(BrokenPipeError):
        os.write(1, json.dumps(line).encode() + b"\n")


if __name__ == "__main__":
    main()
