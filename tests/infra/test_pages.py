"""The pages about deploying name what is there: parameters, roles, files, commands, and a bill that adds up."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path

import typer

from cdc import cli
from cdc.salesforce import _LOGIN_HINTS
from cdc.settings import SETTINGS
from tests.alerts.rules import rules
from tests.infra import bicep
from tests.infra.agreement import APP_ROLES

ROOT = Path(__file__).parent.parent.parent
DEPLOY = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
SALESFORCE = (ROOT / "docs/salesforce-setup.md").read_text(encoding="utf-8")
FILES = bicep.texts_of(ROOT)
ROLE_ID = r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
BUSY_S, RUNS, FREE_GBS, PRICE = 265, 8_640, 100_000, 0.000026


def table(page: str, heading: str) -> list[list[str]]:
    """The cells of the first table under a heading, without its own head."""
    rest = page.partition(f"\n{heading}\n")[2]
    lines = re.search(r"(?:^ *\|.*\n)+", rest, re.MULTILINE)
    assert lines, heading
    return [[cell.strip() for cell in line.strip().strip("|").split("|")] for line in lines[0].splitlines()[2:]]


def test_every_parameter_is_described_with_its_default_and_its_variable() -> None:
    main, rendered = FILES["infra/main.bicep"], bicep.render(FILES, "infra/main.bicep", {})
    entries = json.loads((ROOT / "infra/main.parameters.json").read_text(encoding="utf-8"))["parameters"]
    rows = {row[0].strip("`"): row for row in table(DEPLOY, "## Parameters")}
    assert list(rows) == list(bicep.parameters_of(main))
    for name, (_, variable, default, _) in rows.items():
        of_azd = re.match(r"\$\{([A-Z_]+)", entries[name]["value"]) if name in entries else None
        assert variable == (f"`{of_azd[1]}`" if of_azd else ""), name
        value = rendered.values[name]
        value = str(value).lower() if isinstance(value, bool) else value
        if name not in ("location", "functionAppName", "dataAccountName") and not isinstance(value, bicep.Unknown):
            assert default == (f"`{value}`" if value != "" else ""), name


def test_every_role_of_the_app_is_named() -> None:
    names = {
        "b7e6dc6d-f1e8-4753-8033-0f276bb0955b": "Storage Blob Data Owner",
        "ba92f5b4-2d11-453d-a403-e96b0029c9fe": "Storage Blob Data Contributor",
        "4633458b-17de-408a-b874-0445c86b69e6": "Key Vault Secrets User",
        "3913510d-42f4-4e42-8a64-420c390055eb": "Monitoring Metrics Publisher",
    }
    rows = {(row[0], row[1].strip("`")) for row in table(DEPLOY, "The identity's roles:\n")}
    assert rows == {(names[role], role) for _, role in APP_ROLES}
    assert set(re.findall(ROLE_ID, FILES["infra/app/roles.bicep"])) <= set(re.findall(ROLE_ID, DEPLOY))


def test_the_bill_adds_up() -> None:
    rows = table(DEPLOY, "## What it costs")
    assert [row[0] for row in rows] == ["512 MB", "2048 MB", "4096 MB"]
    for memory, used, *bills in rows:
        one_group = int(memory.split()[0]) / 1024 * BUSY_S * RUNS
        assert used == f"{one_group:,.0f}"
        assert bills == [f"${(groups * one_group - FREE_GBS) * PRICE:.0f}" for groups in (1, 2, 4)]
    assert int(SETTINGS["CDC_RUN_SECONDS"].default or 0) == BUSY_S - 5
    assert 30 * 24 * 60 // int((SETTINGS["CDC_SCHEDULE"].default or "").split("/")[1].split()[0]) == RUNS
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"from about {rows[0][2]} a month" in readme


def test_the_bill_of_the_alerts_adds_up() -> None:
    every = [rule.every // timedelta(minutes=1) for rule in rules().values()]
    cheap, dear = every.count(15), every.count(5)
    [row] = [line.split("|")[1:-1] for line in DEPLOY.splitlines() if line.startswith("| alerts |")]
    assert f"{dear} rules asked every 5 minutes at $1.50, {cheap} rules asked every 15 minutes at $0.50" in row[1]
    assert row[2].strip() == f"${dear * 1.5 + cheap * 0.5:.2f}"
    assert len(every) == dear + cheap


def test_the_files_are_listed() -> None:
    readme = (ROOT / "infra/README.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| `([^`]+)` \|", readme, re.MULTILINE))
    there = {path.relative_to(ROOT / "infra").as_posix() for path in ROOT.glob("infra/**/*.*")} - {"README.md"}
    assert listed == {re.sub(r"[\w-]+\.kql$", "*.kql", name) for name in there}


def test_outputs_commands_and_resources_that_the_pages_name_exist() -> None:
    outputs = set(re.findall(r"^output (\w+)", FILES["infra/main.bicep"], re.MULTILINE))
    assert set(re.findall(r"\$\(output (\w+)\)", DEPLOY)) | {"dataBlobServiceUri"} <= outputs
    assert set(re.findall(r"get-value (\w+)", DEPLOY)) <= outputs
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    assert set(re.findall(r"python -m cdc (\w+)", DEPLOY + SALESFORCE)) <= set(commands)
    for prefix in re.findall(r"`((?:id|plan|log|appi|ag|kv|func)-cdc-)", DEPLOY):
        assert prefix in FILES["infra/main.bicep"]


def test_every_refusal_that_the_app_explains_is_in_the_table_of_refusals() -> None:
    said = SALESFORCE.partition("## 7. Try it")[2].lower()
    vague = {"user", "expired"}  # words within many answers
    missing = {sign for sign, _ in _LOGIN_HINTS} - vague - {sign for sign, _ in _LOGIN_HINTS if sign.lower() in said}
    assert missing <= {"grant type not supported"}
    assert "unsupported_grant_type" in said
