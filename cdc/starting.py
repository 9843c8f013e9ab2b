"""Brings each channel of a run to its start: generation records, subscribes, refused replay ids, proofs of continuity.

What is right stands in `continuity`; here it is carried out. Nothing of a channel whose continuity waits for proof is
landed, and it never talks to a network but through what it is given.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from cdc import background
from cdc.continuity import Opening, Policy, Start, choose_start
from cdc.errors import (
    CdcError,
    ContinuityStopped,
    LogInconsistent,
    ReplayIdRefused,
    RequestLost,
    RestFailed,
    SubscribeRefused,
)
from cdc.events import EARLIEST, TIP
from cdc.landing import ChannelLog, StorageLog
from cdc.report import ChannelReport, RunReport
from cdc.salesforce import Token
from cdc.session import Answer
from cdc.signals import Emit
from cdc.waiting import Waiting

CHANNELS_AT_ONCE = 8
REST_S = 25.0
REST_GRACE_S = 6.0


class RestQuestions(Protocol):
    """What a run may have to ask the org (`rest.Rest`)."""

    def has_changes(self, channel: str, start: datetime, end: datetime) -> bool:
        """True where records behind the channel changed in the interval. Raises: RestFailed."""

    def unfiltered_entities(self, channel: str) -> list[str]:
        """Return the entities, at least one, of which the channel carries every change. Raises: RestFailed."""

    def newest_change(self, channel: str, entity: str, after: datetime, until: datetime) -> datetime | None:
        """Return when the entity's records changed last in an interval, None for not at all. Raises: RestFailed."""

    def delivery_allocation(self) -> tuple[int, int]:
        """Return the org's event deliveries a day, and those left. Raises: RestFailed, RestDenied."""


@dataclass
class Channel:
    """One channel within a run."""

    log: ChannelLog
    report: ChannelReport
    is_out: bool = False  # not captured again in this run
    refusals: int = 0  # sessions running in which its start was refused
    was_refused: bool = False  # in this session
    is_unproven: bool = False
    proving: Start | None = None  # nothing of it is landed before the org was asked
    is_unanswered: bool = False  # listened to in this run, but no poll was answered
    heard_s: float = -math.inf  # when it last delivered anything in this run, by the monotonic clock

    @property
    def name(self) -> str:
        """The channel, as `/data/AccountChangeEvent`."""
        return self.log.channel

    @property
    def is_wanted(self) -> bool:
        """True where deliveries of this channel are to be landed."""
        return not self.is_out and self.report.is_subscribed and self.proving is None


@dataclass(frozen=True)
class Starter:
    """Starts channels for one run; `clean_polls` are the run's own, newer than any run record."""

    log: StorageLog
    policy: Policy
    report: RunReport
    waiting: Waiting
    emit: Emit
    open_rest: Callable[[Token], RestQuestions]
    clean_polls: Mapping[str, datetime]

    # --- before the subscribe ----------------------------------------------------------------------------------------

    def choose(
        self, channels: Iterable[Channel], t0: datetime, token: Token
    ) -> tuple[list[tuple[Channel, Start]], list[tuple[Channel, CdcError]]]:
        """Return each channel's start, and the channels that cannot start with their errors.

        Whatever a start needs written is written: gap record, then generation record. `t0` is the server's clock at
        this session's handshake. Raises: StorageError, RunClosed, RequestLost where the time is up.
        """
        channels = list(channels)
        calls = [background.bind(self._choose, channel, t0, token) for channel in channels]
        futures = background.start_each("storage", calls, at_once=CHANNELS_AT_ONCE)
        starts: list[tuple[Channel, Start]] = []
        failed: list[tuple[Channel, CdcError]] = []
        for channel, future in zip(channels, futures, strict=True):
            try:
                starts.append((channel, self.waiting.result(future, f"writing the start of {channel.name}")))
            except (LogInconsistent, ContinuityStopped) as error:
                failed.append((channel, error))
        return starts, failed

    def _choose(self, channel: Channel, t0: datetime, token: Token) -> Start:
        """Choose until it is a start: an opening is written down first, and another writer's opening adopted."""
        for _ in range(3):
            chosen = choose_start(
                channel.name,
                channel.log.position,
                now=t0,
                is_refused=channel.refusals >= 2,
                is_unproven=channel.is_unproven,
                policy=self.policy,
                last_clean_poll=lambda: self._last_clean_poll(channel.name),
            )
            if isinstance(chosen, Opening):
                before = channel.log.position.generation
                only_start, has_gap = channel.log.open_generation(chosen, t0=t0, user_id=token.user_id)
                if channel.log.position.generation != before:
                    channel.refusals, channel.is_unproven = 0, False
                    self._report_opening(channel, chosen, has_gap)
                chosen = only_start or chosen
            if isinstance(chosen, Start):
                channel.log.begin(chosen)
                channel.proving = chosen if chosen.prove_since else None
                return chosen
        raise LogInconsistent(
            f"opening the log of {channel.name}: its generation records change faster than they are read",
            hint="several apps share this storage: stop all but one",
        )

    def _last_clean_poll(self, channel: str) -> datetime | None:
        polls = (self.log.last_clean_poll(channel), self.clean_polls.get(channel))
        return max((poll for poll in polls if poll is not None), default=None)

    def _report_opening(self, channel: Channel, opening: Opening, has_gap: bool) -> None:
        generation = channel.log.position.generation
        number = generation.number if generation else 0
        fields: dict[str, Any] = {
            "channel": channel.name,
            "generation": number,
            "cause": opening.cause,
            "start": opening.start,
        }
        self.emit("generation.opened", **fields)
        if not has_gap:
            return
        since = f" since {opening.since:%Y-%m-%d %H:%M} UTC" if opening.since else ""
        gap = CdcError(
            f"capturing {channel.name}: events may be missing{since} ({opening.cause}); generation {number} starts",
            hint=f"read gap record {number:04d} of the channel and reconcile the records changed in its interval",
        )
        self.report.degrade(gap, channel=channel.name)
        self.emit("gap.opened", level=logging.ERROR, **fields, since=opening.since, next_step=gap.hint)

    # --- the subscribe -----------------------------------------------------------------------------------------------

    def subscribed(self, channel: Channel, start: Start, answer: Answer) -> Answer:
        """Take note of a subscribe's answer; returns it without the failure where that concerns this channel alone."""
        failure = answer.failure
        channel.report.is_subscribed = failure is None
        channel.was_refused = False
        if failure is None:
            if start.replay_id not in (TIP, EARLIEST):
                channel.refusals = 0
            self.emit("channel.subscribed", channel=channel.name, replay_id=start.replay_id)
        elif isinstance(failure, ReplayIdRefused) and start.replay_id not in (TIP, EARLIEST):
            self._note_refusal(channel, start, failure)
        elif isinstance(failure, SubscribeRefused):
            self.report.degrade(failure, channel=channel.name)
            self.emit(
                "channel.refused", level=logging.ERROR, channel=channel.name, error=failure, next_step=failure.hint
            )
        return replace(answer, failure=None) if isinstance(failure, SubscribeRefused) else answer

    def _note_refusal(self, channel: Channel, start: Start, failure: ReplayIdRefused) -> None:
        """The first refusal is asked once more in a fresh session; the second counts (see `continuity`)."""
        channel.was_refused = True
        channel.refusals += 1
        if channel.refusals > 1 and channel.log.position.skipped_to == start.replay_id:
            channel.log.forget_skipped()
            channel.refusals = 0
        self.emit(
            "channel.refused", level=logging.WARNING, channel=channel.name, replay_id=start.replay_id, error=failure
        )

    # --- the proof ---------------------------------------------------------------------------------------------------

    def settle_proofs(
        self, channels: Iterable[Channel], answer: Answer, token: Token, *, is_empty_poll: bool, is_due: bool
    ) -> list[str]:
        """Decide the channels that wait for proof and return those whose continuity stays unproven.

        A channel is due at its first delivery, at a poll that brought nothing at all, or (`is_due`) when it stayed
        silent for a while beside busy ones. An unproven one needs a new generation before its next subscribe.
        """
        unproven = []
        for channel in channels:
            if channel.proving is None:
                continue
            first = next((each for each in answer.deliveries if each.channel == channel.name), None)
            if first is None and not is_empty_poll and not is_due:
                continue
            until = (first.time if first else None) or answer.server_time or self.waiting.clock.now()
            if self._is_quiet(channel, channel.proving, until, token):
                channel.log.note_quiet(until)
                channel.proving, channel.refusals = None, 0
                self.emit("channel.quiet", channel=channel.name, until=until)
            else:
                channel.is_unproven = True
                unproven.append(channel.name)
        return unproven

    def _is_quiet(self, channel: Channel, start: Start, until: datetime, token: Token) -> bool:
        since = start.prove_since
        if since is None:
            return True
        asking = background.start("rest", lambda: self.open_rest(token).has_changes(channel.name, since, until))
        what = f"asking the org for changes behind {channel.name}"
        try:
            return not self.waiting.result(asking, what, grace_s=REST_GRACE_S, at_most_s=REST_S)
        except (RestFailed, RequestLost) as error:
            self.emit("channel.unproven", level=logging.WARNING, channel=channel.name, error=error)
            return False
