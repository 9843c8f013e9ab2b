"""An answer is lost, cut or spoiled at any point: the session ends with it, nothing is lost and nothing lands twice."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from cdc.report import RunReport
from tests.harness import (
    ACCOUNT,
    CONTACT,
    LOST,
    Site,
    assert_landed_once,
    assert_sessions_clean,
    messages_of,
    wait_until,
)

WAYS: dict[str, dict[str, Any]] = {
    "dropped": {"do": "drop"},
    "reset": {"do": "reset"},
    "truncated": {"do": "truncate"},
    "truncated to its first bytes": {"do": "truncate", "keep": 0.01},
    "cut and closed properly": {"do": "truncate_clean"},
    "answered 503": {"do": "status", "status": 503, "carried_out": True},
    "answered 500": {"do": "status", "status": 500, "carried_out": True},
    "answered with HTML": {"do": "html", "carried_out": True},
    "answered with an empty body": {"do": "truncate_clean", "keep": 0.0},
}


def waiting(site: Site, *, count: int = 600) -> None:
    """A backlog on two channels, served in several answers."""
    site.org.knobs(max_events=200, events_on_subscribe=False)
    for channel in (ACCOUNT, CONTACT):
        site.org.backlog(channel, count)


def finish(site: Site, *, outcome: str = "ok") -> None:
    """Nothing is lost and nothing lands twice, in the run and after it."""
    report = site.capture(ACCOUNT, CONTACT)
    assert report.outcome == outcome, report.summary()
    for channel in (ACCOUNT, CONTACT):
        assert_landed_once(site.org, site.log, channel)
    assert_sessions_clean(site)


SOME = ("dropped", "truncated", "answered with HTML")


@pytest.mark.parametrize(("way", "after"), [*((way, 2) for way in WAYS), *((way, 0) for way in SOME)])
def test_a_connect_with_events_is(site: Site, way: str, after: int) -> None:
    waiting(site)
    site.org.fault("connect", only_with_events=True, after=after, **WAYS[way])
    report = site.capture(ACCOUNT, CONTACT, seconds=1.5)
    assert report.outcome == "ok", report.summary()
    assert report.lost_sessions == 1
    assert [entry["fault"] for entry in site.asked("connect") if entry.get("fault")] == [WAYS[way]["do"]]
    for channel in (ACCOUNT, CONTACT):
        assert_landed_once(site.org, site.log, channel)
        assert report.channels[channel].duplicates == 0
    assert_sessions_clean(site)


@pytest.mark.parametrize("on", ["connect", "subscribe"])
def test_an_answer_that_is_cut_twice_at_one_place_though_its_length_says_nothing_is_lost_and_no_poison(
    site: Site, on: str
) -> None:
    waiting(site, count=20)
    site.org.knobs(events_on_subscribe=on == "subscribe")
    site.org.fault(on, "truncate_clean", times=2, only_with_events=True, keep=0.7)
    report = site.capture(ACCOUNT, CONTACT, seconds=3)
    assert report.outcome == "ok", report.summary()
    assert report.lost_causes == {"RequestLost": 2}
    assert site.log.quarantine() == []
    finish(site)


@pytest.mark.parametrize("way", SOME)
def test_the_very_first_connect_is(site: Site, way: str) -> None:
    waiting(site, count=150)
    site.org.fault("connect", **WAYS[way])
    report = site.capture(ACCOUNT, CONTACT)
    assert report.lost_sessions == 1
    finish(site)


@pytest.mark.parametrize("way", SOME)
def test_the_last_connect_of_a_run_is(site: Site, way: str) -> None:
    """The answer with everything is lost and no second session can be had: the next run lands it all."""
    waiting(site, count=150)
    site.org.fault("connect", only_with_events=True, **WAYS[way])
    site.org.fault("handshake", "drop", after=1, times=-1)
    site.capture(ACCOUNT, CONTACT, seconds=1.5)
    assert site.log.lines(ACCOUNT) == []
    site.org.clear_faults()
    finish(site)


@pytest.mark.parametrize("way", SOME)
def test_a_subscribe_that_carries_events_is(site: Site, way: str) -> None:
    for channel in (ACCOUNT, CONTACT):
        site.org.backlog(channel, 300)
    site.org.fault("subscribe", after=1, **WAYS[way])
    report = site.capture(ACCOUNT, CONTACT, seconds=1.5)
    assert (report.outcome, report.lost_sessions) == ("ok", 1), report.summary()
    finish(site)


@pytest.mark.parametrize("way", SOME)
def test_a_disconnect_that_carries_events_is(site: Site, way: str) -> None:
    """The advised interval reaches to the run's end; what arrives meanwhile dies with the disconnect's answer."""
    wait = {"successful": True, "advice": {"reconnect": "retry", "interval": 60_000}}
    site.org.fault("connect", "reply", after=1, reply=wait)
    site.org.fault("disconnect", **WAYS[way])
    reports: list[RunReport] = []
    worker = threading.Thread(target=lambda: reports.append(site.capture(ACCOUNT, CONTACT)))
    worker.start()
    wait_until(lambda: len(site.asked("connect")) == 2)
    site.org.publish(ACCOUNT, 10)
    worker.join()
    [disconnect] = site.asked("disconnect")
    assert (disconnect["events"], disconnect["fault"]) == (10, WAYS[way]["do"])
    assert reports[0].outcome == "ok", reports[0].summary()
    assert site.log.lines(ACCOUNT) == []
    finish(site)


def test_a_poll_that_stalls_in_the_middle_of_its_body_is_given_up_at_the_deadline_and_lost_nothing(site: Site) -> None:
    waiting(site)
    site.org.fault("connect", "stall", only_with_events=True, after=1)
    report = site.capture(ACCOUNT, CONTACT, seconds=1.5)
    assert report.outcome == "ok", report.summary()
    assert site.late_s < 15
    assert [entry["events"] for entry in site.asked("connect")] == [0, 200, 200]  # nothing was asked after the stall
    assert sum(len(site.log.lines(channel)) for channel in (ACCOUNT, CONTACT)) == 200
    finish(site)


def test_sockets_closed_while_a_poll_waits_are_a_lost_answer(site: Site) -> None:
    reports: list[RunReport] = []
    worker = threading.Thread(target=lambda: reports.append(site.capture(ACCOUNT, CONTACT, seconds=1.5)))
    worker.start()
    wait_until(lambda: any(session["isHeld"] for session in site.org.sessions()))
    site.org.end_sessions("close")
    site.org.publish(ACCOUNT, 20)
    worker.join()
    assert reports[0].outcome == "ok", reports[0].summary()
    assert site.org.stats()["meta"]["/meta/handshake"] == 2
    for channel in (ACCOUNT, CONTACT):
        assert_landed_once(site.org, site.log, channel)
    assert_sessions_clean(site)


def test_a_disconnect_that_brings_events_after_a_lost_answer_lands_none_of_them_in_that_session(site: Site) -> None:
    """What it brings comes after the hole; the next run replays both in order."""
    site.org.knobs(max_events=100, events_on_subscribe=False)
    site.org.backlog(ACCOUNT, 200)
    site.org.fault("connect", "drop", only_with_events=True)  # the first hundred die; the disconnect brings the second
    site.org.fault("handshake", "drop", after=1, times=-1)
    report = site.capture(ACCOUNT, seconds=1.5)
    assert report.outcome == "failed", report.summary()
    assert "the server closed the connection without an answer" in messages_of(report)[0]
    assert [entry["events"] for entry in site.asked("connect") if entry.get("fault") == "drop"] == [100]
    [disconnect] = site.asked("disconnect")
    assert (disconnect["state"], disconnect["events"]) == ("answered", 100)
    assert site.log.lines(ACCOUNT) == []

    site.org.clear_faults()
    finish(site)


def test_a_poll_that_the_deadline_aborts_is_lost_and_what_the_disconnect_brings_after_it_is_not_landed(
    site: Site,
) -> None:
    """The server collects events for longer than the run lasts, and ignores when it should answer."""
    site.org.knobs(honour_client_timeout=False, linger_s=30, events_on_subscribe=False)
    worker = threading.Thread(target=site.capture, args=(ACCOUNT,), kwargs={"seconds": 1})
    worker.start()
    wait_until(lambda: any(session["isHeld"] for session in site.org.sessions()))
    site.org.publish(ACCOUNT, 20)
    worker.join()
    [disconnect] = site.asked("disconnect")
    assert disconnect["events"] == 20
    assert site.log.lines(ACCOUNT) == []
    site.org.knobs(honour_client_timeout=True, linger_s=0)
    finish(site)


@pytest.mark.parametrize("order", ["first", "last", "mixed"])
def test_events_on_subscribe_and_disconnect_answers_are_landed_wherever_they_stand(site: Site, order: str) -> None:
    site.org.knobs(event_order=order)
    site.org.publish(ACCOUNT, 30)
    site.org.publish(CONTACT, 30)
    worker = threading.Thread(target=site.capture, args=(ACCOUNT, CONTACT), kwargs={"seconds": 1.2})
    worker.start()
    wait_until(lambda: site.asked("subscribe"))
    site.org.traffic(ACCOUNT, 200)
    worker.join()
    site.org.traffic(ACCOUNT, 0)
    assert any(entry["events"] for entry in site.asked("subscribe"))
    served = sum(entry["events"] for entry in site.asked())
    assert len(site.log.lines(ACCOUNT)) + len(site.log.lines(CONTACT)) == served
    finish(site)


def test_events_on_a_disconnect_answer_are_landed(site: Site) -> None:
    """The advised interval reaches to the run's end; what arrives meanwhile rides on the disconnect's answer."""
    wait = {"successful": True, "advice": {"reconnect": "retry", "interval": 60_000}}
    site.org.fault("connect", "reply", after=1, reply=wait)
    worker = threading.Thread(target=site.capture, args=(ACCOUNT,))
    worker.start()
    wait_until(lambda: len(site.asked("connect")) == 2)
    site.org.publish(ACCOUNT, 10)
    worker.join()
    [disconnect] = site.asked("disconnect")
    assert (len(site.asked("connect")), disconnect["events"]) == (2, 10)
    assert_landed_once(site.org, site.log, ACCOUNT)


@pytest.mark.parametrize("seed", [1, 2])
def test_a_third_of_all_answers_is_lost_at_random_over_live_traffic(site: Site, seed: int) -> None:
    ways = [do for do in LOST if do not in ("garble", "stall", "hang")]
    site.org.knobs(max_events=50)
    for channel in (ACCOUNT, CONTACT):
        site.org.backlog(channel, 300)
        site.org.traffic(channel, 60)
    site.org.random_faults(0.3, seed=seed, do=ways)
    reports: list[RunReport] = []
    worker = threading.Thread(target=lambda: reports.append(site.capture(ACCOUNT, CONTACT, seconds=8)))
    worker.start()
    wait_until(lambda: site.org.stats()["faultsStruck"] >= 3)
    site.org.clear_faults()
    worker.join()
    for channel in (ACCOUNT, CONTACT):
        site.org.traffic(channel, 0)
    assert reports[0].outcome == "ok", reports[0].summary()
    finish(site)
