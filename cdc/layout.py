"""The grammar of the storage log: every blob name and every record, its format and its parse side by side.

Pure: no I/O, no clock. Only this module knows how a blob is called or what a record looks like; docs/storage-log.md is its
description for readers.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, date, datetime
from typing import Any

import msgspec

from cdc import events

SEGMENT_TYPE = "application/x-ndjson"
RECORD_TYPE = "application/json"

_SEGMENT = re.compile(r"([0-9]{12})\.jsonl\Z")
_PARTITION = re.compile(r"date=([0-9]{4}-[0-9]{2}-[0-9]{2})/\Z")
_GENERATION = re.compile(r"([0-9]{4,})\.json\Z")
_CHANNEL = re.compile(r"/(?:data|event)/[A-Za-z0-9_]{1,200}\Z")

FORMAT = 1


class Unreadable(ValueError):
    """A blob's content or metadata is not what its name promises."""


# --- names -----------------------------------------------------------------------------------------------------------


def segments_prefix(channel: str) -> str:
    """`/data/AccountChangeEvent` -> `data/AccountChangeEvent/`: below it lie the partitions."""
    return channel.removeprefix("/") + "/"


def partition_prefix(channel: str, partition: date) -> str:
    """The folder of one UTC date."""
    return f"{segments_prefix(channel)}date={partition.isoformat()}/"


def segment_name(channel: str, partition: date, number: int) -> str:
    """`data/AccountChangeEvent/date=2026-11-23/000000000042.jsonl`."""
    return f"{partition_prefix(channel, partition)}{number:012d}.jsonl"


def read_partition(folder: str) -> date | None:
    """Return the date of a partition folder, None for any other folder."""
    found = _PARTITION.search(folder)
    try:
        return date.fromisoformat(found[1]) if found else None
    except ValueError:
        return None


def read_segment_number(name: str) -> int | None:
    """Return the number of a segment's name, None for any other blob."""
    found = _SEGMENT.match(name.rpartition("/")[2])
    return int(found[1]) if found else None


def checkpoint_name(channel: str) -> str:
    """`data/AccountChangeEvent.json`."""
    return channel.removeprefix("/") + ".json"


def generations_prefix(channel: str) -> str:
    """The folder of the channel's generation records."""
    return f"generations{channel}/"


def generation_name(channel: str, number: int) -> str:
    """`generations/data/AccountChangeEvent/0001.json`."""
    return f"{generations_prefix(channel)}{number:04d}.json"


def read_generation_number(name: str) -> int | None:
    """Return the number of a generation record's name, None for any other blob."""
    found = _GENERATION.match(name.rpartition("/")[2])
    return int(found[1]) if found else None


def gaps_prefix(channel: str) -> str:
    """The folder of the channel's gap records."""
    return f"gaps{channel}/"


def gap_name(channel: str, number: int) -> str:
    """`gaps/data/AccountChangeEvent/0002.json`: a gap has the number of the generation that it opens."""
    return f"{gaps_prefix(channel)}{number:04d}.json"


RUNS_PREFIX = "runs/"


def run_name(group: str) -> str:
    """`runs/capture1.json`: the group's last run."""
    return f"{RUNS_PREFIX}{group}.json"


def quarantine_name(channel: str | None, content: bytes) -> str:
    """`quarantine/data/AccountChangeEvent/<sha256>.json`; a channel that is no channel name is filed as `unknown`."""
    folder = channel.removeprefix("/") if channel and _CHANNEL.match(channel) else "unknown"
    return f"quarantine/{folder}/{sha256(content)}.json"


def sha256(content: bytes) -> str:
    """Return the hex digest by which a segment's or a stray's content is recognised."""
    return hashlib.sha256(content).hexdigest()


# --- times -----------------------------------------------------------------------------------------------------------


def spell_time(time: datetime | None) -> str:
    """ISO 8601, UTC, milliseconds: `2026-11-23T12:00:00.000Z`; "" for none."""
    return "" if time is None else time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read_time(text: Any) -> datetime | None:
    """Return the time that `spell_time` wrote, None for "" or null.

    Raises: Unreadable.
    """
    if text in ("", None):
        return None
    try:
        time = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        raise Unreadable("a time that is not ISO 8601") from None
    return time if time.tzinfo else time.replace(tzinfo=UTC)


# --- segments --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SegmentFacts:
    """What a segment's metadata says, so that neither recovery nor a reader has to open it."""

    first_replay_id: str
    last_replay_id: str
    count: int
    first_time: datetime | None
    last_time: datetime | None
    generation: int
    run_id: str
    org_id: str
    sha256: str

    def to_metadata(self) -> dict[str, str]:
        """Return the blob metadata: lower snake case names, ASCII values."""
        values = asdict(self) | {
            "first_time": spell_time(self.first_time),
            "last_time": spell_time(self.last_time),
        }
        return {name: str(value) for name, value in values.items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str]) -> SegmentFacts:
        """Raises: Unreadable."""
        values = {name.lower(): value for name, value in metadata.items()}
        try:
            facts = cls(
                first_replay_id=_replay_id(values["first_replay_id"]),
                last_replay_id=_replay_id(values["last_replay_id"]),
                count=int(values["count"]),
                first_time=read_time(values.get("first_time")),
                last_time=read_time(values.get("last_time")),
                generation=int(values["generation"]),
                run_id=values["run_id"],
                org_id=values.get("org_id", ""),
                sha256=values["sha256"],
            )
        except KeyError as error:
            raise Unreadable(f"its metadata lacks {error.args[0]}") from None
        except ValueError:
            raise Unreadable("its metadata is not a segment's") from None
        if facts.count < 1 or facts.generation < 1:
            raise Unreadable("its metadata is not a segment's")
        return facts


def _replay_id(token: str) -> str:
    if events.read_replay_id(token.encode()) != token:
        raise Unreadable("a replay id that is no JSON token")
    return token


# --- records ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Generation:
    """Where and why a generation starts. `start` is "-1" (at `t0`), "-2" or a replay id's token."""

    channel: str
    number: int
    cause: str
    start: str
    t0: datetime  # the server's clock at the handshake before the first subscribe
    after_segment: int
    partition: date  # the generation's first segment lies here, whatever event comes first
    org_id: str
    user_id: str
    run_id: str
    repeats: bool = False  # may repeat retained events of the generation before


@dataclass(frozen=True)
class Gap:
    """What a generation may lack and why: the interval between two server times, open where a bound is unknown."""

    channel: str
    number: int
    cause: str
    after_segment: int
    after_replay_id: str | None
    since: datetime | None
    until: datetime | None
    detected: datetime
    start: str  # where capture goes on: "-1", "-2", or "stop"
    org_id: str
    run_id: str


@dataclass(frozen=True)
class Checkpoint:
    """A cache of the log's end: the last segment, the replay id in it, and what would be dear to find out again."""

    channel: str
    org_id: str
    segment: int  # 0: nothing landed yet
    partition: date | None
    replay_id: str | None  # None: nothing landed in this generation
    last_time: datetime | None
    generation: Generation | None  # None: written just before the channel's first generation record
    skipped_to: str | None  # a tip start's last skipped replay id
    quiet_to: datetime | None  # up to here the org proved that nothing changed since the last landed event
    written: datetime
    run_id: str

    @property
    def progress(self) -> tuple[int, int, bool, float]:
        """What "further" means between two checkpoints."""
        return (
            self.generation.number if self.generation else 0,
            self.segment,
            self.skipped_to is not None,
            self.quiet_to.timestamp() if self.quiet_to else 0.0,
        )

    def says_the_same(self, other: Checkpoint) -> bool:
        """True where writing it would change nothing but who wrote it and when."""
        return replace(self, written=other.written, run_id=other.run_id) == other


@dataclass(frozen=True)
class RunRecord:
    """A group's last run and, per channel, the newest clean poll by the server's clock."""

    group: str
    run_id: str
    outcome: str
    started: datetime
    finished: datetime
    clean_polls: Mapping[str, datetime]
    errors: tuple[str, ...] = ()


def write_generation(record: Generation) -> bytes:
    """Return the record's blob."""
    return _document(_generation_fields(record))


def read_generation(body: bytes) -> Generation:
    """Raises: Unreadable."""
    return _generation(_fields(body))


def write_gap(record: Gap) -> bytes:
    """Return the record's blob."""
    return _document(
        {
            "channel": record.channel,
            "generation": record.number,
            "cause": record.cause,
            "afterSegment": record.after_segment,
            "afterReplayId": _raw(record.after_replay_id),
            "since": spell_time(record.since) or None,
            "until": spell_time(record.until) or None,
            "detected": spell_time(record.detected),
            "start": _raw(record.start) if record.start != "stop" else "stop",
            "orgId": record.org_id,
            "runId": record.run_id,
        }
    )


def read_gap(body: bytes) -> Gap:
    """Raises: Unreadable."""
    fields = _fields(body)
    return Gap(
        channel=_string(fields, "channel"),
        number=_count(fields, "generation"),
        cause=_string(fields, "cause"),
        after_segment=_count(fields, "afterSegment"),
        after_replay_id=_token(fields, "afterReplayId"),
        since=read_time(_plain(fields, "since")),
        until=read_time(_plain(fields, "until")),
        detected=_required(read_time(_plain(fields, "detected"))),
        start="stop" if _plain(fields, "start") == "stop" else _start(fields),
        org_id=_string(fields, "orgId"),
        run_id=_string(fields, "runId"),
    )


def write_checkpoint(record: Checkpoint) -> bytes:
    """Return the record's blob."""
    return _document(
        {
            "channel": record.channel,
            "orgId": record.org_id,
            "segment": record.segment,
            "partition": record.partition.isoformat() if record.partition else None,
            "replayId": _raw(record.replay_id),
            "lastTime": spell_time(record.last_time) or None,
            "generation": _generation_fields(record.generation) if record.generation else None,
            "skippedTo": _raw(record.skipped_to),
            "quietTo": spell_time(record.quiet_to) or None,
            "written": spell_time(record.written),
            "runId": record.run_id,
        }
    )


def read_checkpoint(body: bytes, channel: str) -> Checkpoint:
    """Return the checkpoint of `channel`.

    Raises: Unreadable, also where it is another channel's or contradicts itself.
    """
    fields = _fields(body)
    generation = fields.get("generation", msgspec.Raw(b"null"))
    segment, partition = _count(fields, "segment"), _plain(fields, "partition")
    record = Checkpoint(
        channel=_string(fields, "channel"),
        org_id=_string(fields, "orgId"),
        segment=segment,
        partition=_date(partition) if partition is not None else None,
        replay_id=_token(fields, "replayId"),
        last_time=read_time(_plain(fields, "lastTime")),
        generation=_generation(_fields(bytes(generation))) if bytes(generation) != b"null" else None,
        skipped_to=_token(fields, "skippedTo"),
        quiet_to=read_time(_plain(fields, "quietTo")),
        written=_required(read_time(_plain(fields, "written"))),
        run_id=_string(fields, "runId"),
    )
    if record.channel != channel:
        raise Unreadable(f"it belongs to {record.channel[:100]}")
    if (segment > 0) != (record.partition is not None) or (segment and not record.generation):
        raise Unreadable("it contradicts itself")
    return record


def write_run(record: RunRecord) -> bytes:
    """Return the record's blob."""
    return _document(
        {
            "group": record.group,
            "runId": record.run_id,
            "outcome": record.outcome,
            "started": spell_time(record.started),
            "finished": spell_time(record.finished),
            "cleanPolls": {channel: spell_time(time) for channel, time in record.clean_polls.items()},
            "errors": list(record.errors),
        }
    )


def read_run(body: bytes) -> RunRecord:
    """Raises: Unreadable."""
    fields = _fields(body)
    polls = _plain(fields, "cleanPolls")
    if not isinstance(polls, dict):
        raise Unreadable("cleanPolls is not an object")
    errors = _plain(fields, "errors")
    return RunRecord(
        group=_string(fields, "group"),
        run_id=_string(fields, "runId"),
        outcome=_string(fields, "outcome"),
        started=_required(read_time(_plain(fields, "started"))),
        finished=_required(read_time(_plain(fields, "finished"))),
        clean_polls={str(channel): _required(read_time(time)) for channel, time in polls.items()},
        errors=tuple(str(error) for error in errors) if isinstance(errors, list) else (),
    )


# --- the JSON of records ---------------------------------------------------------------------------------------------


def _generation_fields(record: Generation) -> dict[str, Any]:
    return {
        "channel": record.channel,
        "generation": record.number,
        "cause": record.cause,
        "start": _raw(record.start),
        "t0": spell_time(record.t0),
        "afterSegment": record.after_segment,
        "partition": record.partition.isoformat(),
        "orgId": record.org_id,
        "userId": record.user_id,
        "runId": record.run_id,
        "mayRepeatEarlierEvents": record.repeats,
    }


def _generation(fields: dict[str, msgspec.Raw]) -> Generation:
    return Generation(
        channel=_string(fields, "channel"),
        number=_count(fields, "generation"),
        cause=_string(fields, "cause"),
        start=_start(fields),
        t0=_required(read_time(_plain(fields, "t0"))),
        after_segment=_count(fields, "afterSegment"),
        partition=_date(_plain(fields, "partition")),
        org_id=_string(fields, "orgId"),
        user_id=_string(fields, "userId"),
        run_id=_string(fields, "runId"),
        repeats=_plain(fields, "mayRepeatEarlierEvents") is True,
    )


def _document(fields: dict[str, Any]) -> bytes:
    return msgspec.json.format(msgspec.json.encode({"format": FORMAT} | fields), indent=2) + b"\n"


def _fields(body: bytes) -> dict[str, msgspec.Raw]:
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        raise Unreadable("it is not a JSON object") from None
    if "format" in fields and bytes(fields["format"]) != str(FORMAT).encode():
        raise Unreadable("it has a format that this version does not know")
    return fields


def _raw(token: str | None) -> msgspec.Raw | None:
    return None if token is None else msgspec.Raw(token.encode())


def _plain(fields: dict[str, msgspec.Raw], name: str) -> Any:
    try:
        return json.loads(bytes(fields.get(name, b"null")))
    except (ValueError, RecursionError):
        raise Unreadable(f"{name} is not JSON") from None


def _token(fields: dict[str, msgspec.Raw], name: str) -> str | None:
    token = bytes(fields.get(name, b"null"))
    return None if token == b"null" else _replay_id(token.decode("utf-8", "replace"))


def _start(fields: dict[str, msgspec.Raw]) -> str:
    token = bytes(fields.get("start", b"null")).decode("utf-8", "replace")
    return token if token in (events.TIP, events.EARLIEST) else _replay_id(token)


def _string(fields: dict[str, msgspec.Raw], name: str) -> str:
    value = _plain(fields, name)
    if not isinstance(value, str):
        raise Unreadable(f"{name} is not a string")
    return value


def _count(fields: dict[str, msgspec.Raw], name: str) -> int:
    value = _plain(fields, name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 10**12:
        raise Unreadable(f"{name} is not a count")
    return value


def _date(value: Any) -> date:
    try:
        return date.fromisoformat(value)
    except (TypeError, ValueError):
        raise Unreadable("a date that is not ISO 8601") from None


def _required(time: datetime | None) -> datetime:
    if time is None:
        raise Unreadable("a time is missing")
    return time
