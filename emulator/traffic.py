"""Believable changes, the same for the same seed: what happens to records, and the event payload that tells of it.

It keeps the record tables in step with its events; it knows nothing of channels' replay ids or of HTTP.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from emulator.records import Record, Table, id_suffix, merge, record_id
from emulator.streams import iso_time

ADMIN = "005Rj000005UEfQIAW"
USERS = (ADMIN, "005Rj000005UFabIAG", "005Rj000005UGxyIAG")
MAX_EVENT_BYTES = 1_000_000  # Change Data Capture allocations: a larger change becomes a gap event
KINDS = {"CREATE": 24, "UPDATE": 58, "DELETE": 7, "UNDELETE": 3, "MERGED": 4, "NULL": 4}
RARE_KINDS = (
    "GAP_CREATE", "GAP_UPDATE", "GAP_DELETE", "GAP_UNDELETE", "GAP_OVERFLOW", "WILDCARD", "DIFF",
)  # fmt: skip

_COMPANIES = (
    "Acme", "Burlington Textiles", "Müller & Söhne", "Grand Hotels", "東京電力", "Edge Communications", "Łódź Optics",
    "Pyramid Construction", "São Paulo Café", "Dickenson plc", "Express Logistics", "United Oil & Gas", "Ωmega ☕",
)  # fmt: skip
_FIRST = ("Rose", "Sean", "Jack", "Pat", "Zoë", "Tim", "José", "Ngọc", "Åsa", "Lauren", "Edna", "Avi")
_LAST = ("Gonzalez", "Forbes", "Rogers", "Stumuller", "Young", "Barr", "D'Cruz", "Boyle", "Österberg", "Nguyễn", "李")
_CITIES = (
    ("San Francisco", "CA", "94105", "USA"), ("Kraków", None, "30-001", "Poland"),
    ("München", "BY", "80331", "Germany"),
    ("Austin", "TX", "78767", "USA"), ("大阪", None, "530-0001", "Japan"), ("Lyon", None, "69001", "France"),
)  # fmt: skip
_STREETS = ("525 S. Lexington Ave", "Marktstraße 7", "1 Market St\nSuite 300", "ul. Floriańska 3", "2334 N. Michigan")
_INDUSTRIES = ("Apparel", "Energy", "Consulting", "Hospitality", "Electronics", "Transportation", "Biotechnology")
_STAGES = ("Prospecting", "Qualification", "Needs Analysis", "Proposal/Price Quote", "Closed Won", "Closed Lost")
_FILLER = 'Called about the renewal; they ask for a quote in "euro", net 30 — café, naïve, 25% off, C:\\temp\\new. '


@dataclass(frozen=True)
class Field:
    """One field of an object, as describe and the generator see it. `parts` makes it a compound field."""

    name: str
    type: str
    value: Callable[[Random], Any]
    parts: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entity:
    """An object or platform event that the org knows."""

    name: str
    prefix: str
    channel: str
    fields: tuple[Field, ...]
    long_text: str
    is_platform_event: bool = False

    @property
    def schema(self) -> str:
        """The schema id that deliveries of this entity carry."""
        return base64.urlsafe_b64encode(hashlib.md5(self.name.encode()).digest()).decode().rstrip("=")


@dataclass(frozen=True)
class Change:
    """One change event or platform event, before a channel gives it a replay id."""

    entity: Entity
    payload: bytes
    time_ms: int
    event_uuid: str = ""


def _address(random: Random) -> dict[str, Any]:
    city, state, code, country = random.choice(_CITIES)
    address = {"Street": random.choice(_STREETS), "City": city, "State": state, "PostalCode": code, "Country": country}
    return {part: value for part, value in address.items() if value is not None}


def _person(random: Random) -> dict[str, Any]:
    return {"Salutation": random.choice(("Ms.", "Mr.", "Dr.")), "FirstName": random.choice(_FIRST),
            "LastName": random.choice(_LAST)}  # fmt: skip


def _phone(random: Random) -> str:
    return f"(415) {random.randrange(200, 1000)}-{random.randrange(10_000):04d}"


def _money(random: Random) -> float:
    return random.randrange(100, 100_000_000) / 100


def _date(random: Random) -> str:
    return f"2027-{random.randrange(1, 13):02d}-{random.randrange(1, 29):02d}"


def _pick(*values: Any) -> Callable[[Random], Any]:
    return lambda random: random.choice(values)


def _reference(prefix: str) -> Callable[[Random], Any]:
    return lambda random: record_id(prefix, random.randrange(50))


def _note(random: Random) -> str:
    return _FILLER[: random.randrange(20, len(_FILLER))].rstrip()


_ADDRESS_PARTS = ("Street", "City", "State", "PostalCode", "Country")
_STANDARD = (
    Entity("Account", "001", "/data/AccountChangeEvent", (
        Field("Name", "string", lambda r: f"{r.choice(_COMPANIES)} {r.randrange(10_000)}"),
        Field("Type", "picklist", _pick("Prospect", "Customer - Direct", "Technology Partner")),
        Field("Industry", "picklist", _pick(*_INDUSTRIES)),
        Field("AnnualRevenue", "currency", _money),
        Field("NumberOfEmployees", "int", lambda r: r.randrange(1, 200_000)),
        Field("Phone", "phone", _phone),
        Field("Website", "url", lambda r: f"https://www.example{r.randrange(1000)}.com/?a=1&b=2"),
        Field("BillingAddress", "address", _address, _ADDRESS_PARTS),
        Field("OwnerId", "reference", _pick(*USERS)),
        Field("Description", "textarea", _note),
    ), "Description"),
    Entity("Contact", "003", "/data/ContactChangeEvent", (
        Field("Name", "string", _person, ("Salutation", "FirstName", "LastName")),
        Field("AccountId", "reference", _reference("001")),
        Field("Email", "email", lambda r: f"user{r.randrange(100_000)}@example.com"),
        Field("Phone", "phone", _phone),
        Field("Title", "string", _pick("CFO", "SVP, Procurement", "Regional General Manager", "VP, Facilities")),
        Field("MailingAddress", "address", _address, _ADDRESS_PARTS),
        Field("HasOptedOutOfEmail", "boolean", _pick(True, False)),
        Field("OwnerId", "reference", _pick(*USERS)),
        Field("Description", "textarea", _note),
    ), "Description"),
    Entity("Opportunity", "006", "/data/OpportunityChangeEvent", (
        Field("Name", "string", lambda r: f"{r.choice(_COMPANIES)} - {r.randrange(10, 5000)} Widgets"),
        Field("AccountId", "reference", _reference("001")),
        Field("StageName", "picklist", _pick(*_STAGES)),
        Field("Amount", "currency", _money),
        Field("Probability", "percent", lambda r: float(r.randrange(0, 101, 5))),
        Field("CloseDate", "date", _date),
        Field("IsClosed", "boolean", _pick(True, False)),
        Field("OwnerId", "reference", _pick(*USERS)),
        Field("Description", "textarea", _note),
    ), "Description"),
    Entity("Invoice__c", "a0X", "/data/Invoice__ChangeEvent", (
        Field("Name", "string", lambda r: f"INV-{r.randrange(1_000_000):06d}"),
        Field("Account__c", "reference", _reference("001")),
        Field("Amount__c", "currency", _money),
        Field("Status__c", "picklist", _pick("Draft", "Sent", "Paid", "Überfällig")),
        Field("Due_Date__c", "date", _date),
        Field("Ledger_Number__c", "double", lambda r: float(r.randrange(10**15, 10**16))),
        Field("Site__c", "location", lambda r: {"Latitude": r.randrange(-8999, 9000) / 100,
                                                "Longitude": r.randrange(-17999, 18000) / 100},
              ("Latitude", "Longitude")),
        Field("OwnerId", "reference", _pick(*USERS)),
        Field("Notes__c", "textarea", _note),
    ), "Notes__c"),
    Entity("Order_Placed__e", "e00", "/event/Order_Placed__e", (
        Field("Order_Number__c", "string", lambda r: f"{r.randrange(10**8):08d}"),
        Field("Customer__c", "string", lambda r: f"{r.choice(_FIRST)} {r.choice(_LAST)}"),
        Field("Amount__c", "currency", _money),
        Field("Channel__c", "string", _pick("web", "store", "phone", None)),
        Field("Notes__c", "textarea", _note),
    ), "Notes__c", is_platform_event=True),
)  # fmt: skip
ENTITIES = {entity.name: entity for entity in _STANDARD}


def entity_of_channel(channel: str) -> Entity | None:
    """The entity whose own channel this is; None for aggregate channels and foreign names."""
    for entity in ENTITIES.values():
        if entity.channel == channel:
            return entity
    fields = (
        Field("Name", "string", lambda r: f"{r.choice(_COMPANIES)} {r.randrange(10_000)}"),
        Field("Value__c", "double", _money),
        Field("Notes__c", "textarea", _note),
    )
    if channel.startswith("/event/") and channel.endswith("__e"):
        return Entity(channel[len("/event/") :], "e01", channel, fields, "Notes__c", is_platform_event=True)
    if channel.startswith("/data/") and channel.endswith("ChangeEvent"):
        stem = channel[len("/data/") : -len("ChangeEvent")]
        name = stem + "c" if stem.endswith("__") else stem
        prefix = f"a{hashlib.md5(name.encode()).hexdigest()[:2]}"
        return Entity(name, prefix, channel, fields, "Notes__c") if name else None
    return None


def encode(value: Any) -> bytes:
    """JSON as Salesforce sends it: compact, UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


class Traffic:
    """The people and integrations that work in the org."""

    def __init__(self, tables: dict[str, Table], seed: int) -> None:
        self.tables = tables
        self.hidden_fields: dict[str, set[str]] = {}  # by entity: fields that the subscriber may not see
        self._random = Random(seed)
        self._next_record = 1
        self._next_backlog_record = 1
        self._commit_number = 1_790_000_000_000_000_000 + self._random.randrange(10**12)  # above 2^53
        self._transaction = ("", 0, 0)  # key, sequence number, commit time

    def change(self, entity: Entity, kinds: Sequence[str], size: int, time_ms: int) -> Change:
        """Make one change to a record of the entity and tell of it in about `size` bytes (0: whatever comes)."""
        time_ms -= time_ms % 1000
        if entity.is_platform_event:
            return self._platform_event(entity, size, time_ms)
        kind = self._choose(kinds)
        table = self.tables.setdefault(entity.name, Table())
        if (kind == "UNDELETE" and not table.bin) or (
            kind not in ("CREATE", "GAP_OVERFLOW") and not table.live_count()
        ):
            kind = "CREATE"
        if kind in ("CREATE", "GAP_CREATE"):
            return self._create(entity, table, kind, size, time_ms)
        if kind in ("DELETE", "GAP_DELETE"):
            record = table.delete(table.pick(self._random).id, time_ms)
            return self._event(entity, kind, [record.id], {}, [], 0, time_ms)
        if kind == "GAP_UNDELETE" and not table.bin:
            table.delete(table.pick(self._random).id, time_ms)
        if kind in ("UNDELETE", "GAP_UNDELETE"):
            record = table.undelete(self._random.choice(table.bin), time_ms)
            body = {} if kind.startswith("GAP") else self._whole(record)
            return self._event(entity, kind, [record.id], body, [], size, time_ms)
        if kind == "GAP_OVERFLOW":
            return self._event(entity, kind, ["000000000000000AAA"], {}, [], 0, time_ms)
        if kind == "WILDCARD":
            return self._event(entity, "UPDATE", [f"{entity.prefix}*"], {}, [], 0, time_ms)
        return self._update(entity, table, kind, size, time_ms)

    def _choose(self, kinds: Sequence[str]) -> str:
        if not kinds:
            return self._random.choices(tuple(KINDS), tuple(KINDS.values()))[0]
        return self._random.choice(tuple(kinds))

    def _create(self, entity: Entity, table: Table, kind: str, size: int, time_ms: int) -> Change:
        fields = {field.name: field.value(self._random) for field in entity.fields}
        user = self._random.choice(USERS)
        record = Record(record_id(entity.prefix, self._next_record), fields, time_ms, time_ms, user)
        self._next_record += 1
        fields.update(CreatedDate=iso_time(time_ms), CreatedById=user)
        table.insert(record)
        body = {} if kind.startswith("GAP") else self._whole(record)
        return self._event(entity, kind, [record.id], body, [], size, time_ms)

    def _update(self, entity: Entity, table: Table, kind: str, size: int, time_ms: int) -> Change:
        count = min(table.live_count(), self._random.randrange(2, 12)) if kind == "MERGED" else 1
        records = {record.id: record for record in (table.pick(self._random) for _ in range(count))}
        some = self._random.sample(entity.fields, self._random.randrange(1, 4))
        changes: dict[str, Any] = {}
        for field in some:
            value = field.value(self._random)
            if field.parts and field.type != "location":
                part = self._random.choice([name for name in field.parts if name in value])
                changes[field.name] = {part: value[part]}
            else:
                changes[field.name] = None if kind == "NULL" and field.name != "Name" else value
        told = dict(changes)
        if kind == "DIFF":
            changes[entity.long_text] = _FILLER * 15
            told[entity.long_text] = {"diff": _diff(_FILLER * 15)}
        user = self._random.choice(USERS)
        for record in records.values():
            if record.modified_by != user:
                told["LastModifiedById"] = user
            record.modified_ms, record.modified_by = max(time_ms, record.modified_ms), user
            merge(record.fields, changes)
        told["LastModifiedDate"] = iso_time(time_ms)
        shape = "GAP_UPDATE" if kind == "GAP_UPDATE" else "UPDATE"
        body = {} if shape.startswith("GAP") else told
        parts = {field.name for field in entity.fields if field.parts and field.type != "location"}
        changed = [f"{name}.{part}" if name in parts else name
                   for name, value in body.items()
                   for part in (value if name in parts and isinstance(value, dict) else ("",))]  # fmt: skip
        return self._event(entity, shape, list(records), body, changed, size, time_ms)

    def _whole(self, record: Record) -> dict[str, Any]:
        body = {name: value for name, value in record.fields.items() if value is not None}
        return {**body, "LastModifiedDate": iso_time(record.modified_ms), "LastModifiedById": record.modified_by}

    def _event(self, entity: Entity, change_type: str, ids: list[str], body: dict[str, Any], changed: list[str],
               size: int, time_ms: int) -> Change:  # fmt: skip
        hidden = self.hidden_fields.get(entity.name, set())
        body = {name: value for name, value in body.items() if name not in hidden}
        changed = [name for name in changed if name.split(".")[0] not in hidden]
        header = self._header(entity, change_type, ids, changed, time_ms)
        payload = encode({**body, "ChangeEventHeader": header})
        if body and size > len(payload):
            filler = _filled(size - len(payload) - 20)
            body[entity.long_text] = filler
            if change_type == "UPDATE" and entity.long_text not in changed:
                changed.append(entity.long_text)
            for identity in ids:
                self.tables[entity.name].records[identity].fields[entity.long_text] = filler
            payload = encode({**body, "ChangeEventHeader": header})
        if len(payload) > MAX_EVENT_BYTES:
            payload = encode({"ChangeEventHeader": {**header, "changeType": f"GAP_{change_type}", "changedFields": []}})
        return Change(entity, payload, time_ms)

    def _header(self, entity: Entity, change_type: str, ids: list[str], changed: list[str],
                time_ms: int) -> dict[str, Any]:  # fmt: skip
        key, sequence, since = self._transaction
        if not key or since != time_ms or self._random.random() < 0.7:
            bits = self._random.getrandbits(112)
            text = f"0000{bits:028x}"
            key = f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
            sequence = 0
        sequence += self._random.choice((1, 1, 1, 2))  # holes: changes of objects that are not captured
        self._transaction = (key, sequence, time_ms)
        self._commit_number += self._random.randrange(1, 10**6)
        origin = "com/salesforce/api/rest/66.0;client=SalesforceInspector/" if self._random.random() < 0.3 else ""
        return {"commitNumber": self._commit_number, "commitUser": self._random.choice(USERS),
                "sequenceNumber": sequence, "entityName": entity.name, "changeType": change_type,
                "changedFields": changed, "changeOrigin": origin, "transactionKey": key,
                "commitTimestamp": time_ms, "recordIds": ids}  # fmt: skip

    def _platform_event(self, entity: Entity, size: int, time_ms: int) -> Change:
        body = {field.name: field.value(self._random) for field in entity.fields}
        payload: dict[str, Any] = {"CreatedDate": iso_time(time_ms), "CreatedById": ADMIN, **body}
        short = size - len(encode(payload))
        if short > 0:
            payload[entity.long_text] = _filled(short + len(str(payload[entity.long_text])))
        bits = f"{self._random.getrandbits(128):032x}"
        uuid = f"{bits[:8]}-{bits[8:12]}-{bits[12:16]}-{bits[16:20]}-{bits[20:]}"
        return Change(entity, encode(payload), time_ms, uuid)

    # backlogs

    def claim_backlog_records(self, count: int) -> tuple[int, int]:
        """The first record number and the first commit number of a backlog of `count` events."""
        first = self._next_backlog_record
        self._next_backlog_record += count
        commit = self._commit_number
        self._commit_number += 8 * count
        return first, commit

    def backlog_payloads(self, entity: Entity, size: int, kinds: Sequence[str]) -> list[tuple[bytes, str, str]]:
        """(payload as a % format, id prefix, id suffix) for a backlog's templates; see streams.Template."""
        prefix = f"{entity.prefix}5g00"
        suffix = id_suffix(f"{prefix}00000000")
        if entity.is_platform_event:
            change = self._platform_event(entity, max(0, size - 100), 0)
            payload = json.loads(change.payload) | {"CreatedDate": "\x01%s", "Order_Number__c": "\x01%.0s%.0a%08d%.0a"}
            return [(_form(encode(payload)), prefix, suffix)]
        wanted = [kind for kind in kinds if kind in ("CREATE", "UPDATE", "DELETE")] or ["CREATE", "UPDATE", "UPDATE"]
        return [(self._backlog_payload(entity, size, kind, prefix, suffix), prefix, suffix) for kind in wanted]

    def _backlog_payload(self, entity: Entity, size: int, kind: str, prefix: str, suffix: str) -> bytes:
        body: dict[str, Any] = {}
        if kind == "CREATE":
            body = {field.name: field.value(self._random) for field in entity.fields}
            body |= {"CreatedById": ADMIN, "CreatedDate": "\x01%s", "LastModifiedById": ADMIN}
        if kind == "UPDATE":
            body = {field.name: field.value(self._random) for field in entity.fields if not field.parts}
        changed = [*body, "LastModifiedDate"] if kind == "UPDATE" else []
        if kind != "DELETE":
            body["LastModifiedDate"] = "\x01%s" if kind == "CREATE" else "\x01%.0s%s"
        header = {
            "commitNumber": "\x02%d" if kind != "DELETE" else "\x02%.0s%.0s%d", "commitUser": ADMIN,
            "sequenceNumber": 1, "entityName": entity.name, "changeType": kind, "changedFields": changed,
            "changeOrigin": "", "transactionKey": "\x01%08x-6ec4-1e25-33e2-a4ba094089e5", "commitTimestamp": "\x02%d",
            "recordIds": [f"{prefix}\x01%08d{suffix}"],
        }  # fmt: skip
        payload = encode({**body, "ChangeEventHeader": header})
        short = size - len(payload) - 140
        if kind != "DELETE" and short > 0:
            body[entity.long_text] = _filled(short + len(encode(body[entity.long_text])))
            payload = encode({**body, "ChangeEventHeader": header})
        return _form(payload)


def _form(payload: bytes) -> bytes:
    """JSON with marked places -> a % format; a place marked 02 loses its quotes (a number)."""
    text = payload.replace(b"%", b"%%")
    pieces = text.split(b"\\u0001")
    text = pieces[0] + b"".join(_unescape_first(piece) for piece in pieces[1:])
    pieces = text.split(b'"\\u0002')
    return pieces[0] + b"".join(_unescape_first(piece).replace(b'"', b"", 1) for piece in pieces[1:])


def _unescape_first(piece: bytes) -> bytes:
    """Undo the doubling of % up to the end of the marked JSON string."""
    end = piece.index(b'"')
    return piece[:end].replace(b"%%", b"%") + piece[end:]


def _filled(size: int) -> str:
    """Text that takes about `size` bytes inside a JSON string."""
    cost = len(encode(_FILLER)) - 2
    return (_FILLER * (size // cost + 1))[: max(1, size * len(_FILLER) // cost)]


def _diff(text: str) -> str:
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"--- \n+++ {digest}\n@@ -2,1 +2,1 @@\n-{_FILLER.strip()}\n+{_FILLER.strip()} Again."
