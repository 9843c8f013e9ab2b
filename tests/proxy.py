"""A TCP proxy on loopback whose line a test cuts or lets fall silent; it understands nothing of what passes."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit


class Proxy:
    """Passes connections on to one address. `cut` breaks the line, `silence` swallows all that passes, `mend` mends."""

    def __init__(self, url: str) -> None:
        target = urlsplit(url)
        self._target = (target.hostname or "", target.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._is_cut = self._is_silent = False
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def stand_in_for(self, text: str) -> str:
        """Return a connection string or URL that leads through this proxy."""
        return text.replace(f":{self._target[1]}", f":{self.port}")

    def cut(self) -> None:
        """Close every connection, and every new one."""
        self._is_cut = True
        with self._lock:
            for each in list(self._open):
                _close(each)

    def silence(self) -> None:
        """Connections stay open, but nothing passes any more."""
        self._is_silent = True

    def mend(self) -> None:
        """New connections pass again; those that were silenced are closed."""
        self.cut()
        self._is_cut = self._is_silent = False

    def close(self) -> None:
        """Stop listening and close everything."""
        self.cut()
        _close(self._listener)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._is_cut:
                _close(near)
                continue
            try:
                far = socket.create_connection(self._target)
            except OSError:
                _close(near)
                continue
            with self._lock:
                self._open |= {near, far}
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65_536):
                if not self._is_silent:
                    sink.sendall(data)
        with self._lock:
            self._open -= {source, sink}
        _close(source)
        _close(sink)


def _close(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()


@contextlib.contextmanager
def proxy(url: str) -> Iterator[Proxy]:
    """Yield a proxy to the address of `url`."""
    opened = Proxy(url)
    try:
        yield opened
    finally:
        opened.close()
