"""A real headless Chromium, spoken to by the DevTools protocol over a pipe: no port, no driver, no package.

It opens a page at a width in light or dark, and tells what a visitor would see and what the page asked for.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome")
LIMIT_S = 60  # a machine that is busy with other tests is slow to start a browser
FLAGS = (
    *("--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars"),
    "--remote-debugging-pipe",
)


def program() -> str | None:
    """Return the path of this machine's Chromium, None where it has none."""
    return next(filter(None, map(shutil.which, PROGRAMS)), None)


class Page:
    """One tab. `requests` are the addresses that it asked for, `complaints` what the browser logged."""

    def __init__(self, process: subprocess.Popen[bytes], to: int, answers: int) -> None:
        self._process, self._to, self._answers = process, to, answers
        self._rest = b""
        self._number = 0
        self._session: str | None = None
        self._events: list[dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Return the answer to one command."""
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        ends = time.monotonic() + LIMIT_S
        while (answer := self._next(ends)).get("id") != self._number:
            self._events.append(answer)
        assert "error" not in answer, f"{method}: {answer['error']}"
        result: dict[str, Any] = answer["result"]
        return result

    def open(self, url: str, *, width: int, height: int = 800, is_dark: bool = False) -> None:
        """Load an address and wait until it is there."""
        scheme = "dark" if is_dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        self._events.clear()
        answer = self.call("Page.navigate", url=url)
        assert "errorText" not in answer, answer
        ends = time.monotonic() + LIMIT_S
        while not any(event.get("method") == "Page.loadEventFired" for event in self._events):
            self._events.append(self._next(ends))

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self, path: Path) -> None:
        """Write a picture of the whole page, for whoever wants to look."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(shot["data"]))

    @property
    def requests(self) -> list[str]:
        """The addresses that were asked for since `open`, without those that carry their own content."""
        sent = (event for event in self._events if event.get("method") == "Network.requestWillBeSent")
        urls = (str(event["params"]["request"]["url"]) for event in sent)
        return [url for url in urls if not url.startswith("data:")]

    @property
    def complaints(self) -> list[str]:
        """What the browser wrote to the console since `open`: refused styles, exceptions."""
        logged = (event for event in self._events if event.get("method") == "Log.entryAdded")
        return [str(event["params"]["entry"]["text"]) for event in logged]

    def _next(self, ends: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._answers], [], [], max(0.0, ends - time.monotonic()))
            more = os.read(self._answers, 1 << 20) if ready else b""
            assert more, f"Chromium says nothing more (exit code {self._process.poll()})"
            self._rest += more
        line, _, self._rest = self._rest.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        return message


@contextmanager
def chromium(path: str) -> Iterator[Page]:
    """Start the browser with an empty profile and a home of its own, yield a tab of it, and end it."""
    to_browser, from_browser = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        flags = [*FLAGS, f"--user-data-dir={profile}", *(["--no-sandbox"] if os.getuid() == 0 else [])]
        # The browser reads its descriptor 3 and writes to 4.
        redirect = f'exec "$@" 3<&{to_browser[0]} 4>&{from_browser[1]}'
        process = subprocess.Popen(
            ["bash", "-c", redirect, "chromium", path, *flags],
            pass_fds=(to_browser[0], from_browser[1]),
            env={**os.environ, "HOME": profile, "TMPDIR": profile},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_browser[0])
        os.close(from_browser[1])
        try:
            yield Page(process, to_browser[1], from_browser[0])
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            os.close(to_browser[1])
            os.close(from_browser[0])
