"""Lands one answer's messages in threads of their own, while the next poll is already waiting.

Strays go to quarantine before anything after them is landed; then the channels land side by side, each in order. It
decides nothing about what a failure means: it returns every channel's error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from datetime import datetime

from cdc import background
from cdc.errors import CdcError
from cdc.events import Delivery, Stray
from cdc.landing import ChannelLog, Landed, StorageLog
from cdc.report import RunReport
from cdc.signals import Emit

CHANNELS_AT_ONCE = 8


@dataclass(frozen=True)
class Work:
    """What one answer brought: strays, and the deliveries of each channel in order."""

    strays: list[Stray]
    channels: list[tuple[ChannelLog, list[Delivery]]]


@dataclass(frozen=True)
class Pipeline:
    """Lands work into one run's log and reports each segment as soon as it is durable."""

    log: StorageLog
    report: RunReport
    emit: Emit
    now: Callable[[], datetime]

    def start(self, work: Work) -> Future[dict[str, CdcError]]:
        """Return the future of the channels' errors, empty where all is landed; a stray's failure fails the whole."""
        if work.strays or work.channels:
            return background.start("landing", lambda: self._land(work))
        nothing: Future[dict[str, CdcError]] = Future()
        nothing.set_result({})
        return nothing

    def _land(self, work: Work) -> dict[str, CdcError]:
        for stray in work.strays:
            if self.log.keep(stray):
                self._report_stray(stray)
        calls = [background.bind(self._land_channel, log, deliveries) for log, deliveries in work.channels]
        futures = background.start_each("land", calls, at_once=CHANNELS_AT_ONCE)
        errors: dict[str, CdcError] = {}
        for (log, _), future in zip(work.channels, futures, strict=True):
            try:
                future.result()
            except CdcError as error:
                errors[log.channel] = error
        return errors

    def _land_channel(self, log: ChannelLog, deliveries: list[Delivery]) -> None:
        for landed in log.land(deliveries):
            self._report_landed(landed)
        log.save_checkpoint(force=False)

    def _report_landed(self, landed: Landed) -> None:
        lag_s = self.report.add_landed(landed, self.now())
        self.emit(
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
        known = self.report.channels.get(stray.channel or "")
        if known is not None:
            known.quarantined += 1
        where = known.channel if known else "no subscribed channel"
        error = CdcError(
            f"placing a message of {where}: {stray.reason}; it is kept whole in quarantine",
            hint="look at the blob below quarantine/ in the events container; the channel goes on",
        )
        self.report.degrade(error, channel=known.channel if known else None)
        self.emit("quarantine.kept", level=logging.ERROR, channel=where, reason=stray.reason, bytes=len(stray.raw))
