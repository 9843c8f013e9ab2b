"""One bounded run: sessions follow each other until the deadline, and what they deliver is landed behind the poll.

The main thread decides, waits, and reads answers that take no time; whatever touches a network, or may take long, runs
in a thread that it can leave behind. So the deadline holds, whatever hangs. It knows neither HTTP nor blob names, and
is the one layer that tries Salesforce again.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Callable
from concurrent.futures import Future, wait
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, TypeVar

import msgspec

from cdc import background, bayeux
from cdc.allocation import AllocationWatch
from cdc.continuity import Policy
from cdc.errors import (
    AllocationExhausted,
    AnswerDamaged,
    AnswerUnreadable,
    CdcError,
    Fenced,
    LatePut,
    LogInconsistent,
    LoginRefused,
    OtherOrg,
    RequestLost,
    RequestRefused,
    ServerBusy,
    StorageError,
    StorageUnavailable,
    TokenInvalid,
)
from cdc.events import Deliveries, Stray
from cdc.landing import ChannelLog, StorageLog
from cdc.layout import RunRecord
from cdc.pipeline import FULL_ANSWER_BYTES, MAX_HELD_BYTES, Batch, Pipeline
from cdc.report import ChannelReport, RunReport
from cdc.salesforce import Token
from cdc.session import Answer, CometDSession, Unread
from cdc.signals import Emit
from cdc.silence import SilenceWatch
from cdc.starting import Channel, RestQuestions, Starter
from cdc.waiting import Clock, Waiting

T = TypeVar("T")

NETWORK_DELAY_S = 15.0  # how much later than its timeout the server's answer may arrive (EMP connector's default)
REQUEST_TIMEOUT_S = 15.0  # for what the server answers at once
LAST_POLL_GRACE_S = 1.5  # a server that ignores advice.timeout is left this long after the deadline
LANDING_GRACE_S = 6.0  # after the deadline: for the landing in flight
DISCONNECT_S = 2.5
RECORDS_GRACE_S = 11.0  # after the deadline: by then checkpoints and the run record are written, or given up
PROOF_POLL_MS = 5_000  # while continuity waits for its proof, polls are kept short
PROOF_AFTER_S = 5.0
SHORTEST_POLL_S = 0.25
BACKOFF_FIRST_S, BACKOFF_MAX_S = 1.0, 30.0
STEADY_S = 10.0  # a session that lived so long, or landed something, starts the back-off anew
ALIVE_EVERY_S = 300.0  # how often a long run says that it is alive; and its channels' clean polls must be younger
UNANSWERED_FOR = timedelta(minutes=15)  # so long the last polls of short runs may stay without an answer
READ_HERE_BYTES = 4 * 1024 * 1024  # takes 20 ms, and some seconds where all of it is for the lenient parser alone:
READ_HERE_BEFORE_S = 12.0  # only so long before the deadline, for two of them and the landing after that
HEAD_START_S = 0.003  # of a landing before the next poll, where nothing says that more is waiting
IDLE_POLL_S = 0.05  # an empty answer sooner than this means that the server does not hold the poll


@dataclass(frozen=True)
class Plan:
    """What a run is to do: one group's channels, for so many seconds."""

    group: str
    channels: tuple[str, ...]
    run_seconds: float
    policy: Policy
    silence_check_s: float = 0.0  # how long a channel may be silent before the org is asked; 0: it never is


@dataclass(frozen=True)
class Ports:
    """The outside, wired by `app`."""

    fetch_token: Callable[[float], Token]
    open_session: Callable[[Token], CometDSession]
    open_rest: Callable[[Token], RestQuestions]
    log: StorageLog
    emit: Emit
    clock: Clock = field(default_factory=Clock)


@dataclass(frozen=True)
class _Poll:
    """A poll under way, and when it is given up (monotonic seconds)."""

    came: Future[Answer | Unread]
    began_s: float
    ends_s: float


class _SessionEnd(Exception):
    """Leave the session: because of `cause`, or at the end of the run (None)."""

    def __init__(self, cause: CdcError | None, *, is_retry_now: bool = False) -> None:
        super().__init__(cause)
        self.cause = cause
        self.is_retry_now = is_retry_now


def run(plan: Plan, ports: Ports, *, stop: Future[None] | None = None) -> RunReport:
    """Capture until the deadline, or until `stop` has a result, and return the report; never raises a CdcError.

    Ends within `plan.run_seconds` plus RECORDS_GRACE_S, whatever hangs.
    """
    return _Run(plan, ports, stop or Future()).execute()


class _Run:
    def __init__(self, plan: Plan, ports: Ports, stop: Future[None]) -> None:
        self._plan = plan
        self._ports = ports
        self._clock = ports.clock
        self._emit = ports.emit
        self._waiting = Waiting(self._clock, self._clock.monotonic() + plan.run_seconds, stop)
        self.report = RunReport(
            run_id=ports.log.run_id,
            group=plan.group,
            started=self._clock.now(),
            channels={channel: ChannelReport(channel) for channel in plan.channels},
        )
        self._channels = {
            channel: Channel(ChannelLog(ports.log, channel, self._warn), self.report.channels[channel])
            for channel in plan.channels
        }
        self._clean_polls: dict[str, datetime] = {}
        self._pipeline = Pipeline(ports.log, self.report, ports.emit, self._clock)
        self._starter = Starter(
            ports.log, plan.policy, self.report, self._waiting, ports.emit, ports.open_rest, self._clean_polls
        )
        self._silence = SilenceWatch(
            self._channels.values(),
            self.report,
            self._waiting,
            ports.emit,
            ports.open_rest,
            interval_s=plan.silence_check_s,
        )
        self._allocation = AllocationWatch(ports.emit, ports.open_rest)
        self._token: Token | None = None
        self._damaged: frozenset[bytes] = frozenset()  # messages of the last damaged answer
        self._unreadable_at: object = None  # the positions at which an answer came that nothing can read
        self._suspect = ""  # the channel at whose subscribe it came: the next session subscribes it first
        self._has_kept_unreadable = False
        self._opened_s = 0.0  # when this session's subscribes were through
        self._server = (self._clock.now(), self._clock.monotonic())  # the server's clock, and when it showed that
        self._is_healthy = False  # this session had a clean poll, and all of it landed
        self._is_steady = False  # and it did more than come and go
        self._trouble: CdcError | None = None  # why the session before this one ended, until this one is healthy
        self._before: Future[RunRecord | None] = Future()  # the group's run record, as another run left it
        self._writing: Future[None] = Future()  # the record of this run under way
        self._writing.set_result(None)
        self._alive_s = self._clock.monotonic()  # when this run last said that it is alive
        self._polled_s: dict[str, float] = {}  # when each channel's last clean poll was, by the monotonic clock

    # --- the whole run -----------------------------------------------------------------------------------------------

    def execute(self) -> RunReport:
        """Capture, then finish, whatever happened."""
        self._emit("run.started", seconds=self._plan.run_seconds)
        self._before = background.start("run record", lambda: self._ports.log.read_run(self._plan.group))
        try:
            self._derive_unknown()  # storage that fails here ends the run: nothing is known, nothing recorded
            self._capture()
        except CdcError as error:
            if not self._waiting.is_stopped:
                self.report.fail(error)
        finally:
            self._finish()
        return self.report

    def _capture(self) -> None:
        """Run sessions until the time is up. Trouble counts only where it was not overcome.

        Raises: what no new session can mend.
        """
        failures, had_new_token = 0, False
        trouble: CdcError | None = None
        while self._has_time and self._active:
            self._say_alive()
            opened = self.report.sessions
            end = self._one_session()
            trouble = self._trouble = end.cause
            if trouble is None:
                return
            if end.is_retry_now or isinstance(trouble, LatePut):
                continue
            if self.report.sessions > opened:
                self.report.lost_causes[type(trouble).__name__] += 1
                self._emit("session.lost", level=logging.WARNING, cause=type(trouble).__name__, error=trouble)
            else:
                self._emit("session.failed", level=logging.WARNING, cause=type(trouble).__name__, error=trouble)
            if isinstance(trouble, LoginRefused | RequestRefused | AllocationExhausted):
                raise trouble
            if self._is_steady:
                failures, had_new_token = 0, False
            pause_s = _backoff_s(failures, trouble)
            if isinstance(trouble, TokenInvalid):
                self._token = None
                pause_s, had_new_token = (pause_s if had_new_token else 0.0), True
            failures += 1
            self._waiting.pause(pause_s)
        if trouble is not None and not self._waiting.is_stopped:
            self._note_unrecovered(trouble)

    def _note_unrecovered(self, cause: CdcError) -> None:
        """The run ends in trouble. A session lost in the last moments is no fault: the next run goes on from there."""
        if isinstance(cause, Fenced | LogInconsistent) or not self._active:
            return  # the channel has been excluded for it, and said so
        if isinstance(cause, StorageError):
            self.report.fail(cause)
        elif not self._is_healthy:
            self.report.degrade(cause)

    @property
    def _has_time(self) -> bool:
        return not self._waiting.is_stopped and self._waiting.left_s > SHORTEST_POLL_S

    @property
    def _active(self) -> list[Channel]:
        return [channel for channel in self._channels.values() if not channel.is_out]

    def _warn(self, text: str) -> None:
        self._emit("log.warning", level=logging.WARNING, text=text)

    def _exclude(self, channel: Channel, error: CdcError) -> None:
        """This channel is not captured again in this run."""
        channel.is_out = True
        channel.report.is_fenced = isinstance(error, Fenced)
        (self.report.degrade if channel.report.is_fenced else self.report.fail)(error, channel=channel.name)
        self._emit("channel.failed", level=logging.ERROR, channel=channel.name, error=error, next_step=error.hint)

    def _derive_unknown(self) -> None:
        """Derive every position that is not known, side by side.

        Raises: StorageError.
        """
        unknown = [channel for channel in self._active if not channel.log.is_known]
        futures = background.start_each("storage", [channel.log.derive for channel in unknown], at_once=8)
        for channel, future in zip(unknown, futures, strict=True):
            try:
                self._await_words(future, f"reading the log of {channel.name}")
            except LogInconsistent as error:
                self._exclude(channel, error)
            except RequestLost as error:
                raise StorageUnavailable(str(error), hint=_STORAGE_HANGS) from None

    def _await_words(self, future: Future[None], what: str) -> None:
        """Wait until the deadline; a little longer for what storage has to say, for a short run is up before that."""
        try:
            self._waiting.result(future, what)
        except RequestLost:
            if future.done() or self._waiting.is_stopped:
                raise
            self._waiting.result(future, what, grace_s=LANDING_GRACE_S)

    # --- one session -------------------------------------------------------------------------------------------------

    def _one_session(self) -> _SessionEnd:
        """Open a session, poll until it ends, and leave it tidily. Returns why it ended."""
        session: CometDSession | None = None
        self._is_healthy = self._is_steady = False
        try:
            self._derive_unknown()
            token = self._token = self._token or self._fetch_token()
            if not self._active:
                return _SessionEnd(None)
            session = self._ports.open_session(token)
            session.believed = self._damaged
            self._open(session, token)
            self._poll(session, token)
            end = _SessionEnd(None)
        except _SessionEnd as reason:
            end = reason.with_traceback(None)  # its frames hold answers
        except CdcError as error:
            end = _SessionEnd(error.with_traceback(None))
        return self._leave(session, end)

    def _fetch_token(self) -> Token:
        timeout_s = max(SHORTEST_POLL_S, min(REQUEST_TIMEOUT_S, self._waiting.left_s))
        fetching = background.start("token", lambda: self._ports.fetch_token(timeout_s))
        token = self._waiting.result(fetching, "asking for a token")
        for channel in self._active:
            try:
                channel.log.check_org(token.org_id)
            except OtherOrg as error:
                self._exclude(channel, error)
        return token

    def _open(self, session: CometDSession, token: Token) -> None:
        """Handshake, choose each channel's start and write what must be written before it, connect, subscribe.

        Raises: _SessionEnd, StorageError, RequestLost where the time is up.
        """
        answer = self._ask("handshake", lambda timeout_s: session.handshake(timeout_s=timeout_s))
        if answer.failure is not None:
            raise _SessionEnd(answer.failure)
        self.report.sessions += 1
        t0 = answer.server_time or self._clock.now()
        self._server = (t0, self._clock.monotonic())
        self._emit("session.opened", session=session.client_id[:6], server_time=t0)
        starts, failed = self._starter.choose(self._active, t0, token)
        for channel, error in failed:
            self._exclude(channel, error)
        if not starts:
            raise _SessionEnd(None)
        answer = self._ask("connect", lambda timeout_s: session.connect(answer_within_ms=0, timeout_s=timeout_s))
        self._take(answer, token)
        starts.sort(key=lambda each: each[0].name != self._suspect)
        for place, (channel, start) in enumerate(starts):
            name, replay_id = channel.name, start.replay_id
            answer = self._ask(f"subscribe {name}", _subscribing(session, name, replay_id))
            if isinstance(answer.failure, AnswerUnreadable):
                self._suspect_channel(channel, answer.failure, is_alone=place == 0)
            self._take(self._starter.subscribed(channel, start, answer), token)
        self._settle_landing()
        self._opened_s = self._clock.monotonic()
        refused = [channel.name for channel, _ in starts if channel.was_refused]
        if refused:
            cause = RequestLost(f"subscribe {', '.join(refused)}: replay id refused", hint=_AGAIN)
            raise _SessionEnd(cause, is_retry_now=True)
        if not any(channel.is_wanted or channel.proving for channel in self._active):
            raise _SessionEnd(None)

    def _ask(self, what: str, request: Callable[[float], Answer]) -> Answer:
        """Send one request that the server answers at once, and wait for it, no longer than the run may last."""
        timeout_s = max(SHORTEST_POLL_S, min(REQUEST_TIMEOUT_S, self._waiting.left_s))
        asking = background.start("session", lambda: request(timeout_s))
        return self._waiting.result(asking, what, at_most_s=timeout_s + LAST_POLL_GRACE_S)

    # --- polling -----------------------------------------------------------------------------------------------------

    def _poll(self, session: CometDSession, token: Token) -> None:
        """Poll until the deadline; each answer is landed while the next poll is already waiting.

        Raises: _SessionEnd.
        """
        ahead: _Poll | None = None
        while ahead is not None or self._has_time:
            poll = ahead or self._send_poll(session)
            came, began_s = self._await(session, poll.came, poll.ends_s, token), poll.began_s
            del poll  # with what came: it can be tens of MB, and what is held of it is to be the pipeline's alone
            ahead = self._poll_ahead(session, came)
            answer = self._read(session, came, token) if isinstance(came, Unread) else came
            del came
            if answer is None:
                return
            is_empty = not answer.deliveries and not answer.strays
            is_full = answer.deliveries.size_bytes >= FULL_ANSWER_BYTES
            self._take(answer, token, is_poll=True)
            del answer
            if not is_full:
                self._let_landing_begin()
            if ahead is None:
                self._pause(session, began_s, is_empty=is_empty)

    def _send_poll(self, session: CometDSession) -> _Poll:
        began_s, left_s = self._clock.monotonic(), self._waiting.left_s
        within_ms = self._answer_within_ms(left_s, session.advice.timeout_ms)
        held_s = (session.advice.timeout_ms if within_ms is None else within_ms) / 1000
        timeout_s = min(held_s + NETWORK_DELAY_S, left_s + LAST_POLL_GRACE_S)
        came = background.start("session", lambda: session.poll(answer_within_ms=within_ms, timeout_s=timeout_s))
        return _Poll(came, began_s, began_s + timeout_s)

    def _poll_ahead(self, session: CometDSession, came: Answer | Unread | None) -> _Poll | None:
        """After a full answer the next poll is sent before that one is read: the server collects while we parse."""
        if not isinstance(came, Unread) or came.size_bytes < FULL_ANSWER_BYTES or not self._is_read_here(came):
            return None
        is_bounded = self._pipeline.held_bytes + 2 * came.size_bytes <= MAX_HELD_BYTES
        is_proving = any(channel.proving for channel in self._active)
        return self._send_poll(session) if is_bounded and not is_proving and session.is_followed_at_once(came) else None

    def _is_read_here(self, came: Unread) -> bool:
        """True where this thread reads the answer; another one would need memory of its own for it.

        Not what is very large, or of some size and near the end: that may have to be left behind.
        """
        is_early = self._waiting.left_s > READ_HERE_BEFORE_S
        return came.size_bytes < FULL_ANSWER_BYTES or (is_early and came.size_bytes <= READ_HERE_BYTES)

    def _read(self, session: CometDSession, came: Unread, token: Token) -> Answer | None:
        """Return what an answer to a poll means; None where the run's time is up, as `_await` has it."""
        if self._is_read_here(came):
            return self._unless_time_is_up(session, session.read(came))
        reading = background.start("reading", lambda: session.read(came))
        return self._await(session, reading, self._waiting.deadline_s + LAST_POLL_GRACE_S, token)

    def _await(self, session: CometDSession, coming: Future[T], ends_s: float, token: Token) -> T | Answer | None:
        """Return the result; None where the run's time is up first.

        Raises: _SessionEnd where the landing in flight failed: nothing may follow what is missing.
        """
        self._watch(coming, ends_s, token)
        return self._unless_time_is_up(session, coming.result() if coming.done() else Answer(failure=_HANGING))

    def _unless_time_is_up(self, session: CometDSession, came: T) -> T | None:
        """A poll that is lost then is a normal end: the run was stopped, or the server ignores advice.timeout."""
        is_time_up = self._waiting.is_stopped or self._waiting.left_s <= 0
        if isinstance(came, Answer) and isinstance(came.failure, RequestLost) and is_time_up:
            session.abandon()
            return None
        return came

    def _let_landing_begin(self) -> None:
        """It and the next poll both need the interpreter to send a request, and the landing is what is waited for."""
        landing = self._pipeline.in_flight
        if landing is not None:
            self._waiting.first([landing], HEAD_START_S)

    def _pause(self, session: CometDSession, began_s: float, *, is_empty: bool) -> None:
        """Let the time pass that the server wants between two polls, the last of which began then."""
        pause_s = session.advice.interval_ms / 1000
        if is_empty and self._clock.monotonic() - began_s < IDLE_POLL_S:
            pause_s = max(pause_s, 1.0)  # a server that does not hold the poll must not be hammered
        if pause_s > 0:
            self._settle_landing()  # while nothing is asked for, nothing waits
            self._waiting.pause(pause_s)

    def _watch(self, poll: Future[Any], ends_s: float, token: Token) -> None:
        """Return when the poll is done, its time is up or the run is stopped.

        Raises: _SessionEnd, StorageError as soon as the landing in flight fails.
        """
        while not poll.done() and not self._waiting.is_stopped and self._clock.monotonic() < ends_s:
            self._say_alive()
            self._look_around(token)
            landing = self._pipeline.in_flight
            watched: list[Future[Any]] = [poll] if landing is None else [poll, landing]
            ends_in_s = min(ends_s, self._alive_s + ALIVE_EVERY_S) - self._clock.monotonic()
            looks_in_s = min(self._silence.next_look_s(self._opened_s), self._pipeline.held_s)
            self._waiting.first(watched, min(ends_in_s, looks_in_s))
            if landing is not None and landing.done() and not poll.done():
                self._settle_batch()
            self._pipeline.look()

    def _look_around(self, token: Token) -> None:
        """Beside the poll: ask for the org's limits, and about silent channels, as far as that is due."""
        if not self._before.done():
            return
        self._recall()
        server_time, seen_s = self._server
        now = server_time + timedelta(seconds=self._clock.monotonic() - seen_s)
        self._silence.look(listening_since_s=self._opened_s, now=now, token=token)
        self._allocation.look(self._clock.now(), token)

    def _answer_within_ms(self, left_s: float, server_timeout_ms: int) -> int | None:
        """Return the advice.timeout to send: only where the server's own would reach past the deadline."""
        within_ms = None if left_s * 1000 > server_timeout_ms + 1000 else max(0, int(left_s * 1000) - 200)
        if any(channel.proving for channel in self._active):
            return min(PROOF_POLL_MS, int(left_s * 1000 / 3))  # in a short run, too, time is left for a new session
        return within_ms

    # --- landing -----------------------------------------------------------------------------------------------------

    def _take(self, answer: Answer, token: Token, *, is_poll: bool = False) -> None:
        """Hand what an answer brought to the landing, behind what came before it; then act on the answer's failure.

        Waits for the landing only where too much is held already. Where the answer is a failure, all is landed first.
        Raises: _SessionEnd. What an answer brought and is not landed then comes again in the next session.
        """
        if answer.failure is not None:
            self._settle_landing()
        if isinstance(answer.failure, AnswerDamaged):
            self._damaged = answer.failure.damaged
        if isinstance(answer.failure, AnswerUnreadable):
            self._keep_unreadable(answer.failure)
        if answer.failure is None:
            self._settle_proofs(answer, token, is_poll=is_poll)
        polled_at = (answer.server_time or self._clock.now()) if is_poll and answer.failure is None else None
        self._land(answer, polled_at)
        if answer.failure is not None:
            self._settle_landing()
            raise _SessionEnd(answer.failure)

    @property
    def _proof_after_s(self) -> float:
        """A channel that stayed silent for so long after the subscribes, beside busy ones, is asked about."""
        return min(PROOF_AFTER_S, self._plan.run_seconds / 4)

    def _settle_proofs(self, answer: Answer, token: Token, *, is_poll: bool) -> None:
        unproven = self._starter.settle_proofs(
            self._active,
            answer,
            token,
            is_empty_poll=is_poll and not answer.deliveries,
            is_due=is_poll and self._clock.monotonic() - self._opened_s >= self._proof_after_s,
        )
        if unproven:
            cause = RequestLost(f"proving the continuity of {', '.join(unproven)}: not proved", hint=_UNPROVEN)
            raise _SessionEnd(cause, is_retry_now=True)

    def _land(self, answer: Answer, polled_at: datetime | None) -> None:
        """Sort what an answer brought, and hand it to the pipeline as soon as that has room."""
        strays = list(answer.strays)
        deliveries = answer.deliveries.by_channel()
        for name in [name for name in deliveries if name not in self._channels]:
            strays += _unsubscribed(name, deliveries.pop(name))
        for name in deliveries:
            self._silence.heard(self._channels[name])
        wanted = [channel for channel in self._active if channel.is_wanted]
        batch = Batch(
            strays,
            {channel.log: deliveries[channel.name] for channel in wanted if channel.name in deliveries},
            {channel.name: polled_at for channel in wanted} if polled_at else {},
            is_clean=polled_at is not None,
        )
        while (landing := self._pipeline.in_flight) and landing.done():
            self._settle_batch()
        while not self._pipeline.has_room(batch):
            self._pipeline.flush()
            self._settle_batch()
        self._pipeline.add(batch)

    def _settle_landing(self) -> None:
        """Wait until all that was handed to the pipeline is landed. Raises: what `_settle_batch` raises."""
        self._pipeline.flush()
        while self._pipeline.in_flight is not None:
            self._settle_batch()
            self._pipeline.flush()

    def _settle_batch(self) -> None:
        """Wait for the batch in flight and draw the consequences; the next one may start.

        Raises: _SessionEnd where it failed: positions are derived again and a new session replays what is missing;
        StorageError where it hangs, or a stray could not be kept.
        """
        landing = self._pipeline.in_flight
        if landing is None:
            return
        try:
            self._waiting.result(landing, "landing", grace_s=LANDING_GRACE_S)
        except CdcError as trouble:
            self._pipeline.drop()
            if isinstance(trouble, RequestLost):
                raise StorageUnavailable(str(trouble), hint=_STORAGE_HANGS) from None
            raise
        batch, errors = self._pipeline.take_result()
        for name, polled_at in batch.clean_polls.items():
            if name not in errors:
                report = self.report.channels[name]
                report.is_captured = True
                report.polled = self._clean_polls[name] = polled_at
                self._polled_s[name] = self._clock.monotonic()
        if not errors:
            self._is_healthy |= batch.is_clean
            lived_s = self._clock.monotonic() - self._opened_s
            self._is_steady |= batch.has_work or (self._is_healthy and lived_s > STEADY_S)
            return
        final = {name: error for name, error in errors.items() if isinstance(error, Fenced | LogInconsistent)}
        for name, error in final.items():
            self._exclude(self._channels[name], error)
        passing = [error for name, error in errors.items() if name not in final]
        raise _SessionEnd((passing or list(final.values()))[0], is_retry_now=not passing)

    def _keep_unreadable(self, failure: AnswerUnreadable) -> None:
        """An answer that nothing can read is asked for again; the second time at the same position it is kept raw.

        Once a run is enough: each session's answer has ids of its own, and so each would be kept anew.
        """
        positions = [channel.log.position for channel in self._active if channel.log.is_known]
        if positions == self._unreadable_at and not self._has_kept_unreadable:
            self.report.fail(self._keep_raw(None, failure))
        self._unreadable_at = positions

    def _keep_raw(self, channel: str | None, failure: AnswerUnreadable) -> AnswerUnreadable:
        """Put the answer into quarantine and return the failure with what the operator now does."""
        self._has_kept_unreadable = True
        stray = Stray(channel, "an answer that cannot be read", failure.body)
        keeping = background.start("quarantine", lambda: self._ports.log.keep(stray))
        self._waiting.result(keeping, "keeping an unreadable answer", grace_s=LANDING_GRACE_S)
        self._emit("quarantine.kept", level=logging.ERROR, reason=stray.reason, bytes=len(failure.body))
        return AnswerUnreadable(str(failure), hint=_KEPT_RAW, body=failure.body)

    def _suspect_channel(self, channel: Channel, failure: AnswerUnreadable, *, is_alone: bool) -> None:
        """An unreadable answer to a subscribe, again in a session that has no other channel yet, is that channel's own.

        It is kept raw, and the others are captured without that channel.
        Raises: _SessionEnd, so that they are subscribed in a fresh session; StorageError.
        """
        if is_alone and self._suspect == channel.name:
            self._exclude(channel, self._keep_raw(channel.name, failure))
            raise _SessionEnd(failure, is_retry_now=True)
        self._suspect = channel.name

    # --- leaving -----------------------------------------------------------------------------------------------------

    def _leave(self, session: CometDSession | None, end: _SessionEnd) -> _SessionEnd:
        """Settle the landing, then free the server's session; what a clean disconnect brings is landed too."""
        if session is None:
            return end
        try:
            if end.cause is not None:
                session.abandon()  # an answer may have been left unlanded: nothing later may follow it
            self._settle_landing()
            if session.client_id and not session.is_gone:
                self._disconnect(session)
        except _SessionEnd as trouble:
            end = end if end.cause else trouble
        except CdcError as trouble:
            end = end if end.cause else _SessionEnd(trouble)
        session.close()
        return end

    def _disconnect(self, session: CometDSession) -> None:
        """Free the server's session. After trouble as best it can, its answer void; else what it brings is landed.

        Raises: _SessionEnd, StorageError from the landing.
        """
        was_over = session.is_over
        asking = background.start("session", lambda: session.disconnect(timeout_s=DISCONNECT_S))
        try:
            answer = self._waiting.result(asking, "disconnect", grace_s=RECORDS_GRACE_S, at_most_s=DISCONNECT_S)
        except RequestLost:
            return
        if answer.failure is not None:
            return
        self._emit("session.closed", session=session.client_id[:6])
        if was_over and self._waiting.left_s <= 0 and not self.report.lost_sessions:
            # It only ignored advice.timeout: what is subscribed was listened to. After a lost poll that is no excuse.
            for channel in self._active:
                if channel.is_wanted and not channel.report.is_captured:
                    channel.report.is_captured = channel.is_unanswered = True
        self._land(answer, None)
        self._settle_landing()

    def _finish(self) -> None:
        """Write the checkpoints and the run record, as far as the time allows, and close the log."""
        self.report.is_interrupted = self._waiting.is_stopped
        try:
            known = [channel for channel in self._channels.values() if channel.log.is_started]
            for channel in known:
                channel.report.take_position(channel.log)
            saves = background.start_each("storage", [_saving(channel) for channel in known], at_once=8)
            for channel, future in zip(known, saves, strict=True):
                self._record(future, f"writing the checkpoint of {channel.name}")
            if known:
                with suppress(CdcError):  # whatever is wrong with it, writing it anew will tell
                    self._waiting.result(self._before, "reading the run record", grace_s=RECORDS_GRACE_S)
            self._recall()
            self._judge_unanswered()
            self._silence.conclude()
            self._allocation.settle()
            self.report.close(self._clock.now())
            if known:
                self._record(self._write_record(), "writing the run record")
        finally:
            self._ports.log.close()
            self.report.close(self._clock.now())
        now = self._clock.now()
        for outcome, fields in self.report.channel_signals(now):
            self._emit("channel.finished", level=_LEVELS[outcome], **fields)
        is_ok = self.report.outcome == "ok"
        self._emit("run.finished", level=logging.INFO if is_ok else logging.ERROR, **self.report.signal(now))

    def _record(self, future: Future[None], what: str) -> None:
        try:
            self._waiting.result(future, what, grace_s=RECORDS_GRACE_S)
        except RequestLost as error:
            self.report.degrade(StorageUnavailable(str(error), hint=_STORAGE_HANGS))
        except CdcError as error:
            self.report.degrade(error)

    # --- what the run says and remembers -----------------------------------------------------------------------------

    def _recall(self) -> None:
        """Take over what the runs before this one knew, as far as their record could be read."""
        is_read = self._before.done() and self._before.exception() is None
        known = self._before.result() if is_read else None
        for report in self.report.channels.values():
            report.polled = report.polled or (known.clean_polls.get(report.channel) if known else None)
        self._silence.restore(known)
        self._allocation.restore(known)

    def _judge_unanswered(self) -> None:
        """That a server ignores advice.timeout excuses a run without an answered poll, but not run after run."""
        for channel in self._channels.values():
            if not channel.is_unanswered or channel.report.events or not channel.log.is_known:
                continue
            generation = channel.log.position.generation
            since = channel.report.polled or (generation.t0 if generation else None)
            if since is not None and self._clock.now() - since > UNANSWERED_FOR:
                self.report.degrade(
                    RequestLost(
                        f"listening to {channel.name}: no poll has been answered since {since:%Y-%m-%d %H:%M} UTC",
                        hint="let runs last longer than the server holds a poll, which is 110 s (CDC_RUN_SECONDS, or "
                        "--seconds); if longer runs say so too, check what lies between this app and Salesforce",
                    ),
                    channel=channel.name,
                )

    def _write_record(self) -> Future[None]:
        """Start writing the run record as things stand, after the one that may be under way."""
        record = msgspec.structs.replace(
            self.report.to_record(self._clock.now()),
            allocation=self._allocation.readings,
            allocation_problem=self._allocation.problem,
            allocation_asked=self._allocation.asked,
        )
        before: list[Future[Any]] = [self._before, self._writing]

        def write() -> None:
            wait(before)
            self._ports.log.write_run(record)

        self._writing = background.start("run record", write)
        return self._writing

    def _say_alive(self) -> None:
        """Every ALIVE_EVERY_S of a long run: say how things stand, and write it into the run record."""
        now_s = self._clock.monotonic()
        if now_s - self._alive_s < ALIVE_EVERY_S:
            return
        self._alive_s = now_s
        for channel in self._channels.values():
            is_lately = now_s - self._polled_s.get(channel.name, -math.inf) < ALIVE_EVERY_S
            channel.report.is_captured &= is_lately
            channel.report.take_position(channel.log)
        if self._writing.done():
            if self._writing.exception() is not None:
                self._warn(f"{self._writing.exception()}; the run goes on, and what its record tells is old")
            self._write_record()
        now = self._clock.now()
        for outcome, fields in self.report.channel_signals(now):
            self._emit("channel.alive", level=_LEVELS[outcome], **fields)
        is_ok = self.report.outcome == "ok"
        trouble = None if self._is_healthy else self._trouble
        self._emit(
            "run.alive", level=logging.INFO if is_ok else logging.ERROR, **self.report.signal(now, trouble=trouble)
        )


_LEVELS = {"ok": logging.INFO, "degraded": logging.WARNING, "failed": logging.ERROR}
_STORAGE_HANGS = "check that Blob Storage can be reached from here: firewall, private endpoint, DNS, CDC_STORAGE"
_AGAIN = "capture goes on in a new session, from the last landed event"
_UNPROVEN = (
    "records changed, or the org could not be asked: a gap is recorded as soon as a run has the time for a new session "
    "(raise CDC_RUN_SECONDS or --seconds)"
)
_KEPT_RAW = (
    "look at the blob below quarantine/ in the events container and report it; nothing is skipped: the next run asks "
    "for the same events"
)
_HANGING = RequestLost("connect: no complete answer in time", hint=_AGAIN)


def _backoff_s(failures: int, cause: CdcError) -> float:
    """At once after the first loss of a steady session, then doubling with jitter (Bayeux leaves it to the client)."""
    if failures == 0 and not isinstance(cause, ServerBusy | StorageError):
        return 0.0
    limit_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(failures, 5))
    return limit_s * random.uniform(0.5, 1.0)  # noqa: S311 (jitter)


def _unsubscribed(name: str, deliveries: Deliveries) -> list[Stray]:
    """Return a stray for each delivery of a channel that nobody subscribed; a flood of them is kept as one."""
    reason = "a channel that was not subscribed"
    raws = [bytes(line) for line in deliveries.lines]
    return [Stray(name, reason, raw) for raw in (raws if len(raws) <= bayeux.MAX_STRAYS else [b"\n".join(raws)])]


def _subscribing(session: CometDSession, name: str, replay_id: str) -> Callable[[float], Answer]:
    return lambda timeout_s: session.subscribe(name, replay_id, timeout_s=timeout_s)


def _saving(channel: Channel) -> Callable[[], None]:
    return lambda: channel.log.save_checkpoint(force=True)
