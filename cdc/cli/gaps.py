"""`gaps list` and `gaps close`: shows what may be missing, and notes that it is dealt with."""

from __future__ import annotations

from typing import Annotated

import typer

from cdc import app as cdc_app
from cdc.cli.asking import Yes, ask
from cdc.cli.looks import OK, AsJson, data, progress, show_json, show_note, show_table
from cdc.orders import KnownGap
from cdc.settings import load_settings
from cdc.wording import plural


def list_gaps(
    every: Annotated[bool, typer.Option("--all", help="The closed ones too.")] = False, as_json: AsJson = False
) -> None:
    """List what may be missing.

    A gap says that events between two times may be missing, not that they are: reconcile the records that changed in
    the interval, then close it. Reads storage alone: a reader's role will do.

    \b
    Examples:
      python -m cdc gaps list
      python -m cdc gaps list --all --json | jq '.gaps[] | select(.closed == null)'

    \b
    Exit code:
      0  all gap records could be read
      1  one, or storage, could not
      2  bad settings or usage
    """
    settings = load_settings()
    with cdc_app.ordering(settings) as orders:
        known = [each for channel in cdc_app.channels_of(settings) for each in orders.gaps(channel)]
    found = [each for each in known if every or each.closing is None]
    if as_json:
        show_json({"gaps": [each.to_json() for each in found]})
        raise typer.Exit(OK)
    still_open = sum(each.closing is None for each in known)
    data.print(f"{plural(still_open, 'open gap')}, {len(known) - still_open} closed", soft_wrap=True)
    if found:
        headers = ["channel", "number", "cause", "since (UTC)", "until (UTC)", "goes on at"]
        show_table(
            [*headers, *(["closed (UTC)", "note"] if every else [])],
            [[*_row(each), *(_closed(each) if every else [])] for each in found],
            right=(1,),
            marks=["ok" if each.closing else "warning" for each in found],
        )


def _row(known: KnownGap) -> list[str]:
    gap = known.gap
    start = {"-1": "tip", "-2": "earliest"}.get(gap.start, gap.start)
    return [gap.channel, str(gap.number), gap.cause, *known.interval, start]


def _closed(known: KnownGap) -> list[str]:
    closing = known.closing
    return [f"{closing.closed:%Y-%m-%d %H:%M}", closing.note or "-"] if closing else ["-", "-"]


def close_gap(
    channel: Annotated[str, typer.Argument(metavar="CHANNEL", help="Like /data/AccountChangeEvent.")],
    number: Annotated[int, typer.Argument(metavar="NUMBER", min=1, help="As the list shows it.")],
    note: Annotated[str, typer.Option(max=2000, help="What was done about it.")] = "",
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Note that a gap is dealt with.

    The gap record stays; beside it a closing says when and why it counts no longer. A gap is closed once, and for good.

    \b
    Examples:
      python -m cdc gaps close /data/AccountChangeEvent 2 --note 'reconciled by INC-1234'
      python -m cdc gaps close /data/AccountChangeEvent 2 --yes --json

    \b
    Exit code:
      0  closed
      1  there is no such gap, it is closed already, or storage refuses; nothing was changed
      2  bad settings or usage, or not confirmed
    """
    settings = load_settings()
    [channel] = cdc_app.channels_of(settings, [channel])
    with cdc_app.ordering(settings) as orders:
        known = orders.find_gap(channel, number)
        since, until = known.interval
        text = f"events between {since} and {until} UTC may be missing ({known.gap.cause})"
        show_note(progress, "!", "yellow", f"gap {number} of {channel}: {text}")
        if known.closing is None:
            ask("Close it for good?", yes)
        closed = orders.close_gap(known, note)
    if as_json:
        show_json(closed.to_json())
    else:
        show_note(data, "✓", "green", f"gap {number} of {channel} is closed")
