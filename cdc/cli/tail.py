"""`tail`: prints events as they land."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from rich.text import Text

from cdc import app as cdc_app
from cdc.cli.looks import OK, as_positive, data, in_lines, printable, progress, show_lines, whole_seconds
from cdc.settings import load_settings
from cdc.tail import Seen, follow

RECORDS_SHOWN = 3


def _segment(text: str) -> str:
    if text != "now" and not (text.isascii() and text.isdigit() and int(text) > 0):
        raise typer.BadParameter("must be now, or a segment's number")
    return text


def tail(
    channel: Annotated[list[str] | None, typer.Option(help="Only this channel; may be given again.")] = None,
    start: Annotated[
        str, typer.Option("--from", callback=_segment, metavar="N", help="From segment N on, else from now on.")
    ] = "now",
    seconds: Annotated[float | None, typer.Option(callback=as_positive, help="How long; else until Ctrl-C.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print each landed line as it is, byte for byte.")] = False,
) -> None:
    """Print events as they land.

    One line an event: when it landed (UTC), channel, segment, replay id, change, entity, records, lag. It is read from
    storage alone, within two seconds of its landing, across dates and generations; nothing is written, and a reader's
    role will do. Each channel costs a GET a second, and where its log's last folder is of an earlier date a listing
    beside it: with usual prices below half a dollar for a day and channel.

    \b
    Examples:
      python -m cdc tail
      python -m cdc tail --channel /data/AccountChangeEvent --from 1
      python -m cdc tail --seconds 60 --json | jq .data.payload

    \b
    Exit code:
      0  the time was up, or Ctrl-C
      1  storage, or the log of a channel, could not be read
      2  bad settings or usage
    """
    settings = load_settings()
    channels = cdc_app.channels_of(settings, channel or ())
    width = max(map(len, channels))
    try:
        with cdc_app.following(settings, channels, None if start == "now" else int(start)) as followers:
            for each in followers:
                show_lines(progress, [Text(f"following {each.channel} from segment {each.number + 1} on", "dim")])
            for lines in follow(followers, seconds=seconds):
                for seen in lines:
                    if as_json:
                        sys.stdout.buffer.write(seen.line + b"\n")
                    else:
                        show_lines(data, _looks(seen, width))
                sys.stdout.flush()
    except KeyboardInterrupt:
        pass
    raise typer.Exit(OK)


def _looks(seen: Seen, width: int) -> list[Text]:
    """Return an event as one line, or where a terminal is too narrow as several, the first one of which stands out."""
    records = ",".join(seen.records[:RECORDS_SHOWN])
    if len(seen.records) > RECORDS_SHOWN:
        records += f" +{len(seen.records) - RECORDS_SHOWN}"
    cells = [
        (f"{seen.landed:%Y-%m-%d %H:%M:%S}", "dim"),
        (seen.channel.ljust(width), "bold"),
        (str(seen.segment), ""),
        (seen.replay_id or "-", ""),
        (seen.change or "-", ""),
        (seen.entity or "-", ""),
        (records or "-", ""),
        (whole_seconds(seen.lag), ""),
    ]
    texts = [Text(printable(text), style) for text, style in cells]
    if data.is_terminal:
        first, *rest = in_lines(texts, data.width - 4, "  ")
        return [first, *(Text.assemble("    ", line) for line in rest)]
    return [Text("  ").join(texts)]
