"""What a chaos came to, as text; pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from chaos.check import Findings, total

SHOWN = 40  # entries of one kind, in the report of a failing seed


def table(findings: Sequence[Findings], rows: Sequence[tuple[str, str | Counter[str]]], conduct: Sequence[str]) -> str:
    """Return the table: a line per channel, the total, what happened, and the verdict."""
    kinds = list(Findings("").kinds())
    sums = total(findings)
    header = ["channel", "published", "landed", "segments", *kinds]
    lines = [
        [each.channel, f"{each.published:,}", f"{each.landed:,}", f"{each.segments:,}"]
        + [str(len(entries)) for entries in each.kinds().values()]
        for each in findings
    ]
    whole = [sum(each.published for each in findings), sum(each.landed for each in findings)]
    whole.append(sum(each.segments for each in findings))
    lines.append(["total", *(f"{number:,}" for number in whole), *(str(sums[kind]) for kind in kinds)])
    widths = [max(len(line[column]) for line in [header, *lines]) for column in range(len(header))]
    text = [
        "  ".join(cell.ljust(width) if column == 0 else cell.rjust(width)
                  for column, (cell, width) in enumerate(zip(line, widths, strict=True)))
        for line in [header, *lines]
    ]  # fmt: skip
    label = max(len(name) for name, _ in rows)
    text.append("")
    for name, value in rows:
        said = value if isinstance(value, str) else counted(value)
        text.append(f"{name.ljust(label)}  {said}")
    is_clean = not any(sums.values()) and not conduct
    text += ["", *(f"conduct: {entry.splitlines()[0]}" for entry in conduct)]
    text.append("every event lies in the log once, in order, byte for byte" if is_clean else "FAILED")
    return "\n".join(text)


def counted(counts: Counter[str]) -> str:
    """`drop 12 · reset 3`, the most frequent first."""
    return " · ".join(f"{name} {count}" for name, count in counts.most_common() if name and count) or "none"


def differences(findings: Sequence[Findings], conduct: Sequence[str]) -> str:
    """Return the report of a failing seed: what differs, and where."""
    parts = []
    for each in findings:
        for kind, entries in each.kinds().items():
            if entries:
                parts.append(f"{each.channel}: {len(entries)} {kind}")
                parts += [f"  {entry}" for entry in entries[:SHOWN]]
                parts += [f"  … and {len(entries) - SHOWN} more"] if len(entries) > SHOWN else []
    return "\n".join([*parts, *conduct])
