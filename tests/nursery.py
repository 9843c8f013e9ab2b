"""Emulated orgs for tests, each a process of its own, forked from one process that has imported the emulator.

To start Python and import a web server takes most of a second of processor time, and hundreds of tests want an empty
org. `python -m tests.nursery` is the process that is forked. It ends with its standard input, and all orgs with it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from emulator.client import ControlError, Emulator

ROOT = Path(__file__).parent.parent
STOP_S = 5.0


class Nursery:
    """The process that is forked, as seen from the tests."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.nursery"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    @contextmanager
    def start(self, *arguments: str) -> Iterator[Emulator]:
        """Yield a running emulator on a free port, stopped at the end of the block; the arguments are its command's.

        Raises: ControlError when it does not start.
        """
        born = self._order(start=["--port", "0", "--exit-with-parent", *arguments])
        if "url" not in born:
            raise ControlError(f"starting the emulator: it ended with code {born['ended']}: {arguments}")
        try:
            yield Emulator(born["url"], born["pid"])
        finally:
            self._order(stop=born["pid"])

    def close(self) -> None:
        """End the process, and with it every org that is left."""
        self._process.communicate(timeout=2 * STOP_S)

    def _order(self, **order: Any) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        self._process.stdin.flush()
        answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer


# --- the process that is forked ---------------------------------------------------------------------------------------


def main() -> None:
    """Obey orders, one to a line, each answered by one: where an org listens, or how one ended."""
    import typer

    from emulator.cli import app

    typer.main.get_command(app).make_context("emulator", [])  # imports what the first use of it imports
    lifelines: dict[int, int] = {}  # of each org: its standard input ends with this end of the pipe
    for line in sys.stdin:
        order = json.loads(line)
        if "stop" in order:
            os.close(lifelines.pop(order["stop"]))
            _answer(ended=_stop(order["stop"]))
            continue
        inner_end, outer_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            for each in (*lifelines.values(), outer_end):  # or it would keep its sisters alive
                os.close(each)
            _live(inner_end, order["start"])
        os.close(inner_end)
        lifelines[pid] = outer_end


def _live(stdin: int, arguments: list[str]) -> NoReturn:
    """Be an emulator, which says itself where it listens, until it is stopped."""
    from emulator.cli import app

    code: Any = 0
    try:
        os.dup2(stdin, 0)
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        app(arguments)
    except SystemExit as end:
        code = end.code
    except BaseException:
        code = 1
    finally:
        if code:
            _answer(ended=code)
        os._exit(bool(code))


def _stop(pid: int) -> int:
    """Return what an org ended with; one that does not end by itself is killed."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
    ends = time.monotonic() + STOP_S
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() > ends:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.002)


def _answer(**answer: Any) -> None:
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
