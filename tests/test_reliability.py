"""The fault matrix: every row of docs/reliability.md is whole, stands once, and names tests that exist."""

from __future__ import annotations

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parent.parent
MATRIX = ROOT / "docs/reliability.md"
COLUMNS = (
    "what happens in the world",
    "with an ordinary client",
    "what this product does",
    "outcome",
    "message and next step",
    "test",
)
OUTCOMES = {"`ok`", "`degraded`", "`failed`"}
GROUPS = {
    *("Salesforce: login", "Salesforce: handshake", "Salesforce: subscribe", "Salesforce: connect"),
    *("Salesforce: disconnect", "Salesforce: replay", "Salesforce: payload"),
    *("The network", "Blob Storage", "The host", "Bad settings"),
}
AT_LEAST = 50


def cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def tables(text: str) -> dict[str, list[list[str]]]:
    """The rows of each group's table, without its header and ruler."""
    found = {}
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        heading, _, body = part.partition("\n")
        lines = [line for line in body.splitlines() if line.startswith("|")]
        if lines:
            assert tuple(cells_of(lines[0])) == COLUMNS, f"{heading}: its columns"
            found[heading.strip()] = [cells_of(line) for line in lines[2:]]
    return found


@cache
def functions_in(path: Path) -> dict[str, ast.FunctionDef]:
    """The test functions of a file; none where there is no such file."""
    if not path.is_file():
        return {}
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}


def flaw_of_test(name: str) -> str:
    """What is wrong with a named test, "" where nothing is."""
    found = re.fullmatch(r"(tests/[\w/]+\.py)::(test_\w+)(\[.+\])?", name)
    if not found:
        return f"{name!r} is no path::name of a test"
    path, function, number = found.groups()
    node = functions_in(ROOT / path).get(function)
    if node is None:
        return f"{path} has no {function}"
    decorators = [ast.unparse(decorator) for decorator in node.decorator_list]
    if number and not any(text.startswith("pytest.mark.parametrize(") for text in decorators):
        return f"{name}: the test has no parameters"
    if any(text in ("pytest.mark.skip", "pytest.mark.xfail") or text.startswith(("pytest.mark.skip(",
           "pytest.mark.xfail(")) for text in decorators):  # fmt: skip
        return f"{name}: the test does not run"
    return ""


def flaws(text: str) -> list[str]:
    """Everything that is wrong with a fault matrix."""
    found = []
    by_group = tables(text)
    for group, rows in by_group.items():
        for row in rows:
            if len(row) != len(COLUMNS):
                found.append(f"{group}: {row[0] if row else ''!r} has {len(row)} cells")
                continue
            fault, ordinary, here, outcome, message, tests = row
            for column, cell in zip(COLUMNS, row, strict=True):
                if not cell:
                    found.append(f"{group}: {fault!r} says nothing under {column!r}")
            if outcome not in OUTCOMES:
                found.append(f"{group}: {fault!r} has the outcome {outcome!r}")
            if outcome in ("`degraded`", "`failed`") and "→" not in message:
                found.append(f"{group}: {fault!r} has no next step")
            if ordinary == here:
                found.append(f"{group}: {fault!r} is no different here")
            for name in re.findall(r"`([^`]*)`", tests) or [tests]:
                if flaw := flaw_of_test(name):
                    found.append(f"{group}: {fault!r}: {flaw}")
    names = Counter(row[0].casefold() for rows in by_group.values() for row in rows if row)
    found += [f"{name!r} stands {count} times" for name, count in names.items() if count > 1]
    if sum(names.values()) < AT_LEAST:
        found.append(f"{sum(names.values())} rows, fewer than {AT_LEAST}")
    return found


def test_every_row_is_whole_and_its_tests_exist() -> None:
    assert flaws(MATRIX.read_text(encoding="utf-8")) == []


def test_every_part_of_the_world_has_its_table() -> None:
    assert {group for group, rows in tables(MATRIX.read_text(encoding="utf-8")).items() if rows} == GROUPS


HERE = "tests/test_reliability.py::test_every_row_is_whole_and_its_tests_exist"
GOOD = ["the line is cut", "events are lost", "asks again", "`ok`", "none", f"`{HERE}`"]
PLANTED: dict[str, tuple[int, str, str]] = {
    "a test that is not there": (5, f"`{HERE}_x`", "has no test_every_row_is_whole_and_its_tests_exist_x"),
    "a file that is not there": (5, "`tests/test_nowhere.py::test_x`", "tests/test_nowhere.py has no test_x"),
    "one good test and one bad": (5, f"`{HERE}`, `tests/harness.py::test_x`", "tests/harness.py has no test_x"),
    "a helper for a test": (5, "`tests/test_reliability.py::flaws`", "no path::name"),
    "a test without its file": (5, "`test_x`", "no path::name"),
    "words for a test": (5, "seen by hand", "no path::name"),
    "parameters where there are none": (5, f"`{HERE}[1]`", "has no parameters"),
    "no test": (5, "", "says nothing under 'test'"),
    "another outcome": (3, "`fine`", "has the outcome '`fine`'"),
    "an outcome in bare words": (3, "ok", "has the outcome 'ok'"),
    "no outcome": (3, "", "says nothing under 'outcome'"),
    "a failure without a next step": (3, "`failed`", "has no next step"),
    "nothing done": (2, "", "says nothing under 'what this product does'"),
    "the same as elsewhere": (2, "events are lost", "is no different here"),
    "a fault that stands already": (0, "Fault 7", "'fault 7' stands 2 times"),
}


def matrix(*rows: list[str], count: int = AT_LEAST) -> str:
    """A matrix of good rows, and these."""
    good = [[f"fault {number}", *GOOD[1:]] for number in range(count - len(rows))]
    lines = [COLUMNS, ["---"] * len(COLUMNS), *good, *rows]
    return "# x\n\n## A group\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def test_a_good_matrix_has_no_flaw() -> None:
    assert flaws(matrix(GOOD)) == []


@pytest.mark.parametrize("planted", PLANTED)
def test_a_planted_bad_row_is_found(planted: str) -> None:
    column, cell, said = PLANTED[planted]
    row = [cell if number == column else good for number, good in enumerate(GOOD)]
    found = flaws(matrix(row))
    assert found
    assert any(said in flaw for flaw in found), found


def test_too_few_rows_and_rows_of_other_lengths_are_found() -> None:
    assert flaws(matrix(GOOD, count=AT_LEAST - 1)) == [f"{AT_LEAST - 1} rows, fewer than {AT_LEAST}"]
    [flaw] = flaws(matrix(GOOD[:-1]))
    assert "has 5 cells" in flaw


def test_other_columns_are_found() -> None:
    with pytest.raises(AssertionError, match="its columns"):
        flaws(matrix(GOOD).replace("outcome", "result"))
