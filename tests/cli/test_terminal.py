"""What a terminal shows that a pipe does not: progress, colour, and lines that fit."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

from tests.cli.conftest import LIMIT_S, Operator
from tests.harness import ACCOUNT, CONTACT, Site, run_seconds, wait_until

STYLE = re.compile(r"\x1b\[[0-9;]*m")
CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


@dataclass
class Screen:
    """A terminal of some width; `seen` is all that was written to it."""

    descriptor: int
    answering: int
    seen: bytearray = field(default_factory=bytearray)

    @property
    def text(self) -> str:
        return self.seen.decode(errors="replace").replace("\r\n", "\n")

    @property
    def plain(self) -> str:
        return CONTROL.sub("", self.text)


@contextmanager
def terminal(columns: int) -> Iterator[Screen]:
    """Yield a terminal that is read all the time, so that nobody who writes to it has to wait."""
    reading, writing = pty.openpty()
    fcntl.ioctl(writing, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    screen = Screen(writing, reading)

    def read() -> None:
        while True:
            try:
                chunk = os.read(reading, 4096)
            except OSError:  # the last writer has gone
                return
            screen.seen.extend(chunk)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield screen
    finally:
        os.close(writing)
        reader.join()
        os.close(reading)


def settings(site: Site, *channels: str) -> dict[str, str]:
    return site.environment(*channels, TERM="xterm-256color")


def test_progress_is_shown_on_a_terminal_and_gone_in_the_end(cdc: Operator, site: Site) -> None:
    site.org.publish(ACCOUNT, 5)
    site.org.channel(CONTACT)
    with terminal(80) as screen:
        process = cdc.start(
            "run", "--seconds", "60", "--json", environment=settings(site, ACCOUNT, CONTACT), stderr=screen.descriptor
        )
        wait_until(lambda: re.search(rf"{ACCOUNT} +5 +\S+/s +\S+ s", screen.plain))
        process.send_signal(signal.SIGINT)
        said = cdc.finish(process)
    cdc.check(screen.text)
    assert said.code == 0
    assert json.loads(said.out)["channels"][ACCOUNT]["events"] == 5
    assert re.search(r"capturing, \d+ s left · 1 session\n", screen.plain)
    assert re.search(r"channel +events +rate +lag\n", screen.plain)
    assert re.search(r"total +5 ", screen.plain)
    assert "INFO" not in screen.plain
    assert screen.text.count("\x1b[?25l") == screen.text.count("\x1b[?25h") == 1  # the cursor is back


@pytest.mark.parametrize("columns", [80, 120])
def test_nothing_is_wider_than_the_terminal_and_no_id_is_broken(cdc: Operator, site: Site, columns: int) -> None:
    unknown = "/data/QuiteLongCustomObjectName__ChangeEvent"
    ids = site.org.publish(ACCOUNT, 5)
    with terminal(columns) as screen:
        for command in (["run", "--seconds", run_seconds()], ["status"], ["check"]):
            process = cdc.start(
                *command, environment=settings(site, ACCOUNT, unknown), stdout=screen.descriptor, stderr=subprocess.PIPE
            )
            assert process.communicate(timeout=LIMIT_S) is not None
            assert process.returncode == (0 if command == ["status"] else 1)
    text = STYLE.sub("", screen.text)
    assert "\x1b" not in text
    for line in text.splitlines():
        assert len(line) <= columns, line
    replay_id = rf"(?<!\d){ids[-1]}(?!\d)"
    assert len(re.findall(replay_id, text)) == 2
    assert text.count(unknown) >= 5
    assert "\x1b[33mdegraded\x1b[0m" in screen.text
    assert "\x1b[31m✗\x1b[0m" in screen.text
    assert "\x1b[32m✓\x1b[0m" in screen.text


def test_a_watch_on_a_terminal_shows_each_look_in_the_place_of_the_one_before(cdc: Operator, site: Site) -> None:
    site.org.publish(ACCOUNT, 5)
    assert site.capture(ACCOUNT).outcome == "ok"
    with terminal(120) as screen:
        process = cdc.start(
            "status", "--watch", "--every", "0.2", environment=settings(site, ACCOUNT), stdout=screen.descriptor
        )
        wait_until(lambda: screen.plain.count("every 0.2 s; Ctrl-C ends") >= 3, at_most_s=30)
        process.send_signal(signal.SIGINT)
        said = cdc.finish(process)
    assert (said.code, said.err) == (0, "")
    assert re.search(r"\x1b\[1A", screen.text), "the cursor never went up"
    assert screen.text.count("\x1b[?25l") == screen.text.count("\x1b[?25h") == 1  # the cursor is back
    assert "\x1b[32m72.0 h" in screen.text


def test_an_order_is_asked_for_and_can_be_declined(cdc: Operator, site: Site) -> None:
    site.org.publish(ACCOUNT, 5)
    assert site.capture(ACCOUNT).outcome == "ok"
    before = site.log.names()
    for answer, code in (("n", 2), ("y", 0)):
        with terminal(80) as screen:
            process = subprocess.Popen(
                [sys.executable, "-m", "cdc", "rewind", ACCOUNT, "--to", "earliest"],
                cwd=cdc.folder,
                env=cdc.environment(settings(site, ACCOUNT)),
                stdin=screen.descriptor,
                stdout=screen.descriptor,
                stderr=screen.descriptor,
            )
            wait_until(lambda seen=screen: "Open generation 2 of" in seen.plain, at_most_s=30)
            os.write(screen.answering, f"{answer}\n".encode())
            assert process.wait(LIMIT_S) == code
        for line in screen.plain.splitlines():
            assert len(line) <= 80 or line.startswith("Open generation"), line
        assert (site.log.names() == before) == (answer == "n")


def test_without_colours_where_they_are_not_wanted(cdc: Operator, site: Site) -> None:
    site.org.channel(ACCOUNT)
    with terminal(80) as screen:
        process = cdc.start("check", environment=settings(site, ACCOUNT) | {"NO_COLOR": "1"}, stdout=screen.descriptor)
        process.communicate(timeout=LIMIT_S)
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]", screen.text)
    assert f"✓ {ACCOUNT}: may be subscribed\n" in STYLE.sub("", screen.text)
