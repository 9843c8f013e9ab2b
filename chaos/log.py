"""Reads and tampers with a storage log through the plain SDK; shares no code with the app."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from azure.core.exceptions import ResourceNotFoundError
from azure.storage.blob import BlobServiceClient

from chaos.check import Segment

_SEGMENT = re.compile(r"^[0-9]{12}\.jsonl$")
_AT_ONCE = 8


class Log:
    """The two containers of one app."""

    def __init__(self, connection_string: str, events: str = "cdc-events", state: str = "cdc-checkpoints") -> None:
        self._service = BlobServiceClient.from_connection_string(connection_string, retry_total=3)
        self._events = self._service.get_container_client(events)
        self._state = self._service.get_container_client(state)

    def close(self) -> None:
        """Give back the connections."""
        self._service.close()

    def segments(self, channel: str) -> list[Segment]:
        """Return a channel's segments by number; none where there is no container yet."""
        prefix = channel.removeprefix("/") + "/"
        try:
            blobs = list(self._events.list_blobs(name_starts_with=prefix, include=["metadata"]))
        except ResourceNotFoundError:
            return []

        def fetch(blob: Any) -> Segment:
            partition, _, name = blob.name.removeprefix(prefix).rpartition("/")
            content = self._events.download_blob(blob.name).readall()
            return Segment(int(name[:12]), partition, dict(blob.metadata or {}), content)

        wanted = [blob for blob in blobs if _SEGMENT.match(blob.name.rpartition("/")[2])]
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = list(pool.map(fetch, wanted))
        return sorted(found, key=lambda segment: (segment.number, segment.partition))

    def count(self, prefix: str) -> int:
        """Return how many blobs of the events container begin so."""
        try:
            return sum(1 for _ in self._events.list_blob_names(name_starts_with=prefix))
        except ResourceNotFoundError:
            return 0

    def has_segments(self, channel: str) -> bool:
        """True where the channel's log has a segment; without any, its checkpoint is no mere cache."""
        prefix = channel.removeprefix("/") + "/"
        try:
            return next(iter(self._events.list_blob_names(name_starts_with=prefix)), None) is not None
        except ResourceNotFoundError:
            return False

    def has_generation(self, channel: str) -> bool:
        """True where the channel's start is recorded."""
        return self.read(f"generations{channel}/0001.json") is not None

    def generations(self) -> list[str]:
        """Return the names of all generation records but the channels' first."""
        try:
            names = [str(name) for name in self._state.list_blob_names(name_starts_with="generations/")]
        except ResourceNotFoundError:
            return []
        return [name for name in names if not name.endswith("/0001.json")]

    def read(self, name: str) -> bytes | None:
        """Return one record of the checkpoints container, None where there is none."""
        try:
            content: bytes = self._state.download_blob(name).readall()
        except ResourceNotFoundError:
            return None
        return content

    def write(self, name: str, body: bytes) -> None:
        """Tamper: put a record there, whatever was there."""
        self._state.upload_blob(name, body, overwrite=True)

    def delete(self, name: str) -> None:
        """Tamper: take a record away."""
        self._state.delete_blob(name)

    def state_names(self, prefix: str) -> list[str]:
        """Return the names of the records that begin so."""
        try:
            return [str(name) for name in self._state.list_blob_names(name_starts_with=prefix)]
        except ResourceNotFoundError:
            return []
