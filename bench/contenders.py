"""The contenders, each run in a process of its own: `python -m bench.contenders NAME JSON` prints one JSON line.

A contender says when it polled first, when all was landed, and what CPU and memory its process used. It starts no
server and compares nothing.
"""

from __future__ import annotations

import contextlib
import json
import random
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Any
from urllib.parse import urlsplit

_STARTED_NS = time.time_ns()
EVENTS, STATE = "bench-events", "bench-checkpoints"


class Meter:
    """Time, CPU and peak memory of this process, and its storage requests by method."""

    def __init__(self, storage_url: str) -> None:
        self.requests: Counter[str] = Counter()
        self._storage = urlsplit(storage_url).netloc
        self._first_poll: tuple[float, float] | None = None
        self._end: tuple[float, float] = (0.0, 0.0)
        self._count_requests()

    def _count_requests(self) -> None:
        from requests.adapters import HTTPAdapter

        send = HTTPAdapter.send

        def counting(adapter: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
            if urlsplit(request.url).netloc == self._storage:
                self.requests[request.method] += 1
            return send(adapter, request, *args, **kwargs)

        HTTPAdapter.send = counting  # type: ignore[method-assign, assignment]

    def first_poll(self) -> None:
        """The first connect is about to be sent."""
        self._first_poll = self._first_poll or (time.monotonic(), _cpu_s())

    def landed(self) -> None:
        """All that was asked for is done."""
        self._end = (time.monotonic(), _cpu_s())

    def result(self, **more: Any) -> dict[str, Any]:
        """What is printed."""
        began = self._first_poll or self._end
        return {
            "seconds": self._end[0] - began[0],
            "cpu_s": self._end[1] - began[1],
            "peak_mb": _peak_mb(),
            "requests": dict(self.requests),
            "started_ns": _STARTED_NS,
            **more,
        }


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _peak_mb() -> float:
    """The peak of this process alone: ru_maxrss would start at its parent's."""
    with open("/proc/self/status", encoding="ascii") as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM:"))


# --- the product -----------------------------------------------------------------------------------------------------


def product(task: dict[str, Any]) -> dict[str, Any]:
    """One run of the product; with `events` it is stopped as soon as so many are landed, else it lasts `run_s`."""
    from cdc import app, salesforce
    from cdc.settings import load_settings

    meter = Meter(task["storage_url"])
    stop: Future[None] = Future()
    landed: list[tuple[int, int]] = []  # (time, count) of each segment
    left = task.get("events", sys.maxsize)

    def emit(name: str, /, *, level: int = 20, **fields: Any) -> None:
        nonlocal left
        if name == "channel.landed":
            landed.append((time.time_ns(), fields["count"]))
            left -= fields["count"]
            if left <= 0 and not stop.done():
                stop.set_result(None)
        elif name == "run.finished":
            meter.landed()

    post = salesforce.Streaming.post

    def first_post(self: Any, body: bytes, what: str, *, timeout_s: float) -> Any:
        if what == "connect":
            meter.first_poll()
            salesforce.Streaming.post = post  # type: ignore[method-assign]
        return post(self, body, what, timeout_s=timeout_s)

    salesforce.Streaming.post = first_post  # type: ignore[method-assign]
    settings = load_settings(
        {
            "SALESFORCE_LOGIN_URL": task["org_url"],
            "SALESFORCE_CLIENT_ID": task["client_id"],
            "SALESFORCE_CLIENT_SECRET": task["client_secret"],
            "CDC_CHANNELS": ",".join(task["channels"]),
            "CDC_STORAGE": task["storage"],
            "CDC_START": "earliest",
            "CDC_EVENTS_CONTAINER": f"{EVENTS}-{task['log']}",
            "CDC_CHECKPOINTS_CONTAINER": f"{STATE}-{task['log']}",
        }
    )
    report = app.capture(settings, settings.channel_groups[0], seconds=task.get("run_s", 600.0), stop=stop, emit=emit)
    errors = [problem.message for problem in report.problems]
    first_ns = landed[0][0] if landed else 0
    segments = landed if task.get("with_segments") else len(landed)
    return meter.result(
        events=report.events, outcome=report.outcome, errors=errors, first_landed_ns=first_ns, segments=segments
    )


# --- the other ways: a Bayeux client of a few lines ------------------------------------------------------------------


class Poller:
    """Handshake, subscribe from the earliest, then bare connects over one requests session."""

    def __init__(self, task: dict[str, Any], meter: Meter) -> None:
        import requests

        self._session = requests.Session()
        self._session.trust_env = False
        form = {
            "grant_type": "client_credentials",
            "client_id": task["client_id"],
            "client_secret": task["client_secret"],
        }
        token = self._session.post(f"{task['org_url']}/services/oauth2/token", data=form, timeout=30).json()
        self._session.headers["Authorization"] = f"Bearer {token['access_token']}"
        self._session.headers["Content-Type"] = "application/json"
        self._url = f"{task['org_url']}/cometd/66.0"
        self._channels = task["channels"]
        self._meter = meter
        self._client_id = ""

    def _post(self, **message: Any) -> bytes:
        # Read in large chunks: faster than requests' own 10 kB, so that the limit is no weaker than it could be.
        with self._session.post(self._url, json=[message], timeout=150, stream=True) as response:
            return b"".join(response.iter_content(256 * 1024))

    def open(self) -> Iterator[bytes]:
        """Yield the answers that may hold events: of the first connect and of each subscribe."""
        hello = json.loads(
            self._post(
                channel="/meta/handshake",
                version="1.0",
                minimumVersion="1.0",
                supportedConnectionTypes=["long-polling"],
                ext={"replay": True},
            )
        )
        self._client_id = hello[0]["clientId"]
        self._meter.first_poll()
        self.poll()
        for channel in self._channels:
            yield self._post(
                channel="/meta/subscribe",
                clientId=self._client_id,
                subscription=channel,
                ext={"replay": {channel: -2}},
            )

    def poll(self) -> bytes:
        """Return the next answer; the server is told not to hold it, so that the end of the backlog shows at once."""
        return self._post(
            channel="/meta/connect",
            clientId=self._client_id,
            connectionType="long-polling",
            advice={"timeout": 0},
        )

    def backlog(self) -> Iterator[bytes]:
        """Yield every answer that holds events."""
        for answer in self.open():
            if b'"replayId":' in answer[:20_000]:
                yield answer
        while len(answer := self.poll()) > 600:  # an answer without events is a short one
            yield answer

    def close(self) -> None:
        """Tell the server, and close."""
        self._post(channel="/meta/disconnect", clientId=self._client_id)
        self._session.close()


def _containers(task: dict[str, Any]) -> tuple[Any, Any]:
    from azure.core.exceptions import ResourceExistsError
    from azure.storage.blob import BlobServiceClient

    service = BlobServiceClient.from_connection_string(task["storage"])
    found = []
    for name in (f"{EVENTS}-{task['name']}", f"{STATE}-{task['name']}"):
        container = service.get_container_client(name)
        with contextlib.suppress(ResourceExistsError):
            container.create_container()
        found.append(container)
    return found[0], found[1]


def pipe(task: dict[str, Any]) -> dict[str, Any]:
    """POST /meta/connect, PUT the response's bytes, in sequence: the practical limit."""
    meter = Meter(task["storage_url"])
    container, _ = _containers(task)
    poller = Poller(task, meter)
    blobs = 0
    for answer in poller.backlog():
        container.upload_blob(f"{task['run']}/{blobs:012d}", answer)
        blobs += 1
        meter.landed()
    poller.close()
    return meter.result(blobs=blobs)


def drain(task: dict[str, Any]) -> dict[str, Any]:
    """Poll and store nothing; `poll_s` is how long an answer with events took."""
    meter = Meter(task["storage_url"])
    poller = Poller(task, meter)
    taken, answers, before = [], 0, time.monotonic()
    for _ in poller.backlog():
        now = time.monotonic()
        taken.append(now - before)
        before = now
        answers += 1
        meter.landed()
    poller.close()
    return meter.result(blobs=answers, poll_s=sorted(taken)[len(taken) // 2] if taken else None)


def per_event(task: dict[str, Any]) -> dict[str, Any]:
    """One blob and one checkpoint write per event, as tutorials show it."""
    meter = Meter(task["storage_url"])
    events, state = _containers(task)
    poller = Poller(task, meter)
    count, limit = 0, task["events"]
    for answer in poller.backlog():
        for message in json.loads(answer):
            if "data" in message and count < limit:
                replay_id = message["data"]["event"]["replayId"]
                events.upload_blob(f"{task['run']}/{replay_id}.json", json.dumps(message), overwrite=True)
                state.upload_blob(f"{task['run']}.json", json.dumps({"replayId": replay_id}), overwrite=True)
                count += 1
        meter.landed()
        if count >= limit:
            break
    poller.close()
    return meter.result(events=count)


def floor(task: dict[str, Any]) -> dict[str, Any]:
    """One empty round trip to the org plus one PUT of one event: the floor of latency.

    Again and again, or with `pace` so many times a second on average, at random moments.
    """
    meter = Meter(task["storage_url"])
    container, _ = _containers(task)
    poller = Poller(task, meter)
    for _ in poller.open():
        pass
    body, taken, chance = b"x" * task["size"], [], random.Random(7)
    for number in range(task["times"]):
        if task["pace"]:
            time.sleep(chance.expovariate(task["pace"]))
        began = time.monotonic()
        poller.poll()
        container.upload_blob(f"{task['run']}/{number:012d}", body)
        taken.append(time.monotonic() - began)
        meter.landed()
    poller.close()
    return meter.result(taken_s=taken)


CONTENDERS: dict[str, Callable[[dict[str, Any]], dict[str, Any]]] = {
    "product": product,
    "pipe": pipe,
    "drain": drain,
    "per_event": per_event,
    "floor": floor,
}


if __name__ == "__main__":
    print(json.dumps(CONTENDERS[sys.argv[1]](json.loads(sys.argv[2]))))
