"""An HTTP server before Azurite that refuses what a test says, in Azure's own words, and passes on all else.

What Azurite cannot show: roles, the firewall, a clock that is not ours. Codes and messages are those of Microsoft's
pages "Common REST API error codes", "Shared access signature error codes" and "Troubleshoot 403 errors".
"""

from __future__ import annotations

import http.client
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

MESSAGES = {
    "AuthorizationFailure": "This request is not authorized to perform this operation.",
    "AuthorizationPermissionMismatch": (
        "This request is not authorized to perform this operation using this permission."
    ),
    "AuthenticationFailed": (
        "Server failed to authenticate the request. Make sure the value of Authorization header is formed correctly "
        "including the signature."
    ),
}
DETAILS = {"AuthenticationFailed": "<AuthenticationErrorDetail>Request date header too old</AuthenticationErrorDetail>"}
Refusal = Callable[[str, str], bool]


def everything(method: str, path: str) -> bool:
    """Any request at all."""
    return True


def of_the_account(method: str, path: str) -> bool:
    """What a role on a container alone does not allow: to list the account's containers, and to create one."""
    query = parse_qs(urlsplit(path).query)
    lists = query.get("comp") == ["list"] and "restype" not in query
    return lists or (method == "PUT" and query.get("restype") == ["container"])


def writes(method: str, path: str) -> bool:
    """What the role Storage Blob Data Reader does not allow."""
    return method in ("PUT", "DELETE")


@dataclass
class AzureFront:
    """`refuses` chooses the requests that are answered with 403 and `code`; `clock_ahead` moves every Date header."""

    url: str
    refuses: Refusal = lambda method, path: False
    code: str = "AuthorizationPermissionMismatch"
    clock_ahead: timedelta = timedelta()
    asked: list[tuple[str, str]] = field(default_factory=list)

    def refuse(self, refuses: Refusal, code: str) -> None:
        """Refuse such requests from now on."""
        self.refuses, self.code = refuses, code

    def refusal(self) -> bytes:
        """Return the body of a refusal, as Azure writes it."""
        now = datetime.now(UTC) + self.clock_ahead
        return (
            '\ufeff<?xml version="1.0" encoding="utf-8"?>'
            f"<Error><Code>{self.code}</Code><Message>{MESSAGES[self.code]}\n"
            f"RequestId:5a1f2c3d-001e-0062-7c3d-2f1b4a000000\nTime:{now:%Y-%m-%dT%H:%M:%S.%f}0Z</Message>"
            f"{DETAILS.get(self.code, '')}</Error>"
        ).encode()


@contextmanager
def before(url: str) -> Iterator[AzureFront]:
    """Yield a front before the storage account at `url`."""
    behind = urlsplit(url)
    front = AzureFront("")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 1 << 16

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            front.asked.append((self.command, self.path))
            if front.refuses(self.command, self.path):
                headers = {
                    "x-ms-error-code": front.code,
                    "x-ms-version": "2026-02-06",
                    "Content-Type": "application/xml",
                }
                self.send(403, MESSAGES[front.code], headers, front.refusal())
            else:
                self.pass_on(body)

        def pass_on(self, body: bytes) -> None:
            connection = http.client.HTTPConnection(behind.hostname or "", behind.port, timeout=30)
            with suppress(ConnectionError):
                connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    connection.putheader(name, value)
                connection.endheaders(body)
                answer = connection.getresponse()
                content = answer.read()
                kept = {n: v for n, v in answer.getheaders() if n.lower() not in ("date", "connection", *LENGTHS)}
                self.send(answer.status, answer.reason, kept, content)
            connection.close()

        def send(self, status: int, reason: str, headers: dict[str, str], body: bytes) -> None:
            self.send_response_only(status, reason)
            self.send_header("Date", format_datetime(datetime.now(UTC) + front.clock_ahead, usegmt=True))
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        do_GET = do_PUT = do_HEAD = do_DELETE = answer  # noqa: N815

        def handle(self) -> None:
            with suppress(ConnectionError):
                super().handle()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        front.url = f"http://127.0.0.1:{server.server_address[1]}{behind.path}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield front
        finally:
            server.shutdown()
            thread.join()


LENGTHS = ("content-length", "transfer-encoding")
