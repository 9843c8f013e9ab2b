"""The containers that the contract suite is run against, and a storage server that answers as a test tells it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from cdc.memory_store import MemoryContainer
from cdc.store import BlobService, Container, Patience, open_service
from tests.azurite import Azurite, azurite
from tests.faulty_store import FaultyContainer, Script
from tests.store.scripted_server import ScriptedServer, serve

numbers = itertools.count(1)


@pytest.fixture(scope="session")
def emulator() -> Iterator[Azurite]:
    with azurite() as running:
        yield running


@pytest.fixture(scope="session")
def service(emulator: Azurite) -> Iterator[BlobService]:
    opened = open_service(connection_string=emulator.connection_string)
    yield opened
    opened.close()


@pytest.fixture(params=["memory", "azurite", "faultless"])
def absent(request: pytest.FixtureRequest) -> Container:
    """A container that does not exist yet."""
    if request.param == "memory":
        return MemoryContainer()
    if request.param == "faultless":
        return FaultyContainer(MemoryContainer(), Script())
    opened: BlobService = request.getfixturevalue("service")
    return opened.container(f"contract-{next(numbers)}")


@pytest.fixture
def container(absent: Container) -> Container:
    """An empty container."""
    absent.ensure()
    return absent


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with serve() as running:
        yield running


@pytest.fixture
def far(server: ScriptedServer) -> Iterator[Container]:
    """A container at the scripted server, by SAS, one request per call."""
    opened = open_service(connection_string=server.connection_string, patience=Patience(2, 2, repetitions=0))
    yield opened.container("far")
    opened.close()
