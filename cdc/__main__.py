"""`python -m cdc`: calls the command line, and ends the process without waiting for whatever still hangs."""

from __future__ import annotations

import os
import sys


def start() -> int:
    """Return the exit code of the command line; where its extra is not installed, say so."""
    try:
        from cdc.cli import main
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        print(f"✗ {error.name} is not installed: pip install typer rich", file=sys.stderr)
        return 2
    return main()


if __name__ == "__main__":
    code = start()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        code = code or 1
    os._exit(code)  # a request that hangs in a thread of its own must not hold up the end
