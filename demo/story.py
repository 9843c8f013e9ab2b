"""The demo's story: two runs of the real command over live traffic, a broken connection, and a count of what landed.

It starts and stops its actors and shows what they do; it captures nothing itself.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from demo import show
from demo.reader import LogReader, Verdict, compare
from emulator import client
from emulator.azurite import Azurite, azurite

ROOT = Path(__file__).resolve().parent.parent
CHANNELS = {  # with their share of the traffic
    "/data/AccountChangeEvent": 0.3,
    "/data/ContactChangeEvent": 0.4,
    "/data/OpportunityChangeEvent": 0.2,
    "/data/Invoice__ChangeEvent": 0.1,
}
PAUSE_S = 2.0  # between the runs, while the org goes on
QUIET_S = 2.0  # no traffic at the end of the second run, so that its last events have time to arrive
END_LIMIT_S = 40.0  # how long a run may take to end after its time
OURS = ("CDC_", "SALESFORCE_", "AZUREWEBJOBS", "AZUREFUNCTIONSJOBHOST")


class DemoFailed(Exception):
    """The demo does not show what it is there to show; the text says why."""


def tell(seconds: float, rate: float) -> None:
    """Play it all.

    Raises: DemoFailed where an event was lost, landed twice or out of order, or something did not even start.
    """
    os.environ["NO_PROXY"] = ",".join(filter(None, (os.environ.get("NO_PROXY"), "127.0.0.1")))
    show.title(seconds, len(CHANNELS))
    try:
        with (
            azurite(account="demo") as storage,
            client.start("--exit-with-parent", linger_s=0.3) as org,
            closing(LogReader(storage.connection_string)) as log,
            tempfile.TemporaryDirectory(prefix="cdc-demo-") as folder,
        ):
            show.actors(org.url, storage.url, rate)
            Story(org, storage, log, Path(folder)).play(seconds, rate)
    except (RuntimeError, client.ControlError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            raise
        raise DemoFailed(str(error)) from error


class Story:
    """The actors, and what was seen of them so far."""

    def __init__(self, org: client.Emulator, storage: Azurite, log: LogReader, folder: Path) -> None:
        self._org = org
        self._log = log
        self._folder = folder
        self._environment = {name: value for name, value in os.environ.items() if not name.upper().startswith(OURS)} | {
            "SALESFORCE_LOGIN_URL": org.url,
            "SALESFORCE_CLIENT_ID": org.client_id,
            "SALESFORCE_CLIENT_SECRET": org.client_secret,
            "CDC_CHANNELS": ",".join(CHANNELS),
            "CDC_START": "earliest",
            "CDC_STORAGE": storage.connection_string,
            "PYTHONPATH": str(ROOT),
        }
        self._began = time.monotonic()
        self._landed = 0
        self._newest: dict[str, bytes] = {}  # by channel, the one that was shown last at the end
        self._noted = 0  # entries of the org's journal that were looked at
        self._cut_events: int | None = None
        self._is_cut = False  # and no new session yet

    def play(self, seconds: float, rate: float) -> None:
        """Two runs with a pause between them, then the count."""
        first = round(seconds * 0.55, 1)
        for channel, share in CHANNELS.items():
            self._org.traffic(channel, rate * share)
        self._run(1, first, cut_after=first / 2)
        published = self._published()
        self._watch(time.monotonic() + PAUSE_S, None, is_shown=False)
        show.pause(PAUSE_S, self._published() - published)
        self._run(2, round(seconds - first, 1), quiet_after=max(1.0, seconds - first - QUIET_S))
        self._prove()

    # --- a run -------------------------------------------------------------------------------------------------------

    def _run(self, number: int, seconds: float, *, cut_after: float = 0.0, quiet_after: float = 0.0) -> None:
        """Run `python -m cdc run`, and meanwhile break its connection or end the traffic."""
        arguments = ["-m", "cdc", "run", "--seconds", f"{seconds:g}", "--json"]
        show.run_starts(number, " ".join(["python", *arguments]))
        output, log = self._folder / f"run{number}.json", self._folder / f"run{number}.log"
        with (
            output.open("wb") as stdout,
            log.open("wb") as stderr,
            started([sys.executable, *arguments], self._folder, self._environment, stdout, stderr) as process,
        ):
            ends = time.monotonic() + seconds + END_LIMIT_S
            for after, act in ((cut_after, self._cut), (quiet_after, self._stop_traffic)):
                if after:
                    self._watch(time.monotonic() + after, process)
                    act()
            self._watch(ends, process)
            if process.poll() is None:
                raise DemoFailed(f"run {number} did not end within {END_LIMIT_S:g} s after its time")
        try:
            report = json.loads(output.read_bytes())
        except ValueError:
            raise DemoFailed(f"run {number} ended with code {process.returncode}:\n{_tail(log)}") from None
        show.run_ended(number, report)
        if process.returncode != 0:
            problems = [f"{problem['message']}\n  next step: {problem['hint']}" for problem in report["errors"]]
            raise DemoFailed("\n".join([f"run {number} ended {report['outcome']}", *problems]))

    def _cut(self) -> None:
        self._org.fault("connect", "truncate", only_with_events=True)

    def _stop_traffic(self) -> None:
        for channel in CHANNELS:
            self._org.traffic(channel, 0)

    def _watch(self, until: float, process: subprocess.Popen[bytes] | None, *, is_shown: bool = True) -> None:
        """Show a line a second, and what the org notes down, until then or until the process ends."""
        next_line = time.monotonic() + 1.0
        while (now := time.monotonic()) < until and (process is None or process.poll() is None):
            self._look(is_line=is_shown and now >= next_line)
            next_line += 1.0 if now >= next_line else 0.0
            time.sleep(0.1)
        self._look(is_line=False)

    def _look(self, *, is_line: bool) -> None:
        for entry in self._new_entries():
            if entry.get("fault"):
                self._cut_events, self._is_cut = entry["events"], True
                show.cut(self._elapsed(), entry["events"])
            elif entry["channel"] == "/meta/handshake" and self._is_cut:
                self._is_cut = False
                show.recovery(self._elapsed())
        if is_line:
            self._read()
            channel = next(iter(self._newest), "")
            newest = self._newest.pop(channel, b"")
            show.progress(self._elapsed(), self._published(), self._landed, newest)
            if newest:
                self._newest[channel] = newest

    def _new_entries(self) -> list[dict[str, Any]]:
        """Return what has been answered since the last look."""
        entries = self._org.requests()
        fresh = [entry for entry in entries if entry["n"] > self._noted and entry["state"] != "pending"]
        self._noted = max((entry["n"] for entry in fresh), default=self._noted)
        return fresh

    def _read(self) -> None:
        for channel in CHANNELS:
            for segment in self._log.new_segments(channel):
                self._landed += len(segment.lines)
                self._newest[channel] = segment.lines[-1]

    def _published(self) -> int:
        return sum(self._org.stats()["published"].get(channel, 0) for channel in CHANNELS)

    def _elapsed(self) -> float:
        return time.monotonic() - self._began

    # --- the proof ---------------------------------------------------------------------------------------------------

    def _prove(self) -> None:
        """Read the whole log afresh, compare it with the org's ledger, and show where everything lies."""
        self._log.forget()
        verdicts: list[Verdict] = []
        segments = {channel: self._log.new_segments(channel) for channel in CHANNELS}
        for channel in CHANNELS:
            landed = [line for segment in segments[channel] for line in segment.lines]
            verdicts.append(compare(channel, self._org.deliveries(channel), landed))
        show.verdicts(verdicts)
        show.places(segments, self._log.records())
        show.one_event(segments)
        if self._cut_events is None:
            raise DemoFailed("the connection was never cut, so this proves nothing")
        for verdict in verdicts:
            if not verdict.is_good or not verdict.published:
                raise DemoFailed(
                    f"{verdict.channel}: {verdict.published} published, {verdict.landed} landed, {verdict.lost} lost, "
                    f"{verdict.duplicated} duplicated, {verdict.out_of_order} out of order, {verdict.foreign} unknown"
                )
        show.success(sum(verdict.published for verdict in verdicts), self._cut_events)


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-12:])


@contextmanager
def started(
    command: list[str], folder: Path, environment: dict[str, str], stdout: Any, stderr: Any
) -> Iterator[subprocess.Popen[bytes]]:
    """A process of its own session, ended with the block: asked first, killed if it does not listen."""
    process = subprocess.Popen(  # noqa: S603 (this very Python)
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)
