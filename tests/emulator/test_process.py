"""The emulator as a process: the command line, and how it stops."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from emulator import client
from tests.emulator.conftest import ACCOUNT

ROOT = Path(client.__file__).resolve().parent.parent


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_start_gives_a_running_org_and_leaves_none_behind() -> None:
    with client.start("--channel", f"{ACCOUNT}=2000", "--rate", "200", seed=7, hold_s=0.2) as org:
        assert is_running(org.pid)
        assert org.knobs()["hold_s"] == 0.2
        assert org.stats()["published"][ACCOUNT] >= 2000
        with pytest.raises(client.ControlError, match="there is no knob"):
            org.knobs(nothing=1)
    assert not is_running(org.pid)


def test_it_ends_when_the_process_that_started_it_is_gone() -> None:
    code = (
        "import subprocess, sys\n"
        "p = subprocess.Popen([sys.executable, '-m', 'emulator', '--exit-with-parent'], stdin=subprocess.PIPE,"
        " stdout=subprocess.PIPE)\n"
        "print(p.stdout.readline().decode(), flush=True)\n"
        "import os; os._exit(0)\n"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=True, timeout=60)
    pid = json.loads(run.stdout)["pid"]
    until = time.monotonic() + 30
    while is_running(pid):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_it_says_where_it_is_and_stops_on_a_signal() -> None:
    command = [sys.executable, "-m", "emulator", "--port", "0"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        started = json.loads(process.stdout.readline())
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", started["url"])
        assert started["pid"] == process.pid
        process.terminate()
        assert process.wait(5) == 0


def test_help_shows_examples_and_a_wrong_knob_is_named() -> None:
    command = [sys.executable, "-m", "emulator"]
    helped = subprocess.run([*command, "--help"], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    assert "python -m emulator --port 0 --seed 7" in helped.stdout
    wrong = subprocess.run(
        [*command, "--knob", "x=1"], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert wrong.returncode == 2
    assert "there is no knob 'x'" in wrong.stderr
