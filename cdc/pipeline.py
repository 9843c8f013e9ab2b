"""Lands what answers brought, in threads of its own, while the next poll is already waiting.

One batch is landed at a time; what arrives meanwhile is put together and is the next. While full answers follow each
other, so much is put together that a write is worth its cost. Strays go to quarantine before anything after them is
landed; then the channels land side by side, each in order. It decides nothing about what a failure means: it returns
every channel's error.
"""

from __future__ import annotations

import logging
import math
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import datetime

from cdc import background
from cdc.errors import CdcError
from cdc.events import Deliveries, Stray
from cdc.landing import ChannelLog, Landed, StorageLog
from cdc.report import RunReport
from cdc.signals import Emit
from cdc.waiting import Clock

CHANNELS_AT_ONCE = 8
MAX_HELD_BYTES = 6 * 1024 * 1024  # landing and waiting together; a single answer may be larger, and is held alone
FULL_ANSWER_BYTES = 512 * 1024  # after a poll's answer of this size the next one is there at once
WORTH_BYTES = 3 * 1024 * 1024  # while answers are full, so much is landed together,
HOLD_S = 0.05  # unless the next answer is not here after this time


@dataclass
class Batch:
    """What one answer brought, or several in a row: strays, and the deliveries of each channel in order.

    `clean_polls` is the server time of the newest clean poll among the answers, for each channel it listened to.
    """

    strays: list[Stray] = field(default_factory=list)
    deliveries: dict[ChannelLog, Deliveries] = field(default_factory=dict)
    clean_polls: dict[str, datetime] = field(default_factory=dict)
    is_clean: bool = False  # at least one of the answers was that of a clean poll
    size_bytes: int = field(init=False)  # what it holds in memory, roughly, until it is landed

    def __post_init__(self) -> None:
        lines_bytes = sum(each.size_bytes for each in self.deliveries.values())
        self.size_bytes = lines_bytes + sum(len(each.raw) for each in self.strays)

    @property
    def has_work(self) -> bool:
        """True where there is anything to write."""
        return bool(self.strays or self.deliveries)

    def add(self, later: Batch) -> None:
        """Append what a later answer brought."""
        self.strays += later.strays
        for log, deliveries in later.deliveries.items():
            self.deliveries[log] = self.deliveries[log] + deliveries if log in self.deliveries else deliveries
        self.clean_polls |= later.clean_polls
        self.is_clean |= later.is_clean
        self.size_bytes += later.size_bytes


class Pipeline:
    """Lands batches into one run's log and reports each segment as soon as it is durable. Used by one thread."""

    def __init__(self, log: StorageLog, report: RunReport, emit: Emit, clock: Clock) -> None:
        self._log = log
        self._report = report
        self._emit = emit
        self._clock = clock
        self._batch, self._waiting = Batch(), Batch()
        self._held_until_s = 0.0  # by the monotonic clock: what waits is landed then at the latest
        self._is_more_coming = False
        self.in_flight: Future[dict[str, CdcError]] | None = None

    def has_room(self, batch: Batch) -> bool:
        """True where the batch may be added without waiting for what is held to be landed first."""
        return self.held_bytes == 0 or self.held_bytes + batch.size_bytes <= MAX_HELD_BYTES

    @property
    def held_bytes(self) -> int:
        """What is landing and waiting together, in memory."""
        return self._batch.size_bytes + self._waiting.size_bytes

    @property
    def held_s(self) -> float:
        """For how long what waits is held back, with nothing in flight, for more to come; infinite for nothing."""
        is_held = self.in_flight is None and self._waiting.has_work
        return max(0.0, self._held_until_s - self._clock.monotonic()) if is_held else math.inf

    def add(self, batch: Batch) -> None:
        """Land the batch with all that waits: at once, or when more has come, or when the landing in flight is over."""
        self._held_until_s = self._clock.monotonic() + HOLD_S
        self._waiting.add(batch)
        self._is_more_coming = batch.is_clean and batch.size_bytes >= FULL_ANSWER_BYTES
        self.look()

    def look(self) -> None:
        """Start to land what waits, if nothing is in flight and it has been held back for long enough."""
        is_worth_it = not self._is_more_coming or self._waiting.size_bytes >= WORTH_BYTES
        if is_worth_it or self.held_s <= 0:
            self.flush()

    def flush(self) -> None:
        """Start to land what waits, if nothing is in flight."""
        if self.in_flight is not None:
            return
        batch = self._batch = self._waiting
        self._waiting = Batch()
        if batch.has_work:
            self.in_flight = background.start("landing", lambda: self._land(batch))
        elif batch.is_clean:
            self.in_flight = Future()
            self.in_flight.set_result({})

    def take_result(self) -> tuple[Batch, dict[str, CdcError]]:
        """Return the batch that is through and its channels' errors, none where all is landed; the next one may start.

        After an error nothing more is landed: what waits is dropped, and comes again in another session.
        """
        batch, future = self._batch, self.in_flight
        if future is None:
            raise AssertionError("nothing is being landed")
        errors = future.result(timeout=0)
        if errors:
            self.drop()
        else:
            self._batch, self.in_flight = Batch(), None
            self.look()
        return batch, errors

    def drop(self) -> None:
        """Leave behind what is being landed, and what waits."""
        self._batch, self._waiting, self.in_flight = Batch(), Batch(), None

    def _land(self, batch: Batch) -> dict[str, CdcError]:
        for stray in batch.strays:
            if self._log.keep(stray):
                self._report_stray(stray)
        calls = [background.bind(self._land_channel, log, each) for log, each in batch.deliveries.items()]
        futures = background.run_each("storage", calls, at_once=CHANNELS_AT_ONCE)
        errors: dict[str, CdcError] = {}
        for log, future in zip(batch.deliveries, futures, strict=True):
            try:
                future.result()
            except CdcError as error:
                errors[log.channel] = error
        return errors

    def _land_channel(self, log: ChannelLog, deliveries: Deliveries) -> None:
        for landed in log.land(deliveries):
            self._report_landed(landed)
        log.save_checkpoint(force=False)

    def _report_landed(self, landed: Landed) -> None:
        lag_s = self._report.add_landed(landed, self._clock.now())
        self._emit(
            "channel.landed",
            level=logging.DEBUG,  # one a segment: under live traffic many a second
            channel=landed.channel,
            segment=landed.segment,
            count=landed.count,
            bytes=landed.size_bytes,
            last_replay_id=landed.last_replay_id,
            lag_s=lag_s,
        )

    def _report_stray(self, stray: Stray) -> None:
        known = self._report.channels.get(stray.channel or "")
        if known is not None:
            known.quarantined += 1
        where = known.channel if known else "no subscribed channel"
        error = CdcError(
            f"placing a message of {where}: {stray.reason}; it is kept whole in quarantine",
            hint="look at the blob below quarantine/ in the events container; the channel goes on",
        )
        self._report.degrade(error, channel=known.channel if known else None)
        self._emit("quarantine.kept", level=logging.ERROR, channel=where, reason=stray.reason, bytes=len(stray.raw))
