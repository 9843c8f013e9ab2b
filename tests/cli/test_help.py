"""What the command line says of itself: every command with an example that can be run."""

from __future__ import annotations

import re
import shlex

import pytest
from typer.testing import CliRunner

from cdc import cli

pytestmark = pytest.mark.pure

COMMANDS = (
    *(("run",), ("check",), ("status",), ("tail",), ("rewind",)),
    *(("gaps", "list"), ("gaps", "close")),
    *(("quarantine", "list"), ("quarantine", "show"), ("quarantine", "redrive")),
)


def help_of(*command: str) -> str:
    result = CliRunner().invoke(cli.app, [*command, "--help"], prog_name="python -m cdc")
    assert result.exit_code == 0, result.output
    return result.output


def examples_in(text: str) -> list[list[str]]:
    """The arguments of every example."""
    lines = re.findall(r"^ +python -m cdc (.+)$", text, re.MULTILINE)
    return [shlex.split(re.split(r" {2,}| \| | > ", line)[0]) for line in lines]


def test_the_help_names_every_command_with_an_example() -> None:
    text = help_of()
    commands = re.findall(r"^  ([a-z]+)  ", text.partition("Commands:")[2], re.MULTILINE)
    assert commands == list(dict.fromkeys(command[0] for command in COMMANDS))
    assert {example[0] for example in examples_in(text)} == set(commands)
    for group in {command[0] for command in COMMANDS if len(command) > 1}:
        listed = re.findall(r"^  ([a-z]+)  ", help_of(group).partition("Commands:")[2], re.MULTILINE)
        assert listed == [command[1] for command in COMMANDS if command[0] == group]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_commands_help_has_examples_that_can_be_run_and_its_exit_codes(command: tuple[str, ...]) -> None:
    text = help_of(*command)
    examples = examples_in(text)
    assert len(examples) >= 2
    assert {tuple(example[: len(command)]) for example in examples} == {command}
    for code in "012":
        assert re.search(rf"^ +{code}  \S", text, re.MULTILINE), text
    assert "--json" in text
    for example in examples:
        help_of(*example)  # an option that does not exist is refused before the help is shown


@pytest.mark.parametrize("command", [(), ("gaps",), ("quarantine",), *COMMANDS], ids=" ".join)
def test_no_line_of_help_is_wider_than_a_terminal_or_draws_boxes(command: tuple[str, ...]) -> None:
    for line in help_of(*command).splitlines():
        assert line.startswith("    ") or len(line) <= 80, line
        assert line.isascii() or "✓" in line, line


def test_an_option_that_does_not_exist_is_refused() -> None:
    result = CliRunner().invoke(cli.app, ["run", "--second", "5", "--help"], prog_name="python -m cdc")
    assert result.exit_code == cli.UNUSABLE
    assert "--seconds" in result.output
