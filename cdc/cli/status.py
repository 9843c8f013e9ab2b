"""`status`: shows where every channel stands, once or again and again."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta
from itertools import zip_longest
from typing import Annotated

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from cdc import app as cdc_app
from cdc.allocation import WARNING_PERCENT, forecast_percent, used_percent
from cdc.cli.looks import (
    COLOURS,
    FAILED,
    OK,
    AsJson,
    Cell,
    as_positive,
    data,
    in_lines,
    note_lines,
    show_json,
    show_lines,
    table_lines,
    whole_seconds,
)
from cdc.overview import QUARANTINE_SEEN, ChannelState, GroupState, Overview, record_of
from cdc.settings import load_settings
from cdc.wording import duration, plural

CLOCKS_DIFFER = timedelta(minutes=1)  # a clean poll has Salesforce's time, a run ours
RUN_IS_LATE = timedelta(minutes=15)  # as for the alert: no word of a run for so long
LEFT_YELLOW, LEFT_RED = 2 / 3, 1 / 3  # of the retention window: 48 and 24 hours of 72
EARLIER_RUNS = 5
EVERY_S = 5.0


def status(
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", help="Look again and again, until Ctrl-C.")] = False,
    every: Annotated[
        float, typer.Option(callback=as_positive, metavar="SECONDS", help="With --watch: from one look to the next.")
    ] = EVERY_S,
) -> None:
    """Show where every channel stands.

    Position, age and lag of the last landed event, how long capture may pause before Salesforce drops what was not
    fetched (72 hours after the event; 24 for platform events), open gaps, silence, the runs, what is in quarantine, and
    how much of the org's delivery allocation is used. Reads storage alone, and writes nothing: a reader's role will do.

    \b
    Colours:
      green   as it must be
      yellow  worth a look: degraded, a gap, less than 2/3 of the retention
              window left, allocation above 80 %, no run for 15 minutes
      red     act: failed, silent though its records change, less than 1/3 left

    \b
    Examples:
      python -m cdc status
      python -m cdc status --watch --every 10
      python -m cdc status --json | jq '.groups[].channels | map_values(.retentionLeftHours)'

    \b
    Exit code (with --watch of the last look):
      0  everything could be read
      1  storage, or the log of a channel, could not
      2  bad settings or usage

    With --watch --json each look is a document on a line of its own.
    """
    settings = load_settings()
    if watch:
        raise typer.Exit(_watch(lambda: cdc_app.status(settings), every, as_json=as_json))
    seen = cdc_app.status(settings)
    if as_json:
        show_json(seen.to_json())
    else:
        show_lines(data, overview_lines(seen))
    raise typer.Exit(_code(seen))


def _code(seen: Overview) -> int:
    return FAILED if seen.errors else OK


def _watch(look: Callable[[], Overview], every_s: float, *, as_json: bool) -> int:
    """Look until Ctrl-C and return the exit code of the last look."""
    code = OK
    try:
        if as_json or not data.is_terminal:
            while True:
                seen = look()
                code = _code(seen)
                if as_json:
                    show_json(seen.to_json(), in_one_line=True)
                else:
                    show_lines(data, [*overview_lines(seen), Text()])
                time.sleep(every_s)
        with Live(console=data, auto_refresh=False, vertical_overflow="crop") as live:
            while True:
                seen = look()
                code = _code(seen)
                clock = Text(f"{seen.now:%Y-%m-%d %H:%M:%S} UTC, every {duration(every_s)}; Ctrl-C ends", "dim")
                live.update(Group(clock, *overview_lines(seen)), refresh=True)
                time.sleep(every_s)
    except KeyboardInterrupt:
        return code


def overview_lines(seen: Overview) -> list[Text]:
    """Return each group's runs and channels, then what needs attention."""
    lines: list[Text] = []
    for group in seen.groups:
        lines += [_last_run(group, seen.now), *_earlier_runs(group, seen.now)]
        lines += table_lines(
            ["channel", "segment", "replay id", "generation", "last event (UTC)", "age", "lag", "left", "gaps"],
            [_state_row(state, seen.now) for state in group.channels],
            right=(1, 2, 3, 5, 6, 7, 8),
            marks=[_state_mark(state, group, seen.now) for state in group.channels],
        )
    for group in seen.groups:
        run = group.last_run
        for text, step in zip_longest(run.errors, run.next_steps, fillvalue="") if run else ():
            lines += note_lines(data, "!", "yellow", f"last run of {group.name}: {text}", step)
        for state in group.channels:
            lines += _attention(state, group, seen.now)
    for warning in seen.warnings:
        lines += note_lines(data, "!", "yellow", warning)
    lines += [*_quarantine(seen), *_allocation(seen)]
    for error in seen.errors:
        lines += note_lines(data, "✗", "red", str(error), error.hint)
    return lines


def _last_run(group: GroupState, now: datetime) -> Text:
    run = group.last_run
    if run is None:
        return Text.assemble((group.name, "bold"), ": no run on record")
    late = "yellow" if now - run.finished > RUN_IS_LATE else ""
    outcome = (run.outcome, COLOURS.get(run.outcome, ""))
    if run.is_under_way:
        under_way = f": run under way for {_span(run.started, now)}, "
        so_far = (f" so far, word of it {_ago(run.finished, now)}", late)
        return Text.assemble((group.name, "bold"), under_way, outcome, so_far, f" ({run.run_id})")
    return Text.assemble(
        (group.name, "bold"), ": last run ", outcome, ", ", (_ago(run.finished, now), late), f" ({run.run_id})"
    )


def _earlier_runs(group: GroupState, now: datetime) -> list[Text]:
    """Return the runs before the last one, in as many lines as they need."""
    past = group.last_run.past[:EARLIER_RUNS] if group.last_run else ()
    runs = [Text.assemble((run.outcome, COLOURS.get(run.outcome, "")), f" {_ago(run.finished, now)}") for run in past]
    if not runs:
        return []
    width = data.width - 2 if data.is_terminal else 10_000
    runs[0] = Text.assemble("before it ", runs[0])
    return [Text.assemble("  ", line) for line in in_lines(runs, width)]


def _ago(time: datetime, now: datetime) -> str:
    return f"{_span(time, now)} ago"


def _span(time: datetime, now: datetime) -> str:
    return duration(max(0.0, (now - time).total_seconds()))


def _state_mark(state: ChannelState, group: GroupState, now: datetime) -> str:
    """`ok` where the group's last run captured the channel and nothing is left to look at."""
    run, level = group.run_of(state.channel), _left_level(state, now)
    if state.error is not None or run.silent_since or run.outcome == "failed" or level == "red":
        return "failed"
    if state.polled is None or (group.last_run and state.polled < group.last_run.started - CLOCKS_DIFFER):
        return "warning"
    return "warning" if state.gaps or state.warnings or run.outcome == "degraded" or level == "yellow" else "ok"


def _left_level(state: ChannelState, now: datetime) -> str:
    left = state.retention_left(now)
    if left is None or left > LEFT_YELLOW * state.retention:
        return "green" if left is not None else ""
    return "red" if left <= LEFT_RED * state.retention else "yellow"


def _state_row(state: ChannelState, now: datetime) -> Sequence[Cell]:
    position, left = state.position, state.retention_left(now)
    if state.error is not None:
        return [state.channel, *["?"] * 8]
    hours = f"{max(0.0, left.total_seconds()) / 3600:.1f} h" if left is not None else "-"
    gaps = str(len(state.gaps)) + (f" +{state.closed_gaps} closed" if state.closed_gaps else "")
    return [
        state.channel,
        str(position.segment or "-"),
        position.replay_id or "-",
        str(position.generation.number) if position.generation else "-",
        f"{position.last_time:%Y-%m-%d %H:%M:%S}" if position.last_time else "nothing landed yet",
        duration((now - position.last_time).total_seconds() if position.last_time else None),
        whole_seconds(state.lag),
        (hours, _left_level(state, now)),
        (gaps, "yellow" if state.gaps else ""),
    ]


def _attention(state: ChannelState, group: GroupState, now: datetime) -> Iterator[Text]:
    """Yield what an operator should know of a channel: silence, warnings, the end of the retention window, gaps."""
    silent = group.run_of(state.channel).silent_since
    if silent:
        yield from note_lines(
            data,
            "✗",
            "red",
            f"{state.channel}: silent since {silent:%Y-%m-%d %H:%M} UTC though its records change in the org",
            "let runs listen longer: raise CDC_RUN_SECONDS",
        )
    for warning in state.warnings:
        yield from note_lines(data, "!", "yellow", warning)
    level = _left_level(state, now)
    if level in ("yellow", "red"):
        hours = state.retention.total_seconds() / 3600
        yield from note_lines(
            data,
            "✗" if level == "red" else "!",
            level,
            f"{state.channel}: captured up to {state.captured_to:%Y-%m-%d %H:%M} UTC, and Salesforce keeps events for "
            f"{hours:.0f} hours",
            "see why runs fail or do not start, and capture now: python -m cdc run",
        )
    for gap in state.gaps:
        since = f"{gap.since:%Y-%m-%d %H:%M:%S}" if gap.since else "an unknown time"
        until = f"{gap.until or gap.detected:%Y-%m-%d %H:%M:%S}"
        yield from note_lines(
            data,
            "!",
            "yellow",
            f"{state.channel}: events between {since} and {until} UTC may be missing ({gap.cause}, generation "
            f"{gap.number})",
            f"reconcile the records changed in that interval; the gap record is {record_of(gap)} in the checkpoints "
            f"container; then python -m cdc gaps close {state.channel} {gap.number}",
        )


def _quarantine(seen: Overview) -> list[Text]:
    if not seen.quarantined:
        return []
    is_full = seen.quarantined >= QUARANTINE_SEEN
    many = f"{seen.quarantined:,} or more messages" if is_full else plural(seen.quarantined, "message")
    return note_lines(data, "!", "yellow", f"in quarantine: {many}", "look at them: python -m cdc quarantine list")


def _allocation(seen: Overview) -> list[Text]:
    """Return how much of the org's delivery allocation is used, and where it is heading."""
    problems = [group.last_run.allocation_problem for group in seen.groups if group.last_run]
    if not seen.allocation or not seen.allocation[0].max:
        return note_lines(data, "-", "dim", f"delivery allocation: not known ({problems[0]})") if any(problems) else []
    newest, forecast = seen.allocation[0], forecast_percent(seen.allocation)
    used, percent = newest.max - newest.remaining, used_percent(newest) or 0.0
    text = (
        f"delivery allocation: {percent:.0f} % used, {used:,} of {newest.max:,} events in 24 hours, read "
        f"{_ago(newest.read, seen.now)}"
    )
    text += f"; going towards {forecast:.0f} %" if forecast is not None else ""
    is_high = max(percent, forecast or 0.0) > WARNING_PERCENT
    step = "find out which subscriber takes most; at 100 % deliveries stop" if is_high else ""
    return note_lines(data, "!" if is_high else "✓", "yellow" if is_high else "green", text, step)
