"""One HTTP exchange with Salesforce: a complete answer, bounded in size and time, or an error that says what happened.

Never retries, never follows a redirect, and lets no exception of requests, and no header, out.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

from cdc.errors import AnswerTooLarge, LoginRefused, RequestLost

CONNECT_TIMEOUT_S = 5.0
REQUEST_TIMEOUT_S = 10.0  # where a caller names none

_LOOPBACK = re.compile(r"localhost|127(\.[0-9]{1,3}){3}|::1")
_CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True)
class HttpAnswer:
    """A complete answer. `server_time` is its Date header, None where missing or unreadable."""

    status: int
    body: bytes = field(repr=False)
    server_time: datetime | None


class _Bearer(requests.auth.AuthBase):
    """Sets the Authorization header; as an auth object it also keeps .netrc entries from replacing it."""

    def __init__(self, access_token: str | None) -> None:
        self._access_token = access_token

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._access_token is not None:
            request.headers["Authorization"] = f"Bearer {self._access_token}"
        return request


class _Limit:
    """The time that one request has. When it is up the connection is cut, however much still trickles in.

    Time-outs of sockets count from byte to byte; one byte a second, of headers even, would hold a thread for ever.
    """

    def __init__(self, seconds: float) -> None:
        self._ends_s = time.monotonic() + seconds
        self._socket: socket.socket | None = None
        self._timer = threading.Timer(seconds, self._cut)
        self._timer.daemon = True

    def __enter__(self) -> _Limit:
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._timer.cancel()

    @property
    def is_up(self) -> bool:
        return time.monotonic() >= self._ends_s

    def watch(self, connected: socket.socket) -> None:
        """From now on this is the connection to cut."""
        self._socket = connected
        if self.is_up:
            self._cut()

    def _cut(self) -> None:
        if self._socket is not None:
            with suppress(OSError, TypeError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # TLS's own would first wait for the other side


class _Adapter(HTTPAdapter):
    """Never retries; shows the connection of each request to the limit of that request."""

    def __init__(self) -> None:
        super().__init__(max_retries=0)
        self.limit: _Limit | None = None

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        if "ConnectionCls" not in vars(pool):
            pool.ConnectionCls = self._watched(pool.ConnectionCls)
        return pool

    def _watched(self, kind: Any) -> Any:
        adapter = self

        class Watched(kind):  # type: ignore[misc]
            def getresponse(self) -> Any:
                if adapter.limit is not None:
                    adapter.limit.watch(self.sock)
                return super().getresponse()

        return Watched


class _LoopbackAdapter(_Adapter):
    """Takes simple-salesforce's hard-wired https to an http loopback host, and nowhere else."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        if request.url and is_loopback(request.url):
            request.url = "http://" + request.url.partition("://")[2]
        return super().send(request, *args, **kwargs)


class _TooLarge(requests.RequestException):
    """The answer has more bytes than it may have."""


class HttpSession(requests.Session):
    """A requests session whose answers are complete and bounded in size and time; no redirects, no retries.

    One request at a time.
    """

    def __init__(self, url: str, access_token: str | None, *, max_bytes: int) -> None:
        super().__init__()
        loopback = is_loopback(url)
        self.auth = _Bearer(access_token)
        self._max_bytes = max_bytes
        self._is_plain = loopback and urlsplit(url).scheme == "http"
        self._no_proxies = {"no_proxy": urlsplit(url).hostname or ""} if loopback else {}
        self._adapter = _LoopbackAdapter() if self._is_plain else _Adapter()
        self.mount("https://", self._adapter)
        self.mount("http://", self._adapter)

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response:
        """Return the answer with its whole content.

        Raises: requests.Timeout when `timeout` seconds are over, _TooLarge, and what requests raises.
        """
        timeout: float = kwargs.get("timeout", REQUEST_TIMEOUT_S)
        # The environment's certificates and proxies are honoured; for loopback hosts its proxies are not.
        kwargs["proxies"] = self._no_proxies
        kwargs |= {"allow_redirects": False, "stream": True, "timeout": (min(CONNECT_TIMEOUT_S, timeout), timeout)}
        with _Limit(timeout) as limit:
            self._adapter.limit = limit
            try:
                with super().request(method, url, *args, **kwargs) as response:
                    response._content = self._read(response)
            except (requests.RequestException, OSError, ValueError):
                if limit.is_up:
                    raise requests.Timeout from None
                raise
            if limit.is_up:  # a body without a length ends where its connection was cut
                raise requests.Timeout
        return response

    def _read(self, response: requests.Response) -> bytes:
        chunks, size = [], 0
        for chunk in response.iter_content(self._chunk_bytes(response)):  # also unpacks no more than that at a time
            chunks.append(chunk)
            size += len(chunk)
            if size > self._max_bytes:
                raise _TooLarge
        return b"".join(chunks)

    def _chunk_bytes(self, response: requests.Response) -> int:
        """All at once where the length is announced: pieces that are put together cost thrice the time."""
        announced: int | None = response.raw.length_remaining
        if announced is None or "Content-Encoding" in response.headers:
            return _CHUNK_BYTES
        if announced > self._max_bytes:
            raise _TooLarge
        return max(1, announced)

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        response = super().send(request, **kwargs)
        if self._is_plain:  # as browsers do: on http loopback a Secure cookie is sent back too; a real org is https
            for cookie in self.cookies:
                cookie.secure = False
        return response


def is_loopback(url: str) -> bool:
    """True for a host that is this machine by its spelling: only there plain http is accepted."""
    return bool(_LOOPBACK.fullmatch(urlsplit(url).hostname or ""))


def exchange(session: HttpSession, url: str, what: str, *, timeout_s: float, **request: Any) -> HttpAnswer:
    """POST and return the complete answer; nothing partial ever comes back.

    Raises: RequestLost where no complete answer arrived within `timeout_s`; AnswerTooLarge.
    """
    with foreign_exceptions(what, url):
        response = session.post(url, timeout=timeout_s, **request)
    if 300 <= response.status_code < 400:
        raise RequestLost(
            f"{what} to {host_of(url)}: redirected (HTTP {response.status_code}), which is refused",
            hint="set SALESFORCE_LOGIN_URL to the org's own My Domain URL",
        )
    return HttpAnswer(response.status_code, response.content, _server_time(response))


@contextmanager
def foreign_exceptions(what: str, url: str) -> Iterator[None]:
    """Map what requests and urllib3 raise; their texts are not passed on, for they may quote headers."""
    try:
        yield
    except requests.Timeout:
        raise RequestLost(f"{what} to {host_of(url)}: no complete answer in time", hint=NETWORK_HINT) from None
    except _TooLarge:
        raise AnswerTooLarge(
            f"{what} to {host_of(url)}: the answer is larger than any of Salesforce's",
            hint="this is not a Salesforce answer: check SALESFORCE_LOGIN_URL and what lies in between",
        ) from None
    except requests.exceptions.SSLError as error:
        raise RequestLost(
            f"{what} to {host_of(url)}: TLS failed ({_ssl_reason(error)})",
            hint="the certificate is not trusted: check the host name, and proxies that inspect TLS",
        ) from None
    except (requests.RequestException, OSError, ValueError, OverflowError) as error:
        if _is_unknown_host(error):
            raise LoginRefused(
                f"{what} to {host_of(url)}: no such host",
                hint="check SALESFORCE_LOGIN_URL: Setup > My Domain shows the org's current host name",
            ) from None
        raise RequestLost(f"{what} to {host_of(url)}: {connection_cause(error)}", hint=NETWORK_HINT) from None


NETWORK_HINT = "the run tries again by itself; if it lasts, check the network path and status.salesforce.com"


def connection_cause(error: BaseException) -> str:
    text = repr(error)
    for sign, cause in (
        ("refused", "connection refused"),
        ("IncompleteRead", "the answer was cut short"),
        ("reset", "connection reset"),
        ("RemoteDisconnected", "the server closed the connection without an answer"),
        ("ConnectTimeout", "no connection in time"),
    ):
        if sign in text:
            return cause
    return "the connection broke"


def _ssl_reason(error: BaseException) -> str:
    found = re.search(r"\[SSL: ([A-Z_]+)\]", repr(error))
    return found[1].lower().replace("_", " ") if found else "handshake"


def _is_unknown_host(error: BaseException) -> bool:
    """True where the name itself does not exist; a resolver that is only out of reach is a passing fault."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, socket.gaierror):
            return seen.errno == socket.EAI_NONAME
        inner = seen.args[0] if seen.args and isinstance(seen.args[0], BaseException) else None
        seen = getattr(inner, "reason", None) or inner or seen.__cause__ or seen.__context__
    return False


def _server_time(response: requests.Response) -> datetime | None:
    """The Date header in UTC; a time that no server can mean would put the log's partitions astray."""
    try:
        parsed = parsedate_to_datetime(response.headers.get("Date", ""))
        time_utc = (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        return None
    return time_utc if 2001 <= time_utc.year < 2100 else None


def host_of(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]
