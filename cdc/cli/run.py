"""`run`: captures as the timer does, and shows on a terminal how it goes."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.live import Live
from rich.text import Text

from cdc import app as cdc_app
from cdc import background
from cdc.cli.looks import (
    ABORTED,
    COLOURS,
    FAILED,
    OK,
    AsJson,
    aligned,
    as_positive,
    data,
    progress,
    show_json,
    show_note,
    show_table,
)
from cdc.report import ChannelReport, RunReport
from cdc.settings import ChannelGroup, check_function_timeout, load_settings
from cdc.signals import Emit, format_event, log_event
from cdc.wording import duration, plural

ROOT = Path(__file__).parent.parent.parent  # where host.json lies, in a clone and when deployed
REFRESH_S = 0.25
RATE_WINDOW_S = 5.0


def run(
    seconds: Annotated[
        float | None, typer.Option(callback=as_positive, help="How long to listen; else CDC_RUN_SECONDS.")
    ] = None,
    group: Annotated[str | None, typer.Option(help="Only this channel group, like capture1; else all at once.")] = None,
    as_json: AsJson = False,
) -> None:
    """Capture once, exactly as the timer does.

    Every channel goes on from where its log ends. Ctrl-C ends the run cleanly, a second Ctrl-C aborts it; neither
    loses an event: the next run goes on from there.

    \b
    Examples:
      python -m cdc run
      python -m cdc run --seconds 60 --group capture1
      python -m cdc run --seconds 10 --json | jq .outcome

    \b
    Exit code:
      0  ok: every channel was captured
      1  degraded or failed; each problem comes with the next step
      2  bad settings or usage

    With --json the document is the run's report; with several groups it is {"outcome", "groups": {name: report}}.
    """
    settings = load_settings()
    groups = [cdc_app.group_named(settings, group)] if group else list(settings.channel_groups)
    if seconds is None:
        check_function_timeout(settings, ROOT / "host.json")
    run_seconds = settings.cdc_run_seconds if seconds is None else seconds
    stop: Future[None] = Future()
    watched = Progress([channel for each in groups for channel in each.channels], run_seconds, stop)
    with stopped_by_signals(stop):
        captures = [
            background.start(
                each.name,
                background.bind(_capture, settings, each, run_seconds, stop, _emit_for(groups, watched)),
            )
            for each in groups
        ]
        watch(captures, watched)
    reports = [capture.result() for capture in captures]
    if as_json:
        show_json(reports[0].to_json() if len(reports) == 1 else _groups_json(reports))
    else:
        for report in reports:
            show_report(report, is_one_of_many=len(reports) > 1)
    raise typer.Exit(OK if _worst(reports) == "ok" else FAILED)


def _capture(settings: Any, group: ChannelGroup, seconds: float, stop: Future[None], emit: Emit) -> RunReport:
    return cdc_app.capture(settings, group, seconds=seconds, stop=stop, emit=emit)


def _emit_for(groups: Sequence[ChannelGroup], watched: Progress) -> Emit:
    """Return what one group's run reports to: the log, or on a terminal the progress with warnings above it.

    What is the same in every line, the run and a group that is the only one, stands in those about the run alone.
    """
    repeated = {"run_id"} if len(groups) > 1 else {"run_id", "group"}

    def emit(name: str, /, *, level: int = logging.INFO, **fields: object) -> None:
        watched.note(name, fields)
        if not name.startswith("run."):
            fields = {key: value for key, value in fields.items() if key not in repeated}
        if not progress.is_terminal:
            log_event(name, level=level, **fields)
        elif level >= logging.WARNING and name != "run.finished":
            text = fields.get("error") or fields.get("text") or fields.get("setting") or format_event(name, fields)
            show_note(progress, "!", "yellow", str(text))

    return emit


def _worst(reports: Sequence[RunReport]) -> str:
    outcomes = {report.outcome for report in reports}
    return next(outcome for outcome in ("failed", "degraded", "ok") if outcome in outcomes)


def _groups_json(reports: Sequence[RunReport]) -> dict[str, Any]:
    return {"outcome": _worst(reports), "groups": {report.group: report.to_json() for report in reports}}


@contextmanager
def stopped_by_signals(stop: Future[None]) -> Iterator[None]:
    """The first SIGINT or SIGTERM asks for a clean end, the second one ends the process where it stands."""

    def handle(number: int, frame: object) -> None:
        if not stop.done():
            stop.set_result(None)
            return
        progress.show_cursor()
        os.write(2, b"\naborted; nothing is lost: the next run goes on from the last landed event\n")
        os._exit(ABORTED)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Progress:
    """Adds up what the runs report, for the lines that a terminal shows meanwhile. Told by many threads."""

    def __init__(self, channels: Sequence[str], seconds: float, stop: Future[None]) -> None:
        self._began = time.monotonic()
        self._ends = self._began + seconds
        self._stop = stop
        self._events = dict.fromkeys(channels, 0)
        self._lag_s = dict.fromkeys(channels, "")
        self._recent: dict[str, deque[tuple[float, int]]] = {channel: deque() for channel in channels}
        self._sessions = 0
        self._lock = threading.Lock()

    def note(self, name: str, fields: dict[str, object]) -> None:
        """Take note of one named event of a run."""
        channel, count, lag_s = str(fields.get("channel")), fields.get("count"), fields.get("lag_s")
        with self._lock:
            self._sessions += name == "session.opened"
            if name == "channel.landed" and channel in self._events and isinstance(count, int):
                self._events[channel] += count
                self._recent[channel].append((time.monotonic(), count))
                self._lag_s[channel] = duration(lag_s) if isinstance(lag_s, float) else ""

    def __rich__(self) -> Text:
        """The lines as they are now."""
        with self._lock:
            rates = {channel: self._rate(recent) for channel, recent in self._recent.items()}
            rows = [
                [channel, f"{events:,}", f"{rates[channel]:,.0f}/s", self._lag_s[channel]]
                for channel, events in self._events.items()
            ]
            total = ["total", f"{sum(self._events.values()):,}", f"{sum(rates.values()):,.0f}/s", ""]
            sessions = self._sessions
        lines = aligned(
            ["channel", "events", "rate", "lag"], [*rows, *([total] if len(rows) > 1 else [])], right=(1, 2, 3)
        )
        return Text("\n").join([Text(f"{self._title()} · {plural(sessions, 'session')}", "bold"), *lines])

    def _title(self) -> str:
        left_s = self._ends - time.monotonic()
        if self._stop.done():
            return "stopping; Ctrl-C again aborts"
        return f"capturing, {left_s:,.0f} s left" if left_s > 0 else "ending"

    def _rate(self, recent: deque[tuple[float, int]]) -> float:
        now = time.monotonic()
        while recent and recent[0][0] < now - RATE_WINDOW_S:
            recent.popleft()
        return sum(count for _, count in recent) / min(RATE_WINDOW_S, max(1.0, now - self._began))


def watch(captures: Sequence[Future[RunReport]], watched: Progress) -> None:
    """Return when all captures are done; meanwhile a terminal shows the progress.

    This thread must never wait for long: the system may hand a signal to another one, and Python deals with it here.
    """
    shown = Live(watched, console=progress, auto_refresh=False, transient=True)
    with shown if progress.is_terminal else nullcontext() as live:
        while wait(captures, timeout=REFRESH_S).not_done:
            if live is not None:
                live.refresh()


def show_report(report: RunReport, *, is_one_of_many: bool) -> None:
    """Show what one run did: the outcome, a line per channel, and each problem with its next step."""
    events = sum(channel.events for channel in report.channels.values())
    seconds = (report.finished - report.started).total_seconds() if report.finished else 0.0
    lost = report.lost_sessions
    parts = [
        f"{plural(events, 'event')} landed",
        plural(report.sessions, "session") + (f" ({lost} lost)" if lost else ""),
        f"{seconds:.1f} s" + (", stopped early" if report.is_interrupted else ""),
    ]
    name = f"{report.group}: " if is_one_of_many else ""
    data.print(
        Text.assemble(name, (report.outcome, COLOURS[report.outcome]), f" · {' · '.join(parts)}"), soft_wrap=True
    )
    show_table(
        ["channel", "events", "segments", "lag", "replay id", "generation"],
        [_channel_row(channel) for channel in report.channels.values()],
        right=(1, 2, 3, 4, 5),
        marks=[_channel_mark(channel) for channel in report.channels.values()],
    )
    for problem in report.problems:
        mark = ("✗", "red") if report.outcome == "failed" else ("!", "yellow")
        show_note(data, *mark, problem.message, problem.hint)


def _channel_mark(channel: ChannelReport) -> str:
    if channel.is_failed or not channel.is_subscribed:
        return "failed"
    return "warning" if channel.needs_attention else "ok"


def _channel_row(channel: ChannelReport) -> list[str]:
    return [
        channel.channel,
        f"{channel.events:,}",
        f"{channel.segments:,}",
        duration(channel.lag_s),
        channel.replay_id or "-",
        str(channel.generation or "-"),
    ]
