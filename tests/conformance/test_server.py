"""The conformance peer does what tests rely on: Bayeux by the official server, Salesforce's replay round it."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import requests

from tests.conformance.server import CometDServer, change_event, cometd_server

CHANNEL = "/data/AccountChangeEvent"


class Client:
    """As little of a Bayeux client as it takes to look at the server's answers."""

    def __init__(self, server: CometDServer) -> None:
        self.http = requests.Session()
        self.http.trust_env = False
        self.url = server.url
        self.client_id = ""

    def fetch_token(self) -> dict[str, Any]:
        answer = self.http.post(
            f"{self.url}/services/oauth2/token", data={"grant_type": "client_credentials"}, timeout=10
        )
        token: dict[str, Any] = answer.json()
        self.http.headers["Authorization"] = f"Bearer {token['access_token']}"
        return token

    def post(self, channel: str, **fields: Any) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = self.post_raw(channel, **fields).json()
        return messages

    def post_raw(self, channel: str, **fields: Any) -> requests.Response:
        message = {"channel": channel, "id": "1", **({"clientId": self.client_id} if self.client_id else {}), **fields}
        return self.http.post(f"{self.url}/cometd/66.0", json=[message], timeout=10)

    def handshake(self) -> dict[str, Any]:
        [reply] = self.post(
            "/meta/handshake", version="1.0", supportedConnectionTypes=["long-polling"], ext={"replay": True}
        )
        self.client_id = reply.get("clientId", "")
        return reply

    def connect(self, timeout_ms: int | None = None) -> list[dict[str, Any]]:
        advice = {} if timeout_ms is None else {"advice": {"timeout": timeout_ms}}
        return self.post("/meta/connect", connectionType="long-polling", **advice)

    def subscribe(self, replay_id: Any) -> list[dict[str, Any]]:
        return self.post("/meta/subscribe", subscription=CHANNEL, ext={"replay": {CHANNEL: replay_id}})


@pytest.fixture
def client(cometd: CometDServer) -> Iterator[Client]:
    """A client that has shaken hands and made its first connect."""
    client = Client(cometd)
    client.fetch_token()
    client.handshake()
    client.connect(timeout_ms=0)
    yield client
    client.http.close()


def replay_ids(messages: list[dict[str, Any]]) -> list[int]:
    return [m["data"]["event"]["replayId"] for m in messages if m["channel"] == CHANNEL]


def publish(server: CometDServer, count: int) -> list[int]:
    return server.publish(CHANNEL, [change_event("Account", number) for number in range(count)])


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline, "the server did not get there"
        time.sleep(0.01)


def test_the_token_points_at_the_server_itself(cometd: CometDServer) -> None:
    token = Client(cometd).fetch_token()
    assert token["instance_url"] == cometd.url
    assert token["id"].startswith(f"{cometd.url}/id/00D")
    assert cometd.tokens_issued() == 1


def test_a_handshake_offers_replay_and_sets_the_session_cookie(cometd: CometDServer) -> None:
    client = Client(cometd)
    client.fetch_token()
    reply = client.handshake()
    assert reply["successful"] is True
    assert reply["ext"]["replay"] is True
    assert "BAYEUX_BROWSER" in client.http.cookies


def test_a_handshake_without_a_token_is_denied_with_a_reason(cometd: CometDServer) -> None:
    reply = Client(cometd).handshake()
    assert reply["successful"] is False
    assert reply["ext"]["sfdc"] == {"failureReason": "401::Authentication invalid"}
    assert reply["advice"]["reconnect"] == "none"


def test_an_open_server_asks_for_no_token() -> None:
    with cometd_server(is_open=True) as server:
        assert Client(server).handshake()["successful"] is True


def test_a_revoked_token_is_a_bare_401(cometd: CometDServer, client: Client) -> None:
    cometd.revoke_tokens()
    assert client.post_raw("/meta/connect", connectionType="long-polling").status_code == 401
    client.fetch_token()
    assert client.handshake()["successful"] is True


def test_a_connect_that_asks_for_it_is_answered_at_once_with_the_advice(cometd: CometDServer) -> None:
    client = Client(cometd)
    client.fetch_token()
    client.handshake()
    [reply] = client.connect(timeout_ms=0)
    assert reply["successful"] is True
    assert reply["advice"] == {"reconnect": "retry", "timeout": 110_000, "interval": 0}


def test_a_poll_is_held_for_the_timeout_and_then_answered_empty() -> None:
    with cometd_server(timeout_ms=200) as server:
        client = Client(server)
        client.fetch_token()
        client.handshake()
        started = time.monotonic()
        [reply] = client.connect()
        assert reply["successful"] is True
        assert time.monotonic() - started >= 0.2


@pytest.mark.parametrize(("start", "expected"), [(-2, slice(0, 5)), (-1, slice(5, 5)), (2, slice(3, 5))])
def test_a_subscription_replays_what_comes_after_its_id(
    cometd: CometDServer, client: Client, start: int, expected: slice
) -> None:
    published = publish(cometd, 5)
    messages = client.subscribe(start if start < 0 else published[start])
    assert messages[-1]["successful"] is True
    assert replay_ids(messages) == published[expected]
    live = publish(cometd, 1)
    assert replay_ids(client.connect()) == live


def test_events_ride_on_connect_alone_where_told_so() -> None:
    with cometd_server(connect_only=True) as server:
        client = Client(server)
        client.fetch_token()
        client.handshake()
        client.connect(timeout_ms=0)
        published = publish(server, 3)
        assert replay_ids(client.subscribe(-2)) == []
        assert replay_ids(client.connect()) == published


def test_an_unknown_or_purged_replay_id_is_refused_in_salesforces_words(cometd: CometDServer, client: Client) -> None:
    published = publish(cometd, 2)
    cometd.purge(CHANNEL, published[0])
    for replay_id in (published[0], 42):
        [reply] = client.subscribe(replay_id)
        assert reply["successful"] is False
        assert reply["error"] == (
            f"400::The replayId {{{replay_id}}} you provided was invalid. "
            "Please provide a valid ID, -2 to replay all events, or -1 to replay only new events."
        )
    assert replay_ids(client.subscribe(-2)) == published[1:]


def test_a_replay_map_without_the_channel_is_refused(client: Client) -> None:
    [reply] = client.post("/meta/subscribe", subscription=CHANNEL, ext={"replay": {}})
    assert reply["error"].startswith(f"400::The replayId for channel {{{CHANNEL}}} wasn't found")


def test_a_channel_can_be_refused_and_allowed_again(cometd: CometDServer, client: Client) -> None:
    cometd.refuse(CHANNEL, "403::User not allowed to subscribe CDC without View All Data permissions")
    [reply] = client.subscribe(-1)
    assert reply["error"] == "403::User not allowed to subscribe CDC without View All Data permissions"
    cometd.refuse(CHANNEL, None)
    assert client.subscribe(-1)[-1]["successful"] is True


def test_a_payload_goes_out_byte_for_byte(cometd: CometDServer, client: Client) -> None:
    payload = '{"ChangeEventHeader": {"entityName":"Account"},  "Big":9007199254740993.10, "Odd":"\\ud83d \\u00e9"}'
    [replay_id] = cometd.publish(CHANNEL, [payload])
    answer = client.post_raw("/meta/subscribe", subscription=CHANNEL, ext={"replay": {CHANNEL: -2}})
    [event] = cometd.ledger(CHANNEL)
    assert event.replay_id == replay_id
    assert payload in event.text
    assert event.text.encode() in answer.content


def test_a_broken_answer_takes_its_events_along(cometd: CometDServer, client: Client) -> None:
    client.subscribe(-1)
    cometd.drop_next("destroy")
    lost = publish(cometd, 2)
    with pytest.raises(requests.ConnectionError):
        client.connect()
    assert cometd.faults_pending() == 0
    assert client.connect(timeout_ms=0)[-1]["successful"] is True
    client.handshake()
    client.connect(timeout_ms=0)
    assert replay_ids(client.subscribe(-2)) == lost


def test_a_truncated_answer_ends_within_its_body(cometd: CometDServer, client: Client) -> None:
    client.subscribe(-1)
    cometd.drop_next("truncate")
    publish(cometd, 2)
    with pytest.raises((requests.exceptions.ChunkedEncodingError, requests.ConnectionError)):
        client.connect()


@pytest.mark.parametrize(("how", "status"), [("unavailable", 503), ("html", 200)])
def test_an_answer_can_be_something_else_entirely(cometd: CometDServer, client: Client, how: Any, status: int) -> None:
    cometd.drop_next(how, on="any")
    answer = client.post_raw("/meta/connect", connectionType="long-polling", advice={"timeout": 0})
    assert (answer.status_code, answer.text[:6]) == (status, "<html>")


def test_a_disconnect_wakes_the_waiting_poll(cometd: CometDServer, client: Client) -> None:
    answers: list[list[dict[str, Any]]] = []
    poll = threading.Thread(target=lambda: answers.append(client.connect()))
    poll.start()
    wait_until(lambda: cometd.sessions()[0].polling)
    other = requests.post(
        f"{cometd.url}/cometd/66.0",
        json=[{"channel": "/meta/disconnect", "clientId": client.client_id, "id": "9"}],
        cookies=client.http.cookies,
        headers={"Authorization": str(client.http.headers["Authorization"])},
        timeout=10,
    )
    poll.join(5)
    assert other.json()[-1]["successful"] is True
    assert answers
    assert answers[0][-1]["channel"] == "/meta/connect"
    [session] = cometd.sessions()
    assert (session.alive, session.ended) == (False, "disconnect")


def test_an_expired_session_is_unknown_to_the_next_request(cometd: CometDServer, client: Client) -> None:
    assert cometd.expire() == [client.client_id]
    [reply] = client.connect()
    assert reply["error"] == "402::session_unknown"
    assert reply["advice"] == {"reconnect": "handshake", "interval": 0}


def test_a_session_expires_by_itself_after_the_longest_interval() -> None:
    with cometd_server(max_interval_ms=200) as server:
        client = Client(server)
        client.fetch_token()
        client.handshake()
        client.connect(timeout_ms=0)
        wait_until(lambda: server.sessions()[0].ended == "timeout")
        assert client.connect()[0]["error"] == "402::session_unknown"


def test_a_session_without_its_cookie_is_unknown(client: Client) -> None:
    client.http.cookies.clear()
    assert client.connect()[0]["error"] == "402::session_unknown"


def test_a_pushed_disconnect_comes_with_the_poll(cometd: CometDServer, client: Client) -> None:
    answers: list[list[dict[str, Any]]] = []
    poll = threading.Thread(target=lambda: answers.append(client.connect()))
    poll.start()
    wait_until(lambda: cometd.sessions()[0].polling)
    cometd.expire(tell=True)
    poll.join(5)
    assert "/meta/disconnect" in [message["channel"] for message in answers[0]]


def test_the_requests_tell_what_a_client_asked_for(cometd: CometDServer, client: Client) -> None:
    client.subscribe(-2)
    [subscribe] = cometd.requests("/meta/subscribe")
    assert subscribe["ext"] == {"replay": {CHANNEL: -2}}
    assert cometd.sessions()[0].subscriptions == (CHANNEL,)


def test_the_server_is_gone_after_the_with_block() -> None:
    with cometd_server() as server:
        assert server.sessions() == []
    with pytest.raises(requests.ConnectionError):
        Client(server).fetch_token()


def test_the_server_goes_when_its_starter_is_killed() -> None:
    starter = (
        "import sys; sys.path.insert(0, '.')\n"
        "from tests.conformance.server import cometd_server\n"
        "with cometd_server() as server: print(server.url, flush=True); sys.stdin.read()"
    )
    with subprocess.Popen([sys.executable, "-c", starter], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        server = CometDServer(process.stdout.readline().decode().strip())
        assert json.dumps(server.ledger(CHANNEL)) == "[]"
        os.kill(process.pid, signal.SIGKILL)
        process.wait()

    def is_gone() -> bool:
        try:
            server.sessions()
        except OSError:
            return True
        return False

    wait_until(is_gone)
