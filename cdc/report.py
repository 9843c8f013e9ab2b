"""What a run did, and from that its outcome: `ok`, `degraded` or `failed`; and how a log event and the record tell it.

It holds what was reported and judges; it does nothing else. Landing threads report into it, so it is locked.
"""

from __future__ import annotations

import math
import threading
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from cdc.continuity import Position, kept_for
from cdc.errors import CdcError
from cdc.landing import ChannelLog, Landed
from cdc.layout import HOURS_KEPT, ChannelRun, RunRecord, spell_time

Outcome = Literal["ok", "degraded", "failed"]

_LAG_FLOOR_S = 0.001
_LAG_STEP = 1.05  # each class is 5 % wider than the one before it: 500 of them reach from a millisecond to a year


@dataclass
class Lags:
    """Lags of a run, each segment's weighted by its events, in classes 5 % wide: bounded, however long the run."""

    classes: Counter[int] = field(default_factory=Counter)
    max_s: float | None = None

    def add(self, lag_s: float, count: int) -> None:
        """Count a segment: its last event's lag stands for all of its events, of which it is the smallest."""
        self.classes[max(0, math.ceil(math.log(max(lag_s, _LAG_FLOOR_S) / _LAG_FLOOR_S, _LAG_STEP)))] += count
        self.max_s = max(lag_s, self.max_s or 0.0)

    @property
    def p50_s(self) -> float | None:
        """The lag that half of the events did not exceed, at most 5 % too high; None without any."""
        seen, total = 0, self.classes.total()
        for number in sorted(self.classes):
            seen += self.classes[number]
            if 2 * seen >= total:
                return min(_LAG_FLOOR_S * _LAG_STEP**number, self.max_s or 0.0)
        return None


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
    lags: Lags = field(default_factory=Lags)
    hours: Counter[str] = field(default_factory=Counter)  # "2026-11-26T16" -> events landed in that hour, by our clock
    generation: int | None = None
    position: Position | None = None
    polled: datetime | None = None  # the newest clean poll, by the server's clock
    silence_asked: datetime | None = None
    silent_since: datetime | None = None
    silence: CdcError | None = None  # set with it: what an operator should know

    def take_position(self, log: ChannelLog) -> None:
        """Take over where the channel's log ends now, where that is known."""
        position = log.known_position
        if position is not None:
            self.position = position
            self.generation = position.generation.number if position.generation else None
            self.replay_id = position.replay_id
        self.duplicates = log.duplicates

    def outcome(self, is_interrupted: bool) -> Outcome:
        """`failed`: it needs an operator; `degraded`: look, or no clean poll in a run that had its time; else `ok`."""
        if self.is_failed:
            return "failed"
        is_degraded = self.needs_attention or self.silence is not None
        return "degraded" if is_degraded or not (self.is_captured or is_interrupted) else "ok"

    def signal(self, now: datetime, is_interrupted: bool) -> dict[str, object]:
        """Return the fields of `channel.finished` and `channel.alive`."""
        position = self.position or Position()
        captured_to = position.captured_to(None if self.silent_since else self.polled)
        left = kept_for(self.channel) - (now - captured_to) if captured_to else None
        return {
            "channel": self.channel,
            "outcome": self.outcome(is_interrupted),
            "events": self.events,
            "segments": self.segments,
            "bytes": self.size_bytes,
            "lag_p50_s": self.lags.p50_s,
            "lag_max_s": self.lags.max_s,
            "position_age_s": _seconds_since(position.last_time, now),
            "retention_left_h": round(left.total_seconds() / 3600, 2) if left is not None else None,
            "silent_s": _seconds_since(self.silent_since, now),
            "replay_id": self.replay_id,
            "generation": self.generation,
        }

    def to_record(self, is_interrupted: bool) -> ChannelRun:
        """Return the channel's part of the run record."""
        return ChannelRun(
            outcome=self.outcome(is_interrupted),
            events=self.events,
            segments=self.segments,
            bytes=self.size_bytes,
            lag_p50_s=_rounded(self.lags.p50_s),
            lag_max_s=_rounded(self.lags.max_s),
            last_event=self.position.last_time if self.position else None,
            hours=dict(self.hours),
            silence_asked=self.silence_asked,
            silent_since=self.silent_since,
        )


def _seconds_since(time: datetime | None, now: datetime) -> float | None:
    return (now - time).total_seconds() if time else None


def _rounded(seconds: float | None) -> float | None:
    return round(seconds, 3) if seconds is not None else None


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
    lost_causes: Counter[str] = field(default_factory=Counter)  # why sessions were lost, and how often
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
            channel.hours[f"{now.astimezone(UTC):%Y-%m-%dT%H}"] += landed.count
            if len(channel.hours) > HOURS_KEPT:
                del channel.hours[min(channel.hours)]
            if lag_s is not None:
                channel.lag_s = lag_s
                channel.lags.add(lag_s, landed.count)
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

    def note_silence(self, channel: str, error: CdcError, since: datetime) -> None:
        """The channel delivers nothing while its records change: it is degraded as long as that stands."""
        self.clear_silence(channel)
        self.add_problem(error, channel=channel)
        with self._lock:
            self.channels[channel].silence, self.channels[channel].silent_since = error, since

    def clear_silence(self, channel: str) -> None:
        """The channel is not silent, or no longer."""
        with self._lock:
            report = self.channels[channel]
            if report.silence is not None:
                self.problems.remove(Problem(str(report.silence), report.silence.hint, channel))
            report.silence = report.silent_since = None

    def close(self, finished: datetime) -> None:
        """The run is over; an outcome that is not ok never stands without a word."""
        self.finished = finished
        if self.outcome != "ok" and not self.problems:
            unheard = [channel.channel for channel in self.channels.values() if not channel.is_captured]
            self.add_problem(
                CdcError(
                    f"capturing {', '.join(unheard)}: the run ended before a poll was answered",
                    hint="raise CDC_RUN_SECONDS (or --seconds), or see the log for what held it up",
                )
            )

    @property
    def events(self) -> int:
        """Events landed by this run, all channels."""
        return sum(channel.events for channel in self.channels.values())

    @property
    def lost_sessions(self) -> int:
        """Sessions that ended before their time."""
        return self.lost_causes.total()

    @property
    def outcome(self) -> Outcome:
        """`failed`: a channel needs an operator or nothing was captured; `degraded`: captured, but look; else `ok`."""
        channels = list(self.channels.values())
        captured = [channel for channel in channels if channel.is_captured or channel.is_fenced]
        if self.is_failed or any(channel.is_failed for channel in channels):
            return "failed"
        if not captured and not (self.is_interrupted and not self.problems):
            return "failed"
        if self.needs_attention or any(channel.needs_attention or channel.silence for channel in channels):
            return "degraded"
        if len(captured) < len(channels) and not self.is_interrupted:
            return "degraded"
        return "ok"

    def channel_signals(self, now: datetime) -> list[tuple[Outcome, dict[str, object]]]:
        """Return each channel's outcome, and the fields of its `channel.finished` or `channel.alive`."""
        with self._lock:
            return [
                (channel.outcome(self.is_interrupted), channel.signal(now, self.is_interrupted))
                for channel in self.channels.values()
            ]

    def to_record(self, now: datetime) -> RunRecord:
        """Return the run's record: of a run under way, until it is finished."""
        with self._lock:
            return RunRecord(
                group=self.group,
                run_id=self.run_id,
                outcome=self.outcome,
                started=self.started,
                finished=self.finished or now,
                is_under_way=self.finished is None,
                clean_polls={each.channel: each.polled for each in self.channels.values() if each.polled},
                errors=tuple(problem.message for problem in self.problems),
                next_steps=tuple(problem.hint for problem in self.problems),
                events=self.events,
                sessions=self.sessions,
                lost_sessions=self.lost_sessions,
                channels={each.channel: each.to_record(self.is_interrupted) for each in self.channels.values()},
            )

    def signal(self, now: datetime, *, trouble: CdcError | None = None) -> dict[str, object]:
        """Return the fields of `run.finished` and `run.alive`; `trouble` is what a run under way is in just now."""
        errors = [problem.message for problem in self.problems] + ([str(trouble)] if trouble else [])
        return {
            "outcome": self.outcome,
            "seconds": ((self.finished or now) - self.started).total_seconds(),
            "events": self.events,
            "segments": sum(channel.segments for channel in self.channels.values()),
            "bytes": sum(channel.size_bytes for channel in self.channels.values()),
            "sessions": self.sessions,
            "lost_sessions": self.lost_sessions,
            "lost_causes": dict(self.lost_causes),
            "errors": "; ".join(dict.fromkeys(errors)),
        }

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
            "lostCauses": dict(self.lost_causes),
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
        "lag": _rounded(channel.lag_s),
        "medianLag": _rounded(channel.lags.p50_s),
        "maxLag": _rounded(channel.lags.max_s),
        "duplicates": channel.duplicates,
        "quarantined": channel.quarantined,
        "generation": channel.generation,
    }


def _problem_json(problem: Problem) -> dict[str, str]:
    fields = {"message": problem.message, "hint": problem.hint}
    return fields | ({"channel": problem.channel} if problem.channel else {})
