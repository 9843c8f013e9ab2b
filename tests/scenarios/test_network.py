"""The line itself: storage that is slow, a Salesforce connection half open, a host that does not exist."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.azurite import Azurite
from tests.faultproxy import FaultProxy, Spoil
from tests.harness import ACCOUNT, Site, assert_landed_once, assert_sessions_clean, messages_of, wait_until


@pytest.fixture
def line(storage: Azurite) -> Iterator[FaultProxy]:
    """The line to the storage."""
    with FaultProxy(storage.url) as opened:
        yield opened


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
