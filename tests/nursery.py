"""Emulated orgs for tests, each a process of its own, forked from one process that has imported the emulator.

To start Python and import a web server takes most of a second of processor time, and hundreds of tests want an empty
org. `python -m tests.nursery` is the process that is forked. It ends with its standard input, and all orgs with it.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

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
    """Obey orders, one to a line, each answered by one: where an org listens, or with which code it ended."""
    import typer

    from emulator.cli import app

    typer.main.get_command(app).make_context("emulator", [])  # imports what the first use of it imports
    forking = multiprocessing.get_context("fork")
    stdin, lifeline = os.pipe()  # what the orgs read ends when this process does, however it does
    orgs: dict[int | None, ForkProcess] = {}
    for line in sys.stdin:
        order = json.loads(line)
        if "stop" in order:
            answer: dict[str, Any] = {"ended": _stop(orgs.pop(order["stop"]))}
        else:
            mouth, stdout = os.pipe()
            org = forking.Process(target=_live, args=(order["start"], stdin, stdout, lifeline), daemon=True)
            org.start()
            os.close(stdout)
            with open(mouth, encoding="utf-8") as says:
                first_words = says.readline()
            answer = json.loads(first_words) if first_words else {"ended": _stop(org)}
            orgs[org.pid] = org
        print(json.dumps(answer), flush=True)


def _live(arguments: list[str], stdin: int, stdout: int, lifeline: int) -> None:
    """Be an emulator, which says itself where it listens, until it is stopped."""
    from emulator.cli import app

    os.close(lifeline)
    os.dup2(stdin, 0)
    os.dup2(stdout, 1)
    os.close(stdout)
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    app(arguments)


def _stop(org: ForkProcess) -> int | None:
    """Return what an org ended with; one that does not end when it is told to is killed."""
    org.terminate()
    org.join(STOP_S)
    org.kill()
    org.join()
    return org.exitcode


if __name__ == "__main__":
    main()
