"""The process is killed at any moment, again and again, over live traffic: nothing is lost and nothing lands twice."""

from __future__ import annotations

import os
import random
import time

from tests.harness import ACCOUNT, CONTACT, Site, assert_landed_once, assert_sessions_clean, wait_until
from tests.one_run import spawn

ROUNDS = int(os.environ.get("ROUNDS", "6"))


def test_a_run_killed_at_random_moments_loses_nothing_and_lands_nothing_twice(site: Site) -> None:
    chance = random.Random(ROUNDS)
    for channel in (ACCOUNT, CONTACT):
        site.org.backlog(channel, 1_000)
        site.org.traffic(channel, 150)
    landed_by = 0
    for _ in range(ROUNDS):
        site.org.clear_requests()
        process = spawn(site.environment(ACCOUNT, CONTACT), seconds=30)
        with process:
            if chance.random() < 0.8:
                wait_until(lambda: site.asked("handshake"))
                time.sleep(chance.uniform(0, 1.0))
            else:
                time.sleep(chance.uniform(0.2, 1.0))
            process.kill()
        landed_by += process.returncode == -9
    for channel in (ACCOUNT, CONTACT):
        site.org.traffic(channel, 0)
    assert landed_by == ROUNDS
    writers = {segment.metadata["run_id"] for segment in site.log.segments(ACCOUNT)}
    assert len(writers) > ROUNDS / 3, "the rounds were killed before they wrote anything"

    quiet = site.capture(ACCOUNT, CONTACT, seconds=2)
    assert quiet.outcome == "ok", quiet.summary()
    for channel in (ACCOUNT, CONTACT):
        assert_landed_once(site.org, site.log, channel)
    assert not [name for name in site.log.state() if name.startswith("gaps/")]
    assert_sessions_clean(site)


def test_a_run_killed_while_it_holds_a_session_leaves_nothing_in_the_way_of_the_next(site: Site) -> None:
    site.org.publish(ACCOUNT, 50)
    with spawn(site.environment(ACCOUNT), seconds=30) as process:
        wait_until(lambda: any(session["isHeld"] for session in site.org.sessions()))
        process.kill()
    site.org.publish(ACCOUNT, 50)
    report = site.capture(ACCOUNT)
    assert report.outcome == "ok", report.summary()
    assert_landed_once(site.org, site.log, ACCOUNT)
