"""The control API under /_emulator: publish, break, look. For loopback only; it asks for no credentials."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import asdict
from typing import Any

from aiohttp import web

from emulator import faults, knobs, wire
from emulator.parts import Parts, Rate
from emulator.streams import Stream
from emulator.traffic import KINDS, RARE_KINDS, encode

Handler = Callable[[Parts, web.Request, dict[str, Any]], Awaitable[Any]]
_TICK_S = 0.02


def add_routes(app: web.Application, parts: Parts) -> None:
    """Mount the control API."""

    def mount(method: str, path: str, handler: Handler) -> None:
        async def handle(request: web.Request) -> web.StreamResponse:
            try:
                source = await request.json() if method != "GET" and request.can_read_body else {}
                result = await handler(parts, request, source)
            except KeyError as error:
                return _json({"error": f"unknown or missing: {error.args[0]}"}, 400)
            except (TypeError, ValueError) as error:
                return _json({"error": str(error)}, 400)
            return result if isinstance(result, web.StreamResponse) else _json(result)

        app.router.add_route(method, f"/_emulator{path}", handle)

    mounts: list[tuple[str, str, Handler]] = [
        ("GET", "", show), ("GET", "/", show), ("GET", "/stats", stats), ("GET", "/requests", requests),
        ("DELETE", "/requests", clear_requests), ("GET", "/sessions", sessions), ("POST", "/sessions", end_sessions),
        ("POST", "/publish", publish), ("POST", "/backlog", backlog), ("POST", "/traffic", traffic),
        ("POST", "/records", change_record), ("POST", "/clock", move_clock), ("POST", "/purge", purge),
        ("POST", "/reset", reset_stream), ("POST", "/channels", set_channel), ("GET", "/channels", channels),
        ("GET", "/knobs", show_knobs), ("POST", "/knobs", turn_knobs), ("POST", "/credentials", set_credentials),
        ("GET", "/rights", show_rights), ("POST", "/rights", set_rights),
        ("POST", "/tokens/revoke", revoke_tokens), ("GET", "/faults", list_faults), ("POST", "/faults", add_faults),
        ("DELETE", "/faults", clear_faults), ("POST", "/faults/random", random_faults), ("GET", "/ledger", ledger),
    ]  # fmt: skip
    for method, path, handler in mounts:
        mount(method, path, handler)

    async def handle_raw(request: web.Request) -> web.Response:
        """Publish the request's body, byte for byte, as one delivery, and tell when (by this machine's clock)."""
        channel = request.query.get("channel", "")
        if channel not in parts.org.streams:
            return _json({"error": f"unknown or missing: {channel}"}, 400)
        age_s = float(request.query.get("age_s", "0"))
        body, now_ns = await request.read(), time.time_ns()
        return _json({"replayId": parts.org.publish_raw(channel, body, age_s), "publishedNs": now_ns})

    app.router.add_post("/_emulator/raw", handle_raw)


def _json(value: Any, status: int = 200) -> web.Response:
    return web.Response(body=encode(value), status=status, content_type="application/json")


# looking


async def show(parts: Parts, request: web.Request, source: dict[str, Any]) -> Any:
    """Who this is and how to get in."""
    who = parts.credentials
    return {
        "url": f"{request.scheme}://{request.host}", "pid": os.getpid(), "orgId": parts.tokens.org_id,
        "userId": parts.tokens.user_id, "clientId": who.client_id, "clientSecret": who.client_secret,
        "username": who.username, "channels": list(parts.org.streams),
        "control": sorted({r.resource.canonical for r in request.app.router.routes()
                           if r.resource is not None and r.resource.canonical.startswith("/_emulator/")}),
    }  # fmt: skip


async def stats(parts: Parts, request: web.Request, source: dict[str, Any]) -> Any:
    """Counts of everything."""
    parts.bayeux.expire()
    journal, published = parts.journal, list(parts.org.streams.items())
    return {
        "published": {channel: stream.total for channel, stream in published},
        "retained": {channel: stream.total - parts.org.stream(channel).first for channel, stream in published},
        "meta": {name: count for name, count in journal.counts.items() if name.startswith("/meta/")},
        "tokenRequests": journal.counts["token"], "tokensLive": parts.tokens.live_count(),
        "sessionsOpen": len(parts.bayeux.sessions), "sessionsEnded": parts.bayeux.ended,
        "bodies": journal.counts["bodies"], "bodyBytes": journal.counts["body bytes"],
        "eventsServed": journal.counts["events"], "delivered24h": parts.org.delivered_in_a_day(),
        "faultsStruck": parts.faults.struck, "rest": dict(journal.rest),
        "subscribes": [e for e in journal.entries if e["channel"] == "/meta/subscribe"],
        "records": {name: table.live_count() for name, table in parts.org.tables.items()},
        "clockOffset": parts.clock.offset_s,
    }  # fmt: skip


async def requests(parts: Parts, request: web.Request, source: dict[str, Any]) -> Any:
    """The journal, oldest first."""
    wanted = request.query.get("clientId")
    return [entry for entry in parts.journal.entries if wanted in (None, entry["clientId"])]


async def clear_requests(parts: Parts, request: web.Request, source: dict[str, Any]) -> Any:
    """Forget the journal."""
    parts.journal.clear()
    return {}


async def sessions(parts: Parts, request: web.Request, source: dict[str, Any]) -> Any:
    """The open sessions."""
    parts.bayeux.expire()
    return [
        {"clientId": s.client_id, "subscriptions": list(s.subscriptions), "isHeld": s.poll is not None}
        for s in parts.bayeux.sessions.values()
    ]


async def list_faults(parts: Parts, request: web.Request, source: dict[str, Any]) -> Any:
    """The faults still to come."""
    return [asdict(fault) for fault in parts.faults.script]


async def channels(parts: Parts, request: web.Request, source: dict[str, Any]) -> Any:
    """Every channel and its state."""
    org = parts.org
    return {
        channel: {
            "entities": [e.name for e in org.entities_on(channel)], "published": stream.total,
            "retained": stream.total - org.stream(channel).first, "nextReplayId": stream.next_id,
            "refusal": org.refusals.get(channel), "silent": sorted(org.silent.get(channel, ())),
            "slowSeekS": org.slow_seek_s.get(channel, 0.0),
        }
        for channel, stream in org.streams.items()
    }  # fmt: skip


async def show_knobs(parts: Parts, request: web.Request, source: dict[str, Any]) -> Any:
    """All knobs."""
    return knobs.as_dict(parts.knobs)


async def ledger(parts: Parts, request: web.Request, source: dict[str, Any]) -> web.StreamResponse:
    """Every delivery published, in order, as JSON lines; with raw=1 their very bytes, each followed by a newline."""
    wanted = request.query.getall("channel", []) or list(parts.org.streams)
    streams = [parts.org.stream(channel) for channel in wanted]
    is_raw = request.query.get("raw") == "1"
    response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
    await response.prepare(request)
    for stream in streams:
        for rows in stream.ledger(int(request.query.get("from", "0"))):
            if is_raw:
                await response.write(b"".join(row.body + b"\n" for row in rows))
                continue
            lines = (
                b'{"channel":"%b","index":%d,"epoch":%d,"replayId":%d,"timeMs":%d,"entity":"%b","bytes":%d,"retained":%b,'
                b'"sha256":"%b"}\n'
                % (stream.channel.encode(), row.index, row.epoch, row.replay_id, row.time_ms, row.entity.encode(),
                   len(row.body), b"true" if row.index >= stream.first else b"false",
                   hashlib.sha256(row.body).hexdigest().encode())
                for row in rows
            )  # fmt: skip
            await response.write(b"".join(lines))
    return response


# events


async def publish(parts: Parts, request: web.Request, source: dict[str, Any]) -> Any:
    """{channel, count=1, size=0, kinds=[], age_s=0}: publish believable events."""
    kinds = _kinds(source)
    ids = parts.org.publish(_channel(parts, source), int(source.get("count", 1)), int(source.get("size", 0)), kinds,
                            float(source.get("age_s", 0)))  # fmt: skip
    return {"replayIds": ids}


async def backlog(parts: Parts, request: web.Request, source: dict[str, Any]) -> Any:
    """{channel, count, size=1000, hours=1, kinds=[]}: publish many events that are rendered when read."""
    channel = _channel(parts, source)
    parts.org.publish_backlog(channel, int(source["count"]), int(source.get("size", 1000)),
                              float(source.get("hours", 1)), _kinds(source))  # fmt: skip
    return {"published": parts.org.streams[channel].total}


async def traffic(parts: Parts, request: web.Request, source: dict[str, Any]) -> Any:
    """{channel, rate, size=0, kinds=[]}: events per second from now on; rate 0 stops; {} tells the present rates."""
    if "channel" in source:
        channel = _channel(parts, source)
        rate = Rate(float(source["rate"]), int(source.get("size", 0)), _kinds(source))
        if rate.per_second > 0:
            parts.rates[channel] = rate
        else:
            parts.rates.pop(channel, None)
    return {channel: rate.per_second for channel, rate in parts.rates.items()}


def live_traffic(parts: Parts) -> Callable[[web.Application], AsyncIterator[None]]:
    """What publishes live traffic for as long as the application runs."""

    async def run(_: web.Application) -> AsyncIterator[None]:
        task = asyncio.create_task(_publish_live(parts))
        yield
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    return run


async def _publish_live(parts: Parts) -> None:
    loop = asyncio.get_running_loop()
    last = loop.time()
    while True:
        await asyncio.sleep(_TICK_S)
        now = loop.time()
        for channel, rate in list(parts.rates.items()):
            rate.owed += rate.per_second * (now - last)
            count = int(rate.owed)
            if count and channel in parts.org.streams:
                rate.owed -= count
                parts.org.publish(channel, count, rate.size, rate.kinds)
        last = now


async def change_record(parts: Parts, request: web.Request, source: dict[str, Any]) -> Any:
    """{entity, kind=update|create|delete, id?, fields={}, age_s=0}: change a record without an event."""
    identity = parts.org.change_silently(str(source["entity"]), str(source.get("kind", "update")), source.get("id"),
                                         dict(source.get("fields") or {}), float(source.get("age_s", 0)))  # fmt: skip
    return {"id": identity}


async def move_clock(parts: Parts, request: web.Request, source: dict[str, Any]) -> Any:
    """{advance_s}: move the org's time forward."""
    parts.clock.offset_s += float(source["advance_s"])
    return {"offset_s": parts.clock.offset_s, "now_ms": parts.clock.now_ms()}


async def purge(parts: Parts, request: web.Request, source: dict[str, Any]) -> Any:
    """{channel, through?}: purge up to and including a replay id, or everything."""
    stream: Stream = parts.org.streams[_channel(parts, source)]
    if "through" in source:
        stream.purge_through(int(source["through"]))
    else:
        stream.purge_all()
    return {"retained": stream.total - stream.first}


async def reset_stream(parts: Parts, request: web.Request, source: dict[str, Any]) -> Any:
    """{channel?, next_id?}: all retained events are lost and all ids invalid; ids may start again at next_id."""
    for channel in [_channel(parts, source)] if "channel" in source else list(parts.org.streams):
        parts.org.streams[channel].reset(source.get("next_id"))
    return {}


async def set_channel(parts: Parts, request: web.Request, source: dict[str, Any]) -> Any:
    """{channel, exists?, selected?, entities?, refusal?, silent?, slow_seek_s?, hidden_fields?, filters?}: set it."""
    channel, org = str(source["channel"]), parts.org
    if source.get("exists") is False:
        org.remove_channel(channel)
        return {}
    if channel not in org.streams or "entities" in source:
        org.add_channel(channel, source.get("entities") or ())
    if "refusal" in source:
        org.refusals.pop(channel, None)
        if source["refusal"]:
            org.refusals[channel] = str(source["refusal"])
    if "selected" in source:
        (org.unselected.discard if source["selected"] else org.unselected.add)(channel)
    if "silent" in source:
        org.silent[channel] = frozenset(source["silent"])
    if "slow_seek_s" in source:
        org.slow_seek_s[channel] = float(source["slow_seek_s"])
    if "filters" in source:
        org.filters[channel] = {str(entity): str(text) for entity, text in source["filters"].items()}
    for entity, names in (source.get("hidden_fields") or {}).items():
        org.traffic.hidden_fields[entity] = set(names)
    return {}


def _kinds(source: dict[str, Any]) -> tuple[str, ...]:
    kinds = tuple(source.get("kinds") or ())
    for kind in kinds:
        if kind not in (*KINDS, *RARE_KINDS):
            raise ValueError(f"publishing: {kind!r} is not a kind of change: {', '.join((*KINDS, *RARE_KINDS))}")
    return kinds


def _channel(parts: Parts, source: dict[str, Any]) -> str:
    channel = str(source["channel"])
    if channel not in parts.org.streams:
        raise KeyError(channel)
    return channel


# breaking


async def add_faults(parts: Parts, request: web.Request, source: Any) -> Any:
    """One fault or a list of them."""
    for fault in [faults.parse(one) for one in (source if isinstance(source, list) else [source])]:
        parts.faults.add(fault)
    return {"waiting": len(parts.faults.script)}


async def clear_faults(parts: Parts, request: web.Request, source: dict[str, Any]) -> Any:
    """Forget all faults, random ones included."""
    parts.faults.clear()
    return {}


async def random_faults(parts: Parts, request: web.Request, source: dict[str, Any]) -> Any:
    """{probability, seed=0, on=[], do=[]}."""
    on, do = tuple(source.get("on") or ()), tuple(source.get("do") or ())
    for one in do:
        faults.parse({"on": "connect", "do": one})
    parts.faults.set_random(float(source["probability"]), int(source.get("seed", 0)), on, do)
    return {}


async def end_sessions(parts: Parts, request: web.Request, source: dict[str, Any]) -> Any:
    """{do: expire|push_disconnect|release|close, clientId?}: end sessions, answer their polls, or close all sockets."""
    do = source["do"]
    if do not in ("expire", "push_disconnect", "close", "release"):
        raise ValueError("ending sessions: `do` is one of expire, push_disconnect, close, release")
    found = [s for s in parts.bayeux.sessions.values() if source.get("clientId") in (None, s.client_id)]
    if do == "close":
        for held in list(parts.held.values()):
            wire.close(held, with_reset=False)
    for session in found:
        if do in ("expire", "push_disconnect"):
            parts.bayeux.end(session, "expired" if do == "expire" else "pushed")
        elif do == "release":
            session.is_released = True
            session.wake.set()
    return {"sessions": len(found)}


async def revoke_tokens(parts: Parts, request: web.Request, source: dict[str, Any]) -> Any:
    """Revoke every live token; held connects answer 401."""
    revoked = parts.tokens.revoke()
    parts.bayeux.wake_all()
    return {"revoked": revoked}


async def turn_knobs(parts: Parts, request: web.Request, source: dict[str, Any]) -> Any:
    """{knob: value}."""
    knobs.turn(parts.knobs, source)
    parts.bayeux.wake_all()
    return knobs.as_dict(parts.knobs)


async def show_rights(parts: Parts, request: web.Request, source: dict[str, Any]) -> Any:
    """What the run-as user may."""
    return asdict(parts.org.rights)


async def set_rights(parts: Parts, request: web.Request, source: dict[str, Any]) -> Any:
    """{view_setup?, view_all_data?, view_all_users?, objects?: {entity: none|read|view_all}}."""
    parts.org.rights.change(source)
    return asdict(parts.org.rights)


async def set_credentials(parts: Parts, request: web.Request, source: dict[str, Any]) -> Any:
    """{client_id?, client_secret?, username?, public_key?}."""
    for name in source:
        if not hasattr(parts.credentials, name):
            raise ValueError(f"setting credentials: there is no {name!r}")
    for name, value in source.items():
        setattr(parts.credentials, name, str(value))
    return {}
