"""Handshake, cookies, the long poll, and how sessions end."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import requests

from emulator.client import Emulator
from emulator.parts import Parts
from tests.emulator.conftest import ACCOUNT, Comet, reply

UNKNOWN = {"error": "403::Unknown client", "advice": {"interval": 0, "reconnect": "handshake"}}


def in_background(call: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(call()))
    thread.start()
    return thread, results


def wait_until_held(org: Emulator) -> None:
    until = time.monotonic() + 30
    while not any(session["isHeld"] for session in org.sessions()):
        assert time.monotonic() < until
        time.sleep(0.005)


def test_a_handshake_is_answered_as_salesforce_answers(client: Comet) -> None:
    answer = client.handshake()
    assert re.fullmatch("[0-9a-z]{26,29}", answer.pop("clientId"))
    assert answer == {
        "ext": {"replay": True, "payload.format": True},
        "minimumVersion": "1.0",
        "supportedConnectionTypes": ["long-polling"],
        "channel": "/meta/handshake",
        "id": "1",
        "version": "1.0",
        "successful": True,
    }
    assert client.last is not None
    assert re.search("BAYEUX_BROWSER=[^,]*; HttpOnly", client.last.headers["Set-Cookie"])
    assert set(client.http.cookies.keys()) == {"BAYEUX_BROWSER", "sfdc-stream"}
    assert set("/+=:!") & set(client.http.cookies["sfdc-stream"]) >= set("/=:!")


@pytest.mark.parametrize(
    ("header", "reason"), [("", "401::Request requires authentication"), ("Bearer no", "401::Authentication invalid")]
)
def test_a_handshake_without_a_good_token_is_denied(client: Comet, header: str, reason: str) -> None:
    message = {"channel": "/meta/handshake", "id": "1", "version": "1.0"}
    (answer,) = client.post([message], Authorization=header).json()
    assert (answer["error"], answer["successful"]) == ("403::Handshake denied", False)
    assert answer["ext"]["sfdc"] == {"failureReason": reason}
    assert answer["advice"] == {"reconnect": "none"}


def test_only_the_first_connect_brings_advice_and_later_ones_are_held(client: Comet) -> None:
    client.handshake()
    advice = {"interval": 0, "timeout": 110000, "reconnect": "retry"}
    first = client.connect()
    assert first == [
        {"clientId": client.client_id, "channel": "/meta/connect", "successful": True, "id": "2", "advice": advice}
    ]
    started = time.monotonic()
    assert client.connect() == [
        {"clientId": client.client_id, "channel": "/meta/connect", "successful": True, "id": "3"}
    ]
    assert time.monotonic() - started >= 0.15


def test_a_clients_timeout_is_honoured_or_ignored(org: Emulator, client: Comet) -> None:
    client.open()
    org.knobs(hold_s=30)
    assert client.connect(advice={"timeout": 20})[0]["advice"]["timeout"] == 110000
    org.knobs(hold_s=0.1, honour_client_timeout=False)
    assert "advice" not in client.connect(advice={"timeout": 60_000})[0]


def test_a_held_connect_answers_when_an_event_comes(org: Emulator, client: Comet) -> None:
    client.open()
    org.knobs(hold_s=30)
    thread, results = in_background(client.connect)
    wait_until_held(org)
    (replay_id,) = org.publish(ACCOUNT)
    thread.join()
    event, meta = results[0]
    assert event["data"]["event"]["replayId"] == replay_id
    assert meta["successful"]


@pytest.mark.parametrize("name", ["connect", "subscribe", "disconnect"])
def test_without_the_browser_cookie_every_message_fails(client: Comet, name: str) -> None:
    client.open()
    client.http.cookies.clear()
    answer = reply(client.meta(name, subscription=ACCOUNT))
    expected = f"400::Client {client.client_id} has established a session, but no BAYEUX_BROWSER cookie present"
    assert answer["error"] == expected


@pytest.mark.parametrize("cookie", ["BAYEUX_BROWSER", "sfdc-stream"])
def test_a_cookie_that_was_encoded_anew_leads_nowhere(client: Comet, cookie: str) -> None:
    client.open()
    value = client.http.cookies[cookie].replace("=", "%3D")
    jar = dict(client.http.cookies.items()) | {cookie: value}
    client.http.cookies.clear()
    text = "; ".join(f"{name}={value}" for name, value in jar.items())
    message = {"channel": "/meta/connect", "clientId": client.client_id, "id": "9", "connectionType": "long-polling"}
    (answer,) = client.post(message, Cookie=text).json()
    assert answer == {"channel": "/meta/connect", "id": "9", "successful": False, **UNKNOWN}


def test_a_session_expires_after_its_last_answer(org: Emulator, client: Comet) -> None:
    client.open()
    org.knobs(session_expiry_s=0.01)
    time.sleep(0.03)
    assert client.connect() == [{"channel": "/meta/connect", "id": "4", "successful": False, **UNKNOWN}]
    assert org.stats()["sessionsEnded"] == {"expired": 1}


def test_the_routing_cookie_expires_before_the_session(org: Emulator, client: Comet) -> None:
    org.knobs(route_cookie_s=0.0, unknown_client_reconnect="none", unknown_client_with_id=True)
    client.handshake()
    answer = client.connect()[0]
    assert answer["clientId"] == client.client_id
    assert answer["advice"] == {"interval": 0, "reconnect": "none"}


def test_a_new_connect_cancels_the_one_being_held(org: Emulator, client: Comet) -> None:
    client.open()
    org.knobs(hold_s=30)
    message = {"channel": "/meta/connect", "clientId": client.client_id, "connectionType": "long-polling"}
    thread, results = in_background(lambda: client.post([{**message, "id": "a"}]))
    wait_until_held(org)
    second = requests.post(
        f"{org.url}/cometd/66.0/connect",
        json=[{**message, "id": "b", "advice": {"timeout": 0}}],
        headers={"Authorization": f"OAuth {client.token}"},
        cookies=client.http.cookies,
        timeout=5,
    )
    thread.join()
    assert results[0].status_code == 500
    assert second.json()[0]["successful"]


def test_two_sessions_in_one_cookie_jar_are_told_so(org: Emulator, client: Comet) -> None:
    client.open()
    first = client.client_id
    client.open()
    org.knobs(hold_s=30)
    message = {"channel": "/meta/connect", "clientId": first, "connectionType": "long-polling", "id": "x"}
    thread, _ = in_background(lambda: client.post([message]))
    wait_until_held(org)
    advice = client.connect()[0]["advice"]
    assert advice == {"multiple-clients": True, "reconnect": "retry", "interval": 2000}
    org.end_sessions("release")
    thread.join()


def test_a_disconnect_frees_the_session_and_wakes_its_connect(org: Emulator, client: Comet) -> None:
    client.open()
    org.knobs(hold_s=30)
    message = {"channel": "/meta/connect", "clientId": client.client_id, "connectionType": "long-polling", "id": "c"}
    thread, results = in_background(lambda: client.post([message]))
    wait_until_held(org)
    assert client.meta("disconnect") == [
        {"clientId": client.client_id, "channel": "/meta/disconnect", "successful": True, "id": "4"}
    ]
    thread.join()
    assert results[0].json()[0]["advice"]["reconnect"] == "none"
    assert org.sessions() == []
    assert client.connect()[0]["error"] == "403::Unknown client"


def test_orphaned_sessions_count_against_the_client_limit_until_they_expire(
    org: Emulator, comet: Callable[[], Comet]
) -> None:
    org.knobs(max_clients=1)
    comet().open()
    second = comet()
    assert second.handshake()["ext"]["sfdc"] == {"failureReason": "403::Organization concurrent user limit exceeded"}
    org.knobs(session_expiry_s=0.01)
    time.sleep(0.03)
    assert second.handshake()["successful"]


def test_a_revoked_token_ends_a_held_connect_with_401(org: Emulator, client: Comet) -> None:
    client.open()
    org.knobs(hold_s=30)
    thread, results = in_background(client.connect)
    wait_until_held(org)
    assert org.revoke_tokens() == 1
    thread.join()
    (answer,) = results[0]
    assert answer["error"] == "401::Authentication invalid"
    assert answer["advice"] == {"reconnect": "none", "interval": 0}


def test_a_revoked_token_can_also_be_a_bare_http_401(org: Emulator, client: Comet) -> None:
    client.open()
    org.knobs(auth_errors="http")
    org.revoke_tokens()
    assert client.post([{"channel": "/meta/connect", "clientId": client.client_id}]).status_code == 401


def test_the_server_can_push_a_disconnect(org: Emulator, client: Comet) -> None:
    client.open()
    org.knobs(hold_s=30)
    thread, results = in_background(client.connect)
    wait_until_held(org)
    org.end_sessions("push_disconnect")
    thread.join()
    pushed, answer = results[0]
    assert pushed == {"channel": "/meta/disconnect"}
    assert answer["error"] == "403::Unknown client"
    assert answer["advice"] == {"reconnect": "none", "interval": 0}


def test_a_connect_that_came_with_others_is_not_held(org: Emulator, client: Comet) -> None:
    client.open()
    org.knobs(hold_s=30)
    connect = {"channel": "/meta/connect", "clientId": client.client_id, "connectionType": "long-polling", "id": "a"}
    other = {"channel": "/meta/unsubscribe", "clientId": client.client_id, "subscription": ACCOUNT, "id": "b"}
    answers = client.post([connect, other]).json()
    assert [answer["successful"] for answer in answers] == [True, True]


def test_large_requests_and_wrong_versions_are_refused(client: Comet) -> None:
    too_large = client.post([{"channel": "/meta/handshake", "pad": "x" * 33_000}])
    assert (too_large.status_code, too_large.text) == (413, "413::Maximum Request Size Exceeded")
    message = {"channel": "/meta/handshake"}
    old = client.post(message, path="/cometd/36.0").json()[0]["error"]
    none = client.post(message, path="/cometd").json()[0]["error"]
    assert old == (
        "400::Unsupported API version. Only API versions '37.0' and later are supported. URI format: '/cometd/66.0'"
    )
    assert none == "400::API version in the URI is mandatory. URI format: '/cometd/66.0'"


def test_a_wrong_connection_type_is_refused(client: Comet) -> None:
    client.handshake()
    message = {"channel": "/meta/connect", "clientId": client.client_id, "connectionType": "websocket"}
    assert client.post(message).json()[0]["error"] == "400::Invalid connection type websocket"


def test_every_answer_carries_the_date_of_the_orgs_clock(org: Emulator, client: Comet, parts: Parts) -> None:
    org.advance_clock(10 * 86_400)
    client.handshake()
    assert client.last is not None
    shown = time.strptime(client.last.headers["Date"], "%a, %d %b %Y %H:%M:%S GMT")
    assert shown.tm_yday == time.gmtime(parts.clock.now_s()).tm_yday


def test_a_poll_that_its_client_gave_up_still_swallows_the_next_event(org: Emulator, client: Comet) -> None:
    client.open()
    org.knobs(hold_s=30)
    with pytest.raises(requests.ReadTimeout):
        client.meta("connect", timeout=0.05)
    wait_until_held(org)
    org.publish(ACCOUNT, 1)
    org.knobs(hold_s=0.1)
    assert [message["channel"] for message in client.connect()] == ["/meta/connect"]
