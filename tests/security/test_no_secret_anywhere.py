"""Whatever goes wrong, no secret stands in what is logged, emitted, reported, raised, shown or stored."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

from cdc import app, salesforce
from cdc.errors import CdcError
from cdc.landing import ChannelLog, StorageLog
from cdc.rest import Rest
from cdc.salesforce import Streaming, fetch_token
from cdc.session import CometDSession
from cdc.settings import load_settings
from cdc.signals import LOGGER, format_event
from cdc.store import open_service
from tests.azurite import Azurite
from tests.harness import ACCOUNT, CONTACT, Site
from tests.hostile.raw_server import http, sending, serving
from tests.one_run import spawn
from tests.security.witness import Leak, Witness, listening

SECRET = "Qx7&client+secret/with=odd characters"
SAS = "sv=2026-02-06&ss=b&srt=sco&sp=rwl&se=2030-01-01&sig=c2lnbmF0dXJlLW9mLWEtU0FTLXRva2VuLTEyMzQ1Njc4OTA%3D"

FAULTS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "token refused, the secret echoed": {
        "on": "token",
        "do": "status",
        "status": 400,
        "body": json.dumps({"error": f"bad {SECRET}", "error_description": "x" * 490 + SECRET}),
    },
    "token endpoint down": {"on": "token", "do": "status", "status": 503, "body": SECRET},
    "token answer cut": {"on": "token", "do": "truncate", "keep": 0.7},
    "token answer garbled": {"on": "token", "do": "garble"},
    "handshake refused": {"on": "handshake", "do": "reply", "like": "handshake_auth_invalid", "times": -1},
    "handshake lost": {"on": "handshake", "do": "reset"},
    "connect dropped": {"on": "connect", "do": "drop"},
    "connect refused": {"on": "connect", "do": "reply", "like": "auth_invalid", "times": -1},
    "connect is a web page": {"on": "connect", "do": "html", "body": "<html>hello</html>"},
    "connect redirected": {
        "on": "connect",
        "do": "status",
        "status": 307,
        "headers": {"Location": "http://127.0.0.1:9/"},
    },
    "connect garbled": {"on": "connect", "do": "garble", "only_with_events": True},
    "subscribe truncated": {"on": "subscribe", "do": "truncate_clean"},
    "subscribe refused": {"on": "subscribe", "do": "reply", "reply": {"error": "403::Restricted channel"}},
    "disconnect reset": {"on": "disconnect", "do": "reset"},
    "day's deliveries used up": {"on": "connect", "do": "reply", "like": "daily_limit", "after": 1},
}


@pytest.fixture
def witness() -> Iterator[Witness]:
    """What everybody says during a test, with the product's own quieting and no more."""
    before = LOGGER.level
    app.quiet_foreign_logs()
    LOGGER.setLevel(logging.DEBUG)
    with listening(Witness()) as listener:
        yield listener
    LOGGER.setLevel(before)


def secrets_of(site: Site, storage: Azurite) -> set[str]:
    """What was configured, and what the server has given out: tokens and cookies."""
    site.org.clear_faults()
    token = fetch_token(app.credentials_of(load_settings(site.environment()))).access_token
    cookies = {value for entry in site.asked() for value in entry["cookies"].values()}
    return {SECRET, storage.key, token, token.partition("!")[2], *cookies}


def hear_stored(site: Site, witness: Witness) -> None:
    """Take down every blob: its name, metadata and content."""
    witness.hear("blob", *site.log.everything())


def test_in_no_run_whatever_fault_it_meets(site: Site, storage: Azurite, witness: Witness) -> None:
    site.org.credentials(client_secret=SECRET)
    site.org.knobs(reuse_token=True)
    for fault in FAULTS.values():
        site.org.clear_faults()
        if fault:
            site.org.fault(**fault)
        site.org.publish(ACCOUNT, 2)
        report = site.capture(ACCOUNT, CONTACT, seconds=0.4)
        witness.hear("report", repr(report), json.dumps(report.to_json()), report.summary())
        for name, fields in site.said.events:
            witness.hear("event", format_event(name, fields), repr(fields))
    site.org.raw(ACCOUNT, b'{"channel":"/data/AccountChangeEvent","no":"replay id"}')
    site.capture(ACCOUNT)
    hear_stored(site, witness)
    assert {"report", "event", "blob"} <= witness.heard.keys()
    witness.check(secrets_of(site, storage))


def test_in_no_error_nor_in_what_it_hides_nor_in_any_repr(site: Site, storage: Azurite, witness: Witness) -> None:
    site.org.credentials(client_secret=SECRET)
    environment = site.environment()
    settings = load_settings(environment)
    credentials = app.credentials_of(settings)
    token = fetch_token(credentials)
    streaming = Streaming(token, "66.0")
    session = CometDSession(streaming)
    session.handshake(timeout_s=5)
    sas = open_service(connection_string=f"BlobEndpoint=https://a.example/;SharedAccessSignature={SAS}")
    with closing(sas), app.open_storage(settings) as service:
        container = service.container("witness")
        log = StorageLog(container, container, run_id="r", now=lambda: None)  # type: ignore[arg-type,return-value]
        shown: list[Any] = [settings, settings.storage, settings.channel_groups, credentials, token, streaming, session]
        shown += [
            Rest(token, "66.0"),
            service,
            sas,
            container,
            sas.container("x"),
            log,
            ChannelLog(log, ACCOUNT, print),
        ]
        shown.append(session.connect(answer_within_ms=0, timeout_s=5))
        for each in shown:
            witness.hear(f"repr {type(each).__name__}", repr(each), str(each))
    for act in _mistakes(site, environment, credentials, token):
        try:
            witness.hear("repr", repr(act()))
        except Exception as error:
            witness.hear_error(error)
    streaming.close()
    assert sum(where.startswith("error") for where in witness.heard) >= 4
    sent = SAS.partition("sig=")[2]
    witness.check({*secrets_of(site, storage), token.access_token, sent, sent.removesuffix("%3D")})


def _mistakes(site: Site, environment: dict[str, str], credentials: Any, token: Any) -> Iterator[Callable[[], Any]]:
    """Calls that go wrong, each in another way."""
    dead = salesforce.Token(token.access_token, "http://127.0.0.1:9", "", "")
    yield lambda: Streaming(dead, "66.0").post(b"[]", "connect", timeout_s=1)
    yield lambda: fetch_token(salesforce.Credentials("https://127.0.0.1:9", "id", SECRET))
    yield lambda: Rest(dead, "66.0").entities("/data/ChangeEvents")
    yield lambda: fetch_token(salesforce.Credentials(site.org.url, "id", SECRET, "user", SECRET))
    for name, value in (
        ("CDC_STORAGE", f"AccountName=a;AccountKey={environment['CDC_STORAGE'].partition('AccountKey=')[2][:40]}"),
        ("CDC_STORAGE", f"https://a.blob.core.windows.net/?{SAS}"),
        ("CDC_STORAGE__blobServiceUri", f"https://a.blob.core.windows.net/?{SAS}"),
        ("SALESFORCE_LOGIN_URL", f"https://user:{SECRET}@acme.my.salesforce.com"),
        ("SALESFORCE_PRIVATE_KEY", f"-----BEGIN PRIVATE KEY-----\n{SECRET}\n-----END PRIVATE KEY-----"),
        ("CDC_SCHEDULE", SECRET),
        ("CDC_RUN_SECONDS", SECRET),
        ("CDC_START", SECRET),
        ("CDC_EVENTS_CONTAINER", SECRET),
    ):
        yield lambda name=name, value=value: load_settings(environment | {name: value})
    yield lambda: open_service(connection_string=f"AccountName=a;AccountKey={SECRET}")
    yield lambda: open_service(account_url=f"https://a.blob.core.windows.net/?{SAS}")


def test_in_no_log_where_the_server_sends_headers_that_no_parser_likes(witness: Witness) -> None:
    cookie = "BAYEUX_BROWSER=5up3r-s3cret-c00kie"
    head = f"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n: odd\r\nno colon at all\r\nSet-Cookie: {cookie}\r\n\r\n[]"
    with serving(sending(head.encode())) as server:
        Streaming(salesforce.Token("tok3n-tok3n", server.url, "", ""), "66.0").post(b"[]", "connect", timeout_s=5)
    witness.check([cookie.partition("=")[2]])


def test_in_nothing_that_a_process_prints(site: Site, storage: Azurite) -> None:
    site.org.credentials(client_secret=SECRET)
    site.org.publish(ACCOUNT, 3)
    site.org.fault("subscribe", "drop")
    witness = Witness()
    with spawn(site.environment(ACCOUNT), seconds=1) as process:
        out, log = process.communicate(timeout=30)
    witness.hear("stdout", out)
    witness.hear("stderr", log)
    assert "channel.finished" in log
    witness.check(secrets_of(site, storage))


# name -> how a leak would come about; each must be found
PLANTS: dict[str, Callable[[Witness], None]] = {
    "in a log of ours": lambda _: LOGGER.error("token %s", SECRET),
    "in a log of a library": lambda _: logging.getLogger("some.library").debug("%r", {"Authorization": SECRET}),
    "in a form body": lambda witness: witness.hear("x", "secret=Qx7%26client%2Bsecret%2Fwith%3Dodd+characters&a=b"),
    "in a URL": lambda witness: witness.hear("x", "https://a.b/?s=Qx7%26client%2Bsecret%2Fwith%3Dodd%20characters"),
    "in a header": lambda witness: witness.hear("x", "Basic UXg3JmNsaWVudCtzZWNyZXQvd2l0aD1vZGQgY2hhcmFjdGVycw=="),
    "in a blob": lambda witness: witness.hear("blob", b'{"orgId":"' + SECRET.encode() + b'"}'),
    "in a hint": lambda witness: witness.hear_error(CdcError("x", hint=f"use {SECRET}")),
    "in a hidden cause": lambda witness: _raise_hidden(witness),
}


def _raise_hidden(witness: Witness) -> None:
    try:
        try:
            raise ValueError(SECRET)
        except ValueError:
            raise CdcError("harmless", hint="none") from None
    except CdcError as error:
        witness.hear_error(error)


@pytest.mark.parametrize("plant", PLANTS)
def test_a_planted_leak_is_found_and_not_repeated(plant: str, witness: Witness) -> None:
    witness.check([SECRET])
    PLANTS[plant](witness)
    with pytest.raises(Leak) as caught:
        witness.check([SECRET])
    assert SECRET not in str(caught.value)


def test_a_leak_planted_in_the_product_itself_is_found(
    site: Site, storage: Azurite, witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    careless = salesforce.exchange

    def leaking(session: Any, url: str, what: str, **more: Any) -> Any:
        answer = careless(session, url, what, **more)
        logging.getLogger("cdc").debug("cookies %s", session.cookies.get_dict())
        return answer

    monkeypatch.setattr(salesforce, "exchange", leaking)
    site.capture(ACCOUNT)
    with pytest.raises(Leak):
        witness.check(secrets_of(site, storage))


def test_an_honest_answer_leaves_nothing_behind(witness: Witness) -> None:
    with serving(sending(http(b"[]", "Set-Cookie: BAYEUX_BROWSER=5up3r-s3cret-c00kie"))) as server:
        Streaming(salesforce.Token("tok3n-tok3n", server.url, "", ""), "66.0").post(b"[]", "connect", timeout_s=5)
    witness.check(["5up3r-s3cret-c00kie", "tok3n-tok3n"])
