"""Landing behind the poll: what arrives while a segment is being written is the next segment, within bounds."""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from concurrent.futures import wait
from dataclasses import replace
from datetime import UTC, datetime

import pytest

from cdc import pipeline
from cdc.continuity import Opening
from cdc.errors import StorageUnavailable
from cdc.events import EARLIEST, Deliveries, Delivery, Stray, read_message
from cdc.landing import ChannelLog, StorageLog
from cdc.memory_store import MemoryContainer
from cdc.pipeline import Batch, Pipeline
from cdc.report import ChannelReport, RunReport
from cdc.store import NO_METADATA
from cdc.waiting import Clock

CHANNELS = ("/data/A", "/data/B")
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)


class GatedContainer(MemoryContainer):
    """Lets a write through when it is told to; one whose name is in `failing` fails instead."""

    def __init__(self) -> None:
        super().__init__("events")
        self.gate = threading.Semaphore(0)
        self.failing = ""

    def create(self, name: str, body: bytes, *, metadata: Mapping[str, str] = NO_METADATA, content_type: str) -> None:
        assert self.gate.acquire(timeout=60)
        if self.failing and self.failing in name:
            raise StorageUnavailable(f"creating {name}: no", hint="wait")
        super().create(name, body, metadata=metadata, content_type=content_type)


class StillClock(Clock):
    """Shows what it is set to."""

    s = 0.0

    def now(self) -> datetime:
        return NOON

    def monotonic(self) -> float:
        return self.s


class Stage:
    """A run's pipeline over two started channels."""

    def __init__(self) -> None:
        self.clock = StillClock()
        self.events, state = GatedContainer(), MemoryContainer("state")
        log = StorageLog(self.events, state, run_id="run-a", now=lambda: NOON)
        self.logs = {channel: ChannelLog(log, channel, pytest.fail) for channel in CHANNELS}
        for each in self.logs.values():
            each.derive()
            each.open_generation(Opening("first-start", EARLIEST, is_gap=False), t0=NOON, user_id="")
        self.report = RunReport("run-a", "g", NOON, {channel: ChannelReport(channel) for channel in CHANNELS})
        self.pipeline = Pipeline(log, self.report, lambda *_, **__: None, self.clock)

    def batch(self, *ids: int, channel: str = "/data/A", size: int = 0) -> Batch:
        return Batch(deliveries={self.logs[channel]: Deliveries.of(delivery(id_, channel, size) for id_ in ids)})

    def poll(self, id_: int, *, is_full: bool) -> Batch:
        """What the answer to a poll brought."""
        return replace(self.batch(id_, size=pipeline.FULL_ANSWER_BYTES if is_full else 0), is_clean=True)

    def settle(self) -> dict[str, str]:
        assert self.pipeline.in_flight is not None
        wait([self.pipeline.in_flight], 60)
        _, errors = self.pipeline.take_result()
        return {channel: type(error).__name__ for channel, error in errors.items()}

    def segments(self) -> list[list[int]]:
        """The replay ids of each segment of the first channel."""
        bodies = [self.events.read(name) for name in self.events.names("data/A/")]
        return [
            [json.loads(line)["data"]["event"]["replayId"] for line in body.body.splitlines()]
            for body in bodies
            if body
        ]


def delivery(replay_id: int, channel: str, size: int) -> Delivery:
    data = {"event": {"replayId": replay_id}, "payload": {"x": "x" * size}}
    read = read_message(json.dumps({"data": data, "channel": channel}).encode())
    assert isinstance(read, Delivery)
    return read


def test_what_arrives_while_a_segment_is_written_is_the_next_segment() -> None:
    stage = Stage()
    for ids in ((1, 2), (3,), (4, 5)):
        stage.pipeline.add(stage.batch(*ids))
    stage.events.gate.release(2)
    assert [stage.settle(), stage.settle()] == [{}, {}]
    assert stage.segments() == [[1, 2], [3, 4, 5]]
    assert stage.pipeline.in_flight is None


def test_channels_that_wait_together_land_side_by_side() -> None:
    stage = Stage()
    stage.pipeline.add(stage.batch(1))
    stage.pipeline.add(stage.batch(2))
    stage.pipeline.add(stage.batch(7, channel="/data/B"))
    stage.events.gate.release(3)
    assert [stage.settle(), stage.settle()] == [{}, {}]
    assert stage.segments() == [[1], [2]]
    assert stage.report.channels["/data/B"].events == 1


def test_after_a_failure_nothing_that_waits_is_landed() -> None:
    stage = Stage()
    stage.events.failing = "data/A/"
    stage.pipeline.add(stage.batch(1))
    stage.pipeline.add(stage.batch(2))
    stage.pipeline.add(stage.batch(7, channel="/data/B"))
    stage.events.gate.release(3)
    assert stage.settle() == {"/data/A": "StorageUnavailable"}
    assert stage.pipeline.in_flight is None
    assert stage.events.names("data/") == []


def test_strays_that_wait_are_kept_before_the_deliveries_that_wait() -> None:
    stage = Stage()
    stage.pipeline.add(stage.batch(1))
    stage.pipeline.add(stage.batch(2))
    stage.pipeline.add(Batch(strays=[Stray("/data/A", "no replay id", b"{}")]))
    stage.events.failing = "quarantine/"
    stage.events.gate.release(3)
    assert stage.settle() == {}
    assert stage.pipeline.in_flight is not None
    with pytest.raises(StorageUnavailable):
        stage.pipeline.in_flight.result(60)
    assert stage.segments() == [[1]]


def test_a_clean_poll_counts_only_when_what_came_before_it_is_landed() -> None:
    stage = Stage()
    stage.pipeline.add(stage.batch(1))
    stage.pipeline.add(Batch(clean_polls={"/data/A": NOON}, is_clean=True))
    assert stage.pipeline.in_flight is not None
    stage.events.gate.release()
    wait([stage.pipeline.in_flight], 60)
    first, _ = stage.pipeline.take_result()
    second, _ = stage.pipeline.take_result()
    assert (first.clean_polls, second.clean_polls) == ({}, {"/data/A": NOON})
    assert stage.pipeline.in_flight is None


def test_what_is_held_is_bounded_but_a_single_answer_may_be_larger(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "MAX_HELD_BYTES", 1_000)
    stage = Stage()
    assert stage.pipeline.has_room(stage.batch(1, size=5_000)), "nothing else is held"
    stage.pipeline.add(stage.batch(1, size=300))
    assert stage.pipeline.has_room(stage.batch(2, size=300))
    stage.pipeline.add(stage.batch(2, size=300))
    assert not stage.pipeline.has_room(stage.batch(3, size=300))
    assert 600 <= stage.pipeline.held_bytes <= 1_000
    stage.events.gate.release(2)
    stage.settle()
    assert stage.pipeline.has_room(stage.batch(3, size=300))
    stage.settle()


def test_full_answers_are_put_together_until_a_write_is_worth_its_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "WORTH_BYTES", 2 * pipeline.FULL_ANSWER_BYTES)
    stage = Stage()
    stage.events.gate.release(2)
    stage.pipeline.add(stage.poll(1, is_full=True))
    assert stage.pipeline.in_flight is None
    stage.pipeline.add(stage.poll(2, is_full=True))
    stage.settle()
    stage.pipeline.add(stage.poll(3, is_full=True))
    stage.pipeline.add(stage.poll(4, is_full=False))
    stage.settle()
    assert stage.segments() == [[1, 2], [3, 4]]


def test_what_is_held_back_counts_as_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "MAX_HELD_BYTES", 2 * pipeline.FULL_ANSWER_BYTES)
    stage = Stage()
    stage.pipeline.add(stage.poll(1, is_full=True))
    assert stage.pipeline.in_flight is None
    assert not stage.pipeline.has_room(stage.poll(2, is_full=True))


def test_what_is_put_together_is_landed_where_no_answer_follows_at_once() -> None:
    stage = Stage()
    stage.events.gate.release()
    stage.pipeline.add(stage.poll(1, is_full=True))
    stage.clock.s = pipeline.HOLD_S / 2
    stage.pipeline.look()
    assert stage.pipeline.in_flight is None
    assert stage.pipeline.held_s == pytest.approx(pipeline.HOLD_S / 2)
    stage.clock.s = pipeline.HOLD_S
    stage.pipeline.look()
    stage.settle()
    assert stage.segments() == [[1]]
    assert stage.pipeline.held_s == float("inf")


def test_only_what_polls_bring_is_put_together() -> None:
    """The answer to a subscribe is landed at once: who knows when the next one comes."""
    stage = Stage()
    stage.events.gate.release()
    stage.pipeline.add(replace(stage.poll(1, is_full=True), is_clean=False))
    stage.settle()
    assert stage.segments() == [[1]]
