"""The official CometD server as a fixture: starts server.mjs under Node.js, steers it and always stops it.

It never speaks Bayeux itself and imports nothing of the product. In a test:

    def test_an_event_is_delivered(cometd: CometDServer) -> None:      # fixture of conftest.py, a server per test
        [replay_id] = cometd.publish("/data/AccountChangeEvent", [change_event("Account", 1)])
        settings = {"SALESFORCE_LOGIN_URL": cometd.url, ...}           # any client id and secret, or any JWT, will do

    with cometd_server(timeout_ms=500, max_interval_ms=1000) as cometd:  # or with other settings

- `url` is the org: token endpoint at `/services/oauth2/token` (instance_url is `url`), Bayeux at `/cometd/66.0`.
- `publish` stores events, hands them to subscribers and returns their replay ids; a payload given as text goes out byte
  for byte. `ledger` tells the exact text of every retained message of a channel: what a client must have landed.
- `drop_next` breaks an answer (by default the next one that carries events) after CometD emptied its queue into it.
- `expire`, `purge`, `refuse`, `revoke_tokens` are the org's other bad days; `requests` and `sessions` look inside.

Where it differs from Salesforce: the words of its own errors (`402::session_unknown`, `403::handshake_denied`), advice
in the handshake's answer too, a first connect that is answered at once only for a client that sends `advice.timeout` 0,
advice in later answers only to a client that sends some, and no REST beside the token endpoint (404).
"""

import contextlib
import json
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

PROGRAM = Path(__file__).with_name("server.mjs")
STOP_SECONDS = 5

Payload = dict[str, Any] | str


@dataclass(frozen=True)
class StoredEvent:
    """One published event: its replay id and the message exactly as the server sends it."""

    replay_id: int
    text: str


@dataclass(frozen=True)
class Session:
    """One CometD session as the server sees it; `ended` is None, "disconnect" or "timeout"."""

    client_id: str
    alive: bool
    ended: str | None
    polling: bool
    subscriptions: tuple[str, ...]


@dataclass(frozen=True)
class CometDServer:
    """A running server and the handles by which a test steers it."""

    url: str

    def publish(self, channel: str, payloads: Sequence[Payload], *, quiet: bool = False) -> list[int]:
        """Store events and deliver them to subscribers (`quiet`: store only); returns their replay ids."""
        ids: list[int] = self._control("publish", channel=channel, payloads=list(payloads), quiet=quiet)
        return ids

    def ledger(self, channel: str) -> list[StoredEvent]:
        """All retained events of a channel, in order."""
        return [StoredEvent(e["replayId"], e["text"]) for e in self._control("ledger", channel=channel)]

    def drop_next(
        self,
        how: Literal["destroy", "truncate", "unavailable", "html"] = "destroy",
        *,
        on: Literal["events", "any"] = "events",
    ) -> None:
        """Break the next answer with events (`any`: the next Bayeux answer): no byte, half of them, a 503, or HTML."""
        self._control("fault", how=how, on=on)

    def faults_pending(self) -> int:
        """How many ordered faults still wait for their answer."""
        pending: int = self._control("state")["faultsPending"]
        return pending

    def expire(self, client_id: str | None = None, *, tell: bool = False) -> list[str]:
        """End one session or all, answer their polls (`tell`: with a pushed /meta/disconnect), return their ids."""
        ended: list[str] = self._control("expire", **({} if client_id is None else {"clientId": client_id}), tell=tell)
        return ended

    def purge(self, channel: str, up_to: int) -> None:
        """Forget the channel's events up to and including a replay id, which is then refused."""
        self._control("purge", channel=channel, upTo=up_to)

    def refuse(self, channel: str, error: str | None) -> None:
        """Answer every subscribe to the channel with this error; None lifts it."""
        self._control("refuse", channel=channel, error=error)

    def revoke_tokens(self) -> None:
        """Make all issued tokens invalid: a bare HTTP 401 until a new one is fetched."""
        self._control("revoke")

    def requests(self, channel: str | None = None) -> list[dict[str, Any]]:
        """All messages of known sessions so far (channel, clientId, subscription, advice, ext), or one channel's."""
        messages: list[dict[str, Any]] = self._control("requests")
        return [m for m in messages if channel in (None, m["channel"])]

    def sessions(self) -> list[Session]:
        """Every session there ever was, the oldest first."""
        return [
            Session(s["clientId"], s["alive"], s["ended"], s["polling"], tuple(s["subscriptions"]))
            for s in self._control("state")["sessions"]
        ]

    def tokens_issued(self) -> int:
        """How many tokens the endpoint has given out."""
        issued: int = self._control("state")["tokensIssued"]
        return issued

    def _control(self, verb: str, **arguments: Any) -> Any:
        request = urllib.request.Request(
            f"{self.url}/control/{verb}",
            data=json.dumps(arguments).encode(),
            headers={"Content-Type": "application/json", "Connection": "close"},
            method="POST",
        )
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=10) as answer:
            return json.load(answer)


@contextlib.contextmanager
def cometd_server(
    *, timeout_ms: int = 110_000, max_interval_ms: int = 40_000, is_open: bool = False, connect_only: bool = False
) -> Iterator[CometDServer]:
    """Run a server for the length of a with block.

    `timeout_ms` is how long a poll is held, `max_interval_ms` how long a session outlives its last answer. `is_open`
    lets clients in without a token; with `connect_only` events ride on connect answers alone, else on any.
    """
    command = ["node", str(PROGRAM), "--timeout", str(timeout_ms), "--max-interval", str(max_interval_ms)]
    command += ["--open"] * is_open + ["--connect-only"] * connect_only
    try:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    except FileNotFoundError:
        raise RuntimeError("the CometD server needs Node.js: no `node` on the PATH") from None
    try:
        yield CometDServer(url=_announced_url(process))
    finally:
        _stop(process)


def change_event(entity: str, number: int, **fields: Any) -> dict[str, Any]:
    """The payload of a believable CREATE of one record; `number` tells events apart."""
    return {
        "ChangeEventHeader": {
            "entityName": entity,
            "recordIds": [f"001{number:012d}AAA"],
            "changeType": "CREATE",
            "changeOrigin": "com/salesforce/api/soap/66.0;client=conformance",
            "transactionKey": f"{number:08x}-0000-4000-8000-000000000000",
            "sequenceNumber": 1,
            "commitTimestamp": int(time.time() * 1000),
            "commitNumber": 1_000_000_000_000 + number,
            "commitUser": "005COMETD00001EAA",
            "nulledFields": [],
            "diffFields": [],
            "changedFields": [],
        },
        "Name": f"{entity} {number}",
        **fields,
    }


def _announced_url(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        process.wait(STOP_SECONDS)
        raise RuntimeError("the CometD server did not start: is `make setup` done? Node.js says why above")
    url: str = json.loads(line)["url"]
    return url


def _stop(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdin.close()
    process.stdout.close()
