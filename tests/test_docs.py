"""The documentation names everything that users meet, and nothing that is not there."""

import ast
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer

from cdc import cli, continuity, org_check, preflight
from cdc.events import Delivery, read_message
from cdc.layout import Checkpoint, Gap, GapClosing, Generation, Record, Redriving, RunRecord, SegmentFacts, Turn
from cdc.report import ChannelReport, RunReport
from cdc.settings import SETTINGS

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
STORAGE_LOG = (ROOT / "docs/storage-log.md").read_text(encoding="utf-8")
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
    ROOT / "infra/README.md",
    *sorted((ROOT / "docs").rglob("*.md")),
]
CHANNEL = "/data/AccountChangeEvent"


def section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next one of its level or above."""
    level = len(heading) - len(heading.lstrip("#"))
    _, found, rest = f"\n{text}".partition(f"\n{heading}\n")
    assert found, f"there is no heading {heading!r}"
    return re.split(rf"^#{{1,{level}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of every table row but headers and rulers."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [row for row, below in zip(cells, [*cells[1:], [""]], strict=True) if row[0][:3] != "---" != below[0][:3]]


def code_names(text: str) -> set[str]:
    return set(re.findall(r"`([^`\s]+)`", text))


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


# --- settings, commands -----------------------------------------------------------------------------------------------


def test_the_readme_has_every_setting_with_its_default() -> None:
    table = {row[0].strip("`"): row[2] for row in rows(section(README, "## Settings"))}
    assert list(table) == list(SETTINGS)
    for name, setting in SETTINGS.items():
        assert not setting.default or table[name] == f"`{setting.default}`", name
        assert (table[name] == "required") == setting.required, name


def test_every_setting_that_a_document_names_exists() -> None:
    for path in DOCUMENTS:
        named = set(re.findall(r"\b(?:CDC|SALESFORCE)_[A-Z_]*[A-Z](?:__\w+)?", path.read_text(encoding="utf-8")))
        assert named <= set(SETTINGS), path.name


def test_the_readme_has_every_command_and_no_other() -> None:
    commands = dict(all_commands(typer.main.get_command(cli.app)))
    text = "\n".join([README, ARCHITECTURE, STORAGE_LOG])
    groups = "|".join({name.split()[0] for name in commands if " " in name})
    named = re.findall(rf"python -m cdc ((?:(?:{groups}) )?[a-z]+)([^\n`]*)", text)
    assert {name for name, _ in named} == set(commands)
    for name, rest in named:
        known = {option for parameter in commands[name].params for option in parameter.opts}
        options = set(re.findall(r"(?<= )--[a-z]+", rest.partition("#")[0]))
        assert options <= known, f"{name}{rest}"
    described = {name for row in rows(section(README, "## Commands")) for name in re.findall(r"`([a-z ]+)", row[0])}
    assert {name.strip() for name in described} == set(commands)


def all_commands(group: Any, before: str = "") -> Iterator[tuple[str, Any]]:
    """Every command by its full name, those within others too."""
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from all_commands(command, f"{before}{name} ")
        else:
            yield before + name, command


def test_the_readme_has_every_subject_that_check_speaks_of() -> None:
    table = section(README, "## Run it against your own org").partition("| line |")[2]
    described = {name for row in rows(f"| line |{table}") for name in re.findall(r"`([^`]+)`", row[0])}
    subjects = {preflight.SETTINGS, *(subject for subject, *_ in org_check._ALLOCATIONS.values())}
    for module in (preflight, org_check):
        for node in ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("Finding", "failed", "warned"):
                subjects |= {str(each.value) for each in node.args[:1] if isinstance(each, ast.Constant)}
    groups = {"storage and Salesforce": "storage …", "channels": "session", "session and channels": "session"}
    assert {groups.get(subject, subject) for subject in subjects} | {"storage …"} == described


# --- what is landed ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heading", "kind"),
    [
        ("### Checkpoint", Checkpoint),
        ("### Generation", Generation),
        ("### Gap", Gap),
        ("### Gap closing", GapClosing),
        ("### Turn", Turn),
        ("### Redriving", Redriving),
        ("### Run", RunRecord),
    ],
)
def test_every_field_of_a_record_is_described_and_its_example_is_one(
    heading: str, kind: type[Record] | type[RunRecord]
) -> None:
    text = section(STORAGE_LOG, heading)
    described = {name for row in rows(text) for name in code_names(row[0])}
    shared = {"format", "channel", "orgId", "runId"}
    assert shared <= code_names(section(STORAGE_LOG, "## Records"))
    fields = {field.encode_name for field in msgspec.structs.fields(kind)}
    assert fields - shared <= described <= fields
    [example] = blocks(text, "json")
    assert set(json.loads(example)) == fields
    body = example.encode()
    record = RunRecord.from_blob(body) if kind is RunRecord else kind.from_blob(body, CHANNEL)  # type: ignore[call-arg]
    assert isinstance(record, kind)


def test_every_name_in_a_segments_metadata_is_described() -> None:
    described = {name for row in rows(section(STORAGE_LOG, "### Metadata")) for name in code_names(row[0])}
    assert described == set(SegmentFacts.__dataclass_fields__)


def test_every_cause_of_a_generation_is_described() -> None:
    causes = {continuity.FIRST_START, continuity.REPLAY_REFUSED, continuity.OUTAGE, continuity.UNPROVEN}
    causes |= {continuity.REWIND}
    assert causes <= code_names(section(STORAGE_LOG, "### Generation"))
    assert causes - {continuity.FIRST_START} <= code_names(section(STORAGE_LOG, "### Gap"))


def test_the_readmes_line_is_a_delivery() -> None:
    [line] = blocks(README, "json")
    delivery = read_message(line.strip().encode())
    assert isinstance(delivery, Delivery)
    assert delivery.channel == CHANNEL


# --- what a run says --------------------------------------------------------------------------------------------------


def emitted() -> Iterator[tuple[str, set[str]]]:
    """The log events in the sources with the fields that stand there by name."""
    for path in sorted((ROOT / "cdc").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = node.func if isinstance(node, ast.Call) else None
            called = name.attr if isinstance(name, ast.Attribute) else name.id if isinstance(name, ast.Name) else ""
            if isinstance(node, ast.Call) and called in ("emit", "_emit") and isinstance(node.args[0], ast.Constant):
                fields = {keyword.arg for keyword in node.keywords if keyword.arg}
                yield str(node.args[0].value), fields - {"level"}


def test_every_log_event_and_its_fields_are_described() -> None:
    described = {row[0].strip("`"): code_names(row[2]) for row in rows(section(ARCHITECTURE, "## What a run says"))}
    said = list(emitted())
    assert {name for name, _ in said} == set(described)
    for name, fields in said:
        assert fields <= described[name], name


def test_a_run_and_its_channels_say_exactly_the_fields_that_are_described() -> None:
    described = {row[0].strip("`"): code_names(row[2]) for row in rows(section(ARCHITECTURE, "## What a run says"))}
    now = datetime.now(UTC)
    report = RunReport("run", "capture1", now, {CHANNEL: ChannelReport(CHANNEL)})
    assert set(report.signal(now)) == described["run.finished"]
    [(_, fields)] = report.channel_signals(now)
    assert set(fields) == described["channel.finished"]
    for alive, finished in (("run.alive", "run.finished"), ("channel.alive", "channel.finished")):
        assert described[alive] == {finished}


def test_every_module_has_its_sentence() -> None:
    described = {name for row in rows(section(ARCHITECTURE, "## The modules")) for name in code_names(row[0])}
    modules = {f"cdc/{path.name}" for path in (ROOT / "cdc").glob("*.py") if path.name != "__init__.py"}
    assert described - {"emulator/", "demo/", "cdc/cli/", "function_app.py"} == modules


def test_every_dependency_has_its_reason() -> None:
    listed = (ROOT / "pyproject.toml").read_text(encoding="utf-8").partition("dependencies = [")[2].partition("]")[0]
    needed = set(re.findall(r'"([a-z-]+)[><=\[]', listed))
    explained = {name.strip() for row in rows(section(ARCHITECTURE, "### The parts")) for name in row[0].split(",")}
    assert needed | {"typer", "rich"} == explained


# --- links ------------------------------------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    text = re.sub(r"^```.*?^```$", "", path.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_every_link_leads_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text(encoding="utf-8")):
        if target.startswith("https://"):
            continue
        name, _, anchor = target.partition("#")
        found = (path.parent / name).resolve() if name else path
        assert found.exists(), target
        if anchor:
            page = found / "README.md" if found.is_dir() else found
            assert anchor in anchors(page), target
