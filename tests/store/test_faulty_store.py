"""The faulty wrapper does to a call what its script says, and nothing else."""

from __future__ import annotations

import pytest

from cdc.errors import BlobChanged, BlobExists, StorageError, StorageForbidden, StorageUnavailable
from cdc.memory_store import MemoryContainer
from tests.faulty_store import Decide, Fault, FaultyContainer, Killed, Script, always, at_call, first_of, on
from tests.store.test_store_contract import LINES


def faulty(decide: Decide) -> FaultyContainer:
    inner = MemoryContainer()
    inner.ensure()
    return FaultyContainer(inner, Script(decide))


@pytest.mark.parametrize(
    ("fault", "kind", "is_done"),
    [
        (Fault.UNAVAILABLE, StorageUnavailable, False),
        (Fault.LOST_ANSWER, StorageUnavailable, True),
        (Fault.LATE, StorageUnavailable, False),
        (Fault.REPEATED, BlobExists, True),
        (Fault.FORBIDDEN, StorageForbidden, False),
        (Fault.BROKEN, StorageError, False),
        (Fault.KILLED_BEFORE, Killed, False),
        (Fault.KILLED_AFTER, Killed, True),
    ],
)
def test_a_fault_befalls_the_call_it_was_scripted_for(fault: Fault, kind: type[BaseException], is_done: bool) -> None:
    container = faulty(on(fault, verb="create", name="b"))
    container.create("a", b"", content_type=LINES)
    with pytest.raises(kind):
        container.create("b", b"", content_type=LINES)
    container.script.revive()
    assert container.names("") == (["a", "b"] if is_done else ["a"])


def test_a_late_write_arrives_on_release_and_keeps_its_condition() -> None:
    container = faulty(on(Fault.LATE, verb="create"))
    with pytest.raises(StorageUnavailable):
        container.create("a", b"late", content_type=LINES)
    container.create("a", b"in time", content_type=LINES)
    [error] = container.script.release()
    assert isinstance(error, BlobExists)
    assert container.script.release() == []


def test_a_late_write_that_finds_its_place_lands() -> None:
    container = faulty(on(Fault.LATE, verb="create"))
    with pytest.raises(StorageUnavailable):
        container.create("a", b"late", content_type=LINES)
    assert container.read("a") is None
    assert container.script.release() == [None]
    assert container.read("a") is not None


def test_a_repeated_replace_reports_its_own_success_as_a_change() -> None:
    container = faulty(on(Fault.REPEATED, verb="replace"))
    with pytest.raises(BlobChanged):
        container.replace("a", b"1", etag=None, content_type=LINES)
    blob = container.read("a")
    assert blob is not None
    assert blob.body == b"1"


def test_after_a_kill_every_call_of_every_container_is_killed_until_the_next_process() -> None:
    script = Script(at_call(2, Fault.KILLED_BEFORE))
    one, two = (FaultyContainer(MemoryContainer(name), script) for name in ("one", "two"))
    assert one.ensure() is True
    for container in (one, two, one):
        with pytest.raises(Killed):
            container.ensure()
    script.revive()
    assert two.ensure() is True
    assert [(call.number, call.container) for call in script.calls] == [(1, "one"), (2, "one"), (3, "two")]


def test_scripts_combine_and_calls_are_counted() -> None:
    container = faulty(first_of(always(Fault.FORBIDDEN, verb="probe_write"), on(Fault.UNAVAILABLE, verb="read", nth=2)))
    assert container.read("a") is None
    with pytest.raises(StorageUnavailable):
        container.read("a")
    with pytest.raises(StorageForbidden):
        container.probe_write()
    assert container.script.count() == 3
    assert container.script.count("read") == container.script.count("read", "a") == 2
    assert container.script.count("head") == 0
