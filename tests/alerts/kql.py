"""Evaluates the part of the Kusto Query Language that alerts and workbook use, over rows and a clock given to it.

Strict: a word, function, operator or column that it does not know is an error, never a guess. Null is None; a
comparison with null is null, and `where` keeps only what is true.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache, cmp_to_key
from typing import Any, NamedTuple

Row = Mapping[str, Any]
Value = Callable[[Row, Row | None], Any]  # of a row and, in a sorted table, the row before it

_TOKEN = re.compile(
    r"""(?P<space>\s+|//[^\n]*)
      | (?P<text>'(?:[^'\\\n]|\\.)*'|"(?:[^"\\\n]|\\.)*")
      | (?P<span>[0-9]+[dhms]\b)
      | (?P<number>[0-9]+(?:\.[0-9]+)?\b)
      | (?P<name>[A-Za-z_]\w*)
      | (?P<mark>==|!=|<=|>=|[-+*/<>=(),.|;:\[\]])""",
    re.VERBOSE,
)
_SPANS = {"d": "days", "h": "hours", "m": "minutes", "s": "seconds"}


class KqlError(Exception):
    """The query is not one that this evaluator is sure to understand."""


class Token(NamedTuple):
    """One word of a query: its kind as in _TOKEN, and its text."""

    kind: str
    text: str


@dataclass(frozen=True)
class Node:
    """One piece of a query: what it is, its word (a name, an operator, a literal's value), and its parts."""

    kind: str
    word: Any = None
    parts: tuple[Node, ...] = ()

    def walk(self) -> Iterator[Node]:
        """Yield this node and all below it."""
        yield self
        for part in self.parts:
            yield from part.walk()


@dataclass
class Table:
    """Rows and their columns; `is_sorted` is what `prev` needs."""

    columns: tuple[str, ...]
    rows: Sequence[dict[str, Any]]
    is_sorted: bool = False


def evaluate(query: str, traces: Sequence[dict[str, Any]], now: datetime) -> list[dict[str, Any]]:
    """Return the rows that the query gives over `traces` (timestamp, message) at `now`.

    Raises: KqlError.
    """
    scope = _Scope(now, {"traces": Table(("timestamp", "message"), list(traces))})
    *statements, pipeline = parse(query).parts
    for statement in statements:
        [value] = statement.parts
        if value.kind == "pipeline":
            scope.tables[statement.word] = scope.table(value)
        else:
            scope.constants[statement.word] = value
    return list(scope.table(pipeline).rows)


# --- text to nodes ----------------------------------------------------------------------------------------------------


@cache
def parse(query: str) -> Node:
    """Return the query as a tree: its `let` statements, then its pipeline.

    Raises: KqlError.
    """
    return _Parser(tokens_of(query)).query()


def tokens_of(query: str) -> list[Token]:
    """Return the words of a query, without space and comments."""
    found, place = [], 0
    while place < len(query):
        match = _TOKEN.match(query, place)
        if match is None or match.lastgroup is None:
            raise KqlError(f"no word of the language: {query[place : place + 20]!r}")
        if match.lastgroup != "space":
            found.append(Token(match.lastgroup, match[0]))
        place = match.end()
    return found


class _Parser:
    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._place = 0

    def query(self) -> Node:
        statements = []
        while self._takes("let"):
            name = self._name()
            self._expect("=")
            value = self._pipeline() if self._next.text == "datatable" else self._expression()
            self._expect(";")
            statements.append(Node("let", name, (value,)))
        statements.append(self._pipeline())
        if self._place < len(self._tokens):
            raise KqlError(f"unexpected {self._next.text!r}")
        return Node("query", None, tuple(statements))

    # what stands next

    @property
    def _next(self) -> Token:
        return self._tokens[self._place] if self._place < len(self._tokens) else Token("end", "the end")

    def _takes(self, *texts: str) -> str:
        """Step over the next word if it is one of these, and return it; else return ""."""
        if self._next.kind in ("name", "mark") and self._next.text in texts:
            self._place += 1
            return self._tokens[self._place - 1].text
        return ""

    def _expect(self, *texts: str) -> str:
        if not (text := self._takes(*texts)):
            raise KqlError(f"{' or '.join(texts)} is wanted, not {self._next.text!r}")
        return text

    def _take(self, kind: str) -> str:
        if self._next.kind != kind:
            raise KqlError(f"a {kind} is wanted, not {self._next.text!r}")
        self._place += 1
        return self._tokens[self._place - 1].text

    def _name(self) -> str:
        return self._take("name")

    def _list(self, item: Callable[[], Node]) -> tuple[Node, ...]:
        items = [item()]
        while self._takes(","):
            items.append(item())
        return tuple(items)

    # tables

    def _pipeline(self) -> Node:
        steps = [self._datatable() if self._takes("datatable") else Node("table", self._name())]
        while self._takes("|"):
            steps.append(self._step(self._name()))
        return Node("pipeline", None, tuple(steps))

    def _datatable(self) -> Node:
        self._expect("(")
        column = self._name()
        self._expect(":")
        self._expect("string")
        self._expect(")")
        self._expect("[")
        values = self._list(self._primary) if self._next.text != "]" else ()
        self._expect("]")
        return Node("datatable", column, values)

    def _step(self, word: str) -> Node:
        match word:
            case "where":
                return Node(word, None, (self._expression(),))
            case "extend" | "project":
                return Node(word, None, self._list(self._named))
            case "summarize":
                values = self._list(self._named)
                groups = self._list(self._named) if self._takes("by") else ()
                return Node(word, None, (Node("values", None, values), Node("groups", None, groups)))
            case "sort":
                self._expect("by")
                return Node(word, None, self._list(lambda: Node("by", (self._name(), self._expect("asc", "desc")))))
            case "join":
                for text in ("kind", "=", "leftouter", "("):
                    self._expect(text)
                inner = self._pipeline()
                self._expect(")")
                self._expect("on")
                return Node(word, self._name(), (inner,))
        raise KqlError(f"no operator {word!r}")

    def _named(self) -> Node:
        following = self._tokens[self._place + 1 : self._place + 2]
        name = None
        if self._next.kind == "name" and following == [Token("mark", "=")]:
            name = self._name()
            self._expect("=")
        return Node("named", name, (self._expression(),))

    # expressions, from the loosest operator to the tightest

    def _expression(self) -> Node:
        return self._chain(("or",), lambda: self._chain(("and",), self._comparison))

    def _chain(self, operators: tuple[str, ...], tighter: Callable[[], Node]) -> Node:
        node = tighter()
        while operator := self._takes(*operators):
            node = Node("binary", operator, (node, tighter()))
        return node

    def _comparison(self) -> Node:
        left = self._sum()
        if self._takes("in"):
            self._expect("(")
            values = self._list(self._primary)
            self._expect(")")
            return Node("in", None, (left, *values))
        operator = self._takes("==", "!=", "<", "<=", ">", ">=", "startswith")
        return Node("binary", operator, (left, self._sum())) if operator else left

    def _sum(self) -> Node:
        return self._chain(("+", "-"), lambda: self._chain(("*", "/"), self._primary))

    def _primary(self) -> Node:
        token = self._next
        if self._takes("("):
            node = self._expression()
            self._expect(")")
            return node
        self._place += 1
        match token.kind:
            case "text":
                return Node("literal", re.sub(r"\\(.)", r"\1", token.text[1:-1]))
            case "number":
                return Node("literal", float(token.text) if "." in token.text else int(token.text))
            case "span":
                return Node("literal", timedelta(**{_SPANS[token.text[-1]]: int(token.text[:-1])}))
            case "name":
                return self._called(token.text) if self._takes("(") else self._member(Node("column", token.text))
        raise KqlError(f"a value is wanted, not {token.text!r}")

    def _called(self, function: str) -> Node:
        if function == "datetime":
            self._expect("null")
            self._expect(")")
            return Node("literal", None)
        arguments = self._list(self._expression) if self._next.text != ")" else ()
        self._expect(")")
        return Node("call", function, arguments)

    def _member(self, node: Node) -> Node:
        while self._takes("."):
            node = Node("member", self._name(), (node,))
        return node


# --- tables -----------------------------------------------------------------------------------------------------------


@dataclass
class _Scope:
    """The tables and constants that a query can name, and the time that it takes for now."""

    now: datetime
    tables: dict[str, Table]
    constants: dict[str, Node] = field(default_factory=dict)

    def table(self, pipeline: Node) -> Table:
        source, *steps = pipeline.parts
        if source.kind == "datatable":
            rows = [{source.word: each.word} for each in source.parts]
            table = Table((source.word,), rows)
        elif source.word in self.tables:
            table = self.tables[source.word]
        else:
            raise KqlError(f"no table {source.word!r}")
        for step in steps:
            table = getattr(self, f"_{step.kind}")(table, step)
        return table

    def _where(self, table: Table, step: Node) -> Table:
        keeps = self.value(step.parts[0], table)
        kept = [row for row, before in _with_previous(table) if keeps(row, before) is True]
        return Table(table.columns, kept, table.is_sorted)

    def _extend(self, table: Table, step: Node) -> Table:
        values = {_name_of(each): self.value(each.parts[0], table) for each in step.parts}
        rows = [
            row | {name: value(row, before) for name, value in values.items()} for row, before in _with_previous(table)
        ]
        return Table((*table.columns, *(name for name in values if name not in table.columns)), rows, table.is_sorted)

    def _project(self, table: Table, step: Node) -> Table:
        extended = self._extend(table, step)
        columns = tuple(_name_of(each) for each in step.parts)
        return Table(columns, [{name: row[name] for name in columns} for row in extended.rows], table.is_sorted)

    def _sort(self, table: Table, step: Node) -> Table:
        rows = list(table.rows)
        for name, direction in (each.word for each in reversed(step.parts)):
            if name not in table.columns:
                raise KqlError(f"no column {name!r}")
            compare = cmp_to_key(_order)
            rows.sort(key=lambda row, name=name: compare(row[name]), reverse=direction == "desc")  # type: ignore[misc]
        return Table(table.columns, rows, is_sorted=True)

    def _join(self, table: Table, step: Node) -> Table:
        other, key = self.table(step.parts[0]), step.word
        if key not in table.columns or key not in other.columns:
            raise KqlError(f"no column {key!r} on both sides")
        added = {name: f"{name}1" if name in table.columns else name for name in other.columns}
        rows = []
        for row in table.rows:
            matches = [each for each in other.rows if each[key] == row[key]] or [dict.fromkeys(other.columns)]
            rows += [row | {added[name]: match[name] for name in other.columns} for match in matches]
        return Table((*table.columns, *added.values()), rows)

    def _summarize(self, table: Table, step: Node) -> Table:
        values, groups = (each.parts for each in step.parts)
        keys = {_name_of(each): self.value(each.parts[0], table) for each in groups}
        members: dict[tuple[Any, ...], list[dict[str, Any]]] = {} if keys else {(): []}
        for row in table.rows:
            members.setdefault(tuple(value(row, None) for value in keys.values()), []).append(row)
        aggregates = [self._aggregate(each, table) for each in values]
        rows = []
        for key, rows_of_key in members.items():
            row = dict(zip(keys, key, strict=True))
            for aggregate in aggregates:
                row |= aggregate(rows_of_key)
            rows.append(row)
        columns = (*keys, *(name for each in values for name in _aggregate_names(each)))
        return Table(columns, rows)

    def _aggregate(self, named: Node, table: Table) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        names, call = _aggregate_names(named), named.parts[0]
        arguments = [self.value(each, table) for each in call.parts]
        if call.word == "count":
            return lambda rows: {names[0]: len(rows)}

        def arg_max(rows: list[dict[str, Any]]) -> dict[str, Any]:
            known = [row for row in rows if arguments[0](row, None) is not None]
            last = max(known, key=lambda row: arguments[0](row, None), default=None)
            return {name: value(last, None) if last else None for name, value in zip(names, arguments, strict=True)}

        if call.word == "arg_max":
            return arg_max
        reductions: dict[str, Callable[[list[Any]], Any]] = {"max": max, "min": min, "sum": sum}
        reduce = reductions[call.word]

        def reduced(rows: list[dict[str, Any]]) -> dict[str, Any]:
            known = [value for row in rows if (value := arguments[0](row, None)) is not None]
            return {names[0]: reduce(known) if known else None}

        return reduced

    # --- values ------------------------------------------------------------------------------------------------------

    def value(self, node: Node, table: Table) -> Value:
        """Return what computes an expression for a row of the table."""
        match node.kind:
            case "literal":
                return lambda row, before: node.word
            case "column" if node.word in table.columns:
                return lambda row, before: row[node.word]
            case "column" if node.word in self.constants:
                return self.value(self.constants[node.word], table)
            case "column":
                raise KqlError(f"no column {node.word!r}")
            case "member":
                owner = self.value(node.parts[0], table)
                return lambda row, before: _member_of(owner(row, before), node.word)
            case "in":
                left, *values = (self.value(each, table) for each in node.parts)
                return lambda row, before: left(row, before) in [value(row, before) for value in values]
            case "binary":
                operate = _OPERATORS[node.word]
                one, other = (self.value(each, table) for each in node.parts)
                return lambda row, before: operate(one(row, before), other(row, before))
        return self._call(node, table)

    def _call(self, node: Node, table: Table) -> Value:
        if node.word == "now" and not node.parts:
            return lambda row, before: self.now
        arguments = [self.value(each, table) for each in node.parts]
        if node.word == "prev" and len(arguments) == 1:
            if not table.is_sorted:
                raise KqlError("prev in a table that is not sorted")
            return lambda row, before: None if before is None else arguments[0](before, None)
        if node.word not in _FUNCTIONS or len(arguments) != _FUNCTIONS[node.word][0]:
            raise KqlError(f"no function {node.word!r} of {len(arguments)} arguments")
        call = _FUNCTIONS[node.word][1]
        if len(arguments) == 1:
            [only] = arguments
            return lambda row, before: call(only(row, before))
        return lambda row, before: call(*(argument(row, before) for argument in arguments))


def _with_previous(table: Table) -> Iterator[tuple[dict[str, Any], dict[str, Any] | None]]:
    return zip(table.rows, [None, *table.rows[:-1]], strict=True) if table.rows else iter(())


def _name_of(named: Node) -> str:
    value = named.parts[0]
    if named.word is not None:
        return str(named.word)
    if value.kind == "column":
        return str(value.word)
    if value.kind == "call" and value.word == "bin" and value.parts[0].kind == "column":
        return str(value.parts[0].word)
    raise KqlError(f"a value without a name: {value.word!r}")


def _aggregate_names(named: Node) -> list[str]:
    """The columns that an aggregate adds: its name, or for arg_max those of its arguments."""
    call = named.parts[0]
    shape = (call.word, len(call.parts)) if call.kind == "call" else None
    if shape in (("count", 0), ("max", 1), ("min", 1), ("sum", 1)) and named.word is not None:
        return [named.word]
    if shape and shape[0] == "arg_max" and shape[1] > 1 and named.word is None:
        return [_name_of(Node("named", None, (each,))) for each in call.parts]
    raise KqlError(f"no aggregate {call.word!r}, or one without a name")


# --- operators and functions ------------------------------------------------------------------------------------------


def _order(one: Any, other: Any) -> int:
    _same_kind(one, other)
    return int(one > other) - int(one < other)


def _same_kind(one: Any, other: Any) -> None:
    kinds: list[Any] = [str, datetime, timedelta, bool, (int, float)]
    if any(isinstance(one, kind) and isinstance(other, kind) for kind in kinds):
        return
    raise KqlError(f"{one!r} and {other!r} cannot be compared")


def _comparing(test: Callable[[int], bool]) -> Callable[[Any, Any], bool | None]:
    return lambda one, other: None if one is None or other is None else test(_order(one, other))


def _and(one: bool | None, other: bool | None) -> bool | None:
    return False if one is False or other is False else None if one is None or other is None else True


def _or(one: bool | None, other: bool | None) -> bool | None:
    return True if one is True or other is True else None if one is None or other is None else False


def _divided(one: Any, other: Any) -> Any:
    if one is None or other is None:
        return None
    if isinstance(one, int) and isinstance(other, int):
        raise KqlError("a division of whole numbers, which Kusto rounds")
    return one / other


def _numeric(operate: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda one, other: None if one is None or other is None else operate(one, other)


def _starts_with(text: str, start: str) -> bool:
    return text[: len(start)].lower() == start.lower()


_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "==": _comparing(lambda order: order == 0),
    "!=": _comparing(lambda order: order != 0),
    "<": _comparing(lambda order: order < 0),
    "<=": _comparing(lambda order: order <= 0),
    ">": _comparing(lambda order: order > 0),
    ">=": _comparing(lambda order: order >= 0),
    "+": _numeric(lambda one, other: one + other),
    "-": _numeric(lambda one, other: one - other),
    "*": _numeric(lambda one, other: one * other),
    "/": _divided,
    "and": _and,
    "or": _or,
    "startswith": _starts_with,
}


def _member_of(owner: Any, name: str) -> Any:
    return owner.get(name) if isinstance(owner, dict) else None


@cache
def _parse_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text  # as Kusto does


def _to_string(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    return json.dumps(value, separators=(",", ":"))


def _to_double(value: Any) -> float | None:
    try:
        return None if value is None else float(value)
    except ValueError:
        return None


def _to_long(value: Any) -> int | None:
    is_number = not isinstance(value, str) or re.fullmatch(r"-?[0-9]+", value)
    return int(value) if value is not None and is_number else None


def _bin(value: datetime, width: timedelta) -> datetime:
    start = datetime(1, 1, 1, tzinfo=UTC)
    return start + (value - start) // width * width


_FUNCTIONS: dict[str, tuple[int, Callable[..., Any]]] = {
    "parse_json": (1, _parse_json),
    "tostring": (1, _to_string),
    "todouble": (1, _to_double),
    "tolong": (1, _to_long),
    "isnull": (1, lambda value: value is None),
    "isnotnull": (1, lambda value: value is not None),
    "isempty": (1, lambda value: value in (None, "")),
    "iff": (3, lambda condition, yes, no: yes if condition is True else no),
    "bin": (2, _bin),
}
