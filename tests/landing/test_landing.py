"""The storage log, promise by promise: names, segments, checkpoints, generations, gaps, fences, and what it costs."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest

from cdc import landing, layout
from cdc.continuity import FIRST_START, OUTAGE, REPLAY_REFUSED, Opening, Policy, Position, Start
from cdc.errors import (
    CdcError,
    ContinuityStopped,
    Fenced,
    LatePut,
    LogInconsistent,
    OtherOrg,
    RunClosed,
    StorageError,
    StorageForbidden,
    StorageUnavailable,
)
from cdc.events import EARLIEST, TIP, Deliveries, Delivery, Stray, read_message
from cdc.landing import ChannelLog
from cdc.memory_store import MemoryContainer
from cdc.store import Blob
from tests.faulty_store import Fault, Killed, Script, always, at_call, first_of, on
from tests.landing.world import CHANNEL, CHECKPOINT, FOLDER, ORG_ID, Twist, World, Writer, as_script

GENERATION_1 = "generations/data/AccountChangeEvent/0001.json"
GENERATION_2 = "generations/data/AccountChangeEvent/0002.json"
GAP_2 = "gaps/data/AccountChangeEvent/0002.json"
SEGMENT_1 = "data/AccountChangeEvent/date=2026-11-23/000000000001.jsonl"
SEGMENT_2 = "data/AccountChangeEvent/date=2026-11-23/000000000002.jsonl"
EARLIEST_POLICY = Policy(start=EARLIEST)
REFUSED = Opening(REPLAY_REFUSED, EARLIEST, is_gap=True)
_replay_ids = count(1)


def delivery(time: str | None = "2026-11-23T12:00:00Z", *, replay_id: int | None = None, size: int = 0) -> Delivery:
    """An event message as it comes off the wire."""
    header = {} if time is None else {"commitTimestamp": int(datetime.fromisoformat(time).timestamp() * 1000)}
    data = {
        "event": {"replayId": replay_id or next(_replay_ids)},
        "payload": {"ChangeEventHeader": header, "Name": "x" * size},
    }
    read = read_message(json.dumps({"data": data, "channel": CHANNEL}).encode())
    assert isinstance(read, Delivery)
    return read


def earliest_world(now: str = "2026-11-23T12:00:00+00:00") -> World:
    return World(policy=EARLIEST_POLICY, now=now)


def started(world: World, run_id: str = "run-a") -> ChannelLog:
    """A run whose channel is ready to land."""
    writer = world.open(run_id)
    assert world.prepare(writer)
    return writer.log


def land(log: ChannelLog, *deliveries: Delivery) -> list[landing.Landed]:
    return list(log.land(Deliveries.of(deliveries)))


def segment_names(world: World) -> list[str]:
    return [name for name in world.names(world.events) if name.startswith(FOLDER)]


def derived(world: World, run_id: str = "run-z") -> Position:
    """Where a new run finds the log's end."""
    writer = world.open(run_id)
    writer.log.derive()
    return writer.log.position


def script_of(world: World) -> Script:
    return world.writers[-1].script


def metadata_of(world: World, name: str) -> dict[str, str]:
    blob = world.events.head(name)
    assert blob is not None
    return dict(blob.metadata)


def state_of(world: World, name: str) -> dict[str, object]:
    blob = world.state.read(name)
    assert blob is not None, f"no {name}"
    found: dict[str, object] = json.loads(blob.body)
    return found


def overwrite(container: MemoryContainer, name: str, body: bytes) -> None:
    blob = container.read(name)
    container.replace(name, body, etag=blob.etag if blob else None, content_type="application/json")


def put_segment(world: World, name: str, **metadata: str) -> None:
    """Write a segment behind the log's back."""
    facts = {
        "first_replay_id": "901",
        "last_replay_id": "901",
        "count": "1",
        "generation": "1",
        "run_id": "run-other",
        "sha256": "00",
    }
    world.events.create(name, b"{}\n", metadata=facts | metadata, content_type="application/x-ndjson")


# --- what lands where ------------------------------------------------------------------------------------------------


def test_a_run_leaves_exactly_these_blobs() -> None:
    world = earliest_world()
    world.org.publish()
    world.capture()
    assert world.names(world.events) == [SEGMENT_1]
    assert world.names(world.state) == [CHECKPOINT, GENERATION_1, "runs/capture1.json"]


def test_a_segment_holds_the_messages_as_received_one_per_line() -> None:
    world = earliest_world()
    log = started(world)
    events = [delivery(), delivery(None), delivery()]
    (landed,) = land(log, *events)
    blob = world.events.read(SEGMENT_1)
    assert blob is not None
    assert blob.body == b"".join(bytes(event.raw) + b"\n" for event in events)
    assert (landed.segment, landed.count, landed.size_bytes) == (1, 3, len(blob.body))
    assert landed.last_replay_id == events[-1].replay_id


def test_metadata_says_what_recovery_and_readers_need() -> None:
    world = earliest_world()
    log = started(world, "run-a")
    first, last = delivery("2026-11-23T12:00:00.123Z"), delivery("2026-11-23T12:00:01Z")
    land(log, first, delivery(None), last)
    blob = world.events.read(SEGMENT_1)
    assert blob is not None
    assert dict(blob.metadata) == {
        "first_replay_id": first.replay_id,
        "last_replay_id": last.replay_id,
        "count": "3",
        "first_time": "2026-11-23T12:00:00.123Z",
        "last_time": "2026-11-23T12:00:01.000Z",
        "generation": "1",
        "run_id": "run-a",
        "org_id": ORG_ID,
        "sha256": layout.sha256(blob.body),
    }


def test_metadata_leaves_out_the_times_of_events_without_time() -> None:
    world = earliest_world()
    land(started(world), delivery(None))
    assert {"first_time", "last_time"}.isdisjoint(metadata_of(world, SEGMENT_1))


def test_numbers_go_on_over_batches_runs_and_dates() -> None:
    world = earliest_world()
    log = started(world)
    land(log, delivery())
    land(log, delivery(), delivery("2026-11-24T00:00:00Z"))
    log.save_checkpoint(force=True)
    land(started(world, "run-b"), delivery("2026-11-24T01:00:00Z"))
    assert [name.removeprefix(FOLDER) for name in segment_names(world)] == [
        "date=2026-11-23/000000000001.jsonl",
        "date=2026-11-23/000000000002.jsonl",
        "date=2026-11-24/000000000003.jsonl",
        "date=2026-11-24/000000000004.jsonl",
    ]


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        pytest.param(["23T23:59:59.999", "24T00:00:00"], ["23:1", "24:1"], id="cut where the UTC date changes"),
        pytest.param(["23T12:00", "24T12:00", "23T12:00", "24T13:00"], ["23:1", "24:3"], id="late under a later date"),
        pytest.param(["23T12:00", None, "24T12:00", None], ["23:2", "24:2"], id="without time in the current one"),
        pytest.param(["23T12:00", "26T12:00", "25T12:00"], ["23:1", "26:2"], id="a day without events"),
        pytest.param(["22T12:00", "23T12:00"], ["23:2"], id="nothing before the record's partition"),
        pytest.param(["24T12:00", "24T13:00"], ["23:1", "24:1"], id="a first event in the record's partition"),
        pytest.param(["24T12:00", "25T13:00"], ["23:1", "25:1"], id="cut by date within a first segment too"),
        pytest.param([None, "24T13:00"], ["23:1", "24:1"], id="first event without time"),
    ],
)
def test_a_partition_is_the_date_of_the_event_and_never_goes_back(times: list[str | None], expected: list[str]) -> None:
    world = earliest_world()  # the generation's record says 2026-11-23
    land(started(world), *(delivery(time and f"2026-11-{time}+00:00") for time in times))
    found = [
        f"{name.split('date=2026-11-')[1][:2]}:{metadata_of(world, name)['count']}" for name in segment_names(world)
    ]
    assert found == expected


def test_a_batch_is_cut_where_a_segment_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landing, "MAX_SEGMENT_BYTES", 2_500)
    world = earliest_world()
    sizes = [1_000, 1_000, 500, 9_000, 10, 10]
    landed = land(started(world), *(delivery(size=size) for size in sizes))
    assert [each.count for each in landed] == [2, 1, 1, 2], "the one that is too large is a segment of its own"
    assert all(each.size_bytes <= 2_500 for each in landed if each.count > 1)


def test_an_empty_answer_writes_nothing() -> None:
    world = earliest_world()
    log = started(world)
    assert land(log) == []
    assert segment_names(world) == []


# --- writing against faults and other writers -------------------------------------------------------------------------


def test_own_segment_reported_as_existing_is_a_success() -> None:
    world = earliest_world()
    log = started(world)
    script_of(world).decide = on(Fault.REPEATED, verb="create")
    (landed,) = land(log, delivery())
    assert landed.segment == 1
    assert log.is_known
    land(log, delivery())
    assert segment_names(world) == [SEGMENT_1, SEGMENT_2]


def test_a_late_write_of_this_run_is_no_alarm_and_the_position_is_derived_again() -> None:
    world = earliest_world()
    log = started(world)
    first, second, third = delivery(), delivery(), delivery()
    script_of(world).decide = on(Fault.LATE, verb="create")
    with pytest.raises(StorageUnavailable):
        land(log, first, second)
    log.derive()
    script_of(world).release()
    with pytest.raises(LatePut):
        land(log, first, second, third)
    assert not log.is_known
    log.derive()
    assert (log.position.segment, log.position.replay_id) == (1, second.replay_id)


def test_a_segment_of_another_run_fences_this_one_and_is_never_overwritten() -> None:
    world = earliest_world()
    ours, theirs = started(world, "run-a"), started(world, "run-b")
    event = delivery()
    land(theirs, event)
    before = world.events.read(SEGMENT_1)
    with pytest.raises(Fenced, match=r"run run-b wrote it before this run, run-a") as caught:
        land(ours, event, delivery())
    assert "stop one" in caught.value.hint
    assert not ours.is_known
    assert world.events.read(SEGMENT_1) == before
    assert segment_names(world) == [SEGMENT_1]


def test_the_same_content_by_another_run_fences_too() -> None:
    world = earliest_world()
    ours, theirs = started(world, "run-a"), started(world, "run-b")
    event = delivery()
    land(theirs, event)
    with pytest.raises(Fenced):
        land(ours, event)


def test_a_failed_read_back_is_a_storage_fault() -> None:
    world = earliest_world()
    log = started(world)
    script_of(world).decide = first_of(on(Fault.REPEATED, verb="create"), on(Fault.UNAVAILABLE, verb="head"))
    with pytest.raises(StorageUnavailable):
        land(log, delivery())
    assert not log.is_known


def test_a_blob_in_the_segments_place_that_is_no_segment_is_an_error() -> None:
    world = earliest_world()
    log = started(world)
    world.events.create(SEGMENT_1, b"?", content_type="text/plain")
    with pytest.raises(LogInconsistent, match=r"000000000001\.jsonl.*lacks first_replay_id"):
        land(log, delivery())


@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.FORBIDDEN, Fault.BROKEN, Fault.LOST_ANSWER])
def test_the_first_failure_drops_the_rest_of_the_batch(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landing, "MAX_SEGMENT_BYTES", 1)
    world = earliest_world()
    log = started(world)
    script_of(world).decide = on(fault, verb="create", nth=2)
    with pytest.raises(StorageError):
        land(log, delivery(), delivery(), delivery())
    assert script_of(world).count("create", SEGMENT_2.replace("2.jsonl", "3.jsonl")) == 0
    assert not log.is_known


def test_a_segment_is_yielded_only_once_it_is_durable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landing, "MAX_SEGMENT_BYTES", 1)
    world = earliest_world()
    log = started(world)
    script_of(world).decide = on(Fault.UNAVAILABLE, verb="create", nth=2)
    landing_now = log.land(Deliveries.of([delivery(), delivery()]))
    assert next(landing_now).segment == 1
    assert segment_names(world) == [SEGMENT_1]
    with pytest.raises(StorageUnavailable):
        next(landing_now)


# --- duplicates ------------------------------------------------------------------------------------------------------


def test_a_delivery_that_was_just_landed_or_comes_twice_is_dropped() -> None:
    world = earliest_world()
    log = started(world)
    one, two = delivery(), delivery()
    land(log, one, one, two)
    assert land(log, two, one) == []
    assert log.duplicates == 3
    assert metadata_of(world, SEGMENT_1)["count"] == "2"


def test_the_position_itself_is_known_after_deriving() -> None:
    world = earliest_world()
    event = delivery()
    land(started(world), event)
    log = started(world, "run-b")
    assert land(log, event) == []


def test_the_window_of_known_replay_ids_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landing, "_WINDOW", 10)
    world = earliest_world()
    log = started(world)
    events = [delivery() for _ in range(31)]
    for begin in range(0, 31, 5):
        land(log, *events[begin : begin + 5])
    assert land(log, *events[-10:]) == [], "at least one window is remembered"
    for _ in range(50):
        assert land(log, events[-1]) == []
    assert len(log._window.batches) <= len(log._window.known) <= 15


def test_a_new_generation_lands_what_the_old_one_had_landed() -> None:
    world = earliest_world()
    log = started(world)
    event = delivery()
    land(log, event)
    log.open_generation(REFUSED, t0=world.org.now, user_id="")
    (landed,) = land(log, event)
    assert (landed.segment, landed.count) == (2, 1)
    assert metadata_of(world, SEGMENT_2)["generation"] == "2"


# --- the position ----------------------------------------------------------------------------------------------------


def with_log(segments: int = 3, *, checkpoint_at: int | None = None) -> tuple[World, list[Delivery]]:
    """A log of so many one-event segments; the checkpoint is written after `checkpoint_at` of them (None: all)."""
    world = earliest_world()
    log = started(world)
    events = [delivery() for _ in range(segments)]
    for number, event in enumerate(events, start=1):
        land(log, event)
        if number == (checkpoint_at or segments):
            log.save_checkpoint(force=True)
    return world, events


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda world: world.remove(world.state, CHECKPOINT), id="missing"),
        pytest.param(lambda world: overwrite(world.state, CHECKPOINT, b""), id="empty"),
        pytest.param(lambda world: overwrite(world.state, CHECKPOINT, b"\xff\x00"), id="not UTF-8"),
        pytest.param(lambda world: overwrite(world.state, CHECKPOINT, b'{"format":1,"chan'), id="cut off"),
        pytest.param(lambda world: overwrite(world.state, CHECKPOINT, b"[" * 100_000), id="deeply nested"),
        pytest.param(lambda world: overwrite(world.state, CHECKPOINT, b"null"), id="null"),
        pytest.param(
            lambda world: overwrite(
                world.state, CHECKPOINT, json.dumps(state_of(world, CHECKPOINT) | {"format": 2}).encode()
            ),
            id="a later format",
        ),
        pytest.param(
            lambda world: overwrite(
                world.state, CHECKPOINT, json.dumps(state_of(world, CHECKPOINT) | {"channel": "/data/X"}).encode()
            ),
            id="another channel's",
        ),
        pytest.param(
            lambda world: overwrite(
                world.state, CHECKPOINT, json.dumps(state_of(world, CHECKPOINT) | {"partition": None}).encode()
            ),
            id="contradicting itself",
        ),
        pytest.param(
            lambda world: overwrite(
                world.state, CHECKPOINT, json.dumps(state_of(world, CHECKPOINT) | {"replayId": "-1"}).encode()
            ),
            id="with a preset for a position",
        ),
    ],
)
def test_where_the_checkpoint_says_nothing_the_log_decides(spoil: Callable[[World], None]) -> None:
    world, events = with_log(3)
    expected = derived(world)
    spoil(world)
    found = derived(world)
    assert (found.segment, found.replay_id) == (3, events[-1].replay_id)
    assert found == expected
    is_there = world.state.read(CHECKPOINT) is not None
    assert [text for text in world.warnings if "the log decides" in text and CHANNEL in text] != [] or not is_there


def test_the_checkpoint_is_mended_by_the_next_save() -> None:
    world, events = with_log(2)
    overwrite(world.state, CHECKPOINT, b"rubbish")
    started(world, "run-b").save_checkpoint(force=True)
    assert state_of(world, CHECKPOINT)["replayId"] == events[-1].replay_id


def test_a_checkpoint_behind_the_log_is_overruled_quietly() -> None:
    world, events = with_log(3, checkpoint_at=1)
    found = derived(world)
    assert (found.segment, found.replay_id) == (3, events[-1].replay_id)
    assert world.warnings == []


def test_a_checkpoint_behind_the_log_by_a_partition_is_overruled() -> None:
    world, _ = with_log(1)
    log = started(world, "run-b")
    last = delivery("2026-11-25T00:00:00Z")
    land(log, last)
    assert derived(world).replay_id == last.replay_id


def test_a_young_checkpoint_ahead_of_the_log_is_overruled_with_a_warning() -> None:
    world, events = with_log(3)
    world.remove(world.events, SEGMENT_1.replace("1.jsonl", "3.jsonl"))
    found = derived(world)
    assert (found.segment, found.replay_id) == (2, events[1].replay_id)
    (warning,) = world.warnings
    assert warning == (
        f"the checkpoint of {CHANNEL} is ahead: data/AccountChangeEvent/date=2026-11-23/000000000003.jsonl is missing; "
        "the log decides"
    )


def test_a_checkpoint_stands_where_a_lifecycle_rule_has_taken_its_segment() -> None:
    world, events = with_log(3)
    world.org.now += timedelta(hours=72)
    for name in segment_names(world):
        world.remove(world.events, name)
    found = derived(world)
    assert (found.segment, found.replay_id) == (3, events[-1].replay_id)
    assert found.last_time == events[-1].time
    assert world.warnings == []


def test_numbers_never_restart_though_a_quiet_channels_segments_are_all_taken() -> None:
    """The state machine's finding: a checkpoint rewritten after the segment had gone looked young, so ahead."""
    world, _ = with_log(3)
    world.org.now += timedelta(days=40)
    for name in segment_names(world):
        world.remove(world.events, name)
    log = started(world, "run-b")
    log.note_quiet(world.org.now)
    log.save_checkpoint(force=True)
    assert derived(world).segment == 3
    log.open_generation(REFUSED, t0=world.org.now, user_id="")
    log.save_checkpoint(force=True)
    found = derived(world)
    assert (found.segment, found.replay_id) == (3, None)
    assert found.generation is not None
    assert found.generation.number == 2


def test_a_generation_record_without_checkpoint_and_segment_is_an_error() -> None:
    world = earliest_world()
    started(world)
    world.remove(world.state, CHECKPOINT)
    with pytest.raises(LogInconsistent, match=r"generation 1 has a record, but there is neither") as caught:
        derived(world)
    assert "restore the missing blobs" in caught.value.hint


def test_a_young_checkpoint_over_a_log_that_is_gone_altogether_is_an_error() -> None:
    world, _ = with_log(2)
    for name in segment_names(world):
        world.remove(world.events, name)
    with pytest.raises(LogInconsistent, match=r"the checkpoint knows segment 2, but there is none") as caught:
        derived(world)
    assert "restore the deleted blobs" in caught.value.hint


def test_a_run_whose_checkpoint_meets_anothers_newer_generation_is_fenced() -> None:
    world, _ = with_log(1)
    ours = started(world, "run-b")
    other = started(world, "run-c")
    other.open_generation(REFUSED, t0=world.org.now, user_id="")
    other.save_checkpoint(force=True)
    land(ours, delivery())
    with pytest.raises(Fenced, match=r"run run-c opened generation 2 while this run, run-b, was in generation 1"):
        ours.save_checkpoint(force=True)


def test_a_generation_record_that_cannot_be_read_is_an_error() -> None:
    world, _ = with_log(1)
    world.remove(world.state, CHECKPOINT)
    overwrite(world.state, GENERATION_1, b"{}")
    with pytest.raises(LogInconsistent, match=r"0001\.json cannot be read"):
        derived(world)


def test_a_newer_generation_record_says_where_to_go_on() -> None:
    world, events = with_log(2)
    log = started(world, "run-b")
    log.open_generation(REFUSED, t0=world.org.now, user_id="")
    found = derived(world)
    assert found.generation is not None
    assert (found.generation.number, found.segment, found.replay_id) == (2, 2, None)
    assert found.last_replay_id == events[-1].replay_id
    world.remove(world.state, CHECKPOINT)
    assert derived(world) == found


def test_two_segments_with_one_number_are_an_error() -> None:
    world, _ = with_log(2, checkpoint_at=1)
    put_segment(world, "data/AccountChangeEvent/date=2026-11-24/000000000002.jsonl")
    with pytest.raises(
        LogInconsistent, match=r"segment 2 lies in date=2026-11-24, but date=2026-11-23 already reaches 2"
    ):
        derived(world)


def test_a_last_segment_without_metadata_is_an_error() -> None:
    world, _ = with_log(1)
    world.events.create(SEGMENT_2, b"{}\n", content_type="application/x-ndjson")
    with pytest.raises(LogInconsistent, match=r"000000000002\.jsonl is not ours"):
        derived(world)


def test_segments_of_a_generation_without_record_stand_for_it() -> None:
    world, events = with_log(2)
    world.remove(world.state, CHECKPOINT)
    world.remove(world.state, GENERATION_1)
    found = derived(world)
    assert (found.segment, found.replay_id) == (2, events[-1].replay_id)
    assert world.warnings == [
        f"the checkpoint of {CHANNEL} is missing; the log decides",
        f"generation 1 of {CHANNEL} has no record; its segments stand for it",
    ]


@pytest.mark.parametrize(
    "foreign",
    [
        "data/AccountChangeEvent/_SUCCESS",
        "data/AccountChangeEvent/part-0.parquet",
        "data/AccountChangeEvent/date=2026-11-30/part-0.parquet",
        "data/AccountChangeEvent/date=2026-11-30/old/000000000099.jsonl",
        "data/AccountChangeEvent/date=2026-11-23/000000000099.jsonl.gz",
        "data/AccountChangeEvent/date=2026-11-23/99.jsonl",
        "data/AccountChangeEvent/date=2026-11-23/backup/000000000099.jsonl",
        "data/AccountChangeEvent/date=2026-13-99/000000000099.jsonl",
        "data/AccountChangeEvent/backup-date=2026-11-30/000000000099.jsonl",
        "data/AccountChangeEvent/000000000099.jsonl",
        "data/AccountChangeEvent2/date=2026-11-30/000000000099.jsonl",
    ],
)
def test_foreign_blobs_and_folders_are_ignored(foreign: str) -> None:
    world, events = with_log(2, checkpoint_at=1)
    put_segment(world, foreign)
    assert derived(world).replay_id == events[-1].replay_id
    world.remove(world.state, CHECKPOINT)
    assert derived(world).replay_id == events[-1].replay_id


def test_a_checkpoint_that_is_up_to_date_costs_one_look_at_the_log() -> None:
    world, _ = with_log(2)
    writer = world.open()
    writer.log.derive()
    assert writer.log.position.segment == 2
    assert [call.verb for call in writer.script.calls] == ["read", "from_name", "read"]  # the last: a newer generation?


@pytest.mark.parametrize(
    "understood",
    [
        pytest.param(lambda found, names: [], id="as behind all blobs"),
        pytest.param(lambda found, names: names[:2], id="as from the beginning"),
        pytest.param(lambda found, names: found[1:], id="as exclusive"),
    ],
)
def test_a_storage_that_lists_from_elsewhere_hides_no_segment(
    understood: Callable[[list[Blob], list[Blob]], list[Blob]], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = earliest_world()
    log = started(world)
    land(log, delivery())
    log.save_checkpoint(force=True)
    last = delivery("2026-11-25T00:00:00Z")
    land(log, last)
    listed = MemoryContainer.from_name

    def from_name(container: MemoryContainer, prefix: str, start: str, *, at_most: int) -> list[Blob]:
        return understood(listed(container, prefix, start, at_most=at_most), listed(container, prefix, "", at_most=9))

    monkeypatch.setattr(MemoryContainer, "from_name", from_name)
    assert derived(world).replay_id == last.replay_id


def test_generation_records_put_aside_are_ignored() -> None:
    world, _ = with_log(2)
    world.remove(world.state, CHECKPOINT)
    world.state.create("generations/data/AccountChangeEvent/old/0009.json", b"{}", content_type="application/json")
    world.state.create("generations/data/AccountChangeEvent/notes.txt", b"", content_type="text/plain")
    generation = derived(world).generation
    assert generation is not None
    assert generation.number == 1


# --- containers, rights, orgs ----------------------------------------------------------------------------------------


def test_missing_containers_are_created_at_the_first_start() -> None:
    world = earliest_world()
    assert derived(world) == Position()
    assert (world.events.ensure(), world.state.ensure()) == (False, False)


def test_a_missing_events_container_is_not_created_where_state_is_there() -> None:
    world, _ = with_log(1)
    world.events = MemoryContainer("cdc-events")
    with pytest.raises(LogInconsistent, match="container cdc-events is missing, but cdc-checkpoints holds its state"):
        derived(world)
    assert world.events._blobs is None


def test_a_missing_events_container_is_not_created_where_another_channel_has_state() -> None:
    world, _ = with_log(1)
    world.events = MemoryContainer("cdc-events")
    writer = world.open()
    other = ChannelLog(writer.storage, "/event/Other__e", world.warnings.append)
    with pytest.raises(LogInconsistent, match="is missing"):
        other.derive()
    world.remove(world.state, GENERATION_1)
    with pytest.raises(LogInconsistent, match="is missing"):
        other.derive()
    assert world.events._blobs is None


def test_a_lost_state_container_is_made_anew_and_the_log_decides() -> None:
    world, events = with_log(2)
    world.state = MemoryContainer("cdc-checkpoints")
    assert derived(world).replay_id == events[-1].replay_id


@pytest.mark.parametrize(
    ("has_checkpoint", "call"), [*((True, call) for call in range(1, 4)), *((False, call) for call in range(1, 6))]
)
@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.FORBIDDEN, Fault.BROKEN])
def test_storage_that_cannot_be_read_is_an_error_and_never_a_fresh_start(
    call: int, fault: Fault, has_checkpoint: bool
) -> None:
    world, _ = with_log(2)
    if not has_checkpoint:
        world.remove(world.state, CHECKPOINT)
    writer = world.open()
    writer.script.decide = at_call(call, fault)
    with pytest.raises(StorageError) as caught:
        writer.log.derive()
    assert isinstance(caught.value, StorageForbidden) == (fault is Fault.FORBIDDEN)
    assert not writer.log.is_known
    writer.log.derive()
    assert writer.log.position.segment == 2


def test_a_log_of_another_org_is_refused_with_both_ids() -> None:
    world, _ = with_log(1)
    log = world.open().log
    log.derive()
    with pytest.raises(OtherOrg, match=rf"it is org {ORG_ID}'s, but the settings log in to org 00DXX0000000002"):
        log.check_org("00DXX0000000002")


def test_an_org_id_counts_in_its_short_and_its_long_form() -> None:
    world, _ = with_log(1)
    log = world.open().log
    log.derive()
    log.check_org(ORG_ID[:15])


# --- generations and gaps --------------------------------------------------------------------------------------------


def test_the_first_generation_records_where_and_why_it_starts() -> None:
    world = World(policy=Policy(start=TIP), now="2026-11-23T12:00:00+00:00")
    started(world, "run-a")
    assert state_of(world, GENERATION_1) == {
        "format": 1,
        "channel": CHANNEL,
        "orgId": ORG_ID,
        "runId": "run-a",
        "number": 1,
        "cause": FIRST_START,
        "start": "-1",
        "t0": "2026-11-23T12:00:01Z",
        "afterSegment": 0,
        "partition": "2026-11-23",
        "userId": "005000000000001AAA",
        "mayRepeatEarlierEvents": False,
    }
    assert world.records("gaps/") == []


def test_a_checkpoint_stands_before_the_first_generation_record() -> None:
    world = earliest_world()
    writer = world.open()
    world.prepare(writer, Twist(99))
    writes = [call.name for call in writer.script.calls if call.verb in ("create", "replace")]
    assert writes == [CHECKPOINT, GENERATION_1]


def test_the_gap_is_recorded_before_the_generation_and_says_what_may_be_missing() -> None:
    world, events = with_log(2)
    log = started(world, "run-b")
    since, t0 = datetime(2026, 11, 23, 12, tzinfo=UTC), datetime(2026, 11, 25, 6, tzinfo=UTC)
    opening = Opening(REPLAY_REFUSED, EARLIEST, is_gap=True, since=since)
    assert log.open_generation(opening, t0=t0, user_id="005") == (None, True)
    writes = [call.name for call in script_of(world).calls if call.verb == "create"]
    assert writes == [GAP_2, GENERATION_2]
    assert state_of(world, GAP_2) == {
        "format": 1,
        "channel": CHANNEL,
        "orgId": ORG_ID,
        "runId": "run-b",
        "number": 2,
        "cause": "replay-refused",
        "afterSegment": 2,
        "afterReplayId": events[-1].replay_id,
        "since": "2026-11-23T12:00:00Z",
        "until": "2026-11-25T06:00:00Z",
        "detected": "2026-11-25T06:00:00Z",
        "start": "-2",
    }
    record = state_of(world, GENERATION_2)
    assert (record["afterSegment"], record["partition"], record["mayRepeatEarlierEvents"]) == (2, "2026-11-23", True)


def test_a_gap_is_recorded_once_though_the_process_dies_before_the_generation_record() -> None:
    world, _ = with_log(1)
    log = started(world, "run-b")
    script_of(world).decide = on(Fault.UNAVAILABLE, verb="create", name=GENERATION_2)
    with pytest.raises(StorageUnavailable):
        log.open_generation(REFUSED, t0=world.org.now, user_id="")
    first = state_of(world, GAP_2)
    again = started(world, "run-c")
    assert again.open_generation(REFUSED, t0=world.org.now, user_id="") == (None, True), "the gap is reported"
    assert state_of(world, GAP_2) == first
    assert len(world.records("gaps/")) == 1


def test_a_gap_is_reported_though_the_answer_to_its_generation_record_was_lost() -> None:
    world, _ = with_log(1)
    log = started(world, "run-b")
    script_of(world).decide = on(Fault.LOST_ANSWER, verb="create", name=GENERATION_2)
    with pytest.raises(StorageUnavailable):
        log.open_generation(REFUSED, t0=world.org.now, user_id="")
    assert log.open_generation(REFUSED, t0=world.org.now + timedelta(seconds=9), user_id="") == (None, True)


def test_stop_records_the_gap_once_and_fails_until_a_start_is_ordered() -> None:
    world, _ = with_log(1)
    stop = Opening(REPLAY_REFUSED, "stop", is_gap=True)
    for run in ("run-b", "run-c"):
        with pytest.raises(ContinuityStopped, match=r"0002\.json.*CDC_ON_REPLAY_EXPIRED is stop"):
            started(world, run).open_generation(stop, t0=world.org.now, user_id="")
    assert len(world.records("gaps/")) == 1
    assert state_of(world, GAP_2)["start"] == "stop"
    assert len(world.records("generations/")) == 1
    log = started(world, "run-d")
    assert log.open_generation(REFUSED, t0=world.org.now, user_id="") == (None, True)
    assert len(world.records("gaps/")) == 1


def test_the_loser_of_the_race_for_a_generation_adopts_the_winners() -> None:
    world = World(policy=Policy(start=TIP))
    winner, loser = world.open("run-a"), world.open("run-b")
    winner.log.derive()
    loser.log.derive()
    opening = Opening(FIRST_START, TIP, is_gap=False)
    assert winner.log.open_generation(opening, t0=world.org.now, user_id="")[0] == Start(TIP)
    later = world.org.now + timedelta(minutes=20)  # on the other side of midnight
    assert loser.log.open_generation(opening, t0=later, user_id="") == (None, False)
    assert loser.log.position.generation == winner.log.position.generation


def test_two_runs_that_start_at_the_tip_on_two_sides_of_midnight_choose_the_same_name() -> None:
    world = World(policy=Policy(start=TIP))
    first, second = world.open("run-a"), world.open("run-b")
    world.connect(first)
    world.org.now += timedelta(minutes=20)
    world.connect(second)
    land(second.log, delivery("2026-11-24T00:05:00Z"))
    with pytest.raises(Fenced):
        land(first.log, delivery("2026-11-23T23:59:00Z"))


def test_a_stale_loser_does_not_use_a_number_twice() -> None:
    world, _ = with_log(1)
    fast, slow = started(world, "run-b"), started(world, "run-c")
    land(fast, delivery())
    world.org.now += timedelta(days=1)
    fast.open_generation(REFUSED, t0=world.org.now, user_id="")
    assert slow.open_generation(REFUSED, t0=world.org.now, user_id="") == (None, False)
    land(slow, delivery("2026-11-24T12:00:00Z"))
    world.remove(world.state, CHECKPOINT)
    assert derived(world).segment == 3


def test_a_generation_is_not_opened_behind_a_stale_end() -> None:
    world, _ = with_log(1)
    fast, slow = started(world, "run-b"), started(world, "run-c")
    last = delivery()
    land(fast, last)
    assert slow.open_generation(REFUSED, t0=world.org.now, user_id="") == (None, False)
    assert slow.position.replay_id == last.replay_id
    assert len(world.records("generations/")) == 1
    assert world.records("gaps/") == []


@pytest.mark.parametrize("older_at", ["23T23:59", "24T00:01"])
@pytest.mark.parametrize("newer_at", ["23T23:59", "24T00:01"])
@pytest.mark.parametrize("is_older_first", [True, False])
@pytest.mark.parametrize("meanwhile", ["", "a segment", "a date"])
def test_two_runs_in_two_generations_of_a_channel_never_use_a_number_twice(
    older_at: str, newer_at: str, is_older_first: bool, meanwhile: str
) -> None:
    """One has proved that its channel was quiet, the other has not and opened a generation, with midnight between."""
    world, _ = with_log(1)
    older, newer = started(world, "run-b"), started(world, "run-c")
    world.org.now += timedelta(days=1)
    newer.open_generation(REFUSED, t0=world.org.now, user_id="")
    if meanwhile:
        land(older, delivery("2026-11-23T23:58Z"))
        newer.derive()
    if meanwhile == "a date":
        land(older, delivery("2026-11-24T00:00Z"))  # which the newer one does not know of
    runs = [(older, older_at), (newer, newer_at)]
    outcomes = []
    for log, time in runs if is_older_first else runs[::-1]:
        try:
            outcomes.append(len(land(log, delivery(f"2026-11-{time}Z"))))
        except Fenced:
            outcomes.append(0)
    assert outcomes == ([1, 0] if meanwhile != "a date" or is_older_first else [0, 1])
    numbers = [int(name[-18:-6]) for name in segment_names(world)]
    assert numbers == list(range(1, len(numbers) + 1))
    world.remove(world.state, CHECKPOINT)
    assert derived(world).segment == len(numbers)


@pytest.mark.parametrize("fault", [Fault.LOST_ANSWER, Fault.REPEATED, Fault.LATE, Fault.KILLED_AFTER])
def test_whatever_befalls_the_choice_of_a_folder_the_next_run_takes_the_same(fault: Fault) -> None:
    world, _ = with_log(1)
    log = started(world, "run-b")
    turn = f"turns{CHANNEL}/000000000002.json"
    script_of(world).decide = on(fault, name=turn)
    event = delivery("2026-11-24T00:01Z")
    if fault is Fault.REPEATED:
        land(log, event)
    else:
        with pytest.raises((StorageUnavailable, Killed)):
            land(log, event)
        land(started(world, "run-c"), event)
        world.writers[-2].script.release()
    assert segment_names(world)[-1] == f"{FOLDER}date=2026-11-24/000000000002.jsonl"
    assert state_of(world, turn)["partition"] == "2026-11-24"


def test_a_turn_that_cannot_be_read_is_an_error_with_a_next_step() -> None:
    world, _ = with_log(1)
    overwrite(world.state, f"turns{CHANNEL}/000000000002.json", b"{")
    with pytest.raises(LogInconsistent, match=r"000000000002\.json cannot be read") as caught:
        land(started(world), delivery("2026-11-24T00:01Z"))
    assert "delete that blob" in caught.value.hint


def test_a_turn_left_over_from_another_log_leads_no_segment_back() -> None:
    world, _ = with_log(1)
    turn = {"channel": CHANNEL, "orgId": ORG_ID, "runId": "run-x", "number": 2, "partition": "2026-01-01"}
    overwrite(world.state, f"turns{CHANNEL}/000000000002.json", json.dumps(turn).encode())
    land(started(world), delivery("2026-11-24T00:01Z"), delivery("2026-11-24T00:02Z"))
    land(started(world, "run-b"), delivery("2026-11-24T00:03Z"))
    assert [name.removeprefix(FOLDER)[5:15] for name in segment_names(world)] == [
        *("2026-11-23", "2026-11-23", "2026-11-24")
    ]


# --- the tip ---------------------------------------------------------------------------------------------------------


def test_the_tip_is_asked_for_once_then_the_earliest_with_what_is_older_skipped() -> None:
    world = World(policy=Policy(start=TIP), now="2026-11-23T12:00:00+00:00")
    first = world.open()
    world.prepare(first)
    assert first.start == Start(TIP)
    world.prepare(first)
    t0 = datetime(2026, 11, 23, 12, 0, 1, tzinfo=UTC)
    again = Start(EARLIEST, skip_before=t0 - timedelta(minutes=5))
    assert first.start == again
    other = world.open()
    world.prepare(other)
    assert other.start == again


@pytest.mark.parametrize("fault", [Fault.LOST_ANSWER, Fault.KILLED_AFTER])
def test_the_tip_is_not_asked_for_again_though_nobody_knows_that_its_record_was_written(fault: Fault) -> None:
    world = World(policy=Policy(start=TIP))
    first = world.open()
    first.script.decide = on(fault, verb="create", name=GENERATION_1)
    with pytest.raises((StorageUnavailable, Killed)):
        world._prepare(first)
    again = world.open() if fault is Fault.KILLED_AFTER else first
    assert world.prepare(again)
    assert again.start is not None
    assert again.start.replay_id == EARLIEST


@pytest.mark.parametrize(
    ("times", "kept"),
    [
        pytest.param(["11:54", "11:55:01", "11:54"], 2, id="the first that is newer ends the skipping"),
        pytest.param(["11:54", None, "11:54"], 2, id="so does one without a time"),
        pytest.param(["11:54", "11:54:59"], 0, id="all are before the tip"),
        pytest.param(["11:55:01", "12:30"], 2, id="none is"),
    ],
)
def test_leading_deliveries_from_before_the_tip_are_skipped(times: list[str | None], kept: int) -> None:
    world = World(policy=Policy(start=TIP), now="2026-11-23T11:59:59+00:00")  # T0 is 12:00:00
    writer = world.open()
    world.prepare(writer)
    world.prepare(writer)
    events = [delivery(time and f"2026-11-23T{time}+00:00") for time in times]
    assert sum(each.count for each in land(writer.log, *events)) == kept
    assert writer.log.position.skipped_to == (None if kept else events[-1].replay_id)


def test_the_last_skipped_id_survives_in_the_checkpoint() -> None:
    world = World(policy=Policy(start=TIP), now="2026-11-23T11:59:59+00:00")
    writer = world.open()
    world.prepare(writer)
    world.prepare(writer)
    skipped = delivery("2026-11-23T11:00:00+00:00")
    land(writer.log, skipped)
    writer.log.save_checkpoint(force=True)
    assert derived(world).skipped_to == skipped.replay_id
    next_run = world.open()
    world.prepare(next_run)
    assert next_run.start == Start(skipped.replay_id, datetime(2026, 11, 23, 11, 55, tzinfo=UTC))


# --- the checkpoint --------------------------------------------------------------------------------------------------


def checkpoint_writes(world: World) -> int:
    return script_of(world).count("replace", CHECKPOINT)


def test_a_checkpoint_is_written_at_most_every_ten_seconds_unless_forced() -> None:
    world = earliest_world()
    log = started(world)
    before = checkpoint_writes(world)
    land(log, delivery())
    log.save_checkpoint(force=False)
    assert checkpoint_writes(world) == before, "the one before the generation record is younger than ten seconds"
    world.org.now += timedelta(seconds=10)
    log.save_checkpoint(force=False)
    assert checkpoint_writes(world) == before + 1
    land(log, delivery())
    log.save_checkpoint(force=True)
    assert checkpoint_writes(world) == before + 2


def test_a_checkpoint_that_says_nothing_new_is_not_written() -> None:
    world, _ = with_log(1)
    log = started(world, "run-b")
    world.org.now += timedelta(minutes=5)
    log.save_checkpoint(force=True)
    assert checkpoint_writes(world) == 0


def test_another_runs_checkpoint_that_is_further_stands() -> None:
    world, _ = with_log(1)
    slow, fast = started(world, "run-slow"), started(world, "run-fast")
    land(fast, delivery())
    fast.save_checkpoint(force=True)
    slow.note_quiet(world.org.now)
    slow.save_checkpoint(force=True)
    assert (state_of(world, CHECKPOINT)["segment"], state_of(world, CHECKPOINT)["runId"]) == (2, "run-fast")


def test_another_runs_checkpoint_that_is_behind_is_overwritten() -> None:
    world, _ = with_log(1)
    fast, slow = started(world, "run-fast"), started(world, "run-slow")
    slow.note_quiet(world.org.now)
    slow.save_checkpoint(force=True)
    land(fast, delivery())
    fast.save_checkpoint(force=True)
    assert (state_of(world, CHECKPOINT)["segment"], state_of(world, CHECKPOINT)["runId"]) == (2, "run-fast")


def test_an_own_checkpoint_reported_as_changed_is_a_success() -> None:
    world, _ = with_log(1)
    log = started(world, "run-b")
    land(log, delivery())
    script_of(world).decide = on(Fault.REPEATED, verb="replace")
    log.save_checkpoint(force=True)
    assert state_of(world, CHECKPOINT)["segment"] == 2


# --- run record and quarantine ---------------------------------------------------------------------------------------


def run_record(group: str = "capture1", **clean_polls: int) -> layout.RunRecord:
    """A run record; a clean poll is given as the hour of 2026-11-23."""
    time = datetime(2026, 11, 23, tzinfo=UTC)
    return layout.RunRecord(
        group=group,
        run_id="run-a",
        outcome="ok",
        started=time,
        finished=time,
        clean_polls={f"/data/{name}": time + timedelta(hours=hour) for name, hour in clean_polls.items()},
    )


def hours(record: dict[str, object]) -> dict[str, int]:
    polls = record["cleanPolls"]
    assert isinstance(polls, dict)
    return {name: datetime.fromisoformat(text).hour for name, text in polls.items()}


def test_the_newest_clean_poll_of_each_channel_survives_in_the_run_record() -> None:
    world = earliest_world()
    world.state.ensure()
    storage = world.open().storage
    storage.write_run(run_record(A=5, B=5))
    storage.write_run(run_record(A=3, C=4))
    assert hours(state_of(world, "runs/capture1.json")) == {"/data/A": 5, "/data/B": 5, "/data/C": 4}


@pytest.mark.parametrize("fault", [Fault.REPEATED, None])
def test_a_run_record_that_another_run_has_just_written_is_merged(fault: Fault | None) -> None:
    world = earliest_world()
    world.state.ensure()
    other, ours = world.open(), world.open()
    other.storage.write_run(run_record(A=1))
    intrusion = (lambda: other.storage.write_run(run_record(A=7, B=2))) if fault is None else None
    deed = Twist(2, fault, intrusion)
    assert world.step(ours, lambda: ours.storage.write_run(run_record(A=6, C=3)), deed)
    expected = {"/data/A": 7, "/data/B": 2, "/data/C": 3} if fault is None else {"/data/A": 6, "/data/C": 3}
    assert hours(state_of(world, "runs/capture1.json")) == expected


def test_a_clean_poll_is_looked_for_in_all_groups() -> None:
    world = earliest_world()
    world.state.ensure()
    storage = world.open().storage
    assert storage.last_clean_poll("/data/A") is None
    storage.write_run(run_record(group="capture1", A=1))
    storage.write_run(run_record(group="capture2", A=9, B=1))
    storage.write_run(run_record(group="capture3", B=2))
    polled = storage.last_clean_poll("/data/A")
    assert polled is not None
    assert polled.hour == 9


def test_an_unreadable_run_record_is_unknown_and_no_error() -> None:
    world = earliest_world()
    world.state.ensure()
    storage = world.open().storage
    world.state.create("runs/capture1.json", b"rubbish", content_type="application/json")
    assert storage.last_clean_poll("/data/A") is None
    storage.write_run(run_record(A=2))
    polled = storage.last_clean_poll("/data/A")
    assert polled is not None
    assert polled.hour == 2


def test_an_unreachable_run_record_is_an_error() -> None:
    world = earliest_world()
    world.state.ensure()
    writer = world.open()
    writer.script.decide = always(Fault.FORBIDDEN)
    with pytest.raises(StorageForbidden):
        writer.storage.last_clean_poll("/data/A")


@pytest.mark.parametrize(
    ("channel", "folder"),
    [
        (CHANNEL, "data/AccountChangeEvent"),
        (None, "unknown"),
        ("/meta/../x", "unknown"),
        ("/data/\ud800", "unknown"),
        ("", "unknown"),
    ],
)
def test_a_stray_is_kept_whole_in_quarantine_and_is_new_only_once(channel: str | None, folder: str) -> None:
    world = earliest_world()
    world.events.ensure()
    storage = world.open().storage
    stray = Stray(channel, "no replay id", b'{"odd":\xff}')
    assert storage.keep(stray)
    assert not storage.keep(stray)
    (name,) = world.names(world.events)
    assert name == f"quarantine/{folder}/{layout.sha256(stray.raw)}.json"
    blob = world.events.read(name)
    assert blob is not None
    assert blob.body == stray.raw


# --- the end of a run ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda writer: land(writer.log, delivery()), id="land"),
        pytest.param(lambda writer: writer.log.save_checkpoint(force=True), id="checkpoint"),
        pytest.param(
            lambda writer: writer.log.open_generation(REFUSED, t0=datetime(2026, 11, 23, tzinfo=UTC), user_id=""),
            id="generation",
        ),
        pytest.param(lambda writer: writer.storage.write_run(run_record(A=1)), id="run record"),
        pytest.param(lambda writer: writer.storage.keep(Stray(None, "", b"x")), id="quarantine"),
    ],
)
def test_no_write_starts_after_the_run_is_closed(write: Callable[[Writer], object]) -> None:
    world, _ = with_log(1)
    writer = world.open()
    world.prepare(writer)
    writer.log.note_quiet(world.org.now)
    before = (world.names(world.events), world.names(world.state), writer.script.count("replace"))
    writer.storage.close()
    with pytest.raises(RunClosed):
        write(writer)
    assert (world.names(world.events), world.names(world.state), writer.script.count("replace")) == before


def test_no_container_is_created_after_the_run_is_closed() -> None:
    world = earliest_world()
    writer = world.open()
    writer.storage.close()
    with pytest.raises(RunClosed):
        writer.log.derive()
    assert writer.script.count("ensure") == 0


def test_a_batch_ends_where_the_run_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landing, "MAX_SEGMENT_BYTES", 1)
    world = earliest_world()
    log = started(world)
    landing_now = log.land(Deliveries.of([delivery(), delivery()]))
    next(landing_now)
    world.writers[-1].storage.close()
    with pytest.raises(RunClosed):
        next(landing_now)
    assert segment_names(world) == [SEGMENT_1]


# --- what it costs ---------------------------------------------------------------------------------------------------


def calls_to_open(segments: int, monkeypatch: pytest.MonkeyPatch) -> int:
    world = earliest_world()
    log = started(world)
    monkeypatch.setattr(landing, "MAX_SEGMENT_BYTES", 1)
    land(log, *(delivery() for _ in range(segments)))
    log.save_checkpoint(force=True)
    writer = world.open()
    assert world.prepare(writer)
    return len(writer.script.calls)


def test_opening_a_log_costs_the_same_whatever_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    assert calls_to_open(1, monkeypatch) == calls_to_open(1_000, monkeypatch) <= 5


# --- runs that begin at once: the state machine's findings ------------------------------------------------------------


@pytest.mark.parametrize("nth", range(1, 12))
@pytest.mark.parametrize("deed", ["prepare", "session"])
def test_a_run_that_begins_the_log_between_two_calls_of_another_is_not_taken_for_a_lost_log(
    nth: int, deed: str
) -> None:
    world = earliest_world()
    world.org.publish()
    slow, fast = world.open("run-slow"), world.open("run-fast")
    acts: dict[str, Callable[[], object]] = {
        "prepare": lambda: world.prepare(fast),
        "session": lambda: world.session(fast, 1),
    }
    assert world.prepare(slow, Twist(nth, intrusion=acts[deed]))
    assert world.warnings == []
    generation = slow.log.position.generation
    assert generation is not None
    assert state_of(world, GENERATION_1)["runId"] == generation.run_id


def test_an_outage_that_nothing_was_landed_before_has_a_gap_too() -> None:
    world = World(policy=Policy(start=TIP))
    world.connect(world.open())
    world.org.now += timedelta(hours=72)
    writer = world.open()
    world.prepare(writer)
    (gap,) = world.records("gaps/")
    assert (gap["cause"], gap["afterReplayId"], gap["number"]) == (OUTAGE, None, 2)


def test_an_error_carries_a_hint() -> None:
    world, _ = with_log(1)
    world.remove(world.state, CHECKPOINT)
    world.remove(world.events, SEGMENT_1)
    with pytest.raises(CdcError) as caught:
        derived(world)
    assert caught.value.hint


# --- found by mutating the code --------------------------------------------------------------------------------------


def test_a_generations_partition_is_never_earlier_than_the_logs() -> None:
    world, _ = with_log(1)
    log = started(world, "run-b")
    land(log, delivery("2026-11-25T00:00:00Z"))
    log.open_generation(REFUSED, t0=world.org.now, user_id="")
    assert state_of(world, GENERATION_2)["partition"] == "2026-11-25"


def test_a_loser_takes_over_what_the_winner_landed_before_and_after_its_record() -> None:
    world, _ = with_log(1)
    fast, slow = started(world, "run-b"), started(world, "run-c")
    world.org.now += timedelta(days=1)

    def win() -> None:
        land(fast, delivery("2026-11-23T12:00:00Z"))
        fast.open_generation(REFUSED, t0=world.org.now, user_id="")
        land(fast, delivery("2026-11-24T12:00:00Z"))

    gap_written_next = 4  # after the three calls that look at the log's end once more
    script_of(world).decide = as_script(Twist(gap_written_next, intrusion=win))
    assert slow.open_generation(REFUSED, t0=world.org.now, user_id="") == (None, False)
    assert slow.position.segment == 3
    assert slow.position.replay_id == fast.position.replay_id


def test_a_young_segment_that_is_missing_does_not_count_as_taken_because_the_one_before_it_was_old() -> None:
    world, events = with_log(1)
    world.org.now += timedelta(days=9)
    log = started(world, "run-b")
    land(log, delivery())
    log.save_checkpoint(force=True)
    world.remove(world.events, SEGMENT_2)
    assert derived(world).replay_id == events[0].replay_id
