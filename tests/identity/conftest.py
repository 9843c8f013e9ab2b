"""A storage account that takes Entra tokens alone, as in Azure, and the places where an app gets them."""

from __future__ import annotations

import base64
import ipaddress
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.azurite import Azurite, azurite

CLIENT_ID = "6f1d9f0e-0000-4000-8000-000000000001"
HEADER_SECRET = "identity-header-of-this-app"


def private_key() -> rsa.RSAPrivateKey:
    """Return a new RSA key."""
    return rsa.generate_private_key(public_exponent=65_537, key_size=2_048)


def pem_of(key: rsa.RSAPrivateKey) -> str:
    """Return a private key as an app setting or a vault holds it."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def public_half(key: rsa.RSAPrivateKey) -> str:
    """Return the public half as the org holds it."""
    return (
        key.public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
        .decode()
    )


def entra_token(*, audience: str = "https://storage.azure.com", lifetime_s: int = 3600) -> str:
    """Return a token of the right shape; Azurite reads it and verifies no signature."""
    now = int(time.time())
    claims = {
        "aud": audience,
        "iss": "https://sts.windows.net/00000000-0000-4000-8000-000000000000/",
        "iat": now - 300,
        "nbf": now - 300,
        "exp": now + lifetime_s,
        "appid": CLIENT_ID,
    }
    parts = ({"alg": "RS256", "typ": "JWT"}, claims)
    encoded = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts)
    return ".".join([*encoded, base64.urlsafe_b64encode(b"signature").rstrip(b"=").decode()])


@dataclass
class IdentityEndpoint:
    """The address inside an app in Azure that gives out the tokens of its identities; what was asked is kept."""

    url: str = ""
    asked: list[dict[str, str]] = field(default_factory=list)
    refuses: bool = False
    audience: str = "https://storage.azure.com"

    def environment(self) -> dict[str, str]:
        """What Azure sets for the app."""
        return {"IDENTITY_ENDPOINT": self.url, "IDENTITY_HEADER": HEADER_SECRET}

    def answer(self, path: str, secret: str | None) -> tuple[int, dict[str, object]]:
        """Return status and body, as App Service answers (version 2019-08-01)."""
        self.asked.append({name: values[0] for name, values in parse_qs(urlsplit(path).query).items()})
        if self.refuses or secret != HEADER_SECRET:
            return 400, {"statusCode": 400, "message": "No User Assigned Managed Identity found for specified ClientId"}
        token = entra_token(audience=self.audience)
        return 200, {
            "access_token": token,
            "expires_on": str(int(time.time()) + 3600),
            "resource": self.asked[-1].get("resource", ""),
            "token_type": "Bearer",
            "client_id": CLIENT_ID,
        }


@pytest.fixture
def identity_endpoint() -> Iterator[IdentityEndpoint]:
    """A running identity endpoint."""
    endpoint = IdentityEndpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, answer = endpoint.answer(self.path, self.headers.get("X-IDENTITY-HEADER"))
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        endpoint.url = f"http://127.0.0.1:{server.server_address[1]}/msi/token"
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        yield endpoint
        server.shutdown()
        thread.join()


@dataclass(frozen=True)
class Certificate:
    """Where a self-signed certificate for 127.0.0.1 lies, and its key."""

    path: Path
    key_path: Path


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """A certificate that only a client that was told of it trusts."""
    folder, key = tmp_path_factory.mktemp("certificate"), private_key()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    (folder / "certificate.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_text(pem_of(key))
    return Certificate(folder / "certificate.pem", folder / "key.pem")


@pytest.fixture(scope="session")
def account(certificate: Certificate) -> Iterator[Azurite]:
    """A storage account over https that takes Entra tokens."""
    options = ("--oauth", "basic", "--cert", str(certificate.path), "--key", str(certificate.key_path))
    with azurite(*options, account="cdcidentity") as running:
        yield running
