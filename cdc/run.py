"""One bounded run: sessions follow each other until the deadline, and what they deliver is landed behind the poll.

The main thread only decides and waits; whatever touches a network runs in a thread that it can leave behind. So the
deadline holds, whatever hangs. It knows neither HTTP nor blob names, and is the one layer that tries Salesforce again.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol, TypeVar

from cdc import background
from cdc.continuity import Opening, Policy, Start, choose_start
from cdc.errors import (
    AllocationExhausted,
    AnswerUnreadable,
    CdcError,
    ContinuityStopped,
    Fenced,
    LatePut,
    LogInconsistent,
    LoginRefused,
    OtherOrg,
    ReplayIdRefused,
    RequestLost,
    RequestRefused,
    RestFailed,
    ServerBusy,
    StorageError,
    StorageUnavailable,
    SubscribeRefused,
    TokenInvalid,
)
from cdc.events import EARLIEST, TIP, Delivery, Stray
from cdc.landing import ChannelLog, StorageLog
from cdc.layout import RunRecord
from cdc.pipeline import Pipeline, Work
from cdc.report import ChannelReport, RunReport
from cdc.salesforce import Token
from cdc.session import Answer, CometDSession
from cdc.signals import Emit

NETWORK_DELAY_S = 15.0  # how much later than its timeout the server's answer may arrive (EMP connector's default)
REQUEST_TIMEOUT_S = 15.0  # for what the server answers at once
LAST_POLL_GRACE_S = 1.5  # a server that ignores advice.timeout is left this long after the deadline
LANDING_GRACE_S = 6.0  # after the deadline: for the landing in flight
DISCONNECT_S = 2.5
RECORDS_GRACE_S = 11.0  # after the deadline: by then checkpoints and the run record are written, or given up
PROOF_POLL_MS = 5_000  # while continuity waits for its proof, polls are kept short
SHORTEST_POLL_S = 0.25
BACKOFF_FIRST_S, BACKOFF_MAX_S = 1.0, 30.0
IDLE_POLL_S = 0.05  # an empty answer sooner than this means that the server does not hold the poll

T = TypeVar("T")


class Clock:
    """Time as a run sees it; tests pass one of their own."""

    def now(self) -> datetime:
        """The wall clock, UTC: for records, never for decisions about the deadline."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds that only ever grow."""
        return time.monotonic()

    def wait(self, futures: Sequence[Future[Any]], timeout_s: float) -> None:
        """Return when one of the futures is done, or after `timeout_s`."""
        wait(futures, timeout=max(0.0, timeout_s), return_when=FIRST_COMPLETED)


class RestQuestions(Protocol):
    """What a run may have to ask the org (`salesforce.Rest`)."""

    def has_changes(self, channel: str, start: datetime, end: datetime) -> bool:
        """True where records behind the channel changed in the interval. Raises: RestFailed."""


@dataclass(frozen=True)
class Plan:
    """What a run is to do: one group's channels, for so many seconds."""

    group: str
    channels: tuple[str, ...]
    run_seconds: float
    policy: Policy


@dataclass(frozen=True)
class Ports:
    """The outside, wired by `app`."""

    fetch_token: Callable[[float], Token]
    open_session: Callable[[Token], CometDSession]
    open_rest: Callable[[Token], RestQuestions]
    log: StorageLog
    emit: Emit
    clock: Clock = field(default_factory=Clock)


@dataclass
class _Channel:
    """One channel within a run."""

    log: ChannelLog
    report: ChannelReport
    is_out: bool = False  # not captured again in this run
    refusals: int = 0  # sessions running in which the start was refused
    was_refused: bool = False  # in this session
    is_unproven: bool = False
    proving: Start | None = None


@dataclass
class _Batch:
    """Deliveries being landed; `polled_at` is the server time of the answer, if it was a clean poll."""

    future: Future[dict[str, CdcError]]
    polled_at: datetime | None
    channels: tuple[str, ...]


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
        self._stop = stop
        self._deadline = self._clock.monotonic() + plan.run_seconds
        self.report = RunReport(
            run_id=ports.log.run_id,
            group=plan.group,
            started=self._clock.now(),
            channels={channel: ChannelReport(channel) for channel in plan.channels},
        )
        self._channels = {
            channel: _Channel(ChannelLog(ports.log, channel, self._warn), self.report.channels[channel])
            for channel in plan.channels
        }
        self._pipeline = Pipeline(ports.log, self.report, ports.emit, self._clock.now)
        self._token: Token | None = None
        self._batch: _Batch | None = None
        self._clean_polls: dict[str, datetime] = {}
        self._unreadable_at: object = None
        self._is_healthy = False

    # --- the whole run -----------------------------------------------------------------------------------------------

    def execute(self) -> RunReport:
        self._emit("run.started", run_id=self.report.run_id, group=self._plan.group, seconds=self._plan.run_seconds)
        try:
            self._open_logs()
            self._capture()
        except CdcError as error:
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
            self._is_healthy = False
            end = self._one_session()
            if self._is_healthy:
                failures, had_new_token = 0, False
            trouble = end.cause
            if trouble is None:
                return
            if end.is_retry_now or isinstance(trouble, LatePut):
                continue
            self.report.lost_sessions += 1
            self._emit("session.lost", level=logging.WARNING, cause=type(trouble).__name__, error=trouble)
            if isinstance(trouble, LoginRefused | RequestRefused | AllocationExhausted):
                raise trouble
            pause_s = self._backoff_s(failures, trouble)
            if isinstance(trouble, TokenInvalid):
                self._token = None
                pause_s, had_new_token = (pause_s if had_new_token else 0.0), True
            failures += not self._is_healthy
            self._pause(min(pause_s, self._deadline - self._clock.monotonic()))
        if trouble is not None and not self._stop.done():
            self._note_unrecovered(trouble, was_tried=failures > 0)

    def _note_unrecovered(self, cause: CdcError, *, was_tried: bool) -> None:
        """The run ends in trouble. A session lost in the last moments is no fault: the next run goes on from there."""
        if isinstance(cause, StorageError):
            self.report.fail(cause)
        elif was_tried:
            self.report.degrade(cause)

    @staticmethod
    def _backoff_s(failures: int, cause: CdcError) -> float:
        """Full speed after the first loss of a healthy session, then doubling with jitter (Bayeux leaves it to us)."""
        if failures == 0 and not isinstance(cause, ServerBusy | StorageError):
            return 0.0
        limit = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2.0 ** min(failures, 5))
        return limit * random.uniform(0.5, 1.0)  # noqa: S311 (jitter)

    @property
    def _has_time(self) -> bool:
        return not self._stop.done() and self._deadline - self._clock.monotonic() > SHORTEST_POLL_S

    @property
    def _active(self) -> list[_Channel]:
        return [channel for channel in self._channels.values() if not channel.is_out]

    def _warn(self, text: str) -> None:
        self._emit("log.warning", level=logging.WARNING, text=text)

    def _exclude(self, channel: _Channel, error: CdcError) -> None:
        """This channel is not captured again in this run."""
        channel.is_out = True
        if isinstance(error, Fenced):
            self.report.degrade(error, channel=channel.log.channel)
        else:
            self.report.fail(error, channel=channel.log.channel)
        self._emit(
            "channel.failed", level=logging.ERROR, channel=channel.log.channel, error=error, next_step=error.hint
        )

    # --- waiting -----------------------------------------------------------------------------------------------------

    def _await(self, future: Future[T], what: str, *, grace_s: float | None = None, at_most_s: float = 1e9) -> T:
        """Return the future's result, waiting for it until the deadline and no longer than `at_most_s`.

        With `grace_s` what must be finished is waited for: so long after the deadline, and though the run be stopped.
        Raises: RequestLost when the time is up; what the future raises.
        """
        ends = min(self._deadline + (grace_s or 0.0), self._clock.monotonic() + at_most_s)
        while not future.done() and self._clock.monotonic() < ends and not (grace_s is None and self._stop.done()):
            self._wait([future] if grace_s is not None else [future, self._stop], ends - self._clock.monotonic())
        if not future.done():
            raise RequestLost(f"{what}: no answer before the run had to end", hint=_HANGS)
        return future.result()

    def _wait(self, futures: Sequence[Future[Any]], timeout_s: float) -> None:
        self._clock.wait(futures, timeout_s)

    def _pause(self, seconds: float) -> None:
        if seconds > 0:
            self._wait([self._stop], seconds)

    # --- the logs ----------------------------------------------------------------------------------------------------

    def _open_logs(self) -> None:
        """Derive every position. Storage that fails here ends the run: nothing is known and nothing recorded.

        Raises: StorageError.
        """
        self._derive_unknown()

    def _derive_unknown(self) -> None:
        unknown = [channel for channel in self._active if not channel.log.is_known]
        futures = background.start_each("derive", [channel.log.derive for channel in unknown], at_once=8)
        for channel, future in zip(unknown, futures, strict=True):
            try:
                self._await(future, f"reading the log of {channel.log.channel}")
            except LogInconsistent as error:
                self._exclude(channel, error)
            except RequestLost as error:
                raise StorageUnavailable(str(error), hint=_STORAGE_HANGS) from None

    # --- one session -------------------------------------------------------------------------------------------------

    def _one_session(self) -> _SessionEnd:
        """Open a session, poll until it ends, and leave it tidily. Returns why it ended."""
        session: CometDSession | None = None
        try:
            self._derive_unknown()
            if not self._active:
                return _SessionEnd(None)
            token = self._token = self._token or self._fetch_token()
            session = self._ports.open_session(token)
            self._open(session, token)
            self._poll(session)
        except _SessionEnd as end:
            return self._leave(session, end)
        except CdcError as error:
            return self._leave(session, _SessionEnd(error))
        return self._leave(session, _SessionEnd(None))

    def _fetch_token(self) -> Token:
        left_s = max(SHORTEST_POLL_S, self._deadline - self._clock.monotonic())
        token = self._await(
            background.start("token", lambda: self._ports.fetch_token(min(left_s, REQUEST_TIMEOUT_S))),
            "asking for a token",
        )
        for channel in self._active:
            try:
                channel.log.check_org(token.org_id)
            except OtherOrg as error:
                self._exclude(channel, error)
        if not self._active:
            raise _SessionEnd(None)
        return token

    def _open(self, session: CometDSession, token: Token) -> None:
        """Handshake, choose each channel's start and write what must be written before it, connect, subscribe."""
        answer = self._ask("handshake", lambda timeout_s: session.handshake(timeout_s=timeout_s))
        self._check(answer)
        self.report.sessions += 1
        t0 = answer.server_time or self._clock.now()
        self._emit("session.opened", client_id=session.client_id[:8] + "…", server_time=t0.isoformat())
        starts = self._choose_starts(t0, token)
        answer = self._ask(
            "connect", lambda timeout_s: session.connect(answer_within_ms=0, timeout_s=timeout_s), session
        )
        self._take(answer, polled=False)
        for channel, start in starts:
            self._subscribe(session, channel, start)
        self._settle_batch()
        refused = [channel for channel, _ in starts if channel.was_refused]
        if refused:
            names = ", ".join(channel.log.channel for channel in refused)
            raise _SessionEnd(RequestLost(f"subscribe {names}: replay id refused", hint=_AGAIN), is_retry_now=True)
        if not any(channel.report.is_subscribed for channel in self._active):
            raise _SessionEnd(None)

    def _ask(self, what: str, request: Callable[[float], Answer], session: CometDSession | None = None) -> Answer:
        """Send one request that the server answers at once, and wait for it, no longer than the run may last."""
        timeout_s = max(SHORTEST_POLL_S, min(REQUEST_TIMEOUT_S, self._deadline - self._clock.monotonic()))
        try:
            return self._await(background.start(what, lambda: request(timeout_s)), what)
        except RequestLost:
            if session is not None:
                session.abandon()
            raise

    def _check(self, answer: Answer) -> None:
        if answer.failure is not None:
            raise _SessionEnd(answer.failure)

    def _choose_starts(self, t0: datetime, token: Token) -> list[tuple[_Channel, Start]]:
        channels = self._active
        futures = background.start_each(
            "start", [background.bind(self._choose_start, channel, t0, token) for channel in channels], at_once=8
        )
        starts = []
        for channel, future in zip(channels, futures, strict=True):
            try:
                starts.append((channel, self._await(future, f"writing the start of {channel.log.channel}")))
            except (LogInconsistent, ContinuityStopped) as error:
                self._exclude(channel, error)
        if not starts:
            raise _SessionEnd(None)
        return starts

    def _choose_start(self, channel: _Channel, t0: datetime, token: Token) -> Start:
        """Choose until it is a start: an opening is written down first, and another's opening adopted."""
        log = channel.log
        for _ in range(3):
            chosen = choose_start(
                log.channel,
                log.position,
                now=t0,
                is_refused=channel.refusals >= 2,
                is_unproven=channel.is_unproven,
                policy=self._plan.policy,
                last_clean_poll=lambda: self._clean_poll(log.channel),
            )
            if isinstance(chosen, Opening):
                only_start, has_gap = log.open_generation(chosen, t0=t0, user_id=token.user_id)
                channel.refusals, channel.is_unproven = 0, False
                self._report_opening(channel, chosen, has_gap)
                chosen = only_start or chosen
            if isinstance(chosen, Start):
                log.begin(chosen)
                channel.proving = chosen if chosen.prove_since else None
                return chosen
        raise LogInconsistent(f"opening the log of {log.channel}: no start found", hint=_REPORT)

    def _clean_poll(self, channel: str) -> datetime | None:
        polls = [self._ports.log.last_clean_poll(channel), self._clean_polls.get(channel)]
        return max((poll for poll in polls if poll is not None), default=None)

    def _report_opening(self, channel: _Channel, opening: Opening, has_gap: bool) -> None:
        generation = channel.log.position.generation
        number = generation.number if generation else 0
        fields: dict[str, Any] = {
            "channel": channel.log.channel,
            "generation": number,
            "cause": opening.cause,
            "start": opening.start,
        }
        self._emit("generation.opened", **fields)
        if has_gap:
            gap = _gap_error(channel.log.channel, number, opening)
            self.report.degrade(gap, channel=channel.log.channel)
            self._emit("gap.opened", level=logging.ERROR, **fields, since=opening.since, next_step=gap.hint)

    def _subscribe(self, session: CometDSession, channel: _Channel, start: Start) -> None:
        name = channel.log.channel
        answer = self._ask(
            f"subscribe {name}",
            lambda timeout_s: session.subscribe(name, start.replay_id, timeout_s=timeout_s),
            session,
        )
        failure = answer.failure
        channel.report.is_subscribed = failure is None
        channel.was_refused = isinstance(failure, ReplayIdRefused)
        if isinstance(failure, ReplayIdRefused):
            channel.refusals += 1
            self._emit("channel.refused", level=logging.WARNING, channel=name, replay_id=start.replay_id, error=failure)
            if channel.refusals > 1 and channel.log.position.skipped_to == start.replay_id:
                channel.log.forget_skipped()
                channel.refusals = 0
        elif isinstance(failure, SubscribeRefused):
            self.report.degrade(failure, channel=name)
            self._emit("channel.refused", level=logging.ERROR, channel=name, error=failure, next_step=failure.hint)
        elif failure is None:
            if start.replay_id not in (TIP, EARLIEST):
                channel.refusals = 0
            self._emit("channel.subscribed", channel=name, replay_id=start.replay_id)
        is_about_channel = isinstance(failure, SubscribeRefused)
        self._take(
            Answer(answer.deliveries, answer.strays, None if is_about_channel else failure, answer.server_time),
            polled=False,
        )

    # --- polling -----------------------------------------------------------------------------------------------------

    def _poll(self, session: CometDSession) -> None:
        """Poll until the deadline; each answer is landed while the next poll is already waiting."""
        while self._has_time:
            began = self._clock.monotonic()
            answer = self._poll_once(session)
            if answer is None:
                return
            is_empty = not answer.deliveries and not answer.strays
            self._take(answer, polled=True)
            del answer  # an answer can be tens of MB: at most two are held, one landing and one arriving
            pause_s = session.advice.interval_ms / 1000
            if is_empty and self._clock.monotonic() - began < IDLE_POLL_S:
                pause_s = max(pause_s, 1.0)  # a server that does not hold the poll must not be hammered
            self._pause(min(pause_s, self._deadline - self._clock.monotonic()))

    def _poll_once(self, session: CometDSession) -> Answer | None:
        """Return the answer of one poll; None where the run's time is up, which ends the session as a lost poll does.

        Raises: _SessionEnd where the landing in flight failed: what the server sends meanwhile cannot follow it.
        """
        left_s = self._deadline - self._clock.monotonic()
        within_ms = self._answer_within_ms(left_s, session.advice.timeout_ms)
        held_s = (within_ms if within_ms is not None else session.advice.timeout_ms) / 1000
        timeout_s = min(held_s + NETWORK_DELAY_S, left_s + LAST_POLL_GRACE_S)
        poll = background.start("connect", lambda: session.connect(answer_within_ms=within_ms, timeout_s=timeout_s))
        ends = self._clock.monotonic() + timeout_s
        watched: list[Future[Any]] = [poll, self._stop]
        if self._batch is not None:
            watched.append(self._batch.future)
        while not poll.done() and not self._stop.done() and self._clock.monotonic() < ends:
            self._wait(watched, ends - self._clock.monotonic())
            if self._batch is not None and self._batch.future.done() and not poll.done():
                watched = [poll, self._stop]
                if self._batch.future.exception() or self._batch.future.result():
                    session.abandon()
                    self._settle_batch()
        if not poll.done():
            session.abandon()
            self._check_poll_left_behind()
            return None
        answer = poll.result()
        is_time_up = self._clock.monotonic() >= self._deadline
        if is_time_up and isinstance(answer.failure, RequestLost):
            return None
        return answer

    def _answer_within_ms(self, left_s: float, server_timeout_ms: int) -> int | None:
        """Return the advice.timeout to send: only where the server's own would reach past the deadline."""
        within_ms = None if left_s * 1000 > server_timeout_ms + 1000 else max(0, int(left_s * 1000) - 200)
        if any(channel.proving for channel in self._active):
            return min(PROOF_POLL_MS, within_ms if within_ms is not None else PROOF_POLL_MS)
        return within_ms

    def _check_poll_left_behind(self) -> None:
        """The last poll was aborted: the run was stopped, or the server ignores advice.timeout. No fault either way.

        Raises: _SessionEnd where there is time left: then the request hangs.
        """
        if self._stop.done() or self._clock.monotonic() >= self._deadline:
            return
        raise _SessionEnd(RequestLost("connect: no complete answer in time", hint=_AGAIN))

    def _settle_proofs(self, answer: Answer, *, polled: bool) -> None:
        """Decide the channels that wait for proof: at their first delivery, or at a poll that brought nothing at all.

        Nothing of such a channel is landed before; where continuity stays unproven the whole answer is left to replay.

        Raises: _SessionEnd where continuity stays unproven: the generation comes before the next subscribe.
        """
        unproven = []
        for channel in self._active:
            first = next((each for each in answer.deliveries if each.channel == channel.log.channel), None)
            if channel.proving is None or (first is None and (answer.deliveries or not polled)):
                continue
            until = (first.time if first else None) or answer.server_time or self._clock.now()
            if self._is_quiet(channel, channel.proving, until):
                channel.log.note_quiet(until)
                channel.proving = None
                channel.refusals = 0
                self._emit("channel.quiet", channel=channel.log.channel, until=until.isoformat())
            else:
                channel.is_unproven = True
                unproven.append(channel.log.channel)
        if unproven:
            error = RequestLost(f"proving the continuity of {', '.join(unproven)}: not proved", hint=_AGAIN)
            raise _SessionEnd(error, is_retry_now=True)

    def _is_quiet(self, channel: _Channel, start: Start, until: datetime) -> bool:
        token = self._token
        if token is None or start.prove_since is None:
            return False
        since = start.prove_since
        asking = background.start(
            "rest", lambda: self._ports.open_rest(token).has_changes(channel.log.channel, since, until)
        )
        try:
            return not self._await(asking, "asking the org for changes", grace_s=LANDING_GRACE_S, at_most_s=25.0)
        except (RestFailed, RequestLost) as error:
            self._emit("channel.unproven", level=logging.WARNING, channel=channel.log.channel, error=error)
            return False

    # --- landing -----------------------------------------------------------------------------------------------------

    def _take(self, answer: Answer, *, polled: bool) -> None:
        """Hand what an answer brought to the landing, after the batch before it; then act on the answer's failure.

        Raises: _SessionEnd.
        """
        self._settle_batch()
        if isinstance(answer.failure, AnswerUnreadable):
            self._keep_unreadable(answer.failure)
        if answer.failure is None:
            self._settle_proofs(answer, polled=polled)
        self._start_batch(answer, polled_at=self._polled_at(answer) if polled else None)
        if answer.failure is not None:
            self._settle_batch()
            raise _SessionEnd(answer.failure)

    def _polled_at(self, answer: Answer) -> datetime | None:
        return (answer.server_time or self._clock.now()) if answer.failure is None else None

    def _start_batch(self, answer: Answer, *, polled_at: datetime | None) -> None:
        strays = list(answer.strays)
        deliveries: dict[str, list[Delivery]] = {}
        for delivery in answer.deliveries:
            deliveries.setdefault(delivery.channel, []).append(delivery)
        for name in [name for name in deliveries if name not in self._channels]:
            reason = "a channel that was not subscribed"
            strays += [Stray(name, reason, bytes(delivery.raw)) for delivery in deliveries.pop(name)]
        wanted = [channel for channel in self._active if channel.report.is_subscribed and not channel.proving]
        work = [
            (channel.log, deliveries[channel.log.channel]) for channel in wanted if channel.log.channel in deliveries
        ]
        names = tuple(channel.log.channel for channel in wanted)
        self._batch = _Batch(self._pipeline.start(Work(strays, work)), polled_at, names)

    def _settle_batch(self) -> None:
        """Wait for the batch in flight and draw the consequences.

        Raises: _SessionEnd where it failed: positions are derived again and a new session replays what is missing.
        """
        batch, self._batch = self._batch, None
        if batch is None:
            return
        try:
            errors = self._await(batch.future, "landing", grace_s=LANDING_GRACE_S)
        except RequestLost as late:
            raise StorageUnavailable(str(late), hint=_STORAGE_HANGS) from None
        for name in batch.channels:
            if batch.polled_at is not None and name not in errors:
                self._channels[name].report.is_captured = True
                self._clean_polls[name] = batch.polled_at
        if not errors:
            self._is_healthy |= batch.polled_at is not None
            return
        for name, error in errors.items():
            if isinstance(error, Fenced | LogInconsistent):
                self._exclude(self._channels[name], error)
        recovered = [error for error in errors.values() if not isinstance(error, Fenced | LogInconsistent)]
        raise _SessionEnd((recovered or list(errors.values()))[0], is_retry_now=not recovered)

    def _keep_unreadable(self, failure: AnswerUnreadable) -> None:
        """An answer that nothing can read: ask again; the second time at the same position it is kept raw."""
        positions = tuple(channel.log.position for channel in self._active if channel.log.is_known)
        if positions == self._unreadable_at:
            stray = Stray(None, "an answer that cannot be read", failure.body)
            keeping = background.start("quarantine", lambda: self._ports.log.keep(stray))
            self._await(keeping, "keeping an unreadable answer", grace_s=LANDING_GRACE_S)
            self.report.fail(failure)
            self._emit("quarantine.kept", level=logging.ERROR, reason=stray.reason, bytes=len(failure.body))
        self._unreadable_at = positions

    # --- leaving -----------------------------------------------------------------------------------------------------

    def _leave(self, session: CometDSession | None, end: _SessionEnd) -> _SessionEnd:
        """Settle the landing, then free the server's session; what a clean disconnect brings is landed too."""
        try:
            self._settle_batch()
        except (_SessionEnd, CdcError) as trouble:
            end = trouble if isinstance(trouble, _SessionEnd) else _SessionEnd(trouble)
            if session is not None:
                session.abandon()
        if session is None or not session.client_id:
            return end
        try:
            if not session.is_gone:
                self._disconnect(session)
        except _SessionEnd as trouble:
            end = end if end.cause else trouble
        except CdcError as error:
            end = end if end.cause else _SessionEnd(error)
        session.close()
        return end

    def _disconnect(self, session: CometDSession) -> None:
        asking = background.start("disconnect", lambda: session.disconnect(timeout_s=DISCONNECT_S))
        was_over = session.is_over
        try:
            answer = self._await(asking, "disconnect", grace_s=RECORDS_GRACE_S, at_most_s=DISCONNECT_S)
        except RequestLost:
            session.abandon()
            return
        if answer.failure is None:
            self._emit("session.closed", client_id=session.client_id[:8] + "…")
            if was_over:
                self._note_alive()
        if not was_over and answer.failure is None:
            self._take(answer, polled=False)
            self._settle_batch()

    def _note_alive(self) -> None:
        """A server that answers the disconnect only ignored advice.timeout: what is subscribed counts as captured."""
        if self._clock.monotonic() >= self._deadline:
            for channel in self._active:
                channel.report.is_captured |= channel.report.is_subscribed

    def _finish(self) -> None:
        """Write the checkpoints and the run record, as far as the time allows, and close the log."""
        self.report.is_interrupted = self._stop.done()
        try:
            known = [
                channel for channel in self._channels.values() if channel.log.is_known and self._was_opened(channel)
            ]
            saves = background.start_each(
                "checkpoint", [background.bind(self._save, channel) for channel in known], at_once=8
            )
            for channel, future in zip(known, saves, strict=True):
                self._await_storage(future, f"writing the checkpoint of {channel.log.channel}")
            self.report.finished = self._clock.now()
            self._note_generations()
            if known:
                record = self._run_record()
                writing = background.start("run record", lambda: self._ports.log.write_run(record))
                self._await_storage(writing, "writing the run record")
        finally:
            self._ports.log.close()
            self.report.finished = self._clock.now()
        self._emit(
            "run.finished",
            level=logging.INFO if self.report.outcome == "ok" else logging.ERROR,
            run_id=self.report.run_id,
            outcome=self.report.outcome,
            events=sum(channel.events for channel in self.report.channels.values()),
            sessions=self.report.sessions,
            errors="; ".join(problem.message for problem in self.report.problems),
        )

    @staticmethod
    def _was_opened(channel: _Channel) -> bool:
        return channel.log.position.generation is not None

    @staticmethod
    def _save(channel: _Channel) -> None:
        channel.log.save_checkpoint(force=True)

    def _await_storage(self, future: Future[None], what: str) -> None:
        try:
            self._await(future, what, grace_s=RECORDS_GRACE_S)
        except RequestLost as error:
            self.report.degrade(StorageUnavailable(str(error), hint=_STORAGE_HANGS))
        except CdcError as error:
            self.report.degrade(error)

    def _note_generations(self) -> None:
        for channel in self._channels.values():
            if channel.log.is_known:
                position = channel.log.position
                channel.report.generation = position.generation.number if position.generation else None
                channel.report.replay_id = position.replay_id
                channel.report.duplicates = channel.log.duplicates

    def _run_record(self) -> RunRecord:
        return RunRecord(
            group=self._plan.group,
            run_id=self.report.run_id,
            outcome=self.report.outcome,
            started=self.report.started,
            finished=self.report.finished or self._clock.now(),
            clean_polls=self._clean_polls,
            errors=tuple(problem.message for problem in self.report.problems),
        )


_HANGS = "the next run tries again; if it lasts, check the network path"
_STORAGE_HANGS = "check that Blob Storage can be reached from here: firewall, private endpoint, DNS, CDC_STORAGE"
_AGAIN = "nothing: the run opens a new session from the last landed event"
_REPORT = "please report this with the channel's generation records"


def _gap_error(channel: str, number: int, opening: Opening) -> CdcError:
    since = f" since {opening.since:%Y-%m-%d %H:%M} UTC" if opening.since else ""
    return CdcError(
        f"capturing {channel}: events may be missing{since} ({opening.cause}); generation {number} starts",
        hint=f"read the gap record {number:04d} of {channel} and reconcile the records changed in that interval",
    )
