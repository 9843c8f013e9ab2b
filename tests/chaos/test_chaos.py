"""A short chaos with real processes, and the same with planted losses: `python -m chaos` as an operator starts it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from chaos.__main__ import main
from chaos.check import Segment
from chaos.log import Log
from chaos.plan import GRACE_S, draw_round

ROOT = Path(__file__).parent.parent.parent


def test_eight_rounds_lose_nothing_land_nothing_twice_and_leave_nothing_running(tmp_path: Path) -> None:
    report = tmp_path / "report.txt"
    command = [sys.executable, "-m", "chaos", "--rounds", "8", "--seed", "5", "--seconds-per-round", "1"]
    ended = subprocess.run(
        [*command, "--report", str(report)], cwd=ROOT, env=marked(tmp_path), capture_output=True, text=True, timeout=500
    )
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}\n{report.read_text() if report.exists() else ''}"
    assert "every event lies in the log once, in order, byte for byte" in ended.stdout
    assert not report.exists()
    assert left_running(tmp_path) == []


def test_planted_losses_fail_the_seed_and_leave_a_report_of_the_differences(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The log is read through a reader that leaves out one line and reads one segment twice."""
    honest = Log.segments

    def dishonest(self: Log, channel: str) -> list[Segment]:
        found = honest(self, channel)
        if channel == "/data/AccountChangeEvent":
            first = found[0]
            found[0] = Segment(first.number, first.partition, first.metadata, first.content.partition(b"\n")[2])
        if channel == "/data/ContactChangeEvent":
            found.append(found[-1])
        return found

    monkeypatch.setattr(Log, "segments", dishonest)
    before = signal.getsignal(signal.SIGTERM)
    report = tmp_path / "report.txt"
    try:
        code = main(["--rounds", "1", "--seed", "36", "--seconds-per-round", "0.7", "--report", str(report)])
    finally:
        signal.signal(signal.SIGTERM, before)
    shown = capsys.readouterr()
    assert code == 1
    assert shown.out.endswith("FAILED\n")
    assert "replay: make chaos ROUNDS=1 SEED=36" in shown.err
    text = report.read_text("utf-8")
    assert "/data/AccountChangeEvent: 1 lost\n  event 0, " in text
    assert "/data/ContactChangeEvent: " in text
    assert " duplicated\n" in text
    assert "round 1\n" in text


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_whoever_ends_it_ends_everything_that_it_started(tmp_path: Path, number: signal.Signals) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "chaos", "--rounds", "50"],
        cwd=ROOT, env=marked(tmp_path), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        wait_for(lambda: len(left_running(tmp_path)) >= 4)  # itself, emulator, Azurite, runner
    finally:
        process.send_signal(number)
        process.wait(60)
    wait_for(lambda: left_running(tmp_path) == [])


def test_a_busy_machine_gets_the_same_round_slower_and_promises_stay_what_they_are() -> None:
    plans = [draw_round(1, number, 1.5) for number in range(1, 40)]
    for plan, slower in ((plan, plan.at_pace(3)) for plan in plans):
        for run, same in zip(plan.runs, slower.runs, strict=True):
            assert (same.starts_s, same.seconds, same.ends_s) == (run.starts_s * 3, run.seconds * 3, run.ends_s * 3)
            assert same.limit_s == (GRACE_S if run.limit_s == GRACE_S else run.limit_s * 3)
        assert (slower.faults, slower.ambushes, slower.knobs) == (plan.faults, plan.ambushes, plan.knobs)
    assert any(fault["do"] == "garble" and fault["on"] == "connect" for plan in plans for fault in plan.faults)


def marked(tmp_path: Path) -> dict[str, str]:
    """An environment by which everything that a chaos starts is known."""
    return {**os.environ, "TMPDIR": str(tmp_path)}


def left_running(tmp_path: Path) -> list[int]:
    """The processes whose environment has the mark; Linux tells them, elsewhere there are none to see."""
    mark = f"TMPDIR={tmp_path}".encode()
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if mark in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def wait_for(condition: object, at_most_s: float = 60.0) -> None:
    assert callable(condition)
    if not Path("/proc/self/environ").exists():
        pytest.skip("processes are told apart by /proc")
    ends = time.monotonic() + at_most_s
    while not condition():
        assert time.monotonic() < ends, "the condition never came true"
        time.sleep(0.05)
