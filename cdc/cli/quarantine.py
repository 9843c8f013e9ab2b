"""`quarantine list`, `show` and `redrive`: what could not be placed, and landing it after all."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer

from cdc import app as cdc_app
from cdc.cli.asking import Yes, ask
from cdc.cli.looks import OK, AsJson, data, printable, progress, show_json, show_note, show_table
from cdc.errors import OrderRefused
from cdc.orders import Kept, placed
from cdc.settings import load_settings
from cdc.wording import plural

AT_MOST = 1000
ID_SHOWN = 12
BYTES_SHOWN = 2000

Id = Annotated[str, typer.Argument(metavar="ID", help="As the list shows it; its first characters are enough.")]


def list_kept(
    channel: Annotated[str | None, typer.Option(help="Only what named this channel.")] = None, as_json: AsJson = False
) -> None:
    """List the messages that could not be placed in a log.

    Reads storage alone: a reader's role will do. At most 1,000 are listed.

    \b
    Examples:
      python -m cdc quarantine list
      python -m cdc quarantine list --channel /data/AccountChangeEvent --json | jq -r '.messages[].id'

    \b
    Exit code:
      0  quarantine could be read
      1  storage could not
      2  bad settings or usage
    """
    settings = load_settings()
    with cdc_app.ordering(settings) as orders:
        found = orders.kept(channel, at_most=AT_MOST)
    if as_json:
        show_json({"messages": [each.to_json() for each in found]})
        raise typer.Exit(OK)
    waiting = sum(not each.is_done for each in found)
    data.print(f"{plural(waiting, 'message')} in quarantine, {len(found) - waiting} landed since", soft_wrap=True)
    if found:
        show_table(
            ["id", "channel", "bytes", "kept (UTC)", "landed as"],
            [
                [
                    each.message.digest[:ID_SHOWN],
                    each.message.channel or "-",
                    f"{each.size_bytes:,}",
                    f"{each.kept:%Y-%m-%d %H:%M:%S}",
                    f"segment {each.redriven.segment}" if each.redriven and each.is_done else "-",
                ]
                for each in found
            ],
            right=(2,),
            marks=["ok" if each.is_done else "warning" for each in found],
        )


def show_kept(
    message: Id,
    raw: Annotated[bool, typer.Option("--raw", help="Its bytes, and nothing else.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show a message, and whether it could be placed by now.

    Reads storage alone: a reader's role will do.

    \b
    Examples:
      python -m cdc quarantine show 3f9a
      python -m cdc quarantine show 3f9a --raw > message.json
      python -m cdc quarantine show 3f9a --json | jq .problem

    \b
    Exit code:
      0  it could be read
      1  there is no such message, or more than one
      2  bad settings or usage
    """
    settings = load_settings()
    with cdc_app.ordering(settings) as orders:
        kept, body = orders.find(message)
    if raw:
        sys.stdout.buffer.write(body)
        sys.stdout.flush()
        raise typer.Exit(OK)
    document = kept.to_json() | _verdict(kept, body, cdc_app.channels_of(settings))
    if as_json:
        show_json(document)
        raise typer.Exit(OK)
    for name, value in document.items():
        if value is not None and name not in ("placeable", "problem", "nextStep"):
            data.print(f"{name:<10}  {value}", soft_wrap=True, markup=False)
    text = body[:BYTES_SHOWN].decode(errors="backslashreplace")
    data.print(printable(text), soft_wrap=True, markup=False)
    if len(body) > BYTES_SHOWN:
        show_note(data, "-", "dim", f"{len(body) - BYTES_SHOWN:,} bytes more: see --raw")
    if document["problem"]:
        show_note(data, "✗", "red", str(document["problem"]), str(document["nextStep"]))
    elif not kept.is_done:
        show_note(data, "✓", "green", f"it can be placed by now: python -m cdc quarantine redrive {message}")


def _verdict(kept: Kept, body: bytes, channels: list[str]) -> dict[str, Any]:
    try:
        deliveries = placed(kept, body, channels)
    except OrderRefused as error:
        return {"placeable": False, "problem": str(error), "nextStep": error.hint}
    return {"placeable": True, "into": deliveries[0].channel, "problem": None, "nextStep": None}


def redrive(message: Id, yes: Yes = False, as_json: AsJson = False) -> None:
    """Land a message after all, where it can be placed by now.

    It is read with the present code. If it still cannot be placed, that is said and nothing is changed. Else it lands
    as one segment at the end of its channel's log, marked as redriven: not in its place among the events, and without
    moving the position, so that capture goes on from where it was. A message is landed once. The app may run meanwhile.

    \b
    Examples:
      python -m cdc quarantine redrive 3f9a
      python -m cdc quarantine redrive 3f9a --yes --json

    \b
    Exit code:
      0  landed
      1  it cannot be placed, or is landed already; nothing was changed
      2  bad settings or usage, or not confirmed
    """
    settings = load_settings()
    with cdc_app.ordering(settings) as orders:
        kept, body = orders.find(message)
        deliveries = placed(kept, body, cdc_app.channels_of(settings))
        channel = deliveries[0].channel
        what = f"{plural(len(deliveries), 'event')} of {channel}"
        text = f"{kept.message.digest[:ID_SHOWN]}: {what}, to be landed at the end of the log"
        show_note(progress, "!", "yellow", text)
        ask("Land it?", yes)
        segment = orders.redrive(kept, deliveries)
    if as_json:
        show_json({"id": kept.message.digest, "channel": channel, "segment": segment, "count": len(deliveries)})
    else:
        show_note(data, "✓", "green", f"{what} landed as segment {segment}")
