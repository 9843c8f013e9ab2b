"""What a run did, and from that its outcome: `ok`, `degraded` or `failed`.

It holds what was reported and judges; it does nothing else. Landing threads report into it, so it is locked.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from cdc.errors import CdcError
from cdc.landing import ChannelLog, Landed
from cdc.layout import spell_time

Outcome = Literal["ok", "degraded", "failed"]


@dataclass
class ChannelReport:
    """One channel's part of a run. `is_captured`: at least one clean poll; lag is commit to landed, seconds."""

    channel: str
    is_subscribed: bool = False
    is_captured: bool = False
    is_failed: bool = False
    is_fenced: bool = False  # another run captures it
    needs_attention: bool = False
    events: int = 0
    segments: int = 0
    size_bytes: int = 0
    duplicates: int = 0
    quarantined: int = 0
    replay_id: str | None = None
    lag_s: float | None = None
    max_lag_s: float | None = None
    generation: int | None = None

    def take_position(self, log: ChannelLog) -> None:
        """Take over where the channel's log ends now."""
        position = log.position
        self.generation = position.generation.number if position.generation else None
        self.replay_id = position.replay_id
        self.duplicates = log.duplicates


@dataclass(frozen=True)
class Problem:
    """Something an operator should know: what, the next step, and the channel where it concerns one."""

    message: str
    hint: str
    channel: str | None = None


@dataclass
class RunReport:
    """A run as it goes on, and in the end."""

    run_id: str
    group: str
    started: datetime
    channels: dict[str, ChannelReport]
    finished: datetime | None = None
    sessions: int = 0
    lost_sessions: int = 0
    is_failed: bool = False
    needs_attention: bool = False
    is_interrupted: bool = False
    problems: list[Problem] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add_landed(self, landed: Landed, now: datetime) -> float | None:
        """Count one landed segment; returns its lag in seconds, None where its events have no time."""
        lag_s = max(0.0, (now - landed.last_time).total_seconds()) if landed.last_time else None
        with self._lock:
            channel = self.channels[landed.channel]
            channel.events += landed.count
            channel.segments += 1
            channel.size_bytes += landed.size_bytes
            channel.replay_id = landed.last_replay_id
            if lag_s is not None:
                channel.lag_s = lag_s
                channel.max_lag_s = max(lag_s, channel.max_lag_s or 0.0)
        return lag_s

    def add_problem(self, error: CdcError, *, channel: str | None = None) -> None:
        """Keep an error once, however often it came."""
        problem = Problem(str(error), error.hint, channel)
        with self._lock:
            if problem not in self.problems:
                self.problems.append(problem)

    def fail(self, error: CdcError, *, channel: str | None = None) -> None:
        """The run, or one channel of it, cannot go on without someone."""
        self.add_problem(error, channel=channel)
        if channel is None:
            self.is_failed = True
        else:
            self.channels[channel].is_failed = True

    def degrade(self, error: CdcError, *, channel: str | None = None) -> None:
        """The run goes on, but someone should look."""
        self.add_problem(error, channel=channel)
        if channel is None:
            self.needs_attention = True
        else:
            self.channels[channel].needs_attention = True

    def close(self, finished: datetime) -> None:
        """The run is over; an outcome that is not ok never stands without a word."""
        self.finished = finished
        if self.outcome != "ok" and not self.problems:
            silent = [channel.channel for channel in self.channels.values() if not channel.is_captured]
            self.add_problem(
                CdcError(
                    f"capturing {', '.join(silent)}: the run ended before a poll was answered",
                    hint="raise CDC_RUN_SECONDS (or --seconds), or see the log for what held it up",
                )
            )

    @property
    def events(self) -> int:
        """Events landed by this run, all channels."""
        return sum(channel.events for channel in self.channels.values())

    @property
    def outcome(self) -> Outcome:
        """`failed`: a channel needs an operator or nothing was captured; `degraded`: captured, but look; else `ok`."""
        channels = list(self.channels.values())
        captured = [channel for channel in channels if channel.is_captured or channel.is_fenced]
        if self.is_failed or any(channel.is_failed for channel in channels):
            return "failed"
        if not captured and not (self.is_interrupted and not self.problems):
            return "failed"
        if self.needs_attention or any(channel.needs_attention for channel in channels):
            return "degraded"
        if len(captured) < len(channels) and not self.is_interrupted:
            return "degraded"
        return "ok"

    def to_json(self) -> dict[str, Any]:
        """Return the document that `run --json` prints."""
        seconds = (self.finished - self.started).total_seconds() if self.finished else None
        return {
            "outcome": self.outcome,
            "runId": self.run_id,
            "group": self.group,
            "started": spell_time(self.started),
            "finished": spell_time(self.finished),
            "seconds": round(seconds, 3) if seconds is not None else None,
            "interrupted": self.is_interrupted,
            "sessions": self.sessions,
            "lostSessions": self.lost_sessions,
            "channels": {name: _channel_json(channel) for name, channel in self.channels.items()},
            "errors": [_problem_json(problem) for problem in self.problems],
        }

    def summary(self) -> str:
        """Return one line: the outcome, what was landed, and the first problem with its next step."""
        line = f"run {self.outcome}: {self.events} events landed, {self.sessions} session{'s' * (self.sessions != 1)}"
        for problem in self.problems:
            line += f"; {problem.message} (next step: {problem.hint})"
        return line


def _channel_json(channel: ChannelReport) -> dict[str, Any]:
    return {
        "subscribed": channel.is_subscribed,
        "events": channel.events,
        "segments": channel.segments,
        "bytes": channel.size_bytes,
        "replayId": channel.replay_id,
        "lag": round(channel.lag_s, 3) if channel.lag_s is not None else None,
        "maxLag": round(channel.max_lag_s, 3) if channel.max_lag_s is not None else None,
        "duplicates": channel.duplicates,
        "quarantined": channel.quarantined,
        "generation": channel.generation,
    }


def _problem_json(problem: Problem) -> dict[str, str]:
    fields = {"message": problem.message, "hint": problem.hint}
    return fields | ({"channel": problem.channel} if problem.channel else {})
