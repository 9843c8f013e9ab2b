"""Named log events with fields: `channel.landed channel=/data/AccountChangeEvent segment=42 count=17`.

One place for how they look. It never writes a value that it was not given, and it is given no secrets.
"""

from __future__ import annotations

import logging
from typing import Protocol

LOGGER = logging.getLogger("cdc")


class Emit(Protocol):
    """Whoever wants to know what happens: the log, and the terminal's progress line."""

    def __call__(self, name: str, /, *, level: int = logging.INFO, **fields: object) -> None:
        """Take note of one named event."""


def log_event(name: str, /, *, level: int = logging.INFO, **fields: object) -> None:
    """Write one event to the log `cdc`, fields in the order given, those without a value left out."""
    if LOGGER.isEnabledFor(level):
        LOGGER.log(level, "%s", format_event(name, fields))


def format_event(name: str, fields: dict[str, object]) -> str:
    """Return the event's line; a value with spaces is quoted."""
    return " ".join([name, *(f"{key}={_spell(value)}" for key, value in fields.items() if value not in (None, ""))])


def _spell(value: object) -> str:
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    text = text.replace("\r", " ").replace("\n", " ")
    return '"' + text.replace('"', "'") + '"' if " " in text else text
