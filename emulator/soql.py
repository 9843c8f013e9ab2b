"""Enough SOQL for simple queries over rows that are plain dictionaries; pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any

Row = dict[str, Any]

_QUERY = re.compile(
    r"^\s*SELECT\s+(?P<fields>.+?)\s+FROM\s+(?P<source>\w+)(?:\s+WHERE\s+(?P<where>.+?))?"
    r"(?:\s+ORDER\s+BY\s+(?P<order>.+?))?(?:\s+LIMIT\s+(?P<limit>\d+))?\s*$",
    re.IGNORECASE | re.DOTALL,
)
_CONDITION = re.compile(
    r"^\s*(?P<field>\w+)\s*(?P<op>=|!=|<>|<=|>=|<|>|\bIN\b|\bLIKE\b)\s*(?P<value>.+?)\s*$", re.I | re.S
)
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'")
_DATETIME = re.compile(r"^\d{4}-\d\d-\d\dT[\d:.]+(Z|[+-]\d\d:?\d\d)$")
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "=": lambda a, b: bool(a == b),
    "!=": lambda a, b: bool(a != b),
    "<>": lambda a, b: bool(a != b),
    "<": lambda a, b: a is not None and bool(a < b),
    ">": lambda a, b: a is not None and bool(a > b),
    "<=": lambda a, b: a is not None and bool(a <= b),
    ">=": lambda a, b: a is not None and bool(a >= b),
    "IN": lambda a, b: a in b,
    "LIKE": lambda a, b: re.fullmatch(re.escape(b).replace("%", ".*"), str(a), re.I | re.S) is not None,
}


class SoqlError(Exception):
    """A query that the org refuses, with Salesforce's error code."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True)
class Query:
    """A parsed query."""

    fields: tuple[str, ...]
    source: str
    conditions: tuple[tuple[str, str, Any], ...]
    order: tuple[tuple[str, bool], ...]  # field, descending
    limit: int | None

    @property
    def counts(self) -> bool:
        """Whether it is a SELECT COUNT()."""
        return self.fields == ("COUNT()",)


def parse(text: str) -> Query:
    """The query of a SOQL text.

    Raises: SoqlError MALFORMED_QUERY.
    """
    match = _QUERY.match(text)
    if match is None:
        raise SoqlError("MALFORMED_QUERY", f"unexpected token: {text[:80]!r}")
    fields = tuple(part.strip() for part in match["fields"].split(","))
    fields = tuple(part.upper() if part.upper().startswith("COUNT") else part for part in fields)
    conditions = tuple(_condition(part) for part in _split_and(match["where"] or ""))
    order = tuple(_order(part) for part in (match["order"] or "").split(",") if part.strip())
    return Query(fields, match["source"], conditions, order, int(match["limit"]) if match["limit"] else None)


def select(query: Query, rows: Iterable[Row]) -> list[Row]:
    """The rows that a query finds, whole, in its order.

    Raises: SoqlError INVALID_FIELD.
    """
    found = [row for row in rows if all(_holds(row, condition) for condition in query.conditions)]
    for field, descending in reversed(query.order):
        found.sort(
            key=lambda row: (_value(row, field) is not None, _comparable(_value(row, field)) or ""), reverse=descending
        )
    return found[: query.limit]


def _split_and(where: str) -> list[str]:
    hidden: list[str] = []

    def hide(match: re.Match[str]) -> str:
        hidden.append(match[0])
        return f"\0{len(hidden) - 1}\0"

    parts = re.split(r"\bAND\b", _QUOTED.sub(hide, where), flags=re.IGNORECASE)
    return [re.sub(r"\0(\d+)\0", lambda m: hidden[int(m[1])], part) for part in parts if part.strip()]


def _condition(text: str) -> tuple[str, str, Any]:
    match = _CONDITION.match(text)
    if match is None:
        raise SoqlError("MALFORMED_QUERY", f"unexpected token: {text.strip()!r}")
    operator, value = match["op"].upper(), match["value"]
    if operator == "IN":
        return match["field"], operator, [_literal(part) for part in value.strip("()").split(",")]
    return match["field"], operator, _literal(value)


def _order(text: str) -> tuple[str, bool]:
    words = text.split()
    return words[0], len(words) > 1 and words[1].upper() == "DESC"


def _literal(text: str) -> Any:
    text = text.strip()
    if text.startswith("'") and text.endswith("'"):
        return re.sub(r"\\(.)", r"\1", text[1:-1])
    if text.lower() in ("true", "false", "null"):
        return {"true": True, "false": False, "null": None}[text.lower()]
    if re.fullmatch(r"-?\d+(\.\d+)?", text):
        return float(text)
    if re.fullmatch(r"\d{4}-\d\d-\d\d", text) or _DATETIME.match(text):
        return _comparable(text)
    raise SoqlError("MALFORMED_QUERY", f"unexpected token: {text!r}")


def _comparable(value: Any) -> Any:
    if isinstance(value, str) and _DATETIME.match(value):
        return datetime.fromisoformat(value.replace("Z", "+00:00"))
    return value


def _value(row: Row, field: str) -> Any:
    if field not in row:
        raise SoqlError("INVALID_FIELD", f"No such column '{field}' on entity")
    return row[field]


def _holds(row: Row, condition: tuple[str, str, Any]) -> bool:
    field, operator, wanted = condition
    try:
        return _OPERATORS[operator](_comparable(_value(row, field)), wanted)
    except TypeError as error:
        raise SoqlError("INVALID_FIELD", f"{field}: value of filter criterion has the wrong type") from error
