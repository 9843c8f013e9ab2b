"""The store's twin in memory, held to the same contract by one test suite; never used in production."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import replace as with_changes
from datetime import UTC, datetime
from types import MappingProxyType

from cdc.errors import BlobChanged, BlobExists, ContainerMissing
from cdc.store import NO_METADATA, Blob, checked_metadata, checked_name


def _utc_now() -> datetime:
    return datetime.now(UTC)


class MemoryContainer:
    """`Container` in this process's memory, safe for many threads; missing until `ensure`.

    `clock` plays the storage server's clock: it gives each write's `last_modified`, cut to whole seconds.
    """

    def __init__(self, name: str = "memory", *, clock: Callable[[], datetime] = _utc_now) -> None:
        self._name = name
        self._clock = clock
        self._lock = threading.Lock()
        self._blobs: dict[str, Blob] | None = None
        self._writes = 0

    def __repr__(self) -> str:
        return f"<MemoryContainer {self._name}>"

    @property
    def name(self) -> str:
        """The container's name."""
        return self._name

    def ensure(self) -> bool:
        """Create the container when it is missing; True if this call created it."""
        with self._lock:
            created = self._blobs is None
            if self._blobs is None:
                self._blobs = {}
            return created

    def read(self, name: str) -> Blob | None:
        """Return the blob with its content; None: there is no such blob."""
        with self._lock:
            return self._there(f"reading blob {name}").get(checked_name(name))

    def head(self, name: str) -> Blob | None:
        """Return the blob without its content; None: there is no such blob."""
        blob = self.read(name)
        return blob and with_changes(blob, body=b"")

    def create(self, name: str, body: bytes, *, metadata: Mapping[str, str] = NO_METADATA, content_type: str) -> None:
        """Write a blob that does not exist yet; BlobExists if it does."""
        with self._lock:
            blobs = self._there(f"creating blob {name}")
            if checked_name(name) in blobs:
                raise BlobExists(f"creating blob {name} in container {self._name}: it exists", hint="compare the two")
            self._write(blobs, name, body, checked_metadata(metadata))

    def replace(self, name: str, body: bytes, *, etag: str | None, content_type: str) -> str:
        """Write over the blob that has this ETag (None: over no blob) and return the new one; else BlobChanged."""
        with self._lock:
            blobs = self._there(f"replacing blob {name}")
            old = blobs.get(checked_name(name))
            if (old.etag if old else None) != etag:
                raise BlobChanged(f"replacing blob {name} in container {self._name}: it changed", hint="read it again")
            return self._write(blobs, name, body, {})

    def names(self, prefix: str, *, at_most: int | None = None) -> list[str]:
        """Return the full names of the blobs under the prefix, sorted; all of them, or the first so many."""
        with self._lock:
            return sorted(name for name in self._there(f"listing {prefix}*") if name.startswith(prefix))[:at_most]

    def from_name(self, prefix: str, start: str, *, at_most: int) -> list[Blob]:
        """Return the first so many blobs under the prefix from the name `start` on, without content, sorted."""
        with self._lock:
            blobs = self._there(f"listing {prefix}* from {start} on")
            names = sorted(name for name in blobs if name.startswith(prefix) and name >= start)
            return [with_changes(blobs[name], body=b"") for name in names[:at_most]]

    def folders(self, prefix: str) -> list[str]:
        """Return the full prefixes, each up to the next "/", that have blobs under the given prefix, sorted."""
        rests = [name[len(prefix) :] for name in self.names(prefix)]
        return sorted({prefix + rest[: rest.index("/") + 1] for rest in rests if "/" in rest})

    def probe_write(self) -> None:
        """Prove the right to write: here everybody has it."""
        with self._lock:
            self._there("trying to write")

    def probe_ensure(self) -> None:
        """Prove the right to create the container: here everybody has it."""

    def _there(self, doing: str) -> dict[str, Blob]:
        if self._blobs is None:
            raise ContainerMissing(f"{doing} in container {self._name}: no such container", hint="create the container")
        return self._blobs

    def _write(self, blobs: dict[str, Blob], name: str, body: bytes, metadata: Mapping[str, str]) -> str:
        self._writes += 1
        blobs[name] = Blob(
            name=name,
            etag=f'"{self._writes}"',
            last_modified=self._clock().astimezone(UTC).replace(microsecond=0),
            size=len(body),
            metadata=MappingProxyType(dict(metadata)),
            body=bytes(body),
        )
        return blobs[name].etag
