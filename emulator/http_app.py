"""The org's HTTP face: the token endpoint and /cometd, with faults and the journal round them."""

from __future__ import annotations

import json
from email.utils import formatdate
from typing import Any

from aiohttp import web

from emulator import control_api, rest_api, wire
from emulator.bayeux_server import Answer, Call, Json
from emulator.faults import NONE, Fault, Request
from emulator.oauth import OAuthError, basic, token_answer
from emulator.org import ORG_ID
from emulator.parts import Parts
from emulator.traffic import encode

MAX_REQUEST_BYTES = 32_768  # Streaming API error codes: 413
OLDEST_VERSION = 37.0


PARTS: web.AppKey[Parts] = web.AppKey("parts", Parts)


def make_app(parts: Parts) -> web.Application:
    """The whole org as an aiohttp application."""
    app = web.Application(client_max_size=64 * 1024 * 1024)
    app[PARTS] = parts
    app.router.add_post("/services/oauth2/token", token)
    app.router.add_post("/services/oauth2/revoke", revoke)
    app.router.add_post("/services/oauth2/introspect", introspect)
    app.router.add_post("/cometd", cometd)
    app.router.add_post("/cometd/{version}", cometd)
    app.router.add_post("/cometd/{version}/{tail:.*}", cometd)
    rest_api.add_routes(app, parts)
    control_api.add_routes(app, parts)

    async def date(request: web.Request, response: web.StreamResponse) -> None:
        response.headers["Date"] = formatdate(parts.clock.now_s(), usegmt=True)

    async def wake(_: web.Application) -> None:
        for session in list(parts.bayeux.sessions.values()):
            parts.bayeux.end(session, "shutdown")

    app.on_response_prepare.append(date)
    app.on_shutdown.append(wake)
    app.cleanup_ctx.append(control_api.live_traffic(parts))
    return app


def json_response(value: Any, status: int = 200) -> web.Response:
    """A JSON answer as Salesforce writes them."""
    return web.Response(body=encode(value), status=status, content_type="application/json", charset="UTF-8")


def own_url(request: web.Request) -> str:
    """The URL under which the client reached the org."""
    return f"{request.scheme}://{request.host}"


# OAuth


async def token(request: web.Request) -> web.StreamResponse:
    """POST /services/oauth2/token."""
    parts = request.app[PARTS]
    parts.journal.counts["token"] += 1
    asked = Request("token", request.path)
    form = {name: value for name, value in (await request.post()).items() if isinstance(value, str)}
    fault = parts.faults.before(asked)
    if fault is not None and fault.do == "hang":
        return await wire.hang(request)
    if fault is not None:
        return json_response(fault.reply, fault.status or 400) if fault.do == "reply" else wire.refuse(fault)
    try:
        granted = parts.tokens.grant(form, basic(request.headers.get("Authorization", "")), own_url(request))
        response = json_response(token_answer(granted, ORG_ID, own_url(request)))
    except OAuthError as error:
        response = json_response({"error": error.error, "error_description": error.description}, 400)
    return await wire.send(request, response, parts.faults.after(asked, 0))


async def revoke(request: web.Request) -> web.Response:
    """POST /services/oauth2/revoke."""
    parts = request.app[PARTS]
    found = parts.tokens.revoke(str((await request.post()).get("token", "")))
    parts.bayeux.wake_all()
    if found:
        return web.Response()
    return json_response(
        {"error": "unsupported_token_type", "error_description": "this token type is not supported"}, 400
    )


async def introspect(request: web.Request) -> web.Response:
    """POST /services/oauth2/introspect."""
    parts = request.app[PARTS]
    found = parts.tokens.check(str((await request.post()).get("token", "")))
    if found is None:
        return json_response({"active": False})
    until = int(found.issued_s + parts.knobs.token_ttl_s)
    who = parts.credentials
    state = {"active": True, "client_id": who.client_id, "username": who.username, "token_type": "access_token"}
    return json_response({**state, "exp": until, "iat": int(found.issued_s)})


# CometD


async def cometd(request: web.Request) -> web.StreamResponse:
    """POST /cometd/{version}[/handshake|/connect|...]; the messages' channels decide, not the path."""
    parts = request.app[PARTS]
    body = await request.read()
    if len(body) > MAX_REQUEST_BYTES:
        return web.Response(status=413, text="413::Maximum Request Size Exceeded")
    try:
        messages = json.loads(body)
    except ValueError:
        return web.Response(status=400, text="400::Invalid JSON")
    messages = messages if isinstance(messages, list) else [messages]
    if not messages or not all(isinstance(message, dict) for message in messages):
        return web.Response(status=400, text="400::Invalid messages")
    has_token = bool(request.headers.get("Authorization"))
    call = Call(messages, _cookies(request), parts.token_of(request), has_token, _version_error(request))
    parts.posts += 1
    number = parts.posts
    parts.held[number] = request
    try:
        return await _answer(request, call, parts)
    finally:
        parts.held.pop(number, None)


async def _answer(request: web.Request, call: Call, parts: Parts) -> web.StreamResponse:
    messages = call.messages
    entries = [parts.journal.open(m, parts.clock.now_s(), parts.posts, call.cookies) for m in messages]
    asked = Request(_kind(messages), request.path, tuple(str(m.get("subscription")) for m in messages))
    fault = parts.faults.before(asked)
    if fault is not None and fault.do in ("status", "html", "hang"):
        parts.journal.close(entries, wire.status_of(fault), 0, fault.do, [])
        return await wire.hang(request) if fault.do == "hang" else wire.refuse(fault)
    if call.token is None and parts.knobs.auth_errors == "http":
        parts.journal.close(entries, 401, 0, "", [])
        return web.Response(status=401, text="401::Authentication invalid")
    answer = _unheeding_answer(call) if fault else await parts.bayeux.answer(call)
    fault = fault or parts.faults.after(asked, len(answer.events))
    if fault is not None:
        _bend(answer, fault, call, parts)
    status = wire.status_of(fault) if fault and fault.do in ("status", "html") else answer.status
    parts.journal.close(entries, status, len(answer.events), fault.do if fault else "", answer.replies)
    parts.journal.counts["events"] += len(answer.events)
    return await wire.send(request, _response(answer, fault, parts), fault)


def _response(answer: Answer, fault: Fault | None, parts: Parts) -> web.Response:
    if fault is not None and fault.do in ("status", "html"):
        return wire.refuse(fault)
    if answer.status != 200:
        return web.Response(status=answer.status, text=f"{answer.status}::Duplicate meta connect")
    body = parts.bayeux.body(answer)
    parts.journal.counts["bodies"] += 1
    parts.journal.counts["body bytes"] += len(body)
    response = web.Response(body=body, content_type="application/json", charset="UTF-8")
    for cookie in answer.set_cookies:
        response.headers.add("Set-Cookie", cookie)
    return response


def _unheeding_answer(call: Call) -> Answer:
    """An answer to messages that are not carried out, as if all were well."""
    answer = Answer()
    for message in call.messages:
        kept: Json = {name: message[name] for name in ("channel", "id", "clientId", "subscription") if name in message}
        answer.replies.append({**kept, "successful": True})
    return answer


def _bend(answer: Answer, fault: Fault, call: Call, parts: Parts) -> None:
    """Make the meta replies say what the fault says; forget the session if it says so."""
    if fault.do not in ("reply", "push_disconnect"):
        return
    fields = fault.fields
    if fault.do == "push_disconnect":
        answer.pushed.append({"channel": "/meta/disconnect"})
        fields = {"successful": False, "error": "403::Unknown client", "advice": NONE}
    wanted = "" if fault.do == "push_disconnect" else f"/meta/{fault.on}"
    for reply in answer.replies:
        if not wanted or reply.get("channel") == wanted:
            _merge(reply, fields)
    for message in call.messages:
        session = parts.bayeux.sessions.get(str(message.get("clientId")))
        if session is not None and fault.ends_session:
            parts.bayeux.end(session, "fault")


def _merge(reply: Json, fields: Json) -> None:
    for name, value in fields.items():
        if value is None:
            reply.pop(name, None)
        else:
            reply[name] = value


def _kind(messages: list[Json]) -> str:
    """The meta channel by whose faults a POST is judged."""
    channels = [str(message.get("channel")) for message in messages]
    return "connect" if "/meta/connect" in channels else channels[0].removeprefix("/meta/")


def _cookies(request: web.Request) -> dict[str, str]:
    """The cookies with their values exactly as sent."""
    pairs = (
        pair.strip().partition("=") for header in request.headers.getall("Cookie", []) for pair in header.split(";")
    )
    return {name: value for name, _, value in pairs if name}


def _version_error(request: web.Request) -> str:
    version = request.match_info.get("version")
    if not version:
        return "400::API version in the URI is mandatory. URI format: '/cometd/66.0'"
    try:
        is_old = float(version) < OLDEST_VERSION
    except ValueError:
        return "400::API version in the URI is mandatory. URI format: '/cometd/66.0'"
    if is_old:
        return (
            "400::Unsupported API version. Only API versions '37.0' and later are supported. URI format: '/cometd/66.0'"
        )
    return ""
