"""What is published is the app and nothing else: listed, weighed, installed and indexed as Azure does it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.harness import slowness
from tests.packaging.package import ROOT, build, files_of, needed_modules

MEGABYTE = 1_000_000
PYTHONS = ("3.11", "3.12", "3.13")
# Loads the app as the worker does, with every way to a network watched, and prints what was found.
LOAD = """
import json, sys, time
reached = []
def watch(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "subprocess.Popen"):
        reached.append(event)
sys.addaudithook(watch)
began = time.perf_counter()
import function_app
took_s = time.perf_counter() - began
functions = [json.loads(str(each)) | {"name": each.get_function_name()} for each in function_app.app.get_functions()]
print(json.dumps({"functions": functions, "reached": reached, "took_s": took_s, "version": list(sys.version_info[:2])}))
"""


def load(python: str | Path, folder: Path, **settings: str) -> dict[str, Any]:
    """Return what LOAD prints for the app in `folder`, without anything that this test's own environment offers."""
    done = subprocess.run(
        [str(python), "-B", "-W", "error", "-c", LOAD],
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", **settings},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def interpreters() -> dict[str, str]:
    """Return the supported Pythons of this machine: on the PATH, or under pyenv."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    found = {}
    for version in PYTHONS:
        candidates = [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python{version}"))]
        for candidate in filter(None, candidates):
            said = subprocess.run([str(candidate), "-m", "venv", "--help"], capture_output=True, check=False)
            if said.returncode == 0:  # a pyenv shim of a version that is not chosen does not run
                found[version] = str(candidate)
                break
    return found


INTERPRETERS = interpreters()


class Installed(NamedTuple):
    """An environment, the app beside it, and the installation that may still be going on."""

    python: Path
    app: Path
    process: subprocess.Popen[bytes]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The publish package."""
    return build(ROOT, tmp_path_factory.mktemp("package") / "package.zip")


def test_the_package_holds_the_app_and_nothing_else(package: Path) -> None:
    with zipfile.ZipFile(package) as zipped:
        sizes = {each.filename: each.file_size for each in zipped.infolist()}
    print(*(f"{size:>8,}  {name}" for name, size in sizes.items()), sep="\n")
    print(f"{sum(sizes.values()):>8,}  in {len(sizes)} files, {package.stat().st_size:,} zipped")
    assert set(sizes) == {"host.json", "requirements.txt"} | needed_modules(ROOT)
    assert sum(sizes.values()) < MEGABYTE


def test_what_lies_about_in_a_clone_is_not_published(tmp_path: Path) -> None:
    """Secrets above all: local.settings.json is in no package."""
    for path in files_of(ROOT):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    expected = files_of_copy(tmp_path)
    for path in (
        *(
            "local.settings.json",
            ".env",
            ".azure/prod/.env",
            ".azure/prod/config.json",
            "private-key.pem",
            "cdc/private-key.pem",
        ),
        *(
            ".venv/bin/python",
            ".venv-checkov/bin/checkov",
            "node_modules/azurite/index.js",
            "cdc/__pycache__/app.pyc",
            "__pycache__/function_app.pyc",
        ),
        *(
            "tests/test_app.py",
            "emulator/org.py",
            "infra/main.bicep",
            "azure.yaml",
            "cdc/cli/run.py",
            "build/x",
            ".demo/y",
        ),
        *("salesforce_cdc_blob.egg-info/PKG-INFO", "__azurite_db_blob__.json", "requirements-dev.txt", "Makefile"),
    ):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    assert files_of_copy(tmp_path) == expected


def files_of_copy(folder: Path) -> list[str]:
    """Return what a folder with this repository's .funcignore would publish."""
    shutil.copy(ROOT / ".funcignore", folder)
    return files_of(folder)


def test_loading_the_app_is_quick_and_reaches_no_network() -> None:
    found = load(sys.executable, ROOT, CDC_CHANNELS="/data/AccountChangeEvent;/event/Order__e")
    assert [each["name"] for each in found["functions"]] == ["capture1", "capture2", "status", "health"]
    assert found["reached"] == []
    assert found["took_s"] < 10 * slowness(), "Flex Consumption gives an app 30 s to start"


def test_the_watch_on_the_network_sees() -> None:
    call = "import socket; socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('127.0.0.1', 9))"
    code = LOAD.replace("import function_app\n", f"{call}; import function_app\n")
    done = subprocess.run([sys.executable, "-B", "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["reached"] == ["socket.connect"]


@pytest.fixture(scope="module")
def installed(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Installed]]:
    """The package unpacked, and for each Python a clean environment into which its requirements are being installed."""
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(package) as zipped:
        zipped.extractall(folder / "app")
    running = {}
    for version, interpreter in INTERPRETERS.items():
        subprocess.run([interpreter, "-m", "venv", "--without-pip", str(folder / version)], check=True)
        python = folder / version / "bin/python"
        command = [sys.executable, "-m", "pip", "--python", str(python), "install", "-qq", "--no-compile", "--no-input"]
        command += ["--disable-pip-version-check", "-r", str(folder / "app/requirements.txt")]
        with (folder / f"{version}.log").open("wb") as log:
            running[version] = Installed(python, folder / "app", subprocess.Popen(command, stdout=log, stderr=log))
    yield running
    for each in running.values():
        each.process.kill()
        each.process.wait()


@pytest.mark.slow
@pytest.mark.parametrize("version", PYTHONS)
def test_the_package_installs_and_indexes_on_each_python(installed: dict[str, Installed], version: str) -> None:
    """In a clean environment, from requirements.txt alone, as the remote build does."""
    if version not in installed:
        pytest.skip(f"no Python {version} here")
    each = installed[version]
    assert each.process.wait(300) == 0, each.app.with_name(f"{version}.log").read_text()
    settings = {"CDC_CHANNELS": "/data/AccountChangeEvent;/event/Order__e", "CDC_SCHEDULE": "0 */5 * * * *"}
    found = load(each.python, each.app, **settings)
    assert [each["name"] for each in found["functions"]] == ["capture1", "capture2", "status", "health"]
    assert [each["bindings"][0].get("schedule") for each in found["functions"]] == ["%CDC_SCHEDULE%"] * 2 + [None] * 2
    assert f"{found['version'][0]}.{found['version'][1]}" == version
    assert found["reached"] == []
