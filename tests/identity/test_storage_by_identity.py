"""Storage without a key: tokens of a managed identity in Azure, of whatever is signed in elsewhere, over https."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import pytest
from azure.storage.blob import BlobServiceClient

from cdc.errors import StorageForbidden, StorageUnavailable
from cdc.store import Patience, open_service
from emulator.client import Emulator
from tests.azurite import Azurite
from tests.harness import ACCOUNT, capture
from tests.identity.conftest import CLIENT_ID, Certificate, IdentityEndpoint, entra_token

BRIEFLY = Patience(2, 5, repetitions=0)
JSON = "application/json"


@pytest.fixture(autouse=True)
def _trusted(certificate: Certificate, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust the account's certificate as a person would, and let nothing of this machine's own sign-in through."""
    for name in [name for name in os.environ if name.startswith(("AZURE_", "IDENTITY_", "MSI_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate.path))


def lines_landed(account: Azurite, certificate: Certificate, container: str) -> list[bytes]:
    """Return every landed line, read with the account's key."""
    connection = f"{account.connection_string}DefaultEndpointsProtocol=https;"
    with BlobServiceClient.from_connection_string(connection, connection_verify=str(certificate.path)) as service:
        events = service.get_container_client(container)
        names = sorted(blob.name for blob in events.list_blobs(name_starts_with="data/"))
        return [line for name in names for line in events.download_blob(name).readall().splitlines()]


def test_a_run_lands_by_the_managed_identity_that_the_settings_name(
    org: Emulator, account: Azurite, certificate: Certificate, identity_endpoint: IdentityEndpoint,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """As in Azure: the settings of infra/app/function.bicep, the identity endpoint, and no key anywhere."""
    for name, value in identity_endpoint.environment().items():
        monkeypatch.setenv(name, value)
    org.publish(ACCOUNT, 20)
    settings = {
        "SALESFORCE_LOGIN_URL": org.url,
        "SALESFORCE_CLIENT_ID": org.client_id,
        "SALESFORCE_CLIENT_SECRET": org.client_secret,
        "CDC_CHANNELS": ACCOUNT,
        "CDC_START": "earliest",
        "CDC_STORAGE__blobServiceUri": account.url,
        "CDC_STORAGE__clientId": CLIENT_ID,
        "CDC_EVENTS_CONTAINER": "by-identity",
        "CDC_CHECKPOINTS_CONTAINER": "by-identity-state",
        "AzureWebJobsStorage__blobServiceUri": "https://host.invalid",
    }
    report = capture(settings, seconds=2)
    assert (report.outcome, report.problems) == ("ok", [])
    assert lines_landed(account, certificate, "by-identity") == org.deliveries(ACCOUNT)
    assert {asked["resource"] for asked in identity_endpoint.asked} == {"https://storage.azure.com"}
    assert {asked["client_id"] for asked in identity_endpoint.asked} == {CLIENT_ID}


def test_outside_azure_whoever_is_signed_in_opens_the_account(
    account: Azurite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DefaultAzureCredential, with an `az` on the PATH that is signed in."""
    token = {
        "accessToken": entra_token(),
        "expires_on": 4102444800,
        "tokenType": "Bearer",
        "tenant": "t",
        "subscription": "s",
    }
    program = tmp_path / "az"
    program.write_text(f"#!{sys.executable}\nprint({json.dumps(token)!r})\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("AZURE_TOKEN_CREDENTIALS", "AzureCliCredential")
    service = open_service(account_url=account.url, patience=BRIEFLY)
    container = service.container("by-whoever")
    assert container.ensure()
    container.create("data/a", b"1", content_type=JSON)
    found = container.read("data/a")
    assert found is not None
    assert found.body == b"1"
    service.close()


def test_an_identity_that_does_not_exist_is_named_with_the_setting_that_chose_it(
    account: Azurite, identity_endpoint: IdentityEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in identity_endpoint.environment().items():
        monkeypatch.setenv(name, value)
    identity_endpoint.refuses = True
    service = open_service(account_url=account.url, client_id="wrong", has_managed_identity=True, patience=BRIEFLY)
    with pytest.raises(StorageForbidden, match="no token for storage") as raised:
        service.container("events").head("a")
    assert "CDC_STORAGE__clientId" in raised.value.hint
    service.close()


def test_a_token_that_the_account_does_not_take_is_a_lacking_right(
    account: Azurite, identity_endpoint: IdentityEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in identity_endpoint.environment().items():
        monkeypatch.setenv(name, value)
    identity_endpoint.audience = "https://vault.azure.net"
    service = open_service(account_url=account.url, has_managed_identity=True, patience=BRIEFLY)
    with pytest.raises(StorageForbidden) as raised:
        service.container("events").head("a")
    assert entra_token(audience=identity_endpoint.audience).split(".")[1] not in str(raised.value)
    service.close()


def test_a_certificate_that_nobody_vouches_for_ends_the_connection(
    account: Azurite, identity_endpoint: IdentityEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in identity_endpoint.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("REQUESTS_CA_BUNDLE")
    service = open_service(account_url=account.url, has_managed_identity=True, patience=BRIEFLY)
    with pytest.raises(StorageUnavailable):
        service.container("events").head("a")
    service.close()
