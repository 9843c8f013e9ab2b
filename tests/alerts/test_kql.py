"""The evaluator does what Kusto does with the words that it knows, and refuses all others."""

from __future__ import annotations

import json
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.alerts import kql
from tests.alerts.rules import pictures, rules

ROOT = Path(__file__).parent.parent.parent
NOW = datetime(2026, 11, 26, 3, 0, tzinfo=UTC)


def rows(*said: dict[str, Any] | str) -> list[dict[str, Any]]:
    """Traces a minute apart, the last one a minute old."""
    texts = [each if isinstance(each, str) else json.dumps(each) for each in said]
    return [
        {"timestamp": NOW - timedelta(minutes=len(said) - number), "message": text} for number, text in enumerate(texts)
    ]


SAID = rows({"a": 1, "b": "x"}, {"a": 3, "b": "y"}, {"a": 2, "b": "x"}, {"b": "z"}, "no JSON")
TAKEN = "traces | extend P = parse_json(message) | extend A = tolong(P.a), B = tostring(P.b)"

JOINED = f"let t = datatable(B: string) ['x', 'w'];\nt | join kind=leftouter ({TAKEN} | summarize N = count() by B)"


@pytest.mark.pure
@pytest.mark.parametrize(
    ("query", "found"),
    [
        (f"{TAKEN} | where A > 1 | project A", [{"A": 3}, {"A": 2}]),
        (f"{TAKEN} | where isnull(A) | project B", [{"B": "z"}, {"B": ""}]),
        (f"{TAKEN} | where isnotnull(A) and B != 'y' | project A", [{"A": 1}, {"A": 2}]),
        (f"{TAKEN} | where A != 1 or B == 'z' | project B", [{"B": "y"}, {"B": "x"}, {"B": "z"}]),
        (f"{TAKEN} | where B in ('y', 'z') | project B", [{"B": "y"}, {"B": "z"}]),
        (f"{TAKEN} | where message startswith '{{\"A' | project A", [{"A": 1}, {"A": 3}, {"A": 2}]),
        (f"{TAKEN} | summarize N = count(), M = max(A), S = sum(A) by B | where N > 1",
         [{"B": "x", "N": 2, "M": 2, "S": 3}]),
        (f"{TAKEN} | summarize arg_max(A, B)", [{"A": 3, "B": "y"}]),
        (f"{TAKEN} | summarize arg_max(timestamp, A) by B | where B == 'x' | project A", [{"A": 2}]),
        (f"{TAKEN} | where A > 9 | summarize N = count(), arg_max(A, B)", [{"N": 0, "A": None, "B": None}]),
        (f"{TAKEN} | where A > 9 | summarize N = count() by B", []),
        (f"{TAKEN} | summarize N = count() by bin(timestamp, 1h) | project N", [{"N": 5}]),
        (f"{TAKEN} | where isnotnull(A) | sort by A desc | extend Q = prev(A) | project A, Q",
         [{"A": 3, "Q": None}, {"A": 2, "Q": 3}, {"A": 1, "Q": 2}]),
        (f"{TAKEN} | where isnotnull(A) | sort by B asc, A desc | project A", [{"A": 2}, {"A": 1}, {"A": 3}]),
        (f"{TAKEN} | where (now() - timestamp) / 1m <= 1 | project B", [{"B": ""}]),
        (f"{TAKEN} | extend C = iff(A > 1, 'more', 'less') | where B == 'z' | project C", [{"C": "less"}]),
        (f"let b = 2;\n{TAKEN} | where A * 1.5 + 1 == b * 2 | project A", [{"A": 2}]),
        (f"{JOINED} on B | project B, N", [{"B": "x", "N": 2}, {"B": "w", "N": None}]),
        ("traces | extend N = datetime(null) | where isnull(N) | summarize N = count()", [{"N": 5}]),
        ("let t = datatable(B: string) [];\nt // nothing", []),
    ],
)  # fmt: skip
def test_a_query_gives(query: str, found: list[dict[str, Any]]) -> None:
    assert kql.evaluate(query, SAID, NOW) == found


@pytest.mark.pure
@pytest.mark.parametrize(
    "query",
    [
        "requests | where true",
        "traces | where mesage == 'x'",
        "traces | take 5",
        "traces | where message contains 'x'",
        "traces | where message =~ 'x'",
        "traces | where message == 1",
        "traces | extend A = toreal(message)",
        "traces | extend A = tostring(message, 1)",
        "traces | extend tostring(message)",
        "traces | extend A = prev(message)",
        "traces | summarize count()",
        "traces | summarize A = avg(timestamp)",
        "traces | summarize A = arg_max(timestamp, message)",
        "traces | sort by message",
        "traces | sort by text asc",
        "traces | join kind=inner (traces) on message",
        "traces | join kind=leftouter (traces) on text",
        "traces | extend A = 7 / 2",
        "traces | where message == 'x",
        "traces traces",
        "traces |",
        "",
    ],
)
def test_what_it_does_not_know_is_refused(query: str) -> None:
    with pytest.raises(kql.KqlError):
        kql.evaluate(query, SAID, NOW)


def test_microsofts_parser_takes_every_query_and_refuses_what_is_wrong() -> None:
    good = {name: rule.query for name, rule in rules().items()} | pictures()
    bad = ["traces | where mesage == 'x'", "traces | wher true", "traces | extend A = tolong()"]
    done = subprocess.run(
        ["node", "tests/alerts/kusto.cjs"],
        cwd=ROOT,
        input=json.dumps([*good.values(), *bad]),
        capture_output=True,
        text=True,
        check=True,
    )
    faults = json.loads(done.stdout)
    assert dict(zip(good, faults, strict=False)) == {name: [] for name in good}
    assert all(faults[len(good) :])
