"""An operator rewinds a channel, or lands a message out of quarantine, while the app captures: nothing is lost."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime

import pytest

from cdc import app, layout
from cdc.events import EARLIEST, TIP
from cdc.layout import Generation
from cdc.orders import Orders, placed
from cdc.report import RunReport
from cdc.settings import load_settings
from tests.harness import ACCOUNT, Recorder, Site, capture, messages_of, wait_until


@dataclass
class Running:
    """A run under way; `report` is there once it has ended."""

    said: Recorder = field(default_factory=Recorder)
    reports: list[RunReport] = field(default_factory=list)

    @property
    def report(self) -> RunReport:
        [report] = self.reports
        return report


@contextmanager
def run_under_way(site: Site, *, seconds: float) -> Iterator[Running]:
    """Capture live traffic beside the block, and go on until the run ends by itself."""
    site.org.publish(ACCOUNT, 20)
    site.org.traffic(ACCOUNT, 10)
    running = Running()

    def work() -> None:
        running.reports.append(capture(site.environment(), seconds=seconds, emit=running.said))

    thread = threading.Thread(target=work)
    thread.start()
    try:
        wait_until(lambda: len(site.log.segments(ACCOUNT)) >= 2, at_most_s=30)
        yield running
    finally:
        thread.join()
        site.org.traffic(ACCOUNT, 0)


def order(site: Site, deed: Callable[[Orders], object]) -> None:
    with app.ordering(load_settings(site.environment())) as orders:
        deed(orders)


def rewind(site: Site, start: str) -> Generation:
    opened: list[Generation] = []
    order(site, lambda orders: opened.append(orders.rewind(orders.plan_rewind(ACCOUNT, start))))
    return opened[0]


def lines_of(site: Site, generation: int) -> list[bytes]:
    return site.log.lines(ACCOUNT, generation)


def numbers_have_no_hole(site: Site) -> None:
    segments = site.log.segments(ACCOUNT)
    assert [segment.number for segment in segments] == list(range(1, len(segments) + 1))
    generations = [int(segment.metadata["generation"]) for segment in segments]
    assert generations == sorted(generations)


def test_a_rewind_during_a_run_leaves_that_run_its_generation_and_the_next_one_lands_all_again(site: Site) -> None:
    with run_under_way(site, seconds=4) as running:
        before = len(site.log.segments(ACCOUNT))
        opened = rewind(site, EARLIEST)
    assert len(site.log.segments(ACCOUNT)) > before  # it went on as if nothing were
    assert (opened.number, opened.cause, opened.may_repeat_earlier_events) == (2, "rewind", True)
    assert (running.report.outcome, running.report.sessions) == ("ok", 1)
    assert opened.after_segment < len(site.log.segments(ACCOUNT))
    landed = lines_of(site, 1)
    assert landed == site.org.deliveries(ACCOUNT)[: len(landed)]
    assert site.capture().outcome == "ok"
    assert lines_of(site, 1) == landed
    assert lines_of(site, 2) == site.org.deliveries(ACCOUNT)
    numbers_have_no_hole(site)
    assert site.log.state("gaps/") == {}


def test_a_rewind_to_the_tip_leaves_out_what_was_not_fetched_and_a_gap_says_so(site: Site) -> None:
    site.org.publish(ACCOUNT, 5, age_s=3600)
    assert site.capture().outcome == "ok"
    site.org.publish(ACCOUNT, 7, age_s=1800)
    opened = rewind(site, TIP)
    site.org.publish(ACCOUNT, 3)
    assert site.capture().outcome == "ok"
    deliveries = site.org.deliveries(ACCOUNT)
    assert lines_of(site, 1) == deliveries[:5]
    assert lines_of(site, 2) == deliveries[12:]
    [gap] = site.log.state("gaps/").values()
    assert (gap["cause"], gap["number"], gap["start"], gap["afterSegment"]) == ("rewind", 2, "-1", 1)
    assert datetime.fromisoformat(gap["since"]) < datetime.fromisoformat(gap["until"]) == opened.t0
    numbers_have_no_hole(site)


def test_a_rewind_to_a_replay_id_lands_what_came_after_it(site: Site) -> None:
    ids = site.org.publish(ACCOUNT, 9)
    assert site.capture().outcome == "ok"
    rewind(site, str(ids[3]))
    assert site.capture().outcome == "ok"
    assert lines_of(site, 2) == site.org.deliveries(ACCOUNT)[4:]


def test_a_replay_id_that_salesforce_does_not_know_takes_the_ordinary_way_of_a_refusal(site: Site) -> None:
    site.org.publish(ACCOUNT, 4)
    assert site.capture().outcome == "ok"
    rewind(site, "1")
    report = site.capture(seconds=3)
    assert report.outcome == "degraded"
    assert any("replay-refused" in message for message in messages_of(report))
    assert lines_of(site, 3) == site.org.deliveries(ACCOUNT)
    numbers_have_no_hole(site)


def stray(number: int) -> bytes:
    data = {"event": {"replayId": number}, "payload": {"ChangeEventHeader": {"entityName": "Account"}}}
    return json.dumps({"data": data, "channel": ACCOUNT}).encode()


def redrive(orders: Orders, raw: bytes) -> int:
    kept, body = orders.find(layout.sha256(raw)[:10])
    return orders.redrive(kept, placed(kept, body, [ACCOUNT]))


def test_redriven_messages_land_once_beside_a_run_which_goes_on_without_an_alarm(site: Site) -> None:
    strays = [stray(number) for number in (1, 2)]
    with run_under_way(site, seconds=6) as running:
        for raw in strays:
            site.log.write_foreign(layout.quarantine_name(ACCOUNT, raw), raw)
            order(site, lambda orders, raw=raw: redrive(orders, raw))
    assert (running.report.outcome, running.report.lost_sessions) == ("ok", 0), running.report.summary()
    assert not running.report.channels[ACCOUNT].is_fenced
    assert site.capture().outcome == "ok"
    numbers_have_no_hole(site)
    segments = site.log.segments(ACCOUNT)
    redriven = [segment for segment in segments if segment.metadata.get("redriven")]
    assert [segment.lines for segment in redriven] == [[raw] for raw in strays]
    for segment in redriven:
        assert segment.metadata["last_replay_id"] == segments[segment.number - 2].metadata["last_replay_id"]
    ordinary = [line for segment in segments if segment not in redriven for line in segment.lines]
    assert ordinary == site.org.deliveries(ACCOUNT)


@pytest.mark.parametrize("is_quiet", [True, False])
def test_a_run_after_a_redriven_segment_goes_on_from_the_event_before_it(site: Site, is_quiet: bool) -> None:
    site.org.publish(ACCOUNT, 4)
    assert site.capture().outcome == "ok"
    raw = stray(1)
    site.log.write_foreign(layout.quarantine_name(ACCOUNT, raw), raw)
    order(site, lambda orders: redrive(orders, raw))
    if not is_quiet:
        site.org.publish(ACCOUNT, 2)
    assert site.capture().outcome == "ok"
    subscribed = site.said.named("channel.subscribed")
    assert [fields["replay_id"] for fields in subscribed] == [site.log.segments(ACCOUNT)[0].metadata["last_replay_id"]]
    lines = [line for line in site.log.lines(ACCOUNT) if line != raw]
    assert lines == site.org.deliveries(ACCOUNT)
