"""Several runs share one storage by mistake: the log stays whole, one goes on, and the others say who was there."""

from __future__ import annotations

import threading

from cdc.report import RunReport
from tests.harness import (
    ACCOUNT,
    CONTACT,
    Recorder,
    Site,
    assert_landed_once,
    assert_sessions_clean,
    capture,
    messages_of,
    wait_until,
)


def run_at_once(site: Site, *channels: str, seconds: float, count: int = 3) -> list[tuple[RunReport, Recorder]]:
    """Start runs together and return their reports and what they said."""
    found: list[tuple[RunReport, Recorder]] = []

    def work() -> None:
        said = Recorder()
        found.append((capture(site.environment(*channels), seconds=seconds, emit=said), said))

    threads = [threading.Thread(target=work) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == count
    return found


def test_three_runs_at_once_lose_nothing_and_land_nothing_twice_and_the_fenced_ones_name_both_runs(site: Site) -> None:
    for channel in (ACCOUNT, CONTACT):
        site.org.backlog(channel, 500)
        site.org.traffic(channel, 60)
    found = run_at_once(site, ACCOUNT, CONTACT, seconds=3)
    for channel in (ACCOUNT, CONTACT):
        site.org.traffic(channel, 0)

    runs = {report.run_id for report, _ in found}
    for channel in (ACCOUNT, CONTACT):
        fenced = [report for report, _ in found if report.channels[channel].needs_attention]
        assert len(fenced) == 2, [report.summary() for report, _ in found]
        [winner] = [report for report, _ in found if report not in fenced]
        last = site.log.segments(channel)[-1].metadata["run_id"]
        assert last == winner.run_id
        for report in fenced:
            [message] = [problem.message for problem in report.problems if problem.channel == channel]
            assert report.run_id in message
            assert any(other in message for other in runs - {report.run_id})
    for report, _ in found:
        assert report.outcome == ("degraded" if report.problems else "ok")
    assert site.capture(ACCOUNT, CONTACT).outcome == "ok"
    for channel in (ACCOUNT, CONTACT):
        assert_landed_once(site.org, site.log, channel)
    assert_sessions_clean(site)


def test_a_second_run_that_starts_beside_a_busy_one_is_told_and_the_log_goes_on(site: Site) -> None:
    site.org.traffic(ACCOUNT, 100)
    reports: list[RunReport] = []
    first = threading.Thread(target=lambda: reports.append(capture(site.environment(ACCOUNT), seconds=3)))
    first.start()
    wait_until(lambda: len(site.log.segments(ACCOUNT)) >= 2)
    reports.append(capture(site.environment(ACCOUNT), seconds=1.5))
    first.join()
    site.org.traffic(ACCOUNT, 0)
    assert sorted(report.outcome for report in reports) == ["degraded", "ok"], [r.summary() for r in reports]
    [fenced] = [report for report in reports if report.outcome == "degraded"]
    assert "wrote it before this run" in messages_of(fenced)[0]
    site.capture(ACCOUNT)
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_two_runs_that_open_a_channel_together_agree_on_one_first_generation(site: Site) -> None:
    site.org.publish(ACCOUNT, 20)
    found = run_at_once(site, ACCOUNT, seconds=1, count=2)
    assert "ok" in [report.outcome for report, _ in found]
    for report, _ in found:
        assert report.outcome == "ok" or "wrote it before this run" in messages_of(report)[0]
    generations = [name for name in site.log.state() if name.startswith("generations/")]
    assert generations == ["generations/data/AccountChangeEvent/0001.json"]
    assert site.capture(ACCOUNT).outcome == "ok"
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_idle_runs_at_once_are_no_alarm(site: Site) -> None:
    site.org.publish(ACCOUNT, 5)
    assert site.capture(ACCOUNT).outcome == "ok"
    found = run_at_once(site, ACCOUNT, seconds=1)
    assert [report.outcome for report, _ in found] == ["ok"] * 3, [report.summary() for report, _ in found]
    assert_landed_once(site.org, site.log, ACCOUNT)
