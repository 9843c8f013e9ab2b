"""Azurite for tests: the launcher that demo and benchmarks use too."""

from __future__ import annotations

from emulator.azurite import Azurite, azurite

__all__ = ["Azurite", "azurite"]
