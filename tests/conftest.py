"""Fixtures of all end-to-end tests: one Azurite per worker; an emulated org and containers of its own per test."""

from __future__ import annotations

import importlib
import itertools
from collections.abc import Iterator

import pytest

from emulator.client import Emulator
from tests.azurite import Azurite, azurite
from tests.harness import Site, open_site
from tests.nursery import Nursery

numbers = itertools.count(1)


@pytest.fixture(scope="session")
def storage() -> Iterator[Azurite]:
    """A blob service for all tests of this worker; what a run imports late is imported before the first one counts."""
    for name in ("azure.storage.blob", "jwt", "cryptography.hazmat.primitives.asymmetric.rsa", "simple_salesforce.api"):
        importlib.import_module(name)
    with azurite() as running:
        yield running


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    """Starts emulated orgs for all tests of this worker."""
    opened = Nursery()
    yield opened
    opened.close()


@pytest.fixture
def org(nursery: Nursery) -> Iterator[Emulator]:
    """An emulated org, empty, with Salesforce's timeouts."""
    with nursery.start() as running:
        yield running


@pytest.fixture
def site(org: Emulator, storage: Azurite) -> Iterator[Site]:
    """The org, two containers that nobody else uses, and the app between them."""
    number = next(numbers)
    with open_site(org, storage.connection_string, f"events-{number}", f"checkpoints-{number}") as opened:
        yield opened
