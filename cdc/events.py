"""The few facts that are read from a delivery: its channel, replay id and time. The rest of it is kept, never read.

Pure: no I/O, no clock. Nothing here decides what is done with a delivery that lacks one of the facts.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import repeat

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


# The same for a whole answer of change events whose facts have their usual types: one call instead of one each.


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
    data: _UsualData | None = None


_ANSWER = msgspec.json.Decoder(list[_Usual])
_USUAL_IDS_END = 1 << 63
_PIECE_BYTES = 32 * 1024


def from_ms(time_ms: int) -> datetime:
    """Return milliseconds since 1970 as an aware UTC time, exactly."""
    return _EPOCH + timedelta(milliseconds=time_ms)


def to_ms(time: datetime) -> int:
    """Return an aware time as whole milliseconds since 1970."""
    return (time - _EPOCH) // timedelta(milliseconds=1)


def read_messages(body: bytes) -> Iterator[tuple[wire.Raw, Delivery | Stray | str]]:
    """Yield each message of an answer, in order: its bytes, and what `read_message` makes of them.

    Raises: wire.Malformed.
    """
    raws = wire.elements(body)
    facts: Iterable[_Usual | None] = _usual(body) or repeat(None, len(raws))
    first_ms, end_ms = _PLAUSIBLE_MS
    for raw, usual in zip(raws, facts, strict=True):
        if usual and (data := usual.data) and not usual.channel.startswith("/meta/"):
            replay_id, time_ms = data.event.replayId, data.payload.ChangeEventHeader.commitTimestamp
            if 0 < replay_id < _USUAL_IDS_END and first_ms <= time_ms < end_ms:
                yield raw, Delivery(usual.channel, str(replay_id), time_ms, raw)
                continue
        yield raw, read_message(raw)


def _usual(body: bytes) -> list[_Usual] | None:
    """Return the facts of all messages at once, None where one of them is not as usual or spread over lines.

    The decoder refuses control characters itself, but not bytes that are no UTF-8 in what it passes over.
    """
    if b"\n" in body or b"\r" in body or not _is_utf8(body):
        return None
    try:
        return _ANSWER.decode(body)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
        return None


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
    if channel is None:
        return Stray(None, "no channel", bytes(raw))
    replay_id = read_replay_id(replay_token)
    if replay_id is None:
        return Stray(channel, "no replay id" if not replay_token else "a replay id that cannot be used", bytes(raw))
    if not _is_utf8(bytes(raw)):
        return Stray(channel, "not UTF-8", bytes(raw), is_damaged=True)
    line = wire.as_line(raw)
    if line is None:
        return Stray(channel, "a line break inside a token", bytes(raw), is_damaged=True)
    if _CONTROL.search(line):
        return Stray(channel, "a control character", bytes(raw), is_damaged=True)
    return Delivery(channel, replay_id, _plausible_ms(commit_timestamp, created_date), line)


def _is_utf8(text: bytes) -> bool:
    if text.isascii():
        return True
    decoder = codecs.getincrementaldecoder("utf-8")()
    try:  # in pieces: a whole answer would be decoded into fresh memory, which costs more than the decoding
        for begin in range(0, len(text), _PIECE_BYTES):
            decoder.decode(text[begin : begin + _PIECE_BYTES])
        decoder.decode(b"", final=True)
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
