"""The publish package: what `func azure functionapp publish` and `azd deploy` take along of this folder."""

from __future__ import annotations

import ast
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path

from pathspec import GitIgnoreSpec

ROOT = Path(__file__).parent.parent.parent


def files_of(root: Path) -> list[str]:
    """Return the paths of everything under `root` that its .funcignore lets through, git-ignored or not."""
    ignored = GitIgnoreSpec.from_lines((root / ".funcignore").read_text(encoding="utf-8").splitlines())
    found = []
    for folder, folders, names in os.walk(root):
        place = Path(folder).relative_to(root)
        folders[:] = [name for name in folders if not ignored.match_file(f"{(place / name).as_posix()}/")]
        found += [path for name in names if not ignored.match_file(path := (place / name).as_posix())]
    return sorted(found)


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
