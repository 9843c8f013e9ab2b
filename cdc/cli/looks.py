"""How things look: marked lines, tables that fit the terminal, durations. Data on stdout, the rest on stderr."""

from __future__ import annotations

import json
import math
import sys
import textwrap
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from cdc.wording import duration

OK, FAILED, UNUSABLE, ABORTED = 0, 1, 2, 130
MARKS = {"ok": ("✓", "green"), "warning": ("!", "yellow"), "failed": ("✗", "red"), "skipped": ("-", "dim")}
COLOURS = {"ok": "green", "degraded": "yellow", "failed": "red"}

data = Console(highlight=False)
progress = Console(stderr=True, highlight=False)

Cell = str | tuple[str, str]  # a text, and its style
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else there.")]


def show_json(document: Any, *, in_one_line: bool = False) -> None:
    """The one document on stdout; where several follow each other, a line each."""
    print(json.dumps(document, indent=None if in_one_line else 2, ensure_ascii=False), flush=in_one_line)


def show_lines(console: Console, lines: Iterable[Text]) -> None:
    """Print lines that were made to fit."""
    for line in lines:
        console.print(line, soft_wrap=True)


def show_note(console: Console, mark: str, style: str, text: str, next_step: str = "") -> None:
    """Show a marked line, and below it what to do."""
    show_lines(console, note_lines(console, mark, style, text, next_step))


def note_lines(console: Console, mark: str, style: str, text: str, next_step: str = "") -> list[Text]:
    """Return a marked line, and below it what to do. A terminal gets it wrapped between words; a pipe as it is."""
    lines = []
    for lead, line in ((Text(f"{mark} ", style), text), (Text("  next step: ", "dim"), next_step)):
        width = console.width - (2 if line is text else 4) if console.is_terminal else sys.maxsize
        wrapped = textwrap.wrap(
            printable(line), width, initial_indent=" " * len(lead), break_long_words=False, break_on_hyphens=False
        )
        for number, each in enumerate(wrapped):
            first = number == 0
            lines.append(
                Text.assemble(lead if first else " " * (2 if line is text else 4), each[len(lead) :] if first else each)
            )
    return lines


def show_table(
    headers: Sequence[str], rows: Sequence[Sequence[Cell]], *, right: Sequence[int], marks: Sequence[str]
) -> None:
    """Show marked rows under headers."""
    show_lines(data, table_lines(headers, rows, right=right, marks=marks))


def table_lines(
    headers: Sequence[str], rows: Sequence[Sequence[Cell]], *, right: Sequence[int], marks: Sequence[str]
) -> list[Text]:
    """Return marked rows under headers. Where a terminal is too narrow, each row is a block: nothing is cut or broken.

    A cell is a text, or a text and its style.
    """
    header, *lines = aligned(headers, rows, right)
    is_narrow = data.is_terminal and max(map(len, (header, *lines))) + 2 > data.width
    found = [] if is_narrow else [Text.assemble("  ", (header.plain, "dim"))]
    for line, row, mark in zip(lines, rows, marks, strict=True):
        found.append(Text.assemble(MARKS[mark], " ", as_text(row[0]) if is_narrow else line))
        if is_narrow:
            pairs = [Text.assemble(name, " ", as_text(cell)) for name, cell in zip(headers[1:], row[1:], strict=True)]
            found += [Text.assemble("    ", block) for block in in_lines(pairs, data.width - 4)]
    return found


def in_lines(pairs: Sequence[Text], width: int, between: str = " · ") -> list[Text]:
    """Return the pairs in as few lines as they fit in, none of them broken."""
    lines: list[Text] = []
    for pair in pairs:
        if lines and len(lines[-1]) + len(between) + len(pair) <= width:
            lines[-1] = Text.assemble(lines[-1], between, pair)
        else:
            lines.append(pair)
    return lines


def aligned(headers: Sequence[str], rows: Sequence[Sequence[Cell]], right: Sequence[int]) -> list[Text]:
    """Return the header line and the rows as columns, two blanks between them and none at the end."""
    cells = [list(map(as_text, row)) for row in (headers, *rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = []
    for row in cells:
        line = Text()
        for column, (cell, width) in enumerate(zip(row, widths, strict=True)):
            blanks = " " * (width - len(cell))
            line = Text.assemble(line, "  " if column else "", *((blanks, cell) if column in right else (cell, blanks)))
        line.rstrip()
        lines.append(line)
    return lines


def as_text(cell: Cell) -> Text:
    """Return a cell as it is shown."""
    text, style = (cell, "") if isinstance(cell, str) else cell
    return Text(printable(text), style)


def printable(text: str) -> str:
    """Return a text from outside without what a terminal would obey."""
    return "".join(letter if letter.isprintable() else " " for letter in text)


def whole_seconds(time: timedelta | None) -> str:
    """The same of a time between two clocks of which one tells whole seconds, as storage's does."""
    is_short = time is not None and time < timedelta(seconds=1)
    return "<1 s" if is_short else duration(time.total_seconds() if time else None)


def as_positive(value: float | None) -> float | None:
    """Check an option that counts seconds. Raises: typer.BadParameter."""
    if value is not None and not 0 < value < math.inf:
        raise typer.BadParameter("must be more than 0")
    return value
