"""A replay id is refused: where something broke a gap says so once, where nothing can be missing nothing is said."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pytest

from cdc.report import RunReport
from tests.harness import ACCOUNT, CONTACT, Site, assert_landed_once, assert_layout, messages_of

HOUR = 3_600.0
ACCOUNT_PATH = "data/AccountChangeEvent"
ORDER = "/event/Order_Placed__e"


def gaps(site: Site) -> dict[str, Any]:
    """Every gap record."""
    return site.log.state("gaps/")


def generations(site: Site) -> dict[str, Any]:
    """Every generation record."""
    return site.log.state("generations/")


def when(text: str) -> datetime:
    """A record's time."""
    return datetime.fromisoformat(text)


def position(site: Site) -> Any:
    """The replay id of the channel's last landed event."""
    return site.org.deliveries(ACCOUNT)[-1].partition(b'"replayId":')[2].partition(b"}")[0].decode()


def silent_for(site: Site, hours: float) -> None:
    """Land three events, leave the channel silent, and let the org purge them; the last clean poll is recent."""
    site.org.publish(ACCOUNT, 3)
    assert site.capture(ACCOUNT).outcome == "ok"
    step = 60.0
    while hours > 0:
        site.org.advance_clock(min(step, hours) * HOUR)
        hours -= step
        if hours > 0:
            assert site.capture(ACCOUNT).outcome == "ok"  # a run now and then: nobody was away


# --- a recent position: something broke ------------------------------------------------------------------------------


def test_a_refused_id_of_a_recent_event_opens_a_gap_and_a_generation_and_the_next_run_is_ok(site: Site) -> None:
    site.org.publish(ACCOUNT, 10)
    first = site.capture(ACCOUNT)
    site.org.reset_stream(ACCOUNT)
    site.org.publish(ACCOUNT, 6)

    second = site.capture(ACCOUNT, seconds=1.5)
    assert second.outcome == "degraded", second.summary()
    assert site.log.lines(ACCOUNT, generation=2) == site.org.deliveries(ACCOUNT)[10:]
    [(name, gap)] = gaps(site).items()
    assert name == f"gaps/{ACCOUNT_PATH}/0002.json"
    assert (gap["cause"], gap["afterReplayId"], gap["start"]) == (
        "replay-refused",
        first.channels[ACCOUNT].replay_id,
        "-2",
    )
    assert gap["since"] < gap["until"]
    assert when(gap["since"]) == when(site.log.segments(ACCOUNT)[0].metadata["last_time"])
    [problem] = second.problems
    assert ACCOUNT in problem.message
    assert "replay-refused" in problem.message
    assert "gap record 0002" in problem.hint

    site.org.publish(ACCOUNT, 2)
    third = site.capture(ACCOUNT)
    assert (third.outcome, third.channels[ACCOUNT].events) == ("ok", 2)
    assert len(gaps(site)) == 1
    assert_layout(site.log, ACCOUNT)
    assert site.log.lines(ACCOUNT) == site.org.deliveries(ACCOUNT)


def test_it_is_asked_once_more_in_a_fresh_session_before_anything_is_concluded(site: Site) -> None:
    site.org.publish(ACCOUNT, 10)
    site.capture(ACCOUNT)
    refusal = (
        f"400::The replayId {{{position(site)}}} you provided was invalid. Please provide a valid ID, -2 to replay"
    )
    site.org.publish(ACCOUNT, 5)
    site.org.fault("subscribe", "reply", reply={"error": f"{refusal} all events, or -1 to replay only new events."})
    site.org.clear_requests()
    report = site.capture(ACCOUNT, seconds=1.5)
    assert report.outcome == "ok", report.summary()
    assert [entry["successful"] for entry in site.asked("subscribe")] == [False, True]
    assert len({entry["clientId"] for entry in site.asked("subscribe")}) == 2
    assert gaps(site) == {}
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_another_400_is_a_refused_channel_and_never_a_reason_to_start_over(site: Site) -> None:
    site.org.publish(ACCOUNT, 10)
    site.capture(ACCOUNT)
    site.org.publish(ACCOUNT, 5)
    for text in ("400::Channel name not specified", "400::The replayId is odd", "500::The replayId {1} you provided"):
        site.org.channel(ACCOUNT, refusal=text)
        assert site.capture(ACCOUNT, seconds=1.2).outcome == "failed"
    site.org.channel(ACCOUNT, refusal="")
    assert list(generations(site)) == [f"generations/{ACCOUNT_PATH}/0001.json"]
    assert site.capture(ACCOUNT).outcome == "ok"
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_ids_that_are_used_again_after_a_reset_are_told_apart_by_their_generation(site: Site) -> None:
    first_ids = site.org.publish(ACCOUNT, 5)
    site.capture(ACCOUNT)
    site.org.reset_stream(ACCOUNT, next_id=first_ids[0])
    site.org.publish(ACCOUNT, 1)
    assert site.capture(ACCOUNT, seconds=1.5).outcome == "degraded"
    assert site.log.lines(ACCOUNT) == site.org.deliveries(ACCOUNT)
    assert site.log.lines(ACCOUNT, generation=2) == site.org.deliveries(ACCOUNT)[5:]


def test_one_channel_is_reset_and_the_other_goes_on_untouched(site: Site) -> None:
    for channel in (ACCOUNT, CONTACT):
        site.org.publish(channel, 5)
    site.capture(ACCOUNT, CONTACT)
    site.org.reset_stream(ACCOUNT)
    for channel in (ACCOUNT, CONTACT):
        site.org.publish(channel, 5)
    report = site.capture(ACCOUNT, CONTACT, seconds=1.5)
    assert report.outcome == "degraded"
    assert report.channels[CONTACT].generation == 1
    assert_landed_once(site.org, site.log, CONTACT)
    assert site.log.lines(ACCOUNT) == site.org.deliveries(ACCOUNT)


def test_stop_writes_the_gap_once_and_fails_every_run_until_an_order_is_given(site: Site) -> None:
    site.org.publish(ACCOUNT, 5)
    site.org.publish(CONTACT, 5)
    site.capture(ACCOUNT, CONTACT)
    site.org.reset_stream(ACCOUNT)
    site.org.publish(ACCOUNT, 5)
    site.org.publish(CONTACT, 5)
    for _ in range(2):
        report = site.capture(ACCOUNT, CONTACT, seconds=1.2, CDC_ON_REPLAY_EXPIRED="stop")
        assert report.outcome == "failed"
        [message] = messages_of(report)
        assert "CDC_ON_REPLAY_EXPIRED is stop" in message
    assert len(gaps(site)) == 1
    assert len(generations(site)) == 2  # each channel's first: a stop opens none
    assert_landed_once(site.org, site.log, CONTACT)

    report = site.capture(ACCOUNT, CONTACT, seconds=1.2)
    assert report.outcome == "degraded"
    assert site.log.lines(ACCOUNT, generation=2) == site.org.deliveries(ACCOUNT)[5:]
    assert site.capture(ACCOUNT, CONTACT).outcome == "ok"
    assert len(gaps(site)) == 1


def test_tip_goes_on_with_what_comes_after_the_gap(site: Site) -> None:
    site.org.publish(ACCOUNT, 5)
    site.capture(ACCOUNT)
    site.org.reset_stream(ACCOUNT)
    site.org.publish(ACCOUNT, 5, age_s=HOUR)
    report = site.capture(ACCOUNT, seconds=1.5, CDC_ON_REPLAY_EXPIRED="tip")
    assert report.outcome == "degraded"
    site.org.publish(ACCOUNT, 2)
    assert site.capture(ACCOUNT, CDC_ON_REPLAY_EXPIRED="tip").outcome == "ok"
    assert site.log.lines(ACCOUNT, generation=2) == site.org.deliveries(ACCOUNT)[10:]
    assert [gap["start"] for gap in gaps(site).values()] == ["-1"]


# --- a quiet channel -------------------------------------------------------------------------------------------------


def test_a_purged_id_of_a_quiet_channel_is_no_gap_where_no_record_changed(site: Site) -> None:
    silent_for(site, 80)
    report = site.capture(ACCOUNT, seconds=2)
    assert report.outcome == "ok", report.summary()
    assert [fields["channel"] for fields in site.said.named("channel.quiet")] == [ACCOUNT]
    assert gaps(site) == {}
    ids = site.org.publish(ACCOUNT, 4)
    report = site.capture(ACCOUNT, seconds=1.5)
    assert (report.outcome, report.channels[ACCOUNT].replay_id) == ("ok", str(ids[-1])), report.summary()
    assert len(generations(site)) == 1
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_a_quiet_channel_is_proved_once_and_not_again_in_every_run(site: Site) -> None:
    silent_for(site, 80)
    site.capture(ACCOUNT, seconds=2)
    asked, served = questions(site), site.org.stats()["eventsServed"]
    for _ in range(2):
        report = site.capture(ACCOUNT)
        assert report.outcome == "ok", report.summary()
    assert questions(site) == asked
    assert site.org.stats()["eventsServed"] == served
    assert gaps(site) == {}


def test_an_event_that_waits_on_a_quiet_channel_is_landed_in_the_run_that_proves_it(site: Site) -> None:
    silent_for(site, 80)
    site.org.publish(ACCOUNT, 4)
    report = site.capture(ACCOUNT, seconds=2)
    assert (report.outcome, report.channels[ACCOUNT].events) == ("ok", 4), report.summary()
    assert gaps(site) == {}
    assert_landed_once(site.org, site.log, ACCOUNT)


@pytest.mark.parametrize("what", ["a record changed silently", "a record was deleted silently", "REST is denied"])
def test_a_purged_id_is_an_unproven_gap_once_where(site: Site, what: str) -> None:
    silent_for(site, 80)
    if what == "REST is denied":
        site.org.knobs(rest_denied="API_DISABLED_FOR_ORG")
    else:
        site.org.change_record("Account", "update" if "changed" in what else "delete", age_s=40 * HOUR)
    site.org.publish(ACCOUNT, 4, kinds=["CREATE"])
    report = site.capture(ACCOUNT, seconds=2)
    assert report.outcome == "degraded", report.summary()
    [gap] = gaps(site).values()
    assert gap["cause"] == "unproven"
    assert any("unproven" in message for message in messages_of(report))
    for _ in range(2):
        site.org.publish(ACCOUNT, 1)
        report = site.capture(ACCOUNT, seconds=1.2)
        assert report.outcome == "ok", report.summary()
    assert len(gaps(site)) == 1
    assert site.log.lines(ACCOUNT) == site.org.deliveries(ACCOUNT)


def test_an_unproven_gap_on_a_channel_that_stays_silent_is_not_opened_again(site: Site) -> None:
    silent_for(site, 80)
    site.org.knobs(rest_denied="API_DISABLED_FOR_ORG")
    outcomes = [site.capture(ACCOUNT, seconds=2).outcome for _ in range(3)]
    assert outcomes == ["degraded", "ok", "ok"]
    assert len(gaps(site)) == 1


def test_what_an_unproven_gap_has_told_is_no_news_to_the_check_of_silence(site: Site) -> None:
    """A record changed without an event: the gap says so once, and the channel is then as quiet as its org."""
    silent_for(site, 80)
    site.org.change_record("Account", "update", age_s=40 * HOUR)
    outcomes = [site.capture(ACCOUNT, seconds=2).outcome for _ in range(3)]
    assert outcomes == ["degraded", "ok", "ok"]
    assert [gap["cause"] for gap in gaps(site).values()] == ["unproven"]


def questions(site: Site) -> dict[str, int]:
    """What the org was asked through REST about records; its limits are read beside."""
    asked: dict[str, int] = site.org.stats()["rest"]
    return {path: count for path, count in asked.items() if "/limits" not in path}


def test_purged_while_nobody_was_there_is_an_outage_at_once(site: Site) -> None:
    site.org.publish(ACCOUNT, 3)
    assert site.capture(ACCOUNT).outcome == "ok"
    site.org.advance_clock(80 * HOUR)
    site.org.publish(ACCOUNT, 4)
    report = site.capture(ACCOUNT, seconds=1.5)
    assert report.outcome == "degraded", report.summary()
    [gap] = gaps(site).values()
    assert (gap["cause"], gap["start"]) == ("outage", "-2")
    assert gap["since"] < gap["until"]
    assert questions(site) == {}
    report = site.capture(ACCOUNT)
    assert report.outcome == "ok"
    assert site.log.lines(ACCOUNT) == site.org.deliveries(ACCOUNT)


def test_an_outage_of_a_channel_that_never_landed_anything_is_a_gap_too(site: Site) -> None:
    assert site.capture(ACCOUNT, CDC_START="tip").outcome == "ok"
    site.org.advance_clock(80 * HOUR)
    report = site.capture(ACCOUNT, CDC_START="tip")
    assert report.outcome == "degraded", report.summary()
    [gap] = gaps(site).values()
    assert gap["cause"] == "outage"
    assert [site.capture(ACCOUNT, CDC_START="tip").outcome for _ in range(2)] == ["ok", "ok"]
    assert len(gaps(site)) == 1


def test_a_channel_that_never_had_an_event_stays_ok_for_as_long_as_somebody_listens(site: Site) -> None:
    for _ in range(3):
        assert site.capture(ACCOUNT, CDC_START="tip").outcome == "ok"
        site.org.advance_clock(60 * HOUR)
    site.org.publish(ACCOUNT, 2)
    assert site.capture(ACCOUNT, CDC_START="tip").outcome == "ok"
    assert gaps(site) == {}
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_a_platform_event_is_kept_for_a_day_and_cannot_be_proved(site: Site) -> None:
    site.org.knobs(retention_hours=24)
    site.org.publish(ORDER, 3)
    assert site.capture(ORDER).outcome == "ok"
    assert_landed_once(site.org, site.log, ORDER)
    for _ in range(2):
        site.org.advance_clock(15 * HOUR)
        report: RunReport = site.capture(ORDER, seconds=2)
    assert report.outcome == "degraded", report.summary()
    [gap] = gaps(site).values()
    assert gap["cause"] == "unproven"
    site.org.publish(ORDER, 3)
    assert site.capture(ORDER).outcome == "ok"
    assert_landed_once(site.org, site.log, ORDER)


def test_the_multi_entity_channel_is_proved_by_all_its_members(site: Site) -> None:
    channel = "/data/Sales__chn"
    site.org.publish(channel, 3)
    site.capture(channel)
    site.org.advance_clock(60 * HOUR)
    site.capture(channel)
    site.org.advance_clock(20 * HOUR)
    report = site.capture(channel, seconds=4)  # many questions
    assert report.outcome == "ok", report.summary()
    assert gaps(site) == {}
    assert any("Opportunity" in path for path in site.org.stats()["rest"])
