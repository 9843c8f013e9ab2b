"""The few facts that are read from a delivery: its channel, replay id and time. The rest of it is kept, never read.

Pure: no I/O, no clock. Nothing here decides what is done with a delivery that lacks one of the facts.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import overload

import msgspec

from cdc import wire

TIP = "-1"  # ReplayPreset: new events only (Streaming API guide, "Message Durability")
EARLIEST = "-2"  # ReplayPreset: everything in the retention window, then new events

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PLAUSIBLE_MS = tuple(int((datetime(year, 1, 1, tzinfo=UTC) - _EPOCH).total_seconds() * 1000) for year in (2001, 2100))
_INTEGER = re.compile(rb"-?[0-9]{1,18}\Z")
_NUMBER = re.compile(rb"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?\Z")
_HEADER_SAFE = re.compile(r"[!-~]+\Z")
_CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f]")  # JSON has them only escaped (RFC 8259, section 7)
_REPLAY_ID_MAX_CHARS = 512  # all known ids have under 20 digits; blob metadata holds 8 KiB in all


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """An event message as received.

    `raw` is its bytes without a line end, `replay_id` its JSON token (opaque: compared for equality only), `time_ms`
    the event's time in milliseconds since 1970 UTC, None where it has none that is plausible.
    """

    channel: str
    replay_id: str
    time_ms: int | None
    raw: wire.Raw

    @property
    def time(self) -> datetime | None:
        """The event's time, UTC."""
        return None if self.time_ms is None else from_ms(self.time_ms)


@dataclass(frozen=True)
class Deliveries(Sequence[Delivery]):
    """Deliveries in their order, as columns of one length: thousands at a time cost no object each and no loop.

    `blocks` has the messages as lines without the last line end, one or many to a block.
    """

    channels: list[str] = field(default_factory=list)
    replay_ids: list[str] = field(default_factory=list)
    times_ms: list[int | None] = field(default_factory=list)
    blocks: list[bytes | memoryview] = field(default_factory=list, repr=False)

    @classmethod
    def of(cls, deliveries: Iterable[Delivery]) -> Deliveries:
        """Return the columns of single deliveries."""
        rows = [(each.channel, each.replay_id, each.time_ms, each.raw) for each in deliveries]
        if not rows:
            return cls()
        channels, replay_ids, times_ms, lines = map(list, zip(*rows, strict=True))
        return cls(channels, replay_ids, times_ms, [b"\n".join(lines)])

    def __len__(self) -> int:
        return len(self.replay_ids)

    @overload
    def __getitem__(self, place: int) -> Delivery: ...

    @overload
    def __getitem__(self, place: slice) -> Deliveries: ...

    def __getitem__(self, place: int | slice) -> Delivery | Deliveries:
        if isinstance(place, slice):
            return self.at(range(*place.indices(len(self))))
        return Delivery(self.channels[place], self.replay_ids[place], self.times_ms[place], self.lines[place])

    def __iter__(self) -> Iterator[Delivery]:
        return map(Delivery, self.channels, self.replay_ids, self.times_ms, self.lines)

    def __add__(self, later: Deliveries) -> Deliveries:
        return Deliveries(
            self.channels + later.channels,
            self.replay_ids + later.replay_ids,
            self.times_ms + later.times_ms,
            self.blocks + later.blocks,
        )

    @property
    def lines(self) -> list[bytes]:
        """Each message's bytes, without a line end."""
        return b"\n".join(self.blocks).split(b"\n") if self.blocks else []

    @property
    def size_bytes(self) -> int:
        """What the lines have together, line ends included."""
        return sum(map(len, self.blocks)) + len(self.blocks)

    def take_content(self) -> bytes:
        """Return all lines as the content of a segment, and let go of them: they are held in memory once, not twice."""
        content = b"\n".join([*self.blocks, b""])
        self.blocks.clear()
        return content

    def at(self, places: Sequence[int]) -> Deliveries:
        """Return those at the given places."""
        if len(places) in (0, len(self)):
            return self if places else Deliveries()
        return self._at(places, self.lines)

    def by_channel(self) -> dict[str, Deliveries]:
        """Return each channel's deliveries, in their order."""
        names = dict.fromkeys(self.channels)
        if len(names) == 1:
            return dict.fromkeys(names, self)
        places: dict[str, list[int]] = {name: [] for name in names}
        for place, channel in enumerate(self.channels):
            places[channel].append(place)
        lines = self.lines
        return {name: self._at(found, lines) for name, found in places.items()}

    def _at(self, places: Sequence[int], lines: Sequence[bytes]) -> Deliveries:
        return Deliveries(
            [self.channels[place] for place in places],
            [self.replay_ids[place] for place in places],
            [self.times_ms[place] for place in places],
            [b"\n".join([lines[place] for place in places])],
        )


@dataclass(frozen=True)
class Stray:
    """A message that cannot be placed in a channel's log, with the reason; `raw` is kept whole in quarantine.

    `is_damaged`: no JSON text has such bytes, so they may have been spoilt on the way.
    """

    channel: str | None
    reason: str
    raw: bytes
    is_damaged: bool = False


class _Event(msgspec.Struct, gc=False):
    replayId: msgspec.Raw = msgspec.Raw(b"")  # noqa: N815 (Salesforce's name)


class _Header(msgspec.Struct, gc=False):
    commitTimestamp: msgspec.Raw = msgspec.Raw(b"")  # noqa: N815


class _Payload(msgspec.Struct, gc=False):
    ChangeEventHeader: _Header | None = None
    CreatedDate: msgspec.Raw = msgspec.Raw(b"")


class _Data(msgspec.Struct, gc=False):
    event: _Event | None = None
    payload: _Payload | None = None


class _Message(msgspec.Struct, gc=False):
    channel: str | None = None
    data: _Data | None = None


_DECODER = msgspec.json.Decoder(_Message)


# The same for a whole answer in which nothing is odd: one call instead of one for each message.


class _UsualEvent(msgspec.Struct, gc=False):
    replayId: int  # noqa: N815


class _UsualHeader(msgspec.Struct, gc=False):
    commitTimestamp: int  # noqa: N815


class _UsualPayload(msgspec.Struct, gc=False):
    ChangeEventHeader: _UsualHeader


class _UsualData(msgspec.Struct, gc=False):
    event: _UsualEvent
    payload: _UsualPayload


class _Usual(msgspec.Struct, gc=False):
    channel: str
    data: _UsualData


_USUAL = msgspec.json.Decoder(_Usual)
_USUAL_IDS_END = 1 << 63
_PIECE_BYTES = 32 * 1024


def from_ms(time_ms: int) -> datetime:
    """Return milliseconds since 1970 as an aware UTC time, exactly."""
    return _EPOCH + timedelta(milliseconds=time_ms)


def to_ms(time: datetime) -> int:
    """Return an aware time as whole milliseconds since 1970."""
    return (time - _EPOCH) // timedelta(milliseconds=1)


def read_usual(body: bytes) -> tuple[Deliveries, list[wire.Raw]] | None:
    """Return the deliveries of a whole answer, and its meta messages; None where any of its messages is odd.

    It says the same as `read_message` of each message, in a fraction of the time: change events, a line each, whose
    facts have their usual types. The typed decoder refuses what is no JSON, but neither bytes that are no UTF-8 in what
    it passes over, nor two values on one line.
    """
    found = wire.as_lines(body) if _is_utf8(body) else None
    if found is None:
        return None
    lines, line_count, others = found
    try:
        events = _USUAL.decode_lines(lines)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None
    if len(events) != line_count:
        return None
    channels = [event.channel for event in events]
    ids = [event.data.event.replayId for event in events]
    times_ms: list[int | None] = [event.data.payload.ChangeEventHeader.commitTimestamp for event in events]
    first_ms, end_ms = _PLAUSIBLE_MS
    is_usual = (
        0 < min(ids) <= max(ids) < _USUAL_IDS_END
        and first_ms <= min(times_ms) <= max(times_ms) < end_ms  # type: ignore[type-var,operator]
        and not any(channel.startswith("/meta/") for channel in set(channels))
        and all(isinstance(read_message(other), str) and not is_damaged(other) for other in others)
    )
    return (Deliveries(channels, list(map(str, ids)), times_ms, [lines]), others) if is_usual else None


def read_messages(body: bytes) -> Iterator[tuple[wire.Raw, Delivery | Stray | str]]:
    """Yield each message of any answer, in order: its bytes, and what `read_message` makes of them.

    Raises: wire.Malformed.
    """
    return ((raw, read_message(raw)) for raw in wire.elements(body))


def read_message(raw: wire.Raw) -> Delivery | Stray | str:
    """Return what one message of an answer is: a delivery, a stray, or the name of its meta channel (a str)."""
    try:
        message = _DECODER.decode(raw)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return _read_leniently(raw)
    channel, data = message.channel, message.data
    if channel is not None and channel.startswith("/meta/"):
        return channel
    event = data.event if data else None
    payload = data.payload if data else None
    header = payload.ChangeEventHeader if payload else None
    return _placed(
        raw,
        channel,
        bytes(event.replayId) if event else b"",
        bytes(header.commitTimestamp) if header else b"",
        bytes(payload.CreatedDate) if payload else b"",
    )


def _read_leniently(raw: wire.Raw) -> Delivery | Stray | str:
    """The same for a message that the typed decoder refuses: an odd type, NaN, a lone surrogate, deep nesting."""
    try:
        top = wire.members(raw)
    except wire.Malformed as error:
        return Stray(None, f"not an object: {error}", bytes(raw), is_damaged=True)
    channel = wire.as_text(top.get("channel", b""))
    if channel is not None and channel.startswith("/meta/"):
        return channel
    data = _members_or_none(top.get("data"))
    event = _members_or_none(data.get("event"))
    payload = _members_or_none(data.get("payload"))
    header = _members_or_none(payload.get("ChangeEventHeader"))
    return _placed(
        raw,
        channel,
        event.get("replayId", b""),
        header.get("commitTimestamp", b""),
        payload.get("CreatedDate", b""),
    )


def _members_or_none(value: bytes | None) -> dict[str, bytes]:
    try:
        return wire.members(value or b"")
    except wire.Malformed:
        return {}


def _placed(
    raw: wire.Raw, channel: str | None, replay_token: bytes, commit_timestamp: bytes, created_date: bytes
) -> Delivery | Stray:
    line, damage = _as_line(raw)
    replay_id = read_replay_id(replay_token)
    if channel is not None and replay_id is not None and not damage:
        return Delivery(channel, replay_id, _plausible_ms(commit_timestamp, created_date), line)
    unplaced = "no channel" if channel is None else "" if replay_id is not None else "no replay id"
    if unplaced == "no replay id" and replay_token:
        unplaced = "a replay id that cannot be used"
    # Where noise hit the very names, the message has no place because it is damaged: it must be asked for again.
    return Stray(channel, unplaced or damage, bytes(raw), is_damaged=bool(damage))


def is_damaged(raw: wire.Raw) -> bool:
    """True where the bytes are none that a JSON text has: they may have been spoilt on the way."""
    return bool(_as_line(raw)[1])


def _as_line(raw: wire.Raw) -> tuple[wire.Raw, str]:
    """Return the message as a line, and what it has that no JSON text has ("" for nothing)."""
    if not _is_utf8(bytes(raw)):
        return raw, "not UTF-8"
    line = wire.as_line(raw)
    if line is None:
        return raw, "a line break inside a token"
    return line, "a control character" if _CONTROL.search(line) else ""


def _is_utf8(text: bytes) -> bool:
    if text.isascii():
        return True
    whole, begin = memoryview(text), 0
    try:  # in pieces: a whole answer would be decoded into fresh memory, which costs more than the decoding
        while begin < len(text):
            is_last = begin + _PIECE_BYTES >= len(text)
            begin += codecs.utf_8_decode(whole[begin : begin + _PIECE_BYTES], "strict", is_last)[1]
    except UnicodeDecodeError:
        return False
    return True


def read_replay_id(token: bytes) -> str | None:
    """Return a replay id as its JSON token, fit for a header (a string's odd characters escaped), or None.

    Numbers and strings count. The presets -1 and -2 are never an event's id: taken for a position they would skip or
    repeat the whole window.
    """
    if not token or len(token) > _REPLAY_ID_MAX_CHARS:
        return None
    if _NUMBER.match(token):
        return None if _is_preset(token.decode()) else token.decode()
    text = wire.as_text(token)
    if not text or _is_preset(text.strip()):
        return None
    spelled = token.decode("utf-8", "replace")
    if not _HEADER_SAFE.match(spelled):
        spelled = json.dumps(text).replace(" ", "\\u0020").replace("\x7f", "\\u007f")
    return spelled if len(spelled) <= _REPLAY_ID_MAX_CHARS else None


def _is_preset(number: str) -> bool:
    try:
        return float(number) in (-1.0, -2.0)
    except ValueError:
        return False


def _plausible_ms(commit_timestamp: bytes, created_date: bytes) -> int | None:
    """commitTimestamp, for a platform event CreatedDate; anything outside 2001 to 2099 counts as absent."""
    if _INTEGER.match(commit_timestamp):
        time_ms = int(commit_timestamp)
    elif created_date:
        text = wire.as_text(created_date)
        try:
            time = datetime.fromisoformat(text or "")
            time_ms = to_ms(time if time.tzinfo else time.replace(tzinfo=UTC))
        except (ValueError, OverflowError):
            return None
    else:
        return None
    return time_ms if _PLAUSIBLE_MS[0] <= time_ms < _PLAUSIBLE_MS[1] else None
