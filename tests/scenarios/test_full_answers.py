"""While answers are full the next poll is sent before the last answer is read; every promise holds all the same."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from datetime import datetime
from typing import Any

import pytest

from cdc import bayeux, run
from cdc.landing import Landed
from cdc.pipeline import Pipeline
from cdc.report import RunReport
from cdc.session import Answer, CometDSession, Unread
from tests.harness import ACCOUNT, CONTACT, Site, assert_landed_once, assert_sessions_clean, slowness, wait_until

EACH = 700  # events of 1 kB in an answer, which makes it a full one
LOST = ("drop", "truncate", "truncate_clean", "status", "reset")


@pytest.fixture(autouse=True)
def backlog(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Five full answers for each of two channels, and nothing that changes near the end of these short runs."""
    monkeypatch.setattr(run, "READ_HERE_BEFORE_S", 0.0)
    site.org.knobs(max_events=EACH, events_on_subscribe=False)
    for channel in (ACCOUNT, CONTACT):
        site.org.backlog(channel, 5 * EACH, size=1_000)


@pytest.fixture
def capture_all(site: Site, monkeypatch: pytest.MonkeyPatch) -> Callable[[], RunReport]:
    """Runs until all that waits is landed, however long a busy machine takes for it."""
    stop: Future[None] = Future()
    counts: list[int] = []
    report_landed = Pipeline._report_landed

    def watched(self: Pipeline, landed: Landed) -> None:
        report_landed(self, landed)
        counts.append(landed.count)
        if sum(counts) >= 10 * EACH and not stop.done():
            stop.set_result(None)

    monkeypatch.setattr(Pipeline, "_report_landed", watched)
    return lambda: site.capture(ACCOUNT, CONTACT, seconds=30, stop=stop)


def finish(site: Site) -> None:
    """All is landed once, in this run or the next."""
    assert site.capture(ACCOUNT, CONTACT).outcome == "ok"
    for channel in (ACCOUNT, CONTACT):
        assert_landed_once(site.org, site.log, channel)


def test_the_next_poll_is_sent_before_a_full_answer_is_read(
    site: Site, monkeypatch: pytest.MonkeyPatch, capture_all: Callable[[], RunReport]
) -> None:
    monkeypatch.setattr(run, "MAX_HELD_BYTES", 100_000_000)
    read = CometDSession.read
    sizes: list[int] = []  # of the answers that were read

    def watched(session: CometDSession, polled: Unread) -> Answer:
        sizes.append(polled.size_bytes)
        if polled.size_bytes >= run.FULL_ANSWER_BYTES:
            wait_until(lambda: len(site.asked("connect")) > len(sizes))
        return read(session, polled)

    monkeypatch.setattr(CometDSession, "read", watched)
    report = capture_all()
    assert (report.outcome, report.sessions) == ("ok", 1), report.summary()
    assert len([size for size in sizes if size >= run.FULL_ANSWER_BYTES]) == 10
    finish(site)


@pytest.mark.parametrize(("do", "after"), [*((do, 1) for do in LOST), ("drop", 3)])
def test_the_full_answer_before_a_lost_one_is_landed_and_nothing_after_it(
    site: Site, do: str, after: int, capture_all: Callable[[], RunReport]
) -> None:
    site.org.fault("connect", do, only_with_events=True, after=after, carried_out=True)
    report = capture_all()
    assert (report.outcome, report.lost_sessions) == ("ok", 1), report.summary()
    assert sum(channel.duplicates for channel in report.channels.values()) == 0
    assert_sessions_clean(site)
    finish(site)


def test_what_follows_a_damaged_full_answer_is_not_landed_in_that_session(
    site: Site, monkeypatch: pytest.MonkeyPatch, capture_all: Callable[[], RunReport]
) -> None:
    """The next poll was under way already; its answer is left behind with the session."""
    landed: list[int] = []
    land = run._Run._land

    def watched(self: run._Run, answer: Answer, polled_at: datetime | None) -> None:
        landed.append(len(answer.deliveries))
        land(self, answer, polled_at)

    monkeypatch.setattr(run._Run, "_land", watched)
    site.org.fault("connect", "garble", only_with_events=True, after=1)
    report = capture_all()
    assert (report.outcome, report.sessions, report.lost_sessions) == ("ok", 2, 1), report.summary()
    lost = next(entry["clientId"] for entry in site.asked("connect") if entry.get("fault") == "garble")
    served = [entry["events"] for entry in site.asked("connect") if entry["clientId"] == lost]
    assert served[:3] == [0, EACH, EACH]
    assert sum(landed) == 10 * EACH
    assert served[3:] in ([EACH], []), "the poll that was under way, if it got so far"
    finish(site)


@pytest.mark.parametrize(
    ("reply", "sessions"),
    [
        ({"successful": True, "advice": {"reconnect": "retry", "interval": 400}}, 1),
        ({"successful": True, "advice": {"reconnect": "handshake"}}, 2),
        ({"successful": False, "error": "402::Unknown client", "advice": {"reconnect": "handshake"}}, 2),
        ({"successful": True, "clientId": "another"}, 2),
    ],
)
def test_no_poll_is_sent_ahead_of_a_pause_or_of_a_session_s_end(
    site: Site, reply: dict[str, Any], sessions: int, capture_all: Callable[[], RunReport]
) -> None:
    site.org.fault("connect", "reply", only_with_events=True, after=1, reply=reply, end_session=False)
    report = capture_all()
    assert (report.outcome, report.sessions) == ("ok", sessions), report.summary()
    polls = site.asked("connect")
    in_first_session = [entry for entry in polls if entry["clientId"] == polls[0]["clientId"]]
    if sessions == 1:
        assert polls[3]["time"] - polls[2]["time"] >= 0.4
    else:
        assert [entry["events"] for entry in in_first_session] == [0, EACH, EACH]
    finish(site)


def test_no_poll_is_sent_ahead_where_more_would_be_held_than_may_be(
    site: Site, monkeypatch: pytest.MonkeyPatch, capture_all: Callable[[], RunReport]
) -> None:
    monkeypatch.setattr(run, "MAX_HELD_BYTES", 100_000)
    glanced: list[bytes] = []
    monkeypatch.setattr(bayeux, "glance", glanced.append)
    assert capture_all().outcome == "ok"
    assert glanced == []
    finish(site)


def test_a_poll_ahead_waits_as_long_as_the_newest_advice_has_it(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "NETWORK_DELAY_S", 2.0)
    for timeout_ms, with_events in ((300, False), (110_000, True)):
        advice = {"reconnect": "retry", "interval": 0, "timeout": timeout_ms}
        reply = {"successful": True, "advice": advice}
        site.org.fault("connect", "reply", only_with_events=with_events, reply=reply, end_session=False)
    site.org.knobs(max_events=10 * EACH)
    report = site.capture(ACCOUNT, CONTACT, seconds=4)
    assert (report.outcome, report.lost_sessions) == ("ok", 0), report.summary()
    finish(site)


def test_near_the_deadline_a_large_answer_is_read_where_it_can_be_left_behind(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "READ_HERE_BEFORE_S", 12.0)
    read, is_over = CometDSession.read, threading.Event()

    def endless(session: CometDSession, polled: Unread) -> Answer:
        if polled.size_bytes >= run.FULL_ANSWER_BYTES:
            is_over.wait(60)
        return read(session, polled)

    monkeypatch.setattr(CometDSession, "read", endless)
    report = site.capture(ACCOUNT, CONTACT, seconds=1)
    is_over.set()
    assert report.outcome == "ok", report.summary()
    assert site.late_s < 3 * slowness()
    monkeypatch.setattr(CometDSession, "read", read)
    finish(site)


# --- memory ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def alive(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], int]]:
    """How many answers are held in memory before they are read, by reference counts alone."""
    came: list[weakref.ref[Unread]] = []
    poll = CometDSession.poll

    def watched(session: CometDSession, **limits: Any) -> Answer | Unread:
        found = poll(session, **limits)
        came.extend([weakref.ref(found)] if isinstance(found, Unread) and found.size_bytes > 1_000 else [])
        return found

    monkeypatch.setattr(CometDSession, "poll", watched)
    gc.disable()
    yield lambda: len([each for each in came if each() is not None])
    gc.enable()


@pytest.mark.parametrize("is_ahead", [True, False])
def test_of_an_answer_that_waits_to_be_landed_only_the_lines_are_held(
    site: Site,
    monkeypatch: pytest.MonkeyPatch,
    alive: Callable[[], int],
    is_ahead: bool,
    capture_all: Callable[[], RunReport],
) -> None:
    land = run._Run._land
    held: list[int] = []

    def watched(self: run._Run, answer: Answer, polled_at: datetime | None) -> None:
        if answer.deliveries:
            held.append(alive())
        land(self, answer, polled_at)

    monkeypatch.setattr(run._Run, "_land", watched)
    if not is_ahead:
        monkeypatch.setattr(CometDSession, "is_followed_at_once", lambda self, polled: False)
    assert capture_all().outcome == "ok"
    assert len(held) == 10
    assert max(held) <= is_ahead, "the one that may have come already, and no other"


def test_no_session_holds_what_the_one_before_it_left_behind(
    site: Site, monkeypatch: pytest.MonkeyPatch, alive: Callable[[], int], capture_all: Callable[[], RunReport]
) -> None:
    poll = run._Run._poll
    held: list[int] = []

    def watched(self: run._Run, *arguments: Any) -> None:
        held.append(alive())
        poll(self, *arguments)

    monkeypatch.setattr(run._Run, "_poll", watched)
    site.org.fault("connect", "garble", only_with_events=True, after=1)
    assert capture_all().sessions == 2
    assert held[0] == 0
    assert held[1] <= 1, "the poll that was under way may have been answered only now"
