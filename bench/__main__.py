"""`python -m bench`, which `make bench` calls: measures everything and writes docs/benchmarks.md."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from bench.measure import FULL, QUICK, TINY, measure, versions
from bench.report import marks, write
from bench.stage import ROOT

SCALES = {"full": FULL, "quick": QUICK, "tiny": TINY}


def main() -> int:
    """Return 0 when the document is written, whatever it says."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure, and write docs/benchmarks.md.")
    parser.add_argument("--scale", choices=SCALES, default="full", help="how much is measured (default: full)")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "benchmarks.md", help="the document")
    options = parser.parse_args()
    began = time.monotonic()
    results = measure(SCALES[options.scale], lambda text: print(f"bench: {text}", file=sys.stderr, flush=True))
    seconds, is_quick = time.monotonic() - began, options.scale != "full"
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(write(results, versions(), seconds, is_quick=is_quick), encoding="utf-8")
    for mark in marks(results, seconds, is_quick):
        print(f"{mark.verdict.strip('*'):13} {mark.shown:>9}  {mark.mark:14} {mark.what}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
