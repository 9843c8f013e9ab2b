"""A model of everything around a channel's log: an org that publishes, purges and replays, and runs that capture.

The org and the log's reader know nothing of cdc's bookkeeping: an event is known by its place in the org's list, and
what must lie in the log follows from that list alone. Each writer does what `run` does, one step at a time. Several
channels may share an account; then a run has a writer in the world of each.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

from cdc import layout
from cdc.continuity import TIP_MARGIN, Opening, Policy, Start, choose_start
from cdc.errors import CdcError, ContinuityStopped, Fenced, LatePut, OrderRefused, StorageError
from cdc.events import EARLIEST, TIP, Deliveries, Delivery, read_message
from cdc.landing import ChannelLog, StorageLog
from cdc.memory_store import MemoryContainer
from cdc.orders import Orders, placed
from cdc.salesforce import Token
from cdc.store import Blob
from tests.faulty_store import Call, Decide, Fault, FaultyContainer, Killed, Script

CHANNEL = "/data/AccountChangeEvent"
FOLDER = "data/AccountChangeEvent/"
CHECKPOINT = "data/AccountChangeEvent.json"
ORG_ID = "00D000000000001AAA"
RETAINED = timedelta(hours=72)
YOUNG = timedelta(hours=40)  # no clock of a run is so wrong that it takes what is younger for expired
LIFECYCLE = timedelta(days=7)  # the youngest that a rule may delete segments (docs/storage-log.md)


@dataclass(frozen=True)
class Event:
    """One published event; `place` is its index in the org's list."""

    place: int
    replay_id: str
    published: datetime
    raw: bytes

    def deliver(self) -> Delivery:
        """Return it as the client reads it off the wire."""
        delivery = read_message(self.raw)
        assert isinstance(delivery, Delivery)
        return delivery


class Account:
    """Two containers and the time, which all channels share."""

    def __init__(self, now: datetime) -> None:
        self.now = now
        self.events = MemoryContainer("cdc-events", clock=lambda: self.now)
        self.state = MemoryContainer("cdc-checkpoints", clock=lambda: self.now)
        self.runs = 0


@dataclass
class Org:
    """Publishes to one channel, keeps what is younger than 72 hours, replays from -1, -2 or an id, exclusive."""

    channel: str
    account: Account
    events: list[Event] = field(default_factory=list)
    floor: int = 0
    can_be_asked: bool = True

    @property
    def now(self) -> datetime:
        return self.account.now

    @now.setter
    def now(self, now: datetime) -> None:
        self.account.now = now

    @property
    def count(self) -> int:
        return len(self.events)

    def publish(self, *, late: timedelta | None = timedelta(0)) -> None:
        """Publish an event whose commit lies `late` before now; None: an event without a time."""
        place, replay_id = self.count, str(9_007_199_254_740_993 + 7 * self.count)
        header = {} if late is None else {"ChangeEventHeader": {"commitTimestamp": _ms(self.now - late)}}
        data = {"event": {"replayId": int(replay_id)}, "payload": {**header, "place": place}}
        raw = json.dumps({"data": data, "channel": self.channel}).encode()
        self.events.append(Event(place, replay_id, self.now, raw))

    def purge(self) -> None:
        """Forget what is older than the retention window."""
        while self.floor < self.count and self.events[self.floor].published < self.now - RETAINED:
            self.floor += 1

    def seek(self, replay_id: str) -> int | None:
        """Return the place of the first event that a subscribe delivers; None: the replay id is refused."""
        if replay_id == TIP:
            return self.count
        if replay_id == EARLIEST:
            return self.floor
        known = [event.place for event in self.events[self.floor :] if event.replay_id == replay_id]
        return known[0] + 1 if known else None


@dataclass(eq=False)
class Writer:
    """One run over the channel: its containers with their faults, its log, and what its session has delivered.

    A run over several channels has a writer for each; they share the containers, and a kill ends all of them.
    """

    run_id: str
    script: Script
    storage: StorageLog
    log: ChannelLog
    policy: Policy
    beside: list[Writer] = field(default_factory=list, repr=False)  # the run's writers, this one included
    t0: datetime | None = None
    start: Start | None = None  # chosen, not yet subscribed
    began: int = 0  # where this session's deliveries began
    cursor: int | None = None  # the next place that the server delivers; None: no subscription
    refusals: int = 0
    is_unproven: bool = False
    proving: Start | None = None
    clean_poll: datetime | None = None
    is_over: bool = False  # killed, fenced, stopped or ended
    errors: list[CdcError] = field(default_factory=list)

    def lose_session(self) -> None:
        """The session ends; the position stays as it is known."""
        self.start = self.cursor = self.proving = None


@dataclass(frozen=True)
class Twist:
    """What happens at the nth storage call of a step: a fault, or another writer's step, in full, before the call."""

    nth: int
    fault: Fault | None = None
    intrusion: Callable[[], object] | None = None


@dataclass(frozen=True)
class Landed:
    """One segment as a reader sees it."""

    number: int
    partition: str
    metadata: dict[str, str]
    places: list[int]


class World:
    """The org, the two containers, the writers, and what must hold between them."""

    def __init__(
        self,
        *,
        policy: Policy | None = None,
        now: str = "2026-11-23T23:50:00+00:00",
        channel: str = CHANNEL,
        account: Account | None = None,
    ) -> None:
        self.policy = policy or Policy()
        self.channel = channel
        self.account = account or Account(datetime.fromisoformat(now).astimezone(UTC))
        self.org = Org(channel, self.account)
        self.events, self.state = self.account.events, self.account.state
        self.writers: list[Writer] = []
        self.warnings: list[str] = []
        self._checkpoint_name = layout.checkpoint_name(channel)
        self._segment = re.compile(rf"^{channel[1:]}/date=(\d{{4}}-\d\d-\d\d)/(\d{{12}})\.jsonl$")
        self.strays: list[str] = []  # the ids of what is in quarantine
        self._order_scripts: list[Script] = []
        self._handshakes: dict[datetime, int] = {}
        self._tips: dict[int, int] = {}
        self._expired: set[str] = set()
        self._read: dict[str, tuple[str, Landed]] = {}
        self._old_checkpoint = b""

    # --- what writers do ---------------------------------------------------------------------------------------------

    @property
    def active(self) -> list[Writer]:
        return [writer for writer in self.writers if not writer.is_over]

    def open(
        self,
        run_id: str | None = None,
        policy: Policy | None = None,
        *,
        part_of: Writer | None = None,
        skew: timedelta = timedelta(0),
    ) -> Writer:
        """Start a run whose clock is wrong by `skew`, or take this channel into the run of another's writer."""
        if part_of is None:
            self.account.runs += 1
            script, run_id = Script(), run_id or f"run-{self.account.runs}"
            containers = FaultyContainer(self.events, script), FaultyContainer(self.state, script)
            storage = StorageLog(*containers, run_id=run_id, now=lambda: self.org.now + skew)
        else:
            script, run_id, storage = part_of.script, part_of.run_id, part_of.storage
        log = ChannelLog(storage, self.channel, self.warnings.append)
        beside = part_of.beside if part_of else []
        writer = Writer(run_id, script, storage, log, policy or self.policy, beside)
        beside.append(writer)
        self.writers.append(writer)
        return writer

    def step(self, writer: Writer, deed: Callable[[], None], twist: Twist | Decide | None = None) -> bool:
        """Do one thing as a run does, with its ways out; True where nothing went wrong."""
        if writer.is_over:
            return False
        writer.script.decide = as_script(twist)
        try:
            deed()
        except Killed:
            for each in writer.beside:
                each.is_over = True
        except (Fenced, ContinuityStopped) as error:
            writer.errors.append(error)
            writer.is_over = True  # the run goes on with its other channels
        except (LatePut, StorageError) as error:
            writer.errors.append(error)
            writer.lose_session()
        else:
            return True
        finally:
            writer.script.decide = lambda call: None
        return False

    def prepare(self, writer: Writer, twist: Twist | Decide | None = None) -> bool:
        """Derive where needed, shake hands, choose the start and write what must be written before the subscribe."""
        return self.step(writer, lambda: self._prepare(writer), twist)

    def _prepare(self, writer: Writer) -> None:
        writer.lose_session()
        log = writer.log
        if not log.is_known:
            log.derive()
        log.check_org(ORG_ID)
        t0 = writer.t0 = self._shake_hands()
        for _ in range(3):
            chosen: Start | Opening = choose_start(
                self.channel,
                log.position,
                now=t0,
                is_refused=writer.refusals >= 2,
                is_unproven=writer.is_unproven,
                policy=writer.policy,
                last_clean_poll=lambda: self._last_clean_poll(writer),
            )
            if isinstance(chosen, Opening):
                only_start, _ = log.open_generation(chosen, t0=t0, user_id="005000000000001AAA")
                writer.refusals, writer.is_unproven = 0, False
                chosen = only_start or chosen
            if isinstance(chosen, Start):
                log.begin(chosen)
                writer.start, writer.proving = chosen, chosen if chosen.prove_since else None
                return
        raise AssertionError("no start found")

    def _shake_hands(self) -> datetime:
        self.org.now += timedelta(seconds=1)  # so that no two handshakes have the same time
        self._handshakes[self.org.now] = self.org.count
        return self.org.now

    def _last_clean_poll(self, writer: Writer) -> datetime | None:
        polls = [writer.storage.last_clean_poll(self.channel), writer.clean_poll]
        return max((poll for poll in polls if poll), default=None)

    def subscribe(self, writer: Writer) -> None:
        """Subscribe from the chosen start, if there is one; twice refused, the run decides anew."""
        if writer.start is None:
            return
        start, writer.start = writer.start, None
        writer.cursor = self.org.seek(start.replay_id)
        if writer.cursor is None:
            writer.refusals += 1
            if writer.refusals > 1 and writer.log.position.skipped_to == start.replay_id:
                writer.log.forget_skipped()
                writer.refusals = 0
            writer.lose_session()
            return
        writer.began = writer.cursor
        generation = writer.log.position.generation
        if start.replay_id == TIP and generation:
            self._tips[generation.number] = writer.cursor
        elif start.replay_id != EARLIEST:
            writer.refusals = 0

    def connect(self, writer: Writer, twist: Twist | Decide | None = None) -> bool:
        """A session from the handshake to the subscribe."""
        is_done = self.prepare(writer, twist)
        self.subscribe(writer)
        return is_done and writer.cursor is not None

    def poll(self, writer: Writer, count: int, twist: Twist | Decide | None = None, *, again: int = 0) -> bool:
        """Take the answer with the next `count` deliveries, the last `again` of the session once more before them."""
        if writer.cursor is None:
            return False
        begin = max(writer.began, writer.cursor - again)
        batch = self.org.events[begin : writer.cursor + count]
        is_caught_up = writer.cursor + count >= self.org.count
        if writer.proving is not None and not self._prove(writer, batch):
            return False
        writer.cursor = max(writer.cursor, begin + len(batch))
        return self.step(writer, lambda: self._land(writer, batch, is_caught_up), twist)

    def _land(self, writer: Writer, batch: list[Event], is_caught_up: bool) -> None:
        for _ in writer.log.land(Deliveries.of(event.deliver() for event in batch)):
            pass
        writer.log.save_checkpoint(force=False)
        if batch or is_caught_up:
            writer.clean_poll = self.org.now

    def _prove(self, writer: Writer, batch: list[Event]) -> bool:
        """Ask the org whether anything changed between the last landed event and the first that is delivered."""
        first = batch[0].place if batch else self.org.count
        landed = [place for segment in self.segments() for place in segment.places]
        if self.org.can_be_asked and landed and first == max(landed) + 1:
            writer.log.note_quiet(self.org.now)
            writer.proving, writer.refusals = None, 0
            return True
        writer.is_unproven = True
        writer.lose_session()
        return False

    def session(self, writer: Writer, count: int, twist: Twist | Decide | None = None) -> bool:
        """As many sessions as it takes to be subscribed, then one poll."""
        decide = as_script(twist)  # counts the calls of the whole session
        for _ in range(5):
            if writer.cursor is not None or self.connect(writer, decide):
                return self.poll(writer, count, decide)
        return False

    def lose_answer(self, writer: Writer) -> None:
        """The answer with the next deliveries is lost, and with it the session."""
        writer.lose_session()

    def checkpoint(self, writer: Writer, twist: Twist | Decide | None = None) -> bool:
        """Save the checkpoint as at a run's end."""
        return self.step(writer, lambda: writer.log.save_checkpoint(force=True), twist)

    def end(self, writer: Writer, twist: Twist | Decide | None = None) -> None:
        """End the run: the checkpoints of all its channels, the run record, no write after that."""
        self.step(writer, lambda: self._end(writer), twist)
        writer.storage.close()
        for each in writer.beside:
            each.is_over = True

    def _end(self, writer: Writer) -> None:
        for each in writer.beside:
            if not each.is_over:
                each.log.save_checkpoint(force=True)
        writer.storage.write_run(
            layout.RunRecord(
                group="capture1",
                run_id=writer.run_id,
                outcome="ok",
                started=self.org.now,
                finished=self.org.now,
                clean_polls={each.log.channel: each.clean_poll for each in writer.beside if each.clean_poll},
            )
        )

    def capture(self, policy: Policy | None = None) -> Writer:
        """A whole quiet run that lands everything there is."""
        writer = self.open(policy=policy)
        for _ in range(8):
            if self.connect(writer) and self.poll(writer, self.org.count):
                break
        self.end(writer)
        return writer

    # --- what else happens -------------------------------------------------------------------------------------------

    def order(self, deed: Callable[[Orders], None], twist: Twist | Decide | None = None) -> bool:
        """An operator orders something; True where nothing went wrong."""
        script = Script()
        self._order_scripts.append(script)
        script.decide = as_script(twist)
        orders = Orders(
            FaultyContainer(self.events, script),
            FaultyContainer(self.state, script),
            run_id=f"operator-{len(self._order_scripts)}",
            now=lambda: self.org.now,
            fetch_token=lambda timeout_s: Token("", "", ORG_ID, "005000000000001AAA", self._shake_hands()),
        )
        try:
            deed(orders)
        except (Killed, OrderRefused, StorageError):
            return False
        return True

    def rewind(self, start: str, twist: Twist | Decide | None = None) -> bool:
        """The operator rewinds the channel to -1, -2 or a replay id."""
        return self.order(lambda orders: _rewind(orders, self.channel, start), twist)

    def keep_stray(self) -> None:
        """A message that nobody could place was put into quarantine; by now it can be placed."""
        number = len(self.strays) + 1
        data = {"event": {"replayId": number}, "payload": {"stray": number}}
        raw = json.dumps({"data": data, "channel": self.channel}).encode()
        self.events.ensure()
        self.events.create(layout.quarantine_name(self.channel, raw), raw, content_type="application/json")
        self.strays.append(hashlib.sha256(raw).hexdigest())

    def redrive(self, stray: str, twist: Twist | Decide | None = None) -> bool:
        """The operator lands it after all."""
        return self.order(lambda orders: _redrive(orders, self.channel, stray), twist)

    def release_orders(self) -> None:
        """Late writes of the operator's arrive."""
        for script in self._order_scripts:
            script.release()

    def release(self, writer: Writer) -> None:
        """Late writes of this writer arrive."""
        writer.script.release()

    def expire_segments(self, older_than: timedelta = RETAINED) -> None:
        """A lifecycle rule takes the segments that were written so long ago."""
        if not self.is_checkpoint_current:
            return  # nobody could know where the log ended
        for name in self.names(self.events):
            blob = self.events.head(name)
            if blob and self._segment.match(name) and blob.last_modified < self.org.now - older_than:
                self.segments()
                self.remove(self.events, name)
                self._expired.add(name)

    def delete_last_segment(self) -> None:
        """Somebody deletes the newest segment, a young one, while nobody writes: what it held must be landed again."""
        self.segments()
        names = [name for name in self.names(self.events) if self._segment.match(name)]
        blobs = [blob for blob in map(self.events.head, names[-2:]) if blob]
        if len(blobs) < 2 or not self.has_segments or blobs[1].last_modified < self.org.now - YOUNG:
            return
        if blobs[0].metadata["generation"] != blobs[1].metadata["generation"]:
            return  # the generation's only position goes with it: nobody could notice what the org has purged since
        self.remove(self.events, names[-1])
        self._read.pop(names[-1])
        self._old_checkpoint = b""  # it may speak of that segment

    def write_foreign(self) -> None:
        """Somebody puts blobs of their own beside those of the log."""
        if not self.has_segments:
            return
        folder, tomorrow = self.channel[1:], self.org.now.date() + timedelta(days=1)
        for name in (
            f"{folder}/_SUCCESS",
            f"{folder}/date={tomorrow}/notes.txt",
            f"{folder}/date={tomorrow}/copy/{10**11:012d}.jsonl",
            f"{folder}/date=soon/{10**11:012d}.jsonl",
            f"{folder}2/date={tomorrow}/{10**11:012d}.jsonl",
            f"{folder}.parquet",
        ):
            self._put_foreign(self.events, name)
        for name in (f"generations/{folder}/0009.json.bak", f"turns/{folder}/notes.txt", "runs/mine.json"):
            self._put_foreign(self.state, name)

    @staticmethod
    def _put_foreign(container: MemoryContainer, name: str) -> None:
        if container.head(name) is None:
            container.create(name, b"foreign", content_type="text/plain")

    def delete_checkpoint(self) -> None:
        """Somebody deletes the checkpoint. Where the log holds nothing it could not be opened any more."""
        if self.has_segments:
            self.remove(self.state, self._checkpoint_name)

    def garble_checkpoint(self) -> None:
        """Somebody writes rubbish over the checkpoint."""
        self._write_checkpoint(lambda body: body[:-20])

    def restore_checkpoint(self) -> None:
        """Somebody restores the checkpoint as it once was."""
        self._write_checkpoint(lambda body: self._old_checkpoint or body)

    def _write_checkpoint(self, change: Callable[[bytes], bytes]) -> None:
        blob = self.state.read(self._checkpoint_name) if self.has_segments else None
        if blob:
            body = change(blob.body)
            self.state.replace(self._checkpoint_name, body, etag=blob.etag, content_type="application/json")

    @staticmethod
    def remove(container: MemoryContainer, name: str) -> None:
        """Delete a blob, which no verb of the store can."""
        blobs: dict[str, Any] = container._blobs or {}
        blobs.pop(name, None)

    # --- what is there -----------------------------------------------------------------------------------------------

    def names(self, container: MemoryContainer) -> list[str]:
        """Return all blob names, none where the container is missing."""
        return sorted(container._blobs or {})

    @property
    def has_segments(self) -> bool:
        """True where the newest segment is still there."""
        segments = self.segments()
        return bool(segments) and any(
            self._segment.match(name) and f"/{segments[-1].number:012d}." in name for name in self.names(self.events)
        )

    @property
    def is_checkpoint_current(self) -> bool:
        """True where the checkpoint names the newest segment."""
        blob, segments = self._checkpoint(), self.segments()
        try:
            return bool(segments) and blob is not None and json.loads(blob.body)["segment"] == segments[-1].number
        except ValueError:
            return False

    def _checkpoint(self) -> Blob | None:
        return self.state.read(self._checkpoint_name) if self.state._blobs is not None else None

    def segments(self) -> list[Landed]:
        """Return the segments by number, as a reader finds them; no segment has ever changed."""
        for name in self.names(self.events):
            found = self._segment.match(name)
            blob = self.events.read(name)
            if found is None or blob is None:
                continue
            if name in self._read:
                assert self._read[name][0] == blob.etag, f"{name} was overwritten"
                continue
            assert blob.body.endswith(b"\n")
            lines = blob.body[:-1].split(b"\n")
            if blob.metadata.get("redriven"):
                self._read[name] = (blob.etag, Landed(int(found[2]), found[1], dict(blob.metadata), []))
                continue
            places = [json.loads(line)["data"]["payload"]["place"] for line in lines]
            for place, line in zip(places, lines, strict=True):
                assert line == self.org.events[place].raw
            metadata = dict(blob.metadata)
            assert metadata["sha256"] == hashlib.sha256(blob.body).hexdigest()
            assert metadata["count"] == str(len(places))
            assert metadata["first_replay_id"] == self.org.events[places[0]].replay_id
            assert metadata["last_replay_id"] == self.org.events[places[-1]].replay_id
            self._read[name] = (blob.etag, Landed(int(found[2]), found[1], metadata, places))
        assert set(self._read) <= {*self.names(self.events), *self._expired}, "a segment is gone"
        return sorted((segment for _, segment in self._read.values()), key=lambda segment: segment.number)

    def places(self) -> list[int]:
        """Return the places of all landed events, in the log's order."""
        return [place for segment in self.segments() for place in segment.places]

    @property
    def is_anchored(self) -> bool:
        """True where the newest generation has a segment."""
        generations, segments = self.records(f"generations{self.channel}/"), self.segments()
        return bool(segments) and segments[-1].metadata["generation"] == str(len(generations))

    def records(self, prefix: str) -> list[dict[str, Any]]:
        """Return the JSON records below a prefix of the state container, by name."""
        bodies = [
            self.state.read(name)
            for name in self.names(self.state)
            if name.startswith(prefix) and name.endswith(".json")
        ]
        return [json.loads(blob.body) for blob in bodies if blob]

    # --- what must hold ----------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises AssertionError where the log breaks a promise."""
        segments = self.segments()
        assert [segment.number for segment in segments] == list(range(1, len(segments) + 1)), "a number twice or never"
        partitions = [segment.partition for segment in segments]
        assert partitions == sorted(partitions), "a partition earlier than the one before"
        numbers = [int(segment.metadata["generation"]) for segment in segments]
        assert numbers == sorted(numbers), "a generation that goes on after a newer one"
        for record in self.records(f"generations{self.channel}/"):
            self._check_generation(record, segments)
        self._check_redriven(segments)
        self._check_gaps()
        self._check_checkpoint(segments)

    def _check_generation(self, record: dict[str, Any], segments: list[Landed]) -> None:
        places = [
            place
            for segment in segments
            if segment.metadata["generation"] == str(record["number"])
            for place in segment.places
        ]
        if not places:
            return
        assert places == list(range(places[0], places[0] + len(places))), "an event is missing, twice or out of order"
        assert places[0] <= self.must_start_at(record), "events after the generation's start are missing"
        time = self.org.events[places[0]].deliver().time
        t0 = datetime.fromisoformat(record["t0"])
        if record["start"] == TIP and time is not None:
            assert time >= t0 - TIP_MARGIN, "events from before the tip"

    def _check_redriven(self, segments: list[Landed]) -> None:
        """A redriven segment repeats the position of the one before it, and no message is redriven twice."""
        for before, segment in pairwise(segments):
            if segment.metadata.get("redriven"):
                assert segment.metadata["generation"] == before.metadata["generation"]
                assert segment.metadata["last_replay_id"] == before.metadata["last_replay_id"]
        redriven = [each.metadata["sha256"] for each in segments if each.metadata.get("redriven")]
        assert len(set(redriven)) == len(redriven), "a message was redriven twice"

    def must_start_at(self, record: dict[str, Any]) -> int:
        """The first place that the generation may not do without: what was published after its start."""
        number = int(record["number"])
        at_handshake = self._handshakes[datetime.fromisoformat(record["t0"])]
        return max(at_handshake, self._tips.get(number, 0)) if record["start"] == TIP else at_handshake

    def _check_gaps(self) -> None:
        """A generation but the first stands on a gap record, which was written before it.

        Where an operator went back to the earliest event, nothing is missing.
        """
        gaps = {record["number"] for record in self.records(f"gaps{self.channel}/")}
        records = self.records(f"generations{self.channel}/")
        generations = {record["number"] for record in records}
        assert generations == set(range(1, len(generations) + 1))
        going_back = {each["number"] for each in records if each["cause"] == "rewind" and each["start"] != TIP}
        assert generations - {1} - going_back <= gaps

    def _check_checkpoint(self, segments: list[Landed]) -> None:
        """A checkpoint never names what is not landed."""
        blob = self._checkpoint()
        try:
            record = json.loads(blob.body) if blob else None
        except ValueError:
            return
        if blob is None or record is None or not record["segment"]:
            return
        self._old_checkpoint = self._old_checkpoint or blob.body
        segment = next((each for each in segments if each.number == record["segment"]), None)
        assert segment is not None, "the checkpoint is ahead of the log"
        assert record["partition"] == segment.partition
        if record["replayId"] is not None:
            assert record["replayId"] == segment.metadata["last_replay_id"]

    def check_complete(self) -> None:
        """Everything that the newest generation promises is landed."""
        newest = self.records(f"generations{self.channel}/")[-1]
        places = [
            place
            for segment in self.segments()
            if segment.metadata["generation"] == str(newest["number"])
            for place in segment.places
        ]
        missing = set(range(max(self.must_start_at(newest), self.org.floor), self.org.count)) - set(places)
        assert not missing, f"published and not landed: {sorted(missing)}"


def _rewind(orders: Orders, channel: str, start: str) -> None:
    orders.rewind(orders.plan_rewind(channel, start))


def _redrive(orders: Orders, channel: str, stray: str) -> None:
    kept, body = orders.find(stray)
    orders.redrive(kept, placed(kept, body, [channel]))


def as_script(twist: Twist | Decide | None) -> Decide:
    """Return the script of a twist, which counts the calls from now on; a script is taken as it is."""
    if callable(twist):
        return twist
    seen = 0

    def decide(call: Call) -> Fault | None:
        nonlocal seen
        seen += 1
        if twist is None or seen != twist.nth:
            return None
        if twist.intrusion is not None:
            twist.intrusion()
        return twist.fault

    return decide


def _ms(time: datetime) -> int:
    return int(time.timestamp() * 1000)
