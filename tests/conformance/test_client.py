"""Our own client against the official CometD server: a Bayeux implementation that nobody here wrote."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Literal

import pytest

from cdc.report import RunReport
from tests.azurite import Azurite
from tests.conformance.server import CometDServer, change_event, cometd_server
from tests.harness import (
    ACCOUNT,
    CONTACT,
    LogReader,
    Recorder,
    assert_layout,
    capture,
    messages_of,
    slowness,
    wait_until,
)

numbers = itertools.count(1)


class Pair:
    """The official server, two containers, and our app between them."""

    def __init__(self, cometd: CometDServer, storage: Azurite) -> None:
        number = next(numbers)
        self.cometd = cometd
        self.said = Recorder()
        self._published = itertools.count(1)
        self._storage = storage.connection_string
        self._names = {
            "CDC_EVENTS_CONTAINER": f"peer-events-{number}",
            "CDC_CHECKPOINTS_CONTAINER": f"peer-state-{number}",
        }
        self.log = LogReader(self._storage, *self._names.values())

    def publish(self, channel: str, count: int) -> list[int]:
        """Publish believable events."""
        events = [change_event("Account", number) for number in itertools.islice(self._published, count)]
        return self.cometd.publish(channel, events)

    def capture(
        self, *channels: str, seconds: float = 1.2, start: str = "earliest", stop: Future[None] | None = None
    ) -> RunReport:
        """Run the app once."""
        settings = {
            "SALESFORCE_LOGIN_URL": self.cometd.url,
            "SALESFORCE_CLIENT_ID": "any",
            "SALESFORCE_CLIENT_SECRET": "any-secret",
            "CDC_CHANNELS": ",".join(channels),
            "CDC_STORAGE": self._storage,
            "CDC_START": start,
            **self._names,
        }
        self.said = Recorder()
        return capture(settings, seconds=seconds, stop=stop, emit=self.said)

    def during(self, *channels: str, seconds: float, act: Callable[[], object]) -> RunReport:
        """Capture, and act as soon as a poll is held by the server."""
        found: list[RunReport] = []
        worker = threading.Thread(target=lambda: found.append(self.capture(*channels, seconds=seconds)))
        worker.start()
        wait_until(lambda: any(session.polling for session in self.cometd.sessions()))
        act()
        worker.join()
        return found[0]

    def assert_landed_once(self, channel: str) -> None:
        """Every retained message lies in the log once, in order, byte for byte."""
        assert self.log.lines(channel) == [event.text.encode() for event in self.cometd.ledger(channel)]
        assert_layout(self.log, channel)


@pytest.fixture
def pair(cometd: CometDServer, storage: Azurite) -> Iterator[Pair]:
    """A fresh server and fresh containers."""
    made = Pair(cometd, storage)
    yield made
    made.log.close()


def test_a_backlog_and_live_events_of_two_channels_land_once_in_order(pair: Pair) -> None:
    for channel in (ACCOUNT, CONTACT):
        pair.publish(channel, 300)
    report = pair.during(
        ACCOUNT, CONTACT, seconds=2, act=lambda: [pair.publish(channel, 20) for channel in (ACCOUNT, CONTACT)]
    )
    assert report.outcome == "ok", report.summary()
    for channel in (ACCOUNT, CONTACT):
        pair.assert_landed_once(channel)
    assert [session.ended for session in pair.cometd.sessions()] == ["disconnect"]


def test_the_next_run_goes_on_from_the_last_landed_replay_id(pair: Pair) -> None:
    *_, last = pair.publish(ACCOUNT, 10)
    assert pair.capture(ACCOUNT).outcome == "ok"
    pair.publish(ACCOUNT, 7)
    second = pair.capture(ACCOUNT)
    assert (second.outcome, second.channels[ACCOUNT].events) == ("ok", 7)
    asked = [message["ext"]["replay"] for message in pair.cometd.requests("/meta/subscribe")]
    assert asked == [{ACCOUNT: -2}, {ACCOUNT: last}]
    pair.assert_landed_once(ACCOUNT)


def test_the_tip_is_a_moment(pair: Pair) -> None:
    assert pair.capture(ACCOUNT, start="tip").outcome == "ok"
    pair.publish(ACCOUNT, 5)
    second = pair.capture(ACCOUNT, start="tip")
    assert (second.outcome, second.channels[ACCOUNT].events) == ("ok", 5)
    pair.assert_landed_once(ACCOUNT)


@pytest.mark.parametrize("how", ["destroy", "truncate", "unavailable", "html"])
def test_an_answer_with_events_is_lost(pair: Pair, how: Literal["destroy", "truncate", "unavailable", "html"]) -> None:
    def act() -> None:
        pair.cometd.drop_next(how)
        pair.publish(ACCOUNT, 20)

    report = pair.during(ACCOUNT, seconds=2, act=act)
    assert report.outcome == "ok", report.summary()
    assert pair.cometd.faults_pending() == 0
    assert (report.sessions, report.lost_sessions) == (2, 1)
    first, second = pair.cometd.sessions()
    assert first.client_id != second.client_id
    pair.assert_landed_once(ACCOUNT)


def test_an_answer_to_a_subscribe_is_lost(pair: Pair) -> None:
    pair.publish(ACCOUNT, 20)
    pair.cometd.drop_next("destroy")
    report = pair.capture(ACCOUNT, seconds=2)
    assert report.outcome == "ok", report.summary()
    assert pair.cometd.faults_pending() == 0
    pair.assert_landed_once(ACCOUNT)


@pytest.mark.parametrize("is_told", [False, True], ids=["quietly", "by a pushed disconnect"])
def test_a_session_that_the_server_ends(pair: Pair, is_told: bool) -> None:
    def act() -> None:
        pair.cometd.expire(tell=is_told)
        pair.publish(ACCOUNT, 5)

    report = pair.during(ACCOUNT, seconds=2.5, act=act)
    assert report.outcome == "ok", report.summary()
    assert len(pair.cometd.sessions()) == 2
    pair.assert_landed_once(ACCOUNT)


def test_a_revoked_token_is_replaced_once(pair: Pair) -> None:
    def act() -> None:
        pair.cometd.revoke_tokens()
        pair.publish(ACCOUNT, 5)

    report = pair.during(ACCOUNT, seconds=2.5, act=act)
    assert report.outcome == "ok", report.summary()
    assert pair.cometd.tokens_issued() == 2
    pair.assert_landed_once(ACCOUNT)


def test_a_run_that_is_stopped_leaves_its_poll_and_its_disconnect_wakes_it(pair: Pair) -> None:
    stop: Future[None] = Future()
    found: list[RunReport] = []
    pair.publish(ACCOUNT, 5)
    worker = threading.Thread(target=lambda: found.append(pair.capture(ACCOUNT, seconds=60, stop=stop)))
    worker.start()
    wait_until(lambda: any(session.polling for session in pair.cometd.sessions()))
    stop.set_result(None)
    worker.join(60)
    assert not worker.is_alive()
    [session] = pair.cometd.sessions()
    assert (session.ended, session.polling) == ("disconnect", False)
    assert found[0].outcome == "ok"
    pair.assert_landed_once(ACCOUNT)


def test_the_last_poll_is_answered_in_time_because_the_advised_timeout_is_honoured(pair: Pair) -> None:
    report = pair.capture(ACCOUNT, seconds=1)
    assert report.outcome == "ok", report.summary()
    assert report.finished is not None
    assert (report.finished - report.started).total_seconds() < 6 * slowness()
    advised = [message["advice"]["timeout"] for message in pair.cometd.requests("/meta/connect")]
    assert advised[0] == 0
    assert 0 < advised[-1] < 4_000  # the run's second, longer where the machine is busy
    assert [session.ended for session in pair.cometd.sessions()] == ["disconnect"]


def test_a_refused_channel_is_named_and_the_other_is_captured(pair: Pair) -> None:
    pair.publish(ACCOUNT, 5)
    pair.cometd.refuse(CONTACT, "403::User not allowed to subscribe CDC without View All Data permissions")
    report = pair.capture(ACCOUNT, CONTACT)
    assert report.outcome == "degraded"
    assert CONTACT in messages_of(report)[0]
    pair.assert_landed_once(ACCOUNT)


def test_a_purged_replay_id_of_a_recent_event_is_a_gap(pair: Pair) -> None:
    *_, last = pair.publish(ACCOUNT, 5)
    assert pair.capture(ACCOUNT).outcome == "ok"
    pair.cometd.purge(ACCOUNT, last)
    pair.publish(ACCOUNT, 3)
    report = pair.capture(ACCOUNT, seconds=2)
    assert report.outcome == "degraded", report.summary()
    texts = [event.text.encode() for event in pair.cometd.ledger(ACCOUNT)]
    assert pair.log.lines(ACCOUNT, generation=2) == texts
    assert pair.capture(ACCOUNT).outcome == "ok"


def test_events_only_on_connect_answers_are_landed_all_the_same(storage: Azurite) -> None:
    with cometd_server(connect_only=True) as cometd:
        pair = Pair(cometd, storage)
        pair.publish(ACCOUNT, 50)
        assert pair.capture(ACCOUNT).outcome == "ok"
        pair.assert_landed_once(ACCOUNT)
        pair.log.close()


def test_a_short_advised_timeout_only_means_more_polls(storage: Azurite) -> None:
    with cometd_server(timeout_ms=200) as cometd:
        pair = Pair(cometd, storage)
        report = pair.during(ACCOUNT, seconds=1.5, act=lambda: pair.publish(ACCOUNT, 5))
        assert report.outcome == "ok", report.summary()
        assert len(cometd.requests("/meta/connect")) >= 3
        pair.assert_landed_once(ACCOUNT)
        pair.log.close()


def test_a_payload_is_landed_byte_for_byte(pair: Pair) -> None:
    odd = '{"ChangeEventHeader":{"commitTimestamp":1795435200000},"a":9007199254740993,"b":0.10000000000000001,"c":"é"}'
    pair.cometd.publish(ACCOUNT, [odd])
    assert pair.capture(ACCOUNT).outcome == "ok"
    [line] = pair.log.lines(ACCOUNT)
    assert odd.encode() in line
    assert json.loads(line)["channel"] == ACCOUNT
