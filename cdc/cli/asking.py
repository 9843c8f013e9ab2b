"""Asks before something is changed."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from cdc.cli.looks import UNUSABLE, progress, show_note

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def ask(question: str, is_sure: bool) -> None:
    """Return where the operator agrees; else end with the usage's exit code, nothing changed."""
    if is_sure:
        return
    if sys.stdin is not None and sys.stdin.isatty():
        if typer.confirm(question, err=True):
            return
        show_note(progress, "-", "dim", "nothing was changed")
    else:
        show_note(progress, "✗", "red", "nothing was changed: nobody is there to be asked", "give --yes to order it")
    raise typer.Exit(UNUSABLE)
