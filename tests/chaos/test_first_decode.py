"""Found by chaos: two threads that decode a record for the first time at once brought the process down."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
RACE = """
import sys, threading
sys.setswitchinterval(1e-6)
from datetime import UTC, datetime
from cdc import layout
now = datetime.now(UTC)
body = layout.RunRecord(group="g", run_id="r", outcome="ok", started=now, finished=now, clean_polls={}).to_blob()
barrier = threading.Barrier(8)
def read():
    barrier.wait()
    layout.RunRecord.from_blob(body)
    try:
        layout.Checkpoint.from_blob(body, "/data/AccountChangeEvent")
    except layout.Unreadable:
        pass
threads = [threading.Thread(target=read) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


@pytest.mark.parametrize("number", range(4))
def test_eight_threads_read_their_first_record_at_once(number: int) -> None:
    ended = subprocess.run([sys.executable, "-c", RACE], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_no_type_is_worked_out_at_its_first_use() -> None:
    """msgspec does that in `decode(..., type=...)` and `convert`; a Decoder made at import does it then."""
    for path in sorted((ROOT / "cdc").glob("*.py")):
        assert not re.search(r"json\.decode\([^)]*type=|msgspec\.convert\(", path.read_text("utf-8")), path.name
