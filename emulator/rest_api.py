"""The REST resources that simple-salesforce asks for, answered from the record tables."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from aiohttp import web

from emulator import soql, wire
from emulator.faults import Request
from emulator.org import ALL_CHANGES, Org
from emulator.parts import Parts
from emulator.records import Record
from emulator.rights import PERMISSION_OBJECTS
from emulator.soql import Row, SoqlError
from emulator.traffic import Entity, encode

Handler = Callable[[web.Request, Parts], Awaitable[Any]]
DAY_MS = 86_400_000


class RestError(Exception):
    """A refused REST call."""

    def __init__(self, status: int, code: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.code = code


def add_routes(app: web.Application, parts: Parts) -> None:
    """Mount /services/data."""

    def mount(method: str, path: str, handler: Handler) -> None:
        async def handle(request: web.Request) -> web.StreamResponse:
            return await _guarded(request, parts, handler)

        app.router.add_route(method, f"/services/data/v{{version}}{path}", handle)

    for path, handler in (
        ("/query", query), ("/query/", query), ("/queryAll", query), ("/queryAll/", query),
        ("/query/{locator}", query_more), ("/queryAll/{locator}", query_more),
        ("/tooling/query", tooling_query), ("/tooling/query/", tooling_query),
        ("/limits", limits), ("/limits/", limits), ("/sobjects", sobjects), ("/sobjects/", sobjects),
        ("/sobjects/{name}/describe", describe), ("/sobjects/{name}/describe/", describe),
        ("/sobjects/{name}/updated", updated), ("/sobjects/{name}/updated/", updated),
        ("/sobjects/{name}/deleted", deleted), ("/sobjects/{name}/deleted/", deleted),
        ("/sobjects/{name}/eventSchema", schema_of_name), ("/sobjects/{name}/{id}", record),
        ("/composite/sobjects/{name}", collection), ("/event/eventSchema/{schema}", schema),
    ):  # fmt: skip
        mount("GET", path, handler)
    mount("POST", "/composite/sobjects/{name}", collection)
    mount("*", "/{rest:.*}", nothing)


async def _guarded(request: web.Request, parts: Parts, handler: Handler) -> web.StreamResponse:
    parts.journal.rest[request.path] += 1
    asked = Request("rest", request.path)
    fault = parts.faults.before(asked)
    if fault is not None:
        return await wire.hang(request) if fault.do == "hang" else wire.refuse(fault)
    try:
        if parts.token_of(request) is None:
            raise RestError(401, "INVALID_SESSION_ID", "Session expired or invalid")
        if parts.knobs.rest_failing:
            raise RestError(500, "UNKNOWN_EXCEPTION", "An unexpected error occurred.")
        if parts.knobs.rest_denied:
            raise RestError(
                403, parts.knobs.rest_denied, _DENIALS.get(parts.knobs.rest_denied, "insufficient access rights")
            )
        response = _json(await handler(request, parts))
    except RestError as error:
        response = _json([{"message": str(error), "errorCode": error.code}], error.status)
    except SoqlError as error:
        response = _json([{"message": str(error), "errorCode": error.code}], 400)
    return await wire.send(request, response, parts.faults.after(asked, 0))


_DENIALS = {"API_DISABLED_FOR_ORG": "The REST API is not enabled for this Organization."}


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=encode(value), status=status, content_type="application/json", charset="UTF-8")


async def nothing(request: web.Request, parts: Parts) -> Any:
    """Any resource that the emulator does not have."""
    raise RestError(404, "NOT_FOUND", "The requested resource does not exist")


def _entity(org: Org, name: str) -> Entity:
    if name not in org.entities or not org.rights.may_read(org.entities[name]):
        raise RestError(404, "NOT_FOUND", "The requested resource does not exist")
    return org.entities[name]


# rows


def rest_time(time_ms: int) -> str:
    """A datetime as REST writes it."""
    return f"{datetime.fromtimestamp(time_ms / 1000, UTC):%Y-%m-%dT%H:%M:%S}.{time_ms % 1000:03d}+0000"


def row_of(entity: Entity, found: Record) -> Row:
    """A record as REST shows it: compound fields also as their flat components."""
    row: Row = {"Id": found.id, "IsDeleted": found.is_deleted}
    for field in entity.fields:
        value = found.fields.get(field.name)
        if not field.parts:
            row[field.name] = value
            continue
        for part, name in zip(field.parts, flat_names(entity, field.name), strict=True):
            row[name] = (value or {}).get(part)
        if field.name == "Name":
            row["Name"] = " ".join(v for v in (row["FirstName"], row["LastName"]) if v)
        elif value is not None:
            row[field.name] = {part[0].lower() + part[1:]: value.get(part) for part in field.parts}
        else:
            row[field.name] = None
    modified = rest_time(found.modified_ms)
    row.update(CreatedDate=rest_time(found.created_ms), CreatedById=found.fields.get("CreatedById"))
    row.update(LastModifiedDate=modified, LastModifiedById=found.modified_by, SystemModstamp=modified)
    return row


def flat_names(entity: Entity, compound: str) -> list[str]:
    """The object's own names for the components of a compound field."""
    parts = next(field.parts for field in entity.fields if field.name == compound)
    if compound.endswith("Address"):
        return [compound.removesuffix("Address") + part for part in parts]
    if compound.endswith("__c"):
        return [f"{compound.removesuffix('c')}{part}__s" for part in parts]
    return list(parts)


def _shown(row: Row, fields: tuple[str, ...], entity: str, version: str) -> Row:
    shown: Row = {"attributes": {"type": entity, "url": f"/services/data/v{version}/sobjects/{entity}/{row.get('Id')}"}}
    for field in fields:
        if field not in row:
            raise SoqlError("INVALID_FIELD", f"No such column '{field}' on entity '{entity}'")
        shown[field] = row[field]
    return shown


# queries


async def query(request: web.Request, parts: Parts) -> Any:
    """/query and /queryAll."""
    parsed = soql.parse(request.query.get("q", ""))
    org = parts.org
    if parsed.source in PERMISSION_OBJECTS and org.rights.view_setup:
        return _answer(
            parsed, org.rights.rows(parsed.source, parts.tokens.user_id, org.entities.values()), request, parts
        )
    if parsed.source not in org.entities or not org.rights.may_read(org.entities[parsed.source]):
        raise SoqlError("INVALID_TYPE", f"sObject type '{parsed.source}' is not supported.")
    entity = org.entities[parsed.source]
    with_deleted = "queryAll" in request.path
    rows = (row_of(entity, found) for found in org.records(entity.name) if with_deleted or not found.is_deleted)
    return _answer(parsed, rows, request, parts)


async def tooling_query(request: web.Request, parts: Parts) -> Any:
    """/tooling/query: PlatformEventChannel and its members, for whoever has View Setup and Configuration."""
    parsed = soql.parse(request.query.get("q", ""))
    if parsed.source == "PlatformEventChannel" and parts.org.rights.view_setup:
        return _answer(parsed, _custom_channels(parts.org), request, parts)
    if parsed.source != "PlatformEventChannelMember" or not parts.org.rights.view_setup:
        raise SoqlError("INVALID_TYPE", f"sObject type '{parsed.source}' is not supported.")
    return _answer(parsed, _channel_members(parts.org), request, parts)


def _custom_channels(org: Org) -> Iterator[Row]:
    """The channels that somebody made; their developer names go without `__chn`."""
    for number, channel in enumerate(org.members):
        if channel in org.streams:
            name = channel.removeprefix("/data/").removesuffix("__chn")
            yield {"Id": _channel_id(number), "DeveloperName": name, "NamespacePrefix": None, "ChannelType": "data",
                   "MasterLabel": name}  # fmt: skip


def _channel_id(number: int) -> str:
    return f"0YLRj{number:010d}AAA"


def _channel_members(org: Org) -> Iterator[Row]:
    """What is selected on each channel; a custom channel goes by its id, the standard one by its name."""
    ids = {ALL_CHANGES: "ChangeEvents"} | {channel: _channel_id(number) for number, channel in enumerate(org.members)}
    for number, (channel, identity) in enumerate(ids.items()):
        if channel not in org.streams:
            continue
        for place, entity in enumerate(org.entities_on(channel)):
            selected = entity.channel.removeprefix("/data/")
            name = channel.removeprefix("/data/")
            yield {"Id": f"0v8Rj00000{number:03d}{place:02d}AAA", "EventChannel": identity, "SelectedEntity": selected,
                   "DeveloperName": f"{name.replace('__', '_')}_{selected}",
                   "FilterExpression": org.filters.get(channel, {}).get(entity.name)}  # fmt: skip


def _answer(parsed: soql.Query, rows: Any, request: web.Request, parts: Parts) -> Any:
    found = soql.select(parsed, rows)
    if parsed.counts:
        return {"totalSize": len(found), "done": True, "records": []}
    if parsed.fields[0].startswith("COUNT"):
        counted = {"attributes": {"type": "AggregateResult"}, "expr0": len(found)}
        return {"totalSize": 1, "done": True, "records": [counted]}
    version = request.match_info["version"]
    shown = [_shown(row, parsed.fields, parsed.source, version) for row in found]
    locator = f"01gRj{len(parts.cursors):010d}AAA"
    if len(shown) > parts.knobs.rest_page_size:
        parts.cursors[locator] = shown
    return _page(shown, locator, 0, version, parts.knobs.rest_page_size)


def _page(rows: list[Row], locator: str, start: int, version: str, size: int) -> Row:
    page = {"totalSize": len(rows), "done": start + size >= len(rows), "records": rows[start : start + size]}
    if not page["done"]:
        page["nextRecordsUrl"] = f"/services/data/v{version}/query/{locator}-{start + size}"
    return page


async def query_more(request: web.Request, parts: Parts) -> Any:
    """The next page of a query."""
    locator, _, start = request.match_info["locator"].rpartition("-")
    if locator not in parts.cursors or not start.isdigit():
        raise RestError(400, "INVALID_QUERY_LOCATOR", "invalid query locator")
    version = request.match_info["version"]
    return _page(parts.cursors[locator], locator, int(start), version, parts.knobs.rest_page_size)


# objects and records


async def sobjects(request: web.Request, parts: Parts) -> Any:
    """/sobjects."""
    seen = [e for e in parts.org.entities.values() if parts.org.rights.may_read(e)]
    names = [{"name": e.name, "keyPrefix": e.prefix, "custom": "__" in e.name} for e in seen]
    return {"encoding": "UTF-8", "maxBatchSize": 200, "sobjects": names}


async def describe(request: web.Request, parts: Parts) -> Any:
    """/sobjects/X/describe."""
    entity = _entity(parts.org, request.match_info["name"])
    fields = [_described("Id", "id"), _described("IsDeleted", "boolean")]
    for field in entity.fields:
        fields.append(_described(field.name, field.type))
        if field.parts:
            fields += [
                _described(name, "double" if field.type == "location" else "string", field.name)
                for name in flat_names(entity, field.name)
            ]
    fields += [_described(name, "datetime") for name in ("CreatedDate", "LastModifiedDate", "SystemModstamp")]
    fields += [_described(name, "reference") for name in ("CreatedById", "LastModifiedById")]
    return {"name": entity.name, "label": entity.name, "keyPrefix": entity.prefix, "custom": "__" in entity.name,
            "queryable": not entity.is_platform_event, "replicateable": True, "retrieveable": True,
            "fields": fields}  # fmt: skip


def _described(name: str, kind: str, compound: str | None = None) -> Row:
    return {"name": name, "label": name, "type": kind, "nillable": name not in ("Id", "IsDeleted"),
            "custom": name.endswith("__c"), "compoundFieldName": compound}  # fmt: skip


async def record(request: web.Request, parts: Parts) -> Any:
    """/sobjects/X/{id}."""
    entity = _entity(parts.org, request.match_info["name"])
    table = {r.id[:15]: r for r in parts.org.records(entity.name)}
    found = table.get(request.match_info["id"][:15])
    if found is None:
        raise RestError(404, "NOT_FOUND", "The requested resource does not exist")
    if found.is_deleted:
        raise RestError(404, "ENTITY_IS_DELETED", "entity is deleted")
    row = row_of(entity, found)
    wanted = tuple(request.query["fields"].split(",")) if "fields" in request.query else tuple(row)
    return _shown(row, wanted, entity.name, request.match_info["version"])


async def collection(request: web.Request, parts: Parts) -> Any:
    """/composite/sobjects/X: several records by id; null for each that is not there."""
    entity = _entity(parts.org, request.match_info["name"])
    if request.method == "POST":
        source = await request.json()
        ids, fields = source.get("ids", []), source.get("fields", [])
    else:
        ids, fields = request.query.get("ids", "").split(","), request.query.get("fields", "Id").split(",")
    table = {r.id[:15]: r for r in parts.org.records(entity.name) if not r.is_deleted}
    found = (table.get(str(identity)[:15]) for identity in ids)
    version = request.match_info["version"]
    return [r and _shown(row_of(entity, r), tuple(fields), entity.name, version) for r in found]


async def updated(request: web.Request, parts: Parts) -> Any:
    """/sobjects/X/updated: ids by SystemModstamp, seconds cut off both ends."""
    name, start_ms, end_ms = _span(request, parts)
    ids = list(dict.fromkeys(identity for identity, _ in parts.org.changed(name, start_ms, end_ms, deleted=False)))
    return {"ids": ids, "latestDateCovered": rest_time(end_ms)}


async def deleted(request: web.Request, parts: Parts) -> Any:
    """/sobjects/X/deleted."""
    name, start_ms, end_ms = _span(request, parts)
    gone = parts.org.changed(name, start_ms, end_ms, deleted=True)
    return {
        "deletedRecords": [{"id": identity, "deletedDate": rest_time(time_ms)} for identity, time_ms in gone],
        "earliestDateAvailable": rest_time(parts.clock.now_ms() - 90 * DAY_MS),
        "latestDateCovered": rest_time(end_ms),
    }


def _span(request: web.Request, parts: Parts) -> tuple[str, int, int]:
    name = _entity(parts.org, request.match_info["name"]).name
    try:
        ends = [datetime.fromisoformat(request.query[end].replace(" ", "+")) for end in ("start", "end")]
    except (KeyError, ValueError) as error:
        raise RestError(400, "INVALID_FIELD", "start and end must be dates in ISO 8601 format") from error
    start_ms, end_ms = (
        int((end if end.tzinfo else end.replace(tzinfo=UTC)).timestamp()) // 60 * 60_000 for end in ends
    )
    if start_ms >= end_ms:
        raise RestError(400, "INVALID_REPLICATION_DATE", "startDate before endDate")
    if start_ms < parts.clock.now_ms() - 30 * DAY_MS:
        raise RestError(400, "INVALID_REPLICATION_DATE", "startDate cannot be more than 30 days ago")
    return name, start_ms, end_ms


# schemas and limits


async def schema(request: web.Request, parts: Parts) -> Any:
    """/event/eventSchema/{id}."""
    for entity in parts.org.entities.values():
        if entity.schema == request.match_info["schema"]:
            return _schema(entity)
    raise RestError(404, "NOT_FOUND", "The requested resource does not exist")


async def schema_of_name(request: web.Request, parts: Parts) -> Any:
    """/sobjects/XChangeEvent/eventSchema."""
    for entity in parts.org.entities.values():
        if entity.channel.rpartition("/")[2] == request.match_info["name"]:
            return _schema(entity)
    raise RestError(404, "NOT_FOUND", "The requested resource does not exist")


def _schema(entity: Entity) -> Row:
    fields = [{"name": field.name, "type": ["null", "string"], "default": None} for field in entity.fields]
    return {"name": entity.channel.rpartition("/")[2], "namespace": "com.sforce.eventbus", "type": "record",
            "fields": fields, "uuid": entity.schema}  # fmt: skip


async def limits(request: web.Request, parts: Parts) -> Any:
    """/limits, for which a user needs View Setup and Configuration."""
    if parts.knobs.limits == "denied" or not parts.org.rights.view_setup:
        raise RestError(403, "INSUFFICIENT_ACCESS", "insufficient access rights")
    allocation = parts.knobs.daily_deliveries or 5_000_000
    clients, calls = parts.knobs.max_clients, sum(parts.journal.rest.values())
    shown = {
        "DailyApiRequests": {"Max": 100_000, "Remaining": max(0, 100_000 - calls)},
        "DailyDeliveredPlatformEvents": {
            "Max": allocation,
            "Remaining": max(0, allocation - parts.org.delivered_in_a_day()),
        },
        "DailyDurableStreamingApiEvents": {"Max": 200_000, "Remaining": 200_000},
        "DurableStreamingApiConcurrentClients": {
            "Max": clients,
            "Remaining": max(0, clients - len(parts.bayeux.sessions)),
        },
        "HourlyPublishedPlatformEvents": {"Max": 250_000, "Remaining": 250_000},
        "MonthlyPlatformEventsUsageEntitlement": {"Max": 0, "Remaining": 0},
    }
    if parts.knobs.limits == "hidden":
        del shown["DailyDeliveredPlatformEvents"]
    return shown
