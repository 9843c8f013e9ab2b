"""Whatever hangs, a run ends within its seconds plus fifteen, says once what it was, and shows no traceback."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from datetime import datetime, timedelta
from typing import Any

import pytest

from cdc.report import RunReport
from tests.azurite import Azurite
from tests.faultproxy import FaultProxy
from tests.harness import (
    ACCOUNT,
    CONTACT,
    RunClock,
    Site,
    assert_landed_once,
    assert_sessions_clean,
    messages_of,
    slowness,
    wait_until,
)
from tests.one_run import spawn

GRACE_S = 15.0


@pytest.fixture
def black_hole() -> Iterator[int]:
    """A port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        yield listener.getsockname()[1]


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port where nobody listens, nor can: it is taken."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield taken.getsockname()[1]


@pytest.fixture
def line(storage: Azurite) -> Iterator[FaultProxy]:
    """The line to the storage, which a test can cut."""
    with FaultProxy(storage.url) as opened:
        yield opened


def dead(site: Site, port: int) -> dict[str, str]:
    """The setting of a storage account at a dead port."""
    account = site.connection_string.partition("BlobEndpoint=")[0]
    return {"CDC_STORAGE": f"{account}BlobEndpoint=http://127.0.0.1:{port}/cdctests;"}


@pytest.mark.parametrize("on", ["token", "handshake", "connect", "subscribe"])
def test_a_request_that_is_never_answered_fails_the_run_with_one_message(site: Site, on: str) -> None:
    site.org.publish(ACCOUNT, 5)
    site.org.fault(on, "hang", times=-1)
    report = site.capture(ACCOUNT, CONTACT, seconds=1)
    assert site.late_s < GRACE_S / 2
    assert report.outcome == "failed"
    [message] = messages_of(report)
    assert "no answer" in message or "no complete answer" in message
    assert ("asking for a token" if on == "token" else on) in message
    site.org.clear_faults()
    assert site.capture(ACCOUNT, CONTACT).outcome == "ok"
    assert_landed_once(site.org, site.log, ACCOUNT)
    assert_sessions_clean(site)


def test_every_poll_and_the_disconnect_hang_and_the_run_says_so(site: Site) -> None:
    """The first connect and the subscribe are answered, then nothing is: that is not a capture."""
    site.org.fault("connect", "hang", after=1, times=-1)
    site.org.fault("disconnect", "hang", times=-1)
    report = site.capture(ACCOUNT, seconds=1)
    assert site.late_s < GRACE_S / 2
    assert report.outcome == "failed"
    assert messages_of(report), "a failed run must say why"


def test_a_token_endpoint_that_hung_is_simply_asked_by_the_next_run(site: Site) -> None:
    site.org.fault("token", "hang", times=-1)
    site.org.publish(ACCOUNT, 5)
    report = site.capture(ACCOUNT, seconds=0.5)
    assert report.outcome == "failed"
    assert "asking for a token" in messages_of(report)[0]
    site.org.clear_faults()
    assert site.capture(ACCOUNT).outcome == "ok"
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_storage_that_refuses_connections_fails_the_run_and_names_itself(site: Site, closed_port: int) -> None:
    report = site.capture(
        ACCOUNT, CONTACT, seconds=1, clock=RunClock(is_started=True), settings=dead(site, closed_port)
    )
    assert site.late_s < GRACE_S / 2
    assert report.outcome == "failed"
    [problem] = report.problems
    assert "connection refused" in problem.message  # however short the run
    assert "check the storage address" in problem.hint
    assert site.asked() == []  # no session was opened for events that could not be landed


def test_storage_that_never_answers_fails_the_run_and_names_itself(site: Site, black_hole: int) -> None:
    report = site.capture(ACCOUNT, CONTACT, seconds=2, clock=RunClock(is_started=True), settings=dead(site, black_hole))
    assert site.late_s < GRACE_S
    assert report.outcome == "failed"
    [problem] = report.problems
    assert "reading the log of" in problem.message
    assert "no answer before the run had to end" in problem.message
    assert "Blob Storage can be reached" in problem.hint


@pytest.mark.parametrize("what", ["token", "storage"])
def test_a_process_whose_run_hangs_ends_without_a_traceback(site: Site, black_hole: int, what: str) -> None:
    more: dict[str, str] = {}
    if what == "token":
        site.org.fault("token", "hang", times=-1)
    else:
        more = dead(site, black_hole)
    began = time.monotonic()
    with spawn(site.environment(ACCOUNT, **more), seconds=1) as process:
        out, log = process.communicate(timeout=120)
    assert time.monotonic() - began < (1 + GRACE_S) * slowness()
    report: dict[str, Any] = json.loads(out)
    assert (report["outcome"], len(report["errors"])) == ("failed", 1)
    assert "Traceback" not in log
    assert process.returncode == 0


def test_storage_that_is_cut_off_for_a_moment_costs_nothing(site: Site, line: FaultProxy) -> None:
    site.org.traffic(ACCOUNT, 50)
    reports: list[RunReport] = []
    through = line.stand_in_for(site.connection_string)
    worker = threading.Thread(
        target=lambda: reports.append(site.capture(ACCOUNT, seconds=4, CDC_STORAGE=through)),
    )
    worker.start()
    wait_until(lambda: len(site.log.segments(ACCOUNT)) >= 2)
    line.go_away()
    line.close_connections()
    time.sleep(0.3)
    line.restore()
    worker.join()
    site.org.traffic(ACCOUNT, 0)
    assert reports[0].outcome == "ok", reports[0].summary()
    site.capture(ACCOUNT)
    assert_landed_once(site.org, site.log, ACCOUNT)
    assert_sessions_clean(site)


def test_storage_that_falls_silent_in_the_middle_of_a_run_fails_it_in_time_and_loses_nothing(
    site: Site, line: FaultProxy
) -> None:
    site.org.traffic(ACCOUNT, 50)
    found: list[RunReport] = []
    through = line.stand_in_for(site.connection_string)
    worker = threading.Thread(target=lambda: found.append(site.capture(ACCOUNT, seconds=4, CDC_STORAGE=through)))
    worker.start()
    wait_until(lambda: len(site.log.segments(ACCOUNT)) >= 2)
    line.silence()
    worker.join()
    site.org.traffic(ACCOUNT, 0)
    [report] = found
    assert site.late_s < GRACE_S
    assert report.outcome == "failed", report.summary()
    assert "landing: no answer before the run had to end" in messages_of(report)
    assert any("Blob Storage can be reached" in problem.hint for problem in report.problems)
    line.clear()
    assert site.capture(ACCOUNT).outcome == "ok"
    assert_landed_once(site.org, site.log, ACCOUNT)
    assert_sessions_clean(site)


def test_a_server_that_ignores_the_advised_timeout_ends_no_run_badly(site: Site) -> None:
    site.org.knobs(honour_client_timeout=False)
    site.org.publish(ACCOUNT, 5)
    report = site.capture(ACCOUNT, seconds=1)
    assert report.outcome == "ok", report.summary()
    assert site.late_s < 5 * slowness()
    assert len(site.asked("disconnect")) == 1
    assert_landed_once(site.org, site.log, ACCOUNT)


@pytest.mark.parametrize("status", [200, 502])
def test_a_web_page_that_comes_after_the_deadline_is_no_fault(site: Site, status: int) -> None:
    site.org.knobs(honour_client_timeout=False, hold_s=1.3 * slowness() + 0.4, events_on_subscribe=False)
    site.org.fault("connect", "html", after=1, carried_out=True, status=status)
    report = site.capture(ACCOUNT, seconds=1.3)
    assert (report.outcome, report.lost_sessions) == ("ok", 0), report.summary()


def test_an_idle_server_that_ignores_the_advised_timeout_is_no_fault_either(site: Site) -> None:
    site.org.knobs(honour_client_timeout=False)
    report = site.capture(ACCOUNT, seconds=1)
    assert report.outcome == "ok", report.summary()
    assert site.late_s < 5 * slowness()
    assert [entry["successful"] for entry in site.asked("disconnect")] == [True]


def test_short_runs_whose_polls_are_never_answered_are_green_for_a_quarter_of_an_hour_at_most(site: Site) -> None:
    """A server that ignores advice.timeout looks like one that has stopped answering; only longer runs tell."""
    site.org.publish(ACCOUNT, 1)
    assert site.capture(ACCOUNT).outcome == "ok"
    site.org.fault("connect", "hang", after=1, times=-1)
    site.org.knobs(honour_client_timeout=False)
    assert site.capture(ACCOUNT, seconds=1).outcome == "ok"
    [(name, record)] = site.log.state("runs/").items()
    polled = datetime.fromisoformat(record["cleanPolls"][ACCOUNT]) - timedelta(minutes=16)
    record["cleanPolls"][ACCOUNT] = polled.isoformat()
    site.log.write_state(name, json.dumps(record).encode())
    site.org.clear_faults()
    site.org.fault("connect", "hang", after=1, times=-1)
    report = site.capture(ACCOUNT, seconds=1)
    assert report.outcome == "degraded", report.summary()
    [problem] = report.problems
    assert problem.message == f"listening to {ACCOUNT}: no poll has been answered since {polled:%Y-%m-%d %H:%M} UTC"
    assert "110 s" in problem.hint
    site.org.clear_faults()
    site.org.publish(ACCOUNT, 1)
    assert site.capture(ACCOUNT).outcome == "ok"
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_a_run_that_is_stopped_ends_at_once_and_cleanly(site: Site) -> None:
    stop: Future[None] = Future()
    site.org.publish(ACCOUNT, 20)
    reports: list[RunReport] = []
    worker = threading.Thread(target=lambda: reports.append(site.capture(ACCOUNT, seconds=60, stop=stop)))
    worker.start()
    wait_until(lambda: site.log.lines(ACCOUNT))
    stop.set_result(None)
    worker.join()
    assert site.late_s < -10
    assert (reports[0].outcome, reports[0].is_interrupted) == ("ok", True)
    assert not site.org.sessions()
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_a_way_that_swallows_every_poll_fails_the_run_though_all_else_is_answered(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Connected, subscribed and deaf: the last poll's abort is excused only where no poll was lost before it."""
    monkeypatch.setattr("cdc.run.NETWORK_DELAY_S", 0.3)
    site.org.knobs(advised_timeout_ms=300)
    site.org.publish(ACCOUNT, 5)
    site.org.knobs(events_on_subscribe=False)
    site.org.fault("connect", "hang", after=1, times=1)
    for _ in range(20):
        site.org.fault("connect", "hang", after=1, times=1)  # the first connect of each session is answered
    report = site.capture(ACCOUNT, seconds=2.5)
    assert report.outcome == "failed", report.summary()
    assert report.lost_sessions >= 1
    assert messages_of(report)
