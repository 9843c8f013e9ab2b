"""Starts an emulator as a process of its own and talks to its control API; standard library only."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any


class ControlError(Exception):
    """The control API refused; the text is its answer."""


class Emulator:
    """One running emulator. Every method is one call to its control API."""

    def __init__(self, url: str, pid: int = 0) -> None:
        self.url = url
        self.pid = pid
        about = self.call("GET", "")
        self.org_id: str = about["orgId"]
        self.user_id: str = about["userId"]
        self.client_id: str = about["clientId"]
        self.client_secret: str = about["clientSecret"]
        self.username: str = about["username"]

    def __repr__(self) -> str:
        return f"Emulator({self.url!r}, pid={self.pid})"

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """Any control call; returns the decoded answer.

        Raises: ControlError.
        """
        return json.loads(
            self._bytes(method, path, None if body is None else json.dumps(body).encode(), query) or b"null"
        )

    def _bytes(self, method: str, path: str, body: bytes | None, query: dict[str, Any]) -> bytes:
        tail = f"?{urllib.parse.urlencode(query, doseq=True)}" if query else ""
        request = urllib.request.Request(f"{self.url}/_emulator{path}{tail}", data=body, method=method)
        try:
            with urllib.request.urlopen(request, timeout=600) as response:
                content: bytes = response.read()
                return content
        except urllib.error.HTTPError as error:
            with error:
                raise ControlError(f"{method} {path}: {error.read().decode(errors='replace')}") from error

    # events

    def publish(self, channel: str, count: int = 1, *, size: int = 0, kinds: Sequence[str] = (),
                age_s: float = 0) -> list[int]:  # fmt: skip
        """Publish believable events; returns their replay ids."""
        body = {"channel": channel, "count": count, "size": size, "kinds": list(kinds), "age_s": age_s}
        ids: list[int] = self.call("POST", "/publish", body)["replayIds"]
        return ids

    def raw(self, channel: str, body: bytes, *, age_s: float = 0) -> int:
        """Publish these bytes as one delivery, `{{replayId}}` replaced; returns its replay id."""
        answer = json.loads(self._bytes("POST", "/raw", body, {"channel": channel, "age_s": age_s}))
        return int(answer["replayId"])

    def backlog(self, channel: str, count: int, *, size: int = 1_000, hours: float = 1,
                kinds: Sequence[str] = ()) -> None:  # fmt: skip
        """Publish many events, spread over the last `hours`."""
        self.call("POST", "/backlog",
                  {"channel": channel, "count": count, "size": size, "hours": hours, "kinds": list(kinds)})  # fmt: skip

    def traffic(self, channel: str, rate: float, *, size: int = 0, kinds: Sequence[str] = ()) -> None:
        """Publish live at `rate` events per second; 0 stops."""
        self.call("POST", "/traffic", {"channel": channel, "rate": rate, "size": size, "kinds": list(kinds)})

    def change_record(self, entity: str, kind: str = "update", *, record_id: str | None = None,
                      fields: dict[str, Any] | None = None, age_s: float = 0) -> str:  # fmt: skip
        """Change a record without any event; returns its id."""
        body = {"entity": entity, "kind": kind, "id": record_id, "fields": fields or {}, "age_s": age_s}
        return str(self.call("POST", "/records", body)["id"])

    # the channels and the clock

    def channel(self, channel: str, **settings: Any) -> None:
        """Make or set a channel: exists, selected, entities, refusal, silent, slow_seek_s, hidden_fields, filters."""
        self.call("POST", "/channels", {"channel": channel, **settings})

    def channels(self) -> dict[str, dict[str, Any]]:
        """Every channel and its state."""
        found: dict[str, dict[str, Any]] = self.call("GET", "/channels")
        return found

    def advance_clock(self, seconds: float) -> None:
        """Move the org's time forward."""
        self.call("POST", "/clock", {"advance_s": seconds})

    def purge(self, channel: str, through: int | None = None) -> None:
        """Purge up to and including a replay id, or everything."""
        self.call("POST", "/purge", {"channel": channel} | ({} if through is None else {"through": through}))

    def reset_stream(self, channel: str | None = None, next_id: int | None = None) -> None:
        """Make every replay id invalid, as when an org is moved; ids may start again at `next_id`."""
        body = {"channel": channel, "next_id": next_id}
        self.call("POST", "/reset", {name: value for name, value in body.items() if value is not None})

    def knobs(self, **changes: Any) -> dict[str, Any]:
        """Turn knobs; returns all of them."""
        found: dict[str, Any] = self.call("POST", "/knobs", changes) if changes else self.call("GET", "/knobs")
        return found

    def rights(self, **changes: Any) -> dict[str, Any]:
        """Set view_setup, view_all_data, view_all_users, or objects: {entity: none, read or view_all}; returns all."""
        found: dict[str, Any] = self.call("POST", "/rights", changes)
        return found

    def credentials(self, **changes: str) -> None:
        """Set client_id, client_secret, username or public_key (PEM)."""
        self.call("POST", "/credentials", changes)
        for name in ("client_id", "client_secret", "username"):
            setattr(self, name, changes.get(name, getattr(self, name)))

    # what goes wrong

    def fault(self, on: str, do: str, **details: Any) -> None:
        """Script a fault; see `faults.Fault` for the details."""
        self.call("POST", "/faults", {"on": on, "do": do, **details})

    def faults(self) -> list[dict[str, Any]]:
        """The faults still to come."""
        found: list[dict[str, Any]] = self.call("GET", "/faults")
        return found

    def clear_faults(self) -> None:
        """Forget all faults."""
        self.call("DELETE", "/faults")

    def random_faults(self, probability: float, seed: int = 0, on: Sequence[str] = (), do: Sequence[str] = ()) -> None:
        """From now on requests meet random faults."""
        self.call("POST", "/faults/random", {"probability": probability, "seed": seed, "on": list(on), "do": list(do)})

    def revoke_tokens(self) -> int:
        """Revoke every live token; held connects answer 401."""
        return int(self.call("POST", "/tokens/revoke")["revoked"])

    def end_sessions(self, do: str, client_id: str | None = None) -> int:
        """expire, push_disconnect, release (answer held connects), or close (all sockets, without an answer)."""
        return int(
            self.call("POST", "/sessions", {"do": do} | ({"clientId": client_id} if client_id else {}))["sessions"]
        )

    # what happened

    def sessions(self) -> list[dict[str, Any]]:
        """The open sessions."""
        found: list[dict[str, Any]] = self.call("GET", "/sessions")
        return found

    def stats(self) -> dict[str, Any]:
        """Counts of everything."""
        found: dict[str, Any] = self.call("GET", "/stats")
        return found

    def requests(self, client_id: str | None = None) -> list[dict[str, Any]]:
        """The journal: one entry per meta message, oldest first."""
        query = {"clientId": client_id} if client_id else {}
        found: list[dict[str, Any]] = self.call("GET", "/requests", **query)
        return found

    def clear_requests(self) -> None:
        """Forget the journal."""
        self.call("DELETE", "/requests")

    def ledger(self, channel: str, start: int = 0) -> Iterator[dict[str, Any]]:
        """Every delivery published on the channel, in order: replayId, sha256, bytes, epoch, entity, retained."""
        query = urllib.parse.urlencode({"channel": channel, "from": start})
        with urllib.request.urlopen(f"{self.url}/_emulator/ledger?{query}", timeout=600) as lines:
            for line in lines:
                yield json.loads(line)

    def deliveries(self, channel: str) -> list[bytes]:
        """The exact bytes of every delivery published on the channel, in order."""
        content = self._bytes("GET", "/ledger", None, {"channel": channel, "raw": 1})
        found, place = [], 0
        for row in self.ledger(channel):
            found.append(content[place : place + row["bytes"]])
            place += row["bytes"] + 1
        return found


@contextmanager
def start(
    *arguments: str, seed: int = 1, log: int | IO[bytes] = subprocess.DEVNULL, **knobs: Any
) -> Iterator[Emulator]:
    """A running emulator on a free port, stopped at the end of the block.

    `arguments` go to its command line, `log` takes its standard error, the rest are knobs.

    Raises: ControlError when it does not start.
    """
    command = [sys.executable, "-m", "emulator", "--port", "0", "--seed", str(seed), "--exit-with-parent", *arguments]
    for name, value in knobs.items():
        command += ["--knob", f"{name}={value}"]
    process = subprocess.Popen(
        command, cwd=Path(__file__).resolve().parent.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=log,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            raise ControlError(f"starting the emulator: it ended with code {process.wait()}: {' '.join(command)}")
        started = json.loads(line)
        yield Emulator(started["url"], started["pid"])
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
