"""Takes down all that a capture says, raises, shows or stores, and searches it for secrets in every spelling."""

from __future__ import annotations

import base64
import logging
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import quote, quote_plus


class Leak(AssertionError):
    """A secret stands in what was taken down; says where, and the words around it, but not the secret."""


def spellings(secret: str) -> set[str]:
    """A secret as it is, as in a URL or a form, in JSON, and in base64 (as in a Basic header)."""
    encoded = base64.b64encode(secret.encode()).decode()
    escaped = secret.replace("\n", "\\n")
    return {secret, quote(secret), quote(secret, safe=""), quote_plus(secret), encoded.rstrip("="), escaped}


def chain(error: BaseException) -> Iterator[str]:
    """An error as a log shows it, and each error that it was raised from or during, also where that is hidden."""
    yield "".join(traceback.format_exception(error))
    seen: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            yield f"{each!r} {each} {getattr(each, '__notes__', '')} {getattr(each, 'hint', '')}"
            waiting += [each.__cause__, each.__context__]


@dataclass
class Witness(logging.Handler):
    """Takes down texts by where they came from; as a handler also every log record."""

    heard: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))

    def __hash__(self) -> int:
        return id(self)

    def hear(self, where: str, *texts: str | bytes) -> None:
        """Take texts down."""
        said = [text if isinstance(text, str) else text.decode("utf-8", "replace") for text in texts]
        self.heard.setdefault(where, []).extend(said)

    def emit(self, record: logging.LogRecord) -> None:
        """Take a log record down, with its traceback and its arguments."""
        self.hear(f"log {record.name}", self.format(record), repr(record.args))
        if record.exc_info and record.exc_info[1]:
            self.hear(f"log {record.name}", *chain(record.exc_info[1]))

    def hear_error(self, error: BaseException) -> None:
        """Take an error down, with all that it hides."""
        self.hear(f"error {type(error).__name__}", *chain(error))

    def check(self, secrets: Iterable[str]) -> None:
        """Raises: Leak."""
        for secret in secrets:
            assert len(secret) >= 8, "too short to be searched for"
            for spelling in spellings(secret):
                for where, texts in self.heard.items():
                    for text in texts:
                        if spelling in text:
                            at = text.index(spelling)
                            raise Leak(f"{where}: …{text[max(0, at - 80) : at]}*** ({len(spelling)} characters)")


@contextmanager
def listening(witness: Witness) -> Iterator[Witness]:
    """Take down all that is logged meanwhile, from every library that does not keep quiet by itself."""
    root = logging.getLogger()
    level = root.level
    root.addHandler(witness)
    root.setLevel(logging.DEBUG)
    try:
        yield witness
    finally:
        root.removeHandler(witness)
        root.setLevel(level)
