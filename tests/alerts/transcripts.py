"""What runs really said, as Application Insights would have it: captured once, then placed anywhere on a day."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cdc import app
from cdc.signals import LOGGER
from tests.harness import ACCOUNT, CONTACT, Site, slowness

ROOT = Path(__file__).parent.parent.parent
ORDERS = "/event/Order_Placed__e"
CHANNELS = f"{ACCOUNT},{CONTACT};{ORDERS}"  # two groups: capture1, capture2
FIRST, SECOND = "capture1", "capture2"
RUN_LASTS, PACE = timedelta(seconds=265), timedelta(minutes=5)
Transcript = tuple[tuple[float, str], ...]  # when in its run, from 0 to 1, and the line
Trace = dict[str, Any]  # timestamp, message


class _Lines(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.INFO)  # the Functions host lets nothing below through
        self.owner = threading.get_ident()
        self.lines: list[tuple[float, str]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.thread == self.owner:  # nor does it let through what other threads say
            self.lines.append((time.monotonic(), record.getMessage()))


@contextmanager
def listening() -> Iterator[list[tuple[float, str]]]:
    """Yield the list of all that the app logs meanwhile."""
    handler, level = _Lines(), LOGGER.level
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.INFO)
    try:
        yield handler.lines
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.setLevel(level)


def run(site: Site, group: str = FIRST, *, seconds: float = 1.0, **more: str) -> Transcript:
    """Run the app once as the timer does, and return what it said."""
    settings = site.environment(**{"CDC_CHANNELS": CHANNELS, **more})
    settings["CDC_RUN_SECONDS"] = str(1 + round(seconds * slowness()))  # a second to start, on a busy machine
    with listening() as lines, pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        app.run_timer(group, ROOT)
    begin, end = lines[0][0], lines[-1][0]
    return tuple(((moment - begin) / max(end - begin, 0.001), line) for moment, line in lines)


def placed(transcript: Transcript, start: datetime) -> list[Trace]:
    """Return the traces of a run that began at `start`, took as long as runs do, and had an id of its own."""
    run_id = re.compile(r'("run_id": "[^"]+)"')
    return [
        {"timestamp": start + part * RUN_LASTS, "message": run_id.sub(rf'\1-{start:%d%H%M}"', line)}
        for part, line in transcript
    ]


def timeline(start: datetime, *series: Sequence[Transcript | None]) -> list[Trace]:
    """Return the traces of series of runs side by side, five minutes apart; None is a run that did not take place."""
    traces = [
        trace
        for runs in series
        for number, transcript in enumerate(runs)
        for trace in placed(transcript or (), start + number * PACE)
    ]
    return sorted(traces, key=lambda trace: trace["timestamp"])
