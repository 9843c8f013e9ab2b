"""The token endpoint's rules: which credentials get which access token, and which tokens still live. No HTTP."""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt

from emulator.knobs import Knobs

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
AUDIENCES = ("https://login.salesforce.com", "https://test.salesforce.com")
SCOPE = "api web refresh_token"


@dataclass
class Credentials:
    """What the org's one external client app accepts."""

    client_id: str = "3MVG9emulator.consumer.key"
    client_secret: str = "emulator-consumer-secret"
    username: str = "integration@emulator.example"
    public_key: str = ""  # PEM; JWT bearer needs it


@dataclass
class Token:
    """An issued access token and whose it is."""

    text: str = field(repr=False)
    user_id: str = ""
    issued_s: float = 0.0
    used_s: float = 0.0
    is_revoked: bool = False


class OAuthError(Exception):
    """A refused token request, as `error` and `error_description`."""

    def __init__(self, error: str, description: str) -> None:
        super().__init__(f"{error}: {description}")
        self.error = error
        self.description = description


class Tokens:
    """All tokens of the org. `monotonic` rules their life, so that moving the org's clock does not end them."""

    def __init__(self, knobs: Knobs, credentials: Credentials, org_id: str, user_id: str,
                 monotonic: Callable[[], float] = time.monotonic) -> None:  # fmt: skip
        self.knobs = knobs
        self.credentials = credentials
        self.org_id = org_id
        self.user_id = user_id
        self.issued = 0
        self._monotonic = monotonic
        self._tokens: dict[str, Token] = {}

    def grant(self, form: Mapping[str, str], basic: tuple[str, str] | None, own_url: str) -> Token:
        """The access token for a token request.

        Raises: OAuthError with the texts that Salesforce uses.
        """
        if not self.knobs.my_domain:
            raise OAuthError("invalid_grant", "request not supported on this domain")
        kind = form.get("grant_type", "")
        if kind == "client_credentials":
            self._check_client(form, basic)
        elif kind == JWT_BEARER:
            self._check_assertion(form.get("assertion", ""), own_url)
        else:
            raise OAuthError("unsupported_grant_type", "grant type not supported")
        return self._issue()

    def _check_client(self, form: Mapping[str, str], basic: tuple[str, str] | None) -> None:
        client_id, secret = basic or (form.get("client_id", ""), form.get("client_secret", ""))
        if client_id != self.credentials.client_id:
            raise OAuthError("invalid_client_id", "client identifier invalid")
        if secret != self.credentials.client_secret:
            raise OAuthError("invalid_client", "invalid client credentials")
        if not self.knobs.client_credentials_user:
            raise OAuthError("invalid_grant", "no client credentials user enabled")

    def _check_assertion(self, assertion: str, own_url: str) -> None:
        try:
            claims: dict[str, Any] = jwt.decode(
                assertion, self.credentials.public_key, algorithms=["RS256"],
                options={"verify_aud": False, "require": ["iss", "sub", "aud", "exp"]},
            )  # fmt: skip
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            raise OAuthError("invalid_grant", "invalid assertion") from error
        if claims["iss"] != self.credentials.client_id:
            raise OAuthError("invalid_client_id", "client identifier invalid")
        if claims["aud"] not in (*AUDIENCES, own_url):
            raise OAuthError("invalid_grant", "audience is invalid")
        if claims["exp"] > time.time() + self.knobs.jwt_max_exp_s:
            raise OAuthError("invalid_grant", "invalid assertion")
        if claims["sub"] != self.credentials.username:
            raise OAuthError("invalid_grant", "user hasn't approved this consumer")

    def _issue(self) -> Token:
        self.issued += 1
        live = [token for token in self._tokens.values() if self._is_live(token)]
        if live and self.knobs.reuse_token:
            live[-1].used_s = self._monotonic()
            return live[-1]
        text = f"{self.org_id[:15]}!AR8A{secrets.token_urlsafe(60).replace('-', '.')}"
        token = Token(text, self.user_id, time.time(), self._monotonic())
        self._tokens[text] = token
        return token

    def check(self, text: str) -> Token | None:
        """The live token of this text; its use extends its life."""
        token = self._tokens.get(text)
        if token is None or not self._is_live(token):
            return None
        token.used_s = self._monotonic()
        return token

    def _is_live(self, token: Token) -> bool:
        return not token.is_revoked and self._monotonic() - token.used_s < self.knobs.token_ttl_s

    def revoke(self, text: str | None = None) -> int:
        """Revoke one token, or all; returns how many live ones were."""
        found = [t for t in self._tokens.values() if self._is_live(t) and text in (None, t.text)]
        for token in found:
            token.is_revoked = True
        return len(found)

    def live_count(self) -> int:
        """How many tokens are live."""
        return sum(self._is_live(token) for token in self._tokens.values())


def token_answer(token: Token, org_id: str, own_url: str) -> dict[str, str]:
    """The body of a granted token request; Salesforce sends no expires_in."""
    return {
        "access_token": token.text,
        "signature": base64.b64encode(secrets.token_bytes(32)).decode(),
        "scope": SCOPE,
        "instance_url": own_url,
        "id": f"https://login.salesforce.com/id/{org_id}/{token.user_id}",
        "token_type": "Bearer",
        "issued_at": str(int(token.issued_s * 1000)),
        "api_instance_url": "https://api.salesforce.com",
    }


def bearer(header: str) -> str:
    """The token in an Authorization header: `Bearer x`, `OAuth x`, or the raw token."""
    scheme, _, rest = header.strip().partition(" ")
    return rest.strip() if scheme.lower() in ("bearer", "oauth") and rest else header.strip()


def basic(header: str) -> tuple[str, str] | None:
    """User and password of a Basic Authorization header."""
    scheme, _, rest = header.strip().partition(" ")
    if scheme.lower() != "basic":
        return None
    try:
        user, _, password = base64.b64decode(rest).decode().partition(":")
    except ValueError:
        return None
    return user, password
