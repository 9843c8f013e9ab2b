"""An emulated org in a thread of the test process, and a bare Bayeux client for it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from aiohttp import web

from emulator.client import Emulator
from emulator.http_app import make_app
from emulator.parts import Parts

ACCOUNT = "/data/AccountChangeEvent"


class Comet:
    """Sends what it is told to send; understands nothing."""

    def __init__(self, org: Emulator) -> None:
        self.org = org
        self.http = requests.Session()
        self.client_id = ""
        self.last: requests.Response | None = None
        self._number = 0
        answer = self.http.post(
            f"{org.url}/services/oauth2/token",
            data={
                "grant_type": "client_credentials",
                "client_id": org.client_id,
                "client_secret": org.client_secret,
            },
        )
        self.token = answer.json()["access_token"]

    def post(self, messages: Any, timeout: float = 5, path: str = "/cometd/66.0/", **headers: str) -> requests.Response:
        """One POST, with the token unless told otherwise."""
        all_headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.token}", **headers}
        body = json.dumps(messages)
        return self.http.post(self.org.url + path, data=body, headers=all_headers, timeout=timeout)

    def meta(self, name: str, timeout: float = 5, **fields: Any) -> list[dict[str, Any]]:
        """One meta message; the decoded answer."""
        self._number += 1
        message = {"channel": f"/meta/{name}", "clientId": self.client_id, "id": str(self._number), **fields}
        if name == "handshake":
            del message["clientId"]
        if name == "connect":
            message["connectionType"] = "long-polling"
        self.last = self.post([message], timeout)
        answer: list[dict[str, Any]] = self.last.json()
        return answer

    def handshake(self) -> dict[str, Any]:
        """Handshake; the reply."""
        fields: dict[str, Any] = {"version": "1.0", "supportedConnectionTypes": ["long-polling"]}
        (reply,) = self.meta("handshake", **fields, ext={"replay": True})
        self.client_id = reply.get("clientId", "")
        return reply

    def subscribe(self, channel: str = ACCOUNT, replay: Any = None) -> list[dict[str, Any]]:
        """Subscribe; the whole answer."""
        ext: dict[str, Any] = {} if replay is None else {"ext": {"replay": {channel: replay}}}
        return self.meta("subscribe", subscription=channel, **ext)

    def connect(self, **fields: Any) -> list[dict[str, Any]]:
        """Connect; the whole answer."""
        return self.meta("connect", **fields)

    def open(self, channel: str = ACCOUNT, replay: Any = None) -> Comet:
        """Handshake, first connect, subscribe."""
        self.handshake()
        self.connect()
        self.subscribe(channel, replay)
        return self


def replay_ids(answer: list[dict[str, Any]]) -> list[Any]:
    """The replay ids of the deliveries in an answer."""
    return [message["data"]["event"]["replayId"] for message in answer if "data" in message]


def reply(answer: list[dict[str, Any]]) -> dict[str, Any]:
    """The only meta reply in an answer."""
    (found,) = (message for message in answer if message["channel"].startswith("/meta/"))
    return found


@pytest.fixture
def parts() -> Parts:
    """The insides of the org, for what HTTP does not show."""
    parts = Parts(seed=7)
    parts.knobs.hold_s = 0.15
    return parts


@pytest.fixture
def org(parts: Parts) -> Iterator[Emulator]:
    """A running org whose connects are held for a fraction of a second."""
    loop = asyncio.new_event_loop()
    runner = web.AppRunner(make_app(parts), access_log=None, shutdown_timeout=0.05)
    loop.run_until_complete(runner.setup())
    loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", 0).start())
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield Emulator(f"http://127.0.0.1:{runner.addresses[0][1]}")
    finally:
        asyncio.run_coroutine_threadsafe(runner.cleanup(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture
def comet(org: Emulator) -> Iterator[Callable[[], Comet]]:
    """Makes clients, each with its own token request and cookie jar."""
    made: list[Comet] = []

    def make() -> Comet:
        made.append(Comet(org))
        return made[-1]

    yield make
    for client in made:
        client.http.close()


@pytest.fixture
def client(comet: Callable[[], Comet]) -> Comet:
    """One client."""
    return comet()
