"""The storage side: Azurite's blob service as a child process, in memory, on a port of its own.

It ends with the `with` block, or with its parent if that is killed. The emulated org does not know of it.
"""

from __future__ import annotations

import base64
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, Queue

PROGRAM = Path(__file__).resolve().parent.parent / "node_modules" / ".bin" / "azurite-blob"
START_LIMIT_S = 30
MEMORY_MB = 4096
# Loaded before Azurite: it listens to nobody on its standard input, and the end of that is the end of its parent.
END_WITH_PARENT = "data:text/javascript,process.stdin.on('end',()=>process.exit(0)).resume()"


@dataclass(frozen=True)
class Azurite:
    """A running blob service; `key` is made up for it, so that no real-looking secret stands in the repository."""

    url: str
    account: str
    key: str = field(repr=False)
    pid: int

    @property
    def connection_string(self) -> str:
        """What an app setting would hold."""
        return f"AccountName={self.account};AccountKey={self.key};BlobEndpoint={self.url};"


@contextmanager
def azurite(*options: str, account: str = "cdctests") -> Iterator[Azurite]:
    """Start Azurite, wait until it listens, yield it, and stop it whatever happens; `options` go to its command line.

    For Entra tokens pass --oauth basic --cert … --key …; the URL is then https.
    """
    if not PROGRAM.exists():
        raise RuntimeError(f"starting azurite: {PROGRAM.relative_to(PROGRAM.parents[2])} is missing; run `make setup`")
    key = base64.b64encode(os.urandom(32)).decode()
    command = ["node", "--import", END_WITH_PARENT, str(PROGRAM), "--blobHost", "127.0.0.1", "--blobPort", "0"]
    command += ["--inMemoryPersistence", "--extentMemoryLimit", str(MEMORY_MB), "--skipApiVersionCheck"]
    command += ["--disableTelemetry", *options]
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "AZURITE_ACCOUNTS": f"{account}:{key}"},
        start_new_session=True,  # its own process group: stopped with its children, untouched by Ctrl-C
    )
    try:
        url = _address(process)
        yield Azurite(url=f"{url}/{account}", account=account, key=key, pid=process.pid)
    finally:
        _stop(process)


def _address(process: subprocess.Popen[str]) -> str:
    """Return the address that Azurite prints once it listens; the rest of its output is read and dropped."""
    found: Queue[str | None] = Queue()

    def read() -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                if match := re.search(r"listens on (https?://[0-9.:]+)", line):
                    found.put(match[1])
        found.put(None)

    threading.Thread(target=read, daemon=True).start()
    try:
        address = found.get(timeout=START_LIMIT_S)
    except Empty:
        raise RuntimeError(f"starting azurite: it does not listen after {START_LIMIT_S} s") from None
    if address is None:
        raise RuntimeError(f"starting azurite: it ended at once, code {process.wait(5)}")
    return address


def _stop(process: subprocess.Popen[str]) -> None:
    """End it as its parent's end would: on SIGTERM it first waits for connections that nobody closes."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(5)
