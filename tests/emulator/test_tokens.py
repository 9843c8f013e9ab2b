"""The token endpoint, over HTTP."""

from __future__ import annotations

import time
from typing import Any

import jwt
import pytest
import requests
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from emulator.client import Emulator


def ask(org: Emulator, auth: Any = None, **form: str) -> requests.Response:
    return requests.post(f"{org.url}/services/oauth2/token", data=form, auth=auth, timeout=60)


@pytest.fixture(scope="module")
def key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=2048)


def assertion(org: Emulator, key: rsa.RSAPrivateKey, **changes: Any) -> str:
    public = key.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    org.credentials(public_key=public.decode())
    claims = {
        "iss": org.client_id,
        "sub": org.username,
        "aud": "https://login.salesforce.com",
        "exp": time.time() + 180,
    }
    return jwt.encode({**claims, **changes}, key, algorithm="RS256")


def test_a_granted_token_has_salesforces_fields_and_no_expiry(org: Emulator) -> None:
    answer = ask(org, grant_type="client_credentials", client_id=org.client_id, client_secret=org.client_secret)
    body = answer.json()
    assert answer.status_code == 200
    assert body["access_token"].startswith("00DRj000004kniQ!AR8A")
    assert body["instance_url"] == org.url
    assert body["id"] == f"https://login.salesforce.com/id/{org.org_id}/{org.user_id}"
    assert body["token_type"] == "Bearer"
    assert {"issued_at", "signature", "scope"} < set(body)
    assert "expires_in" not in body


def test_the_secret_may_come_in_a_basic_header_and_the_live_token_comes_again(org: Emulator) -> None:
    first = ask(org, (org.client_id, org.client_secret), grant_type="client_credentials").json()
    second = ask(org, (org.client_id, org.client_secret), grant_type="client_credentials").json()
    assert first["access_token"] == second["access_token"]
    org.revoke_tokens()
    third = ask(org, (org.client_id, org.client_secret), grant_type="client_credentials").json()
    assert third["access_token"] != first["access_token"]


@pytest.mark.parametrize(
    ("form", "knobs", "error"),
    [
        ({"client_id": "x", "client_secret": "y"}, {}, ("invalid_client_id", "client identifier invalid")),
        ({"client_secret": "y"}, {}, ("invalid_client", "invalid client credentials")),
        ({"grant_type": "magic"}, {}, ("unsupported_grant_type", "grant type not supported")),
        ({}, {"client_credentials_user": False}, ("invalid_grant", "no client credentials user enabled")),
        ({}, {"my_domain": False}, ("invalid_grant", "request not supported on this domain")),
    ],
)
def test_refusals_are_worded_as_salesforce_words_them(
    org: Emulator, form: dict[str, str], knobs: dict[str, Any], error: tuple[str, str]
) -> None:
    org.knobs(**knobs)
    good = {"grant_type": "client_credentials", "client_id": org.client_id, "client_secret": org.client_secret}
    answer = ask(org, **{**good, **form})
    assert answer.status_code == 400
    assert answer.json() == {"error": error[0], "error_description": error[1]}


@pytest.mark.parametrize(
    ("changes", "description"),
    [
        ({}, None),
        ({"aud": "https://test.salesforce.com"}, None),
        ({"aud": "https://example.com"}, "audience is invalid"),
        ({"sub": "nobody@example.com"}, "user hasn't approved this consumer"),
        ({"exp": 1}, "invalid assertion"),
        ({"exp": 99_999_999_999}, "invalid assertion"),
        ({"iss": "stranger"}, "client identifier invalid"),
    ],
)
def test_a_jwt_is_checked(
    org: Emulator, key: rsa.RSAPrivateKey, changes: dict[str, Any], description: str | None
) -> None:
    bearer = "urn:ietf:params:oauth:grant-type:jwt-bearer"
    answer = ask(org, grant_type=bearer, assertion=assertion(org, key, **changes))
    assert answer.json().get("error_description") == description


def test_a_jwt_of_another_key_is_refused(org: Emulator, key: rsa.RSAPrivateKey) -> None:
    stranger = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    text = assertion(org, stranger)
    assertion(org, key)
    answer = ask(org, grant_type="urn:ietf:params:oauth:grant-type:jwt-bearer", assertion=text)
    assert answer.json() == {"error": "invalid_grant", "error_description": "invalid assertion"}


def test_a_token_request_can_be_made_to_fail(org: Emulator) -> None:
    org.fault("token", "status", status=503)
    form = {"grant_type": "client_credentials", "client_id": org.client_id, "client_secret": org.client_secret}
    assert ask(org, **form).status_code == 503
    assert ask(org, **form).status_code == 200
