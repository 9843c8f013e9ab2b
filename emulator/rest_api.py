"""The REST resources that simple-salesforce asks for, answered from the record tables."""

from __future__ import annotations

from aiohttp import web

from emulator.parts import Parts


def add_routes(app: web.Application, parts: Parts) -> None:
    """Mount /services/data."""
