"""Faults: what is sent, what the session loses, and what the script says is still to come."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest
import requests

from emulator.client import ControlError, Emulator
from emulator.faults import REPLIES
from tests.emulator.conftest import ACCOUNT, Comet, replay_ids, reply
from tests.harness import wait_until


@pytest.mark.parametrize("do", ["drop", "reset", "truncate", "stall"])
def test_a_broken_answer_loses_its_events_for_the_session_but_not_for_replay(
    org: Emulator, client: Comet, do: str
) -> None:
    client.open()
    org.fault("connect", do, only_with_events=True)
    lost = org.publish(ACCOUNT, 3)
    with pytest.raises(requests.RequestException):
        client.meta("connect", timeout=0.3 if do == "stall" else 60)
    wait_until(lambda: org.requests()[-1]["events"] == 3)
    later = org.publish(ACCOUNT, 1)
    assert replay_ids(client.connect()) == later
    client.open(replay=lost[0])
    assert [e["events"] for e in org.requests() if e["channel"] == "/meta/connect"] == [0, 3, 1, 0]
    assert [e["events"] for e in org.requests() if e["channel"] == "/meta/subscribe"] == [0, 3]


@pytest.mark.parametrize("do", ["truncate_clean", "garble"])
def test_a_spoiled_body_comes_with_a_clean_length(org: Emulator, client: Comet, do: str) -> None:
    client.open()
    org.publish(ACCOUNT, 3)
    org.fault("connect", do, keep=0.3)
    with pytest.raises(ValueError):
        client.connect()
    assert client.last is not None
    assert len(client.last.content) == int(client.last.headers["Content-Length"])
    assert replay_ids(client.connect()) == []


def test_a_status_or_a_page_leaves_the_session_and_its_events_alone(org: Emulator, client: Comet) -> None:
    client.open()
    ids = org.publish(ACCOUNT, 1)
    org.fault("connect", "status", status=503, body="busy", headers={"Retry-After": "1"})
    org.fault("connect", "html")
    message = {"channel": "/meta/connect", "clientId": client.client_id, "connectionType": "long-polling"}
    busy, page = client.post(message), client.post(message)
    assert (busy.status_code, busy.text, busy.headers["Retry-After"]) == (503, "busy", "1")
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert replay_ids(client.connect()) == ids


def test_a_status_after_the_events_were_dequeued_loses_them(org: Emulator, client: Comet) -> None:
    client.open()
    org.publish(ACCOUNT, 1)
    org.fault("connect", "status", status=502, only_with_events=True)
    message = {"channel": "/meta/connect", "clientId": client.client_id, "connectionType": "long-polling"}
    assert client.post(message).status_code == 502
    assert replay_ids(client.connect()) == []


def test_a_hung_request_is_never_answered(org: Emulator, client: Comet) -> None:
    client.open()
    org.fault("connect", "hang")
    with pytest.raises(requests.ReadTimeout):
        client.meta("connect", timeout=0.1)


def test_a_delayed_answer_is_late(org: Emulator, client: Comet) -> None:
    org.fault("handshake", "delay", seconds=0.1)
    started = time.monotonic()
    assert client.handshake()["successful"]
    assert time.monotonic() - started >= 0.1


def test_faults_strike_in_order_after_so_many_requests_so_many_times(org: Emulator, client: Comet) -> None:
    org.fault("handshake", "status", after=1, times=2, status=503)
    org.fault("handshake", "status", status=502)
    codes = [client.post({"channel": "/meta/handshake"}).status_code for _ in range(5)]
    assert codes == [200, 503, 503, 502, 200]
    assert org.faults() == []


def test_faults_can_be_listed_and_cleared(org: Emulator, client: Comet) -> None:
    org.fault("connect", "reply", like="busy", times=-1)
    (waiting,) = org.faults()
    assert (waiting["on"], waiting["do"], waiting["like"], waiting["times"]) == ("connect", "reply", "busy", -1)
    org.clear_faults()
    assert org.faults() == []
    assert client.open().connect()[0]["successful"]


@pytest.mark.parametrize("like", [name for name in REPLIES if not name.startswith(("handshake", "concurrent"))])
def test_a_ready_made_reply_replaces_the_connect_reply(org: Emulator, client: Comet, like: str) -> None:
    client.open()
    org.fault("connect", "reply", like=like)
    (answer,) = client.connect()
    expected: dict[str, Any] = {"successful": False, **REPLIES[like]}
    assert {name: answer.get(name) for name in expected} == expected
    is_over = answer["advice"]["reconnect"] != "retry"
    assert len(org.sessions()) == (0 if is_over else 1)


def test_a_failed_connect_reply_can_come_with_events(org: Emulator, client: Comet) -> None:
    client.open()
    ids = org.publish(ACCOUNT, 2)
    org.fault("connect", "reply", like="auth_invalid", only_with_events=True)
    answer = client.connect()
    assert replay_ids(answer) == ids
    assert reply(answer)["error"] == "401::Authentication invalid"


def test_a_503_can_hide_behind_a_401(org: Emulator, client: Comet) -> None:
    client.open()
    org.fault("connect", "reply", like="busy")
    (answer,) = client.connect()
    assert answer["error"] == "401::Authentication invalid"
    assert answer["ext"]["sfdc"]["failureReason"] == ("503::Server is too busy.  Please try your request again later.")
    assert answer["advice"] == {"reconnect": "none", "interval": 0}


def test_a_handshake_can_be_denied_for_too_many_connections(org: Emulator, client: Comet) -> None:
    org.fault("handshake", "reply", like="handshake_dos")
    answer = client.handshake()
    assert answer["error"] == "403::Handshake denied"
    assert answer["ext"]["sfdc"]["failureReason"].startswith("403::To protect all customers")
    assert "clientId" not in answer


def test_handshakes_can_succeed_and_every_connect_know_nobody(org: Emulator, client: Comet) -> None:
    org.fault("connect", "reply", like="unknown_client", times=-1)
    for _ in range(3):
        client.handshake()
        assert client.subscribe()[0]["successful"]
        (answer,) = client.connect()
        assert answer["error"] == "403::Unknown client"
        assert "clientId" not in answer


def test_one_channels_subscribe_can_fail_alone(org: Emulator, client: Comet) -> None:
    client.handshake()
    org.fault("subscribe", "reply", subscription=ACCOUNT, reply={"error": "403::Cannot create channel"})
    assert client.subscribe("/data/ContactChangeEvent")[0]["successful"]
    assert client.subscribe(ACCOUNT)[0]["error"] == "403::Cannot create channel"
    assert client.subscribe(ACCOUNT)[0]["successful"]


def test_a_disconnect_can_be_pushed_with_events_before_it(org: Emulator, client: Comet) -> None:
    client.open()
    ids = org.publish(ACCOUNT, 1)
    org.fault("connect", "push_disconnect", only_with_events=True)
    answer = client.connect()
    assert replay_ids(answer) == ids
    assert [message["channel"] for message in answer[1:]] == ["/meta/disconnect", "/meta/connect"]
    assert org.sessions() == []


def test_a_pushed_disconnect_comes_once_and_without_waiting(org: Emulator, client: Comet) -> None:
    client.open()
    org.fault("connect", "push_disconnect")
    pushed, answer = client.connect()
    assert pushed == {"channel": "/meta/disconnect"}
    assert (answer["error"], answer["advice"]["reconnect"]) == ("403::Unknown client", "none")


def test_random_faults_come_back_the_same_for_the_same_seed(org: Emulator, client: Comet) -> None:
    def codes() -> list[int]:
        org.random_faults(0.5, seed=3, on=["handshake"], do=["status"])
        return [client.post({"channel": "/meta/handshake"}).status_code for _ in range(20)]

    first = codes()
    assert set(first) == {200, 503}
    assert codes() == first
    org.clear_faults()
    assert client.handshake()["successful"]


def test_sockets_can_be_closed_under_a_held_connect(org: Emulator, client: Comet) -> None:
    client.open()
    org.knobs(hold_s=30)
    failures: list[Exception] = []

    def connect() -> None:
        try:
            client.connect()
        except requests.ConnectionError as error:
            failures.append(error)

    thread = threading.Thread(target=connect)
    thread.start()
    while not any(session["isHeld"] for session in org.sessions()):
        time.sleep(0.005)
    org.end_sessions("close")
    thread.join()
    assert len(failures) == 1


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ({"on": "lunch", "do": "drop"}, "`on` is one of"),
        ({"on": "connect", "do": "explode"}, "`do` is one of"),
        ({"on": "connect", "do": "drop", "whenever": 1}, "there is no field 'whenever'"),
        ({"on": "connect", "do": "drop", "times": "two"}, "times takes int"),
    ],
)
def test_a_fault_that_makes_no_sense_is_refused(org: Emulator, fault: dict[str, Any], text: str) -> None:
    with pytest.raises(ControlError, match=text):
        org.call("POST", "/faults", fault)


def test_a_client_that_starts_anew_after_each_random_fault_gets_every_event_once(org: Emulator, client: Comet) -> None:
    org.knobs(max_events=7, hold_s=0.01)
    ids = org.publish(ACCOUNT, 120)
    org.random_faults(0.4, seed=11, do=["drop", "reset", "truncate", "truncate_clean", "garble", "status", "html"])
    landed: list[int] = []
    until = time.monotonic() + 60
    while landed != ids:
        assert time.monotonic() < until
        client.http.cookies.clear()
        try:
            client.handshake()
            landed += replay_ids(client.subscribe(replay=landed[-1] if landed else -2))
            for _ in range(3):
                landed += replay_ids(client.connect())
            landed += replay_ids(client.meta("disconnect"))
        except (requests.RequestException, ValueError, KeyError):
            continue
    assert org.stats()["faultsStruck"] > 5
