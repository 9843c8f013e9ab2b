"""Three channels with a backlog and live traffic: everything lands once, and the next run asks only for what is new."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import Future
from typing import Any

import pytest

from cdc import run
from cdc.store import AzureContainer
from tests.harness import ACCOUNT, CONTACT, OPPORTUNITY, Site, assert_landed_once, run_seconds, slowness, wait_until
from tests.one_run import ROOT

CHANNELS = (ACCOUNT, CONTACT, OPPORTUNITY)


def test_three_channels_with_waiting_and_live_events_land_once_in_order_and_byte_for_byte(site: Site) -> None:
    for channel in CHANNELS:
        site.org.backlog(channel, 2_000)
        site.org.traffic(channel, 40)

    report = site.capture(*CHANNELS, seconds=3)
    for channel in CHANNELS:
        site.org.traffic(channel, 0)

    assert report.outcome == "ok", report.summary()
    assert site.late_s < 5 * slowness()
    assert [entry["successful"] for entry in site.asked("disconnect")] == [True]
    assert len(site.asked("handshake")) == 1
    assert all(report.channels[channel].events > 2_080 for channel in CHANNELS)
    assert not site.org.sessions()
    assert site.capture(*CHANNELS).outcome == "ok"  # what was published after the first run's last poll
    for channel in CHANNELS:
        assert_landed_once(site.org, site.log, channel)


def test_the_command_does_the_same_and_prints_one_document(site: Site) -> None:
    for channel in CHANNELS:
        site.org.backlog(channel, 500)
        site.org.traffic(channel, 20)
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "cdc", "run", "--seconds", run_seconds(2), "--json"],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **site.environment(*CHANNELS)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert time.monotonic() - began < (2 + 15) * slowness()
    for channel in CHANNELS:
        site.org.traffic(channel, 0)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["outcome"], report["sessions"], report["errors"]) == ("ok", 1, [])
    for channel in CHANNELS:
        assert report["channels"][channel]["events"] == len(site.log.lines(channel)) >= 500
        assert report["channels"][channel]["subscribed"] is True
    assert [entry["successful"] for entry in site.asked("disconnect")] == [True]
    assert "Traceback" not in done.stderr
    assert site.capture(*CHANNELS).outcome == "ok"
    for channel in CHANNELS:
        assert_landed_once(site.org, site.log, channel)


def test_the_second_run_asks_only_for_what_is_new_and_an_idle_run_writes_no_segment(site: Site) -> None:
    for channel in CHANNELS:
        site.org.backlog(channel, 300)
    first = site.capture(*CHANNELS)
    for channel in CHANNELS:
        site.org.publish(channel, 700)
    site.org.clear_requests()
    second = site.capture(*CHANNELS)

    assert first.outcome == second.outcome == "ok"
    for channel in CHANNELS:
        subscribes = [entry for entry in site.asked("subscribe") if entry["subscription"] == channel]
        position = json.loads(str(first.channels[channel].replay_id))
        assert [entry["replay"] for entry in subscribes] == [{channel: position}]
        assert second.channels[channel].events == 700
        assert second.channels[channel].duplicates == 0
        assert_landed_once(site.org, site.log, channel)

    before, state = site.log.names(), site.log.state()
    idle = site.capture(*CHANNELS)
    assert idle.outcome == "ok"
    assert site.log.names() == before
    changed = [name for name, record in site.log.state().items() if record != state[name]]
    assert changed == ["runs/capture1.json"]


def test_every_event_lies_in_the_partition_of_its_date_and_metadata_tell_what_a_segment_holds(site: Site) -> None:
    for age_s in (3 * 86_400 - 7_200, 2 * 86_400, 86_400, 0):
        site.org.publish(ACCOUNT, 20, age_s=age_s)
    assert site.capture(ACCOUNT).outcome == "ok"
    assert_landed_once(site.org, site.log, ACCOUNT)

    times = [row["timeMs"] / 1000 for row in site.org.ledger(ACCOUNT)]
    days = sorted({time.strftime("%Y-%m-%d", time.gmtime(each)) for each in times})
    segments = site.log.segments(ACCOUNT)
    # The generation's first segment lies in its record's partition; so here all do: the record is today's.
    assert {segment.partition for segment in segments} == {f"date={days[-1]}"}
    for segment in segments:
        assert segment.metadata["org_id"] == site.org.org_id
        assert segment.metadata["generation"] == "1"
        assert len(segment.metadata["sha256"]) == 64


def test_a_later_date_opens_a_later_partition(site: Site) -> None:
    site.org.publish(ACCOUNT, 3)
    assert site.capture(ACCOUNT).outcome == "ok"
    site.org.publish(ACCOUNT, 3)
    site.org.advance_clock(86_400)
    site.org.publish(ACCOUNT, 3)
    assert site.capture(ACCOUNT).outcome == "ok"
    segments = site.log.segments(ACCOUNT)
    assert [len(segment.lines) for segment in segments] == [3, 3, 3]
    assert len({segment.partition for segment in segments}) == 2
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_a_landing_has_a_head_start_of_the_next_poll(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "HEAD_START_S", 5.0)
    polls: list[int] = []  # so many had been sent when a segment was landed
    create = AzureContainer.create

    def watched(self: AzureContainer, name: str, *arguments: Any, **more: Any) -> None:
        create(self, name, *arguments, **more)
        if name.startswith("data/"):
            polls.append(len(site.asked("connect")))

    monkeypatch.setattr(AzureContainer, "create", watched)
    site.org.knobs(events_on_subscribe=False, max_events=10)
    site.org.backlog(ACCOUNT, 30)
    assert site.capture(ACCOUNT).outcome == "ok"
    assert polls == [2, 3, 4], "the first connect brings nothing, each one after it ten"
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_events_are_landed_while_the_next_poll_is_already_waiting(site: Site) -> None:
    """An event in the middle of a run lies in the log long before the run ends."""
    stop: Future[None] = Future()
    worker = threading.Thread(target=site.capture, args=(ACCOUNT,), kwargs={"seconds": 60, "stop": stop})
    worker.start()
    wait_until(lambda: any(session["isHeld"] for session in site.org.sessions()))
    site.org.publish(ACCOUNT, 1)
    wait_until(lambda: site.log.lines(ACCOUNT))
    wait_until(lambda: any(session["isHeld"] for session in site.org.sessions()))
    assert worker.is_alive()
    stop.set_result(None)
    worker.join()
    assert_landed_once(site.org, site.log, ACCOUNT)
