"""The operator's door: `python -m cdc run`, `check`, `status`. Data goes to stdout, progress and complaints to stderr.

It shows and exits, and decides nothing. It never prints a secret: it is given none.
"""

from __future__ import annotations

import json
import logging
import math
import os
import signal
import sys
import textwrap
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, wait
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from cdc import app as cdc_app
from cdc import background
from cdc.errors import CdcError, SettingsInvalid
from cdc.overview import ChannelState, GroupState, Overview, record_of
from cdc.report import ChannelReport, RunReport
from cdc.settings import ChannelGroup, check_function_timeout, load_settings
from cdc.signals import LOGGER, Emit, format_event, log_event
from cdc.wording import duration, plural

ROOT = Path(__file__).parent.parent  # where host.json lies, in a clone and when deployed
OK, FAILED, UNUSABLE, ABORTED = 0, 1, 2, 130
REFRESH_S = 0.25
RATE_WINDOW_S = 5.0
CLOCKS_DIFFER = timedelta(minutes=1)  # a clean poll has Salesforce's time, a run ours
RUNNING_OUT = timedelta(hours=12)  # less of the retention window than this is worth a warning

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip
data = Console(highlight=False)
progress = Console(stderr=True, highlight=False)

AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else there.")]


@app.callback()
def cdc(
    debug: Annotated[
        bool, typer.Option("--debug", help="Log every segment, and the traceback of an unexpected error.")
    ] = False,
) -> None:
    """Salesforce change events, landed once, in order, in Azure Blob Storage.

    Settings come from the environment and, behind it, from local.settings.json in this folder.

    \b
    Examples:
      python -m cdc check              are settings, storage and Salesforce as they must be?
      python -m cdc run --seconds 60   capture for a minute, as the timer would
      python -m cdc status             where every channel stands

    Exit code: 0 all is well, 1 something is wrong, 2 bad settings or usage.
    """
    cdc_app.quiet_foreign_logs()
    LOGGER.setLevel(logging.DEBUG if debug else logging.INFO)


def main() -> int:
    """Run the command that the arguments name and return the exit code; an error is a line, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    with logging_to_stderr():
        return _run_command()


def _run_command() -> int:
    try:
        app(prog_name="python -m cdc")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else FAILED
    except SettingsInvalid as error:
        for problem in error.problems:
            show_note(progress, "✗", "red", problem)
        show_note(progress, "→", "", error.hint)
        return UNUSABLE
    except CdcError as error:
        show_note(progress, "✗", "red", str(error), error.hint)
    except BrokenPipeError:
        pass
    except Exception as error:
        LOGGER.debug("traceback", exc_info=True)
        show_note(progress, "✗", "red", f"unexpected: {type(error).__name__}{_place(error)}", _REPORT)
    return FAILED


@contextmanager
def logging_to_stderr() -> Iterator[None]:
    """Show on stderr what is logged."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    LOGGER.addHandler(handler)
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)


_REPORT = "this is a mistake in the program: please report it, with what --debug (before the command) shows"


def _place(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return f" at {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""


# --- run -------------------------------------------------------------------------------------------------------------


def _positive(value: float | None) -> float | None:
    if value is not None and not 0 < value < math.inf:
        raise typer.BadParameter("must be more than 0")
    return value


@app.command()
def run(
    seconds: Annotated[
        float | None, typer.Option(callback=_positive, help="How long to listen; else CDC_RUN_SECONDS.")
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
        return Text("\n").join([Text(f"{self._title()} · {plural(sessions, 'session')}", "bold"), *map(Text, lines)])

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
    """Return when all captures are done; meanwhile a terminal shows the progress."""
    if not progress.is_terminal:
        wait(captures)
        return
    with Live(watched, console=progress, auto_refresh=False, transient=True) as live:
        while wait(captures, timeout=REFRESH_S).not_done:
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
        Text.assemble(name, (report.outcome, _COLOURS[report.outcome]), f" · {' · '.join(parts)}"), soft_wrap=True
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


_COLOURS = {"ok": "green", "degraded": "yellow", "failed": "red"}


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


# --- check -----------------------------------------------------------------------------------------------------------


@app.command()
def check(as_json: AsJson = False) -> None:
    """Try settings, storage and Salesforce, before a deployment and after it.

    One line for each thing tried: ✓ as it must be, ! worth a look, ✗ wrong, - not tried; below it what to do, with the
    Salesforce permission or the Azure role that is missing. Nothing is written or created, neither in storage nor in
    Salesforce; every channel is subscribed for a moment, and what it sends is dropped.

    \b
    Examples:
      python -m cdc check
      python -m cdc check --json | jq '.findings[] | select(.verdict == "failed")'

    \b
    Exit code:
      0  nothing is wrong
      1  storage or Salesforce must be mended
      2  settings must be corrected
    """
    findings = []
    for finding in cdc_app.check(ROOT):
        findings.append(finding)
        if not as_json:
            show_note(data, *_MARKS[finding.verdict], f"{finding.subject}: {finding.text}", finding.next_step)
    failed = [finding.subject for finding in findings if finding.verdict == "failed"]
    outcome = "failed" if failed else "ok"
    if as_json:
        show_json({"outcome": outcome, "findings": [finding.to_json() for finding in findings]})
    else:
        count = f"{len(failed)} to mend" if failed else "python -m cdc run can start"
        data.print(Text.assemble((outcome, _COLOURS[outcome]), f" · {count}"), soft_wrap=True)
    raise typer.Exit(UNUSABLE if "settings" in failed else FAILED if failed else OK)


_MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failed": ("✗", "red"), "skipped": ("-", "dim")}


# --- status ----------------------------------------------------------------------------------------------------------


@app.command()
def status(as_json: AsJson = False) -> None:
    """Show where every channel stands.

    Position, age and lag of the last landed event, how long capture may pause before Salesforce drops what was not
    fetched (72 hours after the event; 24 for platform events), gaps, and each group's last run. Reads storage alone,
    and writes nothing.

    \b
    Examples:
      python -m cdc status
      python -m cdc status --json | jq '.groups[].channels | map_values(.retentionLeftHours)'

    \b
    Exit code:
      0  everything could be read
      1  storage, or the log of a channel, could not
      2  bad settings or usage
    """
    seen = cdc_app.status(load_settings())
    if as_json:
        show_json(seen.to_json())
    else:
        show_overview(seen)
    raise typer.Exit(FAILED if seen.errors else OK)


def show_overview(seen: Overview) -> None:
    """Show each group's last run and channels, then what needs attention."""
    for group in seen.groups:
        data.print(_last_run(group, seen.now), soft_wrap=True)
        show_table(
            ["channel", "segment", "replay id", "generation", "last event (UTC)", "age", "lag", "left", "gaps"],
            [_state_row(state, seen.now) for state in group.channels],
            right=(1, 2, 3, 5, 6, 7, 8),
            marks=[_state_mark(state, group, seen.now) for state in group.channels],
        )
    for group in seen.groups:
        for text in group.last_run.errors if group.last_run else ():
            show_note(data, "!", "yellow", f"last run of {group.name}: {text}")
        for state in group.channels:
            _show_attention(state, seen.now)
    for warning in seen.warnings:
        show_note(data, "!", "yellow", warning)
    for error in seen.errors:
        show_note(data, "✗", "red", str(error), error.hint)


def _last_run(group: GroupState, now: datetime) -> Text:
    run = group.last_run
    if run is None:
        return Text.assemble((group.name, "bold"), ": no run on record")
    ago = duration(max(0.0, (now - run.finished).total_seconds()))
    return Text.assemble(
        (group.name, "bold"), ": last run ", (run.outcome, _COLOURS.get(run.outcome, "")), f", {ago} ago ({run.run_id})"
    )


def _state_mark(state: ChannelState, group: GroupState, now: datetime) -> str:
    """`ok` where the group's last run captured the channel and nothing is left to look at."""
    if state.error is not None:
        return "failed"
    if state.polled is None or (group.last_run and state.polled < group.last_run.started - CLOCKS_DIFFER):
        return "warning"
    left = state.retention_left(now)
    return "warning" if state.gaps or state.warnings or (left is not None and left < RUNNING_OUT) else "ok"


def _state_row(state: ChannelState, now: datetime) -> list[str]:
    position, left = state.position, state.retention_left(now)
    if state.error is not None:
        return [state.channel, *["?"] * 8]
    return [
        state.channel,
        str(position.segment or "-"),
        position.replay_id or "-",
        str(position.generation.number) if position.generation else "-",
        f"{position.last_time:%Y-%m-%d %H:%M:%S}" if position.last_time else "nothing landed yet",
        duration((now - position.last_time).total_seconds() if position.last_time else None),
        _whole_seconds(state.lag),
        f"{max(0.0, left.total_seconds()) / 3600:.1f} h" if left is not None else "-",
        str(len(state.gaps)),
    ]


def _whole_seconds(time: timedelta | None) -> str:
    """Storage clocks tell whole seconds."""
    return (
        "<1 s" if time is not None and time < timedelta(seconds=1) else duration(time.total_seconds() if time else None)
    )


def _show_attention(state: ChannelState, now: datetime) -> None:
    """Show what an operator should know of a channel: warnings, the end of the retention window, gaps."""
    for warning in state.warnings:
        show_note(data, "!", "yellow", warning)
    left = state.retention_left(now)
    if left is not None and left < RUNNING_OUT:
        hours = state.retention.total_seconds() / 3600
        show_note(
            data,
            "!",
            "yellow",
            f"{state.channel}: captured up to {state.captured_to:%Y-%m-%d %H:%M} UTC, and Salesforce keeps events for "
            f"{hours:.0f} hours",
            "see why runs fail or do not start, and capture now: python -m cdc run",
        )
    for gap in state.gaps:
        since = f"{gap.since:%Y-%m-%d %H:%M:%S}" if gap.since else "an unknown time"
        until = f"{gap.until or gap.detected:%Y-%m-%d %H:%M:%S}"
        show_note(
            data,
            "!",
            "yellow",
            f"{state.channel}: events between {since} and {until} UTC may be missing ({gap.cause}, generation "
            f"{gap.number})",
            f"reconcile the records changed in that interval; the gap record is {record_of(gap)} in the checkpoints "
            "container",
        )


# --- how things look -------------------------------------------------------------------------------------------------


def show_json(document: dict[str, Any]) -> None:
    """The one document on stdout."""
    print(json.dumps(document, indent=2, ensure_ascii=False))


def show_note(console: Console, mark: str, style: str, text: str, next_step: str = "") -> None:
    """Show a marked line, and below it what to do. A terminal gets it wrapped between words; a pipe as it is."""
    for lead, line in ((Text(f"{mark} ", style), text), (Text("  next step: ", "dim"), next_step)):
        width = console.width - (2 if line is text else 4) if console.is_terminal else sys.maxsize
        wrapped = textwrap.wrap(
            printable(line), width, initial_indent=" " * len(lead), break_long_words=False, break_on_hyphens=False
        )
        for number, each in enumerate(wrapped):
            first = number == 0
            console.print(
                Text.assemble(
                    lead if first else " " * (2 if line is text else 4), each[len(lead) :] if first else each
                ),
                soft_wrap=True,
            )


def show_table(
    headers: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[int], marks: Sequence[str]
) -> None:
    """Show marked rows under headers. Where a terminal is too narrow, each row as a block: nothing is cut or broken."""
    header, *lines = aligned(headers, rows, right)
    is_narrow = data.is_terminal and max(map(len, (header, *lines))) + 2 > data.width
    if not is_narrow:
        data.print(Text("  " + header, "dim"), soft_wrap=True)
    for line, row, mark in zip(lines, rows, marks, strict=True):
        data.print(Text.assemble(_MARKS[mark], " ", printable(row[0]) if is_narrow else line), soft_wrap=True)
        if is_narrow:
            pairs = [f"{header} {printable(cell)}" for header, cell in zip(headers[1:], row[1:], strict=True)]
            for block in in_lines(pairs, data.width - 4):
                data.print(Text("    " + block), soft_wrap=True)


def in_lines(pairs: Sequence[str], width: int) -> list[str]:
    """Return the pairs in as few lines as they fit in, none of them broken."""
    lines = [""]
    for pair in pairs:
        longer = f"{lines[-1]} · {pair}" if lines[-1] else pair
        lines = [*lines[:-1], longer] if len(longer) <= width or not lines[-1] else [*lines, pair]
    return lines


def aligned(headers: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int]) -> list[str]:
    """Return the header line and the rows as columns, two blanks between them and none at the end."""
    cells = [list(headers), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in cells
    ]


def printable(text: str) -> str:
    """Return a text from outside without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else " " for letter in text)
