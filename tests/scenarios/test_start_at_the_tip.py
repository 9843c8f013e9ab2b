"""A channel that starts at the tip: the tip is one moment, and nothing after it is lost, however quiet or broken."""

from __future__ import annotations

import threading

import pytest

from cdc.report import RunReport
from tests.harness import ACCOUNT, CONTACT, Site, assert_layout, assert_sessions_clean, wait_until

HOUR = 3_600.0


def test_what_comes_between_the_first_run_and_the_second_is_landed_by_the_second(site: Site) -> None:
    site.org.publish(ACCOUNT, 7, age_s=2 * HOUR)
    first = site.capture(ACCOUNT, CDC_START="tip")
    assert (first.outcome, first.channels[ACCOUNT].events) == ("ok", 0)
    assert [entry["replay"] for entry in site.asked("subscribe")] == [{ACCOUNT: -1}]
    ids = site.org.publish(ACCOUNT, 5)

    second = site.capture(ACCOUNT, CDC_START="tip")
    assert (second.outcome, second.channels[ACCOUNT].events) == ("ok", 5)
    assert site.log.lines(ACCOUNT) == site.org.deliveries(ACCOUNT)[7:]
    assert second.channels[ACCOUNT].replay_id == str(ids[-1])
    assert [entry["replay"] for entry in site.asked("subscribe")][1:] == [{ACCOUNT: -2}]
    assert_layout(site.log, ACCOUNT)


@pytest.mark.parametrize("how", ["drop", "truncate"])
def test_the_first_poll_that_ever_carries_events_is_lost(site: Site, how: str) -> None:
    site.org.publish(ACCOUNT, 7, age_s=2 * HOUR)
    site.org.fault("connect", how, only_with_events=True)
    reports: list[RunReport] = []
    worker = threading.Thread(target=lambda: reports.append(site.capture(ACCOUNT, seconds=2, CDC_START="tip")))
    worker.start()
    wait_until(lambda: any(session["isHeld"] for session in site.org.sessions()))
    site.org.publish(ACCOUNT, 5)
    worker.join()
    assert reports[0].outcome == "ok", reports[0].summary()

    assert len(site.asked("handshake")) == 2
    assert [entry["replay"] for entry in site.asked("subscribe")] == [{ACCOUNT: -1}, {ACCOUNT: -2}]
    assert site.log.lines(ACCOUNT) == site.org.deliveries(ACCOUNT)[7:]
    assert_sessions_clean(site)


def test_the_first_poll_is_lost_and_the_run_dies_with_it_so_that_the_next_run_lands_its_events(site: Site) -> None:
    site.org.fault("connect", "drop", only_with_events=True)
    site.org.fault("handshake", "status", after=1, times=-1)
    worker = threading.Thread(target=site.capture, args=(ACCOUNT,), kwargs={"seconds": 1.5, "CDC_START": "tip"})
    worker.start()
    wait_until(lambda: any(session["isHeld"] for session in site.org.sessions()))
    site.org.publish(ACCOUNT, 5)
    worker.join()
    assert site.log.lines(ACCOUNT) == []
    site.org.clear_faults()

    assert site.capture(ACCOUNT, CDC_START="tip").outcome == "ok"
    assert site.log.lines(ACCOUNT) == site.org.deliveries(ACCOUNT)


def test_a_lost_first_subscribe_does_not_move_the_tip(site: Site) -> None:
    """The record with T0 stands before the subscribe: what is published while that is lost is after the tip."""
    site.org.publish(ACCOUNT, 7, age_s=2 * HOUR)
    site.org.fault("subscribe", "drop", times=-1)
    site.capture(ACCOUNT, seconds=1.2, CDC_START="tip")
    site.org.clear_faults()
    site.org.publish(ACCOUNT, 5)
    report = site.capture(ACCOUNT, CDC_START="tip")
    assert report.outcome == "ok"
    assert site.log.lines(ACCOUNT) == site.org.deliveries(ACCOUNT)[7:]


def test_old_events_are_skipped_once_and_the_last_of_them_is_remembered(site: Site) -> None:
    old = site.org.publish(ACCOUNT, 30, age_s=3 * HOUR)
    assert site.capture(ACCOUNT, CDC_START="tip").outcome == "ok"
    assert site.capture(ACCOUNT, CDC_START="tip").outcome == "ok"  # replays and skips the thirty
    checkpoint = site.log.state()["data/AccountChangeEvent.json"]
    assert checkpoint["skippedTo"] == str(old[-1])
    assert site.log.lines(ACCOUNT) == []
    served = site.org.stats()["eventsServed"]

    site.org.publish(ACCOUNT, 5)
    third = site.capture(ACCOUNT, CDC_START="tip")
    assert (third.outcome, third.channels[ACCOUNT].events) == ("ok", 5)
    assert site.org.stats()["eventsServed"] == served + 5
    assert [entry["replay"] for entry in site.asked("subscribe")] == [{ACCOUNT: -1}, {ACCOUNT: -2}, {ACCOUNT: old[-1]}]
    assert site.log.lines(ACCOUNT) == site.org.deliveries(ACCOUNT)[30:]


def test_a_skipped_id_that_is_purged_costs_a_replay_and_no_event(site: Site) -> None:
    old = site.org.publish(ACCOUNT, 30, age_s=3 * HOUR)
    site.capture(ACCOUNT, CDC_START="tip")
    site.capture(ACCOUNT, CDC_START="tip")
    site.org.purge(ACCOUNT, through=old[-1])
    site.org.publish(ACCOUNT, 5)
    report = site.capture(ACCOUNT, seconds=1.5, CDC_START="tip")
    assert (report.outcome, report.channels[ACCOUNT].events) == ("ok", 5), report.summary()
    assert site.log.lines(ACCOUNT) == site.org.deliveries(ACCOUNT)[30:]
    assert not [name for name in site.log.state() if name.startswith("gaps/")]


def test_skipping_stops_at_the_first_event_after_the_tip_so_that_a_late_old_event_is_landed(site: Site) -> None:
    site.org.publish(ACCOUNT, 3, age_s=2 * HOUR)
    site.capture(ACCOUNT, CDC_START="tip")
    site.org.publish(ACCOUNT, 1)
    site.org.publish(ACCOUNT, 1, age_s=2 * HOUR)  # committed long ago, published now
    site.org.publish(ACCOUNT, 1)
    assert site.capture(ACCOUNT, CDC_START="tip").outcome == "ok"
    assert site.log.lines(ACCOUNT) == site.org.deliveries(ACCOUNT)[3:]


def test_an_event_without_a_time_is_never_skipped(site: Site) -> None:
    site.org.publish(ACCOUNT, 3, age_s=2 * HOUR)
    site.capture(ACCOUNT, CDC_START="tip")
    site.org.raw(ACCOUNT, b'{"channel":"/data/AccountChangeEvent","data":{"event":{"replayId":{{replayId}}}}}')
    assert site.capture(ACCOUNT, CDC_START="tip").outcome == "ok"
    assert site.log.lines(ACCOUNT) == site.org.deliveries(ACCOUNT)[3:]


def test_a_new_channel_beside_an_old_one_starts_at_the_tip_and_the_old_one_goes_on(site: Site) -> None:
    site.org.publish(ACCOUNT, 4)
    site.org.publish(CONTACT, 4, age_s=2 * HOUR)
    site.capture(ACCOUNT)
    site.org.publish(ACCOUNT, 4)
    report = site.capture(ACCOUNT, CONTACT, CDC_START="tip")
    assert report.outcome == "ok"
    assert site.log.lines(ACCOUNT) == site.org.deliveries(ACCOUNT)
    assert site.log.lines(CONTACT) == []
