"""How the demo looks, in 80 columns: plain text in a pipe, a little colour on a terminal. It only prints."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from demo.reader import Segment, Verdict

WIDTH = 80
_DULL = ("LastModifiedDate", "LastModifiedById", "CreatedDate", "CreatedById")
console = Console(highlight=False, soft_wrap=True)


def say(text: str = "", style: str = "") -> None:
    """Print one line."""
    console.print(Text(text.rstrip(), style))


def title(seconds: float, channels: int) -> None:
    """What is about to happen."""
    say("Salesforce change events, landed once, in order, in Azure Blob Storage", "bold")
    say(f"Live traffic on {channels} channels of an emulated org, captured in two runs of")
    say(f"{seconds:g} s together. A connection breaks on the way, in the middle of an answer.")
    say()


def actors(org: str, storage: str, rate: float) -> None:
    """Who takes part."""
    say(f"  org       {org:<30} emulated, {rate:g} events/s")
    say(f"  storage   {storage:<30} Azurite, in memory")


def run_starts(number: int, command: str) -> None:
    """The command as it is really run."""
    say()
    say(f"Run {number}   {command}", "bold")
    if number == 1:
        say("  time  published   landed  the newest event in Blob Storage", "dim")


def progress(elapsed_s: float, published: int, landed: int, newest: bytes) -> None:
    """One second of capture."""
    line = f"{elapsed_s:4.0f} s  {published:9,}  {landed:7,}  "
    say(line + _told(newest, WIDTH - len(line)))


def _told(line: bytes, width: int) -> str:
    """An event in a few words: what happened to what, and which fields, as many as there is room for."""
    if not line:
        return "-"
    payload = json.loads(line)["data"]["payload"]
    header = payload["ChangeEventHeader"]
    told = f"{header['entityName']:<11} {header['changeType']:<8}"
    fields = [name for name in header["changedFields"] or payload if name not in ("ChangeEventHeader", *_DULL)]
    for number, name in enumerate(fields):
        longer = f"{told}{', ' if number else ' '}{name}"
        if len(longer) > width - 3:
            return f"{told}, …"
        told = longer
    return told


def cut(elapsed_s: float, events: int) -> None:
    """The connection has broken."""
    say(
        f"{elapsed_s:4.0f} s  ✂ the connection breaks: an answer with {_count(events, 'event')} is cut in half",
        "yellow",
    )


def recovery(elapsed_s: float) -> None:
    """The capture goes on."""
    say(f"{elapsed_s:4.0f} s  ↻ a new session goes on from the last landed event", "yellow")


def run_ended(number: int, report: Mapping[str, Any]) -> None:
    """What the run says of itself."""
    events = sum(channel["events"] for channel in report["channels"].values())
    style = "green" if report["outcome"] == "ok" else "red"
    parts = [f"{events:,} events landed", _count(report["sessions"], "session"), f"{report['seconds']:.1f} s"]
    console.print(Text.assemble(f"Run {number}   ended ", (report["outcome"], style), ": ", ", ".join(parts)))


def pause(seconds: float, events: int) -> None:
    """Between the runs."""
    say()
    say(f"For {seconds:g} s nobody listens. The org goes on: {_count(events, 'more event')} wait there.")
    say("The next run finds its position in the log and goes on from there.")


def verdicts(rows: Sequence[Verdict]) -> None:
    """The closing table."""
    names = ("published", "landed", "lost", "duplicated", "out of order")
    say()
    say("The org's ledger against the blobs, byte for byte:", "bold")
    say(_row("channel", *names), "dim")
    for row in rows:
        numbers = (row.published, row.landed, row.lost, row.duplicated, row.out_of_order)
        say(_row(row.channel, *(f"{number:,}" for number in numbers)), "" if row.is_good else "red")
    totals = [sum(getattr(row, name.replace(" ", "_")) for row in rows) for name in names]
    say(_row("total", *(f"{total:,}" for total in totals)), "bold")


def _row(channel: str, *cells: str) -> str:
    widths = (10, 7, 5, 11, 13)
    return f"  {channel:<29}" + "".join(f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True))


def places(segments: Mapping[str, Sequence[Segment]], records: Mapping[str, Any]) -> None:
    """Where the segments and the records lie."""
    say()
    say("Where they lie: container cdc-events, a folder per channel and day", "bold")
    for found in segments.values():
        folders: dict[str, list[Segment]] = {}
        for segment in found:
            folders.setdefault(segment.name.rpartition("/")[0], []).append(segment)
        for folder, inside in folders.items():
            first, last = (segment.name.rpartition("/")[2] for segment in (inside[0], inside[-1]))
            size = sum(len(line) + 1 for segment in inside for line in segment.lines)
            say(f"  {folder}/")
            say(f"    {first} … {last}   {size:,} bytes", "dim")
    say()
    say("and container cdc-checkpoints: where each log ends and began, the last run", "bold")
    for name in sorted(records, key=lambda name: (name.startswith("runs/"), name.startswith("generations/"))):
        say(f"  {name:<49}  {_record(name, records[name])}")


def _record(name: str, record: Mapping[str, Any]) -> str:
    if name.startswith("runs/"):
        return f"last run: {record['outcome']}"
    if name.startswith("generations/"):
        return str(record["cause"])
    return f"segment {record['segment']}, id {record['replayId']}"


def one_event(segments: Mapping[str, Sequence[Segment]]) -> None:
    """One landed line, indented for people."""
    found = [(line, segment) for each in segments.values() for segment in each for line in segment.lines]
    updates = [(line, segment) for line, segment in found if b'"changeType":"UPDATE"' in line]
    if not found:
        return
    line, segment = min(updates or found, key=lambda pair: len(pair[0]))
    say()
    say("One landed event, indented here; in the blob it is one line, as it was sent:", "bold")
    say(f"  {segment.name}, line {segment.lines.index(line) + 1}", "dim")
    for row in json.dumps(json.loads(line), indent=2, ensure_ascii=False).splitlines():
        say(f"  {row}")


def success(events: int, cut_events: int) -> None:
    """The last line."""
    say()
    say(f"OK  {events:,} published = {events:,} landed: 0 lost, 0 duplicated, 0 out of order,", "bold green")
    say(f"    across two runs and a broken answer that held {_count(cut_events, 'event')}", "green")


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"
