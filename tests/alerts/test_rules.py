"""Rules, queries, pages and app agree: each alert has its section and its query, each query asks what is described."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cdc.settings import SETTINGS, timer_groups
from tests.alerts import kql
from tests.alerts.rules import asked_of, duration, pictures, rules
from tests.infra import bicep
from tests.infra.agreement import GIVEN
from tests.test_docs import code_names, rows, section

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parent.parent.parent
OPERATIONS = (ROOT / "docs/operations.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
NOW = datetime(2026, 11, 26, 3, 0, tzinfo=UTC)
RULES = rules(channels="/data/AccountChangeEvent,/data/ContactChangeEvent")
OTHER_SECTIONS = {"Within a minute", "How do I"}
# What Azure Monitor accepts for frequency and window of a log search rule.
FREQUENCIES = {"PT5M", "PT10M", "PT15M", "PT30M", "PT1H"}
WINDOWS = {"PT15M", "PT30M", "PT45M", "PT60M", "PT120M", "PT180M", "PT360M", "PT1H", "PT2H", "PT6H", "P1D", "P2D"}


def slug(heading: str) -> str:
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def deployed(**given: Any) -> bicep.Rendered:
    return bicep.render(bicep.texts_of(ROOT), "infra/main.bicep", GIVEN | given)


# --- the page ---------------------------------------------------------------------------------------------------------


def test_every_alert_has_its_section_and_every_section_its_alert() -> None:
    headings = re.findall(r"^## (.+)$", OPERATIONS, re.MULTILINE)
    assert set(headings) - OTHER_SECTIONS == {rule.title for rule in RULES.values()}
    assert len(headings) == len(set(headings))


@pytest.mark.parametrize("name", RULES)
def test_a_section_says_what_it_means_what_to_do_and_when_it_ends_and_has_the_very_query(name: str) -> None:
    rule = RULES[name]
    text = section(OPERATIONS, f"## {rule.title}")
    assert re.findall(r"^```kusto\n(.*?)^```$", text, re.MULTILINE | re.DOTALL) == [rule.query.strip() + "\n"]
    assert re.search(r"^1\. ", text, re.MULTILINE), "what to do first"
    assert re.search(r"^\*\*Closes\*\* ", text, re.MULTILINE)
    assert "At risk" in text
    assert name == slug(rule.title), "the alert's link leads to its section"
    assert rule.description.endswith(f" docs/operations.md#{name}")
    assert "First: " in rule.description


def test_the_table_of_alerts_is_what_is_deployed() -> None:
    def spelled(time: timedelta) -> str:
        minutes = time // timedelta(minutes=1)
        if minutes < 60:
            return f"{minutes} min"
        return f"{minutes // 60} h" if minutes <= 24 * 60 else f"{minutes // 1440} days"

    table = rows(section(OPERATIONS, "### How alerts come and go"))
    assert table == [
        [
            f"[{rule.title}](#{name})",
            str(rule.severity),
            spelled(rule.every),
            spelled(rule.window),
            {"Group": "channel group", "Channel": "channel", "Channel, Generation": "channel, generation", "": "org"}[
                ", ".join(rule.dimensions)
            ],
        ]
        for name, rule in RULES.items()
    ]


# --- the events -------------------------------------------------------------------------------------------------------


def described(text: str) -> set[tuple[str, str]]:
    """Every (event, field) in the table of log events; all of a run's events have `run_id` and `group`."""
    cells = {row[0].strip("`"): row[2] for row in rows(section(text, "## What a run says"))}
    found = set()
    for event, fields in cells.items():
        same_as = re.fullmatch(r"as `([a-z.]+)`", fields)
        names = code_names(cells[same_as[1]] if same_as else fields)
        found |= {(event, name) for name in names | {"run_id", "group"}}
    return found


QUERIES = {name: rule.query for name, rule in RULES.items()} | pictures()


@pytest.mark.parametrize("name", QUERIES)
def test_every_event_and_field_that_a_query_asks_for_is_described(name: str) -> None:
    asked = asked_of(QUERIES[name])
    assert asked
    assert asked <= described(ARCHITECTURE)


def test_a_field_that_is_not_described_is_noticed() -> None:
    for old, new in [("`lag_p50_s`", "`lag_s`"), ("| `gap.opened` |", "| `gap.open` |"), ("`used_percent` ", "")]:
        changed = described(ARCHITECTURE.replace(old, new))
        assert any(not asked_of(query) <= changed for query in QUERIES.values()), old


def test_a_query_that_hides_what_it_asks_for_is_refused() -> None:
    query = RULES["run-failed"].query
    for old, new in [("Said.errors", "Other.errors"), ('| where tostring(Said.event) in ("run', '| where B in ("run')]:
        with pytest.raises(AssertionError):
            asked_of(query.replace(old, new))


# --- what is deployed -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "channels",
    [
        "/data/AccountChangeEvent",
        "/data/AccountChangeEvent,/data/ContactChangeEvent;/event/Order__e",
        " /data/AccountChangeEvent , /data/ContactChangeEvent ;\n/event/Order__e,; ;",
    ],
)
def test_groups_and_channels_that_are_missed_by_name_have_the_apps_names(channels: str) -> None:
    found = rules(channels=channels)
    groups = [row["Group"] for row in kql.evaluate(found["no-ok-run"].query, [], NOW)]
    assert groups == list(timer_groups({"CDC_CHANNELS": channels}))
    query = found["position-older-than-48-h"].query
    missed = [row["Channel"] for row in kql.evaluate(query, [], NOW)]
    assert missed == [part.strip() for part in re.split("[,;]", channels) if part.strip()]


def test_a_rule_is_asked_and_looks_back_as_azure_allows_and_misses_nothing_between_two_questions() -> None:
    for rule in RULES.values():
        assert rule.body["evaluationFrequency"] in FREQUENCIES, rule.name
        assert rule.body["windowSize"] in WINDOWS, rule.name
        assert 2 * rule.every <= rule.window, f"{rule.name}: what arrives late is seen by the next question"


def test_every_choice_of_minutes_is_a_window_and_the_default_fits_the_schedule() -> None:
    parameter = bicep.parameters_of((ROOT / "infra/main.bicep").read_text(encoding="utf-8"))["alertWithoutOkRunMinutes"]
    for minutes in parameter.decorators["allowed"]:
        window = rules(alertWithoutOkRunMinutes=minutes)["no-ok-run"].body["windowSize"]
        assert window in WINDOWS
        assert duration(window) == timedelta(minutes=minutes)
    every = re.fullmatch(r"0 \*/([0-9]+) \* \* \* \*", SETTINGS["CDC_SCHEDULE"].default or "")
    assert every
    assert RULES["no-ok-run"].window >= 3 * timedelta(minutes=int(every[1]))


def test_a_rule_tells_the_action_group_once_and_again_when_it_is_over() -> None:
    for rule in RULES.values():
        assert rule.body["autoMitigate"] is True
        assert "muteActionsDuration" not in rule.body, "what resolves itself cannot be muted"
        assert rule.body["enabled"] is True
        assert rule.body["actions"]["actionGroups"] == ["monitoring.outputs.actionGroupId"]
        assert rule.body["scopes"] == ["monitoring.outputs.componentId"]
    assert not any(rule.body["enabled"] for rule in rules(areAlertsEnabled=False).values())


def test_bound_and_page_are_those_of_the_deployment() -> None:
    given = rules(alertLagSeconds=60, operationsPage="https://wiki.example/operations")
    assert given["lag-above-its-bound"].query.startswith("let lagBoundSeconds = 60;\n")
    assert all(rule.description.endswith(f" https://wiki.example/operations#{name}") for name, rule in given.items())


def test_without_an_address_there_are_rules_and_nobody_is_told() -> None:
    def receivers(**given: Any) -> list[str]:
        [group] = deployed(**given).everywhere("Microsoft.Insights/actionGroups").values()
        return [each["emailAddress"] for each in group.body["properties"]["emailReceivers"]]

    assert receivers() == []
    assert receivers(alertEmail="night@acme.example") == ["night@acme.example"]


def test_no_line_is_left_out_by_sampling() -> None:
    settings = json.loads((ROOT / "host.json").read_text(encoding="utf-8"))["logging"]["applicationInsights"]
    assert "Trace" in settings["samplingSettings"]["excludedTypes"].split(";")


def test_the_workbook_belongs_to_the_component_and_is_one() -> None:
    [workbook] = deployed().everywhere("Microsoft.Insights/workbooks").values()
    content = json.loads(workbook.body["properties"]["serializedData"])
    assert content["version"] == "Notebook/1.0"
    names = [item["name"] for item in content["items"]]
    assert len(names) == len(set(names))
    for item in content["items"]:
        assert item["type"] != 3 or item["content"]["timeContextFromParameter"] == "TimeRange"
