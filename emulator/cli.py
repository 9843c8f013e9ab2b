"""The emulator's command line: serve one org until told to stop."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

import typer
from aiohttp import web

from emulator import knobs as knobs_module
from emulator.http_app import make_app
from emulator.knobs import Knobs
from emulator.oauth import Credentials
from emulator.parts import Parts, Rate

log = logging.getLogger("emulator")
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 0,
    seed: Annotated[int, typer.Option(help="Same seed, same events and replay ids.")] = 1,
    channel: Annotated[
        list[str] | None, typer.Option(help="CHANNEL=N: publish a backlog of N events at start.")
    ] = None,
    rate: Annotated[float, typer.Option(help="Live events per second on each --channel.")] = 0.0,
    size: Annotated[int, typer.Option(help="Approximate bytes per event; 0 leaves them as they come.")] = 0,
    hours: Annotated[float, typer.Option(help="Age of the backlog's oldest event.")] = 1.0,
    knob: Annotated[list[str] | None, typer.Option(help="NAME=VALUE: see GET /_emulator/knobs.")] = None,
    client_id: Annotated[str, typer.Option(help="Consumer key of the client app.")] = Credentials.client_id,
    client_secret: Annotated[str, typer.Option(help="Its secret.")] = Credentials.client_secret,
    username: Annotated[str, typer.Option(help="User for the JWT bearer flow.")] = Credentials.username,
    jwt_public_key: Annotated[Path | None, typer.Option(help="PEM file; the JWT bearer flow needs it.")] = None,
    exit_with_parent: Annotated[bool, typer.Option(help="Stop when standard input closes.")] = False,
) -> None:
    """Run a Salesforce org on loopback: OAuth, CometD, REST, and a control API under /_emulator.

    Prints one JSON line with url and pid on standard output when it is ready; logs to standard error.

    \b
    Examples:
      python -m emulator --port 8765
      python -m emulator --port 0 --seed 7 --channel /data/AccountChangeEvent=2000 --rate 50
      python -m emulator --knob hold_s=2 --knob event_order=mixed
      curl -d '{"channel": "/data/AccountChangeEvent", "count": 5}' localhost:8765/_emulator/publish
      curl -d '{"on": "connect", "do": "drop", "only_with_events": true}' localhost:8765/_emulator/faults
    """
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(name)s %(message)s")
    key = jwt_public_key.read_text() if jwt_public_key else ""
    parts = Parts(seed, Knobs(), Credentials(client_id, client_secret, username, key))
    if rate > 0 and not channel:
        raise typer.BadParameter("--rate needs at least one --channel")
    try:
        knobs_module.turn(parts.knobs, dict(_pair(text) for text in knob or ()))
        for name, count in (_pair(text, default="0") for text in channel or ()):
            parts.org.add_channel(name)
            parts.org.publish_backlog(name, int(count), size or 1_000, hours)
            if rate > 0:
                parts.rates[name] = Rate(rate, size)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    asyncio.run(_serve(parts, host, port, exit_with_parent))


def _pair(text: str, default: str = "") -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value or default


async def _serve(parts: Parts, host: str, port: int, exit_with_parent: bool) -> None:
    """Serve until SIGTERM, SIGINT, or, if so asked, the end of standard input."""
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if exit_with_parent:
        threading.Thread(target=_watch_stdin, args=(loop, stop), daemon=True).start()
    runner = web.AppRunner(make_app(parts), access_log=None, shutdown_timeout=0.2)
    await runner.setup()
    site = web.TCPSite(runner, host, port)
    await site.start()
    started: dict[str, Any] = {"url": f"http://{host}:{runner.addresses[0][1]}", "pid": os.getpid()}
    print(json.dumps(started), flush=True)
    log.info("emulator.ready url=%s pid=%d", started["url"], started["pid"])
    try:
        await stop.wait()
    finally:
        log.info("emulator.stopping")
        await runner.cleanup()


def _watch_stdin(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    while os.read(0, 4096):
        pass
    loop.call_soon_threadsafe(stop.set)
