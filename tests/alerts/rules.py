"""The alert rules as infra/ would deploy them, when each fires over rows of traces, and whom Azure tells how often."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from tests.alerts import kql
from tests.infra import bicep
from tests.infra.agreement import GIVEN

ROOT = Path(__file__).parent.parent.parent
RESOLVES_AFTER = 3  # evaluations in a row that find nothing; Azure Monitor, "Stateful alerts": 5 to 15 minutes
Dimensions = tuple[str, ...]


@dataclass(frozen=True)
class Rule:
    """One rule: its query looks at the last `window`, every `every`, and fires for each value of its dimensions."""

    name: str
    title: str
    description: str
    severity: int
    query: str
    dimensions: Dimensions
    every: timedelta
    window: timedelta
    body: dict[str, Any]

    def found(self, traces: Sequence[dict[str, Any]], now: datetime) -> list[dict[str, Any]]:
        """Return the rows that the query gives at `now`; `traces` is in the order of time."""
        first = bisect_right(traces, now - self.window, key=lambda row: row["timestamp"])
        last = bisect_right(traces, now, key=lambda row: row["timestamp"])
        return kql.evaluate(self.query, traces[first:last], now)

    def fires(self, traces: Sequence[dict[str, Any]], now: datetime) -> set[Dimensions]:
        """Return what it fires for at `now`."""
        return {tuple(row[name] for name in self.dimensions) for row in self.found(traces, now)}

    def told(
        self, traces: Sequence[dict[str, Any]], start: datetime, end: datetime
    ) -> list[tuple[datetime, str, Dimensions]]:
        """Return what Azure tells from `start` to `end`: (when, "fired" or "resolved", for what)."""
        said, healthy = [], dict[Dimensions, int]()
        for now in moments(start, end, self.every):
            firing = self.fires(traces, now)
            for each in sorted(firing):
                if each not in healthy:
                    said.append((now, "fired", each))
                healthy[each] = 0
            for each in [each for each in healthy if each not in firing]:
                healthy[each] += 1
                if healthy[each] == RESOLVES_AFTER:
                    said.append((now, "resolved", each))
                    del healthy[each]
        return said


def moments(start: datetime, end: datetime, every: timedelta) -> Iterator[datetime]:
    """Yield when a rule is evaluated."""
    while start <= end:
        yield start
        start += every


def rules(**given: Any) -> dict[str, Rule]:
    """Return the rules of a deployment with these parameters."""
    deployed = bicep.render(bicep.texts_of(ROOT), "infra/main.bicep", GIVEN | given)
    [resource] = deployed.everywhere("Microsoft.Insights/scheduledQueryRules").values()
    found = [_rule(body, str(deployed.values["environmentName"])) for body in resource.body]
    return {rule.name: rule for rule in found}


def _rule(body: dict[str, Any], environment: str) -> Rule:
    properties = body["properties"]
    [condition] = properties["criteria"]["allOf"]
    shape = {key: value for key, value in condition.items() if key not in ("query", "dimensions")}
    assert shape == {
        "timeAggregation": "Count",
        "operator": "GreaterThan",
        "threshold": 0,
        "failingPeriods": {"numberOfEvaluationPeriods": 1, "minFailingPeriodsToAlert": 1},
    }, "a rule fires where its query gives a row"
    assert all((each["operator"], each["values"]) == ("Include", ["*"]) for each in condition["dimensions"])
    return Rule(
        name=body["name"].removeprefix("alert-cdc-").removesuffix(f"-{environment}"),
        title=properties["displayName"].partition(" (")[0],
        description=properties["description"],
        severity=properties["severity"],
        query=condition["query"],
        dimensions=tuple(each["name"] for each in condition["dimensions"]),
        every=duration(properties["evaluationFrequency"]),
        window=duration(properties["windowSize"]),
        body=properties,
    )


def duration(text: str) -> timedelta:
    """Return an ISO 8601 duration of one unit."""
    match = re.fullmatch(r"P(?:([0-9]+)D|T([0-9]+)H|T([0-9]+)M)", text)
    assert match, text
    days, hours, minutes = (int(part or 0) for part in match.groups())
    return timedelta(days=days, hours=hours, minutes=minutes)


def pictures() -> dict[str, str]:
    """Return the queries of the workbook by their titles."""
    items = json.loads((ROOT / "infra/app/workbook.json").read_text(encoding="utf-8"))["items"]
    return {item["content"]["title"]: item["content"]["query"] for item in items if item["type"] == 3}


def asked_of(query: str) -> set[tuple[str, str]]:
    """Return every (event, field) that a query reads: each pipeline reads all of its fields of all of its events."""
    pipelines = [node for node in kql.parse(query).walk() if node.kind == "pipeline"]
    return {pair for pipeline in pipelines for pair in _asked_of(list(_own(pipeline)))}


def _own(pipeline: kql.Node) -> Iterator[kql.Node]:
    """The nodes of a pipeline without those of the pipelines in it."""
    for part in pipeline.parts:
        if part.kind != "pipeline":
            yield part
            yield from _own(part)


def _asked_of(nodes: list[kql.Node]) -> set[tuple[str, str]]:
    said = kql.Node("column", "Said")
    members = [node for node in nodes if node.kind == "member"]
    assert all(node.parts[0] == said for node in members)
    event = kql.Node("call", "tostring", (kql.Node("member", "event", (said,)),))
    asks = [node.parts[1:] for node in nodes if node.kind in ("in", "binary") and node.parts[0] == event]
    assert len(asks) == bool(members), "a pipeline asks for its events once"
    return {(name.word, node.word) for names in asks for name in names for node in members if node.word != "event"}
