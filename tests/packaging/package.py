"""The publish package: what `func azure functionapp publish` and `azd deploy` take along of this folder."""

from __future__ import annotations

import ast
import os
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

from pathspec import GitIgnoreSpec

ROOT = Path(__file__).parent.parent.parent


def files_of(root: Path) -> list[str]:
    """Return the paths of everything under `root` that Core Tools or azd would take along, git-ignored or not.

    The two read a pattern differently: azd as git does; Core Tools count it from the root, and only "**" crosses "/".
    """
    lines = [line.strip() for line in (root / ".funcignore").read_text(encoding="utf-8").splitlines()]
    patterns = [line for line in lines if line and not line.startswith("#")]
    as_git = GitIgnoreSpec.from_lines(patterns)
    as_core_tools = re.compile("|".join(rf"{_core_tools_expression(pattern)}\b" for pattern in patterns))

    def is_ignored(path: str, is_folder: bool) -> bool:
        return bool(as_core_tools.match(path)) and as_git.match_file(f"{path}/" if is_folder else path)

    found = []
    for folder, folders, names in os.walk(root):
        place = Path(folder).relative_to(root)
        folders[:] = [name for name in folders if not is_ignored((place / name).as_posix(), True)]
        found += [path for name in names if not is_ignored(path := (place / name).as_posix(), False)]
    return sorted(found)


def _core_tools_expression(pattern: str) -> str:
    return re.escape(pattern).replace(r"\*\*", ".+").replace(r"\*", "[^/]+")


def build(root: Path, target: Path) -> Path:
    """Write the package as a zip file and return its path."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as package:
        for path in files_of(root):
            package.write(root / path, path)
    return target


def needed_modules(root: Path) -> set[str]:
    """Return the paths of all modules that function_app.py imports, directly or not, wherever the import stands."""
    found: set[str] = set()

    def follow(path: Path) -> None:
        relative = path.relative_to(root).as_posix()
        if relative in found:
            return
        found.add(relative)
        for name in _imports_of(path):
            parts = name.split(".")
            for candidate in (root.joinpath(*parts).with_suffix(".py"), root.joinpath(*parts, "__init__.py")):
                if candidate.is_file():
                    follow(candidate)

    follow(root / "function_app.py")
    return found


def _imports_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (node.module.rsplit(".", up)[0] for up in range(1, node.module.count(".") + 1))
