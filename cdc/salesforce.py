"""The access token, and POST /cometd with it.

Nothing is tried again here: the run alone decides that. A token is sent to no host but its own, and leaves in no text.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any
from urllib.parse import urlsplit

import msgspec

from cdc.errors import (
    LoginRefused,
    RequestLost,
    ServerBusy,
    TokenInvalid,
)
from cdc.exchange import NETWORK_HINT, HttpAnswer, HttpSession, exchange, host_of, is_loopback

TOKEN_TIMEOUT_S = 20.0
MAX_ANSWER_BYTES = 256 * 1024 * 1024  # an answer may hold tens of MB; beyond this memory is at risk
MAX_TOKEN_ANSWER_BYTES = 1024 * 1024  # a token answer has a few kB

_TOKEN_PATH = "/services/oauth2/token"  # noqa: S105 (a path)
_JWT_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"
_JWT_LIFETIME_S = 180  # Salesforce accepts at most a few minutes ("OAuth 2.0 JWT Bearer Flow")
_HOST_NAME = re.compile(r"([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_SALESFORCE_HOST = re.compile(r".*\.(salesforce\.com|force\.com|cloudforce\.com|salesforce\.mil|sfcrmproducts\.cn)")
_ORG_ID = re.compile(r"00D[A-Za-z0-9]{12}([A-Za-z0-9]{3})?")
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
    """A live access token and what it opens: `instance_url`, the org's and the user's id ("" where not told).

    `server_time` is when Salesforce granted it, by its own clock; None where the answer did not say.
    """

    access_token: str = field(repr=False)
    instance_url: str
    org_id: str
    user_id: str
    server_time: datetime | None = None


# --- the token -------------------------------------------------------------------------------------------------------


def fetch_token(credentials: Credentials, *, timeout_s: float = TOKEN_TIMEOUT_S) -> Token:
    """Return a fresh access token by the client-credentials or the JWT bearer flow.

    Raises: LoginRefused in Salesforce's own words; RequestLost, ServerBusy where trying again may help.
    """
    url = credentials.login_url + _TOKEN_PATH
    with HttpSession(url, None, max_bytes=MAX_TOKEN_ANSWER_BYTES) as session:
        answer = exchange(session, url, "asking for a token", timeout_s=timeout_s, data=_token_form(credentials))
    if answer.status >= 500:
        raise ServerBusy(f"asking for a token from {host_of(url)}: HTTP {answer.status}", hint=NETWORK_HINT)
    fields = _json_object(answer.body)
    if answer.status != 200:
        raise _login_refused(url, answer, fields or {}, credentials)
    if fields is None:
        # A page in place of an answer is mostly the one that Salesforce shows during maintenance.
        raise RequestLost(
            f"asking for a token from {host_of(url)}: the answer is no JSON object",
            hint="check SALESFORCE_LOGIN_URL: no OAuth endpoint answers there; a maintenance page goes by itself",
        )
    return _read_token(fields, url, answer.server_time)


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


def _json_object(body: bytes) -> dict[str, Any] | None:
    try:
        decoded = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return None
    return decoded if isinstance(decoded, dict) else None


API_ENABLED = "give the run-as user the system permission API Enabled; if it has it, the org's edition has no API"
_APPROVE = (
    "pre-authorise the run-as user: External Client App > Policies, Permitted Users and a permission set that it has"
)
# Salesforce's words -> what to fix (help: "OAuth 2.0 client credentials flow", "JWT bearer flow").
_LOGIN_HINTS = (
    ("client identifier invalid", "check SALESFORCE_CLIENT_ID: the consumer key of the External Client App"),
    ("invalid client credentials", "check SALESFORCE_CLIENT_SECRET: it does not belong to this consumer key"),
    ("no client credentials user", "name a run-as user in the app's client credentials flow settings"),
    ("not supported on this domain", "set SALESFORCE_LOGIN_URL to the My Domain URL, not login.salesforce.com"),
    ("hasn't approved", f"{_APPROVE}; it must be SALESFORCE_USERNAME"),
    ("not admin approved", _APPROVE),
    ("api is ", API_ENABLED),
    ("audience is invalid", "check SALESFORCE_LOGIN_URL: sandbox and production differ"),
    ("user", "check SALESFORCE_USERNAME and that the user is active and allowed to use the app"),
    ("expired", "check this machine's clock: a login assertion lives three minutes"),
    ("invalid assertion", "check that SALESFORCE_PRIVATE_KEY belongs to the certificate in the app"),
    ("grant type not supported", "enable the flow (client credentials or JWT bearer) in the app's OAuth settings"),
)


def _login_refused(url: str, answer: HttpAnswer, fields: dict[str, Any], credentials: Credentials) -> LoginRefused:
    error, words = (str(fields.get(name, "")) for name in ("error", "error_description"))
    for secret in (credentials.client_secret, credentials.private_key):
        error, words = (text.replace(secret, "***") if secret else text for text in (error, words))
    said = ": ".join(part[:500] for part in (error, words) if part) or f"HTTP {answer.status} without an OAuth answer"
    default = (
        "check SALESFORCE_CLIENT_ID and the key or secret that goes with it"
        if error
        else "check SALESFORCE_LOGIN_URL: no OAuth endpoint answers there"
    )
    hint = next((hint for sign, hint in _LOGIN_HINTS if sign in words.lower()), default)
    return LoginRefused(f"logging in to {host_of(url)}: {said}", hint=hint, server_time=answer.server_time)


def _read_token(fields: dict[str, Any], url: str, server_time: datetime | None = None) -> Token:
    access_token, instance_url = fields.get("access_token"), fields.get("instance_url")
    if not isinstance(access_token, str) or not access_token or not isinstance(instance_url, str):
        raise LoginRefused(
            f"logging in to {host_of(url)}: the answer is no token answer",
            hint="check SALESFORCE_LOGIN_URL: no OAuth endpoint answers there",
        )
    if re.search(r"[^!-~]", access_token):
        raise LoginRefused(f"logging in to {host_of(url)}: the token is not printable", hint=NETWORK_HINT)
    ids = re.search(r"/id/([A-Za-z0-9]{15,18})/([A-Za-z0-9]{15,18})/?\Z", str(fields.get("id", "")))
    # What stands before a token's "!" is the org's id; of a token that is made otherwise nothing may pass for an id.
    org_id = ids[1] if ids else access_token.partition("!")[0]
    org_id = org_id if _ORG_ID.fullmatch(org_id) else ""
    return Token(access_token, _trusted_instance(instance_url, url), org_id, ids[2] if ids else "", server_time)


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
        f"logging in to {host_of(login_url)}: its answer points to {shown}, which is not Salesforce's",
        hint="check SALESFORCE_LOGIN_URL and what lies between this app and Salesforce",
    )


# --- the Streaming API -----------------------------------------------------------------------------------------------


class Streaming:
    """The HTTP of one Bayeux session: one cookie jar that lives and dies with it."""

    def __init__(self, token: Token, api_version: str) -> None:
        self._url = f"{token.instance_url}/cometd/{api_version}"
        self._session = HttpSession(self._url, token.access_token, max_bytes=MAX_ANSWER_BYTES)
        self._session.headers.update({"Content-Type": "application/json", "Accept": "application/json"})

    def __repr__(self) -> str:
        return f"<Streaming {self._url}>"

    def post(self, body: bytes, what: str, *, timeout_s: float) -> HttpAnswer:
        """POST one body of messages and return the complete answer, whatever Bayeux says in it.

        Raises: RequestLost, AnswerTooLarge, ServerBusy (HTTP 503), TokenInvalid (a bare HTTP 401).
        """
        answer = exchange(self._session, self._url, what, timeout_s=timeout_s, data=body)
        if answer.status == 200 or (400 <= answer.status < 500 and _META.search(answer.body)):
            return answer
        failure = f"{what} to {host_of(self._url)}: HTTP {answer.status}"
        if answer.status == 401:
            raise TokenInvalid(failure, hint="the run fetches a new token; if it lasts, check the run-as user")
        if answer.status in (429, 503):
            raise ServerBusy(failure, hint=NETWORK_HINT)
        raise RequestLost(failure, hint=NETWORK_HINT)

    def close(self) -> None:
        """Give back the idle connections."""
        self._session.close()
