"""A subscribed channel that delivers nothing: quiet where no record changed, silent where records did."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import pytest

from tests import harness
from tests.harness import ACCOUNT, CONTACT, Site, assert_landed_once, messages_of

EVERYTHING, SALES, ORDERS = "/data/ChangeEvents", "/data/Sales__chn", "/event/Order_Placed__e"
MINUTES = 60
RUN_S = 1.5


def queries(site: Site) -> int:
    """How often the org was asked for records, and for the members of a channel."""
    asked: dict[str, int] = site.org.stats()["rest"]
    return sum(count for path, count in asked.items() if "query" in path.lower())


def settle(site: Site, *channels: str, age_s: float = 60 * MINUTES) -> None:
    """Each channel has landed an event that is an hour old."""
    for channel in channels:
        site.org.publish(channel, 1, kinds=["CREATE"], age_s=age_s)
    assert site.capture(*channels, seconds=RUN_S).outcome == "ok"


def told(site: Site, name: str = "channel.silent") -> list[dict[str, object]]:
    return site.said.named(name)


def test_a_silent_channel_whose_records_change_is_degraded_within_one_run(site: Site) -> None:
    settle(site, ACCOUNT, CONTACT)
    site.org.change_record("Account", age_s=20 * MINUTES)
    report = site.capture(ACCOUNT, CONTACT, seconds=RUN_S)
    assert report.outcome == "degraded"
    [message] = messages_of(report)
    assert message.startswith(f"{ACCOUNT} is subscribed and silent since ")
    assert ", but records of Account changed at " in message
    assert report.problems[0].hint.startswith("Salesforce may still be searching")
    assert "CDC_RUN_SECONDS first" in report.problems[0].hint
    [fields] = told(site)
    assert (fields["channel"], fields["entity"], fields["group"]) == (ACCOUNT, "Account", "capture1")
    assert isinstance(fields["since"], datetime)
    finished = {str(each["channel"]): each for each in told(site, "channel.finished")}
    assert (finished[ACCOUNT]["outcome"], finished[CONTACT]["outcome"]) == ("degraded", "ok")
    assert 3_500 < float(str(finished[ACCOUNT]["silent_s"])) < 4_200
    assert float(str(finished[ACCOUNT]["retention_left_h"])) < 71.1
    record = site.log.state("runs/")["runs/capture1.json"]
    assert record["channels"][ACCOUNT]["silentSince"]
    assert record["channels"][CONTACT]["silentSince"] is None


def test_without_changes_a_silent_channel_is_ok_and_the_org_is_asked_once_an_interval(site: Site) -> None:
    settle(site, ACCOUNT)
    for _ in range(3):
        report = site.capture(ACCOUNT, seconds=RUN_S)
        assert (report.outcome, told(site)) == ("ok", []), report.summary()
    assert queries(site) == 1
    site.org.advance_clock(16 * MINUTES)
    assert site.capture(ACCOUNT, seconds=RUN_S).outcome == "ok"
    assert queries(site) == 2


def test_a_channel_that_delivers_or_was_silent_for_less_than_the_interval_is_not_asked_about(site: Site) -> None:
    settle(site, ACCOUNT, age_s=10 * MINUTES)
    site.org.change_record("Account", age_s=5 * MINUTES)
    assert site.capture(ACCOUNT, seconds=RUN_S).outcome == "ok"
    site.org.advance_clock(30 * MINUTES)
    site.org.publish(ACCOUNT, 1)
    assert site.capture(ACCOUNT, seconds=RUN_S).outcome == "ok"
    assert queries(site) == 0


def test_the_verdict_stands_between_two_checks_and_ends_with_an_event(site: Site) -> None:
    settle(site, ACCOUNT)
    site.org.change_record("Account", age_s=20 * MINUTES)
    for _ in range(3):
        report = site.capture(ACCOUNT, seconds=RUN_S)
        assert report.outcome == "degraded"
        assert "is subscribed and silent since" in report.summary()
        assert len(told(site)) == 1
    assert queries(site) == 1
    site.org.publish(ACCOUNT, 1)
    assert site.capture(ACCOUNT, seconds=RUN_S).outcome == "ok"
    assert told(site) == []
    assert site.capture(ACCOUNT, seconds=RUN_S).outcome == "ok"
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_a_deleted_record_counts(site: Site) -> None:
    settle(site, ACCOUNT)
    site.org.change_record("Account", "delete", age_s=20 * MINUTES)
    assert site.capture(ACCOUNT, seconds=RUN_S).outcome == "degraded"
    assert told(site)[0]["entity"] == "Account"


@pytest.mark.parametrize(
    "knobs", [{"rest_denied": "API_DISABLED_FOR_ORG"}, {"rest_failing": True}], ids=["denied", "failing"]
)
def test_an_org_that_cannot_be_asked_is_a_warning_once_an_interval_and_proves_nothing(
    site: Site, knobs: dict[str, Any]
) -> None:
    settle(site, ACCOUNT)
    site.org.change_record("Account", age_s=20 * MINUTES)
    site.org.knobs(**knobs)
    assert site.capture(ACCOUNT, seconds=RUN_S).outcome == "ok"
    [fields] = told(site, "silence.unknown")
    assert fields["channel"] == ACCOUNT
    assert "asking" in str(fields["error"])
    assert fields["next_step"]
    assert site.capture(ACCOUNT, seconds=RUN_S).outcome == "ok"
    assert told(site, "silence.unknown") == []
    assert queries(site) == 1


def test_platform_events_leave_no_record_to_ask_about(site: Site) -> None:
    settle(site, ORDERS)
    assert site.capture(ORDERS, seconds=RUN_S).outcome == "ok"
    assert queries(site) == 0


def test_a_channel_of_many_entities_is_asked_about_each_and_not_about_those_behind_a_filter(site: Site) -> None:
    settle(site, EVERYTHING, SALES)
    site.org.change_record("Account", "create", age_s=20 * MINUTES)
    site.org.channel(SALES, filters={"Account": "Industry = 'Energy'"})
    report = site.capture(EVERYTHING, SALES, seconds=RUN_S)
    assert report.outcome == "degraded"
    assert [(each["channel"], each["entity"]) for each in told(site)] == [(EVERYTHING, "Account")]
    site.org.channel(SALES, filters={"Account": "x", "Opportunity": "y"})
    site.org.advance_clock(16 * MINUTES)
    site.capture(EVERYTHING, SALES, seconds=RUN_S)
    assert "each of its members has a filter" in str(told(site, "silence.unknown")[0]["error"])


def test_a_run_that_fails_does_not_age_a_quiet_channel(site: Site) -> None:
    """Its last event is an hour old, and a clean poll long after it was landed has found nothing more."""
    settle(site, ACCOUNT)
    record = site.log.state("runs/")["runs/capture1.json"]
    polled = datetime.fromisoformat(record["cleanPolls"][ACCOUNT]) + timedelta(minutes=3)
    record["cleanPolls"][ACCOUNT] = polled.isoformat()
    site.log.write_state("runs/capture1.json", json.dumps(record).encode())
    site.org.fault("token", "status", status=503, times=-1)
    assert site.capture(ACCOUNT, seconds=RUN_S).outcome == "failed"
    [finished] = told(site, "channel.finished")
    assert float(str(finished["retention_left_h"])) >= 72
    assert 3_500 < float(str(finished["position_age_s"])) < 4_200


def test_the_check_can_be_switched_off(site: Site) -> None:
    settle(site, ACCOUNT)
    site.org.change_record("Account", age_s=20 * MINUTES)
    report = site.capture(ACCOUNT, seconds=RUN_S, CDC_SILENCE_CHECK_MINUTES="0")
    assert (report.outcome, queries(site)) == ("ok", 0)


def test_short_runs_starve_behind_a_slow_search_are_detected_and_a_long_run_overcomes_it(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Salesforce searches for 4 s before a session's first event, and forgets what it searched when that ends."""
    slow = harness.slowness()
    monkeypatch.setattr(harness, "slowness", lambda: slow)
    settle(site, ACCOUNT)
    site.org.publish(ACCOUNT, 5, age_s=20 * MINUTES)
    site.org.channel(ACCOUNT, slow_seek_s=4 * slow)
    for check in ("0", "0", "15"):
        report = site.capture(ACCOUNT, seconds=2, CDC_SILENCE_CHECK_MINUTES=check)
        assert report.channels[ACCOUNT].events == 0
        assert report.outcome == ("ok" if check == "0" else "degraded"), report.summary()
    assert "raise CDC_RUN_SECONDS first" in report.problems[0].hint
    report = site.capture(ACCOUNT, seconds=8)
    assert (report.outcome, report.channels[ACCOUNT].events) == ("ok", 5), report.summary()
    assert_landed_once(site.org, site.log, ACCOUNT)


# --- the delivery allocation ------------------------------------------------------------------------------------------


def limits_asked(site: Site) -> int:
    return sum(count for path, count in site.org.stats()["rest"].items() if "limits" in path)


def test_the_allocation_is_read_once_in_five_minutes_and_a_high_one_is_a_warning(site: Site) -> None:
    site.org.knobs(daily_deliveries=10)
    site.org.publish(ACCOUNT, 9)
    assert site.capture(ACCOUNT, seconds=RUN_S).outcome == "ok"
    said = told(site, "org.limits")
    assert site.capture(ACCOUNT, seconds=RUN_S).outcome == "ok"
    assert told(site, "org.limits") == []
    [fields] = said
    assert fields["max"] == 10
    assert limits_asked(site) == 1
    [reading] = site.log.state("runs/")["runs/capture1.json"]["allocation"]
    assert (reading["max"], reading["remaining"]) == (10, fields["remaining"])


@pytest.mark.parametrize("limits", ["denied", "hidden"])
def test_an_allocation_that_nobody_may_see_is_said_once(site: Site, limits: str) -> None:
    site.org.knobs(limits=limits)
    assert site.capture(ACCOUNT, seconds=RUN_S).outcome == "ok"
    [fields] = told(site, "org.limits_unknown")
    assert "View Setup and Configuration" in str(fields["next_step"])
    assert site.capture(ACCOUNT, seconds=RUN_S).outcome == "ok"
    assert told(site, "org.limits_unknown") == []
    assert limits_asked(site) == 1
    assert site.log.state("runs/")["runs/capture1.json"]["allocationProblem"]


def test_limits_that_never_answer_hold_no_run_up(site: Site) -> None:
    site.org.fault("rest", "hang", path="/limits", times=-1)
    site.org.publish(ACCOUNT, 3)
    report = site.capture(ACCOUNT, seconds=RUN_S)
    assert (report.outcome, report.events) == ("ok", 3)
    assert report.finished is not None
    assert (report.finished - report.started).total_seconds() < RUN_S * harness.slowness() + 2
