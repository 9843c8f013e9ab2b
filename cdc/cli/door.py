"""Puts the commands together, and turns whatever goes wrong into a line and an exit code."""

from __future__ import annotations

import logging
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from cdc import app as cdc_app
from cdc.cli.check import check
from cdc.cli.gaps import close_gap, list_gaps
from cdc.cli.looks import FAILED, UNUSABLE, progress, show_note
from cdc.cli.quarantine import list_kept, redrive, show_kept
from cdc.cli.rewind import rewind
from cdc.cli.run import run
from cdc.cli.status import status
from cdc.cli.tail import tail
from cdc.errors import CdcError, SettingsInvalid
from cdc.signals import LOGGER

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)  # fmt: skip


def _group(text: str, **commands: Callable[..., None]) -> typer.Typer:
    """Return a command made of others."""
    group = typer.Typer(help=text, no_args_is_help=True)
    for name, command in commands.items():
        group.command(name)(command)
    return group


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
      python -m cdc status --watch     where every channel stands
      python -m cdc tail               events as they land
      python -m cdc rewind /data/AccountChangeEvent --to earliest
      python -m cdc gaps list          what may be missing
      python -m cdc quarantine list    what could not be placed

    Exit code: 0 all is well, 1 something is wrong, 2 bad settings or usage.
    """
    cdc_app.quiet_foreign_logs()
    LOGGER.setLevel(logging.DEBUG if debug else logging.INFO)


def main() -> int:
    """Run the command that the arguments name and return the exit code; an error is a line, never a traceback."""
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    # Also for whom a script has started in the background, with SIGINT ignored: what watches ends only by it.
    signal.signal(signal.SIGINT, signal.default_int_handler)
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


for command in (run, check, status, tail, rewind):
    app.command()(command)
_GAPS = "List what may be missing, and note that it is dealt with."
_QUARANTINE = "List, show and land what could not be placed."
app.add_typer(_group(_GAPS, list=list_gaps, close=close_gap), name="gaps")
app.add_typer(_group(_QUARANTINE, list=list_kept, show=show_kept, redrive=redrive), name="quarantine")
