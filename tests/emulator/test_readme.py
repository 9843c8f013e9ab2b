"""The emulator's README names everything that can be called, turned or broken."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import emulator
from emulator.client import Emulator
from emulator.faults import AFTER, BEFORE, ON, REPLIES, Fault
from emulator.knobs import Knobs
from emulator.traffic import KINDS, RARE_KINDS

README = (Path(emulator.__file__).parent / "README.md").read_text()


@pytest.mark.parametrize(
    "name",
    [
        *(field.name for field in dataclasses.fields(Knobs)),
        *(field.name for field in dataclasses.fields(Fault)),
        *ON,
        *BEFORE,
        *AFTER,
        *REPLIES,
        *KINDS,
        *RARE_KINDS,
    ],
)
def test_the_readme_names_each_knob_fault_and_kind(name: str) -> None:
    assert f"`{name}`" in README


def test_the_readme_names_each_control_call(org: Emulator) -> None:
    calls = [path for path in org.call("GET", "")["control"] if path != "/_emulator/"]
    assert calls
    assert [path for path in calls if f"{path}`" not in README] == []
