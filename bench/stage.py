"""The stage: an emulated org, an Azurite and, where asked for, longer lines before both; runs contenders on it.

Servers end with their `with` block. Nothing here judges a figure.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from emulator import client
from emulator.azurite import END_WITH_PARENT, PROGRAM, azurite

ROOT = Path(__file__).resolve().parent.parent
READY_MADE = ROOT / "build" / "bench"  # where `make bench` installs the ready-made client
NO_PROXY = {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
LIMIT_S = 600.0


class BenchFailed(Exception):
    """A contender did not do its work; a figure of it would mean nothing."""


@dataclass
class Stage:
    """One org and one storage account, and the addresses under which contenders reach them."""

    org: client.Emulator
    org_url: str
    storage: str = field(repr=False)
    storage_url: str = ""
    runs: int = 0

    def task(self, name: str, channels: Sequence[str], **more: Any) -> dict[str, Any]:
        """What a contender is told."""
        self.runs += 1
        return {
            "name": name.replace("_", "-"),
            "run": f"run{self.runs}",
            "log": f"run{self.runs}",  # containers of its own, unless a task says otherwise
            "org_url": self.org_url,
            "client_id": self.org.client_id,
            "client_secret": self.org.client_secret,
            "storage": self.storage,
            "storage_url": self.storage_url,
            "channels": list(channels),
            **more,
        }

    def start(self, name: str, channels: Sequence[str], **more: Any) -> subprocess.Popen[str]:
        """Start a contender in a process of its own."""
        task = self.task(name, channels, **more)
        if name == "ready_made":
            command = ["node", str(ROOT / "bench" / "ready_made" / "drain.cjs"), json.dumps(task)]
            environment = {**os.environ, "NODE_PATH": str(READY_MADE / "node_modules"), **NO_PROXY}
        else:
            command = [sys.executable, "-m", "bench.contenders", name, json.dumps(task)]
            environment = {**os.environ, **NO_PROXY}
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, name: str, channels: Sequence[str], **more: Any) -> dict[str, Any]:
        """Run a contender to its end and return what it printed.

        Raises: BenchFailed.
        """
        return finish(self.start(name, channels, **more), name)


def finish(process: subprocess.Popen[str], name: str) -> dict[str, Any]:
    """Return what a contender printed.

    Raises: BenchFailed.
    """
    try:
        out, err = process.communicate(timeout=LIMIT_S)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    if process.returncode != 0:
        raise BenchFailed(f"running {name}: it ended with code {process.returncode}\n{err[-2000:]}")
    found: dict[str, Any] = json.loads(out.splitlines()[-1])
    if found.get("errors"):
        raise BenchFailed(f"running {name}: {found['errors']}")
    return found


@contextmanager
def stage(*, org_ms: float = 0, storage_ms: float = 0, **knobs: Any) -> Iterator[Stage]:
    """Yield a fresh org and a fresh account, the lines before them longer by so many milliseconds."""
    with ExitStack() as stack:
        storage = stack.enter_context(azurite(account="bench"))
        org = stack.enter_context(client.start(auto_purge=False, **knobs))
        org_url, connection, storage_url = org.url, storage.connection_string, storage.url
        if org_ms:
            org_url = _beyond(stack.enter_context(_slow_line(org.url, org_ms)), org_url)
        if storage_ms:
            port = stack.enter_context(_slow_line(storage.url, storage_ms))
            storage_url, connection = _beyond(port, storage_url), _beyond(port, connection, storage.url)
        yield Stage(org, org_url, connection, storage_url)


def _beyond(port: int, text: str, url: str = "") -> str:
    return text.replace(f":{urlsplit(url or text).port}", f":{port}", 1)


@contextmanager
def _slow_line(url: str, added_ms: float) -> Iterator[int]:
    command = [sys.executable, "-m", "bench.slow_line", urlsplit(url).netloc, str(added_ms)]
    process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


class DiskAzurite:
    """An Azurite that keeps its state in a folder, so that the state can be worked on while it is stopped."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._key = base64.b64encode(os.urandom(32)).decode()

    @contextmanager
    def running(self) -> Iterator[tuple[str, str]]:
        """Yield the connection string and the URL."""
        command = ["node", "--import", END_WITH_PARENT, str(PROGRAM), "--blobHost", "127.0.0.1", "--blobPort", "0"]
        process = subprocess.Popen(
            [*command, "--location", str(self._folder), "--skipApiVersionCheck", "--disableTelemetry"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            env={**os.environ, "AZURITE_ACCOUNTS": f"bench:{self._key}"},
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            url = ""
            for line in process.stdout:
                if found := re.search(r"listens on (https?://[0-9.:]+)", line):
                    url = f"{found[1]}/bench"
                    break
            if not url:
                raise BenchFailed("starting Azurite on a folder: it does not listen")
            yield f"AccountName=bench;AccountKey={self._key};BlobEndpoint={url};", url
        finally:
            process.terminate()  # it writes its state, and says so; then the end of its input ends it
            for line in process.stdout:
                if "successfully closed" in line:
                    break
            process.stdin.close()
            process.wait(60)
            process.stdout.close()
