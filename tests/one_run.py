"""One capture in a process of its own, for tests that kill it or read all that it prints."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).absolute().parent.parent


def spawn(environment: dict[str, str], *, seconds: float) -> subprocess.Popen[str]:
    """Start the process; it prints its report as JSON on standard output and logs on standard error."""
    return subprocess.Popen(
        [sys.executable, "-m", "tests.one_run", str(seconds)],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def main() -> None:
    """Capture the first group of the environment's settings."""
    from cdc import app

    logging.basicConfig(level=logging.DEBUG, format="%(name)s %(message)s")
    app.quiet_foreign_logs()
    settings = app.load_settings()
    report = app.capture(settings, settings.channel_groups[0], seconds=float(sys.argv[1]))
    print(json.dumps(report.to_json()))


if __name__ == "__main__":
    main()
