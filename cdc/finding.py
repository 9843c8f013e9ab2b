"""One thing that `check` tried: what became of it, and what to do; a value and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cdc.errors import CdcError

Verdict = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True)
class Finding:
    """What became of one thing that was tried, and what to do about it."""

    subject: str
    verdict: Verdict
    text: str
    next_step: str = ""

    def to_json(self) -> dict[str, str]:
        """Return the finding as `check --json` shows it."""
        fields = {"subject": self.subject, "verdict": self.verdict, "text": self.text}
        return fields | ({"hint": self.next_step} if self.next_step else {})


def failed(subject: str, error: CdcError) -> Finding:
    """Return the finding that an error is."""
    return Finding(subject, "failed", str(error), error.hint)


def warned(subject: str, error: CdcError) -> Finding:
    """Return the finding that an error is where a run can do without."""
    return Finding(subject, "warning", str(error), error.hint)
