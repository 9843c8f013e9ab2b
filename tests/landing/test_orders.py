"""An operator's orders, step by step beside runs that capture: what is written, and what wins where two meet."""

from __future__ import annotations

import json
from datetime import timedelta
from itertools import pairwise

import pytest

from cdc import layout
from cdc.continuity import Policy
from cdc.errors import LatePut, OrderRefused
from cdc.events import EARLIEST, TIP
from cdc.orders import Orders, placed
from tests.faulty_store import Fault, on
from tests.landing.world import CHANNEL, ORG_ID, Twist, World, Writer

EARLIEST_POLICY = Policy(start=EARLIEST)


def world_with_run(events: int = 2, *, now: str = "2026-11-23T23:58:00+00:00") -> tuple[World, Writer]:
    """A log, a minute or two before midnight, and a run with a session that has landed all of it."""
    world = World(policy=EARLIEST_POLICY, now=now)
    publish(world, events)
    writer = world.open()
    assert world.session(writer, events)
    return world, writer


def publish(world: World, count: int) -> None:
    for _ in range(count):
        world.org.publish()
        world.org.now += timedelta(seconds=5)


def finish(world: World) -> None:
    """What is late arrives, and quiet runs land what is left; then every promise holds."""
    world.release_orders()
    for writer in world.writers:
        world.release(writer)
    world.capture(EARLIEST_POLICY)
    world.check()
    world.check_complete()


def generations(world: World) -> list[str]:
    return [segment.metadata["generation"] for segment in world.segments()]


def test_a_run_goes_on_in_its_generation_until_it_derives_again_and_then_takes_up_the_new_one() -> None:
    world, writer = world_with_run()
    assert world.rewind(EARLIEST)
    publish(world, 2)
    assert world.poll(writer, 2)
    assert generations(world) == ["1", "1"]
    publish(world, 1)
    assert not world.poll(writer, 1, on(Fault.UNAVAILABLE, verb="create"))  # any error drops the position
    assert world.session(writer, 5)
    assert generations(world) == ["1", "1", "2"]
    assert world.places() == [0, 1, 2, 3, 0, 1, 2, 3, 4]
    finish(world)


@pytest.mark.parametrize("nth", range(1, 12))
def test_an_old_and_a_new_generation_never_give_one_number_two_names_at_midnight(nth: int) -> None:
    """A run turns to a new date between the steps of another run that begins the rewound generation."""
    world, old = world_with_run()
    assert world.rewind(EARLIEST)
    new = world.open()
    world.connect(new)
    world.org.now += timedelta(minutes=5)
    publish(world, 1)
    world.poll(new, 1, Twist(nth, intrusion=lambda: world.poll(old, 1)))
    world.check()
    finish(world)


@pytest.mark.parametrize("nth", range(1, 12))
def test_a_redrive_and_a_turn_of_the_date_agree_on_a_name(nth: int) -> None:
    world, writer = world_with_run()
    world.keep_stray()
    world.org.now += timedelta(minutes=5)
    publish(world, 1)
    assert world.redrive(world.strays[0], Twist(nth, intrusion=lambda: world.poll(writer, 1)))
    world.session(writer, 1)
    world.check()
    finish(world)
    assert sum("redriven" in segment.metadata for segment in world.segments()) == 1


def test_a_run_that_finds_its_number_redriven_derives_again_and_is_not_fenced() -> None:
    world, writer = world_with_run()
    world.keep_stray()
    assert world.redrive(world.strays[0])
    publish(world, 1)
    assert not world.poll(writer, 1)
    assert [type(error) for error in writer.errors] == [LatePut]
    assert not writer.is_over
    assert world.session(writer, 1)
    assert world.places() == [0, 1, 2]
    finish(world)


@pytest.mark.parametrize("fault", [Fault.KILLED_BEFORE, Fault.KILLED_AFTER, Fault.LOST_ANSWER, Fault.UNAVAILABLE])
@pytest.mark.parametrize("nth", range(1, 16))
def test_a_redrive_that_breaks_off_anywhere_lands_its_message_once_when_it_is_repeated(fault: Fault, nth: int) -> None:
    world, writer = world_with_run()
    world.keep_stray()
    world.redrive(world.strays[0], Twist(nth, fault))
    publish(world, 1)
    world.session(writer, 1)
    world.redrive(world.strays[0])
    world.redrive(world.strays[0])
    assert [each.metadata["sha256"] for each in world.segments()].count(redriven_hash(world)) == 1
    finish(world)


def redriven_hash(world: World) -> str:
    [digest] = {each.metadata["sha256"] for each in world.segments() if "redriven" in each.metadata}
    return digest


@pytest.mark.parametrize("nth", range(1, 14))
def test_two_redrives_of_one_message_at_once_land_it_once(nth: int) -> None:
    world, _ = world_with_run()
    world.keep_stray()
    world.redrive(world.strays[0], Twist(nth, intrusion=lambda: world.redrive(world.strays[0])))
    assert sum("redriven" in segment.metadata for segment in world.segments()) == 1
    finish(world)


def test_a_redrive_that_broke_off_long_ago_is_not_guessed_at() -> None:
    world, _ = world_with_run()
    world.keep_stray()
    assert not world.redrive(world.strays[0], on(Fault.UNAVAILABLE, verb="create"))
    world.org.now += timedelta(hours=73)
    with pytest.raises(OrderRefused, match="broke off"):
        redrive(world)


def test_nothing_is_redriven_into_a_generation_without_an_event() -> None:
    world, _ = world_with_run()
    world.keep_stray()
    world.rewind(EARLIEST)
    with pytest.raises(OrderRefused, match="nothing is landed in its newest generation yet"):
        redrive(world)


def redrive(world: World) -> None:
    orders = Orders(world.events, world.state, run_id="operator", now=lambda: world.org.now, fetch_token=_no_token)
    kept, body = orders.find(world.strays[0])
    orders.redrive(kept, placed(kept, body, [CHANNEL]))


def _no_token(timeout_s: float) -> object:
    raise AssertionError("a re-drive asks Salesforce for nothing")


def test_of_two_rewinds_at_once_both_open_a_generation_one_after_the_other() -> None:
    for nth in range(1, 12):
        world, _ = world_with_run()
        assert world.rewind(TIP, Twist(nth, intrusion=lambda world=world: world.rewind(EARLIEST)))
        records = world.records(f"generations{CHANNEL}/")
        assert [record["number"] for record in records] == [1, 2, 3]
        assert {record["runId"] for record in records[1:]} == {"operator-1", "operator-2"}
        finish(world)


@pytest.mark.parametrize("fault", [Fault.KILLED_AFTER, Fault.LOST_ANSWER, Fault.LATE])
@pytest.mark.parametrize("nth", range(1, 16))
def test_a_rewind_that_breaks_off_anywhere_leaves_a_log_that_goes_on(fault: Fault, nth: int) -> None:
    world, writer = world_with_run()
    world.rewind(TIP, Twist(nth, fault))
    publish(world, 2)
    world.poll(writer, 2)
    finish(world)


def test_a_rewind_beside_a_log_that_grows_all_the_time_needs_no_rest() -> None:
    world, writer = world_with_run()
    publish(world, 30)
    places = pairwise(range(32))

    def grow(call: object) -> None:
        if next(places, None):
            world.poll(writer, 1)

    assert world.rewind(EARLIEST, grow)
    assert world.records(f"generations{CHANNEL}/")[-1]["cause"] == "rewind"
    finish(world)


def test_a_late_write_of_the_generation_before_is_not_taken_for_one_of_the_new() -> None:
    """The same event, the same run, the same number: but the segment that arrived says generation 1."""
    world = World(policy=EARLIEST_POLICY)
    publish(world, 1)
    writer = world.open()
    world.connect(writer)
    assert world.rewind(EARLIEST)
    assert not world.poll(writer, 1, on(Fault.LATE, verb="create"))
    world.connect(writer)
    world.release(writer)
    publish(world, 1)
    world.session(writer, 2)
    world.session(writer, 2)
    assert generations(world) == ["1", "2"]
    assert world.places() == [0, 0, 1]
    finish(world)


@pytest.mark.parametrize(
    ("start", "hours", "has_gap"), [(EARLIEST, 1, False), (EARLIEST, 80, True), (TIP, 1, True), ("1", 1, True)]
)
def test_a_gap_is_opened_where_events_may_lie_between(start: str, hours: int, has_gap: bool) -> None:
    world, writer = world_with_run()
    world.end(writer)
    world.org.now += timedelta(hours=hours)
    assert world.rewind(start)
    gaps = world.records(f"gaps{CHANNEL}/")
    assert [gap["cause"] for gap in gaps] == ["rewind"] * has_gap
    for gap in gaps:
        assert (gap["orgId"], gap["number"], gap["start"]) == (ORG_ID, 2, start)
        assert gap["since"] < gap["until"]


def test_quarantined_names_are_read_as_they_are_written() -> None:
    raw = json.dumps({"a": 1}).encode()
    for channel, expected in ((CHANNEL, CHANNEL), (None, None), ("/no channel", None)):
        name = layout.quarantine_name(channel, raw)
        read = layout.read_quarantine_name(name)
        assert read is not None
        assert (read.channel, read.digest, read.name) == (expected, layout.sha256(raw), name)
        assert layout.read_quarantine_name(layout.redriving_name(name)) is None
