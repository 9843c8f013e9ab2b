"""The lines of force between modules, and what must be true of the repository as a whole."""

import ast
import fnmatch
import json
import os
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parent.parent
PYTHONS = ("3.11", "3.12", "3.13")

# --- the import table -------------------------------------------------------------------------------------------------

# Values and functions of values: nothing here may wait, look at a clock or reach outside.
PURE = {
    *("cdc", "cdc.errors", "cdc.events", "cdc.bayeux", "cdc.wire", "cdc.layout", "cdc.schedule", "cdc.style"),
    *("cdc.finding", "cdc.wording"),
}
IMPURE_STANDARD = {
    *("asyncio", "concurrent", "ctypes", "ftplib", "glob", "http", "importlib", "logging", "mmap", "multiprocessing"),
    *("os", "pathlib", "queue", "random", "sched", "secrets", "select", "selectors", "shutil", "signal", "smtplib"),
    *("socket", "socketserver", "sqlite3", "ssl", "subprocess", "sys", "tempfile", "threading", "time", "uuid"),
}
NETWORK = {
    *("aiohttp", "azure.core", "azure.identity", "azure.storage", "http", "requests", "simple_salesforce", "socket"),
    *("socketserver", "ssl", "urllib.request", "urllib3", "zeep"),
}
# What a module alone may import, whoever else would like to.
RESERVED = {
    **{name: {"cdc.exchange", "cdc.rest", "cdc.store"} for name in NETWORK},
    "azure.functions": {"function_app"},
    "pydantic_settings": {"cdc.settings"},
    "typer": {"cdc.cli", "cdc.__main__"},  # "cdc.cli" stands for the whole package
    "rich": {"cdc.cli", "cdc.__main__"},
    "cdc.app": {"cdc.cli", "cdc.__main__", "function_app"},
    "cdc.cli": {"cdc.__main__"},
    "cdc.page": {"cdc.answer"},
    "cdc.answer": {"cdc.app"},
    "function_app": set[str](),
}
# Two doors to one app: they take the wired objects, never the pieces.
DOORS = {"function_app", "cdc.cli", "cdc.__main__"}
PIECES = {
    *("cdc.exchange", "cdc.rest", "cdc.salesforce", "cdc.store", "cdc.memory_store", "cdc.session", "cdc.landing"),
    *("cdc.bayeux", "cdc.events", "cdc.wire", "cdc.layout"),
}
STRANGERS = {
    "cdc": {"emulator", "tests", "demo", "bench"},
    "function_app": {"emulator", "tests", "demo", "bench"},
    "emulator": {"cdc", "function_app", "tests", "demo", "bench"},
}
VAGUE_NAMES = {"utils", "util", "helpers", "helper", "common", "manager", "base"}


def imports_of(module: str, source: str) -> Iterator[str]:
    """Every dotted name that the source imports, at any depth; `from a import b` gives both `a` and `a.b`."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            package = module.split(".")[: -node.level] if node.level else []
            origin = ".".join([*package, *([node.module] if node.module else [])])
            yield origin
            yield from (f"{origin}.{alias.name}" for alias in node.names)


def is_within(name: str, owner: str) -> bool:
    return name == owner or name.startswith(f"{owner}.")


def may_import_purely(name: str) -> bool:
    if is_within(name, "cdc"):
        # `from cdc import events` names the package and the module; `from cdc.events import X` a thing in the module.
        return name == "cdc" or any(is_within(name, pure) for pure in PURE - {"cdc"})
    top = name.partition(".")[0]
    return top == "msgspec" or is_within(name, "urllib.parse") or name == "urllib" or is_pure_standard(top)


def is_pure_standard(top: str) -> bool:
    return top in sys.stdlib_module_names and top not in IMPURE_STANDARD | {"urllib"}


def import_violations(modules: Mapping[str, str]) -> list[str]:
    """What the sources of these modules import against the table, one sentence each."""
    found = []
    for module, source in modules.items():
        top = module.partition(".")[0]
        for name in sorted(set(imports_of(module, source))):
            if module in PURE and not may_import_purely(name):
                found.append(f"{module} is pure and imports {name}")
            for reserved, owners in RESERVED.items():
                allowed = any(is_within(module, owner) for owner in owners | {reserved} - {"cdc"})
                if top != "emulator" and is_within(name, reserved) and not allowed:
                    found.append(f"{module} imports {name}, which only {sorted(owners)} may")
            if any(is_within(module, door) for door in DOORS) and any(is_within(name, piece) for piece in PIECES):
                found.append(f"{module} is a door and imports {name}; it takes what cdc.app wires")
            if any(is_within(name, stranger) for stranger in STRANGERS.get(top, set())):
                found.append(f"{module} imports {name}, which is none of its business")
    return found


def environment_violations(modules: Mapping[str, str]) -> list[str]:
    """Where the environment is read, outside of settings."""
    readers = {"environ", "environb", "getenv", "getenvb", "putenv", "unsetenv"}
    found = []
    for module, source in modules.items():
        for node in ast.walk(ast.parse(source)):
            names = {alias.name for alias in node.names} if isinstance(node, ast.ImportFrom) else set()
            names |= {node.attr} if isinstance(node, ast.Attribute) else set()
            if module != "cdc.settings" and names & readers:
                found.append(f"{module} line {getattr(node, 'lineno', 0)} reads the environment; only cdc.settings may")
    return found


def asynchronous_violations(modules: Mapping[str, str]) -> list[str]:
    """Where the app is not synchronous."""
    return [
        f"{module} line {node.lineno} is asynchronous"
        for module, source in modules.items()
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith)
    ]


def name_violations(modules: Mapping[str, str]) -> list[str]:
    """Modules whose name says nothing."""
    return [
        f"{module} has a name that says nothing"
        for module in modules
        if VAGUE_NAMES & {word for part in module.split(".") for word in part.split("_")}
    ]


def modules_in(*roots: str) -> dict[str, str]:
    """Dotted name -> source of every module under these folders, or of a single file."""
    sources = {}
    for root in roots:
        paths = sorted((ROOT / root).rglob("*.py")) if (ROOT / root).is_dir() else [ROOT / root]
        for path in paths:
            if path.exists():
                parts = path.relative_to(ROOT).with_suffix("").parts
                sources[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return sources


APP = ("cdc", "function_app.py")


def test_modules_import_only_what_is_theirs() -> None:
    assert import_violations(modules_in(*APP, "emulator")) == []


def test_only_settings_reads_the_environment() -> None:
    assert environment_violations(modules_in(*APP)) == []


def test_the_app_is_synchronous_throughout() -> None:
    assert asynchronous_violations(modules_in(*APP)) == []


def test_no_module_has_a_name_that_says_nothing() -> None:
    assert name_violations(modules_in(*APP, "emulator", "tests", "demo", "bench")) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("cdc.events", "import time"),
        ("cdc.events", "import cdc.store"),
        ("cdc.events", "from cdc import settings"),
        ("cdc.events", "from urllib.request import urlopen"),
        ("cdc.bayeux", "def f():\n    import requests"),
        ("cdc.bayeux", "from . import session"),
        ("cdc.run", "import requests.adapters"),
        ("cdc.run", "from azure.storage.blob import BlobClient"),
        ("cdc.run", "from urllib import request"),
        ("cdc.run", "from http import client"),
        ("cdc.run", "import azure.functions"),
        ("cdc.landing", "from simple_salesforce import Salesforce"),
        ("cdc.session", "from cdc.app import wired"),
        ("cdc.settings", "import rich"),
        ("cdc.store", "from cdc.cli import main"),
        ("cdc.cli.run", "from cdc import landing"),
        ("cdc.app", "from cdc.cli.looks import data"),
        ("cdc.run", "from cdc import page"),
        ("cdc.schedule", "import time"),
        ("function_app", "from cdc.session import CometDSession"),
        ("cdc.store", "from emulator.org import Org"),
        ("cdc.store", "import tests.azurite"),
        ("emulator.org", "from cdc.events import header"),
    ],
)
def test_the_import_table_sees(module: str, source: str) -> None:
    assert import_violations({module: source}) != []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("cdc.bayeux", "from cdc import events, wire\nimport msgspec, json\nfrom urllib.parse import quote"),
        ("cdc.exchange", "import requests, socket\nfrom cdc.errors import RequestLost"),
        ("cdc.store", "from azure.storage.blob import BlobClient\nfrom azure.core.exceptions import AzureError"),
        ("function_app", "import azure.functions as func\nfrom cdc import app\nfrom cdc.settings import load"),
        ("cdc.cli.run", "import typer\nfrom cdc.app import wired\nfrom cdc.cli.looks import data"),
        ("emulator.org", "import aiohttp, socket, typer\nfrom emulator.streams import Stream"),
    ],
)
def test_the_import_table_allows(module: str, source: str) -> None:
    assert import_violations({module: source}) == []


def test_the_other_checks_of_modules_see() -> None:
    assert environment_violations({"cdc.run": "import os\nos.environ['A']"}) != []
    assert environment_violations({"cdc.run": "from os import getenv"}) != []
    assert environment_violations({"cdc.settings": "import os\nos.environ['A']"}) == []
    assert asynchronous_violations({"cdc.run": "async def f() -> None: ..."}) != []
    assert name_violations({"cdc.blob_utils": ""}) != []
    assert name_violations({"tests.common.x": ""}) != []
    assert name_violations({"cdc.database": ""}) == []


# --- the repository's files -------------------------------------------------------------------------------------------


def ignored_patterns() -> list[str]:
    lines = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    return [".git", *(line.strip().rstrip("/") for line in lines if line.strip() and not line.startswith("#"))]


def project_files() -> list[str]:
    """The paths of everything that belongs to the repository: what is here and not git-ignored."""
    patterns = ignored_patterns()

    def is_ignored(name: str) -> bool:
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)

    paths = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if not is_ignored(name)]
        paths += [Path(folder, name).relative_to(ROOT).as_posix() for name in files if not is_ignored(name)]
    return sorted(paths)


def project_texts() -> dict[str, str]:
    """Path -> content of every file of the repository that is text."""
    texts = {}
    for path in project_files():
        content = (ROOT / path).read_bytes()
        if b"\0" not in content:
            texts[path] = content.decode("utf-8")
    return texts


MACHINE_PATH = re.compile(
    r"(?<![\w./-])(?:/(?:work|root|opt|Users|home(?!/(?:site|me|you)/))/\w|[A-Z]:\\Users\\|file:/{2})"
)
REGISTRY = re.compile(
    r"\b(?:files\.pythonhosted|registry\.(?:npmjs|yarnpkg))\.\w+|\bpypi\.\w+/simple\b|/api/(?:npm|pypi)/"
)


def place_violations(texts: Mapping[str, str]) -> list[str]:
    """Lines that name a place on one machine, or a package registry."""
    return [
        f"{path}:{number}: {line.strip()[:120]}"
        for path, text in texts.items()
        for number, line in enumerate(text.splitlines(), 1)
        if MACHINE_PATH.search(line) or REGISTRY.search(line)
    ]


def test_no_file_names_a_place_on_one_machine_or_a_package_registry() -> None:
    assert place_violations(project_texts()) == []


@pytest.mark.parametrize("place", ["/".join(["", "home", "jo", "x"]), "/".join(["registry.npmjs" + ".org", "azurite"])])
def test_the_check_of_places_sees(place: str) -> None:
    assert place_violations({"a.md": f"first\nsee {place}"}) == [f"a.md:2: see {place}"]
    assert (
        place_violations({"a.md": "see /home/site/wwwroot, docs/work/x and https://pypi.org/project/azure-functions"})
        == []
    )


@pytest.mark.parametrize(
    "path",
    [
        *(
            "README.md",
            "CHANGELOG.md",
            "LICENSE",
            "Makefile",
            ".ci/run",
            ".funcignore",
            ".gitignore",
            "infra/README.md",
        ),
        *("docs/architecture.md", "docs/storage-log.md", "host.json", "local.settings.json.example", "function_app.py"),
        *("package.json", "package-lock.json", "pyproject.toml", "requirements.txt", "requirements-dev.txt"),
    ],
)
def test_a_file_that_users_look_for_is_there(path: str) -> None:
    assert (ROOT / path).is_file()


def test_the_licence_is_mit() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.startswith("MIT License\n")
    assert "The salesforce-cdc-blob authors" in text


def test_the_changelog_has_the_version() -> None:
    assert f"## [{pyproject()['project']['version']}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def targets_of(makefile: str) -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):(?!=)", makefile, re.MULTILINE))


def make_commands_in(markdown: str) -> set[str]:
    """The targets of every make command that a text shows as code."""
    return set(re.findall(r"(?:^|`|\$ |&& )make ([a-z][a-z-]*)", markdown, re.MULTILINE))


def test_the_readmes_commands_exist_and_continuous_integration_calls_its_test_command() -> None:
    commands = make_commands_in((ROOT / "README.md").read_text(encoding="utf-8"))
    assert {"demo", "test"} <= commands
    assert commands <= targets_of((ROOT / "Makefile").read_text(encoding="utf-8"))
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert re.search(r"^exec make test\b", (ROOT / ".ci/run").read_text(encoding="utf-8"), re.MULTILINE)


def test_the_check_of_commands_sees() -> None:
    assert make_commands_in("Say\n```\nmake demo\n$ make test\n```\nor `make lock`, make sure") == {
        "demo",
        "test",
        "lock",
    }
    assert targets_of("A := x\ndemo: setup ## Text\ntest-all:\n\tmake x\n") == {"demo", "test-all"}


# --- pinned dependencies ----------------------------------------------------------------------------------------------


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def pins_of(requirements: str) -> list[Requirement]:
    """The requirement lines, without hashes and comments."""
    lines = requirements.replace("\\\n", " ").splitlines()
    bare = (re.sub(r"--hash=\S+|(?:^|\s)#.*", "", line).strip() for line in lines)
    return [Requirement(line) for line in bare if line]


def pins_for(python: str, requirements: str) -> dict[str, str]:
    """Name -> exact version that pip installs on this Python. Raises AssertionError where a line leaves it open."""
    chosen: dict[str, str] = {}
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    for pin in pins_of(requirements):
        [specifier] = pin.specifier
        assert specifier.operator == "==", f"{pin} is no exact version"
        if pin.marker is None or pin.marker.evaluate(environment):
            name = canonicalize_name(pin.name)
            assert name not in chosen, f"{name} is pinned twice for Python {python}"
            chosen[name] = specifier.version
    return chosen


def range_violations(ranges: list[str], pins: Mapping[str, str]) -> list[str]:
    """Ranges that no pin satisfies."""
    wanted = [Requirement(line) for line in ranges]
    return [
        f"{want} is met by {pins.get(canonicalize_name(want.name))}"
        for want in wanted
        if pins.get(canonicalize_name(want.name), "") not in want.specifier
    ]


def address_violations(path: str, text: str) -> list[str]:
    """What in a lock file says where to download from."""
    if path.endswith(".json"):
        packages = json.loads(text).get("packages", {})
        return [f"{path}: {name} is resolved" for name, package in packages.items() if "resolved" in package]
    directive = re.compile(r"://| @ |^\s*(?:-i|-f|-e|--index-url|--extra-index-url|--find-links|--trusted-host)\b")
    return [f"{path}: {line}" for line in text.splitlines() if directive.search(line)]


def requirements(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


@pytest.mark.parametrize("python", PYTHONS)
def test_the_pins_meet_the_ranges_on_every_python(python: str) -> None:
    project = pyproject()["project"]
    extras = project["optional-dependencies"]
    runtime, development = pins_for(python, requirements("requirements.txt")), requirements("requirements-dev.txt")
    assert range_violations(project["dependencies"], runtime) == []
    everything = [line for lines in (project["dependencies"], *extras.values()) for line in lines]
    everything = [line for line in everything if not line.startswith(project["name"])]
    assert range_violations(everything, pins_for(python, development)) == []
    assert runtime.items() <= pins_for(python, development).items(), "tests must run with what is deployed"


def test_the_deployed_package_holds_neither_the_command_line_nor_development_tools() -> None:
    deployed = {canonicalize_name(pin.name) for pin in pins_of(requirements("requirements.txt"))}
    assert not deployed & {"typer", "rich", "aiohttp", "pytest", "mypy", "ruff", "hypothesis", "azure-functions-worker"}
    assert requirements("requirements.txt").startswith("# Do not include azure-functions-worker in this file")


@pytest.mark.parametrize(
    "path", ["requirements.txt", "requirements-dev.txt", "requirements-checkov.txt", "package-lock.json"]
)
def test_a_lock_file_names_no_download_address(path: str) -> None:
    assert address_violations(path, requirements(path)) == []


def test_the_node_packages_have_exact_versions() -> None:
    package = json.loads(requirements("package.json"))
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", version) for version in package["devDependencies"].values())


def test_the_checks_of_pins_see() -> None:
    with pytest.raises(AssertionError, match="no exact version"):
        pins_for("3.12", "requests>=2\n")
    with pytest.raises(AssertionError, match="pinned twice"):
        pins_for("3.12", "requests==2\nRequests==3\n")
    assert pins_for("3.13", "a==1 ; python_full_version < '3.13'\na==2 ; python_full_version >= '3.13'\n") == {"a": "2"}
    assert pins_for("3.11", "a==1 \\\n    --hash=sha256:00\n    # via b\n") == {"a": "1"}
    assert range_violations(["requests>=2,<3"], {"requests": "3.0"}) != []
    assert range_violations(["requests>=2,<3"], {}) != []
    assert (
        address_violations("r.txt", "--index-url https://example.org\na @ https://example.org/a.whl\n-f wheels\n") != []
    )
    assert address_violations("r.txt", "a==1\n    # via b\n") == []
    assert address_violations("l.json", '{"packages": {"a": {"resolved": "x"}}}') == ["l.json: a is resolved"]


# --- what is published ------------------------------------------------------------------------------------------------

PUBLISHED = re.compile(r"function_app\.py|host\.json|requirements\.txt|cdc/(?!__main__\.py|memory_store\.py)\w+\.py")


def is_left_behind(path: str, funcignore: str) -> bool:
    """Whether Core Tools keep a path out: patterns count from the root, `*` stops at a slash, `**` does not."""
    for line in funcignore.splitlines():
        pattern = line.strip()
        if pattern and not pattern.startswith("#"):
            expression = re.escape(pattern).replace(r"\*\*", ".+").replace(r"\*", "[^/]+")
            if re.match(rf"{expression}\b", path):
                return True
    return False


def publishing_violations(paths: list[str], funcignore: str) -> list[str]:
    """Paths that are published and must not be, or the other way round."""
    return [path for path in paths if is_left_behind(path, funcignore) == bool(PUBLISHED.fullmatch(path))]


def test_only_the_app_is_published() -> None:
    grown = [
        *(
            ".venv/bin/python",
            ".venv-3.12/bin/python",
            ".git/config",
            ".mypy_cache/x.json",
            "node_modules/azurite/a.js",
        ),
        *("cdc/__pycache__/run.cpython-312.pyc", "local.settings.json", "__azurite_db_blob__.json", ".demo/log"),
        *(
            "__blobstorage__/x",
            "salesforce_cdc_blob.egg-info/PKG-INFO",
            "build/lib/x.py",
            "function_app.py",
            "host.json",
        ),
    ]
    assert publishing_violations([*project_files(), *grown], (ROOT / ".funcignore").read_text(encoding="utf-8")) == []


def test_the_check_of_publishing_sees() -> None:
    assert publishing_violations(["tests/x.py", "cdc/run.py", "host.json"], "docs\n") == ["tests/x.py"]
    assert publishing_violations(["cdc/run.py", "cdc/cli/run.py"], "cdc\n") == ["cdc/run.py"]
    assert publishing_violations(["cdc/__pycache__/a.pyc"], "# a comment\n__pycache__\n*.pyc\n") != []
    assert publishing_violations(["cdc/__pycache__/a.pyc"], "**/__pycache__\n") == []
