"""What the two HTTP doors answer: the status as a page or as JSON, whichever is wanted, and the health in one line.

Pure: values in, an answer out. No answer may be cached, framed or guessed at, and none runs a script.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cdc import page
from cdc.health import Finding, Verdict
from cdc.layout import spell_time
from cdc.overview import Overview

OK, UNAVAILABLE = 200, 503
HTML, JSON = "text/html; charset=utf-8", "application/json"
_VARY = {"Vary": "Accept"}


@dataclass(frozen=True)
class Answer:
    """An HTTP answer as any door can give it."""

    code: int
    body: str
    headers: Mapping[str, str]


def status(seen: Overview, verdict: Verdict, *, as_html: bool) -> Answer:
    """Return the status; 503 where storage or the settings could not be read, so that there is none."""
    code = UNAVAILABLE if seen.error else OK
    if as_html:
        policy = {"Content-Security-Policy": page.content_security_policy()}
        return Answer(code, page.render(seen, verdict), _headers(HTML) | policy | _VARY)
    return Answer(code, json.dumps(document(seen, verdict), indent=2) + "\n", _headers(JSON) | _VARY)


def health(verdict: Verdict) -> Answer:
    """Return 200 or 503 and one line without detail: anybody may ask."""
    is_failing = verdict.level == "failing"
    body = json.dumps({"status": "failing" if is_failing else "ok"})
    return Answer(UNAVAILABLE if is_failing else OK, f"{body}\n", _headers(JSON))


def document(seen: Overview, verdict: Verdict) -> dict[str, Any]:
    """Return what `status --json` prints, and before it the verdict."""
    risk = verdict.risk
    times = {"since": spell_time(risk.since), "until": spell_time(risk.until)} if risk else {}
    judged = {
        "status": verdict.level,
        "headline": verdict.headline,
        "atRisk": {"channel": risk.channel, **times, "others": risk.others} if risk else None,
        "findings": [_finding(finding) for finding in verdict.findings],
    }
    return judged | seen.to_json()


def _headers(content_type: str) -> dict[str, str]:
    return {
        "Content-Type": content_type,
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",  # the address of the status page may hold a function key
    }


def _finding(finding: Finding) -> dict[str, Any]:
    return {
        "level": finding.level,
        "subject": finding.subject or None,
        "title": finding.title,
        "details": [{"message": detail.text or None, "hint": detail.next_step or None} for detail in finding.details],
    }


# --- what is wanted --------------------------------------------------------------------------------------------------


def wants_html(accept: str, form: str = "") -> bool:
    """True where `form` says html, or says nothing and `accept` prefers HTML to JSON (RFC 9110, section 12.5.1)."""
    if form.lower() in ("html", "json"):
        return form.lower() == "html"
    return _weight(accept, "text/html") > _weight(accept, "application/json")


def _weight(accept: str, kind: str) -> float:
    """The weight of a media type: that of the most specific range which covers it, 0 where none does."""
    ranges = {"*/*": 1, f"{kind.partition('/')[0]}/*": 2, kind: 3}
    found = (0, 0.0)
    for part in accept.lower().split(","):
        name, *parameters = (each.strip() for each in part.split(";"))
        if name in ranges:
            found = max(found, (ranges[name], _quality(parameters)))
    return found[1]


def _quality(parameters: list[str]) -> float:
    """The `q` of a media range, 1 without; one that is no number from 0 to 1 counts as 0."""
    for name, _, value in (each.partition("=") for each in parameters):
        if name.strip() == "q":
            digits = value.strip()
            is_number = digits.replace(".", "", 1).isdigit() and digits.isascii()
            return float(digits) if is_number and float(digits) <= 1 else 0.0
    return 1.0
