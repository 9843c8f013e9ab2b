"""A container that fails as scripted: what storage, the network, or a killed process can do to every single call.

Nothing here is random: a script decides call by call, so that a test can be replayed.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, TypeVar

from cdc.errors import BlobChanged, BlobExists, StorageError, StorageForbidden, StorageUnavailable
from cdc.store import NO_METADATA, Blob, Container

T = TypeVar("T")
WRITES = ("create", "replace", "ensure")


class Killed(BaseException):
    """The process died here. Not an Exception: no handler of the product may take it for a failure."""


class Fault(Enum):
    """What befalls one call; writes are `create`, `replace` and an `ensure` that creates."""

    UNAVAILABLE = auto()
    """StorageUnavailable, nothing was done: the request never arrived."""
    LOST_ANSWER = auto()
    """StorageUnavailable, yet it was done."""
    LATE = auto()
    """StorageUnavailable, nothing was done yet: the write is held back until `Script.release`."""
    REPEATED = auto()
    """It was done, its answer got lost, the SDK asked again: own success looks like BlobExists or BlobChanged."""
    FORBIDDEN = auto()
    """StorageForbidden, nothing was done."""
    BROKEN = auto()
    """Plain StorageError, nothing was done."""
    KILLED_BEFORE = auto()
    """Killed, nothing was done; so does every later call until `Script.revive`."""
    KILLED_AFTER = auto()
    """Killed, yet it was done; likewise."""


@dataclass(frozen=True)
class Call:
    """One call, as the script sees it before it happens; `number` counts from 1 over all containers of a script."""

    number: int
    container: str
    verb: str
    name: str
    """The blob's name, or the prefix of a listing; empty for the container's own verbs."""


@dataclass(frozen=True)
class Held:
    """A late write that is still on its way."""

    call: Call
    act: Callable[[], Any]


Decide = Callable[[Call], Fault | None]


class Script:
    """What happens to the calls of all containers that share it, and what they were; safe for many threads."""

    def __init__(self, decide: Decide = lambda call: None) -> None:
        self.decide = decide
        self.calls: list[Call] = []
        self.held: list[Held] = []
        self.is_dead = False
        self._lock = threading.Lock()

    def begin(self, container: str, verb: str, name: str) -> tuple[Call, Fault | None]:
        """Count the call and return it with its fault."""
        with self._lock:
            if self.is_dead:
                raise Killed
            call = Call(len(self.calls) + 1, container, verb, name)
            self.calls.append(call)
            fault = self.decide(call)
            if fault in (Fault.KILLED_BEFORE, Fault.KILLED_AFTER):
                self.is_dead = True
            return call, fault

    def count(self, verb: str | None = None, name: str | None = None) -> int:
        """Return how many calls had that verb and that name."""
        return sum(1 for c in self.calls if verb in (None, c.verb) and name in (None, c.name))

    def release(self) -> list[StorageError | None]:
        """Let the held writes arrive, oldest first; returns what each met: None, or the error that nobody hears."""
        with self._lock:
            held, self.held = self.held, []
        return [_outcome(write.act) for write in held]

    def revive(self, decide: Decide = lambda call: None) -> None:
        """Start the next process: calls work again, under this script; what is held stays held."""
        self.decide = decide
        self.is_dead = False


def on(fault: Fault, *, verb: str | None = None, name: str | None = None, nth: int = 1) -> Decide:
    """Return a script that gives the fault to the nth call with that verb and name (None: any)."""
    seen = 0

    def decide(call: Call) -> Fault | None:
        nonlocal seen
        if verb in (None, call.verb) and name in (None, call.name):
            seen += 1
            return fault if seen == nth else None
        return None

    return decide


def always(fault: Fault, *, verb: str | None = None, name: str | None = None) -> Decide:
    """Return a script that gives the fault to every call with that verb and name (None: any)."""
    return lambda call: fault if verb in (None, call.verb) and name in (None, call.name) else None


def at_call(number: int, fault: Fault) -> Decide:
    """Return a script that gives the fault to the call of that number, whatever it is."""
    return lambda call: fault if call.number == number else None


def first_of(*scripts: Decide) -> Decide:
    """Return a script that asks each of these and takes the first fault."""

    def decide(call: Call) -> Fault | None:
        faults = [script(call) for script in scripts]
        return next((fault for fault in faults if fault), None)

    return decide


class FaultyContainer:
    """`Container` that passes calls on to `inner` unless its script says otherwise."""

    def __init__(self, inner: Container, script: Script) -> None:
        self.inner = inner
        self.script = script

    @property
    def name(self) -> str:
        return self.inner.name

    def ensure(self) -> bool:
        return self._call("ensure", "", self.inner.ensure)

    def read(self, name: str) -> Blob | None:
        return self._call("read", name, lambda: self.inner.read(name))

    def head(self, name: str) -> Blob | None:
        return self._call("head", name, lambda: self.inner.head(name))

    def create(self, name: str, body: bytes, *, metadata: Mapping[str, str] = NO_METADATA, content_type: str) -> None:
        self._call("create", name, lambda: self.inner.create(name, body, metadata=metadata, content_type=content_type))

    def replace(self, name: str, body: bytes, *, etag: str | None, content_type: str) -> str:
        return self._call("replace", name, lambda: self.inner.replace(name, body, etag=etag, content_type=content_type))

    def names(self, prefix: str, *, at_most: int | None = None) -> list[str]:
        return self._call("names", prefix, lambda: self.inner.names(prefix, at_most=at_most))

    def from_name(self, prefix: str, start: str, *, at_most: int) -> list[Blob]:
        return self._call("from_name", start, lambda: self.inner.from_name(prefix, start, at_most=at_most))

    def folders(self, prefix: str) -> list[str]:
        return self._call("folders", prefix, lambda: self.inner.folders(prefix))

    def probe_write(self) -> None:
        self._call("probe_write", "", self.inner.probe_write)

    def probe_ensure(self) -> None:
        self._call("probe_ensure", "", self.inner.probe_ensure)

    def _call(self, verb: str, name: str, act: Callable[[], T]) -> T:
        call, fault = self.script.begin(self.name, verb, name)
        if fault is None:
            return act()
        if fault is Fault.LATE and verb in WRITES:
            self.script.held.append(Held(call, act))
        elif fault is Fault.REPEATED:
            act()
        elif fault in (Fault.LOST_ANSWER, Fault.KILLED_AFTER):
            _outcome(act)
        raise _failure(call, fault)


def _failure(call: Call, fault: Fault) -> BaseException:
    if fault in (Fault.KILLED_BEFORE, Fault.KILLED_AFTER):
        return Killed(call)
    kind: type[StorageError] = {
        Fault.FORBIDDEN: StorageForbidden,
        Fault.BROKEN: StorageError,
        Fault.REPEATED: {"create": BlobExists, "replace": BlobChanged}.get(call.verb, StorageUnavailable),
    }.get(fault, StorageUnavailable)
    message = f"call {call.number}, {call.verb} {call.name} in container {call.container}: {fault.name.lower()}"
    return kind(message, hint="this fault was scripted by a test")


def _outcome(act: Callable[[], Any]) -> StorageError | None:
    try:
        act()
    except StorageError as error:
        return error
    return None
