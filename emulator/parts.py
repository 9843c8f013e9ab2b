"""Wires one emulated org together."""

from __future__ import annotations

from dataclasses import dataclass

from aiohttp import web

from emulator.bayeux_server import Bayeux
from emulator.faults import Faults
from emulator.journal import Journal
from emulator.knobs import Knobs
from emulator.oauth import Credentials, Token, Tokens, bearer
from emulator.org import ADMIN, ORG_ID, Clock, Org
from emulator.soql import Row


@dataclass
class Rate:
    """Live traffic on one channel."""

    per_second: float
    size: int = 0
    kinds: tuple[str, ...] = ()
    owed: float = 0.0


class Parts:
    """Everything that makes up one emulated org."""

    def __init__(self, seed: int = 1, knobs: Knobs | None = None, credentials: Credentials | None = None) -> None:
        self.knobs = knobs or Knobs()
        self.clock = Clock()
        self.credentials = credentials or Credentials()
        self.org = Org(self.knobs, self.clock, seed)
        self.tokens = Tokens(self.knobs, self.credentials, ORG_ID, ADMIN)
        self.bayeux = Bayeux(self.org, self.tokens, self.knobs)
        self.faults = Faults()
        self.journal = Journal()
        self.rates: dict[str, Rate] = {}
        self.held: dict[int, web.Request] = {}  # POSTs to /cometd that are being answered
        self.cursors: dict[str, list[Row]] = {}  # long REST queries by locator
        self.posts = 0

    def token_of(self, request: web.Request) -> Token | None:
        """The live token that a request carries."""
        return self.tokens.check(bearer(request.headers.get("Authorization", "")))
