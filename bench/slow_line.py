"""A TCP proxy that makes a line longer: `python -m bench.slow_line HOST:PORT MS` prints its port, ends with its parent.

Half of the added round trip passes on the way there, half on the way back; a new connection pays one round trip more,
as on a real line. It limits no bandwidth and changes no byte.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys

_CHUNK_BYTES = 512 * 1024
_WAITING_CHUNKS = 400


async def _carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, delay_s: float, first_s: float) -> None:
    """Pass bytes on, each chunk `delay_s` after it came, the first one `first_s` later still."""
    loop = asyncio.get_running_loop()
    waiting: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_WAITING_CHUNKS)

    async def deliver() -> None:
        while True:
            due, data = await waiting.get()
            await asyncio.sleep(due - loop.time())
            if not data:
                break
            writer.write(data)
            await writer.drain()

    async def collect() -> None:
        extra_s = first_s
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                await waiting.put((loop.time() + delay_s + extra_s, data))
                extra_s = 0.0
        await waiting.put((loop.time() + delay_s, b""))

    delivering = asyncio.create_task(deliver())
    with contextlib.suppress(OSError):
        await collect()
        await delivering
    delivering.cancel()
    writer.close()


async def _serve(host: str, port: int, added_s: float) -> None:
    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(host, port, limit=_CHUNK_BYTES)
        await asyncio.gather(
            _carry(reader, far_writer, added_s / 2, added_s), _carry(far_reader, writer, added_s / 2, 0.0)
        )

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=_CHUNK_BYTES)
    print(server.sockets[0].getsockname()[1], flush=True)
    loop = asyncio.get_running_loop()
    await loop.run_in_executor(None, _until_parent_ends)
    os._exit(0)


def _until_parent_ends() -> None:
    while os.read(0, 4096):
        pass


if __name__ == "__main__":
    _host, _, _port = sys.argv[1].rpartition(":")
    asyncio.run(_serve(_host, int(_port), float(sys.argv[2]) / 1000))
