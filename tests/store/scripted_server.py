"""A storage server that gives whatever answer a test set, and remembers what it was asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SECRET = "c2lnbmF0dXJlLW9mLWEtdGVzdA"

SUCCESS = {"ETag": '"0x1"', "Last-Modified": "Mon, 23 Nov 2026 00:00:00 GMT", "x-ms-request-server-encrypted": "true"}


@dataclass
class ScriptedServer:
    """Answers with `status`, `headers` and `body` until a test sets others."""

    port: int = 0
    status: int = 201
    headers: Mapping[str, str] = field(default_factory=lambda: dict(SUCCESS))
    body: bytes = b""
    hangs_s: float = 0
    reading_pause_s: float = 0
    requests: list[tuple[str, str, int]] = field(default_factory=list)
    """Method, path with query, bytes of body."""

    def reset(self) -> None:
        vars(self).update(vars(ScriptedServer(port=self.port)))

    @property
    def connection_string(self) -> str:
        sas = f"sv=2026-02-06&sp=rwl&sig={SECRET}"
        return f"BlobEndpoint=http://127.0.0.1:{self.port}/account;SharedAccessSignature={sas}"

    def fail(self, status: int, code: str | None) -> None:
        self.status = status
        self.headers = {"x-ms-error-code": code} if code else {"Content-Type": "text/html"}
        self.body = f"<Error><Code>{code}</Code><Message>for {SECRET}</Message></Error>".encode() if code else b"<html>"


@contextmanager
def serve() -> Iterator[ScriptedServer]:
    script = ScriptedServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16  # one packet per answer: no waiting for delayed acknowledgements

        def answer(self) -> None:
            length = left = int(self.headers.get("Content-Length") or 0)
            while left:
                left -= len(self.rfile.read(min(left, 1 << 20)))
                time.sleep(script.reading_pause_s)
            script.requests.append((self.command, self.path, length))
            time.sleep(script.hangs_s)
            self.send_response(script.status)
            for name, value in script.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(script.body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(script.body)

        do_GET = do_PUT = do_HEAD = answer  # noqa: N815

        def handle(self) -> None:
            with suppress(ConnectionError):  # a client that has lost patience
                super().handle()

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

    with Server(("127.0.0.1", 0), Handler) as httpd:
        script.port = httpd.server_address[1]
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield script
        finally:
            httpd.shutdown()
            thread.join()
