"""Decides where a channel's next subscribe starts and whether continuity is proved; the rules stand here alone.

Pure: no I/O, no clock. It returns what is to be done; `landing` writes it down and `run` carries it out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from cdc.events import EARLIEST, TIP
from cdc.layout import Generation

RETENTION = timedelta(hours=72)  # high-volume events and change events ("Message Durability")
RETENTION_PLATFORM_EVENT = timedelta(hours=24)  # standard-volume platform events; which volume an event has is not told
RETENTION_MARGIN = timedelta(hours=1)
TIP_MARGIN = timedelta(minutes=5)  # commit times and the Date header come from different clocks
CAUGHT_UP = timedelta(minutes=2)  # a clean poll so long after the last landing has found nothing more to land

FIRST_START = "first-start"
REPLAY_REFUSED = "replay-refused"  # a recent position is refused: migration, refresh, a reset stream
OUTAGE = "outage"  # nobody listened for longer than the retention window
UNPROVEN = "unproven"  # the last event is purged and the org does not prove that nothing changed since
REWIND = "rewind"  # an operator's order


@dataclass(frozen=True)
class Position:
    """Where a channel's log ends. `replay_id` is None while nothing is landed in the newest generation."""

    segment: int = 0
    partition: date | None = None
    replay_id: str | None = None
    last_time: datetime | None = None  # of the last landed event, of whichever generation
    last_replay_id: str | None = None  # the same
    generation: Generation | None = None
    skipped_to: str | None = None
    quiet_to: datetime | None = None
    segment_written: datetime | None = field(default=None, compare=False)  # the log's last, by any clock

    @property
    def lag(self) -> timedelta | None:
        """Commit to landed, of the last landed event."""
        landed, last = self.segment_written, self.last_time
        return max(landed - last, timedelta(0)) if landed and last else None

    def captured_to(self, polled: datetime | None) -> datetime | None:
        """The time up to which nothing is left to fetch; `polled` is the channel's newest clean poll, if that counts.

        That of the last landed event; or, where a clean poll came after it and found nothing more, that of the poll.
        The clean polls of a silent channel prove nothing: hand over None.
        """
        last = self.last_time or (self.generation.t0 if self.generation else None)
        if polled is None:
            return last
        is_caught_up = self.segment_written is None or polled - self.segment_written > CAUGHT_UP
        is_caught_up |= self.lag is not None and self.lag < CAUGHT_UP
        return max(polled, last or polled) if is_caught_up else last


@dataclass(frozen=True)
class Policy:
    """What the settings say about starts: CDC_START and CDC_ON_REPLAY_EXPIRED."""

    start: str = TIP
    on_replay_expired: str = EARLIEST  # "-1", "-2" or "stop"


@dataclass(frozen=True)
class Start:
    """Subscribe from `replay_id`. Leading deliveries older than `skip_before` are before the tip and skipped.

    With `prove_since` nothing is landed before the org has said whether records changed since then.
    """

    replay_id: str
    skip_before: datetime | None = None
    prove_since: datetime | None = None


@dataclass(frozen=True)
class Opening:
    """Open a new generation before subscribing; `is_gap` where events may be missing before it."""

    cause: str
    start: str  # "-1", "-2", "stop", or by an operator's order a replay id's token
    is_gap: bool
    since: datetime | None = None


def kept_for(channel: str) -> timedelta:
    """How long Salesforce surely keeps the channel's events."""
    return RETENTION_PLATFORM_EVENT if channel.startswith("/event/") else RETENTION


def retention_of(channel: str) -> timedelta:
    """The same, less a margin: an event younger than that is surely there."""
    return kept_for(channel) - RETENTION_MARGIN


def choose_start(
    channel: str,
    position: Position,
    *,
    now: datetime,
    is_refused: bool,
    is_unproven: bool,
    policy: Policy,
    last_clean_poll: Callable[[], datetime | None],
) -> Start | Opening:
    """Return where the next subscribe starts, or the generation that must be opened first.

    `now` is the server's clock; `is_refused`: the position was refused in two sessions running; `is_unproven`: the org
    was asked and did not prove that nothing changed; `last_clean_poll` is called only where its answer matters.
    """
    generation = position.generation
    if generation is None:
        return Opening(FIRST_START, policy.start, is_gap=False)
    if is_unproven:
        return Opening(UNPROVEN, policy.on_replay_expired, is_gap=True, since=position.quiet_to or position.last_time)
    window = retention_of(channel)
    if position.replay_id is None:
        return _start_of_empty_generation(position, generation, now, window, is_refused, policy, last_clean_poll)
    if is_refused and (position.last_time is None or now - position.last_time < window):
        return Opening(REPLAY_REFUSED, policy.on_replay_expired, is_gap=True, since=position.last_time)
    if is_refused or position.quiet_to is not None:
        return _start_after_purge(position, now, window, policy, last_clean_poll)
    return Start(position.replay_id)


def _start_of_empty_generation(
    position: Position,
    generation: Generation,
    now: datetime,
    window: timedelta,
    is_refused: bool,
    policy: Policy,
    last_clean_poll: Callable[[], datetime | None],
) -> Start | Opening:
    """Nothing is landed in the generation. The tip is a moment (T0): -1 was sent once, from then on -2 and skip."""
    if generation.start not in (TIP, EARLIEST):
        if is_refused:
            return Opening(REPLAY_REFUSED, policy.on_replay_expired, is_gap=True, since=position.last_time)
        return Start(generation.start)
    skip_before = generation.t0 - TIP_MARGIN if generation.start == TIP else None
    if position.skipped_to is not None and not is_refused:
        return Start(position.skipped_to, skip_before)
    if now - generation.t0 >= window:
        polled = last_clean_poll()
        if polled is None or now - polled >= window:
            return Opening(OUTAGE, EARLIEST, is_gap=True, since=polled or generation.t0)
    return Start(EARLIEST, skip_before)


def _start_after_purge(
    position: Position,
    now: datetime,
    window: timedelta,
    policy: Policy,
    last_clean_poll: Callable[[], datetime | None],
) -> Start | Opening:
    """The last landed event is purged: on a quiet channel that is normal, and only the org's records can prove it."""
    if position.quiet_to is not None and now - position.quiet_to < window:
        return Start(EARLIEST)
    since = max(time for time in (position.last_time, position.quiet_to, _LONG_AGO) if time is not None)
    polled = last_clean_poll()
    if polled is not None and now - polled >= window:
        return Opening(OUTAGE, policy.on_replay_expired, is_gap=True, since=since)
    return Start(EARLIEST, prove_since=since)


_LONG_AGO = datetime.fromisoformat("1970-01-01T00:00:00+00:00")
