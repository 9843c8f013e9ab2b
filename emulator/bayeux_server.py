"""The CometD side: sessions, their cookies, the meta channels and the long poll. It knows no HTTP server.

A session's queue is not kept: a subscription is a place in a stream, and taking events moves it before a byte is sent.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random
from typing import Any

from emulator.faults import HANDSHAKE, NONE
from emulator.knobs import Knobs
from emulator.oauth import Token, Tokens
from emulator.org import Org
from emulator.streams import Stream
from emulator.traffic import encode

Message = dict[str, Any]
Json = dict[str, Any]

BROWSER, ROUTE = "BAYEUX_BROWSER", "sfdc-stream"
_CHUNK = 500  # how many events of one channel stand together when several channels have some
_BASE36 = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass
class Subscription:
    """A session's place in a stream."""

    stream: Stream
    cursor: int
    silent: frozenset[str]
    ready_s: float  # monotonic: a slow seek finds nothing before


@dataclass
class Session:
    """One handshake's session."""

    client_id: str
    browser: str
    route: str
    route_until_s: float
    user_id: str
    token: Token | None
    answered_s: float
    subscriptions: dict[str, Subscription] = field(default_factory=dict)
    is_advised: bool = False
    is_over: str = ""  # why it ended: disconnected, expired, unknown, pushed
    is_released: bool = False  # the held connect is to be answered now
    poll: object | None = None
    wake: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Call:
    """One POST to /cometd, as far as Bayeux cares."""

    messages: list[Message]
    cookies: dict[str, str]
    token: Token | None
    has_token: bool
    version_error: str = ""


@dataclass
class Answer:
    """What goes back: events and replies, each already JSON; `status` other than 200 means a bare HTTP error."""

    events: list[bytes] = field(default_factory=list)
    replies: list[Json] = field(default_factory=list)
    pushed: list[Json] = field(default_factory=list)
    set_cookies: list[str] = field(default_factory=list)
    status: int = 200


def client_id() -> str:
    """A client id as Salesforce makes them: 26 to 29 characters of lower-case base 36."""
    return "".join(secrets.choice(_BASE36) for _ in range(26 + secrets.randbelow(4)))


def cookie_value(length: int) -> str:
    """A cookie value with the characters that a careless client encodes anew."""
    return "!/" + secrets.token_urlsafe(length).replace("-", "+").replace("_", "/") + ":1=="


class Bayeux:
    """All sessions. `monotonic` rules holding and expiry; the org's clock does not."""

    def __init__(self, org: Org, tokens: Tokens, knobs: Knobs, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.org = org
        self.tokens = tokens
        self.knobs = knobs
        self.sessions: dict[str, Session] = {}
        self.ended: dict[str, int] = {}  # why sessions ended -> how many
        self._monotonic = monotonic
        self._random = Random(org.seed)
        org.on_publish = self.wake

    # the one entrance

    async def answer(self, call: Call) -> Answer:
        """Carry out the messages of one POST, in order; a connect that came alone is held."""
        self.expire()
        answer = Answer()
        sessions: list[Session] = []
        wants_events = False
        for message in call.messages:
            channel = message.get("channel")
            if channel == "/meta/handshake":
                answer.replies.append(self._handshake(message, call, answer))
                continue
            refusal, session = self._session_of(message, call)
            if session is not None and session not in sessions:
                sessions.append(session)
            if refusal is not None or session is None:
                answer.replies.append(refusal or {})
            elif channel == "/meta/connect":
                await self._connect(message, call, session, answer)
                wants_events = True
            elif channel in ("/meta/subscribe", "/meta/unsubscribe"):
                unsubscribing = channel == "/meta/unsubscribe"
                answer.replies.append(self._unsubscribe(message, session) if unsubscribing else
                                      self._subscribe(message, session))  # fmt: skip
                wants_events = wants_events or self.knobs.events_on_subscribe
            elif channel == "/meta/disconnect":
                if self.knobs.events_on_disconnect:
                    self._take(session, answer)
                self.end(session, "disconnected")
                answer.replies.append(_reply(message, session, True))
            else:
                answer.replies.append({**_reply(message, session, False), "error": "403::Restricted channel"})
        for session in sessions:
            if wants_events and not session.is_over and answer.status == 200:
                self._take(session, answer)
            session.answered_s = self._monotonic()
        return answer

    # the meta channels

    def _handshake(self, message: Message, call: Call, answer: Answer) -> Json:
        reason = self._handshake_refusal(call)
        reply: Json = {"channel": "/meta/handshake", "successful": not reason}
        if "id" in message:
            reply["id"] = message["id"]
        if call.version_error:
            return {**reply, "error": call.version_error, "advice": {"reconnect": "none"}}
        if reason:
            ext = {"sfdc": {"failureReason": reason}, "replay": True, "payload.format": True}
            return {**reply, "error": "403::Handshake denied", "advice": {"reconnect": "none"}, "ext": ext}
        now = self._monotonic()
        route = call.cookies.get(ROUTE, "")
        if not route:
            route = "!/" + cookie_value(48)
            until = datetime.fromtimestamp(time.time() + self.knobs.route_cookie_s, UTC)
            secure = "; Secure" if self.knobs.route_cookie_secure else ""
            answer.set_cookies.append(
                f"{ROUTE}={route}; path=/; Expires={until:%a, %d-%b-%Y %H:%M:%S} GMT;  SameSite=None{secure}"
            )
        browser = call.cookies.get(BROWSER, "")
        if not browser or not any(s.browser == browser for s in self.sessions.values()):
            browser = cookie_value(12)
            answer.set_cookies.append(f"{BROWSER}={browser}; Path=/cometd/; HttpOnly")
        user = call.token.user_id if call.token else ""
        session = Session(client_id(), browser, route, now + self.knobs.route_cookie_s, user, call.token, now)
        self.sessions[session.client_id] = session
        return {
            "ext": {"replay": True, "payload.format": True}, "minimumVersion": "1.0", "clientId": session.client_id,
            "supportedConnectionTypes": ["long-polling"], **reply, "version": "1.0",
        }  # fmt: skip

    def _handshake_refusal(self, call: Call) -> str:
        if not call.has_token:
            return "401::Request requires authentication"
        if call.token is None:
            return "401::Authentication invalid"
        if len(self.sessions) >= self.knobs.max_clients:
            return "403::Organization concurrent user limit exceeded"
        return ""

    def _session_of(self, message: Message, call: Call) -> tuple[Json | None, Session | None]:
        """(a refusal or None, the session or None) for any message after the handshake."""
        identity = message.get("clientId")
        session = self.sessions.get(identity) if isinstance(identity, str) else None
        failed = _failed(message)
        if call.version_error:
            return {**failed, "error": call.version_error, "advice": NONE}, None
        if identity is None and message.get("channel") == "/meta/subscribe":
            return {**failed, "error": "403::Client has not completed handshake", "advice": HANDSHAKE}, None
        if session is not None and not call.cookies.get(BROWSER):
            error = f"400::Client {identity} has established a session, but no {BROWSER} cookie present"
            return {**failed, "error": error}, session
        if session is None or not self._is_routed(session, call):
            return self.unknown_client(message), None
        if call.token is None or (session.token is not None and session.token.is_revoked):
            self.end(session, "unauthorized")
            text = "401::Authentication invalid" if call.has_token else "401::Request requires authentication"
            return {"clientId": identity, **failed, "error": text, "advice": NONE}, session
        if call.token.user_id != session.user_id:
            return {**failed, "error": "400::Authenticated user id does not match the session's user id"}, session
        return None, session

    def _is_routed(self, session: Session, call: Call) -> bool:
        """Whether the request's cookies lead to the server that holds the session."""
        if self._monotonic() >= session.route_until_s:
            return False
        return call.cookies.get(BROWSER) == session.browser and call.cookies.get(ROUTE) == session.route

    def unknown_client(self, message: Message) -> Json:
        """The reply to a session that the server does not know."""
        reply = {**_failed(message), "error": "403::Unknown client"}
        if self.knobs.unknown_client_with_id and "clientId" in message:
            reply["clientId"] = message["clientId"]
        return {**reply, "advice": {"interval": 0, "reconnect": self.knobs.unknown_client_reconnect}}

    async def _connect(self, message: Message, call: Call, session: Session, answer: Answer) -> None:
        if message.get("connectionType") != "long-polling":
            text = f"400::Invalid connection type {message.get('connectionType')}"
            answer.replies.append({**_reply(message, session, False), "error": text})
            return
        is_first, session.is_advised = not session.is_advised, True
        poll = session.poll = object()
        session.wake.set()  # cancels an older connect that is still being held
        advice = message.get("advice")
        asked = advice.get("timeout") if isinstance(advice, dict) and self.knobs.honour_client_timeout else None
        hold_s = self.knobs.hold_s if not isinstance(asked, (int, float)) else max(0.0, asked / 1000)
        is_crowded = any(s.poll and s.browser == session.browser for s in self.sessions.values() if s is not session)
        if not is_first and not is_crowded and len(call.messages) == 1:
            await self._hold(session, poll, hold_s)
        if session.poll is not poll and not session.is_over:
            answer.status = 500
            return
        session.poll = None
        reply = self._connect_reply(message, session)
        if reply["successful"]:
            if is_crowded:
                reply["advice"] = {"multiple-clients": True, "reconnect": "retry", "interval": 2000}
            elif "advice" not in reply and (is_first or asked is not None):
                reply["advice"] = {"interval": 0, "timeout": self.knobs.advised_timeout_ms, "reconnect": "retry"}
        if session.is_over == "pushed":
            answer.pushed.append({"channel": "/meta/disconnect"})
        answer.replies.append(reply)

    def _connect_reply(self, message: Message, session: Session) -> Json:
        if session.is_over == "disconnected":
            return {**_reply(message, session, True), "advice": NONE}
        if session.is_over == "pushed":
            return {**_reply(message, session, False), "error": "403::Unknown client", "advice": NONE}
        if session.is_over:
            return self.unknown_client(message)
        if session.token is not None and session.token.is_revoked:
            self.end(session, "unauthorized")
            return {**_reply(message, session, False), "error": "401::Authentication invalid", "advice": NONE}
        if self.org.is_over_allocation() and self.knobs.daily_limit_on in ("connect", "both"):
            self.end(session, "allocation")
            text = "403::Organization total events daily limit exceeded"
            return {**_reply(message, session, False), "error": text, "advice": NONE}
        return _reply(message, session, True)

    async def _hold(self, session: Session, poll: object, hold_s: float) -> None:
        """Wait until there are events, the poll is cancelled or over, or the time is up."""
        until = self._monotonic() + hold_s
        session.is_released = False
        while (
            session.poll is poll
            and not session.is_released
            and not session.is_over
            and not (session.token and session.token.is_revoked)
        ):
            if self._has_events(session):
                if self.knobs.linger_s:
                    await asyncio.sleep(self.knobs.linger_s)
                return
            session.wake.clear()
            now = self._monotonic()
            ready = [s.ready_s for s in session.subscriptions.values() if s.ready_s > now]
            wait_s = min([until, *ready]) - now
            if now >= until:
                return
            try:
                await asyncio.wait_for(session.wake.wait(), wait_s)
            except TimeoutError:
                continue

    def _subscribe(self, message: Message, session: Session) -> Json:
        channel = message.get("subscription", "")
        error, cursor = self._place(message, channel)
        reply = {**_reply(message, session, not error), "subscription": channel}
        if error:
            return {**reply, "error": error}
        slow_s = self.org.slow_seek_s.get(channel, 0.0) if cursor < self.org.stream(channel).total else 0.0
        session.subscriptions[channel] = Subscription(
            self.org.stream(channel), cursor, self.org.unseen_on(channel), self._monotonic() + slow_s
        )
        return reply

    def _place(self, message: Message, channel: Any) -> tuple[str, int]:
        """(error text, cursor) for a subscribe; the replay id is exclusive."""
        if not isinstance(channel, str) or not channel:
            return "400::Channel name not specified", 0
        if not channel.startswith("/"):
            return "400::Channel subscriptions must start with a leading '/'", 0
        if channel.startswith("/meta/"):
            return "403::Restricted channel", 0
        if channel not in self.org.streams:
            return f"400::The channel you requested to subscribe to doesn't exist {{{channel}}}", 0
        if refusal := self.org.refusal_of(channel):
            return refusal, 0
        if self.org.is_over_allocation() and self.knobs.daily_limit_on in ("subscribe", "both"):
            return "403::Organization total events daily limit exceeded", 0
        stream = self.org.stream(channel)
        ext = message.get("ext")
        replay = ext.get("replay") if isinstance(ext, dict) else None
        if not isinstance(replay, dict):
            return "", stream.total
        if channel not in replay:
            shown = ", ".join(f"{name}={value}" for name, value in replay.items())
            return (
                f"400::The replayId for channel {{{channel}}} wasn't found using the provided replay ID map"
                f" {{{{{shown}}}}}. Ensure that the channel name you provided in the replay map is valid and matches"
                " the channel name used for subscribing."
            ), 0
        return self._replay_from(stream, replay[channel])

    def _replay_from(self, stream: Stream, wanted: Any) -> tuple[str, int]:
        text = str(wanted)
        if text == "-1":
            return "", stream.total
        if text == "-2":
            return "", stream.first
        found = stream.find(int(text)) if text.isascii() and text.isdigit() and len(text) < 19 else None
        if found is None:
            return (
                f"400::The replayId {{{text}}} you provided was invalid. Please provide a valid ID, -2 to replay all"
                " events, or -1 to replay only new events."
            ), 0
        return "", found + 1

    def _unsubscribe(self, message: Message, session: Session) -> Json:
        channel = message.get("subscription")
        session.subscriptions.pop(channel if isinstance(channel, str) else "", None)
        return {**_reply(message, session, True), "subscription": channel}

    # events

    def _ready(self, session: Session) -> list[Subscription]:
        now = self._monotonic()
        return [s for s in session.subscriptions.values() if s.ready_s <= now and s.stream.has_any(s.cursor, s.silent)]

    def _has_events(self, session: Session) -> bool:
        return bool(self._ready(session))

    def _take(self, session: Session, answer: Answer) -> None:
        """Dequeue into the answer: from here on the session has had these events, whatever becomes of the bytes."""
        room = self.knobs.max_bytes
        count_before = len(answer.events)
        ready = self._ready(session)
        chunk = self.knobs.max_events if len(ready) == 1 else _CHUNK
        while ready:
            for place in list(ready):
                count = min(chunk, self.knobs.max_events - (len(answer.events) - count_before))
                if count <= 0 or room <= 0:
                    ready = []
                    break
                taken, place.cursor, size = place.stream.take(
                    place.cursor, count, room, place.silent, at_least_one=len(answer.events) == count_before
                )
                answer.events += taken
                room -= size
                if not taken:
                    ready.remove(place)
        self.org.count_deliveries(len(answer.events) - count_before)

    def body(self, answer: Answer) -> bytes:
        """The JSON array, in the order that the knobs ask for."""
        replies = [encode(reply) for reply in answer.pushed + answer.replies]
        if self.knobs.event_order == "last":
            parts = replies + answer.events
        elif self.knobs.event_order == "mixed" and answer.events:
            parts = list(answer.events)
            for reply in replies:
                parts.insert(self._random.randrange(len(parts) + 1), reply)
        else:
            parts = answer.events + replies
        return b"[" + b",".join(parts) + b"]"

    # sessions from outside

    def wake(self, channel: str) -> None:
        """New events on a channel: let held connects look."""
        for session in self.sessions.values():
            if session.poll is not None and channel in session.subscriptions:
                session.wake.set()

    def wake_all(self) -> None:
        """Let every held connect look at its state."""
        for session in self.sessions.values():
            session.wake.set()

    def expire(self) -> None:
        """Forget the sessions whose client stayed away too long."""
        limit = self._monotonic() - self.knobs.session_expiry_s
        for session in list(self.sessions.values()):
            if session.poll is None and session.answered_s < limit:
                self.end(session, "expired")

    def end(self, session: Session, why: str) -> None:
        """Forget a session; a held connect answers."""
        if not session.is_over:
            session.is_over = why
            self.ended[why] = self.ended.get(why, 0) + 1
        self.sessions.pop(session.client_id, None)
        session.wake.set()


def _reply(message: Message, session: Session, successful: bool) -> Json:
    reply: Json = {"clientId": session.client_id, "channel": message.get("channel"), "successful": successful}
    if "id" in message:
        reply["id"] = message["id"]
    return reply


def _failed(message: Message) -> Json:
    kept: Json = {name: message[name] for name in ("channel", "id", "subscription") if name in message}
    return {**kept, "successful": False}
