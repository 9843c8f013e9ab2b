"""`python -m chaos --rounds N --seed S`: plays the rounds, checks the log against the ledger, prints one table.

Exit code: 0 every event lies in the log once, in order; 1 it does not, or a run did what no run may; 2 bad usage.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

from chaos.plan import RoundPlan, draw_round, start_of
from chaos.stage import Stage, open_stage
from chaos.table import differences, table

BUILD = Path(__file__).resolve().parent.parent / "build"


def main(arguments: list[str] | None = None) -> int:
    """Play, check, print; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m chaos",
        description="Break everything around the app by a seed, then check that each event lies in the log once.",
        epilog="example: python -m chaos --rounds 200 --seed 7",
    )
    parser.add_argument("--rounds", type=int, default=20, help="how many rounds to play (20)")
    parser.add_argument("--seed", type=int, default=1, help="the same seed draws the same rounds (1)")
    parser.add_argument("--seconds-per-round", type=float, default=1.5, help="about how long a run lasts (1.5)")
    parser.add_argument("--report", type=Path, help="where a failing seed leaves its report (build/chaos-<seed>.txt)")
    parser.add_argument("-v", "--verbose", action="store_true", help="print the plan of each round")
    options = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    plans = [draw_round(options.seed, number, options.seconds_per_round) for number in range(1, options.rounds + 1)]
    began = time.monotonic()
    with open_stage(options.seed, start_of(options.seed)) as stage:
        for plan in plans:
            tell(plan, is_verbose=options.verbose, of=len(plans))
            stage.play(plan)
        played_s = time.monotonic() - began
        stage.settle()
        return conclude(stage, options, plans, played_s, began)


def tell(plan: RoundPlan, *, is_verbose: bool, of: int) -> None:
    """Progress, on standard error: a line that is written over, or the whole plan."""
    if is_verbose:
        print("\n".join(plan.lines()), file=sys.stderr, flush=True)
    elif sys.stderr.isatty():
        print(f"\rround {plan.number} of {of}", end="", file=sys.stderr, flush=True)


def conclude(stage: Stage, options: argparse.Namespace, plans: list[RoundPlan], played_s: float, began: float) -> int:
    """Check, print the table, leave the report of a failing seed; returns the exit code."""
    findings = stage.check()
    tally = stage.tally
    runs = f"{tally.runs}, of which {tally.host['overlapping rounds']} rounds had several at once"
    rows: list[tuple[str, str | Counter[str]]] = [
        ("rounds", f"{len(plans)} in {played_s:.0f} s, {time.monotonic() - began:.0f} s in all; seed {options.seed}, "
                   f"start {start_of(options.seed)}"),
        ("runs", runs),
        ("outcomes", tally.outcomes),
        ("sessions", f"{tally.sessions}, {tally.lost_sessions} lost"),
        ("host", tally.host),
        ("org faults", tally.faults),
        ("network", tally.network),
        ("moments", tally.moments),
        ("before tip", f"{sum(each.before_tip for each in findings)} events were published before their channel began"),
        ("quarantine", str(stage.quarantined())),
    ]  # fmt: skip
    text = table(findings, rows, tally.conduct)
    if sys.stderr.isatty() and not options.verbose:
        print("\r", end="", file=sys.stderr)
    print(text, flush=True)
    if all(each.is_clean for each in findings) and not tally.conduct:
        return 0
    report = options.report or BUILD / f"chaos-{options.seed}.txt"
    report.parent.mkdir(parents=True, exist_ok=True)
    wrote = [f"run {run_id} is {name}" for run_id, name in tally.wrote.items()]
    played = [line for plan in plans for line in plan.lines()]
    report.write_text(
        "\n".join([text, "", differences(findings, tally.conduct), "", *wrote, "", *played, ""]), encoding="utf-8"
    )
    print(f"replay: make chaos ROUNDS={len(plans)} SEED={options.seed}; differences: {shown(report)}", file=sys.stderr)
    return 1


def shown(path: Path) -> str:
    """The path as it is shortest to read."""
    return os.path.relpath(path)


if __name__ == "__main__":
    sys.exit(main())
