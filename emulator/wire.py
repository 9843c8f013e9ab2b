"""Sends one HTTP answer, whole or spoiled as a fault orders."""

from __future__ import annotations

import asyncio
import socket
import struct
from random import Random

from aiohttp import web

from emulator.faults import Fault

MAINTENANCE_PAGE = (
    "<!DOCTYPE html><html><head><title>We are down for maintenance</title></head>"
    "<body><h1>Sorry, this instance is being maintained.</h1><p>Please try again later.</p></body></html>"
)
_WATCH_S = 0.02


async def send(request: web.Request, answer: web.Response, fault: Fault | None) -> web.StreamResponse:
    """The response for aiohttp to finish; after a fault the connection may already be gone."""
    if fault is None:
        return answer
    body = answer.body if isinstance(answer.body, bytes) else b""
    kept = body[: int(len(body) * fault.keep)]
    if fault.do == "hang":
        return await hang(request)
    if fault.do == "delay":
        await asyncio.sleep(fault.seconds)
    elif fault.do in ("drop", "reset"):
        close(request, with_reset=fault.do == "reset")
    elif fault.do == "truncate_clean":
        answer.body = kept
    elif fault.do == "garble":
        answer.body = _garbled(body)
    elif fault.do in ("truncate", "stall"):
        return await _send_part(request, answer, kept, len(body), fault.do == "stall")
    return answer


def status_of(fault: Fault) -> int:
    """The HTTP status of a `status` or `html` fault; 0 for one that never answers."""
    return fault.status or {"html": 200, "status": 503}.get(fault.do, 0)


def refuse(fault: Fault) -> web.Response:
    """The answer of a fault that speaks HTTP and not Bayeux: `status` or `html`."""
    is_html = fault.do == "html"
    response = web.Response(
        status=status_of(fault) or 503,
        text=fault.body or (MAINTENANCE_PAGE if is_html else ""),
        content_type="text/html" if is_html else "text/plain",
    )
    response.headers.update(fault.headers)
    return response


async def hang(request: web.Request) -> web.Response:
    """Answer nothing until the client gives up."""
    while request.transport is not None and not request.transport.is_closing():
        await asyncio.sleep(_WATCH_S)
    return web.Response()


async def _send_part(request: web.Request, answer: web.Response, part: bytes, length: int,
                     stalls: bool) -> web.StreamResponse:  # fmt: skip
    response = web.StreamResponse(status=answer.status, headers=answer.headers)
    response.content_length = length
    await response.prepare(request)
    await response.write(part)
    if stalls:
        await hang(request)
    elif request.transport is not None:
        request.transport.close()
    return response


def close(request: web.Request, with_reset: bool) -> None:
    """Close the connection at once, without an answer."""
    transport = request.transport
    if transport is None:
        return
    sock = transport.get_extra_info("socket")
    if with_reset and sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


def _garbled(body: bytes) -> bytes:
    random = Random(len(body))
    middle = len(body) // 2
    noise = bytes(random.randrange(256) for _ in range(min(40, len(body) - middle)))
    return body[:middle] + noise + body[middle + len(noise) :]
