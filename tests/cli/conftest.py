"""The command line as an operator meets it: a process with an environment, two streams and an exit code."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from azure.storage.blob import AccountSasPermissions, BlobServiceClient, ResourceTypes, generate_account_sas

from tests.azurite import Azurite
from tests.harness import Site

ROOT = Path(__file__).parent.parent.parent
LIMIT_S = 120
BOXES = re.compile("[\u2500-\u257f]")
TOKEN = re.compile(r"00D\w{12,15}!")  # how an access token begins

# What differs from run to run, and what stands in its place when output is compared whole.
CHANGING = (
    (r"\d{8}T\d{6}Z-[0-9a-f]{8}", "<run>"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}", "<clock>"),
    (r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)?", "<time>"),
    (r"00D[A-Za-z0-9]{12,15}", "<org>"),
    (r"005[A-Za-z0-9]{12,15}", "<user>"),
    (r"<?\b\d+(\.\d)? s\b(?! to end| of functionTimeout| fits)", "<s>"),
    (r" {2,}(?=\S)", "  "),
)


@dataclass(frozen=True)
class Said:
    """What one call of the command line did."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def lines(self) -> list[str]:
        """Stdout line by line, what changes replaced."""
        return self.out.splitlines()


@dataclass
class Operator:
    """Calls the command line in a folder without settings of its own; nothing secret may ever come back."""

    folder: Path
    secrets: list[str] = field(default_factory=list)
    places: dict[str, str] = field(default_factory=dict)

    def start(self, *arguments: str, environment: Mapping[str, str], **streams: int) -> subprocess.Popen[str]:
        """Start the command line, for tests that do something to it."""
        return subprocess.Popen(
            [sys.executable, "-m", "cdc", *arguments],
            cwd=self.folder,
            env=self.environment(environment),
            stdin=subprocess.DEVNULL,
            stdout=streams.get("stdout", subprocess.PIPE),
            stderr=streams.get("stderr", subprocess.PIPE),
            text=True,
        )

    def environment(self, settings: Mapping[str, str]) -> dict[str, str]:
        """Return the settings and what any process needs; nothing of the caller's own settings."""
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
        return {**kept, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", **settings}

    def finish(self, process: subprocess.Popen[str]) -> Said:
        """Wait for it, check that it gave away nothing, and return what it said."""
        began = time.monotonic()
        try:
            out, err = process.communicate(timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise
        self.check(out or "", err or "")
        return Said(process.returncode, self.settled(out or ""), self.settled(err or ""), time.monotonic() - began)

    def check(self, *texts: str) -> None:
        """No secret, no traceback, no box drawing."""
        for text in texts:
            assert not [secret for secret in self.secrets if secret in text], "a secret was printed"
            assert not TOKEN.search(text), "an access token was printed"
            assert "Traceback" not in text, text
            assert not BOXES.search(text), text

    def settled(self, text: str) -> str:
        """Return the text with all that changes from run to run replaced."""
        for place, name in self.places.items():
            text = text.replace(place, name)
        for pattern, name in CHANGING:
            text = re.sub(pattern, name, text)
        return text

    def __call__(self, *arguments: str, environment: Mapping[str, str]) -> Said:
        """Run the command line to its end."""
        return self.finish(self.start(*arguments, environment=environment))


def containers_of(site: Site) -> set[str]:
    """Which of the site's containers exist."""
    with BlobServiceClient.from_connection_string(site.connection_string) as service:
        return {each.name for each in service.list_containers()} & {site.events_container, site.checkpoints_container}


@pytest.fixture
def cdc(tmp_path: Path, site: Site, storage: Azurite) -> Operator:
    """The command line for the site's org and storage."""
    places = {
        urlsplit(site.org.url).netloc: "<host>",
        urlsplit(storage.url).netloc: "<storage>",
        site.events_container: "cdc-events",
        site.checkpoints_container: "cdc-checkpoints",
    }
    return Operator(tmp_path, [site.org.client_secret, storage.key], places)


@pytest.fixture
def read_only(storage: Azurite, cdc: Operator) -> str:
    """A connection string whose SAS may read and list, and nothing else."""
    sas = generate_account_sas(
        storage.account,
        storage.key,
        ResourceTypes(service=True, container=True, object=True),
        AccountSasPermissions(read=True, list=True),
        datetime.now(UTC) + timedelta(hours=1),
    )
    cdc.secrets += [sas, sas.rpartition("sig=")[2]]
    return f"BlobEndpoint={storage.url};SharedAccessSignature={sas}"


@pytest.fixture
def no_storage(storage: Azurite) -> str:
    """A connection string to a port where nobody listens."""
    return f"AccountName={storage.account};AccountKey={storage.key};BlobEndpoint=http://127.0.0.1:9/{storage.account};"
