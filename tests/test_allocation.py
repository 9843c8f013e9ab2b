"""The org's delivery allocation: what is used, where it is going, and how rarely it is asked for."""

from __future__ import annotations

from concurrent.futures import wait
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cdc import rest
from cdc.allocation import AllocationWatch, forecast_percent, used_percent
from cdc.errors import RestDenied, RestFailed
from cdc.layout import Reading, RunRecord
from cdc.salesforce import Token
from tests.harness import Recorder

pytestmark = pytest.mark.pure

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
TOKEN = cast(Token, object())


def reading(minutes_ago: float, used: int, maximum: int = 50_000) -> Reading:
    return Reading(read=NOON - timedelta(minutes=minutes_ago), max=maximum, remaining=maximum - used)


def use_at(hours: float, *, before: float, now: float) -> int:
    """What a window of 24 h has used `hours` after the pace (events an hour) changed."""
    return round(before * (24 - hours) + now * hours)


@pytest.mark.parametrize(
    ("before", "now", "percent"),
    [
        (0, 1_000, 48),  # from nothing: 24,000 of 50,000
        (1_000, 1_000, 48),  # steady
        (1_000, 2_000, 96),
        (2_000, 500, 24),
        (2_000, 0, 0),
    ],
)
def test_the_forecast_is_what_a_day_at_the_present_pace_uses(before: float, now: float, percent: float) -> None:
    readings = [reading(180 - 5 * n, use_at(5 * n / 60, before=before, now=now)) for n in range(37)]
    assert forecast_percent(readings) == pytest.approx(percent, abs=0.5)
    assert forecast_percent(readings[::-1]) == pytest.approx(percent, abs=0.5)


def test_less_than_an_hour_is_no_trend() -> None:
    assert forecast_percent([reading(0, 10_000), reading(59, 0)]) is None
    assert forecast_percent([reading(0, 10_000)]) is None
    assert forecast_percent([reading(0, 0, 0), reading(90, 0, 0)]) is None


def test_what_is_used_is_a_share_of_the_allocation_and_may_exceed_it() -> None:
    assert [used_percent(reading(0, used)) for used in (0, 25_000, 60_000)] == [0.0, 50.0, 120.0]
    assert used_percent(reading(0, 0, 0)) is None


@pytest.mark.parametrize(
    "answer",
    [
        {},
        [],
        {"DailyDeliveredPlatformEvents": None},
        {"DailyDeliveredPlatformEvents": {"Max": 5}},
        {"DailyDeliveredPlatformEvents": {"Max": -1, "Remaining": 0}},
        {"DailyDeliveredPlatformEvents": {"Max": 10**30, "Remaining": 0}},
        {"DailyDeliveredPlatformEvents": {"Max": 5, "Remaining": -(10**30)}},
        {"DailyDeliveredPlatformEvents": {"Max": "many", "Remaining": 0}},
    ],
)
def test_an_answer_that_is_no_allocation_is_one_that_cannot_be_read(answer: object) -> None:
    asking = object.__new__(rest.Rest)
    asking._host = "acme.my.salesforce.com"
    asking._salesforce = cast(Any, SimpleNamespace(limits=lambda: answer))
    with pytest.raises(RestDenied) as caught:
        asking.delivery_allocation()
    assert str(caught.value).startswith("asking acme.my.salesforce.com for its limits: ")


class Org:
    """Answers with an allocation, or with an error."""

    def __init__(self, answer: tuple[int, int] | Exception) -> None:
        self.answer = answer
        self.asked = 0

    def delivery_allocation(self) -> tuple[int, int]:
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def watch_of(org: Org, said: Recorder, known: RunRecord | None = None) -> AllocationWatch:
    watch = AllocationWatch(said, lambda token: cast(Any, org))
    watch.restore(known)
    return watch


def look(watch: AllocationWatch, now: datetime) -> None:
    watch.look(now, TOKEN)
    wait([watch._asking] if watch._asking else [], timeout=10)
    watch.settle()


def record_of(watch: AllocationWatch) -> RunRecord:
    return RunRecord(
        group="capture1", run_id="run", outcome="ok", started=NOON, finished=NOON, clean_polls={},
        allocation=watch.readings, allocation_problem=watch.problem, allocation_asked=watch.asked,
    )  # fmt: skip


def test_it_is_read_at_most_every_five_minutes_over_all_runs() -> None:
    org, said, known = Org((50_000, 20_000)), Recorder(), None
    for minute in range(11):
        watch = watch_of(org, said, known)
        look(watch, NOON + timedelta(minutes=minute))
        known = RunRecord.from_blob(record_of(watch).to_blob())
    assert org.asked == 3
    assert len(known.allocation) == 3 if known else False
    assert said.named("org.limits")[0] == {
        "max": 50_000,
        "remaining": 20_000,
        "used_percent": 60.0,
        "forecast_percent": None,
    }


def test_without_the_right_it_is_said_once_and_asked_again_after_a_day() -> None:
    org, said, known = Org(RestDenied("asking for its limits: HTTP 403", hint="give the right")), Recorder(), None
    for hour in range(30):
        watch = watch_of(org, said, known)
        look(watch, NOON + timedelta(hours=hour))
        known = RunRecord.from_blob(record_of(watch).to_blob())
    assert org.asked == 2
    assert [fields["next_step"] for fields in said.named("org.limits_unknown")] == ["give the right"]
    org.answer = (100, 50)
    watch = watch_of(org, said, known)
    look(watch, NOON + timedelta(hours=49))
    assert (watch.problem, len(watch.readings)) == ("", 1)


def test_a_passing_failure_is_tried_again_in_five_minutes_without_a_word() -> None:
    org, said = Org(RestFailed("asking: HTTP 503", hint="x")), Recorder()
    watch = watch_of(org, said)
    look(watch, NOON)
    look(watch, NOON + timedelta(minutes=4))
    assert (org.asked, said.events, watch.problem) == (1, [], "")
    org.answer = (100, 10)
    look(watch, NOON + timedelta(minutes=5))
    assert [fields["used_percent"] for fields in said.named("org.limits")] == [90.0]
