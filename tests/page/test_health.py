"""The verdict: when all is well, when someone should look, when capture fails, and what is at risk until when."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import msgspec
import pytest

from cdc.errors import CdcError, SettingsInvalid
from cdc.health import Verdict, expected_since, judge
from cdc.layout import Reading, RunRecord
from cdc.overview import ChannelState, GroupState, Overview
from tests.page.scenes import CHANNELS, NOW, ago, channel, channel_run, gap, healthy, run, troubled, verdict_on

pytestmark = pytest.mark.pure

ACCOUNT, PLATFORM = CHANNELS[0], CHANNELS[-1]


def verdict(record: RunRecord | None, *states: ChannelState, **group: Any) -> Verdict:
    """The verdict on one group."""
    return verdict_on(Overview(NOW, (GroupState("capture1", record, states, **group),)))


def run_ended(finished: datetime, **more: Any) -> RunRecord:
    return run("capture1", [ACCOUNT], started=finished - timedelta(minutes=4), finished=finished, **more)


def test_all_is_well_after_an_ok_run_and_the_risk_is_what_follows_now() -> None:
    found = verdict(run("capture1", [ACCOUNT]), channel(ACCOUNT))
    assert (found.level, found.headline, found.findings) == ("well", "All well", ())
    assert found.risk is not None
    assert found.risk.until - found.risk.since == timedelta(hours=72)
    assert found.risk.until > NOW + timedelta(hours=71.9)


def test_the_channel_that_runs_out_first_is_the_one_at_risk() -> None:
    found = verdict(run("capture1", [ACCOUNT, PLATFORM]), channel(ACCOUNT), channel(PLATFORM))
    assert found.risk is not None
    assert found.risk.channel == PLATFORM  # kept for 24 hours only
    assert NOW + timedelta(hours=23.9) < found.risk.until <= NOW + timedelta(hours=24)


def test_of_what_fails_the_first_to_run_out_is_at_risk_and_not_what_is_well() -> None:
    well = GroupState("capture1", run("capture1", [PLATFORM]), (channel(PLATFORM),))
    late = [channel(name, timedelta(hours=hours), polled=None) for hours, name in enumerate(CHANNELS[:3], 1)]
    failed = GroupState("capture2", run("capture2", CHANNELS[:3], "failed"), tuple(late))
    risk = verdict_on(Overview(NOW, (well, failed))).risk
    assert risk is not None
    assert (risk.channel, risk.others) == (CHANNELS[2], 2)
    unknown = GroupState("capture2", None, (ChannelState(ACCOUNT),))
    assert verdict_on(Overview(NOW, (well, unknown))).risk is None


@pytest.mark.parametrize(
    ("record", "level", "headline"),
    [
        (None, "failing", "Failing: capture1 has no run on record"),
        (run("capture1", [ACCOUNT], "failed"), "failing", "Failing: capture1 failed in its last run"),
        (run("capture1", [ACCOUNT], "degraded"), "look", "Look: capture1 was degraded in its last run"),
        (
            run("capture1", [ACCOUNT], "failed", is_under_way=True),
            "failing",
            "Failing: capture1 is failing in this run",
        ),
        (run("capture1", [ACCOUNT], "degraded", is_under_way=True), "look", "Look: capture1 is degraded in this run"),
        (run_ended(ago(minutes=16)), "failing", "Failing: capture1 has ended no run for 16 min"),
        (
            run_ended(ago(minutes=16), is_under_way=True),
            "failing",
            "Failing: capture1 gave no word of its run for 16 min",
        ),
        (run_ended(ago(minutes=14)), "well", "All well"),
    ],
)
def test_the_last_run_decides(record: RunRecord | None, level: str, headline: str) -> None:
    found = verdict(record)
    assert (found.level, found.headline) == (level, headline)


def test_a_record_that_cannot_be_read_proves_nothing() -> None:
    assert verdict(None, is_unreadable=True).headline == "Failing: capture1 has a run record that cannot be read"


def test_each_error_of_the_last_run_comes_with_its_next_step() -> None:
    record = run("capture1", [], "failed", errors=("a", "b"), next_steps=("do c", "do d"))
    [finding] = verdict(record).findings
    assert [(detail.text, detail.next_step) for detail in finding.details] == [("a", "do c"), ("b", "do d")]
    older = msgspec.structs.replace(record, next_steps=())
    [finding] = verdict(older).findings
    assert [(detail.text, detail.next_step) for detail in finding.details] == [("a", ""), ("b", "")]


@pytest.mark.parametrize(
    ("schedule", "seconds", "expected"),
    [
        ("0 */5 * * * *", 260, ago(minutes=15)),
        ("0 */15 * * * *", 260, ago(minutes=20, seconds=12)),  # that of 17:00 may be under way still
        ("0 0 * * * *", 260, NOW.replace(hour=16, minute=0, second=0)),  # that of 17:00 may have 23 s left
        ("0 0 3 * * *", 260, NOW.replace(hour=3, minute=0, second=0)),
        ("0 */5 * * * *", 3600, NOW.replace(hour=16, minute=0, second=0)),
        ("nonsense", 260, ago(minutes=15)),
    ],
)
def test_a_run_is_expected_as_schedule_and_length_imply_and_never_sooner_than_15_minutes(
    schedule: str, seconds: float, expected: datetime
) -> None:
    found = expected_since(schedule, seconds, NOW)
    assert found <= ago(minutes=15)
    assert found == min(expected, ago(minutes=15))


def test_a_daily_run_is_recent_all_day_and_missed_soon_after_it_was_due() -> None:
    ended = NOW.replace(hour=3, minute=4, second=20)
    seen = Overview(NOW, (GroupState("capture1", run_ended(ended), ()),))
    assert judge(seen, expected_since("0 0 3 * * *", 260, NOW)).level == "well"
    tomorrow = NOW.replace(day=27, hour=3, minute=16)
    assert judge(seen, expected_since("0 0 3 * * *", 260, tomorrow)).level == "failing"


@pytest.mark.parametrize(
    ("name", "hours", "level"),
    [(ACCOUNT, 22, "well"), (ACCOUNT, 26, "look"), (ACCOUNT, 49, "failing"), (ACCOUNT, 80, "failing"),
     (PLATFORM, 7, "well"), (PLATFORM, 9, "look"), (PLATFORM, 17, "failing"), (PLATFORM, 25, "failing")],
)  # fmt: skip
def test_retention_is_judged_by_the_share_that_is_left(name: str, hours: float, level: str) -> None:
    found = verdict(run("capture1", [name]), channel(name, timedelta(hours=hours), polled=None))
    assert found.level_of(name) == level


def test_past_the_window_events_may_be_lost() -> None:
    found = verdict(run("capture1", [ACCOUNT]), channel(ACCOUNT, timedelta(hours=80), polled=None))
    assert found.headline == f"Failing: {ACCOUNT} may have lost events already"


def test_a_silent_channel_is_failing_though_its_run_is_only_degraded() -> None:
    record = run("capture1", [ACCOUNT], "degraded", channels={ACCOUNT: channel_run(1, silent_since=ago(hours=3))})
    found = verdict(record, channel(ACCOUNT))
    assert found.headline == f"Failing: {ACCOUNT} is silent though its records change, and 1 more"
    assert "CDC_RUN_SECONDS" in found.findings[0].details[0].next_step


def test_an_open_gap_is_to_be_looked_at_with_its_interval_and_cause() -> None:
    found = verdict(run("capture1", [ACCOUNT]), channel(ACCOUNT, gaps=(gap(ACCOUNT), gap(ACCOUNT, 3, "outage"))))
    assert found.headline == f"Look: {ACCOUNT} may lack events"
    first, second = found.findings[0].details
    assert first.text == (
        "Between 10:05 and 12:05 UTC; replay-refused, generation 2, record gaps/data/AccountChangeEvent/0002.json."
    )
    assert "outage" in second.text


@pytest.mark.parametrize(("remaining", "level"), [(10_000, "well"), (9_999, "look"), (0, "look"), (-3, "look")])
def test_an_allocation_above_80_percent_is_to_be_looked_at(remaining: int, level: str) -> None:
    readings = (Reading(read=ago(minutes=4), max=50_000, remaining=remaining),)
    assert verdict(run("capture1", [ACCOUNT], allocation=readings)).level == level


def test_an_allocation_that_goes_towards_its_end_is_to_be_looked_at_before_it_is_used() -> None:
    readings = tuple(Reading(read=ago(minutes=5 * back), max=1_000, remaining=500 + 10 * back) for back in range(13))
    found = verdict(run("capture1", [ACCOUNT], allocation=readings))
    assert found.headline == "Look: the event delivery allocation is going towards 326 %"


def test_the_newest_reading_of_any_group_counts() -> None:
    old, new = (Reading(read=ago(minutes=minutes), max=100, remaining=left) for minutes, left in ((9, 50), (3, 5)))
    groups = [
        GroupState(name, run(name, [], allocation=(each,)), ()) for name, each in (("capture1", new), ("capture2", old))
    ]
    assert verdict_on(Overview(NOW, tuple(groups))).headline == "Look: 95 % of the event delivery allocation is used"


def test_settings_that_cannot_be_used_are_all_named_with_one_next_step() -> None:
    found = verdict_on(Overview(NOW, error=SettingsInvalid(["A: missing", "B: wrong"])))
    assert found.headline == "Failing: the settings cannot be used"
    assert [detail.text for detail in found.findings[0].details] == ["A: missing", "B: wrong", ""]
    assert [bool(detail.next_step) for detail in found.findings[0].details] == [False, False, True]


def test_a_channel_that_cannot_be_read_and_a_warning_are_to_be_looked_at() -> None:
    broken = ChannelState(ACCOUNT, error=CdcError("reading x: denied", hint="give the role"))
    warned = channel(PLATFORM, warnings=("the checkpoint cannot be read",))
    found = verdict(run("capture1", [ACCOUNT, PLATFORM]), broken, warned)
    assert {(each.level, each.headline) for each in found.findings} == {
        ("look", f"{ACCOUNT} cannot be read"),
        ("look", f"{PLATFORM} has a record that cannot be read"),
    }


@pytest.mark.parametrize("scene", [healthy, troubled])
def test_the_worst_comes_first(scene: Callable[[int], Overview]) -> None:
    levels = [finding.level for finding in verdict_on(scene(20)).findings]
    assert levels == sorted(levels)  # "failing" before "look", as it happens
