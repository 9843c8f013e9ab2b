"""The Bicep files by themselves: they parse, fit together, and no check is skipped without a reason."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.infra import bicep

ROOT = Path(__file__).parent.parent.parent
TEXTS = bicep.texts_of(ROOT)
FILES = {path: text for path, text in TEXTS.items() if path.endswith(".bicep")}
CHECKOV = ROOT / ".venv-checkov/bin/checkov"
CHECKER = os.environ.get("BICEP_CHECK", "")


@pytest.mark.parametrize("path", FILES)
def test_a_file_parses_and_uses_all_that_it_declares(path: str) -> None:
    text = FILES[path]
    assert bicep.syntax_errors(text) == []
    declared = set(re.findall(r"^(?:param|var) (\w+)", text, re.MULTILINE))
    assert declared <= bicep.identifiers_in(text)
    assert text.startswith("// "), "a file begins with its one sentence of purpose"


def test_the_checks_of_files_see() -> None:
    assert bicep.syntax_errors("param a string = {") != []
    assert bicep.identifiers_in("param a string\nparam b string\noutput c string = b") == {"b"}


def test_modules_are_files_of_this_folder_and_get_the_parameters_that_they_ask_for() -> None:
    main = FILES["infra/main.bicep"]
    sources = dict(re.findall(r"^module (\w+) '([^']+)'", main, re.MULTILINE))
    assert {f"infra/{source}" for source in sources.values()} == set(FILES) - {"infra/main.bicep"}
    for name, rendered in bicep.render(TEXTS, "infra/main.bicep", {}).modules.items():
        wanted = bicep.parameters_of(FILES[f"infra/{sources[name]}"])
        given = set(
            re.findall(r"^    (\w+): ", main.partition(f"module {name} ")[2].partition("\n}\n")[0], re.MULTILINE)
        )
        assert given <= set(wanted), name
        assert {each for each, parameter in wanted.items() if not parameter.has_default} <= given, name
        assert rendered.resources


def test_only_the_secret_is_secure_and_no_default_holds_one() -> None:
    for path, text in FILES.items():
        for name, parameter in bicep.parameters_of(text).items():
            assert ("secure" in parameter.decorators) == (name in ("salesforceSecret", "secretValue")), (
                f"{path}: {name}"
            )
    assert "param salesforceSecret string = ''" in FILES["infra/main.bicep"]


def test_every_check_that_checkov_skips_has_its_reason() -> None:
    text = (ROOT / "infra/checkov.yaml").read_text(encoding="utf-8")
    skipped = [line.strip() for line in text.partition("skip-check:\n")[2].splitlines()]
    assert skipped
    for line in skipped:
        assert re.fullmatch(r"- CKV_AZURE_[0-9]+ +# \S.{9,}: \S.{15,}", line), line


@pytest.mark.skipif(not CHECKOV.exists(), reason="no checkov here; make checkov sets it up")
def test_no_check_is_skipped_that_would_pass() -> None:
    command = [str(CHECKOV), "-d", "infra", "--framework", "bicep", "--skip-download", "-o", "json"]
    environment = {**os.environ, "PYTHONHASHSEED": "0"}  # as in the Makefile: what it finds depends on its sets' order
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    failed = {each["check_id"] for each in json.loads(done.stdout)["results"]["failed_checks"]}
    skipped = set(re.findall(r"^  - (CKV_\w+)", (ROOT / "infra/checkov.yaml").read_text(), re.MULTILINE))
    assert skipped == failed


@pytest.mark.skipif(not CHECKER, reason="BICEP_CHECK names no checker of Bicep against Microsoft's types")
def test_a_checker_with_microsofts_types_finds_no_error() -> None:
    done = subprocess.run([sys.executable, CHECKER, *FILES], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "error" not in done.stdout
    assert done.returncode == 0, done.stdout + done.stderr
