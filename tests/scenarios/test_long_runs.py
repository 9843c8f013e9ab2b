"""A run of many minutes, by a clock that runs faster than the day: poll after poll, alive, and on from there."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from cdc import app, background
from cdc.report import RunReport
from cdc.settings import load_settings
from cdc.waiting import Clock
from tests.harness import ACCOUNT, CONTACT, Recorder, Site, assert_landed_once, slowness, wait_until

SPEED = 60.0
POLL_S = 0.4  # how long the server holds a poll, by the day's clock


class FastClock(Clock):
    """Goes SPEED times as fast as the day, on a machine that is busy not quite."""

    def __init__(self) -> None:
        self._began, self._began_s = datetime.now(UTC), time.monotonic()
        self._speed = SPEED / slowness()

    def now(self) -> datetime:
        return self._began + timedelta(seconds=self.monotonic() - self._began_s)

    def monotonic(self) -> float:
        return self._began_s + (time.monotonic() - self._began_s) * self._speed

    def wait(self, futures: Sequence[Future[Any]], timeout_s: float) -> None:
        super().wait(futures, timeout_s / self._speed)


def start(
    site: Site, *channels: str, minutes: float, said: Recorder, stop: Future[None] | None = None
) -> Future[RunReport]:
    settings = load_settings(site.environment(*channels))
    group = settings.channel_groups[0]
    clock = FastClock()
    return background.start(
        "run", lambda: app.capture(settings, group, seconds=60 * minutes, stop=stop, emit=said, clock=clock)
    )


@contextmanager
def traffic(site: Site, *channels: str, rate: float) -> Iterator[None]:
    for channel in channels:
        site.org.traffic(channel, rate)
    try:
        yield
    finally:
        for channel in channels:
            site.org.traffic(channel, 0)


def test_a_long_run_says_every_five_minutes_that_it_is_alive_and_the_next_one_goes_on_without_a_hole(
    site: Site,
) -> None:
    """Sixteen minutes, across a dozen of the server's poll time-outs, then six, over live traffic."""
    site.org.knobs(hold_s=POLL_S)
    said, records = Recorder(), list[dict[str, Any]]()
    with traffic(site, ACCOUNT, rate=1):
        running = start(site, ACCOUNT, CONTACT, minutes=16, said=said)
        wait_until(lambda: said.named("run.alive"), at_most_s=60)
        wait_until(lambda: "runs/capture1.json" in site.log.state("runs/"), at_most_s=60)
        records.append(site.log.state("runs/")["runs/capture1.json"])
        report = running.result(120)
        following = start(site, ACCOUNT, CONTACT, minutes=6, said=Recorder()).result(120)
    last = start(site, ACCOUNT, CONTACT, minutes=1, said=Recorder()).result(120)
    assert [each.outcome for each in (report, following, last)] == ["ok", "ok", "ok"], report.summary()
    alive = said.named("run.alive")
    assert [each["outcome"] for each in alive] == ["ok"] * 3
    assert [round(float(str(each["seconds"])) / 60) for each in alive] == [5, 10, 15]
    assert [each["channel"] for each in said.named("channel.alive")] == [ACCOUNT, CONTACT] * 3
    assert {each["run_id"] for each in alive} == {report.run_id}
    assert report.sessions == 1
    assert len([entry for entry in site.asked("connect") if not entry["events"]]) >= 5
    [under_way] = records
    assert (under_way["isUnderWay"], under_way["runId"], under_way["outcome"]) == (True, report.run_id, "ok")
    record = site.log.state("runs/")["runs/capture1.json"]
    assert (record["isUnderWay"], record["runId"]) == (False, last.run_id)
    assert [each["runId"] for each in record["past"]] == [following.run_id, report.run_id]
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_a_long_run_whose_org_has_gone_is_not_ok_while_it_lasts_and_is_ok_again_after(site: Site) -> None:
    site.org.knobs(hold_s=POLL_S)
    said = Recorder()
    stop: Future[None] = Future()
    running = start(site, ACCOUNT, minutes=600, said=said, stop=stop)
    wait_until(lambda: said.named("run.alive"), at_most_s=60)
    site.org.fault("handshake", "status", status=503, times=-1)
    site.org.fault("connect", "drop", times=1)
    wait_until(lambda: said.named("run.alive")[-1]["outcome"] == "failed", at_most_s=90)
    assert said.named("run.alive")[-1]["errors"]
    site.org.clear_faults()
    wait_until(lambda: said.named("run.alive")[-1]["outcome"] == "ok", at_most_s=90)
    stop.set_result(None)
    running.result(60)
    lost = said.named("run.finished")[0]["lost_causes"]
    assert lost == {"RequestLost": 1}
