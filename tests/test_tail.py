"""`tail` follows a log: soon after each landing, in order, across dates, and at a cost that is told."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta

import pytest

from cdc import layout, tail
from cdc.memory_store import MemoryContainer
from tests.faulty_store import FaultyContainer, Script

CHANNEL = "/data/AccountChangeEvent"
TODAY = datetime.now(UTC).date()
LIMIT_S = 2.0


def line(number: int) -> bytes:
    header = {"changeType": "UPDATE", "entityName": "Account", "recordIds": ["001"], "commitTimestamp": 1795440814000}
    data = {"event": {"replayId": number}, "payload": {"ChangeEventHeader": header}}
    return json.dumps({"data": data, "channel": CHANNEL}).encode()


def land(events: MemoryContainer, number: int, partition: date, lines: int = 1) -> None:
    body = b"".join(line(10 * number + place) + b"\n" for place in range(lines))
    name = layout.segment_name(CHANNEL, partition, number)
    events.create(name, body, content_type=layout.SEGMENT_TYPE)


@pytest.fixture
def containers() -> tuple[MemoryContainer, MemoryContainer]:
    events, state = MemoryContainer("events"), MemoryContainer("state")
    events.ensure(), state.ensure()
    return events, state


def follower(events: MemoryContainer, *, number: int, partition: date | None) -> tail.Follower:
    return tail.Follower(events, CHANNEL, lambda: datetime.now(UTC), number, partition)


def seen_in(found: Iterator[list[tail.Seen]]) -> list[tuple[int, str]]:
    return [(seen.segment, seen.replay_id) for lines in found for seen in lines]


@pytest.mark.parametrize(
    ("partition", "following"),
    [
        (TODAY, TODAY),
        (TODAY - timedelta(days=1), TODAY),
        (TODAY - timedelta(days=3), TODAY - timedelta(days=1)),  # a backlog that begins the folder of a past day
        (None, TODAY),
    ],
    ids=["in its folder", "a new date", "a past date", "the first of all"],
)
def test_a_segment_is_seen_within_two_seconds_of_its_landing(
    containers: tuple[MemoryContainer, MemoryContainer], partition: date | None, following: date
) -> None:
    events, _ = containers
    number = 0 if partition is None else 1
    if partition is not None:
        land(events, number, partition)
    landed_s: list[float] = []

    def write() -> None:
        landed_s.append(time.monotonic())
        land(events, number + 1, following)

    found = tail.follow([follower(events, number=number, partition=partition)], seconds=30)
    threading.Timer(1.6, write).start()  # by then it looks as seldom as it ever does
    [seen] = next(found)
    assert time.monotonic() - landed_s[0] < LIMIT_S
    assert (seen.segment, seen.replay_id) == (number + 1, str(10 * number + 10))
    assert (seen.change, seen.entity, seen.records) == ("UPDATE", "Account", ("001",))


def test_what_is_there_comes_at_once_and_in_order_across_dates(
    containers: tuple[MemoryContainer, MemoryContainer],
) -> None:
    events, _ = containers
    days = [TODAY - timedelta(days=days) for days in (3, 3, 2, 0, 0)]
    for number, day in enumerate(days, 1):
        land(events, number, day, lines=2)
    began = time.monotonic()
    found = seen_in(tail.follow([follower(events, number=0, partition=None)], seconds=5))
    assert found == [(number, str(10 * number + place)) for number in range(1, 6) for place in (0, 1)]
    assert time.monotonic() - began < 15


def test_a_quiet_channel_costs_a_request_a_second_and_with_an_old_folder_two_more(
    containers: tuple[MemoryContainer, MemoryContainer],
) -> None:
    events, _ = containers
    for partition, most in ((TODAY, {"head": 1, "read": 7, "folders": 1}), (TODAY - timedelta(days=2), {"folders": 5})):
        land(events, 1, partition) if partition == TODAY else land(events, 7, partition)
        script = Script()
        watched = FaultyContainer(events, script)
        number = 1 if partition == TODAY else 7
        list(tail.follow([tail.Follower(watched, CHANNEL, lambda: datetime.now(UTC), number, partition)], seconds=2.2))
        calls = Counter(call.verb for call in script.calls)
        for verb, limit in most.items():
            assert calls[verb] <= limit, calls
        assert calls["names"] == 0, calls  # a folder can hold a day of a busy channel


def test_a_segment_that_a_lifecycle_rule_took_is_passed_over(
    containers: tuple[MemoryContainer, MemoryContainer],
) -> None:
    events, state = containers
    land(events, 5, TODAY)
    blob = events.read(layout.segment_name(CHANNEL, TODAY, 5))
    assert blob is not None
    facts = layout.SegmentFacts("50", "50", 1, None, None, 1, "run", "", layout.sha256(blob.body))
    events.create(
        layout.segment_name(CHANNEL, TODAY, 6), blob.body, metadata=facts.to_metadata(), content_type="text/plain"
    )
    started = tail.start_at(events, state, CHANNEL, 2, datetime.now(UTC))
    assert [segment for segment, _ in seen_in(tail.follow([started], seconds=0.1))][:1] == [5]


def test_a_line_that_cannot_be_read_is_shown_all_the_same() -> None:
    events = MemoryContainer("events")
    events.ensure()
    name = layout.segment_name(CHANNEL, TODAY, 1)
    events.create(name, b'{"data":NaN}\n{"data":{"payload":{"ChangeEventHeader":7}}}\n', content_type="text/plain")
    [lines] = list(tail.follow([follower(events, number=0, partition=None)], seconds=0.01))[:1]
    assert [(seen.replay_id, seen.change, seen.lag) for seen in lines] == [("", "", None)] * 2
    assert lines[0].line == b'{"data":NaN}'
