"""The server gives advice, or refuses for a while: it is obeyed, with few requests, fresh sessions and plain words."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import Any

import pytest

from cdc.report import RunReport
from tests.harness import ACCOUNT, CONTACT, Site, assert_landed_once, assert_sessions_clean, messages_of, wait_until


def held(site: Site) -> bool:
    """Whether a poll waits at the server."""
    return any(session["isHeld"] for session in site.org.sessions())


def during(site: Site, *channels: str, seconds: float, act: Any) -> RunReport:
    """Capture, and act as soon as the first poll waits."""
    found: list[RunReport] = []
    worker = threading.Thread(target=lambda: found.append(site.capture(*channels, seconds=seconds)))
    worker.start()
    wait_until(lambda: held(site))
    act()
    worker.join()
    return found[0]


@pytest.mark.parametrize("like", ["unknown_client", "unknown_client_none", "retry"])
def test_a_refused_poll_leads_to_one_new_session_and_nothing_is_lost(site: Site, like: str) -> None:
    site.org.knobs(events_on_subscribe=False)
    site.org.publish(ACCOUNT, 20)
    site.org.fault("connect", "reply", like=like, after=1)
    report = site.capture(ACCOUNT, seconds=1.5)
    assert report.outcome == "ok", report.summary()
    assert len(site.asked("handshake")) == 2
    assert_landed_once(site.org, site.log, ACCOUNT)
    assert_sessions_clean(site)


@pytest.mark.parametrize("reconnect", ["handshake", "none"])
def test_advice_against_going_on_ends_the_session_even_in_a_good_reply_and_its_events_are_landed(
    site: Site, reconnect: str
) -> None:
    site.org.knobs(events_on_subscribe=False, max_events=10)
    site.org.publish(ACCOUNT, 20)
    reply = {"successful": True, "advice": {"reconnect": reconnect, "interval": 0}}
    site.org.fault("connect", "reply", only_with_events=True, reply=reply)
    report = site.capture(ACCOUNT, seconds=1.5)
    assert report.outcome == "ok", report.summary()
    [first, second] = site.asked("handshake")
    assert first["clientId"] != second["clientId"]
    assert report.channels[ACCOUNT].duplicates == 0
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_events_before_a_failed_meta_reply_are_landed_first(site: Site) -> None:
    site.org.knobs(events_on_subscribe=False)
    site.org.publish(ACCOUNT, 20)
    site.org.fault("connect", "reply", only_with_events=True, like="unknown_client")
    report = site.capture(ACCOUNT, seconds=1.5)
    assert report.outcome == "ok", report.summary()
    replays = [entry["replay"][ACCOUNT] for entry in site.asked("subscribe")]
    assert replays == [-2, list(site.org.ledger(ACCOUNT))[-1]["replayId"]]
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_an_interval_is_waited_for(site: Site) -> None:
    site.org.knobs(max_events=1, events_on_subscribe=False)
    site.org.publish(ACCOUNT, 50)
    wait = {"successful": True, "advice": {"reconnect": "retry", "interval": 400, "timeout": 110_000}}
    site.org.fault("connect", "reply", after=1, times=-1, carried_out=True, end_session=False, reply=wait)
    assert site.capture(ACCOUNT, seconds=2).outcome == "ok"
    times = [entry["time"] for entry in site.asked("connect")][1:]
    assert len(times) >= 2
    assert min(b - a for a, b in pairwise(times)) >= 0.39


@pytest.mark.parametrize("interval", [10**15, -5, "soon", None, 1e308])
def test_an_absurd_interval_ends_no_run_late(site: Site, interval: Any) -> None:
    reply = {"successful": True, "advice": {"reconnect": "retry", "interval": interval}}
    site.org.fault("connect", "reply", after=1, reply=reply)
    assert site.capture(ACCOUNT, seconds=1).outcome == "ok"
    assert site.late_s < 15
    assert len(site.asked("disconnect")) == 1


@pytest.mark.parametrize("advice", [None, {}, {"reconnect": "retry"}, {"timeout": 0}, {"timeout": "x", "reconnect": 7}])
def test_advice_that_lacks_something_means_the_defaults(site: Site, advice: Any) -> None:
    site.org.publish(ACCOUNT, 3)
    site.org.fault("connect", "reply", carried_out=True, end_session=False,
                   reply={"successful": True, "advice": advice})  # fmt: skip
    report = site.capture(ACCOUNT)
    assert report.outcome == "ok", report.summary()
    assert len(site.asked("connect")) < 8
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_a_server_that_does_not_hold_the_poll_is_not_hammered(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdc.run.IDLE_POLL_S", 30.0)  # an empty answer of a busy machine counts as given at once, too
    site.org.knobs(hold_s=0, honour_client_timeout=False)
    assert site.capture(ACCOUNT, seconds=3).outcome == "ok"
    times = [entry["time"] for entry in site.asked("connect")][1:]
    assert len(times) >= 2
    assert min(b - a for a, b in pairwise(times)) >= 0.99


def test_multiple_clients_is_obeyed_by_its_interval_and_loses_nothing(site: Site) -> None:
    site.org.fault("connect", "reply", like="multiple_clients", after=1, times=1)
    site.org.publish(ACCOUNT, 5)
    site.capture(ACCOUNT, seconds=2.5)
    [_, refused, after, *_] = [entry["time"] for entry in site.asked("connect")]
    assert after - refused >= 1.99
    assert site.capture(ACCOUNT).outcome == "ok"
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_a_client_that_is_unknown_right_after_every_good_subscribe_backs_off_and_shows(site: Site) -> None:
    site.org.publish(ACCOUNT, 3)
    site.org.knobs(events_on_subscribe=False)
    site.org.fault("connect", "reply", like="unknown_client", times=-1)
    report = site.capture(ACCOUNT, seconds=4)
    assert report.outcome == "failed"
    assert any("403::Unknown client" in message for message in messages_of(report))
    shakes = site.asked("handshake")
    assert 3 <= len(shakes) <= 8
    assert all(entry["cookies"] == {} for entry in shakes)
    pauses = [b["time"] - a["time"] for a, b in pairwise(shakes)]
    assert max(pauses) > 0.5
    site.org.clear_faults()
    assert site.capture(ACCOUNT).outcome == "ok"
    assert_landed_once(site.org, site.log, ACCOUNT)


@pytest.mark.parametrize("how", ["bayeux", "http"])
def test_a_revoked_token_is_replaced_once_and_capture_goes_on(site: Site, how: str) -> None:
    site.org.knobs(auth_errors=how)

    def act() -> None:
        site.org.revoke_tokens()
        site.org.publish(ACCOUNT, 10)

    report = during(site, ACCOUNT, seconds=2, act=act)
    assert report.outcome == "ok", report.summary()
    assert site.org.stats()["tokenRequests"] == 2
    assert_landed_once(site.org, site.log, ACCOUNT)
    assert_sessions_clean(site)


def test_a_bare_401_with_rests_error_in_its_body_is_a_token_to_be_replaced(site: Site) -> None:
    body = '[{"message":"Session expired or invalid","errorCode":"INVALID_SESSION_ID"}]'
    site.org.fault("connect", "status", after=1, status=401, body=body)
    site.org.publish(ACCOUNT, 5)
    report = site.capture(ACCOUNT, seconds=2)
    assert report.outcome == "ok", report.summary()
    assert site.org.stats()["tokenRequests"] == 2
    assert_landed_once(site.org, site.log, ACCOUNT)


@pytest.mark.parametrize("like", ["handshake_auth_invalid", "auth_invalid"])
def test_a_401_that_no_fresh_token_cures_is_asked_about_seldom_and_shown(site: Site, like: str) -> None:
    site.org.fault("handshake", "reply", like=like, times=-1)
    report = site.capture(ACCOUNT, seconds=2)
    assert report.outcome == "failed"
    assert any("401::Authentication invalid" in message for message in messages_of(report))
    assert 2 <= len(site.asked("handshake")) <= 7
    assert site.org.stats()["tokenRequests"] <= 7


def test_a_503_behind_a_401_is_waited_out_with_the_same_token(site: Site) -> None:
    site.org.fault("connect", "reply", like="busy", after=1)
    site.org.publish(ACCOUNT, 5)
    report = site.capture(ACCOUNT, seconds=3)
    assert report.outcome == "ok", report.summary()
    assert site.org.stats()["tokenRequests"] == 1
    _, second = site.asked("handshake")
    [refused] = [entry for entry in site.asked("connect") if entry.get("fault")]
    assert second["time"] - refused["time"] >= 0.45
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_a_503_on_a_subscribe_is_waited_out_and_not_blamed_on_the_channel(site: Site) -> None:
    site.org.fault("subscribe", "reply", like="busy")
    site.org.publish(ACCOUNT, 5)
    report = site.capture(ACCOUNT, seconds=3)
    assert report.outcome == "ok", report.summary()
    assert_landed_once(site.org, site.log, ACCOUNT)


@pytest.mark.parametrize("where", ["subscribe", "connect"])
def test_an_exhausted_allocation_ends_the_run_with_its_message_and_without_a_storm(site: Site, where: str) -> None:
    site.org.publish(ACCOUNT, 50)
    site.org.knobs(daily_deliveries=50, daily_limit_on=where)
    site.capture(ACCOUNT)
    site.org.clear_requests()
    site.org.publish(ACCOUNT, 5)
    report = site.capture(ACCOUNT, seconds=30)
    assert site.late_s < -10
    assert report.outcome == "failed"
    [problem] = report.problems
    assert "events daily limit exceeded" in problem.message
    assert "allocation" in problem.hint
    assert len(site.asked("handshake")) == 1
    site.org.knobs(daily_deliveries=0)
    assert site.capture(ACCOUNT).outcome == "ok"
    assert_landed_once(site.org, site.log, ACCOUNT)


@pytest.mark.parametrize("like", ["concurrent_limit", "handshake_dos", "handshake_busy"])
def test_a_limit_on_clients_is_waited_out_and_named_where_it_lasts(site: Site, like: str) -> None:
    site.org.publish(ACCOUNT, 5)
    site.org.fault("handshake", "reply", like=like, times=1)
    report = site.capture(ACCOUNT, seconds=2.5)
    assert report.outcome == "ok", report.summary()
    assert_landed_once(site.org, site.log, ACCOUNT)

    site.org.clear_requests()
    site.org.fault("handshake", "reply", like=like, times=-1)
    report = site.capture(ACCOUNT, seconds=2)
    assert report.outcome == "failed"
    assert any("limit" in message or "too busy" in message for message in messages_of(report))
    assert len(site.asked("handshake")) <= 6


def test_a_disconnect_pushed_by_the_server_leads_to_a_new_session(site: Site) -> None:
    def act() -> None:
        site.org.end_sessions("push_disconnect")
        site.org.publish(ACCOUNT, 10)

    report = during(site, ACCOUNT, CONTACT, seconds=2, act=act)
    assert report.outcome == "ok", report.summary()
    assert len(site.asked("handshake")) == 2
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_a_session_that_the_server_forgot_leads_to_a_new_one(site: Site) -> None:
    def act() -> None:
        site.org.end_sessions("expire")
        site.org.publish(ACCOUNT, 10)

    report = during(site, ACCOUNT, seconds=2, act=act)
    assert report.outcome == "ok", report.summary()
    assert_landed_once(site.org, site.log, ACCOUNT)
    assert_sessions_clean(site)


def test_every_session_is_disconnected_that_can_be(site: Site) -> None:
    site.org.knobs(max_events=50, events_on_subscribe=False)
    site.org.backlog(ACCOUNT, 300)
    site.org.fault("connect", "drop", only_with_events=True, after=1)
    site.org.fault("connect", "truncate", only_with_events=True, after=1)
    assert site.capture(ACCOUNT, seconds=2).outcome == "ok"
    assert site.org.sessions() == []
    assert len(site.asked("disconnect")) == len(site.asked("handshake")) == 3
