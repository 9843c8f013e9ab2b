"""The grammar of the storage log: every blob name and every record, its format and its parse side by side.

Pure: no I/O, no clock. Only this module knows how a blob is called or what a record looks like; docs/storage-log.md
describes it to readers.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from typing import Annotated, Any, Literal, Self, TypeVar

import msgspec

from cdc import events

SEGMENT_TYPE = "application/x-ndjson"
RECORD_TYPE = "application/json"

_SEGMENT = re.compile(r"([0-9]{12})\.jsonl\Z")
_PARTITION = re.compile(r"(?:\A|/)date=([0-9]{4}-[0-9]{2}-[0-9]{2})/\Z")
_GENERATION = re.compile(r"([0-9]{4,})\.json\Z")
_QUARANTINED = re.compile(r"quarantine/(unknown|(?:data|event)/[A-Za-z0-9_]{1,200})/([0-9a-f]{64})\.json\Z")
_CHANNEL = re.compile(r"/(?:data|event)/[A-Za-z0-9_]{1,200}\Z")


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


def gap_closing_name(channel: str, number: int) -> str:
    """`gaps/data/AccountChangeEvent/0002.closed.json`: an operator has dealt with that gap."""
    return f"{gaps_prefix(channel)}{number:04d}.closed.json"


def read_gap_number(name: str) -> int | None:
    """Return the number of a gap record's name, None for any other blob, a closing too."""
    return read_generation_number(name)


def turn_name(channel: str, number: int) -> str:
    """`turns/data/AccountChangeEvent/000000000042.json`: a turn has the number of the segment that it places."""
    return f"turns{channel}/{number:012d}.json"


RUNS_PREFIX = "runs/"


def run_name(group: str) -> str:
    """`runs/capture1.json`: the group's last run."""
    return f"{RUNS_PREFIX}{group}.json"


def quarantine_name(channel: str | None, content: bytes) -> str:
    """`quarantine/data/AccountChangeEvent/<sha256>.json`; a channel that is no channel name is filed as `unknown`."""
    folder = channel.removeprefix("/") if channel and _CHANNEL.match(channel) else "unknown"
    return f"{QUARANTINE_PREFIX}{folder}/{sha256(content)}.json"


QUARANTINE_PREFIX = "quarantine/"


def redriving_name(quarantined: str) -> str:
    """`quarantine/…/<sha256>.redriven.json`, beside the message: where it was landed after all."""
    return f"{quarantined.removesuffix('.json')}.redriven.json"


@dataclass(frozen=True)
class Quarantined:
    """What the name of a quarantined message says; `channel` is None where that was no channel name."""

    name: str
    channel: str | None
    digest: str


def read_quarantine_name(name: str) -> Quarantined | None:
    """Return what the name of a quarantined message says, None for any other blob."""
    found = _QUARANTINED.match(name)
    return Quarantined(name, None if found[1] == "unknown" else f"/{found[1]}", found[2]) if found else None


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
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (TypeError, ValueError, OverflowError):
        raise Unreadable("a time that is not ISO 8601") from None


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
    redriven: bool = False  # put here out of quarantine: replay ids and times are those of the position

    def to_metadata(self) -> dict[str, str]:
        """Return the blob metadata: lower snake case names, ASCII values; what is not known is left out."""
        values = asdict(self) | {
            "first_time": spell_time(self.first_time),
            "last_time": spell_time(self.last_time),
            "redriven": "1" if self.redriven else "",
        }
        return {name: str(value) for name, value in values.items() if value != ""}

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
                redriven=values.get("redriven") == "1",
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

Count = Annotated[int, msgspec.Meta(ge=0, lt=10**12)]
Moment = Annotated[datetime, msgspec.Meta(tz=True)]
Token = Annotated[str, msgspec.Meta(min_length=1, max_length=512)]  # a replay id's JSON token, or "-1", "-2"


class Record(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What all records share: JSON objects with camel case names, times in ISO 8601 UTC."""

    format: Literal[1] = 1
    channel: str
    org_id: str
    run_id: str

    def to_blob(self) -> bytes:
        """Return the record as an indented JSON document."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    @classmethod
    def from_blob(cls, body: bytes, channel: str) -> Self:
        """Return the record of `channel`.

        Raises: Unreadable, also where it is another channel's.
        """
        record = _decode(body, cls)
        if record.channel != channel:
            raise Unreadable(f"it belongs to {record.channel[:100]}")
        return record


class Generation(Record, frozen=True, kw_only=True, rename="camel"):
    """Where and why a generation starts. `start` is "-1" (at `t0`), "-2" or a replay id's token."""

    number: Annotated[int, msgspec.Meta(ge=1, lt=10**6)]
    cause: str
    start: Token
    t0: Moment  # the server's clock at the handshake before the first subscribe
    after_segment: Count
    partition: date  # the channel's first segment lies here, whatever event comes first; later on, the log's end
    user_id: str
    may_repeat_earlier_events: bool = False


class Gap(Record, frozen=True, kw_only=True, rename="camel"):
    """What a generation may lack and why: the interval between two server times, open where a bound is unknown."""

    number: Annotated[int, msgspec.Meta(ge=1, lt=10**6)]  # of the generation that it opens
    cause: str
    after_segment: Count
    after_replay_id: Token | None
    since: Moment | None
    until: Moment | None
    detected: Moment
    start: Token | Literal["stop"]  # where capture goes on


class GapClosing(Record, frozen=True, kw_only=True, rename="camel"):
    """An operator's word that a gap is dealt with: reconciled, or not worth it."""

    number: Annotated[int, msgspec.Meta(ge=1, lt=10**6)]
    closed: Moment
    note: Annotated[str, msgspec.Meta(max_length=2000)] = ""


class Turn(Record, frozen=True, kw_only=True, rename="camel"):
    """The partition of one segment, where a date or a generation begins: the first writer's choice binds all."""

    number: Annotated[int, msgspec.Meta(ge=1, lt=10**12)]  # the segment's
    partition: date


class Redriving(Record, frozen=True, kw_only=True, rename="camel"):
    """That a quarantined message is landed after all: begun at a position, and done with a segment."""

    digest: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
    after_segment: Count  # of the channel's log when it was begun: the message is in none up to there
    partition: date  # that segment's
    begun: Moment
    segment: Count | None  # None: begun, and perhaps broken off


class Checkpoint(Record, frozen=True, kw_only=True, rename="camel"):
    """A cache of the log's end: the last segment, the replay id in it, and what would be dear to find out again."""

    segment: Count  # 0: nothing landed yet
    partition: date | None
    replay_id: Token | None  # None: nothing landed in this generation
    last_time: Moment | None
    generation: Generation | None  # None: written just before the channel's first generation record
    skipped_to: Token | None  # a tip start's last skipped replay id
    quiet_to: Moment | None  # up to here the org proved that nothing changed since the last landed event
    segment_written: Moment | None = None  # long ago: a lifecycle rule may have taken the segment
    written: Moment

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
        like_other = {"written": other.written, "run_id": other.run_id, "segment_written": other.segment_written}
        return msgspec.structs.replace(self, **like_other) == other

    @classmethod
    def from_blob(cls, body: bytes, channel: str) -> Self:
        """Raises: Unreadable, also where it is another channel's or contradicts itself."""
        record = super().from_blob(body, channel)
        has_segment = record.segment > 0
        if has_segment != (record.partition is not None) or (has_segment and record.generation is None):
            raise Unreadable("it contradicts itself")
        if record.generation and record.generation.channel != channel:
            raise Unreadable("its generation is another channel's")
        for token in (record.replay_id, record.skipped_to):
            if token is not None:
                _replay_id(token)
        return record


HOURS_KEPT = 25  # the hour that is under way and a day before it
RUNS_KEPT = 24
READINGS_KEPT = 36  # of the org's allocation: 3 hours of one every 5 minutes


class PastRun(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """What is kept of a run that newer ones have followed."""

    run_id: str
    outcome: str
    started: Moment
    finished: Moment
    events: Count = 0


class ChannelRun(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A channel's part of the group's last run, and what of it outlives the run; lag is commit to landed, seconds."""

    outcome: str = ""
    events: Count = 0
    segments: Count = 0
    bytes: Count = 0
    lag_p50_s: float | None = None
    lag_max_s: float | None = None
    last_event: Moment | None = None  # the time of the last landed event, whichever run landed it
    hours: dict[str, Count] = {}  # "2026-11-26T16" (UTC) -> events landed in that hour, by our clock
    silence_asked: Moment | None = None  # when the org was last asked whether records of the silent channel changed
    silent_since: Moment | None = None  # of a channel that delivers nothing while its records change; else None


class Reading(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One look at the org's rolling 24-hour event delivery allocation (`/limits`, DailyDeliveredPlatformEvents)."""

    read: Moment
    max: Count
    remaining: int


class RunRecord(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A group's last run, or the one under way, and what its runs remember. Clean polls are by the server's clock."""

    format: Literal[1] = 1
    group: str
    run_id: str
    outcome: str
    started: Moment
    finished: Moment  # of a run under way: when the record was written
    is_under_way: bool = False
    clean_polls: dict[str, Moment]
    errors: tuple[str, ...] = ()
    next_steps: tuple[str, ...] = ()  # what to do about each of the errors
    events: Count = 0
    sessions: Count = 0
    lost_sessions: Count = 0
    channels: dict[str, ChannelRun] = {}
    past: tuple[PastRun, ...] = ()  # newest first, without this one
    allocation: tuple[Reading, ...] = ()  # newest first
    allocation_problem: str = ""  # why it could not be read, said once
    allocation_asked: Moment | None = None  # when it was last asked for, readable or not

    def after(self, known: RunRecord | None) -> RunRecord:
        """Return this record with what must survive of another run's, which it replaces.

        The newest clean poll of each channel, past runs, the hours of the last day, readings.
        """
        if known is None:
            return self
        polls = dict(known.clean_polls)
        for channel, polled in self.clean_polls.items():
            polls[channel] = max(polled, polls.get(channel, polled))
        readings = {reading.read: reading for reading in (*known.allocation, *self.allocation)}
        return msgspec.structs.replace(
            self,
            clean_polls=polls,
            channels={name: _remembering(run, known.channels.get(name)) for name, run in self.channels.items()},
            past=(_past(known), *known.past)[:RUNS_KEPT],
            allocation=tuple(readings[read] for read in sorted(readings, reverse=True)[:READINGS_KEPT]),
        )

    def to_blob(self) -> bytes:
        """Return the record as an indented JSON document."""
        return msgspec.json.format(msgspec.json.encode(self), indent=2) + b"\n"

    @classmethod
    def from_blob(cls, body: bytes) -> RunRecord:
        """Raises: Unreadable."""
        return _decode(body, cls)


def _past(run: RunRecord) -> PastRun:
    return PastRun(
        run_id=run.run_id, outcome=run.outcome, started=run.started, finished=run.finished, events=run.events
    )


def _remembering(run: ChannelRun, before: ChannelRun | None) -> ChannelRun:
    if before is None:
        return run
    hours = dict(before.hours)
    for hour, count in run.hours.items():
        hours[hour] = hours.get(hour, 0) + count
    return msgspec.structs.replace(
        run,
        hours={hour: hours[hour] for hour in sorted(hours)[-HOURS_KEPT:]},
        last_event=max((time for time in (run.last_event, before.last_event) if time), default=None),
        silence_asked=max((time for time in (run.silence_asked, before.silence_asked) if time), default=None),
    )


def read_redriving(body: bytes) -> Redriving:
    """Return the record beside a quarantined message, whichever channel it was landed in.

    Raises: Unreadable.
    """
    return _decode(body, Redriving)


T = TypeVar("T")

# Made while the module is imported, by one thread: msgspec works out a type at its first use, and two threads that do
# so at once bring the whole process down (msgspec 0.22, segmentation fault). The log is read by several threads.
_DECODERS: Mapping[type[Any], msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind) for kind in (Generation, Gap, GapClosing, Redriving, Turn, Checkpoint, RunRecord)
}


def _decode(body: bytes, kind: type[T]) -> T:
    try:
        record: T = _DECODERS[kind].decode(body)
        if not all(1970 <= moment.year < 9000 for moment in _moments(record)):
            raise Unreadable("a time at the edge of the calendar")
        return record
    except msgspec.ValidationError as error:
        raise Unreadable(f"not a {kind.__name__.lower()} of this version ({error})") from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise Unreadable("it is not JSON") from None


def _moments(value: Any) -> Iterator[datetime]:
    """Every time in a record: nobody can reckon with those at the calendar's very ends."""
    if isinstance(value, datetime):
        yield value
    elif isinstance(value, msgspec.Struct):
        for each in msgspec.structs.astuple(value):
            yield from _moments(each)
    elif isinstance(value, dict):
        for each in value.values():
            yield from _moments(each)
