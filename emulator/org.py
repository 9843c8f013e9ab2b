"""The org: channels and their streams, who may see them, publishing, retention, the delivery allocation, its clock.

It serves no HTTP and holds no session.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from random import Random

from emulator.knobs import Knobs
from emulator.records import Record, Table, merge
from emulator.rights import Rights
from emulator.streams import Backlog, Stream, Template, iso_time
from emulator.traffic import ADMIN, ENTITIES, Change, Entity, Traffic, entity_of_channel

ORG_ID = "00DRj000004kniQMAQ"
DAY_S = 86_400
ALL_CHANGES = "/data/ChangeEvents"


class Clock:
    """Wall-clock time that can be moved forward; it rules event times, retention, allocations and Date headers."""

    def __init__(self, time_s: Callable[[], float] = time.time) -> None:
        self._time_s = time_s
        self.offset_s = 0.0

    def now_s(self) -> float:
        """Seconds since the epoch, moved."""
        return self._time_s() + self.offset_s

    def now_ms(self) -> int:
        """Milliseconds since the epoch, moved."""
        return int(self.now_s() * 1000)


class Org:
    """The event bus and the records behind it."""

    def __init__(self, knobs: Knobs, clock: Clock, seed: int = 1) -> None:
        self.knobs = knobs
        self.clock = clock
        self.seed = seed
        self.tables: dict[str, Table] = {}
        self.traffic = Traffic(self.tables, seed)
        self.entities: dict[str, Entity] = dict(ENTITIES)
        self.streams: dict[str, Stream] = {}
        self.members: dict[str, frozenset[str]] = {}  # of the custom multi-entity channels
        self.refusals: dict[str, str] = {}  # channel -> error text at subscribe
        self.silent: dict[str, frozenset[str]] = {}  # channel -> entities not delivered for want of permission
        self.unselected: set[str] = set()  # channels that exist though their entity is not selected
        self.rights = Rights()
        self.slow_seek_s: dict[str, float] = {}
        self.filters: dict[str, dict[str, str]] = {}  # channel -> entity -> what Tooling shows as its filter
        self.on_publish: Callable[[str], None] = lambda channel: None
        self._delivered: deque[tuple[float, int]] = deque()
        self._delivered_sum = 0
        self._random = Random(seed)
        for entity in ENTITIES.values():
            self.add_channel(entity.channel)
        self.add_channel(ALL_CHANGES)
        self.add_channel("/data/Sales__chn", ("Account", "Opportunity"))

    # channels

    def add_channel(self, channel: str, entities: Iterable[str] = ()) -> Stream:
        """Make a channel exist; `entities` are the members of a custom `__chn` channel.

        Raises: ValueError for a name that no Salesforce channel has.
        """
        entity = entity_of_channel(channel)
        if entity is not None:
            self.entities.setdefault(entity.name, entity)
        elif channel.startswith("/data/") and channel.endswith("__chn"):
            self.members[channel] = frozenset(entities)
        elif channel != ALL_CHANGES:
            raise ValueError(
                f"adding channel {channel!r}: it is not the name of a change event or platform event channel"
            )
        return self.streams.setdefault(channel, Stream(channel, self.seed))

    def remove_channel(self, channel: str) -> None:
        """Deselect the entity: subscribing now fails."""
        self.streams.pop(channel, None)

    def stream(self, channel: str) -> Stream:
        """A channel's stream, purged to the retention window.

        Raises: KeyError for an unknown channel.
        """
        stream = self.streams[channel]
        if self.knobs.auto_purge:
            stream.purge_before(self.clock.now_ms() - int(self.knobs.retention_hours * 3_600_000))
        return stream

    def entities_on(self, channel: str) -> list[Entity]:
        """The entities whose events a channel carries."""
        entity = entity_of_channel(channel)
        if entity is not None:
            return [self.entities[entity.name]]
        changes = [e for e in self.entities.values() if not e.is_platform_event]
        if channel == ALL_CHANGES:
            return [e for e in changes if e.channel in self.streams and e.channel not in self.unselected]
        return [e for e in changes if e.name in self.members[channel]]

    def unseen_on(self, channel: str) -> frozenset[str]:
        """The entities whose events a channel does not deliver, without a word, for want of a permission."""
        unseen = {e.name for e in self.entities_on(channel) if not self.rights.gets_events(e)}
        return self.silent.get(channel, frozenset()) | unseen

    def refusal_of(self, channel: str) -> str:
        """What a subscribe to an existing channel is answered with; "" where it is allowed."""
        entity = entity_of_channel(channel)
        if channel in self.refusals or entity is None or self.rights.gets_events(entity):
            return self.refusals.get(channel, "")
        if entity.is_platform_event:
            return f"403::Cannot create channel {channel}"
        return "403::User not allowed to subscribe CDC without View All Data permissions"

    def channels_of(self, entity: Entity) -> list[str]:
        """The channels on which an entity's events appear."""
        return [channel for channel in self.streams if entity in self.entities_on(channel)]

    # publishing

    def publish(
        self, channel: str, count: int, size: int = 0, kinds: Sequence[str] = (), age_s: float = 0
    ) -> list[int]:
        """Make changes whose events appear on the channel; returns their replay ids there."""
        choices = self.entities_on(channel)
        time_ms = self.clock.now_ms() - int(age_s * 1000)
        ids = []
        for _ in range(count):
            entity = choices[0] if len(choices) == 1 else self._random.choice(choices)
            ids.append(self._publish_change(self.traffic.change(entity, kinds, size, time_ms), channel))
        return ids

    def _publish_change(self, change: Change, wanted: str) -> int:
        found = 0
        for channel in self.channels_of(change.entity):
            stream = self.streams[channel]
            uuid = f'"EventUuid":"{change.event_uuid}",' if change.event_uuid else ""
            body = b'{"data":{"schema":"%s","payload":%b,"event":{%b"replayId":%b}},"channel":"%s"}' % (
                change.entity.schema.encode(), change.payload, uuid.encode(), self._id_token(stream), channel.encode(),
            )  # fmt: skip
            replay_id = stream.append(body, change.entity.name, change.time_ms)
            found = replay_id if channel == wanted else found
            self.on_publish(channel)
        return found

    def publish_raw(self, channel: str, body: bytes, age_s: float = 0) -> int:
        """Publish these very bytes as the next delivery; `{{replayId}}` becomes its id."""
        stream = self.streams[channel]
        entity = entity_of_channel(channel)
        time_ms = self.clock.now_ms() - int(age_s * 1000)
        delivery = body.replace(b"{{replayId}}", self._id_token(stream))
        replay_id = stream.append(delivery, entity.name if entity else "", time_ms)
        self.on_publish(channel)
        return replay_id

    def publish_backlog(self, channel: str, count: int, size: int = 1_000, hours: float = 1.0,
                        kinds: Sequence[str] = ()) -> None:  # fmt: skip
        """Publish `count` events spread over the last `hours`, rendered only when they are asked for.

        On an entity's own channel they also appear on its aggregate channels; on an aggregate channel, only there.
        """
        choices = self.entities_on(channel)
        if count <= 0 or not choices:
            return
        payloads = [(e, *p) for e in choices for p in self.traffic.backlog_payloads(e, size, kinds)]
        first_record, commit = self.traffic.claim_backlog_records(count)
        end_ms = self.clock.now_ms()
        for target in self.channels_of(choices[0]) if len(choices) == 1 else [channel]:
            stream = self.streams[target]
            templates = tuple(
                Template(entity.name, self._backlog_form(entity, payload, target), prefix, suffix)
                for entity, payload, prefix, suffix in payloads
            )
            start_ms = end_ms - int(hours * 3_600_000)
            stream.append_backlog(Backlog(count, stream.next_id, start_ms, end_ms, commit, first_record, templates))
            self.on_publish(target)

    def _backlog_form(self, entity: Entity, payload: bytes, channel: str) -> bytes:
        uuid = b'"EventUuid":"%08x-9eb2-4ab6-bc9b-67fbf1b5ea63",' if entity.is_platform_event else b""
        token = b'"%d"' if self.knobs.string_replay_ids else b"%d"
        return b"".join((b'{"data":{"schema":"', entity.schema.encode(), b'","payload":', payload, b',"event":{', uuid,
                         b'"replayId":', token, b'}},"channel":"', channel.encode(), b'"}'))  # fmt: skip

    def _id_token(self, stream: Stream) -> bytes:
        return b'"%d"' % stream.next_id if self.knobs.string_replay_ids else b"%d" % stream.next_id

    # records without events

    def change_silently(
        self, entity: str, kind: str, record: str | None, fields: dict[str, object], age_s: float
    ) -> str:
        """Create, update or delete a record without an event; returns its id.

        Raises: KeyError for an unknown entity or record.
        """
        shape, table = self.entities[entity], self.tables.setdefault(entity, Table())
        time_ms = self.clock.now_ms() - int(age_s * 1000)
        if kind == "create":
            self.traffic.change(shape, ["CREATE"], 0, time_ms)
            found = list(table.records.values())[-1]
            merge(found.fields, fields)
            return found.id
        found = table.records[record] if record else table.pick(self._random)
        if kind == "delete":
            return table.delete(found.id, time_ms).id
        found.modified_ms, found.modified_by = time_ms, ADMIN
        merge(found.fields, fields)
        return found.id

    def changed(self, entity: str, start_ms: int, end_ms: int, deleted: bool) -> list[tuple[str, int]]:
        """(record id, time) of the records of an entity that were changed (or deleted) in a time span."""
        table = self.tables.get(entity, Table())
        found = [(record.id, record.modified_ms) for record in table.changed(start_ms, end_ms, deleted)]
        shape = self.entities.get(entity)
        if shape is not None and shape.channel in self.streams:
            for identity, kind in self.streams[shape.channel].changed_backlog_records(entity, start_ms, end_ms):
                if (kind == "DELETE") is deleted:
                    found.append((identity, start_ms))
        return found

    def records(self, entity: str) -> Iterable[Record]:
        """All records of an entity, deleted ones included."""
        return self.tables.get(entity, Table()).records.values()

    # the delivery allocation: rolling 24 h

    def count_deliveries(self, count: int) -> None:
        """Charge deliveries to the allocation."""
        if count:
            self._delivered.append((self.clock.now_s(), count))
            self._delivered_sum += count

    def delivered_in_a_day(self) -> int:
        """Deliveries in the last 24 h."""
        while self._delivered and self._delivered[0][0] < self.clock.now_s() - DAY_S:
            self._delivered_sum -= self._delivered.popleft()[1]
        return self._delivered_sum

    def is_over_allocation(self) -> bool:
        """Whether the day's deliveries are used up."""
        return bool(self.knobs.daily_deliveries) and self.delivered_in_a_day() >= self.knobs.daily_deliveries


__all__ = ["ADMIN", "ALL_CHANGES", "ORG_ID", "Clock", "Org", "iso_time"]
