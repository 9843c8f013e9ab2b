"""How answers and failures become errors, which say what, where and what next, and never hold a secret."""

from __future__ import annotations

import gc
import logging
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from azure.core.credentials import AccessToken
from azure.core.exceptions import ClientAuthenticationError
from azure.identity import CredentialUnavailableError, DefaultAzureCredential, ManagedIdentityCredential

from cdc import store
from cdc.errors import (
    BlobChanged,
    BlobExists,
    CdcError,
    ContainerMissing,
    SettingsInvalid,
    StorageError,
    StorageForbidden,
    StorageUnavailable,
)
from cdc.store import BlobService, Container, Patience, open_service
from tests.azurite import azurite
from tests.store.scripted_server import SECRET, ScriptedServer
from tests.store.test_store_contract import LINES, VERBS

IMPATIENT = Patience(connect_s=0.5, read_s=0.5, repetitions=0)
BROKEN_OFF = """\
Content-Type: application/xml\r
Content-Length: 100\r
Content-Range: bytes 0-99/100\r
ETag: "0x1"\r
Last-Modified: Mon, 23 Nov 2026 00:00:00 GMT"""

ANSWERS: list[tuple[int, str | None, type[StorageError]]] = [
    (401, None, StorageForbidden),
    (401, "NoAuthenticationInformation", StorageForbidden),
    (400, "InvalidAuthenticationInfo", StorageForbidden),
    (403, None, StorageForbidden),
    (403, "AuthenticationFailed", StorageForbidden),
    (403, "AuthorizationFailure", StorageForbidden),
    (403, "AuthorizationPermissionMismatch", StorageForbidden),
    (403, "KeyBasedAuthenticationNotPermitted", StorageForbidden),
    (404, "ContainerNotFound", ContainerMissing),
    (404, None, StorageError),
    (404, "ResourceNotFound", StorageError),
    (400, "InvalidResourceName", StorageError),
    (409, "ContainerBeingDeleted", StorageUnavailable),
    (409, "BlobImmutableDueToPolicy", StorageError),
    (409, None, StorageError),
    (412, "LeaseIdMissing", StorageError),
    (412, None, StorageError),
    (429, None, StorageUnavailable),
    (500, None, StorageUnavailable),
    (500, "InternalError", StorageUnavailable),
    (500, "OperationTimedOut", StorageUnavailable),
    (503, "ServerBusy", StorageUnavailable),
    (507, "SomethingNew", StorageUnavailable),
]


Open = Callable[..., Container]


@pytest.fixture
def at() -> Iterator[Open]:
    """Opens containers at a host or port of this machine, and closes their connections in the end."""
    services: list[BlobService] = []

    def at(address: str | int, patience: Patience = IMPATIENT) -> Container:
        host = f"127.0.0.1:{address}" if isinstance(address, int) else address
        string = f"BlobEndpoint=http://{host}/account;SharedAccessSignature=sv=2026-02-06&sig={SECRET}"
        services.append(open_service(connection_string=string, patience=patience))
        return services[-1].container("far")

    yield at
    for service in services:
        service.close()


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(("status", "code", "kind"), ANSWERS)
def test_every_verb_maps_an_answer_to_the_same_error(
    far: Container, server: ScriptedServer, verb: str, status: int, code: str | None, kind: type[StorageError]
) -> None:
    server.fail(status, code)
    error = failure(far, verb)
    assert type(error) is kind
    assert "container far at 127.0.0.1:" in str(error)
    assert str(error).endswith(f": {status} {code or 'without a storage error code'}")
    assert error.hint
    assert_no_secret(error)


def test_only_blob_already_exists_means_that_a_blob_exists(far: Container, server: ScriptedServer) -> None:
    server.fail(409, "BlobAlreadyExists")
    assert type(failure(far, "create")) is BlobExists
    assert type(failure(far, "replace nothing")) is BlobChanged
    for code in ("ContainerBeingDeleted", "BlobImmutableDueToPolicy", "LeaseIdMissing", "ResourceTypeMismatch", None):
        server.fail(409, code)
        assert not isinstance(failure(far, "create"), BlobExists)
        assert not isinstance(failure(far, "replace nothing"), BlobChanged)


def test_only_blob_not_found_means_that_there_is_no_blob(far: Container, server: ScriptedServer) -> None:
    server.fail(404, "BlobNotFound")
    assert far.read("a") is None
    assert far.head("a") is None
    assert type(failure(far, "replace something")) is BlobChanged


def test_ensure_takes_anothers_creation_for_a_container_that_exists(far: Container, server: ScriptedServer) -> None:
    server.fail(404, "ContainerNotFound")
    with pytest.raises(ContainerMissing):
        far.ensure()
    server.fail(409, "ContainerAlreadyExists")
    with pytest.raises(StorageError):
        far.ensure()


@pytest.mark.parametrize(
    ("status", "code", "kind"), [(403, "AuthorizationFailure", StorageForbidden), (503, None, StorageUnavailable)]
)
def test_ensure_never_takes_a_failure_for_a_missing_container(
    far: Container, server: ScriptedServer, status: int, code: str | None, kind: type[StorageError]
) -> None:
    server.fail(status, code)
    with pytest.raises(kind):
        far.ensure()
    assert [method for method, _, _ in server.requests] == ["HEAD"]


def test_the_hint_of_a_refusal_names_the_role_and_the_firewall(far: Container, server: ScriptedServer) -> None:
    server.fail(403, "AuthorizationFailure")
    hint = failure(far, "create").hint
    assert 'role "Storage Blob Data Contributor" on the container' in hint
    assert "firewall" in hint


def test_a_refused_connection_is_unavailable_at_once(at: Open) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        error = failure(at(free.getsockname()[1]), "read")
    assert type(error) is StorageUnavailable
    assert str(error).endswith(": connection refused (ConnectionRefusedError)")
    assert_no_secret(error)


def test_an_unknown_host_is_unavailable(at: Open) -> None:
    error = failure(at("nowhere.invalid"), "create")
    assert type(error) is StorageUnavailable
    assert "at nowhere.invalid: " in str(error)
    assert_no_secret(error)


def test_a_silent_server_is_unavailable_after_the_time_out(at: Open, server: ScriptedServer) -> None:
    server.hangs_s = 10
    started = time.monotonic()
    error = failure(at(server.port), "create")
    assert type(error) is StorageUnavailable
    assert time.monotonic() - started < 8
    assert_no_secret(error)


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # the SDK drops an answer that it stumbles over
@pytest.mark.parametrize("verb", ["read", "names", "folders"])
def test_an_answer_that_breaks_off_is_unavailable(at: Open, verb: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(f"HTTP/1.1 206 OK\r\n{BROKEN_OFF}\r\n\r\n<only this>".encode())

        thread = threading.Thread(target=answer)
        thread.start()
        error = failure(at(listener.getsockname()[1]), verb)
        thread.join()
    assert isinstance(error, StorageUnavailable)
    assert_no_secret(error)
    gc.collect()


@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")  # the SDK drops an answer that it stumbles over
@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("status", [200, 201, 206, 302])
@pytest.mark.parametrize("body", [b"", b"<html/>", b"<p>not XML"])
def test_a_strangers_answer_is_never_taken_for_success(
    far: Container, server: ScriptedServer, verb: str, status: int, body: bytes
) -> None:
    server.status, server.headers, server.body = status, {"Content-Type": "text/html", "Location": "/portal"}, body
    assert_no_secret(failure(far, verb))
    gc.collect()
    assert len(server.requests) == 1


def test_a_server_error_is_repeated_and_then_reported(at: Open, server: ScriptedServer) -> None:
    server.fail(503, "ServerBusy")
    assert type(failure(at(server.port, Patience(1, 1, 1)), "create")) is StorageUnavailable
    assert len(server.requests) == 2


def test_40_megabytes_are_one_put(at: Open, server: ScriptedServer) -> None:
    at(server.port, Patience()).create("a/b", bytes(40_000_000), content_type=LINES)
    [(method, path, size)] = server.requests
    assert (method, path.partition("?")[0], size) == ("PUT", "/account/far/a/b", 40_000_000)
    assert "comp=" not in path


def test_an_upload_may_take_longer_than_the_connect_time_out_as_long_as_it_moves(
    at: Open, server: ScriptedServer
) -> None:
    server.reading_pause_s = 0.15
    started = time.monotonic()
    at(server.port, Patience(connect_s=1.5, read_s=20, repetitions=0)).create("a", bytes(30 << 20), content_type=LINES)
    assert time.monotonic() - started > 1.5
    assert len(server.requests) == 1


def test_16_threads_share_the_connections_without_a_warning(
    at: Open, server: ScriptedServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    container = at(server.port, Patience(5, 5, repetitions=0))
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda n: container.create(f"a/{n}", b"x", content_type=LINES), range(64)))
    assert caplog.records == []


@pytest.mark.parametrize("refusal", [CredentialUnavailableError, ClientAuthenticationError])
def test_no_token_is_forbidden_at_once(monkeypatch: pytest.MonkeyPatch, refusal: type[Exception]) -> None:
    monkeypatch.setattr(store, "_credential", lambda *_: ScriptedCredential(refusal(f"no {SECRET}")))
    service = open_service(account_url="https://nowhere.invalid", patience=Patience())
    for verb in VERBS:
        error = failure(service.container("far"), verb)
        assert type(error) is StorageForbidden
        assert f": no token for storage ({refusal.__name__})" in str(error)
        assert "CDC_STORAGE__clientId" in error.hint
        assert_no_secret(error)
    service.close()


def test_a_token_is_never_sent_in_clear(monkeypatch: pytest.MonkeyPatch, server: ScriptedServer) -> None:
    monkeypatch.setattr(store, "_credential", lambda *_: ScriptedCredential(None))
    with pytest.raises(SettingsInvalid, match="CDC_STORAGE__blobServiceUri"):
        open_service(account_url=f"http://127.0.0.1:{server.port}")
    assert server.requests == []


def test_the_managed_identity_alone_is_asked_where_there_is_one() -> None:
    client_id = "11111111-2222-3333-4444-555555555555"
    assert isinstance(store._credential(client_id, True), ManagedIdentityCredential)
    assert isinstance(store._credential(None, True), ManagedIdentityCredential)
    assert isinstance(store._credential(client_id, False), DefaultAzureCredential)


@pytest.mark.parametrize(
    "value",
    [
        "nonsense",
        f"AccountKey={SECRET}",
        f"AccountName=a;AccountKey=not base64 {SECRET}",
        f"DefaultEndpointsProtocol=https;AccountName={SECRET}",
        f"BlobEndpoint=https://a.blob.core.windows.net/;{SECRET}",
        f"BlobEndpoint=https://[::{SECRET};SharedAccessSignature=sig={SECRET}",
        f"BlobEndpoint=https://a:port{SECRET}/;SharedAccessSignature=sig={SECRET}",
        f"https://a.blob.core.windows.net/?sig={SECRET}",
        ";",
    ],
)
def test_a_malformed_connection_string_is_a_setting_to_correct(value: str) -> None:
    with pytest.raises(SettingsInvalid, match="CDC_STORAGE: not a storage connection string") as caught:
        open_service(connection_string=value)
    assert_no_secret(caught.value)


@pytest.mark.parametrize(
    "value",
    [
        "a",
        "http://a.blob.core.windows.net",
        f"https://a.blob.core.windows.net/?sig={SECRET}",
        "https://",
        "https://a:b",
    ],
)
def test_a_malformed_service_uri_is_a_setting_to_correct(value: str) -> None:
    with pytest.raises(SettingsInvalid, match="CDC_STORAGE__blobServiceUri: not of the form") as caught:
        open_service(account_url=value)
    assert_no_secret(caught.value)


def test_storage_must_be_named_once() -> None:
    with pytest.raises(SettingsInvalid, match="CDC_STORAGE: missing"):
        open_service()
    with pytest.raises(SettingsInvalid, match="both set"):
        open_service(connection_string="UseDevelopmentStorage=true", account_url="https://a.blob.core.windows.net")


def test_a_masked_connection_string_is_accepted() -> None:
    from pydantic import SecretStr

    service = open_service(connection_string=SecretStr("UseDevelopmentStorage=true"))
    assert repr(service) == "<BlobService 127.0.0.1:10000>"
    service.close()


def test_reprs_name_the_host_and_no_secret(server: ScriptedServer) -> None:
    service = open_service(connection_string=server.connection_string)
    assert repr(service) == f"<BlobService 127.0.0.1:{server.port}>"
    assert repr(service.container("far")) == f"<AzureContainer far at 127.0.0.1:{server.port}>"
    service.close()


def test_a_wrong_key_is_forbidden(emulator: Any) -> None:
    string = emulator.connection_string.replace(emulator.key, "d3Jvbmc=")
    service = open_service(connection_string=string, patience=IMPATIENT)
    error = failure(service.container("far"), "create")
    assert type(error) is StorageForbidden
    assert "d3Jvbmc" not in str(error)
    service.close()


def test_importing_the_store_imports_no_sdk() -> None:
    script = "import sys, cdc.store; sys.exit(any(name.split('.')[0] in ('azure', 'requests') for name in sys.modules))"
    root = Path(__file__).resolve().parents[2]
    assert subprocess.run([sys.executable, "-c", script], cwd=root, check=False).returncode == 0


def test_azurite_ends_with_its_block() -> None:
    with azurite() as running:
        host, _, port = running.url.split("/")[2].partition(":")
        socket.create_connection((host, int(port)), 5).close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((host, int(port)), 5)


class ScriptedCredential:
    def __init__(self, refusal: Exception | None) -> None:
        self.refusal = refusal

    def get_token(self, *scopes: str, **_: Any) -> AccessToken:
        if self.refusal:
            raise self.refusal
        return AccessToken(SECRET, int(time.time()) + 3600)

    def close(self) -> None:
        pass


def failure(container: Container, verb: str) -> StorageError:
    with pytest.raises(StorageError) as caught:
        VERBS[verb](container)
    return caught.value


def assert_no_secret(error: CdcError) -> None:
    shown = "".join(traceback.format_exception(error)) + repr(error) + error.hint
    assert SECRET not in shown.replace("connection_string=value", "")
    assert "sig=" not in shown
    assert error.__suppress_context__ or error.__context__ is None


def test_a_storage_that_refuses_to_list_from_a_name_on_has_found_nothing(
    far: Container, server: ScriptedServer
) -> None:
    server.fail(400, "InvalidQueryParameterValue")
    assert far.from_name("data/A/", "data/A/date=2026-11-23/000000000001.jsonl", at_most=2) == []
    [path] = [path for _, path, _ in server.requests]
    assert "startFrom=" in path
