"""Turns figures into docs/benchmarks.md: marks first, then the tables, then how cost grows. Measures nothing."""

# ruff: noqa: E501 - one line of the document is one line here

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import quantiles

from bench.measure import MANY, ORG_MS, STORAGE_MS, Results
from cdc.pipeline import MAX_HELD_BYTES

RUN_S, RUNS_A_DAY, CHECKPOINT_S = 260, 288, 10
MARKS_HEADING = "## Marks"


@dataclass(frozen=True)
class Mark:
    """One promise, the figure beside it, and whether it is met; None: not measured."""

    what: str
    mark: str
    value: float | None
    shown: str
    is_met: bool | None

    @property
    def verdict(self) -> str:
        """The word in the last column."""
        return {True: "met", False: "**missed**", None: "not measured"}[self.is_met]


def _mark(what: str, mark: str, value: float | None, form: str, limit: float, *, is_least: bool = False) -> Mark:
    if value is None:
        return Mark(what, mark, None, "-", None)
    return Mark(what, mark, value, form.format(value), value >= limit if is_least else value <= limit)


def percentile(values: list[float], percent: int) -> float | None:
    """Return the percentile; None of too few values."""
    return quantiles(values, n=100, method="inclusive")[percent - 1] if len(values) > 1 else None


def marks(results: Results, seconds: float, is_quick: bool) -> list[Mark]:
    """Every mark beside its figure; ratios of medians."""
    scale = results.scale
    large, small = (f"{count} x 1000" for count in (scale.backlogs[-1], scale.backlogs[0]))
    live = 50 if 50 in scale.rates else next(iter(scale.rates))
    floor_ms, tight_ms = (results.median(f"{kind} {live:g}/s ms") for kind in ("floor", "tight floor"))
    delays = results.figures.get(f"latency {live:g}/s ms", [])
    p50, p99 = percentile(delays, 50), percentile(delays, 99)
    drained = results.ratio("product slow rate", "drain slow rate")
    peak = results.median(f"product {large} peak_mb")
    memory_ratio = results.ratio(f"product {large} peak_mb", f"product {small} peak_mb")
    start = results.ratio("start long s", "start empty s")
    count = f"{scale.backlogs[-1]:,}"
    return [
        _mark(f"throughput, 1 kB, backlog of {count}: product / pipe", "at least 0.9",
              results.ratio(f"product {large} rate", f"pipe {large} rate"), "{:.2f}", 0.9, is_least=True),
        _mark("throughput: product / one blob and one checkpoint per event", "at least 200",
              results.ratio(f"product {large} rate", "per_event 1000 rate"), "{:.0f}", 200, is_least=True),
        _mark("CPU per event, 1 kB: product / pipe", "at most 1.6",
              results.ratio(f"product {large} cpu_us", f"pipe {large} cpu_us"), "{:.2f}", 1.6),
        _mark(f"peak memory, backlog of {count}", "at most 150 MB", peak, "{:.0f} MB", 150),
        _mark(f"peak memory: backlog of {count} / of {scale.backlogs[0]:,}", "at most 1.10", memory_ratio,
              "{:.2f}", 1.10),
        _mark("blob operations per 1,000 events, one channel, full rate", "at most 6",
              results.median(f"product {large} ops_per_1000"), "{:.2f}", 6),
        _mark(f"idle run: storage requests a channel ({_or_dash(_fixed(results))} more a run)", "at most 5",
              _each(results), "{:.1f}", 5),
        _mark(f"idle run: blobs written, {MANY} channels", "at most 1", results.median(f"idle {MANY} writes"),
              "{:.0f}", 1),
        *(_mark(f"latency at {live:g} events/s: {name} / {floor}", f"at most {limit}",
                value / over_ms if value and over_ms else None, "{:.2f}", limit)
          for floor, over_ms in (("floor at that pace", floor_ms), ("floor in a tight loop", tight_ms))
          for name, value, limit in (("p50", p50, 2), ("p99", p99, 5))),
        _mark(f"throughput with +{ORG_MS} ms and +{STORAGE_MS} ms / (events per answer / Salesforce round trip)",
              "at least 0.9", drained, "{:.2f}", 0.9, is_least=True),
        _mark(f"start-up to first landed event: {scale.log_segments:,} segments / empty log", "at most 1.20", start,
              "{:.2f}", 1.20),
        _mark("import of function_app / bare import of the packages", "at most 1.00",
              results.ratio("import function_app s", "import packages s"), "{:.2f}", 1.0),
        _mark("`make bench QUICK=1`" if is_quick else "`make bench`", "2 minutes" if is_quick else "15 minutes",
              seconds / 60, "{:.1f} min", 2 if is_quick else 15),
    ]  # fmt: skip


def _each(results: Results) -> float | None:
    """What each channel adds to the storage requests of an idle run."""
    one, many = results.median("idle 1 requests"), results.median(f"idle {MANY} requests")
    return (many - one) / (MANY - 1) if one is not None and many is not None else None


def _fixed(results: Results) -> float | None:
    """The storage requests of an idle run that do not grow with its channels."""
    one, each = results.median("idle 1 requests"), _each(results)
    return one - each if one is not None and each is not None else None


def write(results: Results, versions: Mapping[str, str], seconds: float, *, is_quick: bool) -> str:
    """Return the document."""
    command = "make bench QUICK=1" if is_quick else "make bench"
    parts = [
        "# Benchmarks",
        f"Written by `{command}` on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC; do not edit.",
        _setting(versions),
        *([f"Left out: {note}." for note in results.notes]),
        MARKS_HEADING,
        _table(("what", "mark", "measured", ""),
               [(m.what, m.mark, m.shown, m.verdict) for m in marks(results, seconds, is_quick)]),
        _MEANINGS,
        "## Throughput, CPU and memory",
        _throughput(results),
        "## Latency from publish to landed",
        _latency(results),
        "## Start-up, idle runs, import",
        _rest(results),
        _growth(results),
    ]  # fmt: skip
    return "\n\n".join(parts) + "\n"


_MEANINGS = """All ratios are of medians within one invocation; the contenders take turns, each in a process of its own over the same emulated org
and the same Azurite.

- *product*: one run of the app, from its first poll to its last checkpoint and run record.
- *pipe*: POST /meta/connect, PUT the answer's bytes, in sequence, nothing else, with the same HTTP libraries: the practical limit of a
  client that does one thing at a time. The product lands behind the next poll, so it can be faster; it also reads, checks and hashes every event.
- *one blob and one checkpoint per event*: the way of most tutorials.
- *drain only*: polls and stores nothing. *Ready-made client*: the CometD project's Node client, which stores nothing either.
- The product works while the org and the storage work on the same processors; the pipe has them for itself.
- CPU is user and system time of the contender's process after its start-up; memory is the peak of its resident set."""


def _setting(versions: Mapping[str, str]) -> str:
    model = "unknown processor"
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            model = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    machine = f"{os.cpu_count()} x {model}, {memory_gb:.0f} GB, {platform.system()} {platform.machine()}"
    load = os.getloadavg()[2]
    used = ", ".join(f"{name} {version}" for name, version in versions.items())
    return (
        f"Machine: {machine}; its load over the last 15 minutes, these benchmarks included, was {load:.1f}. "
        "Emulator, Azurite and contender share its processors.\n\n"
        f"Versions: {used}."
    )


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    heads = list(heads)
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _spread(results: Results, name: str, form: str = "{:,.0f}") -> str:
    """Median, and in brackets the smallest and the largest round."""
    values, middle = results.figures.get(name), results.median(name)
    if not values or middle is None:
        return "-"
    if len(values) == 1:
        return form.format(middle)
    return f"{form.format(middle)} ({form.format(min(values))} to {form.format(max(values))})"


def _ratio(results: Results, name: str, to: str) -> str:
    value = results.ratio(name, to)
    return f"{value:.2f}" if value is not None else "-"


def _throughput(results: Results) -> str:
    scale = results.scale
    labels = [(f"1 kB, backlog of {count:,}", f"{count} x 1000") for count in scale.backlogs]
    labels += [(f"{size // 1000} kB, backlog of {count:,}", f"{count} x {size}") for size, count in scale.sizes.items()]
    labels += [(f"1 kB, {many} channel{'s' * (many > 1)}, {scale.channel_events:,} in all", f"{many} channels")
               for many in scale.channels]  # fmt: skip
    labels += [(f"1 kB, +{ORG_MS} ms and +{STORAGE_MS} ms, {scale.slow_events:,}", "slow")]
    rows = []
    for text, label in labels:
        rows.append((
            text,
            _ratio(results, f"product {label} rate", f"pipe {label} rate"),
            _ratio(results, f"product {label} cpu_us", f"pipe {label} cpu_us"),
            _spread(results, f"product {label} rate"),
            _spread(results, f"pipe {label} rate"),
            _spread(results, f"product {label} cpu_us", "{:.1f}"),
            _spread(results, f"pipe {label} cpu_us", "{:.1f}"),
            _spread(results, f"product {label} peak_mb"),
            _spread(results, f"product {label} ops_per_1000", "{:.1f}"),
        ))  # fmt: skip
    heads = ("what", "rate / pipe's", "CPU / pipe's", "events/s", "pipe: events/s", "CPU µs an event", "pipe: CPU µs",
             "peak MB", "blob operations per 1,000")  # fmt: skip
    others = []
    for text, name in (("drain only", "drain"), ("ready-made client, drain only", "ready_made"),
                       ("one blob and one checkpoint per event", "per_event")):  # fmt: skip
        others.append((
            text,
            _spread(results, f"{name} 1000 rate"),
            _spread(results, f"{name} 1000 cpu_us", "{:.1f}"),
            _spread(results, f"{name} 1000 peak_mb"),
        ))  # fmt: skip
    large = f"{scale.backlogs[-1]} x 1000"
    others.append(("drain only with the longer lines", _spread(results, "drain slow rate"),
                   _spread(results, "drain slow cpu_us", "{:.1f}"), _spread(results, "drain slow peak_mb")))  # fmt: skip
    return "\n\n".join((
        "Medians, in brackets the range of the rounds.",
        _table(heads, rows),
        "For scale, 1 kB:",
        _table(("what", "events/s", "CPU µs an event", "peak MB"), others),
        f"Of the product's blob operations at full rate (`{large.replace(' x 1000', '')}` events) all but a few are PUTs of segments, at most one "
        "per answer of Salesforce and channel, fewer where answers arrive while one is being written; the rest opens the log and closes the run.",
    ))  # fmt: skip


def _latency(results: Results) -> str:
    rows = []
    for label in [*(f"{rate:g}/s" for rate in results.scale.rates), "50/s slow"]:
        delays = results.figures.get(f"latency {label} ms", [])
        floor_ms, tight_ms = (results.median(f"{kind} {label} ms") for kind in ("floor", "tight floor"))
        found = [percentile(delays, percent) for percent in (50, 95, 99)]
        over = [f"{value / floor_ms:.1f}" if value and floor_ms else "-" for value in found]
        rows.append((
            label.replace("/s slow", f"/s, +{ORG_MS} ms and +{STORAGE_MS} ms"),
            f"{len(delays):,}",
            *(f"{each} x" for each in over),
            *(f"{value:.1f}" if value else "-" for value in found),
            *(f"{value:.1f}" if value else "-" for value in (floor_ms, tight_ms)),
            _spread(results, f"live {label} ops_per_1000"),
        ))  # fmt: skip
    heads = ("events/s", "events", "p50 / floor", "p95 / floor", "p99 / floor", "p50 ms", "p95 ms", "p99 ms", "floor ms",
             "tight floor ms", "blob operations per 1,000")  # fmt: skip
    return (
        _table(heads, rows)
        + "\n\nThe floor is the median of one empty round trip to the org plus one PUT of one event, one after the other, at random moments "
        "and as often as events are published. The tight floor does the same again and again without a pause; it shows what an idle processor costs "
        "that has to be woken for each event, up to twice the time for the same work. Events are published at "
        "random moments, each a request of its own, and the time counts from when the org has the event. Few events make a p99 that is their largest."
    )


def _rest(results: Results) -> str:
    segments = f"{results.scale.log_segments:,}"
    rows = [
        ("start of the process to first landed event, empty log, s", _spread(results, "start empty s", "{:.2f}")),
        (f"the same, {segments} segments in the log, s", _spread(results, "start long s", "{:.2f}")),
        (f"the same, empty log, +{ORG_MS} ms and +{STORAGE_MS} ms, s", _spread(results, "start slow s", "{:.2f}")),
        ("storage requests of that run, empty log", _spread(results, "start empty requests")),
        (f"storage requests of that run, {segments} segments", _spread(results, "start long requests")),
        ("storage requests of an idle run, one channel", _spread(results, "idle 1 requests")),
        (f"storage requests of an idle run, {MANY} channels", _spread(results, f"idle {MANY} requests")),
        ("of these, writes", _spread(results, f"idle {MANY} writes")),
        (f"CPU of an idle run of {results.scale.idle_s:g} s after its start-up, ms",
         _ms(results, "idle 1 cpu_s")),
        ("import of function_app, s", _spread(results, "import function_app s", "{:.2f}")),
        ("bare import of the packages, s", _spread(results, "import packages s", "{:.2f}")),
    ]  # fmt: skip
    return (
        _table(("what", "measured"), rows)
        + "\n\nBoth logs lie in one Azurite account. Azurite looks at every blob of an account to answer a listing, also one that begins at the last "
        "segment; that small time grows with the log, the number of requests does not."
    )


def _ms(results: Results, name: str) -> str:
    value = results.median(name)
    return f"{value * 1000:.0f}" if value is not None else "-"


def _growth(results: Results) -> str:
    scale = results.scale
    large = f"{scale.backlogs[-1]} x 1000"
    cpu_us = results.median(f"product {large} cpu_us") or 0.0
    requests = results.median("idle 1 requests") or 0.0
    idle_cpu_ms = (results.median("idle 1 cpu_s") or 0.0) * 1000
    small_mb, large_mb = results.median(f"product {scale.backlogs[0]} x 1000 peak_mb"), results.median(
        f"product {large} peak_mb"
    )  # fmt: skip
    sizes = "; ".join(
        f"{size // 1000} kB: {value:.1f} µs"
        for size, label in ((1_000, large), *((size, f"{count} x {size}") for size, count in scale.sizes.items()))
        if (value := results.median(f"product {label} cpu_us")) is not None
    )
    many = "; ".join(
        f"{count}: {rate:,.0f} events/s with {ops:.1f} blob operations per 1,000"
        for count in scale.channels
        if (rate := results.median(f"product {count} channels rate")) is not None
        and (ops := results.median(f"product {count} channels ops_per_1000")) is not None
    )
    days = []
    for events, text in ((50_000, "50,000"), (5_000_000, "5,000,000")):
        pace = "50/s" if events > 1e6 or "live 1/s ops_per_1000" not in results.figures else "1/s"  # 58/s, 0.6/s
        live_ms = results.median(f"live {pace} cpu_ms_per_event") or 0.0
        live_ops = results.median(f"live {pace} ops_per_1000") or 1000.0
        segments = events if events < 1e6 else events * min(1000.0, live_ops) / 1000
        checkpoints = RUNS_A_DAY * (RUN_S // CHECKPOINT_S)
        bulk = events / 1_000 * (results.median(f"product {large} ops_per_1000") or 0.0) + RUNS_A_DAY * requests
        spread_out = segments + min(segments, checkpoints) + RUNS_A_DAY * requests
        days.append((text, f"{bulk:,.0f}", f"{spread_out:,.0f}", f"{events * cpu_us / 1e6:,.0f} s",
                     f"{events * live_ms / 1e3:,.0f} s"))  # fmt: skip
    return "\n\n".join((
        "## How cost grows",
        f"**With events.** Linear in CPU, {cpu_us:.1f} µs an event of 1 kB in a backlog. Memory hardly grows with the backlog: "
        f"{_or_dash(small_mb)} MB at {scale.backlogs[0]:,} events, {_or_dash(large_mb)} MB at {scale.backlogs[-1]:,}; it is bounded by "
        f"{MAX_HELD_BYTES >> 20} MB that are landing or waiting (or one larger answer), and one answer arriving.",
        f"**With event size.** CPU an event grows with its bytes, since each is read once, hashed once and sent once: {sizes}. "
        "Salesforce limits an answer's events, so larger events mean larger segments, not more of them.",
        f"**With channels.** Each channel that an answer brings events for costs one PUT at most, and they go side by side: {many}. "
        f"A quiet channel costs {_or_dash(_each(results))} requests a run, the run itself {_or_dash(_fixed(results))}.",
        f"**With the log's length.** Not at all in requests: an empty log opens with {_spread(results, 'start empty requests')} requests in the "
        f"whole run, one of {scale.log_segments:,} segments with {_spread(results, 'start long requests')}; the first creates its containers and "
        "records. The days of a log are listed once a run, from the last known segment on.",
        f"**With idle time.** A run without events makes {requests:.0f} storage requests on one channel and uses {idle_cpu_ms:.0f} ms of CPU "
        "while it waits. A held poll costs nothing.",
        "### What a day costs",
        _table(("events a day, 1 kB, one channel", "blob operations, all in bulk loads", "blob operations, spread evenly",
                "CPU, bulk", "CPU, spread evenly"), days),
        f"With {RUNS_A_DAY} runs of {RUN_S} s, idle requests included. Spread evenly, a quiet channel's events come one to an answer, and each "
        f"is a segment of its own and one PUT; a checkpoint is written every {CHECKPOINT_S} s at most. That is the price of landing at once: it is "
        "bounded by the number of answers, not of events, and answers that arrive while a segment is being written share the next one; so the busier the channel, the cheaper the event. What is billed for compute "
        f"is mostly the waiting: {RUNS_A_DAY} x {RUN_S} s = {RUNS_A_DAY * RUN_S:,} instance seconds a day and group, whatever the events.",
        "### When to split channels into groups",
        "One session is one connection that polls and lands in turn, on one processor. Split (with `;` in CDC_CHANNELS) when a group's "
        "catch-up after an outage takes too long at the rate above, when a busy channel's large answers delay a quiet one that must be "
        "prompt, or when one channel's trouble must not end the other's session. Do not split merely because there are many channels: each group is a function "
        "of its own that waits around the clock, and each session is one of the org's concurrent clients.",
    ))  # fmt: skip


def _or_dash(value: float | None) -> str:
    return f"{value:.0f}" if value is not None else "-"
