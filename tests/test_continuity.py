"""Where the next subscribe starts, and when a gap is opened: every rule, every branch."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc.continuity import (
    FIRST_START,
    OUTAGE,
    REPLAY_REFUSED,
    TIP_MARGIN,
    UNPROVEN,
    Opening,
    Policy,
    Position,
    Start,
    choose_start,
    retention_of,
)
from cdc.events import EARLIEST, TIP
from cdc.layout import Generation

pytestmark = pytest.mark.pure

CHANNEL = "/data/AccountChangeEvent"
NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
YOUNG, OLD = NOW - timedelta(hours=70, minutes=59), NOW - timedelta(hours=71)


def generation(start: str, t0: datetime = YOUNG, number: int = 1) -> Generation:
    return Generation(
        channel=CHANNEL,
        org_id="00D",
        run_id="run-a",
        number=number,
        cause=FIRST_START,
        start=start,
        t0=t0,
        after_segment=0,
        partition=t0.date(),
        user_id="005",
    )


def empty(start: str = EARLIEST, t0: datetime = YOUNG, **changes: Any) -> Position:
    """A channel whose newest generation has landed nothing yet."""
    return Position(generation=generation(start, t0), **changes)


def landed(last_time: datetime | None = YOUNG, **changes: Any) -> Position:
    """A channel that has landed an event at `last_time`."""
    return Position(
        segment=7,
        partition=NOW.date(),
        replay_id="42",
        last_replay_id="42",
        last_time=last_time,
        generation=generation(EARLIEST),
        **changes,
    )


def never() -> datetime | None:
    raise AssertionError("the clean polls were read although they do not matter")


def choose(
    position: Position,
    *,
    channel: str = CHANNEL,
    is_refused: bool = False,
    is_unproven: bool = False,
    policy: Policy | None = None,
    polled: datetime | Callable[[], datetime | None] | None = never,
) -> Start | Opening:
    return choose_start(
        channel,
        position,
        now=NOW,
        is_refused=is_refused,
        is_unproven=is_unproven,
        policy=policy or Policy(),
        last_clean_poll=polled if callable(polled) else lambda: polled,
    )


# --- the first start -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [TIP, EARLIEST])
@pytest.mark.parametrize("is_refused", [False, True])
@pytest.mark.parametrize("is_unproven", [False, True])
def test_a_channel_without_a_generation_starts_by_policy_and_without_a_gap(
    start: str, is_refused: bool, is_unproven: bool
) -> None:
    found = choose(Position(), is_refused=is_refused, is_unproven=is_unproven, policy=Policy(start=start))
    assert found == Opening(FIRST_START, start, is_gap=False)


# --- nothing landed yet ----------------------------------------------------------------------------------------------


def test_an_earliest_start_that_landed_nothing_asks_for_the_earliest_again() -> None:
    assert choose(empty(EARLIEST)) == Start(EARLIEST)


def test_a_tip_start_that_landed_nothing_asks_for_the_earliest_and_skips_what_lay_before_the_tip() -> None:
    assert choose(empty(TIP)) == Start(EARLIEST, skip_before=YOUNG - timedelta(minutes=5))


def test_a_tip_start_goes_on_behind_the_last_skipped_delivery() -> None:
    assert choose(empty(TIP, skipped_to="41")) == Start("41", skip_before=YOUNG - TIP_MARGIN)


def test_a_refused_skipped_delivery_is_forgotten_and_costs_a_replay() -> None:
    assert choose(empty(TIP, skipped_to="41"), is_refused=True) == Start(EARLIEST, skip_before=YOUNG - TIP_MARGIN)


def test_an_ordered_start_begins_at_its_replay_id() -> None:
    assert choose(empty("17", t0=OLD)) == Start("17")


def test_a_refused_ordered_start_is_a_gap() -> None:
    found = choose(empty("17", last_time=OLD), is_refused=True, policy=Policy(on_replay_expired=TIP))
    assert found == Opening(REPLAY_REFUSED, TIP, is_gap=True, since=OLD)


@pytest.mark.parametrize("start", [TIP, EARLIEST])
@pytest.mark.parametrize(
    ("t0", "polled", "is_outage"),
    [
        pytest.param(YOUNG, never, False, id="the record is young"),
        pytest.param(OLD, YOUNG, False, id="the last clean poll is young"),
        pytest.param(OLD, OLD, True, id="both are old"),
        pytest.param(OLD, None, True, id="the record is old and the clean polls unknown"),
    ],
)
def test_nobody_listened_for_longer_than_the_window_and_nothing_was_landed(
    start: str, t0: datetime, polled: Any, is_outage: bool
) -> None:
    skip_before = t0 - TIP_MARGIN if start == TIP else None
    expected = Opening(OUTAGE, EARLIEST, is_gap=True, since=OLD) if is_outage else Start(EARLIEST, skip_before)
    assert choose(empty(start, t0), polled=polled) == expected


# --- going on --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("last_time", [YOUNG, OLD, None])
def test_a_position_that_is_not_refused_is_simply_gone_on_from(last_time: datetime | None) -> None:
    assert choose(landed(last_time)) == Start("42")


@pytest.mark.parametrize("on_replay_expired", [EARLIEST, TIP, "stop"])
@pytest.mark.parametrize("last_time", [YOUNG, None, NOW, NOW + timedelta(days=400)])
def test_a_refused_position_younger_than_the_window_is_a_gap(
    last_time: datetime | None, on_replay_expired: str
) -> None:
    found = choose(landed(last_time), is_refused=True, policy=Policy(on_replay_expired=on_replay_expired))
    assert found == Opening(REPLAY_REFUSED, on_replay_expired, is_gap=True, since=last_time)


@pytest.mark.parametrize("polled", [YOUNG, None])
def test_a_refused_position_older_than_the_window_needs_the_orgs_proof(polled: datetime | None) -> None:
    assert choose(landed(OLD), is_refused=True, polled=polled) == Start(EARLIEST, prove_since=OLD)


def test_a_refused_old_position_after_an_outage_is_a_gap_at_once() -> None:
    found = choose(landed(OLD), is_refused=True, polled=OLD, policy=Policy(on_replay_expired="stop"))
    assert found == Opening(OUTAGE, "stop", is_gap=True, since=OLD)


@pytest.mark.parametrize("is_refused", [False, True])
def test_a_young_proof_of_quiet_lets_the_purged_position_start_at_the_earliest(is_refused: bool) -> None:
    assert choose(landed(OLD, quiet_to=YOUNG), is_refused=is_refused) == Start(EARLIEST)


def test_an_old_proof_of_quiet_must_be_renewed_from_where_it_ended() -> None:
    older = OLD - timedelta(days=9)
    assert choose(landed(older, quiet_to=OLD), polled=YOUNG) == Start(EARLIEST, prove_since=OLD)
    assert choose(landed(older, quiet_to=OLD), polled=OLD) == Opening(OUTAGE, EARLIEST, is_gap=True, since=OLD)


def test_a_proof_of_quiet_older_than_the_last_event_does_not_count() -> None:
    assert choose(landed(OLD, quiet_to=OLD - timedelta(hours=1)), polled=YOUNG) == Start(EARLIEST, prove_since=OLD)


# --- unproven --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("on_replay_expired", [EARLIEST, TIP, "stop"])
@pytest.mark.parametrize(("quiet_to", "since"), [(None, OLD), (YOUNG, YOUNG)])
def test_what_the_org_did_not_prove_is_a_gap(
    quiet_to: datetime | None, since: datetime, on_replay_expired: str
) -> None:
    found = choose(
        landed(OLD, quiet_to=quiet_to),
        is_refused=True,
        is_unproven=True,
        policy=Policy(on_replay_expired=on_replay_expired),
    )
    assert found == Opening(UNPROVEN, on_replay_expired, is_gap=True, since=since)


# --- the window ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channel", "hours"),
    [("/data/AccountChangeEvent", 71), ("/data/ChangeEvents", 71), ("/data/X__chn", 71), ("/event/Order__e", 23)],
)
def test_the_window_is_shorter_than_the_retention_by_an_hour(channel: str, hours: int) -> None:
    assert retention_of(channel) == timedelta(hours=hours)


def test_a_platform_events_window_decides_its_refusal() -> None:
    time = NOW - timedelta(hours=24)
    assert choose(landed(time), channel="/event/Order__e", is_refused=True, polled=None) == Start(
        EARLIEST, prove_since=time
    )
    assert isinstance(choose(landed(time), is_refused=True), Opening)


# --- whatever the state ----------------------------------------------------------------------------------------------

times = st.none() | st.sampled_from([NOW, YOUNG, OLD, OLD - timedelta(days=30), NOW + timedelta(days=1)])


@settings(max_examples=60, deadline=None, derandomize=True, database=None)
@given(
    position=st.builds(landed, times, quiet_to=times)
    | st.builds(empty, st.sampled_from([TIP, EARLIEST, "17"]), st.sampled_from([NOW, YOUNG, OLD]), last_time=times)
    | st.just(Position()),
    is_refused=st.booleans(),
    is_unproven=st.booleans(),
    polled=times,
    expired=st.sampled_from([EARLIEST, TIP, "stop"]),
)
def test_continuity_is_never_broken_without_a_gap(
    position: Position, is_refused: bool, is_unproven: bool, polled: datetime | None, expired: str
) -> None:
    policy = Policy(on_replay_expired=expired)
    found = choose(position, is_refused=is_refused, is_unproven=is_unproven, policy=policy, polled=polled)
    if isinstance(found, Opening):
        assert found.is_gap == (position.generation is not None)
        return
    assert found.replay_id != TIP, "the tip is asked for only by whoever writes its record"
    if position.replay_id is not None:
        is_proved = position.quiet_to is not None and NOW - position.quiet_to < retention_of(CHANNEL)
        assert found.replay_id == position.replay_id or is_proved or found.prove_since is not None
    elif found.skip_before is not None:
        assert position.generation is not None
        assert found.skip_before == position.generation.t0 - TIP_MARGIN
