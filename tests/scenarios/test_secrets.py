"""Secrets stay secret: none stands in what is emitted, reported, raised, printed or stored, whatever goes wrong."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from cdc import app
from cdc.salesforce import Streaming, fetch_token
from cdc.settings import load_settings
from cdc.signals import format_event
from tests.azurite import Azurite
from tests.harness import ACCOUNT, CONTACT, Site
from tests.one_run import spawn

SECRET = "Zx9!client+secret/of=the&app"


@pytest.fixture
def key() -> str:
    """A private key whose public half the org knows."""
    made = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    return made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def public_half(private_key: str) -> str:
    """The public half as the org holds it."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    loaded = load_pem_private_key(private_key.encode(), None)
    return loaded.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def known_secrets(site: Site, storage: Azurite, *more: str) -> list[str]:
    """Everything that must appear nowhere: what was configured, and what the server gave out meanwhile."""
    tokens = fetch_token(app.credentials_of(load_settings(site.environment()))).access_token
    cookies = {value for entry in site.asked() for value in entry["cookies"].values()}
    assert cookies, "no cookie was ever sent"
    keys = [line for text in more for line in text.splitlines() if not line.startswith("-----")]
    return [SECRET, storage.key, tokens, tokens.partition("!")[2], *cookies, *keys]


def said(site: Site) -> Iterator[str]:
    """Everything that was emitted."""
    for name, fields in site.everything_said:
        yield format_event(name, fields)
        yield repr(fields)


def assert_absent(secrets: list[str], texts: list[str]) -> None:
    """No secret stands in any of the texts."""
    assert texts
    for secret in secrets:
        assert len(secret) > 8
        for text in texts:
            assert secret not in text, text[max(0, text.index(secret) - 100) :][:250]


def make_trouble(site: Site) -> list[Callable[[], Any]]:
    """Runs in which as much as possible goes wrong."""
    org = site.org

    def with_fault(on: str, do: str, **details: Any) -> Callable[[], Any]:
        def act() -> Any:
            org.clear_faults()
            org.fault(on, do, **details)
            org.publish(ACCOUNT, 2)
            return site.capture(ACCOUNT, CONTACT, seconds=0.8)

        return act

    def revoke() -> Any:
        org.clear_faults()
        org.revoke_tokens()
        return site.capture(ACCOUNT)

    echo = json.dumps({"error": "invalid_client", "error_description": f"client secret {SECRET} is wrong"})
    return [
        with_fault("connect", "drop"),
        with_fault("connect", "html", body=f"<html>{SECRET}</html>"),
        with_fault("connect", "reply", like="auth_invalid", times=-1),
        with_fault("handshake", "reset", times=-1),
        with_fault("token", "status", status=400, body=echo),
        with_fault("token", "status", status=503, body=echo),
        with_fault("token", "truncate_clean", keep=0.6),
        with_fault("connect", "status", status=302, headers={"Location": f"http://127.0.0.1:9/?sid={SECRET}"}),
        revoke,
    ]


def test_nothing_that_is_said_reported_or_stored_holds_a_secret(
    site: Site, storage: Azurite, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    site.org.credentials(client_secret=SECRET)
    site.org.publish(ACCOUNT, 3)
    reports = [site.capture(ACCOUNT), *(act() for act in make_trouble(site))]
    site.org.clear_faults()
    reports.append(site.capture(ACCOUNT))
    assert reports[0].outcome == reports[-1].outcome == "ok"
    assert {report.outcome for report in reports} >= {"ok", "failed"}

    secrets = known_secrets(site, storage)
    texts = [*said(site), caplog.text]
    for report in reports:
        texts += [json.dumps(report.to_json()), report.summary(), repr(report)]
    assert_absent(secrets, texts)
    assert_absent(secrets, [content.decode("utf-8", "replace") for content in site.log.everything()])


def test_the_jwt_flow_shows_neither_key_nor_assertion(
    site: Site, storage: Azurite, key: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    site.org.credentials(public_key=public_half(key))
    settings = {
        "SALESFORCE_CLIENT_SECRET": "",
        "SALESFORCE_USERNAME": site.org.username,
        "SALESFORCE_PRIVATE_KEY": key,
    }
    reports = [site.capture(ACCOUNT, seconds=2, settings=settings)]
    assert reports[0].outcome == "ok"
    site.org.credentials(public_key="nonsense")
    reports.append(site.capture(ACCOUNT, settings=settings))
    assert reports[1].outcome == "failed"
    secrets = known_secrets(site, storage, key)
    texts = [*said(site), caplog.text, *(json.dumps(report.to_json()) for report in reports)]
    assert_absent([*secrets, "eyJhbGciOi"], texts)  # so begins every assertion


def test_no_repr_and_no_exception_of_the_parts_holds_a_secret(site: Site, storage: Azurite, key: str) -> None:
    site.org.credentials(client_secret=SECRET)
    settings = load_settings(site.environment())
    credentials = app.credentials_of(settings)
    token = fetch_token(credentials)
    streaming = Streaming(token, "66.0")
    texts = [repr(each) for each in (settings, credentials, token, streaming, settings.storage)]
    texts += [str(each) for each in (settings, credentials, token)]
    with app.open_storage(settings) as service:
        texts += [repr(service), repr(service.container("x"))]
    site.org.fault("connect", "drop")
    for call in (
        lambda: streaming.post(b"[", "connect", timeout_s=2),
        lambda: streaming.post(b'[{"channel":"/meta/connect"}]', "connect", timeout_s=2),
        lambda: Streaming(token, "66.0/../../nowhere").post(b"[]", "connect", timeout_s=2),
        lambda: load_settings(site.environment() | {"SALESFORCE_PRIVATE_KEY": key}),
        lambda: load_settings(site.environment() | {"CDC_STORAGE": f"AccountName=x;AccountKey={storage.key}=="}),
        lambda: load_settings(site.environment() | {"CDC_RUN_SECONDS": SECRET, "CDC_START": SECRET}),
    ):
        try:
            texts.append(repr(call()))
        except Exception as error:
            texts += [repr(error), "".join(traceback.format_exception(error))]
    streaming.close()
    # A traceback shows the lines of code, this file's among them, but no values.
    assert_absent([storage.key, token.access_token, *key.splitlines()[1:-1]], texts)


def test_a_process_prints_no_secret_even_with_every_library_logging_all_it_can(site: Site, storage: Azurite) -> None:
    site.org.credentials(client_secret=SECRET)
    site.org.publish(ACCOUNT, 3)
    site.org.fault("subscribe", "drop")
    with spawn(site.environment(ACCOUNT), seconds=2) as process:
        out, log = process.communicate(timeout=30)
    assert json.loads(out)["outcome"] == "ok", log
    assert_absent(known_secrets(site, storage), [out, log])
