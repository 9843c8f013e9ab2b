"""One CometD session, from handshake to disconnect: sends one request at a time and returns what its answer means.

It decides nothing about retries and lands nothing. Once a request is lost the session yields no events any more: the
server has emptied its queue into the broken answer (CometD, ServerSessionImpl.takeQueue), so what follows has a hole.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from cdc import bayeux, wire
from cdc.bayeux import CONNECT, DISCONNECT, Cause, Messages, Reply
from cdc.errors import (
    AllocationExhausted,
    AnswerDamaged,
    AnswerUnreadable,
    ReplayIdRefused,
    RequestLost,
    RequestRefused,
    SalesforceError,
    ServerBusy,
    SessionLost,
    SubscribeRefused,
    TokenInvalid,
)
from cdc.events import Deliveries, Stray
from cdc.exchange import HttpAnswer


class Transport(Protocol):
    """POSTs one body of messages (`salesforce.Streaming`)."""

    def post(self, body: bytes, what: str, *, timeout_s: float) -> HttpAnswer:
        """Return the complete answer. Raises: SalesforceError."""

    def close(self) -> None:
        """Give back the connections."""


@dataclass(frozen=True)
class Answer:
    """What one request brought. `failure` is None where the meta reply was a success.

    `deliveries` and `strays` are to be landed before `failure` is acted upon: they are complete, in order, and gone
    from the server. They are empty where the request was lost.
    """

    deliveries: Deliveries = field(default_factory=Deliveries)
    strays: tuple[Stray, ...] = ()
    failure: SalesforceError | None = None
    server_time: datetime | None = None


@dataclass(frozen=True)
class Unread:
    """A complete answer to a request, before anybody has looked at what it brought."""

    meta: str
    channel: str
    message_id: str
    http: HttpAnswer

    @property
    def what(self) -> str:
        """The request, for people."""
        return _what(self.meta, self.channel)

    @property
    def size_bytes(self) -> int:
        """What it holds in memory."""
        return len(self.http.body)


@dataclass
class CometDSession:
    """A Bayeux session over a transport of its own, with a cookie jar of its own."""

    transport: Transport
    advice: bayeux.Advice = bayeux.DEFAULT_ADVICE
    client_id: str = ""
    is_over: bool = False  # lost, refused or disconnected: no events may be taken from it any more
    is_gone: bool = False  # the server itself has ended it: there is nothing to disconnect
    believed: frozenset[bytes] = field(default=frozenset(), repr=False)  # damaged messages that came before, the same
    _next_id: int = field(default=1, repr=False)

    def handshake(self, *, timeout_s: float) -> Answer:
        """Open the session (Bayeux, section 5.1); `server_time` is the moment by Salesforce's clock."""
        answer, reply = self._request(bayeux.HANDSHAKE, bayeux.handshake, timeout_s)
        if answer.failure is None and reply is not None:
            if not reply.client_id:
                return self._end(answer, SessionLost("handshake: the answer has no clientId", hint=_AGAIN))
            self.client_id = reply.client_id
        elif reply is not None:
            self.is_gone = True
        return answer

    def connect(self, *, answer_within_ms: int | None = None, timeout_s: float) -> Answer:
        """Poll once: the server answers when it has events, or after its timeout, or within `answer_within_ms`.

        Advice is kept; one that forbids to go on with the session is returned as the failure SessionLost.
        """
        came = self.poll(answer_within_ms=answer_within_ms, timeout_s=timeout_s)
        return self.read(came) if isinstance(came, Unread) else came

    def poll(self, *, answer_within_ms: int | None = None, timeout_s: float) -> Answer | Unread:
        """The same, but the answer is not read yet, and only a request that is lost is a failure.

        `read` must be given the answers in the order in which they were asked for.
        """
        try:
            return self._send(
                CONNECT, lambda id_: bayeux.connect(self.client_id, id_, timeout_ms=answer_within_ms), timeout_s
            )
        except SalesforceError as error:
            return self._end(Answer(), error)

    def is_followed_at_once(self, polled: Unread) -> bool:
        """True where the next poll may be sent before this answer is read: its many events are followed by more.

        Only the reply is looked at: it is a success, its advice is nothing new, and asks for no pause.
        """
        seen = bayeux.glance(polled.http.body)
        reply = seen.reply_to(polled.meta, polled.message_id) if seen and not seen.is_disconnected else None
        if reply is None or not reply.successful or reply.client_id not in (None, self.client_id):
            return False
        is_new = reply.advice not in (None, self.advice)
        return not is_new and (self.advice.reconnect, self.advice.interval_ms) == ("retry", 0)

    def read(self, polled: Unread) -> Answer:
        """Return what the answer to a poll means."""
        answer, reply = self._read(polled)
        if answer.failure is None and reply and reply.advice and reply.advice.reconnect != "retry":
            self.is_gone = reply.advice.reconnect == "none"
            return self._end(answer, SessionLost(f"connect: the server advises {reply.advice.reconnect}", hint=_AGAIN))
        return answer

    def subscribe(self, channel: str, replay_id: str, *, timeout_s: float) -> Answer:
        """Subscribe a channel from a replay id's token, "-1" or "-2". A refusal does not end the session."""
        answer, _ = self._request(
            bayeux.SUBSCRIBE, lambda id_: bayeux.subscribe(self.client_id, id_, channel, replay_id), timeout_s, channel
        )
        return answer

    def disconnect(self, *, timeout_s: float) -> Answer:
        """Free the server's session (Bayeux, section 5.3); after a lost request as best it can, the answer void."""
        was_over = self.is_over
        answer, _ = self._request(DISCONNECT, lambda id_: bayeux.disconnect(self.client_id, id_), timeout_s)
        self.is_over = self.is_gone = True
        return Answer(failure=answer.failure) if was_over else answer

    def abandon(self) -> None:
        """A request is being left behind unanswered: no events may be taken from this session any more."""
        self.is_over = True

    def close(self) -> None:
        """Give back the connections; tells the server nothing."""
        self.transport.close()

    def _request(
        self, meta: str, body: Callable[[str], bytes], timeout_s: float, channel: str = ""
    ) -> tuple[Answer, Reply | None]:
        """Send one message and sort its answer; a lost answer ends the session."""
        try:
            return self._read(self._send(meta, body, timeout_s, channel))
        except SalesforceError as error:
            return self._end(Answer(), error), None

    def _send(self, meta: str, body: Callable[[str], bytes], timeout_s: float, channel: str = "") -> Unread:
        """Send one message and return the complete answer to it. Raises: SalesforceError."""
        what = _what(meta, channel)
        if self.is_over and meta != DISCONNECT:  # while the answer before is being read, nobody can know it sooner
            raise SessionLost(f"{what}: the session is over", hint=_AGAIN)
        message_id = str(self._next_id)
        self._next_id += 1
        return Unread(meta, channel, message_id, self.transport.post(body(message_id), what, timeout_s=timeout_s))

    def _read(self, unread: Unread) -> tuple[Answer, Reply | None]:
        try:
            messages = bayeux.read_answer(unread.http.body)
        except wire.Malformed as error:
            return self._end(Answer(), _unreadable(unread.what, unread.http, str(error))), None
        if not messages.damaged <= self.believed:
            failure = AnswerDamaged(
                f"{unread.what}: the answer holds damaged bytes", hint=_AGAIN, damaged=messages.damaged
            )
            return self._end(Answer(), failure), None
        return self._sorted(unread, messages)

    def _sorted(self, unread: Unread, messages: Messages) -> tuple[Answer, Reply | None]:
        what, server_time = unread.what, unread.http.server_time
        answer = Answer(messages.deliveries, messages.strays, None, server_time)
        reply = messages.reply_to(unread.meta, unread.message_id)
        if reply is None:
            return self._end(answer, SessionLost(f"{what}: the answer holds no reply to it", hint=_AGAIN)), None
        if self.client_id and reply.client_id not in (None, self.client_id):
            return self._end(Answer(), SessionLost(f"{what}: the reply is for another client", hint=_AGAIN)), None
        if reply.advice is not None:
            self.advice = reply.advice
        if not reply.successful:
            failure = _failure(what, unread.channel, reply)
            if isinstance(failure, SubscribeRefused):
                return Answer(answer.deliveries, answer.strays, failure, server_time), reply
            self.is_gone = isinstance(failure, SessionLost)
            return self._end(answer, failure), reply
        if messages.is_disconnected:
            self.is_gone = True
            return self._end(answer, SessionLost(f"{what}: the server sent a disconnect", hint=_AGAIN)), reply
        return answer, reply

    def _end(self, answer: Answer, failure: SalesforceError) -> Answer:
        self.is_over = True
        return Answer(answer.deliveries, answer.strays, failure, answer.server_time)


def _what(meta: str, channel: str) -> str:
    return meta.rpartition("/")[2] + (f" {channel}" if channel else "")


_AGAIN = "capture goes on in a new session, from the last landed event; if it lasts, see status.salesforce.com"


def _unreadable(what: str, http: HttpAnswer, cause: str) -> SalesforceError:
    text = http.body.strip()
    if text[:1] in (b"[", b"{"):
        if text[-1:] not in (b"]", b"}"):  # cut on the way, and passed on as if it were all
            return RequestLost(f"{what}: the answer was cut short", hint=_AGAIN)
        return AnswerUnreadable(f"{what}: the answer cannot be read ({cause})", hint=_AGAIN, body=http.body)
    kind = "HTML" if text[:1] == b"<" else "not JSON" if text else "empty"
    return RequestLost(f"{what}: the answer is {kind} (HTTP {http.status})", hint=_AGAIN)


# Texts of refused subscribes -> what the operator does (Streaming API Error Codes; CDC guide, "Security").
_SUBSCRIBE_HINTS = (
    (
        "doesn't exist",
        "check the name, and select the entity in Setup > Change Data Capture (names are case-sensitive)",
    ),
    ("View All Data", "give the run-as user View All Data"),
    ("not allowed to subscribe", "give the run-as user View All Records on the entity"),
    ("Cannot create channel", "check the name; the channel is unknown or the run-as user may not see it"),
    ("create_denied", "check the name; the channel is unknown or the run-as user may not see it"),
    ("Restricted channel", "only /data/… and /event/… channels can be captured"),
)


def _failure(what: str, channel: str, reply: Reply) -> SalesforceError:
    """Return the error that an unsuccessful reply stands for."""
    message, cause = f"{what}: {reply.words}", bayeux.cause_of(reply)
    if cause is Cause.REPLAY_ID and channel:
        return ReplayIdRefused(message, hint="the run decides by CDC_ON_REPLAY_EXPIRED and records a gap where needed")
    if cause is Cause.CHANNEL and channel:
        hint = next(
            (hint for sign, hint in _SUBSCRIBE_HINTS if sign in reply.words), "check the channel's name and rights"
        )
        return SubscribeRefused(message, hint=hint)
    kinds: dict[Cause, tuple[type[SalesforceError], str]] = {
        Cause.BUSY: (
            ServerBusy,
            "nothing: the run waits and tries again; if it lasts, see the org's concurrent clients",
        ),
        Cause.CREDENTIAL: (TokenInvalid, "the run fetches a new token; if it lasts, check the run-as user and the app"),
        Cause.ALLOCATION: (
            AllocationExhausted,
            "the 24-hour delivery allocation is used up: capture resumes by itself as it frees; events stay 72 hours",
        ),
        Cause.REQUEST: (RequestRefused, "check SALESFORCE_API_VERSION and CDC_CHANNELS"),
    }
    kind, hint = kinds.get(cause, (SessionLost, _AGAIN))
    return kind(message, hint=hint)
