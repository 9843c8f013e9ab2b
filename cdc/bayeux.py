"""The Bayeux protocol without I/O: the messages to send, what the answers mean, and the advice they carry.

It opens no connection, reads no clock and changes nothing: bytes in, values out. Section numbers refer to the Bayeux
specification 1.0 (docs.cometd.org); error texts to Salesforce's "Streaming API Error Codes".
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

import msgspec

from cdc import events, wire

HANDSHAKE = "/meta/handshake"
CONNECT = "/meta/connect"
SUBSCRIBE = "/meta/subscribe"
DISCONNECT = "/meta/disconnect"

SERVER_TIMEOUT_MS = 110_000  # how long Salesforce holds a connect ("Clients and Timeouts")
_LONGEST_MS = 24 * 3600 * 1000
MAX_STRAYS = MAX_REPLIES = 1_000  # of one answer; deliveries are bounded by its bytes alone
_LONGEST_REPLY_BYTES = 1024 * 1024  # the longest known has some hundred
_LONGEST_NAMELESS_BYTES = 4096  # without a channel only what looks like those is taken for a reply


@dataclass(frozen=True)
class Advice:
    """What the server wants the client to do next (Bayeux, section 5.4): `interval` and `timeout` in milliseconds."""

    reconnect: str = "retry"
    interval_ms: int = 0
    timeout_ms: int = SERVER_TIMEOUT_MS
    multiple_clients: bool = False


DEFAULT_ADVICE = Advice()


@dataclass(frozen=True)
class Reply:
    """One meta reply. `error` and `reason` (ext.sfdc.failureReason) are Salesforce's words, "" where absent."""

    channel: str
    successful: bool
    id: str | None = None
    client_id: str | None = None
    subscription: str | None = None
    error: str = ""
    reason: str = ""
    advice: Advice | None = None

    @property
    def words(self) -> str:
        """What Salesforce said, for people: the error and, where it differs, the reason."""
        said = [part for part in (self.error, self.reason) if part]
        return " / ".join(dict.fromkeys(said)) or "no error text"


@dataclass(frozen=True)
class Messages:
    """Every message of one answer, in order within each kind."""

    replies: tuple[Reply, ...]
    deliveries: events.Deliveries
    strays: tuple[events.Stray, ...]
    damaged: frozenset[bytes] = frozenset()  # messages with bytes that no JSON text has

    def reply_to(self, channel: str, message_id: str) -> Reply | None:
        """Return the reply to our request, None where the answer holds none (another id is another's reply).

        One request is outstanding at a time, so a failure that names no channel answers it.
        """
        for named in (channel, ""):
            for reply in self.replies:
                if reply.channel == named and reply.id in (message_id, None):
                    return replace(reply, channel=channel)
        return None

    @property
    def is_disconnected(self) -> bool:
        """True where the server pushed a /meta/disconnect of its own."""
        return any(reply.channel == DISCONNECT and reply.id is None for reply in self.replies)


class Cause(Enum):
    """Why a meta request failed, which decides what is done about it."""

    BUSY = "busy"  # come back later
    CREDENTIAL = "credential"  # a new token, a new session
    SESSION = "session"  # a new session
    ALLOCATION = "allocation"  # the day's deliveries are used up
    REPLAY_ID = "replay id"  # this channel's position is refused
    CHANNEL = "channel"  # this channel is refused; the session lives
    REQUEST = "request"  # the request itself is wrong: no use in repeating it


# --- what is sent ----------------------------------------------------------------------------------------------------


def handshake(message_id: str) -> bytes:
    """Return the body of a handshake (Bayeux, section 5.1) that asks for the replay extension."""
    return _body(
        channel=HANDSHAKE,
        id=message_id,
        version="1.0",
        minimumVersion="1.0",
        supportedConnectionTypes=["long-polling"],
        ext={"replay": True},
    )


def connect(client_id: str, message_id: str, *, timeout_ms: int | None = None) -> bytes:
    """Return the body of a connect; `timeout_ms` asks the server to answer within that time (advice, section 5.4)."""
    message: dict[str, Any] = {
        "channel": CONNECT,
        "id": message_id,
        "clientId": client_id,
        "connectionType": "long-polling",
    }
    if timeout_ms is not None:
        message["advice"] = {"timeout": timeout_ms}
    return _body(**message)


def subscribe(client_id: str, message_id: str, subscription: str, replay_id: str) -> bytes:
    """Return the body of a subscribe from `replay_id`, a JSON token that is sent back exactly as it was received."""
    return _body(
        channel=SUBSCRIBE,
        id=message_id,
        clientId=client_id,
        subscription=subscription,
        ext={"replay": {subscription: msgspec.Raw(replay_id.encode())}},
    )


def disconnect(client_id: str, message_id: str) -> bytes:
    """Return the body of a disconnect (Bayeux, section 5.3)."""
    return _body(channel=DISCONNECT, id=message_id, clientId=client_id)


def _body(**message: Any) -> bytes:
    return msgspec.json.encode([message])


# --- what is received ------------------------------------------------------------------------------------------------


def read_answer(body: bytes) -> Messages:
    """Return every message of a complete answer: meta replies, deliveries, and strays that cannot be placed.

    What takes memory without being an event is bounded: beyond MAX_STRAYS strays the whole answer counts as one, and
    beyond MAX_REPLIES replies (there is one to each request) the rest is passed over.
    Raises: wire.Malformed where not even the borders of the messages can be found.
    """
    usual = events.read_usual(body)
    if usual is not None:
        deliveries, metas = usual
        return Messages(tuple(map(_read_reply, metas[:MAX_REPLIES])), deliveries, ())
    return _read_one_by_one(body)


def glance(body: bytes) -> Messages | None:
    """Return the meta replies of a complete answer that holds many events, without reading these; None of any other."""
    metas = wire.around_events(body)
    if metas is None or any(not isinstance(events.read_message(raw), str) for raw in metas):
        return None
    try:
        return Messages(tuple(map(_read_reply, metas[:MAX_REPLIES])), events.Deliveries(), ())
    except wire.Malformed:
        return None


def _read_one_by_one(body: bytes) -> Messages:
    replies: list[Reply] = []
    deliveries: list[events.Delivery] = []
    strays: list[events.Stray] = []
    damaged: list[bytes] = []
    stray_count = 0
    for raw, message in events.read_messages(body):
        if type(message) is events.Delivery:
            deliveries.append(message)
        elif isinstance(message, events.Stray):
            failure = _nameless_failure(message)
            if failure is not None:
                replies = [*replies[: MAX_REPLIES - 1], failure]
                continue
            stray_count += 1
            if stray_count <= MAX_STRAYS:
                strays.append(message)
        elif len(replies) < MAX_REPLIES:
            replies.append(_read_reply(raw))
            damaged += [bytes(raw)] if events.is_damaged(raw) else []
    if stray_count > MAX_STRAYS:
        is_damaged = any(stray.is_damaged for stray in strays)
        reason = f"{stray_count} messages that have no place, the whole answer is kept"
        strays = [events.Stray(None, reason, body, is_damaged)]
    # A failure that stands alone ends the session whatever its bytes; any other damaged reply may have eaten an event.
    counts = deliveries or strays or any(reply.successful for reply in replies)
    damaged = [stray.raw for stray in strays if stray.is_damaged] + (damaged if counts else [])
    return Messages(tuple(replies), events.Deliveries.of(deliveries), tuple(strays), frozenset(damaged))


def _read_reply(raw: wire.Raw) -> Reply:
    fields = _object(raw)
    ext = _dict(fields.get("ext"))
    return Reply(
        channel=_text(fields.get("channel")),
        successful=fields.get("successful") is True,
        id=_text(fields["id"]) if fields.get("id") is not None else None,
        client_id=_text(fields["clientId"]) if fields.get("clientId") is not None else None,
        subscription=_text(fields["subscription"]) if fields.get("subscription") is not None else None,
        error=_text(fields.get("error")),
        reason=_text(_dict(ext.get("sfdc")).get("failureReason")),
        advice=read_advice(fields["advice"]) if isinstance(fields.get("advice"), dict) else None,
    )


def _nameless_failure(stray: events.Stray) -> Reply | None:
    """Return the failed reply that a message without a channel is ("Handling Streaming API Errors", 403), or None."""
    if stray.channel is not None or len(stray.raw) > _LONGEST_NAMELESS_BYTES or b'"successful"' not in stray.raw:
        return None
    try:
        fields = _dict(json.loads(stray.raw))
    except (ValueError, RecursionError):
        return None
    is_failure = fields.get("successful") is False and isinstance(fields.get("error"), str)
    return _read_reply(stray.raw) if is_failure and not fields.keys() & {"channel", "data"} else None


def _object(raw: wire.Raw) -> dict[str, Any]:
    """The reply as a dict; of one that no parser holds, or that is absurdly long, only the channel: no success."""
    text = bytes(raw)
    try:
        if len(text) <= _LONGEST_REPLY_BYTES:
            return _dict(json.loads(text))
    except (ValueError, RecursionError):
        pass
    return {"channel": wire.as_text(wire.members(text).get("channel", b""))}


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value[:2000].encode("utf-8", "replace").decode()  # a lone surrogate could be neither logged nor recorded
    return str(value) if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 63 else ""


def read_advice(wire_advice: dict[str, Any]) -> Advice:
    """Return new advice laid over the defaults, so that a field left out or absurd never means "no limit"."""
    reconnect = wire_advice.get("reconnect")
    return Advice(
        reconnect=reconnect if reconnect in ("retry", "handshake", "none") else DEFAULT_ADVICE.reconnect,
        interval_ms=_milliseconds(wire_advice.get("interval"), DEFAULT_ADVICE.interval_ms),
        timeout_ms=_milliseconds(wire_advice.get("timeout"), DEFAULT_ADVICE.timeout_ms),
        multiple_clients=wire_advice.get("multiple-clients") is True,
    )


def _milliseconds(value: Any, default: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value >= 0:
        return default
    return int(min(value, _LONGEST_MS))


# --- what went wrong -------------------------------------------------------------------------------------------------

# The one text that means "this replay id is gone"; the braces are Salesforce's. Every other 400 is another failure.
_REPLAY_ID_REFUSED = re.compile(r"^400::The replayId \{.*\} you provided was invalid", re.DOTALL)

# First match wins, over error and failureReason alike: a 503 can hide behind a 401, so BUSY stands first.
_CAUSES: tuple[tuple[re.Pattern[str], Cause], ...] = (
    (re.compile(r"^503:|limit the number of simultaneous connections|concurrent user limit"), Cause.BUSY),
    (re.compile(r"events daily limit exceeded"), Cause.ALLOCATION),
    (_REPLAY_ID_REFUSED, Cause.REPLAY_ID),
    (re.compile(r"^401:"), Cause.CREDENTIAL),
    (re.compile(r"^40[23]:[^:{]*:(unknown client|session_unknown)|has not completed handshake", re.I), Cause.SESSION),
    (re.compile(r"^400:.*(cookie present|does not match the session's user id)"), Cause.SESSION),
    (re.compile(r"^400:.*(API version|Invalid connection type)|^413:"), Cause.REQUEST),
)


def cause_of(reply: Reply) -> Cause:
    """Return why an unsuccessful reply failed, from `error` and `reason` together."""
    for pattern, cause in _CAUSES:
        if any(pattern.search(text) for text in (reply.reason, reply.error)):
            return cause
    if reply.channel == SUBSCRIBE:
        return Cause.CHANNEL
    return Cause.SESSION
