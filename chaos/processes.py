"""Starts and ends the app's processes: forked from a warm runner, or cold with an interpreter of their own."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from chaos.plan import RunPlan

ROOT = Path(__file__).resolve().parent.parent
_READY_LIMIT_S = 30.0


@dataclass
class Process:
    """One run of the app. Times are of the monotonic clock; `code` is None while it runs, negative after a signal."""

    plan: RunPlan
    name: str
    out: Path
    err: Path
    began_s: float
    pid: int = 0
    code: int | None = None
    ended_s: float = 0.0
    signals: list[int] = field(default_factory=list)  # what was sent to it

    @property
    def took_s(self) -> float:
        """How long it ran."""
        return self.ended_s - self.began_s

    def reports(self) -> list[dict[str, Any]]:
        """The reports of its groups; none where it was killed."""
        try:
            document = json.loads(self.out.read_text("utf-8"))
        except (OSError, ValueError):
            return []
        return list(document["groups"].values()) if "groups" in document else [document]

    def complaints(self) -> str:
        """What it wrote to standard error."""
        return self.err.read_text("utf-8", "replace") if self.err.exists() else ""


class Processes:
    """All processes of one chaos; `stop` ends each by its id."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._folder = folder
        self._environment = {"PATH": os.defpath, "PYTHONPATH": str(ROOT), **environment}
        self._cold: dict[str, subprocess.Popen[bytes]] = {}
        self._known: dict[int, Process] = {}
        self._starting: dict[int, Process] = {}
        self._number = 0
        self._pending = b""
        self._runner = subprocess.Popen(
            [sys.executable, "-m", "chaos.runner"], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def wait_until_ready(self) -> None:
        """Raises: RuntimeError where the runner does not start."""
        ends = time.monotonic() + _READY_LIMIT_S
        while time.monotonic() < ends and self._runner.poll() is None:
            if any("ready" in line for line in self._lines(0.1)):
                return
        raise RuntimeError(f"starting the runner: it is not ready, code {self._runner.poll()}")

    def start(self, plan: RunPlan, name: str) -> Process:
        """Start one run."""
        out, err = self._folder / f"{name}.out", self._folder / f"{name}.err"
        process = Process(plan, name, out, err, time.monotonic())
        if plan.is_cold:
            command = [sys.executable, "-m", "cdc", "run", "--seconds", str(plan.seconds), "--json"]
            with out.open("wb") as stdout, err.open("wb") as stderr:
                child = subprocess.Popen(
                    command, cwd=self._folder, env=self._environment, stdin=subprocess.DEVNULL, stdout=stdout,
                    stderr=stderr,
                )  # fmt: skip
            self._cold[name], process.pid = child, child.pid
            return process
        self._number += 1
        self._starting[self._number] = process
        is_wrong = bool(plan.clock_s or plan.clock_jumps_s)
        self._order(
            start=self._number, environment=self._environment, folder=str(self._folder), seconds=plan.seconds,
            clock=[plan.clock_s, plan.clock_jumps_s, plan.seconds / 2] if is_wrong else None,
            out=str(out), err=str(err),
        )  # fmt: skip
        return process

    def signal(self, process: Process, number: int) -> bool:
        """Send a signal; False where the process has ended or has not begun yet."""
        if process.code is not None or not process.pid:
            return False
        process.signals.append(number)
        if process.name in self._cold:
            self._cold[process.name].send_signal(number)
        else:
            self._order(signal=number, pid=process.pid)
        return True

    def poll(self, timeout_s: float) -> None:
        """Take note of what has started and ended."""
        for line in self._lines(timeout_s):
            if "started" in line:
                process = self._starting.pop(line["started"])
                process.pid = line["pid"]
                self._known[process.pid] = process
            elif "ended" in line and line["ended"] in self._known:
                process = self._known.pop(line["ended"])
                process.code, process.ended_s = line["code"], time.monotonic()

    def poll_cold(self, process: Process) -> None:
        """The same for a process that is the runner's no child."""
        child = self._cold.get(process.name)
        if child is not None and process.code is None and child.poll() is not None:
            process.code, process.ended_s = child.returncode, time.monotonic()
            del self._cold[process.name]

    def stop(self) -> None:
        """End every process: the cold ones here, the forked ones through the end of the runner's input."""
        for child in self._cold.values():
            child.kill()
            child.wait()
        for pipe in (self._runner.stdin, self._runner.stdout):
            if pipe is not None:
                pipe.close()
        try:
            self._runner.wait(10)
        except subprocess.TimeoutExpired:
            self._runner.kill()
            self._runner.wait()

    def _order(self, **order: Any) -> None:
        assert self._runner.stdin is not None
        self._runner.stdin.write(json.dumps(order).encode() + b"\n")
        self._runner.stdin.flush()

    def _lines(self, timeout_s: float) -> list[dict[str, Any]]:
        assert self._runner.stdout is not None
        readable, _, _ = select.select([self._runner.stdout], [], [], timeout_s)
        data = os.read(self._runner.stdout.fileno(), 65_536) if readable else None
        if data == b"":
            raise RuntimeError(f"the runner has ended, code {self._runner.wait(5)}")
        *lines, self._pending = (self._pending + (data or b"")).split(b"\n")
        return [json.loads(line) for line in lines]


@contextmanager
def processes(folder: Path, environment: dict[str, str]) -> Iterator[Processes]:
    """Yield what starts processes, and end all of them afterwards."""
    opened = Processes(folder, environment)
    try:
        opened.wait_until_ready()
        yield opened
    finally:
        opened.stop()


KILL, TERM = signal.SIGKILL, signal.SIGTERM
