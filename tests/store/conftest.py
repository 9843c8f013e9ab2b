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


@pytest.fixture(scope="session")
def one_server() -> Iterator[ScriptedServer]:
    with serve() as running:
        yield running


@pytest.fixture(scope="session")
def one_far(one_server: ScriptedServer) -> Iterator[Container]:
    opened = open_service(connection_string=one_server.connection_string, patience=Patience(2, 2, repetitions=0))
    yield opened.container("far")
    opened.close()


@pytest.fixture
def server(one_server: ScriptedServer) -> ScriptedServer:
    """The scripted server, all scripts forgotten."""
    one_server.reset()
    return one_server


@pytest.fixture
def far(server: ScriptedServer, one_far: Container) -> Container:
    """A container at the scripted server, by SAS, one request per call."""
    return one_far
