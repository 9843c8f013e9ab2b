"""The grammar of the log: names and records are written one way and read back to the same, or are Unreadable."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc import layout
from cdc.layout import Checkpoint, Gap, Generation, RunRecord, SegmentFacts, Turn, Unreadable

pytestmark = pytest.mark.pure

FEW = settings(max_examples=40, deadline=None, derandomize=True, database=None)
CHANNEL = "/data/AccountChangeEvent"
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
DAY = NOON.date()


def test_the_names_of_all_blobs() -> None:
    assert layout.segment_name(CHANNEL, DAY, 42) == "data/AccountChangeEvent/date=2026-11-23/000000000042.jsonl"
    assert layout.checkpoint_name(CHANNEL) == "data/AccountChangeEvent.json"
    assert layout.generation_name(CHANNEL, 1) == "generations/data/AccountChangeEvent/0001.json"
    assert layout.generation_name(CHANNEL, 12_345) == "generations/data/AccountChangeEvent/12345.json"
    assert layout.gap_name("/event/Order__e", 2) == "gaps/event/Order__e/0002.json"
    assert layout.turn_name(CHANNEL, 42) == "turns/data/AccountChangeEvent/000000000042.json"
    assert layout.run_name("capture1") == "runs/capture1.json"


@FEW
@given(st.dates(), st.integers(1, 10**12 - 1))
def test_a_segments_name_tells_its_partition_and_number(day: date, number: int) -> None:
    name = layout.segment_name(CHANNEL, day, number)
    folder, _, _ = name.rpartition("/")
    assert layout.read_partition(folder + "/") == day
    assert layout.read_segment_number(name) == number


@pytest.mark.parametrize(
    "folder",
    [
        "data/A/",
        "data/A/date=2026-11-23",
        "data/A/date=2026-13-01/",
        "data/A/date=2026-11-31/",
        "data/A/date=0000-01-01/",
        "data/A/date=20261123/",
        "data/A/date=2026-1-2/",
        "data/A/Date=2026-11-23/",
        "data/A/date=2026-11-23T00/",
        "data/A/backup-date=2026-11-23/",
        "data/A/date=2026-11-23/\n",
        "data/A/date=٢٠٢٦-11-23/",
    ],
)
def test_any_other_folder_is_no_partition(folder: str) -> None:
    assert layout.read_partition(folder) is None


@pytest.mark.parametrize(
    "name",
    ["42.jsonl", "000000000042.jsonl.gz", "000000000042.json", "0000000000042.jsonl", "x000000000042.jsonl", "_SUCCESS",
     "000000000042.jsonl\n", "٠٠٠٠٠٠٠٠٠٠٤٢.jsonl", "", "000000000042.JSONL"],
)  # fmt: skip
def test_any_other_blob_is_no_segment(name: str) -> None:
    assert layout.read_segment_number(f"data/A/date=2026-11-23/{name}") is None


@pytest.mark.parametrize(
    ("name", "number"),
    [("0001.json", 1), ("12345.json", 12_345), ("1.json", None), ("0001.json.bak", None), ("gen-0001.json", None)],
)
def test_a_generations_name_tells_its_number(name: str, number: int | None) -> None:
    assert layout.read_generation_number(f"generations/data/A/{name}") == number


@pytest.mark.parametrize(
    ("channel", "folder"),
    [
        ("/data/AccountChangeEvent", "data/AccountChangeEvent"),
        ("/event/Order__e", "event/Order__e"),
        (None, "unknown"),
        ("", "unknown"),
        ("/data/", "unknown"),
        ("/data/A/B", "unknown"),
        ("/data/..", "unknown"),
        ("/data/A\n", "unknown"),
        ("/topic/A", "unknown"),
        ("/data/" + "x" * 201, "unknown"),
    ],
)
def test_a_stray_is_filed_under_its_channel_where_that_is_a_name(channel: str | None, folder: str) -> None:
    digest = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881"
    assert layout.quarantine_name(channel, b"x") == f"quarantine/{folder}/{digest}.json"


# --- times -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (None, ""),
        (NOON, "2026-11-23T12:00:00.000Z"),
        (NOON + timedelta(milliseconds=7), "2026-11-23T12:00:00.007Z"),
        (datetime.fromisoformat("2026-11-23T23:30:00-01:00"), "2026-11-24T00:30:00.000Z"),
    ],
)
def test_times_are_spelled_in_utc_with_milliseconds_and_read_back(time: datetime | None, text: str) -> None:
    assert layout.spell_time(time) == text
    assert layout.read_time(text) == time


@pytest.mark.parametrize("text", ["yesterday", 17, [], "2026-11-23T25:00:00Z"])
def test_what_is_no_time_is_unreadable(text: Any) -> None:
    with pytest.raises(Unreadable):
        layout.read_time(text)


# --- segment metadata ------------------------------------------------------------------------------------------------

FACTS = SegmentFacts(
    first_replay_id="6421",
    last_replay_id='"AAA="',
    count=2,
    first_time=NOON,
    last_time=NOON + timedelta(seconds=1),
    generation=1,
    run_id="run-a",
    org_id="00D000000000001AAA",
    sha256=layout.sha256(b""),
)


def test_metadata_comes_back_as_it_was() -> None:
    assert SegmentFacts.from_metadata(FACTS.to_metadata()) == FACTS


def test_metadata_without_times_and_org_comes_back_as_it_was() -> None:
    facts = SegmentFacts(**{**vars(FACTS), "first_time": None, "last_time": None, "org_id": ""})
    metadata = facts.to_metadata()
    assert {"first_time", "last_time", "org_id"}.isdisjoint(metadata)
    assert SegmentFacts.from_metadata(metadata) == facts


def test_metadata_names_may_come_back_in_other_case() -> None:
    assert SegmentFacts.from_metadata({name.title(): value for name, value in FACTS.to_metadata().items()}) == FACTS


@pytest.mark.parametrize("name", ["first_replay_id", "last_replay_id", "count", "generation", "run_id", "sha256"])
def test_metadata_that_lacks_something_is_unreadable_and_says_what(name: str) -> None:
    metadata = FACTS.to_metadata()
    del metadata[name]
    with pytest.raises(Unreadable, match=name):
        SegmentFacts.from_metadata(metadata)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("count", "0"),
        ("count", "-1"),
        ("count", "two"),
        ("count", "1e3"),
        ("count", "9" * 5_000),
        ("generation", "0"),
        ("generation", ""),
        ("first_time", "noon"),
        ("last_replay_id", "-1"),
        ("last_replay_id", "-2"),
        ("last_replay_id", "AAA"),
        ("last_replay_id", ""),
        ("first_replay_id", "null"),
        ("first_replay_id", "\udfff"),
    ],
)
def test_metadata_that_is_not_a_segments_is_unreadable(name: str, value: str) -> None:
    with pytest.raises(Unreadable):
        SegmentFacts.from_metadata(FACTS.to_metadata() | {name: value})


# --- records ---------------------------------------------------------------------------------------------------------

SHARED: dict[str, Any] = {"channel": CHANNEL, "org_id": "00D000000000001AAA", "run_id": "run-a"}
GENERATION = Generation(
    **SHARED, number=3, cause="outage", start="-2", t0=NOON, after_segment=41, partition=DAY, user_id="005",
    may_repeat_earlier_events=True,
)  # fmt: skip
GAP = Gap(
    **SHARED, number=3, cause="outage", after_segment=41, after_replay_id="6421", since=None, until=NOON, detected=NOON,
    start="stop",
)  # fmt: skip
TURN = Turn(**SHARED, number=42, partition=DAY)
CHECKPOINT = Checkpoint(
    **SHARED, segment=42, partition=DAY, replay_id='"AAA="', last_time=NOON, generation=GENERATION, skipped_to=None,
    quiet_to=NOON, segment_written=NOON, written=NOON,
)  # fmt: skip
EMPTY_CHECKPOINT = Checkpoint(
    **SHARED, segment=0, partition=None, replay_id=None, last_time=None, generation=None, skipped_to=None,
    quiet_to=None, written=NOON,
)  # fmt: skip
RUN = RunRecord(
    group="capture1", run_id="run-a", outcome="degraded", started=NOON, finished=NOON, clean_polls={CHANNEL: NOON},
    errors=("a fault",),
)  # fmt: skip


@pytest.mark.parametrize(
    "record", [GENERATION, GAP, TURN, CHECKPOINT, EMPTY_CHECKPOINT], ids=lambda record: type(record).__name__
)
def test_a_record_comes_back_as_it_was_for_its_channel_alone(record: layout.Record) -> None:
    assert type(record).from_blob(record.to_blob(), CHANNEL) == record
    with pytest.raises(Unreadable, match="it belongs to /data/AccountChangeEvent"):
        type(record).from_blob(record.to_blob(), "/data/ContactChangeEvent")


def test_a_run_record_comes_back_as_it_was() -> None:
    assert RunRecord.from_blob(RUN.to_blob()) == RUN


def test_records_are_readable_json_with_camel_case_names() -> None:
    text = GAP.to_blob().decode()
    assert text.endswith("}\n")
    assert '\n  "afterReplayId": "6421",\n' in text
    assert json.loads(text)["since"] is None


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"[]", b"{}", b"\xff", b'{"format":1', b"[" * 100_000, b'"\\ud800"', b"NaN", b"9" * 5_000],
    ids=lambda body: repr(body[:12]),
)
@pytest.mark.parametrize("kind", [Generation, Gap, Turn, Checkpoint, RunRecord])
def test_garbage_is_unreadable(kind: Any, body: bytes) -> None:
    with pytest.raises(Unreadable):
        kind.from_blob(body) if kind is RunRecord else kind.from_blob(body, CHANNEL)


@pytest.mark.parametrize(
    ("record", "changes"),
    [
        (GENERATION, {"format": 2}),
        (GENERATION, {"number": 0}),
        (GENERATION, {"number": "3"}),
        (GENERATION, {"start": ""}),
        (GENERATION, {"t0": "2026-11-23T12:00:00"}),
        (GENERATION, {"partition": "2026-11-31"}),
        (GENERATION, {"afterSegment": -1}),
        (GAP, {"start": None}),
        (TURN, {"number": 0}),
        (TURN, {"partition": None}),
        (CHECKPOINT, {"segment": -1}),
        (CHECKPOINT, {"segment": 10**12}),
        (CHECKPOINT, {"segment": 0}),
        (CHECKPOINT, {"partition": None}),
        (CHECKPOINT, {"generation": None}),
        (CHECKPOINT, {"replayId": "-1"}),
        (CHECKPOINT, {"replayId": "AAA"}),
        (CHECKPOINT, {"replayId": 6421}),
        (CHECKPOINT, {"skippedTo": "-2"}),
        (CHECKPOINT, {"written": 0}),
        (EMPTY_CHECKPOINT, {"partition": "2026-11-23"}),
        (EMPTY_CHECKPOINT, {"segment": 1}),
    ],
    ids=lambda value: json.dumps(value) if isinstance(value, dict) else type(value).__name__,
)
def test_a_record_that_contradicts_its_grammar_is_unreadable(record: layout.Record, changes: dict[str, Any]) -> None:
    body = json.dumps(json.loads(record.to_blob()) | changes).encode()
    with pytest.raises(Unreadable):
        type(record).from_blob(body, CHANNEL)


def test_a_checkpoint_with_another_channels_generation_is_unreadable() -> None:
    other = msgspec.structs.replace(GENERATION, channel="/data/ContactChangeEvent")
    with pytest.raises(Unreadable, match="another channel's"):
        Checkpoint.from_blob(msgspec.structs.replace(CHECKPOINT, generation=other).to_blob(), CHANNEL)


def test_fields_that_a_later_version_adds_do_not_make_a_record_unreadable() -> None:
    body = json.dumps(json.loads(CHECKPOINT.to_blob()) | {"colour": "green"}).encode()
    assert Checkpoint.from_blob(body, CHANNEL) == CHECKPOINT


@pytest.mark.parametrize(
    ("further", "nearer"),
    [
        ({"segment": 43}, {}),
        ({"generation": msgspec.structs.replace(GENERATION, number=4)}, {"segment": 99}),
        ({"skipped_to": "7"}, {}),
        ({"quiet_to": NOON + timedelta(hours=1)}, {}),
        ({}, {"quiet_to": None}),
        ({}, {"generation": None, "segment": 0}),
    ],
)
def test_which_of_two_checkpoints_is_further(further: dict[str, Any], nearer: dict[str, Any]) -> None:
    ahead, behind = (msgspec.structs.replace(CHECKPOINT, **changes) for changes in (further, nearer))
    assert ahead.progress > behind.progress


def test_who_wrote_a_checkpoint_and_when_does_not_change_what_it_says() -> None:
    later = msgspec.structs.replace(CHECKPOINT, run_id="run-b", written=NOON + timedelta(hours=1), segment_written=None)
    assert CHECKPOINT.says_the_same(later)
    assert not CHECKPOINT.says_the_same(msgspec.structs.replace(CHECKPOINT, quiet_to=None))


# --- run records ------------------------------------------------------------------------------------------------------


def run_record(run_id: str, minute: int, **more: Any) -> layout.RunRecord:
    began = datetime(2026, 11, 23, 12, minute, tzinfo=UTC)
    fields = {"outcome": "ok", "started": began, "finished": began, "clean_polls": {}} | more
    return layout.RunRecord(group="capture1", run_id=run_id, **fields)


def test_a_run_record_takes_over_what_runs_remember_from_the_one_before_it() -> None:
    polled = datetime(2026, 11, 23, 12, 3, tzinfo=UTC)
    before = run_record(
        "one",
        0,
        events=3,
        clean_polls={"/data/A": polled, "/data/B": polled},
        channels={"/data/A": layout.ChannelRun(hours={"2026-11-23T11": 1, "2026-11-23T12": 2}, silence_asked=polled)},
        past=(layout.PastRun(run_id="zero", outcome="failed", started=polled, finished=polled),),
        allocation=(layout.Reading(read=polled, max=10, remaining=9),),
    )
    now = run_record(
        "two",
        5,
        clean_polls={"/data/A": polled - timedelta(hours=1)},
        channels={"/data/A": layout.ChannelRun(hours={"2026-11-23T12": 5, "2026-11-23T13": 1})},
        allocation=(layout.Reading(read=polled + timedelta(minutes=5), max=10, remaining=8),),
    )
    written = now.after(before)
    assert written.clean_polls == {"/data/A": polled, "/data/B": polled}
    assert written.channels["/data/A"].hours == {"2026-11-23T11": 1, "2026-11-23T12": 7, "2026-11-23T13": 1}
    assert written.channels["/data/A"].silence_asked == polled
    assert [(run.run_id, run.events) for run in written.past] == [("one", 3), ("zero", 0)]
    assert [reading.remaining for reading in written.allocation] == [8, 9]


def test_a_run_record_does_not_grow_with_the_runs() -> None:
    record = run_record("run 0", 0)
    for number in range(1, 100):
        hours = {f"2026-11-{1 + number // 24:02d}T{number % 24:02d}": 1}
        record = run_record(f"run {number}", 0, channels={"/data/A": layout.ChannelRun(hours=hours)}).after(record)
    assert len(record.past) == layout.RUNS_KEPT
    assert list(record.channels["/data/A"].hours) == [
        f"2026-11-{1 + number // 24:02d}T{number % 24:02d}" for number in range(100 - layout.HOURS_KEPT, 100)
    ]
