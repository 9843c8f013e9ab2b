"""Named log events with fields: `channel.landed channel=/data/AccountChangeEvent segment=42 count=17`.

One place for how they look: a line of text in a terminal, one JSON object a line in Azure. It never writes a value that
it was not given, and it is given no secrets.
"""

from __future__ import annotations

import json
import logging
import threading
from datetime import datetime
from queue import SimpleQueue
from typing import Protocol

LOGGER = logging.getLogger("cdc")
_NOTHING: tuple[object, ...] = (None, "", {})


class Emit(Protocol):
    """Whoever wants to know what happens: the log, and the terminal's progress line."""

    def __call__(self, name: str, /, *, level: int = logging.INFO, **fields: object) -> None:
        """Take note of one named event."""


def bound(emit: Emit, /, **bindings: object) -> Emit:
    """Return an `emit` that says these fields first in every event: what all events of a run have in common."""

    def emit_bound(name: str, /, *, level: int = logging.INFO, **fields: object) -> None:
        emit(name, level=level, **(bindings | fields))

    return emit_bound


def from_one_thread(emit: Emit) -> Emit:
    """Return an `emit` that passes everything on in the thread that called this; other threads' events wait for it.

    The Functions host drops what other threads log: it takes a line only with the invocation id, which the worker keeps
    per thread (azure-functions-python-worker, issues 1358 and 1860). That thread's next event brings them along.
    """
    owner, waiting = threading.get_ident(), SimpleQueue[tuple[str, int, dict[str, object]]]()

    def emit_here(name: str, /, *, level: int = logging.INFO, **fields: object) -> None:
        waiting.put((name, level, fields))
        if threading.get_ident() == owner:
            for _ in range(waiting.qsize()):
                name, level, fields = waiting.get()
                emit(name, level=level, **fields)

    return emit_here


def log_event(name: str, /, *, level: int = logging.INFO, **fields: object) -> None:
    """Write one event to the log `cdc`, fields in the order given, those without a value left out."""
    if LOGGER.isEnabledFor(level):
        LOGGER.log(level, "%s", format_event(name, fields))


def log_json(name: str, /, *, level: int = logging.INFO, **fields: object) -> None:
    """Write one event to the log `cdc` as a JSON object, which a log query takes apart with `parse_json(message)`."""
    if LOGGER.isEnabledFor(level):
        LOGGER.log(level, "%s", event_json(name, level, fields))


def event_json(name: str, level: int, fields: dict[str, object]) -> str:
    """Return the event as a JSON object on one line: `event`, `level`, then the fields that have a value."""
    values = {key: _json_value(value) for key, value in fields.items() if value not in _NOTHING}
    return json.dumps({"event": name, "level": logging.getLevelName(level).lower(), **values}, ensure_ascii=False)


def _json_value(value: object) -> object:
    if isinstance(value, float):
        return round(value, 3)
    if isinstance(value, datetime):
        return value.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    if isinstance(value, dict):
        return {str(key): _json_value(each) for key, each in value.items()}
    return value if isinstance(value, bool | int | str) else str(value)


def format_event(name: str, fields: dict[str, object]) -> str:
    """Return the event's line; a value with spaces is quoted."""
    return " ".join([name, *(f"{key}={_spell(value)}" for key, value in fields.items() if value not in _NOTHING)])


def _spell(value: object) -> str:
    if isinstance(value, dict):
        value = ",".join(f"{key}:{each}" for key, each in value.items())
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    text = text.replace("\r", " ").replace("\n", " ")
    return '"' + text.replace('"', "'") + '"' if " " in text else text
