"""The line itself: every answer of storage lost in turn, storage that is slow, a Salesforce connection half open."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from azure.storage.blob import ExponentialRetry

from cdc.report import RunReport
from tests.azurite import Azurite
from tests.faultproxy import FaultProxy, Spoil
from tests.harness import (
    ACCOUNT,
    CONTACT,
    Site,
    assert_landed_once,
    assert_layout,
    assert_sessions_clean,
    messages_of,
    wait_until,
)

STRAY = b'{"channel":"/data/ContactChangeEvent","data":{}}'
# Writes of a first run of two channels: containers (each may try), checkpoints, generations, segments, run record.
FIRST_RUN = range(11, 14)
# Of a run with a gap, a generation, turns and a stray: all the kinds that a first run has not.
LATER_RUN = range(8, 14)


@pytest.fixture
def line(storage: Azurite, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """The line to the storage; the SDK repeats at once instead of after seconds."""
    monkeypatch.setattr(ExponentialRetry, "get_backoff_time", lambda self, settings: 0.05)
    with FaultProxy(storage.url) as opened:
        yield opened


def first_run(site: Site) -> None:
    """Two channels that nobody has captured yet."""
    for channel in (ACCOUNT, CONTACT):
        site.org.publish(channel, 5)


def later_run(site: Site) -> None:
    """The day after: one channel's stream was reset, and the other has an event that cannot be placed."""
    first_run(site)
    assert site.capture(ACCOUNT, CONTACT).outcome == "ok"
    site.org.advance_clock(86_400)
    site.org.reset_stream(ACCOUNT)
    first_run(site)
    site.org.raw(CONTACT, STRAY)


def assert_landed(site: Site) -> None:
    """Each event stands in the log once; what cannot be placed, in quarantine."""
    for channel in (ACCOUNT, CONTACT):
        published = [delivery for delivery in site.org.deliveries(channel) if delivery != STRAY]
        assert site.log.lines(channel) == published
        assert_layout(site.log, channel)


def captured_through(site: Site, line: FaultProxy) -> RunReport:
    """A run over the line, polls enough of it for a second session."""
    return site.capture(ACCOUNT, CONTACT, seconds=2, CDC_STORAGE=line.stand_in_for(site.connection_string))


@pytest.mark.parametrize("nth", range(FIRST_RUN.stop))
def test_the_answer_to_one_write_of_a_first_run_is_lost(site: Site, line: FaultProxy, nth: int) -> None:
    """Whichever it is: the write took effect, and nobody was told."""
    first_run(site)
    line.arm(Spoil("cut", on="response", request=b"PUT "), after=nth)
    report = captured_through(site, line)
    assert line.struck["response.cut"] == 1 or nth >= FIRST_RUN.start
    assert report.outcome == "ok", report.summary()
    site.org.publish(ACCOUNT, 5)
    assert site.capture(ACCOUNT, CONTACT).outcome == "ok"
    assert_landed(site)
    assert not [name for name in site.log.state() if name.startswith("gaps/")]


@pytest.mark.parametrize("nth", range(LATER_RUN.stop))
def test_the_answer_to_one_write_of_an_eventful_run_is_lost(site: Site, line: FaultProxy, nth: int) -> None:
    """The same for gap, generation, turn and quarantine."""
    later_run(site)
    line.arm(Spoil("cut", on="response", request=b"PUT "), after=nth)
    report = captured_through(site, line)
    assert line.struck["response.cut"] == 1 or nth >= LATER_RUN.start
    assert report.outcome == "degraded", report.summary()
    assert len(site.log.quarantine()) == 1
    site.org.publish(ACCOUNT, 5)
    assert site.capture(ACCOUNT, CONTACT).outcome == "ok"
    assert_landed(site)
    assert len(site.log.state("gaps/")) == 1


@pytest.mark.parametrize(("prepare", "writes"), [(first_run, FIRST_RUN), (later_run, LATER_RUN)])
def test_the_two_runs_have_no_more_writes_than_were_tried(
    site: Site, line: FaultProxy, prepare: Callable[[Site], None], writes: range
) -> None:
    prepare(site)
    before = site.log.names()
    line.arm(Spoil("delay", on="request", request=b"PUT "), times=-1)
    captured_through(site, line)
    assert line.struck["request.delay"] in writes
    kinds = {name.split("/")[1] for name in site.log.names() - before}
    assert kinds == {"data", "generations"} | ({"runs"} if prepare is first_run else {"gaps", "turns", "quarantine"})


def test_storage_slower_than_the_server_keeps_a_session_costs_sessions_and_no_event(
    site: Site, line: FaultProxy
) -> None:
    """A session is forgotten after half a second without a poll; a segment takes longer to write."""
    site.org.knobs(session_expiry_s=0.5, max_events=20, events_on_subscribe=False)
    site.org.backlog(ACCOUNT, 80)
    line.arm(Spoil("delay", on="request", request=b"PUT ", seconds=0.9), after=6, times=2)
    report = site.capture(ACCOUNT, seconds=4, CDC_STORAGE=line.stand_in_for(site.connection_string))
    assert line.struck["request.delay"] == 2
    assert report.outcome == "ok", report.summary()
    assert_landed_once(site.org, site.log, ACCOUNT)
    assert_sessions_clean(site)


def test_a_poll_on_a_half_open_connection_is_given_up_and_the_next_run_lands_all(site: Site) -> None:
    """The server has answered; what it wrote never arrives, and no end of the connection either."""
    with FaultProxy(site.org.url) as way:
        found: list[Any] = []
        login = way.stand_in_for(site.org.url)
        worker = threading.Thread(
            target=lambda: found.append(site.capture(ACCOUNT, seconds=2, SALESFORCE_LOGIN_URL=login))
        )
        worker.start()
        wait_until(lambda: any(session["isHeld"] for session in site.org.sessions()))
        assert way.strike(Spoil("half_open")) >= 1
        site.org.publish(ACCOUNT, 10)
        worker.join()
    assert site.log.lines(ACCOUNT) == []
    [report] = found
    assert site.late_s < 15
    assert report.outcome == "ok", report.summary()
    assert site.capture(ACCOUNT).outcome == "ok"
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_a_host_name_that_does_not_exist_ends_the_run_at_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.getaddrinfo

    def resolve(host: Any, *more: Any, **named: Any) -> Any:
        if host == "nowhere.my.salesforce.com":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return real(host, *more, **named)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    report = site.capture(ACCOUNT, seconds=20, SALESFORCE_LOGIN_URL="https://nowhere.my.salesforce.com")
    assert report.outcome == "failed"
    assert "no such host" in messages_of(report)[0]
    assert "My Domain" in report.problems[0].hint
    assert site.late_s < -10
