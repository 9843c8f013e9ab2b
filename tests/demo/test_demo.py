"""The demo as a newcomer runs it, shortened: what it says, how it exits, and that nothing is left behind."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from demo.reader import compare
from tests.harness import slowness

ROOT = Path(__file__).parent.parent.parent


def start_demo(*options: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "demo", *options],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def listening(output: str) -> list[str]:
    """The addresses in the demo's output where somebody still answers."""
    found = []
    for address in re.findall(r"http://127\.0\.0\.1:\d+", output):
        with socket.socket() as probe:
            probe.settimeout(1)
            if probe.connect_ex(("127.0.0.1", urlsplit(address).port or 0)) == 0:
                found.append(address)
    return found


def files_of_the_tree() -> set[str]:
    ignored = {".git", "node_modules", "__pycache__"}
    return {
        path.name
        for path in ROOT.iterdir()
        if path.name not in ignored and not path.name.startswith((".venv", ".mypy", ".ruff", ".pytest", ".hypothesis"))
    }


def test_a_short_demo_shows_that_every_event_landed_once() -> None:
    before = files_of_the_tree()
    # Settings of one's own must not leak into the demo.
    mine = {"CDC_EVENTS_CONTAINER": "mine", "SALESFORCE_USERNAME": "me", "AzureWebJobsStorage": "mine"}
    with start_demo("--seconds", "8", "--rate", "60", **mine) as demo:
        output, errors = demo.communicate(timeout=300)
    assert (demo.returncode, errors) == (0, ""), output + errors
    assert "the connection breaks" in output
    assert "a new session goes on from the last landed event" in output
    rows = re.findall(r"^  (/data/\w+|total) +([\d,]+) +([\d,]+) +(\d+) +(\d+) +(\d+)$", output, re.MULTILINE)
    assert [row[0].partition("ChangeEvent")[0] for row in rows] == [
        *("/data/Account", "/data/Contact", "/data/Opportunity", "/data/Invoice__", "total")
    ]
    for _, published, landed, *wrong in rows:
        assert published == landed != "0"
        assert wrong == ["0", "0", "0"]
    assert re.search(r"^  data/AccountChangeEvent/date=[\d-]{10}/$", output, re.MULTILINE)
    assert re.search(r"^  data/AccountChangeEvent\.json +segment \d+, id \d+$", output, re.MULTILINE)
    assert '"ChangeEventHeader"' in output
    assert re.search(r"^OK  [\d,]+ published = [\d,]+ landed: 0 lost, 0 duplicated, 0 out of order,$", output, re.M)
    assert [line for line in output.splitlines() if len(line) > 80] == []
    assert listening(output) == []
    assert files_of_the_tree() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_stops_everything_that_it_started(number: signal.Signals) -> None:
    with start_demo("--seconds", "60") as demo:
        assert demo.stdout is not None
        seen = ""
        for line in demo.stdout:
            seen += line
            if re.match(r" +\d+ s ", line):
                break
        assert len(listening(seen)) == 2
        began = time.monotonic()
        demo.send_signal(number)
        rest, errors = demo.communicate(timeout=120)
    assert demo.returncode == 128 + number
    assert errors == "\nInterrupted. Everything that was started is stopped.\n", rest
    assert listening(seen) == []
    assert time.monotonic() - began < 15 * slowness()


def test_the_demo_says_what_is_missing() -> None:
    with start_demo("--seconds", "6", PATH="") as demo:
        _, errors = demo.communicate(timeout=120)
    assert demo.returncode == 1
    assert errors.startswith("\nFAILED  ")
    assert "node" in errors


@pytest.mark.pure
@pytest.mark.parametrize(
    ("landed", "lost", "duplicated", "out_of_order", "foreign"),
    [
        ([b"1", b"2", b"3"], 0, 0, 0, 0),
        ([b"1", b"3"], 1, 0, 0, 0),
        ([b"1", b"2", b"2", b"3"], 0, 1, 0, 0),
        ([b"1", b"3", b"2"], 0, 0, 1, 0),
        ([b"1", b"2", b"3", b"x"], 0, 0, 0, 1),
        ([b"1", b"2", b"1", b"2", b"3"], 0, 2, 1, 0),
        ([], 3, 0, 0, 0),
    ],
)
def test_the_comparison_sees(landed: list[bytes], lost: int, duplicated: int, out_of_order: int, foreign: int) -> None:
    verdict = compare("/data/X", [b"1", b"2", b"3"], landed)
    found = (verdict.lost, verdict.duplicated, verdict.out_of_order, verdict.foreign)
    assert found == (lost, duplicated, out_of_order, foreign)
    assert verdict.is_good == (found == (0, 0, 0, 0))
