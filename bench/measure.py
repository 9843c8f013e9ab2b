"""What is measured, and how often; returns figures and writes nothing. Within a section the contenders take turns."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

from bench.long_log import lengthen
from bench.stage import NO_PROXY, READY_MADE, ROOT, DiskAzurite, Stage, finish, stage
from emulator import client

ACCOUNT = "/data/AccountChangeEvent"
PACKAGES = ("azure.functions", "simple_salesforce", "requests", "azure.storage.blob", "azure.identity", "msgspec",
            "pydantic_settings")  # fmt: skip
ORG_MS, STORAGE_MS = 100, 30
PACED_FLOOR_S = 6  # at most so long for a floor at the pace of the traffic
MANY = 5  # channels of the idle run that shows what each costs
Figures = dict[str, list[float]]
Say = Callable[[str], None]
T = TypeVar("T")


@dataclass(frozen=True)
class Scale:
    """How much is measured. `section_s`: no further round of a section begins once it has lasted so long."""

    rounds: int
    section_s: float
    backlogs: tuple[int, ...]  # the last is the large one
    sizes: dict[int, int]  # bytes per event -> events
    channels: tuple[int, ...]
    channel_events: int
    tutorial_events: int
    ready_made_events: int
    rates: dict[float, float]  # events/s -> seconds
    floor_times: int
    idle_s: float
    start_rounds: int
    log_segments: int
    import_rounds: int
    slow_events: int
    slow_seconds: float


FULL = Scale(
    rounds=3,
    section_s=150,
    backlogs=(10_000, 100_000, 1_000_000),
    sizes={4_000: 60_000, 11_000: 24_000},
    channels=(1, 5, 20),
    channel_events=100_000,
    tutorial_events=300,
    ready_made_events=100_000,
    rates={1: 25, 50: 20, 500: 12},
    floor_times=150,
    idle_s=4,
    start_rounds=5,
    log_segments=100_000,
    import_rounds=7,
    slow_events=300_000,
    slow_seconds=15,
)
QUICK = Scale(
    rounds=1,
    section_s=10,
    backlogs=(10_000, 60_000),
    sizes={11_000: 4_000},
    channels=(5,),
    channel_events=20_000,
    tutorial_events=60,
    ready_made_events=10_000,
    rates={50: 4},
    floor_times=40,
    idle_s=2,
    start_rounds=1,
    log_segments=5_000,
    import_rounds=1,
    slow_events=20_000,
    slow_seconds=3,
)
TINY = Scale(
    rounds=1,
    section_s=1,
    backlogs=(500, 2_000),
    sizes={4_000: 300},
    channels=(2,),
    channel_events=400,
    tutorial_events=5,
    ready_made_events=500,
    rates={20: 1},
    floor_times=5,
    idle_s=1,
    start_rounds=1,
    log_segments=20,
    import_rounds=1,
    slow_events=500,
    slow_seconds=1,
)


@dataclass
class Results:
    """Every figure by its name, one value a round; `notes` says what could not be measured."""

    scale: Scale
    figures: Figures = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, name: str, value: float) -> None:
        """Keep one round's value."""
        self.figures.setdefault(name, []).append(value)

    def median(self, name: str) -> float | None:
        """The median of a figure; None where it was not measured."""
        return median(self.figures[name]) if self.figures.get(name) else None

    def ratio(self, name: str, to: str) -> float | None:
        """The ratio of two medians."""
        one, other = self.median(name), self.median(to)
        return one / other if one is not None and other else None


def measure(scale: Scale, say: Say) -> Results:
    """Measure everything."""
    results = Results(scale)
    for section in (large_backlog, small_backlogs, event_sizes, channels, other_ways, latency, idle, start_up,
                    imports, slow_lines):  # fmt: skip
        began = time.monotonic()
        section(results)
        say(f"{section.__name__.replace('_', ' ')}: {time.monotonic() - began:.0f} s")
    return results


def rounds(results: Results, wanted: int | None = None) -> Iterator[int]:
    """Yield the rounds of a section, as long as its time is not used up."""
    ends = time.monotonic() + results.scale.section_s
    for number in range(wanted or results.scale.rounds):
        if number and time.monotonic() > ends:
            return
        yield number


def alternate(number: int, names: Sequence[T]) -> list[T]:
    """Every other round runs the other way round, so that nobody always comes first."""
    return list(names) if number % 2 == 0 else list(reversed(names))


def throughput(results: Results, on: Stage, name: str, label: str, events: int, channels: Sequence[str]) -> None:
    """Run one contender over a backlog and keep rate, CPU per event and peak memory."""
    found = on.run(name, channels, events=events)
    count = found.get("events", events)
    prefix = f"{name} {label}"
    results.add(f"{prefix} rate", count / found["seconds"])
    results.add(f"{prefix} cpu_us", found["cpu_s"] / count * 1e6)
    results.add(f"{prefix} peak_mb", found["peak_mb"])
    if found["requests"]:
        results.add(f"{prefix} ops_per_1000", sum(found["requests"].values()) / count * 1000)
    if found.get("poll_s"):
        results.add(f"{prefix} poll_s", found["poll_s"])
        results.add(f"{prefix} per_answer", count / found["blobs"])


def large_backlog(results: Results) -> None:
    """The product, the pipe and drain only, 1 kB, the largest backlog; fresh servers each round."""
    count = results.scale.backlogs[-1]
    for number in rounds(results):
        with stage() as on:
            on.org.backlog(ACCOUNT, count, size=1_000)
            for name in alternate(number, ("product", "pipe")):
                throughput(results, on, name, f"{count} x 1000", count, [ACCOUNT])


def small_backlogs(results: Results) -> None:
    """The product over smaller backlogs: rate and memory must not depend on the size."""
    for number in rounds(results):
        for count in results.scale.backlogs[:-1]:
            with stage() as on:
                on.org.backlog(ACCOUNT, count, size=1_000)
                for name in alternate(number, ("product", "pipe")):
                    throughput(results, on, name, f"{count} x 1000", count, [ACCOUNT])


def event_sizes(results: Results) -> None:
    """Larger events."""
    for size, count in results.scale.sizes.items():
        with stage() as on:
            on.org.backlog(ACCOUNT, count, size=size)
            for number in rounds(results):
                for name in alternate(number, ("product", "pipe")):
                    throughput(results, on, name, f"{count} x {size}", count, [ACCOUNT])


def channels(results: Results) -> None:
    """The same number of events over more channels of one session."""
    for many in results.scale.channels:
        names = [f"/data/Bench{number:02d}__ChangeEvent" for number in range(many)]
        with stage() as on:
            for channel in names:
                on.org.channel(channel, exists=True)
                on.org.backlog(channel, results.scale.channel_events // many, size=1_000)
            for number in rounds(results):
                for name in alternate(number, ("product", "pipe")):
                    count = results.scale.channel_events // many * many
                    throughput(results, on, name, f"{many} channels", count, names)


def other_ways(results: Results) -> None:
    """Drain only, the ready-made client, and one blob and one checkpoint per event."""
    count = results.scale.ready_made_events
    has_ready_made = (READY_MADE / "node_modules" / "cometd").is_dir()
    if not has_ready_made:
        results.notes.append("the ready-made client was not installed (npm ci failed), and was left out")
    with stage() as on:
        on.org.backlog(ACCOUNT, count, size=1_000)
        for number in rounds(results):
            for name in alternate(number, ("drain", "ready_made", "per_event")):
                events = results.scale.tutorial_events if name == "per_event" else count
                if name != "ready_made" or has_ready_made:
                    throughput(results, on, name, "1000", events, [ACCOUNT])


# --- latency ---------------------------------------------------------------------------------------------------------


def publish(org: client.Emulator, rate: float, seconds: float, size: int) -> list[int]:
    """Publish at random moments, `rate` a second on average; return when the org had each, in nanoseconds."""
    filler = "x" * max(1, size - 330)
    address = urlsplit(org.url)
    line = HTTPConnection(address.hostname or "", address.port)
    chance, published, path = random.Random(7), [], f"/_emulator/raw?channel={quote(ACCOUNT)}"
    due = time.monotonic()
    ends = due + seconds
    while due < ends:
        time.sleep(max(0.0, due - time.monotonic()))
        now_ms = time.time_ns() // 1_000_000
        header = f'{{"entityName":"Account","changeType":"UPDATE","commitTimestamp":{now_ms}}}'
        body = (
            f'{{"data":{{"schema":"x","payload":{{"ChangeEventHeader":{header},"Description":"{filler}"}},'
            f'"event":{{"replayId":{{{{replayId}}}}}}}},"channel":"{ACCOUNT}"}}'
        )
        line.request("POST", path, body.encode())
        published.append(json.load(line.getresponse())["publishedNs"])
        due += chance.expovariate(rate)
    line.close()
    return published


def latency(results: Results) -> None:
    """Publish to landed under live traffic, and the floors before and after it on the same servers."""
    for rate, seconds in results.scale.rates.items():
        with stage() as on:
            _latency(results, on, rate, seconds, f"{rate:g}/s")


def _latency(results: Results, on: Stage, rate: float, seconds: float, label: str) -> None:
    def floor() -> None:
        times = results.scale.floor_times // (5 if label.endswith("slow") else 1)
        for name, pace, count in (("tight floor", 0, times), ("floor", rate, min(times, int(rate * PACED_FLOOR_S)))):
            found = on.run("floor", [ACCOUNT], size=1_000, times=count, pace=pace)
            for taken_s in found["taken_s"]:
                results.add(f"{name} {label} ms", taken_s * 1000)

    floor()
    on.org.publish(ACCOUNT, 1)
    running = on.start("product", [ACCOUNT], run_s=seconds + 4, with_segments=True)
    try:
        _wait_for_poll(on.org)
        published = publish(on.org, rate, seconds, 1_000)
    except BaseException:
        running.kill()
        raise
    found = finish(running, "product")
    landed = [time_ns for time_ns, count in found["segments"] for _ in range(count)][1:]
    for published_ns, landed_ns in zip(published, landed, strict=True):
        results.add(f"latency {label} ms", (landed_ns - published_ns) / 1e6)
    results.add(f"live {label} ops_per_1000", sum(found["requests"].values()) / len(published) * 1000)
    results.add(f"live {label} cpu_ms_per_event", found["cpu_s"] / len(published) * 1000)
    floor()


def _wait_for_poll(org: client.Emulator) -> None:
    """Return when the first event has been taken and a poll is held."""
    ends = time.monotonic() + 60
    while time.monotonic() < ends:
        asked = [each for each in org.requests() if each["channel"] == "/meta/connect"]
        if len(asked) > 1 and asked[-1]["state"] == "pending":
            time.sleep(0.3)
            return
        time.sleep(0.1)
    raise TimeoutError("the product did not begin to poll")


# --- idle, start-up, import ------------------------------------------------------------------------------------------


def idle(results: Results) -> None:
    """A run without events, after a first one, on one channel and on several: storage requests and writes."""
    names = [f"/data/Bench{number:02d}__ChangeEvent" for number in range(MANY)]
    with stage() as on:
        for channel in names:
            on.org.channel(channel, exists=True)
            on.org.backlog(channel, 10, size=1_000)
        for many in (1, MANY):
            on.run("product", names[:many], events=10 * many, log=f"idle{many}")
        for number in rounds(results):
            for many in alternate(number, (1, MANY)):
                found = on.run("product", names[:many], run_s=results.scale.idle_s, log=f"idle{many}")
                results.add(f"idle {many} requests", sum(found["requests"].values()))
                results.add(f"idle {many} writes", found["requests"].get("PUT", 0))
                results.add(f"idle {many} cpu_s", found["cpu_s"])


def start_up(results: Results) -> None:
    """From the start of the process to the first landed event, with a short and a long log in one account."""
    with tempfile.TemporaryDirectory(prefix="cdc-bench-") as folder, client.start(auto_purge=False) as org:
        disk = DiskAzurite(Path(folder))
        org.publish(ACCOUNT, 1)
        with disk.running() as (storage, url):
            Stage(org, org.url, storage, url).run("product", [ACCOUNT], events=1, log="long")
        lengthen(Path(folder), "bench-events-long", results.scale.log_segments)
        with disk.running() as (storage, url):
            on = Stage(org, org.url, storage, url)
            published, landed = 2, {"long": 1}
            org.publish(ACCOUNT, 1)
            for number in range(results.scale.start_rounds + 1):
                for log in alternate(number, ("empty", "long")):
                    name = log if log == "long" else f"empty{number}"
                    began = time.time_ns()
                    found = on.run("product", [ACCOUNT], events=published - landed.get(name, 0), log=name)
                    landed[name] = published
                    if number:  # the first round finds the log longer than its checkpoint says
                        results.add(f"start {log} s", (found["first_landed_ns"] - began) / 1e9)
                        results.add(f"start {log} requests", sum(found["requests"].values()))
                org.publish(ACCOUNT, 1)
                published += 1


def imports(results: Results) -> None:
    """The import of function_app beside the bare import of the packages that the app needs."""
    statements = {"function_app": "import function_app", "packages": f"import {', '.join(PACKAGES)}"}
    environment = {
        "PATH": "/usr/bin:/bin",
        "CDC_CHANNELS": ACCOUNT,
        "SALESFORCE_LOGIN_URL": "http://127.0.0.1:1",
        "SALESFORCE_CLIENT_ID": "x",
        "SALESFORCE_CLIENT_SECRET": "x",
        "CDC_STORAGE": "UseDevelopmentStorage=true",
        **NO_PROXY,
    }
    for number in range(results.scale.import_rounds + 1):
        for name in alternate(number, tuple(statements)):
            began = time.monotonic()
            subprocess.run([sys.executable, "-c", statements[name]], cwd=ROOT, env=environment, check=True)
            if number:  # the first round only warms the caches
                results.add(f"import {name} s", time.monotonic() - began)


# --- where round trips rule ------------------------------------------------------------------------------------------


def slow_lines(results: Results) -> None:
    """Throughput and latency again with longer lines before both servers."""
    count = results.scale.slow_events
    with stage(org_ms=ORG_MS, storage_ms=STORAGE_MS) as on:
        on.org.backlog(ACCOUNT, count, size=1_000)
        for number in rounds(results, min(2, results.scale.rounds)):
            for name in alternate(number, ("product", "pipe", "drain")):
                throughput(results, on, name, "slow", count, [ACCOUNT])
    with stage(org_ms=ORG_MS, storage_ms=STORAGE_MS) as on:
        _latency(results, on, 50, results.scale.slow_seconds, "50/s slow")
        began = time.time_ns()
        found = on.run("product", [ACCOUNT], events=1)
        results.add("start slow s", (found["first_landed_ns"] - began) / 1e9)


def versions() -> dict[str, Any]:
    """What ran: interpreters and packages."""
    from importlib.metadata import version

    packages = ("requests", "urllib3", "azure-storage-blob", "azure-core", "msgspec", "aiohttp")
    node = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    azurite = json.loads((ROOT / "node_modules" / "azurite" / "package.json").read_text(encoding="utf-8"))["version"]
    return {
        "Python": sys.version.split()[0],
        "Node.js": node,
        "Azurite": azurite,
        **{name: version(name) for name in packages},
    }


__all__ = ["FULL", "QUICK", "TINY", "Results", "Scale", "measure", "versions"]
