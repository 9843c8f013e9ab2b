"""The benchmarks run and their document has its shape; no figure is judged here."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.contenders import CONTENDERS
from bench.measure import ACCOUNT, TINY, Results, throughput, versions
from bench.report import MARKS_HEADING, marks, percentile, write
from bench.stage import ROOT, stage
from tests.harness import slowness

MARKS = 16


def test_contenders_do_their_work_and_the_document_has_every_mark() -> None:
    results = Results(TINY)
    with stage() as on:
        on.org.backlog(ACCOUNT, 300, size=1_000)
        for name in ("product", "pipe", "drain"):
            throughput(results, on, name, "2000 x 1000", 300, [ACCOUNT])
        throughput(results, on, "per_event", "1000", 3, [ACCOUNT])
        found = on.run("product", [ACCOUNT], run_s=2 * slowness())
    assert found["outcome"] == "ok"
    assert found["events"] == 300
    assert results.median("pipe 2000 x 1000 ops_per_1000") == pytest.approx(1000 / 300 * 3, abs=4)
    text = write(results, versions(), 1.0, is_quick=True)
    table = text.partition(MARKS_HEADING)[2].partition("\n##")[0]
    assert sum(line.startswith("| ") for line in table.splitlines()) == MARKS + 2
    assert "not measured" in table
    assert "How cost grows" in text
    assert str(ROOT) not in text


@pytest.mark.pure
def test_a_figure_beyond_its_mark_is_shown_as_missed() -> None:
    results = Results(TINY)
    for name, value in (
        ("product 2000 x 1000 cpu_us", 9.0),
        ("pipe 2000 x 1000 cpu_us", 3.0),
        ("idle 1 requests", 7.0),
        ("idle 5 requests", 27.0),
    ):
        results.add(name, value)
    verdicts = {mark.what.partition(",")[0]: mark.verdict for mark in marks(results, 1.0, False)}
    assert verdicts["CPU per event"] == "**missed**"
    assert verdicts["idle run: storage requests a channel (2 more a run)"] == "met"
    assert verdicts["idle run: blobs written"] == "not measured"


@pytest.mark.pure
def test_a_percentile_needs_more_than_one_value() -> None:
    assert percentile([1.0], 99) is None
    assert percentile([float(number) for number in range(101)], 95) == 95.0


@pytest.mark.pure
def test_the_document_is_there_and_names_its_command() -> None:
    text = Path(ROOT, "docs", "benchmarks.md").read_text(encoding="utf-8")
    assert "make bench" in text
    assert MARKS_HEADING in text
    assert set(CONTENDERS) >= {"product", "pipe", "drain", "per_event", "floor"}
