"""What the end-to-end tests share: settings for an emulator and an Azurite, captures, and a reader of the log.

The reader shares no code with cdc: it reads the layout as docs/storage-log.md describes it to any consumer.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import BlobServiceClient

from cdc import app
from cdc.report import RunReport
from cdc.settings import load_settings
from cdc.waiting import Clock

SEGMENT = re.compile(r"^[0-9]{12}\.jsonl$")
ACCOUNT = "/data/AccountChangeEvent"
CONTACT = "/data/ContactChangeEvent"
OPPORTUNITY = "/data/OpportunityChangeEvent"
LOST = ("drop", "reset", "truncate", "truncate_clean", "stall", "garble", "status", "html", "hang")


def settings_for(org: Any, connection_string: str, channels: str, **more: str) -> dict[str, str]:
    """Return the environment of an app that captures from `org` into the account."""
    return {
        "SALESFORCE_LOGIN_URL": org.url,
        "SALESFORCE_CLIENT_ID": org.client_id,
        "SALESFORCE_CLIENT_SECRET": org.client_secret,
        "CDC_CHANNELS": channels,
        "CDC_STORAGE": connection_string,
        **more,
    }


@dataclass
class Recorder:
    """Keeps every emitted event, for tests that ask what was said."""

    events: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def __call__(self, name: str, /, *, level: int = 20, **fields: object) -> None:
        self.events.append((name, fields))

    def named(self, name: str) -> list[dict[str, object]]:
        """Return the fields of each event of that name."""
        return [fields for event, fields in self.events if event == name]


class RunClock(Clock):
    """A run's clock that stands still until the run has got somewhere, however long a busy machine takes for it.

    It starts with the first channel's answer or the first session's failure; with `is_started` it runs from the first.
    """

    STARTERS = frozenset({"channel.subscribed", "channel.refused", "session.lost", "session.failed"})

    def __init__(self, *, is_started: bool = False) -> None:
        self._began_s = time.monotonic() if is_started else None

    def monotonic(self) -> float:
        """Seconds since the start."""
        return 0.0 if self._began_s is None else time.monotonic() - self._began_s

    def hear(self, event: str) -> None:
        """Start with an event that shows that the run got somewhere."""
        if self._began_s is None and event in self.STARTERS:
            self._began_s = time.monotonic()


def capture(
    environment: dict[str, str],
    *,
    seconds: float,
    stop: Future[None] | None = None,
    emit: Recorder | None = None,
    clock: RunClock | None = None,
    group: int = 0,
) -> RunReport:
    """Run the app's capture once, in this process, over the real client stack; longer where the machine is busy."""
    settings = load_settings(environment)
    clock, said = clock or RunClock(), emit or Recorder()

    def hear(name: str, /, *, level: int = 20, **fields: object) -> None:
        said(name, level=level, **fields)
        clock.hear(name)

    channels = settings.channel_groups[group]
    return app.capture(settings, channels, seconds=seconds * slowness(), stop=stop, emit=hear, clock=clock)


def slowness() -> float:
    """How much longer things take here than on a machine that runs nothing but this suite: 1 to 4, by its load."""
    return min(4.0, max(1.0, os.getloadavg()[0] / (2 * (os.cpu_count() or 1))))


def run_seconds(least: float = 2.0) -> str:
    """The --seconds of a run that is to have a poll answered, on a busy machine too."""
    return f"{least * slowness():.1f}"


@dataclass(frozen=True)
class Segment:
    """One segment as a reader sees it."""

    number: int
    partition: str
    metadata: dict[str, str]
    lines: list[bytes]


class LogReader:
    """Reads a log with the plain SDK."""

    def __init__(self, connection_string: str, events: str = "cdc-events", state: str = "cdc-checkpoints") -> None:
        self._service = BlobServiceClient.from_connection_string(connection_string, retry_total=2)
        self._events, self._state = (
            self._service.get_container_client(events),
            self._service.get_container_client(state),
        )

    def close(self) -> None:
        """Give back the connections."""
        self._service.close()

    def names(self) -> set[str]:
        """Return the names of all blobs of both containers; a container that is missing has none."""
        found = set()
        for container in (self._events, self._state):
            try:
                found |= {f"{container.container_name}/{blob.name}" for blob in container.list_blobs()}
            except ResourceNotFoundError:
                continue
        return found

    def segments(self, channel: str) -> list[Segment]:
        """Return a channel's segments by number; none where there is no container."""
        prefix = channel.removeprefix("/") + "/"
        found = []
        try:
            blobs = list(self._events.list_blobs(name_starts_with=prefix, include=["metadata"]))
        except ResourceNotFoundError:
            return []
        for blob in blobs:
            partition, _, name = blob.name.removeprefix(prefix).rpartition("/")
            if SEGMENT.match(name):
                content = self._events.download_blob(blob.name).readall()
                metadata = dict(blob.metadata or {})
                assert content.endswith(b"\n") or not metadata
                found.append(Segment(int(name[:12]), partition, metadata, content.removesuffix(b"\n").split(b"\n")))
        return sorted(found, key=lambda segment: segment.number)

    def lines(self, channel: str, generation: int | None = None) -> list[bytes]:
        """Return a channel's landed deliveries in order."""
        return [
            line
            for segment in self.segments(channel)
            if generation is None or segment.metadata["generation"] == str(generation)
            for line in segment.lines
        ]

    def state(self, prefix: str = "") -> dict[str, Any]:
        """Return every record of the checkpoints container, decoded."""
        return {
            blob.name: json.loads(self._state.download_blob(blob.name).readall())
            for blob in self._state.list_blobs(name_starts_with=prefix)
        }

    def read_state(self, name: str) -> bytes:
        """Return one record of the checkpoints container as it is."""
        content: bytes = self._state.download_blob(name).readall()
        return content

    def write_state(self, name: str, body: bytes) -> None:
        """Tamper: write one record of the checkpoints container, whatever is there."""
        self._state.upload_blob(name, body, overwrite=True)

    def delete_state(self, name: str) -> None:
        """Tamper: delete one record of the checkpoints container."""
        self._state.delete_blob(name)

    def delete_segment(self, channel: str, number: int) -> None:
        """Tamper: delete one segment, as a lifecycle rule does."""
        for blob in list(self._events.list_blobs(name_starts_with=channel.removeprefix("/") + "/")):
            if blob.name.endswith(f"{number:012d}.jsonl"):
                self._events.delete_blob(blob.name)

    def copy_segment(self, channel: str, number: int, partition: str) -> None:
        """Tamper: put a copy of one segment, with its metadata, into another partition."""
        [segment] = [each for each in self.segments(channel) if each.number == number]
        name = f"{channel.removeprefix('/')}/{partition}/{number:012d}.jsonl"
        self._events.upload_blob(name, b"\n".join(segment.lines) + b"\n", metadata=segment.metadata)

    def read_event(self, name: str) -> bytes:
        """Return one blob of the events container as it is."""
        content: bytes = self._events.download_blob(name).readall()
        return content

    def write_foreign(self, name: str, body: bytes, *, overwrite: bool = False) -> None:
        """Tamper: put a blob that is not ours into the events container."""
        self._events.upload_blob(name, body, overwrite=overwrite)

    def delete_events_container(self) -> None:
        """Tamper: delete the events container with all that it holds."""
        self._events.delete_container()

    def quarantine(self) -> list[bytes]:
        """Return everything that is in quarantine."""
        return [
            self._events.download_blob(blob.name).readall()
            for blob in self._events.list_blobs(name_starts_with="quarantine/")
        ]

    def everything(self) -> Iterator[bytes]:
        """Yield names, metadata and content of every blob: for searching."""
        for container in (self._events, self._state):
            for blob in container.list_blobs(include=["metadata"]):
                yield blob.name.encode()
                yield repr(dict(blob.metadata or {})).encode()
                yield container.download_blob(blob.name).readall()


@dataclass
class Site:
    """One org, two containers, and the app between them."""

    org: Any
    log: LogReader
    connection_string: str
    events_container: str
    checkpoints_container: str
    said: Recorder = field(default_factory=Recorder)  # what the last run emitted
    late_s: float = 0.0  # how long after its seconds it ended, by its own clock; negative where it ended sooner
    everything_said: list[tuple[str, dict[str, object]]] = field(default_factory=list)

    def environment(self, *channels: str, **more: str) -> dict[str, str]:
        """Return the app's settings; `earliest` unless told otherwise, so that a test's first run sees everything."""
        names = {
            "CDC_EVENTS_CONTAINER": self.events_container,
            "CDC_CHECKPOINTS_CONTAINER": self.checkpoints_container,
            "CDC_START": "earliest",
        }
        return settings_for(self.org, self.connection_string, ",".join(channels or (ACCOUNT,)), **(names | more))

    def capture(
        self,
        *channels: str,
        seconds: float = 1.2,
        stop: Future[None] | None = None,
        settings: dict[str, str] | None = None,
        clock: RunClock | None = None,
        **more: str,
    ) -> RunReport:
        """Run the app once, with more settings where given; `said` has what it emitted."""
        self.said = Recorder()
        environment, clock = self.environment(*channels, **(settings or {}), **more), clock or RunClock()
        report = capture(environment, seconds=seconds, stop=stop, emit=self.said, clock=clock)
        [started] = self.said.named("run.started")
        self.late_s = clock.monotonic() - float(str(started["seconds"]))
        self.everything_said += self.said.events
        return report

    def asked(self, name: str = "") -> list[dict[str, Any]]:
        """Return the journal's entries of one meta channel (`connect`), or all."""
        return [entry for entry in self.org.requests() if not name or entry["channel"] == f"/meta/{name}"]


@contextmanager
def open_site(org: Any, connection_string: str, events: str, checkpoints: str) -> Iterator[Site]:
    """Yield a site and close its reader's connections."""
    log = LogReader(connection_string, events, checkpoints)
    try:
        yield Site(org, log, connection_string, events, checkpoints)
    finally:
        log.close()


def messages_of(report: RunReport) -> list[str]:
    """Return the run's messages, for tests that say what an operator reads."""
    return [problem.message for problem in report.problems]


def wait_until(condition: Callable[[], Any], *, at_most_s: float = 30) -> None:
    """Return as soon as the condition holds; fail where it never does."""
    ends = time.monotonic() + at_most_s
    while not condition():
        assert time.monotonic() < ends, "the condition never came true"
        time.sleep(0.01)


def assert_sessions_clean(site: Site) -> None:
    """No session goes on after a request without a complete answer; each handshake comes with a fresh cookie jar."""
    lost: set[str] = set()
    for entry in site.asked():
        if entry["channel"] == "/meta/handshake":
            assert entry["cookies"] == {}
        elif entry["channel"] != "/meta/disconnect":
            assert entry["clientId"] not in lost, f"{entry['channel']} on a session with a lost answer"
        if entry.get("fault") in LOST and entry["clientId"]:
            lost.add(entry["clientId"])


def assert_landed_once(org: Any, log: LogReader, channel: str) -> None:
    """Every published delivery lies in the log exactly once, in order, byte for byte, in numbered segments."""
    landed, published = log.lines(channel), org.deliveries(channel)
    assert len(landed) == len(published), f"{channel}: {len(published)} published, {len(landed)} landed"
    assert landed == published
    assert_layout(log, channel)


def assert_layout(log: LogReader, channel: str) -> None:
    """The numbers have no hole and start at 1, partitions never go back, metadata describes the content."""
    segments = log.segments(channel)
    assert [segment.number for segment in segments] == list(range(1, len(segments) + 1))
    partitions = [segment.partition for segment in segments]
    assert partitions == sorted(partitions)
    for segment in segments:
        assert int(segment.metadata["count"]) == len(segment.lines)
        first, last = json.loads(segment.lines[0]), json.loads(segment.lines[-1])
        assert segment.metadata["first_replay_id"] == json.dumps(first["data"]["event"]["replayId"])
        assert segment.metadata["last_replay_id"] == json.dumps(last["data"]["event"]["replayId"])
