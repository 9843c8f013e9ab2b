"""What an operator orders of a log: to rewind a channel, to close a gap, to re-drive a message out of quarantine.

Each order is decided first and carried out after; what is written is conditional like all else in the log, so that an
app may run meanwhile. It overwrites nothing and deletes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec

from cdc import layout
from cdc.continuity import RETENTION, REWIND, Opening, Position, retention_of
from cdc.deriving import find_segments_after
from cdc.errors import BlobChanged, BlobExists, LatePut, LogInconsistent, OrderRefused
from cdc.events import EARLIEST, TIP, Delivery, read_message, read_replay_id
from cdc.landing import ChannelLog, StorageLog
from cdc.layout import Gap, GapClosing, Generation, Quarantined, Redriving, SegmentFacts, Unreadable, spell_time
from cdc.overview import ChannelState, read_gaps
from cdc.salesforce import Token
from cdc.store import Container

TARGETS = {"tip": TIP, "earliest": EARLIEST}
TOKEN_S = 15.0
_TRIES = 20  # a busy app may move the log's end between two looks at it


@dataclass(frozen=True)
class Rewinding:
    """What a rewind will do: where the channel stands, and the generation that the next run takes up."""

    channel: str
    position: Position
    opening: Opening
    t0: datetime  # by Salesforce's clock
    user_id: str

    @property
    def number(self) -> int:
        """The generation that is opened, unless another opens one first."""
        return self.position.generation.number + 1 if self.position.generation else 1

    def to_json(self) -> dict[str, Any]:
        """Return the document that `rewind --json` prints of the plan."""
        generation = self.position.generation
        return {
            "channel": self.channel,
            "from": {
                "generation": generation.number if generation else None,
                "segment": self.position.segment,
                "replayId": self.position.replay_id,
                "lastEvent": spell_time(self.position.last_time) or None,
            },
            "to": {"generation": self.number, "start": self.opening.start, "t0": spell_time(self.t0)},
            "gap": {"since": spell_time(self.opening.since) or None, "until": spell_time(self.t0)}
            if self.opening.is_gap
            else None,
        }


@dataclass(frozen=True)
class Kept:
    """A message in quarantine. `redriven` is set where somebody has begun to land it after all."""

    message: Quarantined
    size_bytes: int
    kept: datetime
    redriven: Redriving | None = None

    @property
    def is_done(self) -> bool:
        """True where it lies in a segment."""
        return self.redriven is not None and self.redriven.segment is not None

    def to_json(self) -> dict[str, Any]:
        """Return what `quarantine list --json` shows of it."""
        return {
            "id": self.message.digest,
            "channel": self.message.channel,
            "bytes": self.size_bytes,
            "kept": spell_time(self.kept),
            "blob": self.message.name,
            "segment": self.redriven.segment if self.redriven else None,
        }


@dataclass(frozen=True)
class KnownGap:
    """A gap, and its closing where somebody has dealt with it."""

    gap: Gap
    closing: GapClosing | None

    @property
    def interval(self) -> tuple[str, str]:
        """Between which times events may be missing, as people read it, UTC."""
        since = f"{self.gap.since:%Y-%m-%d %H:%M:%S}" if self.gap.since else "an unknown time"
        return since, f"{self.gap.until or self.gap.detected:%Y-%m-%d %H:%M:%S}"

    def to_json(self) -> dict[str, Any]:
        """Return what `gaps --json` shows of it."""
        gap, closing = self.gap, self.closing
        return {
            "channel": gap.channel,
            "number": gap.number,
            "cause": gap.cause,
            "since": spell_time(gap.since) or None,
            "until": spell_time(gap.until) or None,
            "detected": spell_time(gap.detected),
            "start": gap.start,
            "afterSegment": gap.after_segment,
            "record": layout.gap_name(gap.channel, gap.number),
            "closed": {"time": spell_time(closing.closed), "note": closing.note} if closing else None,
        }


def read_target(text: str) -> str:
    """Return where a rewind goes, as a generation's start: "-1", "-2" or a replay id's token.

    Raises: OrderRefused.
    """
    start = TARGETS.get(text) or read_replay_id(text.encode())
    if start is None:
        raise OrderRefused(
            f"rewinding to {text[:100]!r}: neither earliest nor tip, nor a replay id",
            hint="give a replay id as it stands in the event's JSON: a number, or a string in double quotes",
        )
    return start


@dataclass(frozen=True)
class Orders:
    """The operator's side of the two containers. `fetch_token` is asked only where Salesforce has a say."""

    events: Container
    state: Container
    run_id: str
    now: Callable[[], datetime]
    fetch_token: Callable[[float], Token]

    # --- rewind ------------------------------------------------------------------------------------------------------

    def plan_rewind(self, channel: str, start: str) -> Rewinding:
        """Return what a rewind would do; writes nothing.

        Raises: OrderRefused where the channel was never captured; OtherOrg, LogInconsistent, SalesforceError,
        StorageError.
        """
        log = self._log(channel, is_closed=True)
        self._derive(log)
        token = self.fetch_token(TOKEN_S)
        log.check_org(token.org_id)
        t0 = token.server_time or self.now()
        polled = StorageLog(self.events, self.state, run_id="", now=self.now).last_clean_poll(channel)
        opening = _rewinding(ChannelState(channel, log.position, polled), start, t0)
        return Rewinding(channel, log.position, opening, t0, token.user_id)

    def rewind(self, plan: Rewinding) -> Generation:
        """Write the gap record, where there is one, and the generation record; return that.

        A run that captures meanwhile stays in its generation until it derives again, and may still land in it. Where it
        opens a generation first, this derives once more and opens the one after that.
        Raises: OrderRefused where others open one after the other; LogInconsistent, StorageError.
        """
        log = self._log(plan.channel)
        for _ in range(_TRIES):
            self._derive(log)
            log.open_generation(plan.opening, t0=plan.t0, user_id=plan.user_id)
            opened = log.position.generation
            if opened is not None and opened.run_id == self.run_id:
                return opened
        raise OrderRefused(
            f"rewinding {plan.channel}: generations are opened faster than they can be read",
            hint="several apps share this storage: stop all but one, and try again",
        )

    def _log(self, channel: str, *, is_closed: bool = False) -> ChannelLog:
        storage = StorageLog(self.events, self.state, run_id=self.run_id, now=self.now)
        if is_closed:
            storage.close()
        return ChannelLog(storage, channel, lambda text: None)

    def _derive(self, log: ChannelLog) -> None:
        """Derive, but create nothing. Raises: OrderRefused where there is no log yet; LogInconsistent, StorageError."""
        self.state.head(layout.checkpoint_name(log.channel))  # a missing container is an error here, and not made
        self.events.folders(layout.segments_prefix(log.channel))
        log.derive()
        if log.position.generation is None:
            raise OrderRefused(
                f"opening the log of {log.channel}: the channel was never captured",
                hint="set CDC_START to earliest or tip: the first run starts there",
            )
        log.check_org(log.position.generation.org_id)

    # --- gaps --------------------------------------------------------------------------------------------------------

    def gaps(self, channel: str) -> list[KnownGap]:
        """Return a channel's gaps in order. Raises: LogInconsistent, StorageError."""
        warnings: list[str] = []
        found = [KnownGap(gap, closing) for gap, closing in read_gaps(self.state, channel, warnings)]
        if warnings:
            raise LogInconsistent(f"reading the gaps of {channel}: {warnings[0]}", hint="restore the record")
        return found

    def find_gap(self, channel: str, number: int) -> KnownGap:
        """Return one gap. Raises: OrderRefused where there is none; LogInconsistent, StorageError."""
        known = {each.gap.number: each for each in self.gaps(channel)}
        if number not in known:
            raise OrderRefused(
                f"looking for gap {number} of {channel}: there is no such gap",
                hint=f"the channel's gaps: {', '.join(map(str, known)) or 'none'}",
            )
        return known[number]

    def close_gap(self, known: KnownGap, note: str) -> KnownGap:
        """Write that a gap is dealt with.

        Raises: OrderRefused where it is closed already; LogInconsistent, StorageError.
        """
        channel, number = known.gap.channel, known.gap.number
        if known.closing is None:
            closing = GapClosing(
                channel=channel,
                org_id=known.gap.org_id,
                run_id=self.run_id,
                number=number,
                closed=self.now(),
                note=note,
            )
            try:
                name = layout.gap_closing_name(channel, number)
                self.state.create(name, closing.to_blob(), content_type=layout.RECORD_TYPE)
            except BlobExists:
                known = self.find_gap(channel, number)  # another's, or ours, and its answer was lost
            else:
                return KnownGap(known.gap, closing)
        closed = known.closing
        if closed is not None and closed.run_id == self.run_id:
            return known
        said = f"it was closed at {closed.closed:%Y-%m-%d %H:%M} UTC" if closed else "its closing is gone again"
        remark = f" ({closed.note})" if closed and closed.note else ""
        raise OrderRefused(f"closing gap {number} of {channel}: {said}{remark}", hint="nothing is left to do")

    # --- quarantine --------------------------------------------------------------------------------------------------

    def kept(self, channel: str | None = None, *, at_most: int) -> list[Kept]:
        """Return the messages in quarantine, of one channel or of all. Raises: StorageError."""
        folder = f"{channel.removeprefix('/')}/" if channel else ""
        names = self.events.names(layout.QUARANTINE_PREFIX + folder, at_most=2 * at_most)
        found = [message for message in map(layout.read_quarantine_name, names) if message][:at_most]
        return [each for each in (self._kept(message) for message in found) if each]

    def _kept(self, message: Quarantined) -> Kept | None:
        blob = self.events.head(message.name)
        return Kept(message, blob.size, blob.last_modified, self._redriving(message)[0]) if blob else None

    def find(self, prefix: str) -> tuple[Kept, bytes]:
        """Return the one quarantined message whose id begins so, and its bytes.

        Raises: OrderRefused where none or several do; StorageError.
        """
        names = self.events.names(layout.QUARANTINE_PREFIX)
        known = [message for message in map(layout.read_quarantine_name, names) if message]
        found = [message for message in known if message.digest.startswith(prefix.lower())]
        blob = self.events.read(found[0].name) if len(found) == 1 else None
        if blob is None:
            how_many = f"{len(found)} messages" if found else "no message"
            raise OrderRefused(
                f"looking for {prefix[:64]!r} in quarantine: {how_many} of that id",
                hint="see python -m cdc quarantine list; as many of an id's first characters as are its own are enough",
            )
        return Kept(found[0], blob.size, blob.last_modified, self._redriving(found[0])[0]), blob.body

    def redrive(self, kept: Kept, deliveries: Sequence[Delivery]) -> int:
        """Land what `placed` made of a quarantined message and return the segment; the position stays where it is.

        Each try looks at every segment since the first one was begun, and takes the number after them: so it is landed
        once, whatever broke off before and whoever else tries.
        Raises: OrderRefused where it is landed already, or cannot be yet; LogInconsistent, StorageError.
        """
        channel = deliveries[0].channel
        content = layout.sha256(b"\n".join([*[bytes(each.raw) for each in deliveries], b""]))
        for _ in range(_TRIES):
            log = self._log(channel)
            self._derive(log)
            begun, etag = self._begin(kept, log)
            landed = self._landed_as(begun, content)
            if landed is None:
                try:
                    landed = log.redrive([bytes(each.raw) for each in deliveries]).segment
                except LatePut:
                    continue  # the app has landed meanwhile, or another order has
            self._finish(kept, begun, etag, landed)
            return landed
        raise OrderRefused(
            f"re-driving into {channel}: the log's end moves faster than it can be read",
            hint="nothing was landed; try again",
        )

    def _begin(self, kept: Kept, log: ChannelLog) -> tuple[Redriving, str]:
        """Return the record that a re-drive is under way, written by this one or by one before it."""
        position = log.position
        found, etag = self._redriving(kept.message)
        if found is not None and found.segment is not None:
            raise OrderRefused(
                f"re-driving {kept.message.digest[:12]}: it was landed as segment {found.segment} of {found.channel}",
                hint="nothing is left to do",
            )
        if position.generation is None or position.replay_id is None or position.partition is None:
            raise OrderRefused(
                f"re-driving into {log.channel}: nothing is landed in its newest generation yet",
                hint="try again once a run has landed an event of the channel",
            )
        if found is not None and self.now() - found.begun > RETENTION:
            raise OrderRefused(
                f"re-driving {kept.message.digest[:12]}: a try of {found.begun:%Y-%m-%d %H:%M} UTC broke off; whether "
                "it was landed cannot be told any more",
                hint=f"look for it in the segments of {found.channel} after {found.after_segment}",
            )
        if found is not None:
            return found, etag
        record = Redriving(
            channel=log.channel,
            org_id=position.generation.org_id,
            run_id=self.run_id,
            digest=kept.message.digest,
            after_segment=position.segment,
            partition=position.partition,
            begun=self.now(),
            segment=None,
        )
        try:
            etag = self.events.replace(
                layout.redriving_name(kept.message.name), record.to_blob(), etag=None, content_type=layout.RECORD_TYPE
            )
        except BlobChanged:
            return self._begin(kept, log)
        return record, etag

    def _landed_as(self, begun: Redriving, content: str) -> int | None:
        for number, name in find_segments_after(self.events, begun.channel, begun.partition, begun.after_segment):
            blob = self.events.head(name)
            try:
                facts = SegmentFacts.from_metadata(blob.metadata) if blob else None
            except Unreadable:
                continue
            if facts and facts.redriven and facts.sha256 == content:
                return number
        return None

    def _finish(self, kept: Kept, begun: Redriving, etag: str, landed: int) -> None:
        done = msgspec.structs.replace(begun, segment=landed)
        try:
            self.events.replace(
                layout.redriving_name(kept.message.name), done.to_blob(), etag=etag, content_type=layout.RECORD_TYPE
            )
        except BlobChanged:
            return  # another order has found it landed, and said so

    def _redriving(self, message: Quarantined) -> tuple[Redriving | None, str]:
        blob = self.events.read(layout.redriving_name(message.name))
        if blob is None:
            return None, ""
        try:
            return layout.read_redriving(blob.body), blob.etag
        except Unreadable as error:
            raise LogInconsistent(
                f"reading {blob.name}: {error}", hint="restore the record: without it a message could be landed twice"
            ) from None


def _rewinding(state: ChannelState, start: str, t0: datetime) -> Opening:
    """Return the generation that the order opens. There is a gap unless all since the last event is asked for again."""
    if start == EARLIEST:
        is_gap = state.captured_to is None or t0 - state.captured_to >= retention_of(state.channel)
    else:
        is_gap = start != state.position.last_replay_id
    return Opening(REWIND, start, is_gap=is_gap, since=state.captured_to if is_gap else None)


def placed(kept: Kept, body: bytes, channels: Sequence[str]) -> list[Delivery]:
    """Return what a quarantined message lands as: a delivery, or several that were put aside together, a line each.

    Raises: OrderRefused where the present code cannot place it in one of `channels` either.
    """
    what = f"placing {kept.message.digest[:12]}"
    if body.lstrip()[:1] == b"[":
        raise OrderRefused(
            f"{what}: it is a whole answer, and no message",
            hint="nothing: the position did not move past it, so its events are asked for again by every run",
        )
    read = read_message(body)
    found = [read] if isinstance(read, Delivery) or b"\n" not in body else list(map(read_message, body.splitlines()))
    deliveries = [each for each in found if isinstance(each, Delivery)]
    if len(deliveries) < len(found):
        reasons = {each if isinstance(each, str) else each.reason for each in found if not isinstance(each, Delivery)}
        raise OrderRefused(
            f"{what}: {', '.join(sorted(reasons))}",
            hint="look at it (quarantine show) and report it; it stays where it is",
        )
    named = {each.channel for each in deliveries}
    if len(named) != 1 or not named <= set(channels):
        raise OrderRefused(
            f"{what}: it is of {', '.join(sorted(named))}, which is not among the channels of CDC_CHANNELS",
            hint="add the channel to CDC_CHANNELS, let a run capture it, and then re-drive",
        )
    return deliveries
