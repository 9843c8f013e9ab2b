"""What the HTTP doors answer, before any host is involved: form, headers, code."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from cdc.allocation import WARNING_PERCENT
from cdc.answer import document, health, status, wants_html
from cdc.health import FAILING_BELOW, LOOK_BELOW, RECENT, Finding, Verdict
from tests.page.scenes import healthy, troubled, unreadable, verdict_on

pytestmark = pytest.mark.pure

CHROMIUM = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize(
    ("accept", "is_html"),
    [
        ("", False),
        ("*/*", False),
        (CHROMIUM, True),
        ("text/html", True),
        ("TEXT/HTML; charset=utf-8", True),
        ("application/json", False),
        ("application/json, text/html", False),
        ("application/json;q=0.5, text/html", True),
        ("text/html;q=0.5, */*", False),
        ("text/*", True),
        ("text/*, text/html;q=0", False),
        ("text/html;q=0", False),
        ("text/html;q=high", False),
        ("text/html;q=7, application/json;q=0.1", False),
        (";;,,=", False),
    ],
)
def test_accept_decides_and_json_wins_a_tie(accept: str, is_html: bool) -> None:
    assert wants_html(accept) is is_html


@pytest.mark.parametrize(
    ("form", "is_html"), [("html", True), ("JSON", False), ("json", False), ("xml", True), ("", True)]
)
def test_a_form_that_is_asked_for_decides_before_accept(form: str, is_html: bool) -> None:
    assert wants_html(CHROMIUM, form) is is_html


@pytest.mark.parametrize("as_html", [True, False])
def test_no_answer_may_be_cached_or_guessed_at(as_html: bool) -> None:
    seen = troubled(20)
    for answer in (status(seen, verdict_on(seen), as_html=as_html), health(verdict_on(seen))):
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "no-referrer"


def test_the_page_may_apply_its_own_style_and_nothing_else() -> None:
    seen = healthy(1)
    policy = status(seen, verdict_on(seen), as_html=True).headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert "script" not in policy
    assert "frame-ancestors 'none'" in policy


def test_the_status_is_200_whatever_it_says_and_503_where_there_is_none() -> None:
    for seen, code in ((healthy(1), 200), (troubled(20), 200), (unreadable(), 503)):
        for as_html in (True, False):
            assert status(seen, verdict_on(seen), as_html=as_html).code == code


@pytest.mark.parametrize(
    ("levels", "code", "word"),
    [((), 200, "ok"), (("look",), 200, "ok"), (("failing", "look"), 503, "failing")],
)
def test_health_is_one_line_without_detail(levels: tuple[str, ...], code: int, word: str) -> None:
    findings = tuple(Finding(level, "/data/AccountChangeEvent", "is secret") for level in levels)  # type: ignore[arg-type]
    answer = health(Verdict(findings))
    assert (answer.code, answer.body) == (code, f'{{"status": "{word}"}}\n')
    assert answer.headers["Content-Type"] == "application/json"


def test_the_document_has_the_verdict_and_every_fact_of_the_page() -> None:
    seen = troubled(20)
    found = json.loads(json.dumps(document(seen, verdict_on(seen))))
    assert (found["status"], found["headline"]) == ("failing", verdict_on(seen).headline)
    assert found["atRisk"]["channel"] == "/data/CampaignChangeEvent"
    first = found["findings"][0]
    assert (first["level"], first["subject"], first["title"]) == ("failing", "capture1", "failed in its last run")
    assert first["details"][0].keys() == {"message", "hint"}
    group = found["groups"]["capture2"]
    assert group["lastRun"]["past"][0]["outcome"] == "degraded"
    assert group["lastRun"]["allocation"][0]["remaining"] == 4000
    channel = group["channels"]["/data/Pricebook2ChangeEvent"]
    assert channel["silentSince"] == "2026-11-26T14:05:12.000Z"
    assert channel["lastRun"]["outcome"] == "degraded"
    contact = found["groups"]["capture1"]["channels"]["/data/ContactChangeEvent"]
    assert 19.9 < contact["retentionLeftHours"] <= 20
    assert sum(group["channels"]["/data/QuoteChangeEvent"]["hours"].values()) > 1000
    assert found["groups"]["capture3"]["lastRun"] is None


# --- docs/status.md --------------------------------------------------------------------------------------------------

PAGE = (Path(__file__).parent.parent.parent / "docs/status.md").read_text(encoding="utf-8")


def keys_of(value: Any, path: str = "") -> set[str]:
    """The paths of all keys; names of groups, channels and hours, which are data, as *."""
    if isinstance(value, list):
        return {key for each in value for key in keys_of(each, path)}
    if not isinstance(value, dict):
        return set()
    is_data = path.endswith(("groups", "channels", "hours"))
    pairs = [(f"{path}.{'*' if is_data else key}", each) for key, each in value.items()]
    return {name for name, _ in pairs} | {key for name, each in pairs for key in keys_of(each, name)}


def test_the_documented_example_has_every_field_and_every_field_is_described() -> None:
    [example] = re.findall(r"^```json\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    shown = keys_of(json.loads(example))
    seen = troubled(20)
    real = keys_of(document(seen, verdict_on(seen)))
    assert shown == real - {key for key in real if ".error." in key or key.startswith(".errors.")}
    described = set(re.findall(r"`(\w+)`", PAGE.partition("## The JSON")[2].partition("## What it costs")[0]))
    # What is within a past run, a reading or an error has its words in storage-log.md, or needs none.
    assert {key.rpartition(".")[2] for key in shown if ".past." not in key and ".allocation." not in key} - {"*"} <= (
        described | {"channels"}
    )


def test_the_verdicts_are_all_explained_with_the_bounds_of_the_code() -> None:
    table = PAGE.partition("## The verdict")[2].partition("## The JSON")[0]
    for level in ("failing", "look", "well"):
        assert f"| `{level}` |" in table
    assert timedelta(minutes=15) == RECENT
    assert "15 minutes" in table
    assert (LOOK_BELOW, FAILING_BELOW) == (2 / 3, 1 / 3)
    assert f"more than {WARNING_PERCENT:.0f} %" in table
