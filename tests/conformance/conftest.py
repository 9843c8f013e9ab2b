"""Fixtures of the conformance suite: one official CometD server per test."""

from collections.abc import Iterator

import pytest

from tests.conformance.server import CometDServer, cometd_server


@pytest.fixture
def cometd() -> Iterator[CometDServer]:
    """A fresh server with Salesforce's timeouts, stopped after the test."""
    with cometd_server() as server:
        yield server
