"""Reads Bicep as far as this project uses it: what a deployment with given parameters would create.

It knows no types and no Azure: `BICEP_CHECK` (see test_bicep.py) or the Bicep compiler are for that.
"""

from __future__ import annotations

import posixpath
import re
from collections import ChainMap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from operator import add, eq, gt, ne
from pathlib import Path
from typing import Any

import tree_sitter_bicep
from tree_sitter import Language, Node, Parser

_PARSER = Parser(Language(tree_sitter_bicep.language()))


class Unknown(str):
    """A value that only the deployment itself knows, as the expression that gives it."""

    __slots__ = ()


@dataclass(frozen=True)
class Resource:
    """One resource declaration: its type, whether it is made (None: that depends), and its body or bodies."""

    type: str
    is_existing: bool
    condition: Any
    body: Any


@dataclass(frozen=True)
class Parameter:
    """A parameter with its decorators, each evaluated: `allowed`, `minValue`, `secure`, …"""

    type: str
    has_default: bool
    decorators: dict[str, Any]


@dataclass
class Rendered:
    """One file with its parameters filled in."""

    path: str
    values: dict[str, Any] = field(default_factory=dict)
    resources: dict[str, Resource] = field(default_factory=dict)
    modules: dict[str, Rendered] = field(default_factory=dict)

    def everywhere(self, kind: str) -> dict[str, Resource]:
        """Return the resources of one type in this file and all that it calls: `module.symbol` -> resource."""
        found = {name: each for name, each in self.resources.items() if each.type.partition("@")[0] == kind}
        for module, rendered in self.modules.items():
            found |= {f"{module}.{name}": each for name, each in rendered.everywhere(kind).items()}
        return {name: each for name, each in found.items() if not each.is_existing}


def texts_of(root: Path) -> dict[str, str]:
    """Return the text of every file below infra/ that a deployment reads, by its path from `root`."""
    paths = sorted(path for path in root.glob("infra/**/*.*") if path.suffix in (".bicep", ".json", ".kql"))
    return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in paths}


@cache
def parsed(text: str) -> Node:
    """Return the syntax tree of a Bicep text."""
    return _PARSER.parse(text.encode()).root_node


def text_of(node: Node) -> str:
    """Return the source text of a node."""
    return (node.text or b"").decode()


def syntax_errors(text: str) -> list[str]:
    """Return what is no Bicep."""

    def walk(node: Node) -> Iterator[str]:
        if node.type == "ERROR" or node.is_missing:
            yield f"line {node.start_point[0] + 1}: {text_of(node)[:60]!r}"
            return
        for child in node.children:
            yield from walk(child)

    return list(walk(parsed(text)))


def parameters_of(text: str) -> dict[str, Parameter]:
    """Return the parameters of a file."""
    found: dict[str, Parameter] = {}
    decorators: dict[str, Any] = {}
    for node in parsed(text).named_children:
        if node.type == "decorators":
            decorators = dict(map(_decorator, node.named_children))
        elif node.type != "comment":
            if node.type == "parameter_declaration":
                name, kind, *default = node.named_children
                found[text_of(name)] = Parameter(text_of(kind), bool(default), decorators)
            decorators = {}
    return found


def _decorator(node: Node) -> tuple[str, Any]:
    call = node.named_children[0]
    arguments = [child for child in call.named_children if child.type == "arguments"]
    values = [_value(argument, {}) for each in arguments for argument in each.named_children]
    return text_of(call.named_children[0]), values[0] if values else True


def identifiers_in(text: str) -> set[str]:
    """Return every name that is used, declarations left out."""
    used: set[str] = set()

    def walk(node: Node) -> None:
        children = node.named_children
        if node.type in ("parameter_declaration", "variable_declaration", "module_declaration", "resource_declaration",
                         "output_declaration"):  # fmt: skip
            children = children[1:]
        elif node.type == "object_property":
            children = [child for child in children if child.type != "identifier" or child != node.named_children[0]]
        elif node.type == "identifier":
            used.add(text_of(node))
        for child in children:
            walk(child)

    walk(parsed(text))
    return used


def render(files: Mapping[str, str], path: str, given: Mapping[str, Any]) -> Rendered:
    """Return what `path` creates with these parameters; `files` has the text of every file by its path."""
    rendered = Rendered(path, dict(given))

    def beside(name: str) -> str:
        return posixpath.normpath(posixpath.join(posixpath.dirname(path), name))

    names = ChainMap(rendered.values, {"loadTextContent": lambda name: files[beside(name)]})
    for node in parsed(files[path]).named_children:
        if node.type == "parameter_declaration":
            name, _, *default = node.named_children
            value = _value(default[0], names) if default else Unknown(text_of(name))
            rendered.values.setdefault(text_of(name), value)
        elif node.type == "variable_declaration":
            name, expression = node.named_children[:2]
            rendered.values[text_of(name)] = _value(expression, names)
    for node in parsed(files[path]).named_children:
        if node.type == "resource_declaration":
            _add_resource(rendered, node, names, "")
        elif node.type == "module_declaration":
            name, source = node.named_children[:2]
            _, body = _condition_and_body(node, names)
            rendered.modules[text_of(name)] = render(files, beside(_value(source, {})), body.get("params", {}))
    return rendered


def _add_resource(rendered: Rendered, node: Node, names: Mapping[str, Any], parent: str) -> None:
    name, kind = text_of(node.named_children[0]), _value(node.named_children[1], {})
    if parent:
        of_parent, _, version = parent.partition("@")
        kind = f"{of_parent}/{kind.partition('@')[0]}@{kind.partition('@')[2] or version}"
    is_existing = any(text_of(child) == "existing" for child in node.children)
    condition, body = _condition_and_body(node, names)
    rendered.resources[name] = Resource(kind, is_existing, condition, body)
    for child in node.named_children:
        for inner in child.named_children if child.type == "object" else ():
            for nested in inner.named_children:
                if nested.type == "resource_declaration":
                    _add_resource(rendered, nested, names, kind)


def _condition_and_body(node: Node, names: Mapping[str, Any]) -> tuple[Any, Any]:
    body = node.named_children[-1]
    if body.type == "if_statement":
        return _value(body.named_children[0], names), _value(body.named_children[-1], names)
    return True, _value(body, names)


# --- expressions ------------------------------------------------------------------------------------------------------


def _value(node: Node, names: Mapping[str, Any]) -> Any:
    children = [child for child in node.named_children if child.type != "comment"]
    match node.type:
        case "string":
            return _string(node, names)
        case "number":
            return int(text_of(node))
        case "boolean":
            return text_of(node) == "true"
        case "null":
            return None
        case "array":
            return [_value(child, names) for child in children]
        case "object":
            return dict(_properties(children, names))
        case "identifier":
            return names.get(text_of(node), Unknown(text_of(node)))
        case "parenthesized_expression" | "interpolation":
            return _value(children[0], names)
        case "ternary_expression":
            condition, yes, no = children
            return _value(yes if _value(condition, names) else no, names)
        case "unary_expression":
            return not _value(children[0], names)
        case "binary_expression":
            return _compared(node, *(_value(child, names) for child in children))
        case "member_expression":
            owner = _value(children[0], names)
            return owner[text_of(children[1])] if isinstance(owner, dict) else Unknown(text_of(node))
        case "for_statement":
            return _looped(children, names)
        case "call_expression":
            return _called(node, children, names)
        case "lambda_expression":
            parameter, body = children
            return lambda item: _value(body, {**names, text_of(parameter): item})
    return Unknown(text_of(node))


def _string(node: Node, names: Mapping[str, Any]) -> str:
    parts: list[Any] = []
    for child in node.named_children:
        if child.type == "interpolation":  # the grammar gives it the white space before it
            parts += [text_of(child).partition("${")[0], _value(child, names)]
        else:
            parts.append(_unescaped(text_of(child)))
    kind = Unknown if any(isinstance(part, Unknown) for part in parts) else str
    return kind("".join(str(part) for part in parts))


def _unescaped(text: str) -> str:
    return re.sub(r"\\(.)", lambda found: {"n": "\n", "r": "\r", "t": "\t"}.get(found[1], found[1]), text)


def _properties(children: list[Node], names: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for child in children:
        if child.type == "object_property" and child.named_children[0].type != "resource_declaration":
            key, *rest = (each for each in child.named_children if each.type != "comment")
            yield (_value(key, names) if key.type == "string" else text_of(key)), _value(rest[-1], names)


def _compared(node: Node, left: Any, right: Any) -> Any:
    operator = text_of(node.children[1])
    if isinstance(left, Unknown) or isinstance(right, Unknown):
        return Unknown(text_of(node))
    return {"==": eq, "!=": ne, ">": gt, "+": add}[operator](left, right)


def _looped(children: list[Node], names: Mapping[str, Any]) -> Any:
    variable, source, body = children
    items = _value(source, names)
    if isinstance(items, Unknown):
        return items
    return [_value(body, {**names, text_of(variable): item}) for item in items]


def _called(node: Node, children: list[Node], names: Mapping[str, Any]) -> Any:
    name = text_of(children[0])
    arguments = [
        _value(each, names) for child in children if child.type == "arguments" for each in child.named_children
    ]
    if name == "empty":
        return not arguments[0]
    function = names["loadTextContent"] if name == "loadTextContent" else _FUNCTIONS.get(name)
    is_unknown = any(isinstance(argument, Unknown) for argument in arguments)
    return Unknown(text_of(node)) if function is None or is_unknown else function(*arguments)


def _split(text: str, marks: str | list[str]) -> list[str]:
    return re.split("|".join(map(re.escape, [marks] if isinstance(marks, str) else marks)), text)


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "union": lambda *objects: {key: value for each in objects for key, value in each.items()},
    "string": str,
    "subscriptionResourceId": lambda *parts: "/".join(parts),
    "length": len,
    "range": lambda start, count: list(range(start, start + count)),
    "filter": lambda items, keeps: [item for item in items if keeps(item)],
    "map": lambda items, becomes: [becomes(item) for item in items],
    "join": lambda items, mark: mark.join(items),
    "split": _split,
    "trim": str.strip,
}
