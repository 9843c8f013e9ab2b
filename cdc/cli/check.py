"""`check`: shows what the preflight finds."""

from __future__ import annotations

from pathlib import Path

import typer
from rich.text import Text

from cdc import app as cdc_app
from cdc.cli.looks import COLOURS, FAILED, MARKS, OK, UNUSABLE, AsJson, data, show_json, show_note

ROOT = Path(__file__).parent.parent.parent  # where host.json lies, in a clone and when deployed


def check(as_json: AsJson = False) -> None:
    """Try settings, storage and Salesforce, before a deployment and after it.

    One line for each thing tried: ✓ as it must be, ! worth a look, ✗ wrong, - not tried; below it what to do, with the
    Salesforce permission or the Azure role that is missing. Nothing is written or created, neither in storage nor in
    Salesforce; every channel is subscribed for a moment, and what it sends is dropped.

    \b
    Examples:
      python -m cdc check
      python -m cdc check --json | jq '.findings[] | select(.verdict == "failed")'

    \b
    Exit code:
      0  nothing is wrong
      1  storage or Salesforce must be mended
      2  settings must be corrected
    """
    findings = []
    for finding in cdc_app.check(ROOT):
        findings.append(finding)
        if not as_json:
            show_note(data, *MARKS[finding.verdict], f"{finding.subject}: {finding.text}", finding.next_step)
    failed = [finding.subject for finding in findings if finding.verdict == "failed"]
    outcome = "failed" if failed else "ok"
    if as_json:
        show_json({"outcome": outcome, "findings": [finding.to_json() for finding in findings]})
    else:
        count = f"{len(failed)} to mend" if failed else "python -m cdc run can start"
        data.print(Text.assemble((outcome, COLOURS[outcome]), f" · {count}"), soft_wrap=True)
    raise typer.Exit(UNUSABLE if "settings" in failed else FAILED if failed else OK)
