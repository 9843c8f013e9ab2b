"""All HTTP to Salesforce: the token, POST /cometd, and REST questions through simple-salesforce.

Transport retries are off and redirects refused: the run alone decides what is tried again. No foreign exception, and no
token, leaves this module.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote, urlsplit

import msgspec
import requests
from requests.adapters import HTTPAdapter

from cdc.errors import (
    AnswerTooLarge,
    LoginRefused,
    RequestLost,
    RestFailed,
    SalesforceError,
    ServerBusy,
    TokenInvalid,
)

CONNECT_TIMEOUT_S = 5.0
TOKEN_TIMEOUT_S = 20.0
REST_TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 256 * 1024 * 1024  # an answer may hold tens of MB; beyond this memory is at risk
MAX_TOKEN_ANSWER_BYTES = 1024 * 1024  # a token answer has a few kB
MAX_REST_ANSWER_BYTES = 64 * 1024 * 1024  # 600,000 ids, the most that getUpdated lists, have 13 MB
MAX_REST_DAYS = 30  # getUpdated and getDeleted look back no further (REST API guide, "Get Updated")

_TOKEN_PATH = "/services/oauth2/token"  # noqa: S105 (a path)
_JWT_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_JWT_LIFETIME_S = 180  # Salesforce accepts at most a few minutes ("OAuth 2.0 JWT Bearer Flow")
_LOOPBACK = re.compile(r"localhost|127(\.[0-9]{1,3}){3}|::1")
_HOST_NAME = re.compile(r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_SALESFORCE_HOST = re.compile(r".*\.(salesforce\.com|force\.com|cloudforce\.com|salesforce\.mil|sfcrmproducts\.cn)")
_ORG_ID = re.compile(r"00D[A-Za-z0-9]{12}([A-Za-z0-9]{3})?")
_CHUNK_BYTES = 256 * 1024
_META = re.compile(rb'"\\?/meta\\?/')  # a 4xx may carry Bayeux replies, or REST's errors, or nothing but brackets


@dataclass(frozen=True)
class Credentials:
    """What the token endpoint asks for: a client secret, or a user name and a private key for the JWT bearer flow."""

    login_url: str
    client_id: str
    client_secret: str | None = field(default=None, repr=False)
    username: str | None = None
    private_key: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Token:
    """A live access token and what it opens: `instance_url`, the org's and the user's id ("" where not told)."""

    access_token: str = field(repr=False)
    instance_url: str
    org_id: str
    user_id: str


@dataclass(frozen=True)
class HttpAnswer:
    """A complete answer. `server_time` is its Date header, None where missing or unreadable."""

    status: int
    body: bytes = field(repr=False)
    server_time: datetime | None


# --- one HTTP exchange -----------------------------------------------------------------------------------------------


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


class _Session(requests.Session):
    """A requests session whose answers are complete and bounded in size and time; no redirects, no retries.

    One request at a time.
    """

    def __init__(self, url: str, access_token: str | None, *, max_bytes: int) -> None:
        super().__init__()
        loopback = is_loopback(url)
        self.auth = _Bearer(access_token)
        self._max_bytes = max_bytes
        self._is_plain = loopback and urlsplit(url).scheme == "http"
        self.trust_env = not loopback  # proxies of the environment are honoured, but not for loopback
        self._adapter = _LoopbackAdapter() if self._is_plain else _Adapter()
        self.mount("https://", self._adapter)
        self.mount("http://", self._adapter)

    def request(self, method: str | bytes, url: str | bytes, *args: Any, **kwargs: Any) -> requests.Response:
        """Return the answer with its whole content.

        Raises: requests.Timeout when `timeout` seconds are over, _TooLarge, and what requests raises.
        """
        timeout: float = kwargs.get("timeout", REST_TIMEOUT_S)
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
        for chunk in response.iter_content(_CHUNK_BYTES):  # also unpacks no more than that at a time
            chunks.append(chunk)
            size += len(chunk)
            if size > self._max_bytes:
                raise _TooLarge
        return b"".join(chunks)

    def send(self, request: requests.PreparedRequest, **kwargs: Any) -> requests.Response:
        response = super().send(request, **kwargs)
        if self._is_plain:  # as browsers do: on http loopback a Secure cookie is sent back too; a real org is https
            for cookie in self.cookies:
                cookie.secure = False
        return response


def is_loopback(url: str) -> bool:
    """True for a host that is this machine by its spelling: only there plain http is accepted."""
    return bool(_LOOPBACK.fullmatch(urlsplit(url).hostname or ""))


def _exchange(session: _Session, url: str, what: str, *, timeout_s: float, **request: Any) -> HttpAnswer:
    """POST and return the complete answer; nothing partial ever comes back.

    Raises: RequestLost where no complete answer arrived within `timeout_s`; AnswerTooLarge.
    """
    with _foreign_exceptions(what, url):
        response = session.post(url, timeout=timeout_s, **request)
    if 300 <= response.status_code < 400:
        raise RequestLost(
            f"{what} to {_host(url)}: redirected (HTTP {response.status_code}), which is refused",
            hint="set SALESFORCE_LOGIN_URL to the org's own My Domain URL",
        )
    return HttpAnswer(response.status_code, response.content, _server_time(response))


@contextmanager
def _foreign_exceptions(what: str, url: str) -> Iterator[None]:
    """Map what requests and urllib3 raise; their texts are not passed on, for they may quote headers."""
    try:
        yield
    except requests.Timeout:
        raise RequestLost(f"{what} to {_host(url)}: no complete answer in time", hint=_NETWORK_HINT) from None
    except _TooLarge:
        raise AnswerTooLarge(
            f"{what} to {_host(url)}: the answer is larger than any of Salesforce's",
            hint="this is not a Salesforce answer: check SALESFORCE_LOGIN_URL and what lies in between",
        ) from None
    except requests.exceptions.SSLError as error:
        raise RequestLost(
            f"{what} to {_host(url)}: TLS failed ({_ssl_reason(error)})",
            hint="the certificate is not trusted: check the host name, and proxies that inspect TLS",
        ) from None
    except (requests.RequestException, OSError, ValueError, OverflowError) as error:
        if _is_unknown_host(error):
            raise LoginRefused(
                f"{what} to {_host(url)}: no such host",
                hint="check SALESFORCE_LOGIN_URL: Setup > My Domain shows the org's current host name",
            ) from None
        raise RequestLost(f"{what} to {_host(url)}: {_connection_cause(error)}", hint=_NETWORK_HINT) from None


_NETWORK_HINT = "the run tries again by itself; if it lasts, check the network path and status.salesforce.com"


def _connection_cause(error: BaseException) -> str:
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


def _host(url: str) -> str:
    return urlsplit(url).netloc.rpartition("@")[2]


# --- the token -------------------------------------------------------------------------------------------------------


def fetch_token(credentials: Credentials, *, timeout_s: float = TOKEN_TIMEOUT_S) -> Token:
    """Return a fresh access token by the client-credentials or the JWT bearer flow.

    Raises: LoginRefused in Salesforce's own words; RequestLost, ServerBusy where trying again may help.
    """
    url = credentials.login_url + _TOKEN_PATH
    with _Session(url, None, max_bytes=MAX_TOKEN_ANSWER_BYTES) as session:
        answer = _exchange(session, url, "asking for a token", timeout_s=timeout_s, data=_token_form(credentials))
    if answer.status >= 500:
        raise ServerBusy(f"asking for a token from {_host(url)}: HTTP {answer.status}", hint=_NETWORK_HINT)
    fields = _json_object(answer.body)
    if answer.status != 200:
        raise _login_refused(url, answer.status, fields, credentials)
    return _read_token(fields, url)


def _token_form(credentials: Credentials) -> dict[str, str]:
    if credentials.private_key is None:
        return {
            "grant_type": "client_credentials",
            "client_id": credentials.client_id,
            "client_secret": credentials.client_secret or "",
        }
    import jwt

    sandbox = ".sandbox." in credentials.login_url
    claims = {
        "iss": credentials.client_id,
        "sub": credentials.username,
        "aud": "https://test.salesforce.com" if sandbox else "https://login.salesforce.com",
        "exp": int(time.time()) + _JWT_LIFETIME_S,
    }
    try:
        assertion = jwt.encode(claims, credentials.private_key, algorithm="RS256")
    except (ValueError, TypeError, jwt.PyJWTError) as error:
        raise LoginRefused(
            f"signing the login assertion: SALESFORCE_PRIVATE_KEY is not usable ({type(error).__name__})",
            hint="set SALESFORCE_PRIVATE_KEY to the unencrypted PEM text of the RSA key of the app's certificate",
        ) from None
    return {"grant_type": _JWT_GRANT, "assertion": assertion}


def _json_object(body: bytes) -> dict[str, Any]:
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return {}
    return decoded if isinstance(decoded, dict) else {}


# Salesforce's words -> what to fix (help: "OAuth 2.0 client credentials flow", "JWT bearer flow").
_LOGIN_HINTS = (
    ("client identifier invalid", "check SALESFORCE_CLIENT_ID: the consumer key of the External Client App"),
    ("invalid client credentials", "check SALESFORCE_CLIENT_SECRET: it does not belong to this consumer key"),
    ("no client credentials user", "name a run-as user in the app's client credentials flow settings"),
    ("not supported on this domain", "set SALESFORCE_LOGIN_URL to the My Domain URL, not login.salesforce.com"),
    ("hasn't approved", "pre-authorise the app for this user: permitted users, then a profile or permission set"),
    ("audience is invalid", "check SALESFORCE_LOGIN_URL: sandbox and production differ"),
    ("user", "check SALESFORCE_USERNAME and that the user is active and allowed to use the app"),
    ("expired", "check this machine's clock: a login assertion lives three minutes"),
    ("invalid assertion", "check that SALESFORCE_PRIVATE_KEY belongs to the certificate in the app"),
    ("grant type not supported", "enable the flow (client credentials or JWT bearer) in the app's OAuth settings"),
)


def _login_refused(url: str, status: int, fields: dict[str, Any], credentials: Credentials) -> LoginRefused:
    error, words = (str(fields.get(name, "")) for name in ("error", "error_description"))
    for secret in (credentials.client_secret, credentials.private_key):
        error, words = (text.replace(secret, "***") if secret else text for text in (error, words))
    said = ": ".join(part[:500] for part in (error, words) if part) or f"HTTP {status} without an OAuth answer"
    default = (
        "check SALESFORCE_CLIENT_ID and the key or secret that goes with it"
        if error
        else "check SALESFORCE_LOGIN_URL: no OAuth endpoint answers there"
    )
    hint = next((hint for sign, hint in _LOGIN_HINTS if sign in words.lower()), default)
    return LoginRefused(f"logging in to {_host(url)}: {said}", hint=hint)


def _read_token(fields: dict[str, Any], url: str) -> Token:
    access_token, instance_url = fields.get("access_token"), fields.get("instance_url")
    if not isinstance(access_token, str) or not access_token or not isinstance(instance_url, str):
        raise LoginRefused(
            f"logging in to {_host(url)}: the answer is no token answer",
            hint="check SALESFORCE_LOGIN_URL: no OAuth endpoint answers there",
        )
    if re.search(r"[^!-~]", access_token):
        raise LoginRefused(f"logging in to {_host(url)}: the token is not printable", hint=_NETWORK_HINT)
    ids = re.search(r"/id/([A-Za-z0-9]{15,18})/([A-Za-z0-9]{15,18})/?\Z", str(fields.get("id", "")))
    # What stands before a token's "!" is the org's id; of a token that is made otherwise nothing may pass for an id.
    org_id = ids[1] if ids else access_token.partition("!")[0]
    org_id = org_id if _ORG_ID.fullmatch(org_id) else ""
    return Token(access_token, _trusted_instance(instance_url, url), org_id, ids[2] if ids else "")


def _trusted_instance(instance_url: str, login_url: str) -> str:
    """Return the instance URL if the token may be sent there: the login host itself or one of Salesforce's, by https.

    The host must be spelled plainly: parsers differ on where a host with a backslash, an escape or a space in it ends.
    Raises: LoginRefused for any other, so that a forged answer cannot lead a token away.
    """
    try:
        parts, login = urlsplit(instance_url), urlsplit(login_url)
        host, port = parts.hostname or "", parts.port
        is_local = is_loopback(instance_url) and is_loopback(login_url)
        is_at_login = (host, port or 443) == (login.hostname, login.port or 443)
        is_salesforce = _SALESFORCE_HOST.fullmatch(host) and port in (None, 443)
        is_plain = is_local or _HOST_NAME.fullmatch(host) or is_at_login
        is_secure = parts.scheme == "https" or (parts.scheme == "http" and is_local)
        if is_plain and is_secure and (is_local or is_at_login or is_salesforce) and "@" not in parts.netloc:
            name = f"[{host}]" if ":" in host else host
            return f"{parts.scheme}://{name}" + (f":{port}" if port else "")
    except ValueError:
        host = ""
    shown = host if _HOST_NAME.fullmatch(host) else "what is no host name"
    raise LoginRefused(
        f"logging in to {_host(login_url)}: its answer points to {shown}, which is not Salesforce's",
        hint="check SALESFORCE_LOGIN_URL and what lies between this app and Salesforce",
    )


# --- the Streaming API -----------------------------------------------------------------------------------------------


class Streaming:
    """The HTTP of one Bayeux session: one cookie jar that lives and dies with it."""

    def __init__(self, token: Token, api_version: str) -> None:
        self._url = f"{token.instance_url}/cometd/{api_version}"
        self._session = _Session(self._url, token.access_token, max_bytes=MAX_ANSWER_BYTES)
        self._session.headers.update({"Content-Type": "application/json", "Accept": "application/json"})

    def __repr__(self) -> str:
        return f"<Streaming {self._url}>"

    def post(self, body: bytes, what: str, *, timeout_s: float) -> HttpAnswer:
        """POST one body of messages and return the complete answer, whatever Bayeux says in it.

        Raises: RequestLost, AnswerTooLarge, ServerBusy (HTTP 503), TokenInvalid (a bare HTTP 401).
        """
        answer = _exchange(self._session, self._url, what, timeout_s=timeout_s, data=body)
        if answer.status == 200 or (400 <= answer.status < 500 and _META.search(answer.body)):
            return answer
        failure = f"{what} to {_host(self._url)}: HTTP {answer.status}"
        if answer.status == 401:
            raise TokenInvalid(failure, hint="the run fetches a new token; if it lasts, check the run-as user")
        if answer.status in (429, 503):
            raise ServerBusy(failure, hint=_NETWORK_HINT)
        raise RequestLost(failure, hint=_NETWORK_HINT)

    def close(self) -> None:
        """Give back the idle connections."""
        self._session.close()


# --- REST ------------------------------------------------------------------------------------------------------------


class Rest:
    """Questions to the org through simple-salesforce, with our token, our time limits and nobody's retries."""

    def __init__(self, token: Token, api_version: str) -> None:
        from simple_salesforce.api import Salesforce

        self._host = _host(token.instance_url)
        self._salesforce = Salesforce(
            session_id=token.access_token,
            instance_url=token.instance_url,
            version=api_version,
            session=_Session(token.instance_url, token.access_token, max_bytes=MAX_REST_ANSWER_BYTES),
        )

    def __repr__(self) -> str:
        return f"<Rest {self._host}>"

    def has_changes(self, channel: str, start: datetime, end: datetime) -> bool:
        """True where records of the channel's entities changed or were deleted between two UTC times.

        Salesforce answers by whole minutes: the first begun and the last unfinished minute are left out.
        Raises: RestFailed where the org cannot be asked or its answer does not cover the interval.
        """
        start = (start + timedelta(seconds=59, microseconds=999_999)).replace(second=0, microsecond=0)
        end = end.replace(second=0, microsecond=0)
        if end <= start:
            return False
        if datetime.now(UTC) - start > timedelta(days=MAX_REST_DAYS):
            raise _rest_failed(self._host, channel, f"the interval begins more than {MAX_REST_DAYS} days ago")
        return any(self._entity_has_changes(channel, entity, start, end) for entity in self.entities(channel))

    def entities(self, channel: str) -> list[str]:
        """Return the API names of the entities whose changes a channel carries.

        Raises: RestFailed; also for platform events, which leave no record to ask about.
        """
        kind, name = channel.strip("/").split("/", 1)
        if kind != "data":
            raise _rest_failed(self._host, channel, "platform events leave no record that could be asked about")
        if name == "ChangeEvents" or name.endswith("__chn"):
            return self._channel_members(channel, name)
        return [_entity_of(name)]

    def _channel_members(self, channel: str, name: str) -> list[str]:
        soql = f"SELECT SelectedEntity FROM PlatformEventChannelMember WHERE EventChannel = '{name}'"  # noqa: S608
        with _rest_exceptions(self._host, channel):
            answer = self._salesforce.toolingexecute("query/?q=" + quote(soql))
            members = [_entity_of(record["SelectedEntity"]) for record in answer["records"]]
        if not members:
            raise _rest_failed(self._host, channel, "the channel shows no members to this user")
        return members

    def _entity_has_changes(self, channel: str, entity: str, start: datetime, end: datetime) -> bool:
        with _rest_exceptions(self._host, channel):
            sobject = getattr(self._salesforce, entity)
            updated, deleted = sobject.updated(start, end), sobject.deleted(start, end)
            if updated["ids"] or deleted["deletedRecords"]:
                return True
            earliest = _rest_time(deleted.get("earliestDateAvailable"))
            covered = [_rest_time(answer.get("latestDateCovered")) for answer in (updated, deleted)]
        if earliest and earliest > start:
            raise _rest_failed(self._host, channel, f"deletions of {entity} before {earliest:%Y-%m-%d %H:%M} are gone")
        if any(time and time < end - timedelta(minutes=5) for time in covered):
            raise _rest_failed(self._host, channel, f"the answer for {entity} does not reach the end of the interval")
        return False


def _entity_of(event_name: str) -> str:
    """`AccountChangeEvent` -> `Account`, `Invoice__ChangeEvent` -> `Invoice__c` (C-GUIDE, "Subscription Channels")."""
    if event_name.endswith("__ChangeEvent"):
        return event_name.removesuffix("__ChangeEvent") + "__c"
    return event_name.removesuffix("ChangeEvent")


def _rest_time(value: Any) -> datetime | None:
    if not isinstance(value, str):
        return None
    time = datetime.fromisoformat(value)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _rest_failed(host: str, channel: str, cause: str) -> RestFailed:
    return RestFailed(
        f"asking {host} for changes behind {channel}: {cause}",
        hint="give the run-as user API Enabled and View All on the entity, or accept that continuity stays unproven",
    )


@contextmanager
def _rest_exceptions(host: str, channel: str) -> Iterator[None]:
    from simple_salesforce.exceptions import SalesforceError as ForeignError

    try:
        yield
    except ForeignError as error:
        code = re.search(r"'errorCode': '([A-Z_]+)'", str(getattr(error, "content", "")))
        cause = f"HTTP {getattr(error, 'status', '?')}" + (f" {code[1]}" if code else "")
        raise _rest_failed(host, channel, cause) from None
    except (requests.RequestException, OSError) as error:
        raise _rest_failed(host, channel, _connection_cause(error)) from None
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError):
        raise _rest_failed(host, channel, "the answer is not of the documented shape") from None


__all__ = ["Credentials", "HttpAnswer", "Rest", "SalesforceError", "Streaming", "Token", "fetch_token", "is_loopback"]
