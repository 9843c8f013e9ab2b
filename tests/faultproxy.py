"""A TCP proxy on loopback that spoils connections on command: late, cut, reset, stalled, half-open, refused.

It runs in a thread of its own, is told what to spoil while it runs, and understands nothing of what passes but who
speaks: what the client says until the other side answers is a request, what comes then is its response.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar
from urllib.parse import urlsplit

On = Literal["connection", "request", "response"]
Do = Literal["delay", "cut", "reset", "stall", "half_open", "black_hole", "refuse"]
Direction = Literal["up", "down"]  # towards the server, towards the client

T = TypeVar("T")

_CHUNK_BYTES = 64 * 1024
_START_LIMIT_S = 5.0


@dataclass(frozen=True)
class Spoil:
    """What happens to one connection, request or response.

    delay: it is passed on `seconds` later, even if the client has gone meanwhile. cut, reset: after `after_bytes` the
    connection ends with FIN or RST, on both sides. stall: after `after_bytes` this direction falls silent. half_open:
    both do, and a close of one side is hidden from the other. black_hole: accepted and swallowed, never answered.
    refuse: reset as soon as it is accepted. The last two are for connections.
    """

    do: Do
    on: On = "connection"
    direction: Direction = "down"  # of a connection; a request goes up, a response down
    after_bytes: int = 0
    seconds: float = 0.0
    request: bytes = b""  # only requests that begin so, and their responses

    def __post_init__(self) -> None:
        """Raises: ValueError for what cannot be."""
        if self.on != "connection" and self.do in ("black_hole", "refuse"):
            raise ValueError(f"spoiling a {self.on}: {self.do} is for connections")

    def strikes(self, direction: Direction) -> bool:
        """Whether it counts the bytes of this direction."""
        return direction == {"connection": self.direction, "request": "up", "response": "down"}[self.on]


@dataclass
class _Armed:
    spoil: Spoil
    after: int
    times: int


class FaultProxy:
    """A proxy before one address, for a `with` block. Every method may be called from any thread at any time."""

    def __init__(self, url: str) -> None:
        target = urlsplit(url)
        self._target = (target.hostname or "", target.port or 80)
        self._armed: list[_Armed] = []
        self._lock = threading.Lock()
        self._links: set[_Link] = set()
        self._loop = asyncio.new_event_loop()
        self._server: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="faultproxy", daemon=True)
        self.counts: Counter[str] = Counter()  # connections, requests, responses, bytes_up, bytes_down
        self.struck: Counter[str] = Counter()  # what was spoiled, as "response.reset"
        self.port = 0

    def __repr__(self) -> str:
        return f"<FaultProxy :{self.port} -> :{self._target[1]}>"

    def __enter__(self) -> FaultProxy:
        self._thread.start()
        self.restore()
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._shut_down(), self._loop).result(_START_LIMIT_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_START_LIMIT_S)
        self._loop.close()

    def stand_in_for(self, text: str) -> str:
        """Return a URL or connection string that leads through this proxy."""
        return text.replace(f":{self._target[1]}", f":{self.port}")

    # what a test orders

    def arm(self, spoil: Spoil, *, after: int = 0, times: int = 1) -> None:
        """Spoil the next `times` (-1: all) connections, requests or responses that it fits, after `after` good ones."""
        with self._lock:
            self._armed.append(_Armed(spoil, after, times))

    def strike(self, spoil: Spoil) -> int:
        """Spoil all connections that are open now, and return how many; bytes count from now on."""

        def strike() -> int:
            for link in list(self._links):
                link.spoil_now(spoil)
            return len(self._links)

        return self._call(strike)

    def clear(self) -> None:
        """From now on everything passes; connections that hang are closed, delayed bytes still arrive."""
        with self._lock:
            self._armed.clear()

        def end_hanging() -> None:
            for link in list(self._links):
                if link.is_hanging:
                    link.end()

        self._call(end_hanging)

    def close_connections(self) -> None:
        """End every connection with FIN."""
        self._call(self._close_all)

    def silence(self) -> None:
        """From now on nothing passes, nor does an end: neither on open connections nor on new ones; `clear` ends it."""
        self.arm(Spoil("black_hole"), times=-1)
        self.strike(Spoil("half_open"))

    def go_away(self) -> None:
        """Listen no more: new connections are refused by the operating system. Open ones stay."""
        self._call(self._stop_listening)

    def restore(self) -> None:
        """Listen again, at the same port."""

        async def listen() -> None:
            if self._server is None:
                self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
                self.port = self._server.sockets[0].getsockname()[1]

        asyncio.run_coroutine_threadsafe(listen(), self._loop).result(_START_LIMIT_S)

    # in the proxy's thread

    def _call(self, what: Callable[[], T]) -> T:
        async def call() -> T:
            return what()

        return asyncio.run_coroutine_threadsafe(call(), self._loop).result(_START_LIMIT_S)

    def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _shut_down(self) -> None:
        self._stop_listening()
        self._close_all()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        if tasks:
            await asyncio.wait(tasks, timeout=0.2)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0)  # the last sockets close in the loop's next round

    def _close_all(self) -> None:
        for link in list(self._links):
            link.end()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.counts["connections"] += 1
        link = _Link(self, reader, writer)
        self._links.add(link)
        try:
            await link.run(self._target)
        finally:
            self._links.discard(link)

    def next_spoil(self, on: On, request: bytes) -> Spoil | None:
        """The spoil that is due for what begins now, if any; the first armed one that fits counts."""
        with self._lock:
            for armed in self._armed:
                if armed.spoil.on == on and request.startswith(armed.spoil.request):
                    if armed.after > 0:
                        armed.after -= 1
                        return None
                    if armed.times > 0:
                        armed.times -= 1
                        if armed.times == 0:
                            self._armed.remove(armed)
                    self.struck[f"{on}.{armed.spoil.do}"] += 1
                    return armed.spoil
        return None


@dataclass
class _Way:
    """One direction of a connection: what spoils all of it, what spoils the present part, and the bytes passed."""

    whole: Spoil | None = None
    part: Spoil | None = None
    whole_bytes: int = 0
    part_bytes: int = 0
    is_silent: bool = False
    is_late: bool = False  # the present part was delayed already


class _Link:
    """One connection and its other half."""

    def __init__(self, proxy: FaultProxy, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._proxy = proxy
        self._near = (reader, writer)
        self._far: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._up, self._down = _Way(), _Way()
        self._speaker: Direction = "down"
        self._request = b""
        self._is_held = False  # black hole, half-open: nothing passes, not even a close

    @property
    def is_hanging(self) -> bool:
        return self._is_held or self._up.is_silent or self._down.is_silent

    async def run(self, target: tuple[str, int]) -> None:
        """Pass bytes both ways until both sides have ended."""
        try:
            spoil = self._proxy.next_spoil("connection", b"")
            if spoil is not None and spoil.do == "refuse":
                return self.end(with_reset=True)
            if spoil is not None and spoil.do == "black_hole":
                self._is_held = True
                return await self._swallow(self._near[0])
            try:
                self._far = await asyncio.open_connection(*target)
            except OSError:
                return self.end(with_reset=True)
            if spoil is not None:
                self.spoil_now(spoil)
            await asyncio.gather(self._pump("up"), self._pump("down"))
        finally:
            for _, writer in (self._near, self._far or self._near):
                writer.close()

    def spoil_now(self, spoil: Spoil) -> None:
        """Let it happen to the whole connection, bytes counted from now."""
        way = self._up if spoil.direction == "up" else self._down
        if spoil.do in ("cut", "reset", "refuse") and spoil.after_bytes == 0:
            self.end(with_reset=spoil.do != "cut")
        elif spoil.do in ("half_open", "black_hole") and spoil.after_bytes == 0:
            self._is_held = True
        else:
            way.whole, way.whole_bytes = spoil, 0

    def end(self, *, with_reset: bool = False) -> None:
        """Close both sides at once, with FIN or RST; what was not passed on is lost."""
        self._is_held = False
        for _, writer in (self._near, *([self._far] if self._far else [])):
            _abort(writer, with_reset=with_reset)

    async def _swallow(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while await reader.read(_CHUNK_BYTES):
                pass

    async def _pump(self, direction: Direction) -> None:
        assert self._far is not None
        (reader, _), (_, writer) = (self._near, self._far) if direction == "up" else (self._far, self._near)
        way = self._up if direction == "up" else self._down
        try:
            while data := await reader.read(_CHUNK_BYTES):
                self._note_speaker(direction, data)
                if not await self._pass(way, direction, data, writer):
                    return
            await self._hold(way)
            if writer.can_write_eof():
                writer.write_eof()
        except ConnectionError:
            # A reset arrives on the other side as one, but for what is still being delayed there.
            if not self._is_held and not way.is_silent and direction == "down":
                _abort(writer, with_reset=True)
            elif direction == "up":
                writer.close()
        except (OSError, RuntimeError):
            return  # the other side is gone

    def _note_speaker(self, direction: Direction, data: bytes) -> None:
        """A change of the speaker is where a request, or its response, begins."""
        if direction == self._speaker:
            return
        self._speaker = direction
        way = self._up if direction == "up" else self._down
        if direction == "up":
            self._request = data[:200]
        on: On = "request" if direction == "up" else "response"
        self._proxy.counts[f"{on}s"] += 1
        way.part, way.part_bytes, way.is_late = self._proxy.next_spoil(on, self._request), 0, False

    async def _pass(self, way: _Way, direction: Direction, data: bytes, writer: asyncio.StreamWriter) -> bool:
        """Pass data on as far as it is not spoiled; False where the connection has ended with it."""
        await self._hold(way)
        for spoil, passed in ((way.part, way.part_bytes), (way.whole, way.whole_bytes)):
            if spoil is None or not spoil.strikes(direction):
                continue
            if spoil.do == "delay":
                if not (way.is_late and spoil is way.part):
                    way.is_late = True
                    await asyncio.sleep(spoil.seconds)
                continue
            room = spoil.after_bytes - passed
            if len(data) < room:
                continue
            await self._write(way, direction, data[: max(0, room)], writer)
            return await self._strike(way, spoil)
        await self._write(way, direction, data, writer)
        return True

    async def _strike(self, way: _Way, spoil: Spoil) -> bool:
        if spoil.do in ("cut", "reset", "refuse"):
            self.end(with_reset=spoil.do != "cut")
            return False
        if spoil.do == "stall":
            way.is_silent = True
        else:
            self._is_held = True
        await self._hold(way)
        return False

    async def _hold(self, way: _Way) -> None:
        """Wait for as long as nothing may pass; the end of the connection ends that, too."""
        while self._is_held or way.is_silent:
            if self._near[1].transport.is_closing():
                return
            await asyncio.sleep(0.02)

    async def _write(self, way: _Way, direction: Direction, data: bytes, writer: asyncio.StreamWriter) -> None:
        way.part_bytes += len(data)
        way.whole_bytes += len(data)
        self._proxy.counts[f"bytes_{direction}"] += len(data)
        if data:
            writer.write(data)
            await writer.drain()


def _abort(writer: asyncio.StreamWriter, *, with_reset: bool) -> None:
    connection = writer.get_extra_info("socket")
    if with_reset:
        with contextlib.suppress(OSError, AttributeError):
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
    else:
        writer.close()
