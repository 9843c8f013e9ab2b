"""A handful of verbs over the blobs of one container, in Azure Blob Storage; knows nothing of what the blobs mean.

Never overwrites unconditionally, never deletes, never lets an exception of the Azure SDK or a credential out. The SDK
is imported where it is first used, so that importing this module costs nothing. `memory_store` has the twin for tests.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from itertools import islice
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from cdc.errors import (
    BlobChanged,
    BlobExists,
    ContainerMissing,
    SettingsInvalid,
    StorageError,
    StorageForbidden,
    StorageUnavailable,
)

if TYPE_CHECKING:
    from azure.storage.blob import BlobClient, BlobServiceClient
    from pydantic import SecretStr

PROBE_NAME = "write-probe"
"""The name that `ensure` looks for and `probe_write` aims at; no blob of this name is ever written."""

PAGE_SIZE = 5000
"""Names per listing request: the most that Blob Storage gives."""

SINGLE_REQUEST_BYTES = 256 * 1024 * 1024
"""Up to this size a body goes up, and comes down, in one request."""

CHUNK_BYTES = 512 * 1024
"""An upload's time-out counts for so much: small enough for a slow line, large enough to leave other threads alone."""

BACKOFF_BASE, BACKOFF_JITTER_S = 1.5, 0.5
"""With two repetitions 2.75 to 4.75 s in all: a run that is up waits longer for the words of storage that is gone."""

POOL_SIZE = 16
"""Connections kept open: more threads than that work, but open and close connections."""

NO_METADATA: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Blob:
    """A blob as one answer of the storage server described it."""

    name: str
    etag: str
    """Opaque; only good for handing back to `replace`."""
    last_modified: datetime
    """Aware, UTC, whole seconds: the storage server's clock."""
    size: int
    """Bytes of content, also when `body` was not fetched."""
    metadata: Mapping[str, str]
    body: bytes = field(repr=False)
    """The content; empty when it comes from `head`."""


class Container(Protocol):
    """The port to one container. Every verb but `ensure` raises `ContainerMissing` when the container is not there.

    Every verb raises `StorageForbidden` when a right or a valid credential is lacking, `StorageUnavailable` when the
    storage cannot be reached or cannot answer now, and plain `StorageError` when it answers what nobody foresaw.
    Names that the storage would silently change (`checked_name`) are a ValueError.

    The implementation may repeat a request whose answer was lost. A repeated write then meets its own effect, and the
    caller's own success comes back as `BlobExists` or `BlobChanged`. That is not hidden here: the caller compares.
    """

    @property
    def name(self) -> str:
        """The container's name."""

    def ensure(self) -> bool:
        """Create the container when it is missing; True if this call created it."""

    def read(self, name: str) -> Blob | None:
        """Return the blob with its content; None: there is no such blob."""

    def head(self, name: str) -> Blob | None:
        """Return the blob without its content; None: there is no such blob."""

    def create(self, name: str, body: bytes, *, metadata: Mapping[str, str] = NO_METADATA, content_type: str) -> None:
        """Write a blob that does not exist yet, in one atomic request.

        Raises:
            BlobExists: there is a blob of that name, perhaps this very write's (see above).
        """

    def replace(self, name: str, body: bytes, *, etag: str | None, content_type: str) -> str:
        """Write over the blob that has this ETag (None: over no blob at all) and return the new ETag.

        Raises:
            BlobChanged: the blob has another ETag, is gone, or exists though `etag` is None; perhaps by this write.
        """

    def names(self, prefix: str, *, at_most: int | None = None) -> list[str]:
        """Return the full names of the blobs under the prefix, sorted; all of them, or the first so many."""

    def from_name(self, prefix: str, start: str, *, at_most: int) -> list[Blob]:
        """Return the first so many blobs under the prefix from the name `start` on, without content, sorted.

        A storage that does not know such listings may return none, or others: only an answer that begins with a blob
        of the name `start` itself is to be relied on.
        """

    def folders(self, prefix: str) -> list[str]:
        """Return the full prefixes, each up to the next "/", that have blobs under the given prefix, sorted."""

    def probe_write(self) -> None:
        """Prove the right to write without leaving anything behind."""

    def probe_ensure(self) -> None:
        """Prove, as far as reading can, that `ensure` may create a container in this account; creates none."""


# --- names and metadata: one rule for Azure and the memory twin ------------------------------------------------------


def checked_name(name: str) -> str:
    """Return the blob name if the storage and every client on the way keep it letter for letter; else ValueError.

    Dot segments and trailing dots are taken out by HTTP clients or Azure, a backslash becomes a slash; 1,024 characters
    is Azure's limit ("Naming and referencing containers, blobs, and metadata").
    """
    bad = (
        not 0 < len(name) <= 1024
        or re.search(r"[\x00-\x1f\x7f\\\ud800-\udfff\ufffe\uffff]", name)
        or any(part == "" or part.endswith(".") for part in name.split("/"))
    )
    if bad:
        raise ValueError(f"not a blob name that storage keeps unchanged: {name!r}")
    return name


def checked_metadata(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return the metadata if it survives as HTTP headers: lower snake case keys, printable ASCII; else ValueError."""
    for key, value in metadata.items():
        if not re.fullmatch(r"[a-z][a-z0-9_]*", key) or not re.fullmatch(r"[!-~]([ -~]*[!-~])?", value):
            raise ValueError(f"not blob metadata that storage keeps unchanged: {key!r}")
    return dict(metadata)


# --- opening ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Patience:
    """How long one request may take and how often it is repeated; seconds.

    `connect_s` bounds the connection and each chunk of an upload, `read_s` the silence before and within an answer. The
    SDK waits `BACKOFF_BASE ** n` (and up to BACKOFF_JITTER_S more or less) before repetition n.
    """

    connect_s: float = 4
    read_s: float = 10
    repetitions: int = 2


class BlobService:
    """One storage account and its connections, shared by all threads; `container` is free of requests."""

    def __init__(self, client: BlobServiceClient, host: str, clock: _Clock) -> None:
        self._client = client
        self._host = host
        self._clock = clock

    def __repr__(self) -> str:
        return f"<BlobService {self._host}>"

    def container(self, name: str) -> Container:
        """Return the port to the container of that name, whether or not it exists."""
        return AzureContainer(self._client, name, self._host)

    def clock_ahead(self) -> timedelta | None:
        """Return how far the account's clock was ahead of ours at its last answer; None where none told it."""
        return self._clock.ahead

    def close(self) -> None:
        """Close the connections."""
        self._client.close()


def open_service(
    *,
    connection_string: SecretStr | str | None = None,
    account_url: str | None = None,
    client_id: str | None = None,
    has_managed_identity: bool = False,
    patience: Patience = Patience(),
) -> BlobService:
    """Return the storage account, without a request: by connection string, or by blob service URI and identity.

    With `has_managed_identity` (Azure sets IDENTITY_ENDPOINT) that identity alone is asked, else whichever one
    `DefaultAzureCredential` finds; `client_id` picks a user-assigned one. "UseDevelopmentStorage=true" means Azurite
    on port 10000.

    Raises:
        SettingsInvalid: neither or both given, or malformed; the value is never repeated.
    """
    if connection_string and account_url:
        raise SettingsInvalid(["CDC_STORAGE and CDC_STORAGE__blobServiceUri are both set; one of them decides"])
    clock = _Clock()
    if connection_string:
        plain = connection_string if isinstance(connection_string, str) else connection_string.get_secret_value()
        client = _client_by_connection_string(plain, _client_options(patience, clock))
    elif account_url:
        identity = _Identity(_credential(client_id, has_managed_identity))
        client = _client_by_identity(account_url, identity, _client_options(patience, clock))
    else:
        raise SettingsInvalid(["CDC_STORAGE: missing (a connection string, or CDC_STORAGE__blobServiceUri)"])
    return BlobService(client, _host(client.url), clock)


def _client_by_connection_string(plain: str, options: dict[str, Any]) -> BlobServiceClient:
    from azure.storage.blob import BlobServiceClient

    try:
        client = BlobServiceClient.from_connection_string(plain.strip(), **options)
        key = getattr(client.credential, "account_key", None)
        if key is not None:
            base64.b64decode(key, validate=True)
        usable = bool(_host(client.url)) and (key or "sig=" in client.url)
    except (ValueError, KeyError, AttributeError, binascii.Error):
        usable = False
    if not usable:
        raise SettingsInvalid(["CDC_STORAGE: not a storage connection string with an account key or a SAS"]) from None
    return client


def _client_by_identity(account_url: str, identity: _Identity, options: dict[str, Any]) -> BlobServiceClient:
    from azure.storage.blob import BlobServiceClient

    url = _split(account_url.strip())
    if url is None or url.scheme != "https" or not url.hostname or url.username or url.query or url.fragment:
        problem = "CDC_STORAGE__blobServiceUri: not of the form https://<account>.blob.core.windows.net"
        raise SettingsInvalid([problem])
    return BlobServiceClient(account_url.strip(), credential=identity, **options)


def _credential(client_id: str | None, has_managed_identity: bool) -> Any:
    from azure.identity import DefaultAzureCredential, ManagedIdentityCredential

    if has_managed_identity:
        return ManagedIdentityCredential(client_id=client_id)
    return DefaultAzureCredential(managed_identity_client_id=client_id)


class _Clock:
    """Notes what each answer's Date header says of the account's clock, refusals included."""

    def __init__(self) -> None:
        self.ahead: timedelta | None = None

    def note(self, response: Any) -> None:
        """The SDK's hook: called with every answer."""
        try:
            said = parsedate_to_datetime(response.http_response.headers.get("Date") or "")
            self.ahead = (said if said.tzinfo else said.replace(tzinfo=UTC)) - datetime.now(UTC)
        except (ValueError, TypeError, OverflowError):
            return  # no date, or none that anybody could mean


class _Identity:
    """A credential whose refusal the SDK does not repeat: azure-identity has already tried as often as makes sense."""

    def __init__(self, credential: Any) -> None:
        self._credential = credential

    def get_token(self, *scopes: str, **options: Any) -> Any:
        from azure.core.exceptions import ClientAuthenticationError

        try:
            return self._credential.get_token(*scopes, **options)
        except ClientAuthenticationError as error:
            raise _NoToken(type(error).__name__) from None

    def close(self) -> None:
        self._credential.close()


class _NoToken(Exception):
    """Not an AzureError, so that it passes through the SDK's retry policy."""


def _client_options(patience: Patience, clock: _Clock) -> dict[str, Any]:
    from azure.core.pipeline.transport import RequestsTransport
    from azure.storage.blob import ExponentialRetry

    retry = ExponentialRetry(
        initial_backoff=0,
        increment_base=BACKOFF_BASE,  # type: ignore[arg-type]  # any number will do
        retry_total=patience.repetitions,
        random_jitter_range=BACKOFF_JITTER_S,  # type: ignore[arg-type]
    )
    transport = RequestsTransport(
        session=_session(), connection_timeout=patience.connect_s, read_timeout=patience.read_s
    )
    return {
        "transport": transport,
        "retry_policy": retry,
        "permit_redirects": False,
        "raw_response_hook": clock.note,
        "max_single_put_size": SINGLE_REQUEST_BYTES,
        "max_single_get_size": SINGLE_REQUEST_BYTES,
    }


def _session() -> Any:
    """Return a requests session with room for parallel writers, no retries, and uploads that go out chunk by chunk.

    A body of bytes would be handed to the socket whole, and Python counts the time-out over the whole of it: 40 MB that
    need more than `connect_s` seconds would never arrive. In chunks the time-out means "no progress".
    """
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    class ChunkwiseAdapter(HTTPAdapter):
        def send(self, request: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(request.body, bytes) and len(request.body) > CHUNK_BYTES:
                request.body = _Chunks(request.body)
            return super().send(request, *args, **kwargs)

    session = requests.Session()
    no_retries = Retry(total=False, redirect=False, raise_on_status=False)
    for scheme in ("https://", "http://"):
        session.mount(scheme, ChunkwiseAdapter(POOL_SIZE, POOL_SIZE, max_retries=no_retries))
    return session


class _Chunks:
    """A body's chunks, without copying it; fresh ones each time that it is sent."""

    def __init__(self, body: bytes) -> None:
        self._body = memoryview(body)

    def __len__(self) -> int:
        return len(self._body)

    def __iter__(self) -> Iterator[memoryview]:
        return (self._body[begin : begin + CHUNK_BYTES] for begin in range(0, len(self._body), CHUNK_BYTES))


def _split(url: str) -> Any:
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises when it is no number
    except ValueError:
        return None
    return parts


def _host(url: str) -> str:
    parts = _split(url)
    if parts is None or not parts.hostname:
        return ""
    return f"{parts.hostname}:{parts.port}" if parts.port else str(parts.hostname)


# --- Azure -----------------------------------------------------------------------------------------------------------


class AzureContainer:
    """`Container` over Azure Blob Storage or Azurite; safe for many threads."""

    def __init__(self, service: BlobServiceClient, name: str, host: str) -> None:
        self._service = service
        self._client = service.get_container_client(name)
        self._host = host
        self._name = name

    def __repr__(self) -> str:
        return f"<AzureContainer {self._name} at {self._host}>"

    @property
    def name(self) -> str:
        """The container's name."""
        return self._name

    def ensure(self) -> bool:
        """Look first: a right to create containers is needed only where the container is missing."""
        try:
            self.head(PROBE_NAME)
        except ContainerMissing:
            pass
        else:
            return False
        try:
            with self._mapped("creating"):
                self._client.create_container()
        except _ContainerExists:
            return False
        except StorageForbidden as error:
            raise StorageForbidden(str(error), hint=self._creation_hint(error)) from None
        return True

    def read(self, name: str) -> Blob | None:
        """Return the blob with its content, fetched in one request up to 256 MiB."""
        blob = self._at(name)
        try:
            with self._mapped(f"reading blob {name} in"):
                download = blob.download_blob()
                return _blob(name, download.properties, download.readall())
        except _BlobMissing:
            return None

    def head(self, name: str) -> Blob | None:
        """Return what the headers say; the error code of a missing blob or container stands in a header, too."""
        blob = self._at(name)
        try:
            with self._mapped(f"looking at blob {name} in"):
                return _blob(name, blob.get_blob_properties(), b"")
        except _BlobMissing:
            return None

    def create(self, name: str, body: bytes, *, metadata: Mapping[str, str] = NO_METADATA, content_type: str) -> None:
        """Put the blob with If-None-Match: *."""
        blob, checked = self._at(name), checked_metadata(metadata)
        with self._mapped(f"creating blob {name} in"):
            _put(blob, body, content_type, metadata=checked, overwrite=False)

    def replace(self, name: str, body: bytes, *, etag: str | None, content_type: str) -> str:
        """Put the blob with If-Match, or with If-None-Match: * when there is no ETag to match."""
        blob = self._at(name)
        try:
            with self._mapped(f"replacing blob {name} in"):
                return _put(blob, body, content_type, **_if_match(etag))
        except (BlobExists, _BlobMissing) as error:
            raise BlobChanged(str(error), hint=error.hint) from None

    def names(self, prefix: str, *, at_most: int | None = None) -> list[str]:
        """List the flat names; with hierarchical namespaces, folders are listed among them."""
        page = PAGE_SIZE if at_most is None else max(1, min(PAGE_SIZE, at_most))
        with self._mapped(f"listing blobs under {prefix!r} in"):
            found = self._client.list_blob_names(name_starts_with=prefix, results_per_page=page)
            return sorted(islice(found, at_most))

    def from_name(self, prefix: str, start: str, *, at_most: int) -> list[Blob]:
        """List with `startFrom`, which is of service version 2026-02-06; where it is refused, nothing is found."""
        from azure.core.exceptions import HttpResponseError

        with self._mapped(f"listing blobs from {start!r} on in"):
            listed = self._client.list_blobs(
                name_starts_with=prefix, start_from=start, include=["metadata"], results_per_page=at_most
            )
            try:
                return [_blob(str(found.name), found, b"") for found in islice(listed, at_most)]
            except HttpResponseError as error:
                if error.status_code != 400:
                    raise
                return []

    def folders(self, prefix: str) -> list[str]:
        """List with the delimiter "/" and keep the prefixes."""
        from azure.storage.blob import BlobPrefix

        with self._mapped(f"listing folders under {prefix!r} in"):
            found = self._client.walk_blobs(name_starts_with=prefix, delimiter="/", results_per_page=PAGE_SIZE)
            return sorted(str(item.name) for item in found if isinstance(item, BlobPrefix))

    def probe_write(self) -> None:
        """Put with an If-Match that no blob can meet: rights are checked first, then the condition fails."""
        try:
            with self._mapped("trying to write to"):
                _put(self._at(PROBE_NAME), b"", "application/octet-stream", **_if_match('"0x0"'))
        except (BlobChanged, _BlobMissing):
            return

    def probe_ensure(self) -> None:
        """List the account's containers: an identity whose role is on a container alone may do neither.

        A SAS may create what it may not list, so its refusal by resource type proves nothing.
        """
        try:
            with self._mapped("listing the account's containers to see whether it may create"):
                next(self._service.list_containers(name_starts_with=self._name, results_per_page=1).by_page(), None)
        except StorageForbidden as error:
            if "AuthorizationResourceTypeMismatch" not in str(error):
                raise StorageForbidden(str(error), hint=self._creation_hint(error)) from None

    def _creation_hint(self, error: StorageForbidden) -> str:
        if "AuthorizationFailure" in str(error):
            return error.hint
        return (
            f"create it by hand (az storage container create --name {self._name}), or give the identity the role "
            f'"Storage Blob Data Contributor" on the whole account: on a container alone the role creates none'
        )

    def _at(self, name: str) -> BlobClient:
        return self._client.get_blob_client(checked_name(name))

    @contextmanager
    def _mapped(self, doing: str) -> Iterator[None]:
        """Turn whatever the SDK raises into one of our errors; nothing of the original is kept, it may hold a SAS."""
        from azure.core.exceptions import AzureError

        what = f"{doing} container {self._name} at {self._host}"
        try:
            yield
        except _NoToken as error:
            raise StorageForbidden(f"{what}: no token for storage ({error})", hint=_IDENTITY_HINT) from None
        except (AzureError, OSError) as error:
            raise _translated(
                error, what, f"container {self._name} of account {self._host.partition('.')[0]}"
            ) from None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            # The SDK trusts every 2xx to be from Blob Storage and stumbles over a proxy's or a portal's.
            cause = f"an answer that Blob Storage would not give ({type(error).__name__})"
            raise _failure(StorageUnavailable, f"{what}: {cause}") from None


def _put(blob: BlobClient, body: bytes, content_type: str, **conditions: Any) -> str:
    from azure.storage.blob import ContentSettings

    settings = ContentSettings(content_type=content_type)
    return _etag(blob.upload_blob(bytes(body), length=len(body), content_settings=settings, **conditions)["etag"])


def _etag(value: Any) -> str:
    if not value or not isinstance(value, str):
        raise ValueError("no ETag")
    return value if value.endswith('"') else f'"{value}"'  # a listing leaves the quotes out


def _if_match(etag: str | None) -> dict[str, Any]:
    from azure.core import MatchConditions

    if etag is None:
        return {"overwrite": False}
    return {"overwrite": True, "etag": etag, "match_condition": MatchConditions.IfNotModified}


def _blob(name: str, properties: Any, body: bytes) -> Blob:
    return Blob(
        name=name,
        etag=_etag(properties.etag),
        last_modified=properties.last_modified.astimezone(UTC),
        size=int(properties.size),
        metadata=MappingProxyType({key.lower(): value for key, value in (properties.metadata or {}).items()}),
        body=body,
    )


# --- errors ----------------------------------------------------------------------------------------------------------


class _BlobMissing(StorageError):
    """There is no blob of that name: a value to `read` and `head`, a lost condition to `replace`."""


class _ContainerExists(StorageError):
    """Somebody else created the container between the look and the creation."""


# Error codes of the Blob service REST API that mean the same whatever the status.
_BY_CODE: Mapping[str, type[StorageError]] = {
    "ContainerNotFound": ContainerMissing,
    "ContainerAlreadyExists": _ContainerExists,
    "ContainerBeingDeleted": StorageUnavailable,
    "BlobNotFound": _BlobMissing,
    "BlobAlreadyExists": BlobExists,
    "ConditionNotMet": BlobChanged,
    "InvalidAuthenticationInfo": StorageForbidden,
    "NoAuthenticationInformation": StorageForbidden,
}

_IDENTITY_HINT = (
    "check that the app has a managed identity and that CDC_STORAGE__clientId, if set, is that identity's client id; "
    "elsewhere sign in with az login"
)
# `{scope}` becomes the container and its account.
_ROLE_HINT = 'give the identity the role "Storage Blob Data Contributor" on the {scope} (a SAS: permissions rwl)'
_NAME_HINT = "correct the container's name: 3 to 63 lower-case letters, digits and single hyphens"
_NETWORK_HINT = (
    "let the storage account's firewall admit this app (account > Networking: its subnet or address; with public "
    f"access off, a private endpoint); if it does, {_ROLE_HINT}"
)
_SAS_HINT = "make a new SAS: for the blob service, resource types container and object, permissions rwlc, https"
_HINTS_BY_CODE: Mapping[str, str] = {
    "AuthenticationFailed": "check the account key or SAS (and its expiry) in CDC_STORAGE, and this machine's clock",
    "InvalidAuthenticationInfo": "check that identity and account belong to one tenant, and this machine's clock",
    "AuthorizationFailure": _NETWORK_HINT,
    "AuthorizationSourceIPMismatch": "make a SAS that admits this app's address, or one without addresses",
    "AuthorizationPermissionMismatch": f"{_ROLE_HINT}; a new role takes up to ten minutes to count",
    "AuthorizationServiceMismatch": _SAS_HINT,
    "AuthorizationResourceTypeMismatch": _SAS_HINT,
    "AuthorizationProtocolMismatch": _SAS_HINT,
    "AccountIsDisabled": "the storage account is disabled: see its state, and the subscription's, in the portal",
    "KeyBasedAuthenticationNotPermitted": "the account refuses keys: set CDC_STORAGE__blobServiceUri, not CDC_STORAGE",
    "ContainerBeingDeleted": "the container is being deleted: wait until that is over, then run again",
    "BlobImmutableDueToPolicy": "an immutability policy covers this blob: checkpoints need a container without one",
    "LeaseIdMissing": "somebody holds a lease on this blob: break the lease",
    "InvalidResourceName": _NAME_HINT,
    "OutOfRangeInput": _NAME_HINT,
}
_HINTS: Mapping[type[StorageError], str] = {
    ContainerMissing: "create the container, or start a run, which creates it",
    BlobExists: "compare the blob with what was to be written: it may be the same",
    BlobChanged: "read the blob again and decide anew",
    StorageForbidden: f"{_ROLE_HINT}, and let the storage account's firewall admit this app",
    StorageUnavailable: "check the storage address and the way to it; if both are right, the next run tries again",
    StorageError: "look the error code up under Blob service error codes; check the storage address",
}


def _translated(error: Exception, what: str, scope: str) -> StorageError:
    """Return our error for the SDK's, made of status, error code, host and container alone."""
    response: Any = getattr(error, "response", None)
    status = getattr(response, "status_code", None)
    if status is None or 200 <= status < 300:
        return _failure(_kind_without_answer(error), f"{what}: {_root_cause(error)}", scope=scope)
    code = response.headers.get("x-ms-error-code") or getattr(error, "error_code", None) or ""
    code = str(getattr(code, "value", code))
    if not re.fullmatch(r"[A-Za-z0-9]{1,80}", code):
        code = ""
    message = f"{what}: {status} {code or 'without a storage error code'}"
    return _failure(_kind(status, code), message, code, scope=scope)


def _failure(kind: type[StorageError], message: str, code: str = "", *, scope: str = "") -> StorageError:
    hint = _HINTS_BY_CODE.get(code) or _HINTS.get(kind) or _HINTS[StorageError]
    return kind(message, hint=hint.replace("{scope}", scope))


def _kind(status: int, code: str) -> type[StorageError]:
    """A 404 or 409 means something only by its code: a stranger's 404 must never pass for "no such blob"."""
    if code in _BY_CODE:
        return _BY_CODE[code]
    if status in (401, 403):
        return StorageForbidden
    if status in (408, 429) or status >= 500:
        return StorageUnavailable
    return StorageError


def _kind_without_answer(error: Exception) -> type[StorageError]:
    from azure.core.exceptions import ClientAuthenticationError

    return StorageForbidden if isinstance(error, ClientAuthenticationError) else StorageUnavailable


def _root_cause(error: BaseException) -> str:
    """Name what lies at the bottom, in the operating system's words where it has any: those hold no URL."""
    seen: set[int] = set()
    while id(error) not in seen:
        seen.add(id(error))
        error = getattr(error, "inner_exception", None) or error.__cause__ or error.__context__ or error
    words = error.strerror if isinstance(error, OSError) and isinstance(error.errno, int) else None
    return f"{words.lower()} ({type(error).__name__})" if words else type(error).__name__
