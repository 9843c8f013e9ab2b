"""A token goes to Salesforce by checked TLS and nowhere else: no redirect, no look-alike, no plain http, no .netrc."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from cdc import exchange, layout, salesforce
from cdc.errors import CdcError, LoginRefused, RequestLost, RestFailed, SettingsInvalid
from cdc.rest import Rest
from cdc.salesforce import Credentials, Streaming, Token, fetch_token
from cdc.settings import load_settings
from cdc.store import checked_name
from tests.harness import ACCOUNT
from tests.hostile.fuzz import SETTINGS
from tests.hostile.raw_server import http, sending, serving

LOGIN = "https://acme.my.salesforce.com"
TOKEN = "00DRj000004kniQ!AR8.secret"

# --- instance_url ----------------------------------------------------------------------------------------------------

TRUSTED = (
    "https://acme.my.salesforce.com",
    "https://ACME.my.salesforce.com/",
    "https://acme.my.salesforce.com:443/any/path?x#y",
    "https://eu42.salesforce.com",
    "https://acme--uat.sandbox.my.salesforce.com",
    "https://acme.my.salesforce.mil",
    "https://acme.my.sfcrmproducts.cn",
)
DISTRUSTED = (
    "http://acme.my.salesforce.com",
    "ftp://acme.my.salesforce.com",
    "acme.my.salesforce.com",
    "//acme.my.salesforce.com",
    "",
    "https://",
    "https://salesforce.com",
    "https://evil-salesforce.com",
    "https://evilsalesforce.com",
    "https://salesforce.com.evil.org",
    "https://acme.my.salesforce.com.evil.org",
    "https://evil.org/acme.my.salesforce.com",
    "https://evil.org?.salesforce.com",
    "https://evil.org#.salesforce.com",
    "https://evil.org\\.salesforce.com",
    "https://evil.org\\@acme.my.salesforce.com",
    "https://evil.org%2f.salesforce.com",
    "https://evil.org%00.salesforce.com",
    "https://evil.org\x00.salesforce.com",
    "https://evil.org\t.evil.org/.salesforce.com",
    "https://evil.org .salesforce.com",
    "https://evil.org:443.salesforce.com",
    "https://acme.my.salesforce.com@evil.org",
    "https://acme.my.salesforce.com:443@evil.org",
    "https://user@acme.my.salesforce.com",
    "https://user:password@acme.my.salesforce.com",
    "https://@acme.my.salesforce.com",
    "https://acme.my.salesforce.com:8443",
    "https://acme.my.salesforce.com:99999",
    "https://acme.my.salesforce.com:x",
    "https://acme.my.salesforce.com.",
    "https://.salesforce.com",
    "https://-.salesforce.com",
    "https://a_b.salesforce.com",
    "https://acme.my.\u017falesforce.com",
    "https://acme.my.salesforce\uff0ecom",
    "https://\u0430cme.salesforce.com",
    "https://acme\u2044.salesforce.com",
    "https://127.0.0.1",
    "http://127.0.0.1:8080",
    "http://localhost",
    "https://[::1]",
    "https://[::1",
    "https://[acme.salesforce.com]",
    "https://169.254.169.254",
    "javascript:alert(1)//.salesforce.com",
)


def read(instance_url: str, login_url: str = LOGIN) -> Token:
    """The token of an answer that names this instance."""
    fields = {"access_token": TOKEN, "instance_url": instance_url}
    return salesforce._read_token(fields, login_url + "/services/oauth2/token")


@pytest.mark.parametrize("url", TRUSTED)
def test_an_instance_of_salesforces_is_trusted_and_only_its_host_is_kept(url: str) -> None:
    found = read(url).instance_url
    assert found.startswith("https://")
    assert found.count("/") == 2
    assert found == found.lower()


@pytest.mark.parametrize("url", DISTRUSTED)
def test_no_other_instance_gets_the_token(url: str) -> None:
    with pytest.raises(LoginRefused) as caught:
        read(url)
    assert "not Salesforce's" in str(caught.value)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    "host", ["127.0.0.1.evil.org", "localhost.evil.org", "127.0.0.1:80@evil.org", "127.1", "0.0.0.0"]
)
def test_what_only_looks_like_this_machine_is_not_it(host: str) -> None:
    assert not exchange.is_loopback(f"http://{host}")
    with pytest.raises(LoginRefused):
        read(f"http://{host}", "http://127.0.0.1:8765")
    with pytest.raises(SettingsInvalid, match="SALESFORCE_LOGIN_URL"):
        load_settings(SETTINGS | {"SALESFORCE_LOGIN_URL": f"http://{host}"})


@pytest.mark.parametrize("host", ["127.0.0.1:8765", "localhost:80", "[::1]:9", "127.8.9.1"])
def test_only_where_the_login_is_on_this_machine_an_instance_on_it_is_taken(host: str) -> None:
    assert read(f"http://{host}", "http://localhost:1").instance_url == f"http://{host}"
    with pytest.raises(LoginRefused):
        read(f"http://{host}")


def test_an_instance_at_the_login_host_itself_is_trusted_at_its_port_alone() -> None:
    login = "https://salesforce-proxy.acme.example:8443"
    assert read(login, login).instance_url == login
    with pytest.raises(LoginRefused):
        read("https://salesforce-proxy.acme.example", login)


@pytest.mark.parametrize(
    "token", ["s3cr3t!", "s3cr3ts3cr3ts3cr3t!x", "00Dshort!x", "eyJhbGciOi.J9.x", "005Rj000004kniQ!x"]
)
def test_no_part_of_a_token_passes_for_an_org_id(token: str) -> None:
    fields = {"access_token": token, "instance_url": LOGIN, "id": "https://x/id/" + "a" * 4_000 + "/b"}
    assert salesforce._read_token(fields, LOGIN).org_id == ""


# --- redirects, .netrc -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["301 x", "302 x", "303 x", "307 x", "308 x"])
def test_a_redirect_leads_neither_token_nor_credentials_away(status: str) -> None:
    with serving(sending(http(b"[]"))) as elsewhere:
        with serving(sending(http(b"", f"Location: {elsewhere.url}/x", status=status))) as server:
            token = Token(TOKEN, server.url, "", "")
            with pytest.raises(RequestLost, match="redirected"):
                Streaming(token, "66.0").post(b"[]", "connect", timeout_s=5)
            with pytest.raises(RequestLost, match="redirected"):
                fetch_token(Credentials(server.url, "id", "the-client-secret"))
            now = datetime.now(UTC)
            with pytest.raises(RestFailed):
                Rest(token, "66.0").has_changes(ACCOUNT, now - timedelta(hours=1), now)
        assert elsewhere.requests == []
        assert len(server.requests) == 3


def test_netrc_adds_and_replaces_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text(
        "machine 127.0.0.1 login someone password netrc-password\ndefault login x password netrc-password\n"
    )
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setattr(exchange, "is_loopback", lambda url: False)  # as for any host of the world
    with serving(sending(http(b"[]"))) as server:
        Streaming(Token(TOKEN, server.url, "", ""), "66.0").post(b"[]", "connect", timeout_s=5)
        with pytest.raises(RequestLost):
            fetch_token(Credentials(server.url, "id", "the-client-secret"))
    with_token, without = (request.partition(b"\r\n\r\n")[0] for request in server.requests)
    assert f"Authorization: Bearer {TOKEN}".encode() in with_token
    assert b"Authorization" not in without


# --- TLS -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A key and a certificate of 127.0.0.1 that nobody vouches for."""
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    path.write_bytes(pem + signed.public_bytes(Encoding.PEM))
    return path


@pytest.fixture(scope="module")
def self_signed(certificate: Path) -> ssl.SSLContext:
    """A server's context with that certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    return context


@pytest.fixture
def impostor(self_signed: ssl.SSLContext) -> Iterator[str]:
    """A server that would take any token, if it were given one."""
    with serving(sending(http(b"[]")), tls=self_signed) as server:
        yield server.url
        assert server.requests == []


def test_a_certificate_that_nobody_vouches_for_is_refused_in_words_before_anything_is_sent(impostor: str) -> None:
    token = Token(TOKEN, impostor, "", "")
    with pytest.raises(RequestLost, match=r"TLS failed \(certificate verify failed\)") as caught:
        Streaming(token, "66.0").post(b"[]", "connect", timeout_s=5)
    assert "certificate is not trusted" in caught.value.hint
    with pytest.raises(RequestLost, match="TLS failed"):
        fetch_token(Credentials(impostor, "id", "the-client-secret"))
    now = datetime.now(UTC)
    with pytest.raises(RestFailed):
        Rest(token, "66.0").has_changes(ACCOUNT, now - timedelta(hours=1), now)


def test_a_certificate_that_the_environment_vouches_for_is_accepted_on_loopback_past_any_proxy(
    self_signed: ssl.SSLContext, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:1")  # nobody listens there
    with serving(sending(http(b"[]")), tls=self_signed) as server:
        assert Streaming(Token(TOKEN, server.url, "", ""), "66.0").post(b"[]", "connect", timeout_s=5).body == b"[]"


@pytest.mark.parametrize("name", ["PYTHONHTTPSVERIFY", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_no_environment_variable_turns_the_check_off(impostor: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "0" if name.startswith("PYTHON") else "")
    with pytest.raises(RequestLost, match="TLS failed"):
        Streaming(Token(TOKEN, impostor, "", ""), "66.0").post(b"[]", "connect", timeout_s=5)


@pytest.mark.parametrize(
    ("setting", "url"),
    [
        ("SALESFORCE_LOGIN_URL", "http://acme.my.salesforce.com"),
        ("SALESFORCE_LOGIN_URL", "https://user:pass@acme.my.salesforce.com"),
        ("SALESFORCE_LOGIN_URL", "https://evil.org\\.my.salesforce.com"),
        ("SALESFORCE_LOGIN_URL", "https://evil.org%2f.salesforce.com"),
        ("SALESFORCE_LOGIN_URL", "ftp://acme.my.salesforce.com"),
        ("CDC_STORAGE__blobServiceUri", "http://acme.blob.core.windows.net"),
        ("CDC_STORAGE__blobServiceUri", "https://acme.blob.core.windows.net/?sig=abc"),
    ],
)
def test_settings_take_no_address_without_tls_or_with_anything_beside_the_host(setting: str, url: str) -> None:
    environment = {name: value for name, value in SETTINGS.items() if name != "CDC_STORAGE" or "blob" not in setting}
    with pytest.raises(SettingsInvalid, match=setting) as caught:
        load_settings(environment | {setting: url})
    assert url not in str(caught.value)


# --- names -----------------------------------------------------------------------------------------------------------

ESCAPES = (
    "/data/../../x",
    "/data/..",
    "/data/AccountChangeEvent/../../x",
    "/data/AccountChangeEvent\n",
    "/data/AccountChangeEvent\x00.json",
    "/data//AccountChangeEvent",
    "/data/%2e%2e",
    "/data/a\\..\\b",
    "\\data\\AccountChangeEvent",
    "//evil.org/data/AccountChangeEvent",
    "/data/\u202etnevE",
    "/data/\uff21ccountChangeEvent",
    "/data/" + "A" * 300 + "ChangeEvent",
    "/generations/data/AccountChangeEvent",
    "/quarantine/data/AccountChangeEvent",
    "/event/Order__e/x",
    "/meta/connect",
    "/data/*",
    "/**",
    ".",
    "",
)


@pytest.mark.parametrize("channel", [name for name in ESCAPES if name.strip()])
def test_no_channel_that_would_leave_its_folder_is_taken_from_the_settings(channel: str) -> None:
    with pytest.raises(SettingsInvalid, match="CDC_CHANNELS"):
        load_settings(SETTINGS | {"CDC_CHANNELS": f"/data/ContactChangeEvent,{channel}/"})


@pytest.mark.parametrize("channel", [*ESCAPES, "\ud800", "/data/" + "x" * 100_000, None])
def test_a_stray_of_any_channel_lies_in_quarantine_and_nowhere_else(channel: str | None) -> None:
    name = layout.quarantine_name(channel, b"content")
    folder, digest = name.rsplit("/", 1)
    assert folder == "quarantine/unknown"
    assert len(digest) == 64 + len(".json")
    assert checked_name(name) == name


def test_all_that_is_raised_here_says_what_to_do() -> None:
    for call in (lambda: read("https://evil.org"), lambda: fetch_token(Credentials("https://127.0.0.1:9", "id", "x"))):
        with pytest.raises(CdcError) as caught:
            call()
        assert caught.value.hint
