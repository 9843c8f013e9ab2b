"""A server on loopback that answers each request with whatever bytes a test wants, at whatever pace; also over TLS."""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Answer = Callable[[socket.socket], None]


@dataclass
class RawServer:
    """`url`, and every request that arrived, head and body."""

    url: str
    requests: list[bytes] = field(default_factory=list)


@contextmanager
def serving(answer: Answer, *, tls: ssl.SSLContext | None = None) -> Iterator[RawServer]:
    """Yield a server that reads a request, calls `answer` with its connection, and then closes it."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listener:
        port = listener.getsockname()[1]
        server = RawServer(f"http{'s' if tls else ''}://127.0.0.1:{port}")
        threading.Thread(target=_accept, args=(listener, answer, tls, server), daemon=True).start()
        try:
            yield server
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)


def _accept(listener: socket.socket, answer: Answer, tls: ssl.SSLContext | None, server: RawServer) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_serve, args=(connection, answer, tls, server), daemon=True).start()


def _serve(connection: socket.socket, answer: Answer, tls: ssl.SSLContext | None, server: RawServer) -> None:
    with contextlib.suppress(OSError):
        try:
            if tls is not None:
                connection = tls.wrap_socket(connection, server_side=True)
            server.requests.append(_read_request(connection))
            answer(connection)
        finally:
            connection.close()


def _read_request(connection: socket.socket) -> bytes:
    request = b""
    while b"\r\n\r\n" not in request:
        more = connection.recv(65_536)
        if not more:
            raise OSError
        request += more
    head, _, body = request.partition(b"\r\n\r\n")
    found = re.search(rb"(?i)content-length: ([0-9]+)", head)
    while len(body) < int(found[1] if found else 0):
        body += connection.recv(65_536)
    return head + b"\r\n\r\n" + body


def http(body: bytes, *headers: str, status: str = "200 OK") -> bytes:
    """A whole answer with its length."""
    head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers))
    return head.encode("latin-1") + b"\r\n" + body


def sending(content: bytes) -> Answer:
    """Answer with these bytes."""
    return lambda connection: connection.sendall(content)


def dripping(head: bytes, drop: bytes, *, every_s: float) -> Answer:
    """Send `head` at once and then `drop` again and again until the client has gone."""
    pause = threading.Event()

    def answer(connection: socket.socket) -> None:
        connection.sendall(head)
        while not pause.wait(every_s):
            connection.sendall(drop)

    return answer
