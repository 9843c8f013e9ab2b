"""The log under every order of steps and faults that hypothesis finds: nothing lost, nothing twice, order kept.

`make test` runs the same modest number of examples every time. `HYPOTHESIS_PROFILE=thousands` runs many, new ones each
time; `LOG_EXAMPLES` and `LOG_STEPS` say how many and how long:

    HYPOTHESIS_PROFILE=thousands LOG_EXAMPLES=20000 .venv/bin/python -m pytest tests/landing/test_state_machine.py
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cdc import landing
from cdc.continuity import Policy
from cdc.events import EARLIEST, TIP
from tests.faulty_store import Fault
from tests.landing.world import Twist, World, Writer

MAX_WRITERS = 3
LATE_BELOW_TIP_MARGIN = timedelta(minutes=4)

faults = st.builds(Twist, nth=st.integers(1, 7), fault=st.sampled_from(sorted(Fault, key=lambda fault: fault.name)))
which = st.integers(0, MAX_WRITERS - 1)


class LogMachine(RuleBasedStateMachine):
    """Two or three runs over one channel; every step may meet a fault, or another run between two storage calls."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self._segment_bytes = landing.MAX_SEGMENT_BYTES

    @initialize(
        start=st.sampled_from([TIP, EARLIEST]),
        expired=st.sampled_from([EARLIEST, TIP, "stop"]),
        segment_bytes=st.sampled_from([1, 400, 1_000_000]),
    )
    def begin(self, start: str, expired: str, segment_bytes: int) -> None:
        self.world = World(policy=Policy(start=start, on_replay_expired=expired))
        landing.MAX_SEGMENT_BYTES = segment_bytes
        self.world.open()

    def teardown(self) -> None:
        try:
            self.finish()
        finally:
            landing.MAX_SEGMENT_BYTES = self._segment_bytes

    def finish(self) -> None:
        """The faults stop, what was late arrives: one quiet run lands everything, later ones find nothing to do."""
        world = self.world
        for writer in world.writers:
            world.release(writer)
        world.check()
        policy = Policy(world.policy.start, EARLIEST)
        world.capture(policy)
        world.check()
        world.check_complete()
        world.capture(policy)  # after a tip where nothing came, this one takes what lies within the margin of T0
        before = world.places()
        world.capture(policy)
        world.check()
        assert world.places() == before

    # --- writers -----------------------------------------------------------------------------------------------------

    def writer(self, number: int) -> Writer | None:
        active = self.world.active
        return active[number % len(active)] if active else None

    def other(self, than: Writer, number: int) -> Writer | None:
        others = [writer for writer in self.world.active if writer is not than]
        return others[number % len(others)] if others else None

    @precondition(lambda self: len(self.world.active) < MAX_WRITERS)
    @rule()
    def open(self) -> None:
        self.world.open()

    @rule(number=which, twist=st.none() | faults)
    def prepare(self, number: int, twist: Twist | None) -> None:
        self.with_writer(number, lambda writer: self.world.prepare(writer, twist))

    @rule(number=which)
    def subscribe(self, number: int) -> None:
        self.with_writer(number, self.world.subscribe)

    @rule(number=which, twist=st.none() | faults)
    def connect(self, number: int, twist: Twist | None) -> None:
        self.with_writer(number, lambda writer: self.world.connect(writer, twist))

    @rule(number=which, count=st.integers(0, 6), again=st.integers(0, 2), twist=st.none() | faults)
    def poll(self, number: int, count: int, again: int, twist: Twist | None) -> None:
        self.with_writer(number, lambda writer: self.world.poll(writer, count, twist, again=again))

    @rule(number=which, count=st.integers(0, 6), twist=st.none() | faults)
    def session(self, number: int, count: int, twist: Twist | None) -> None:
        self.with_writer(number, lambda writer: self.world.session(writer, count, twist))

    @rule(number=which, count=st.integers(1, 6))
    def lose_answer(self, number: int, count: int) -> None:
        self.with_writer(number, lambda writer: self.world.lose_answer(writer, count))

    @rule(number=which, twist=st.none() | faults)
    def checkpoint(self, number: int, twist: Twist | None) -> None:
        self.with_writer(number, lambda writer: self.world.checkpoint(writer, twist))

    @rule(number=which, twist=st.none() | faults)
    def end(self, number: int, twist: Twist | None) -> None:
        self.with_writer(number, lambda writer: self.world.end(writer, twist))

    @rule(
        number=which,
        deed=st.sampled_from(["prepare", "connect", "poll", "checkpoint"]),
        count=st.integers(1, 5),
        nth=st.integers(1, 8),
        intruder=which,
        intrusion=st.sampled_from(["prepare", "connect", "poll", "session", "release", "publish"]),
        intruding=st.integers(1, 5),
    )
    def interleave(
        self, number: int, deed: str, count: int, nth: int, intruder: int, intrusion: str, intruding: int
    ) -> None:
        """Another writer acts, in full, between two storage calls of this one."""
        writer = self.writer(number)
        other = self.other(writer, intruder) if writer else None
        if writer is None or other is None:
            return
        world = self.world
        acts: dict[str, Callable[[], object]] = {
            "prepare": lambda: world.prepare(other),
            "connect": lambda: world.connect(other),
            "poll": lambda: world.poll(other, intruding),
            "session": lambda: world.session(other, intruding) and world.checkpoint(other),
            "release": lambda: world.release(other),
            "publish": world.org.publish,
        }
        twist = Twist(nth, intrusion=acts[intrusion])
        deeds: dict[str, Callable[[], object]] = {
            "prepare": lambda: world.prepare(writer, twist),
            "connect": lambda: world.connect(writer, twist),
            "poll": lambda: world.poll(writer, count, twist),
            "checkpoint": lambda: world.checkpoint(writer, twist),
        }
        deeds[deed]()

    @rule(number=st.integers(0, 9))
    def release(self, number: int) -> None:
        self.world.release(self.world.writers[number % len(self.world.writers)])

    # --- the org and the operator ------------------------------------------------------------------------------------

    @rule(count=st.integers(1, 8), late=st.sampled_from([0, 0, 0, 1, 4, 1_600, None]))
    def publish(self, count: int, late: int | None) -> None:
        lateness = None if late is None else timedelta(minutes=late)
        if lateness is not None and TIP in (self.world.policy.start, self.world.policy.on_replay_expired):
            lateness = min(lateness, LATE_BELOW_TIP_MARGIN)  # what is later counts as before the tip
        for _ in range(count):
            self.world.org.publish(late=lateness)
            self.world.org.now += timedelta(seconds=5)

    @rule(minutes=st.sampled_from([1, 5, 11, 60, 24 * 60, 50 * 60, 80 * 60]))
    def wait(self, minutes: int) -> None:
        self.world.org.now += timedelta(minutes=minutes)
        if minutes > 60:  # no session outlives this, nor a write on its way
            for writer in self.world.writers:
                self.world.release(writer)
                writer.is_over = True

    @rule()
    def purge(self) -> None:
        self.world.org.purge()

    @rule()
    def expire_segments(self) -> None:
        self.world.expire_segments()

    @rule()
    def reset_stream(self) -> None:
        """The org moves: no retained event is left, no replay id is known, every session is over."""
        if not self.world.is_anchored:
            return  # without a position there is no id that the org could refuse: nobody can notice
        self.world.org.floor = self.world.org.count
        for writer in self.world.writers:
            self.world.release(writer)
            writer.lose_session()

    @rule(can_be_asked=st.booleans())
    def let_rest_fail(self, can_be_asked: bool) -> None:
        self.world.org.can_be_asked = can_be_asked

    @rule()
    def delete_checkpoint(self) -> None:
        self.world.delete_checkpoint()

    @rule()
    def garble_checkpoint(self) -> None:
        self.world.garble_checkpoint()

    @invariant()
    def promises_hold(self) -> None:
        self.world.check()

    def with_writer(self, number: int, act: Callable[[Writer], object]) -> None:
        writer = self.writer(number)
        if writer is not None:
            act(writer)


IS_LONG = os.environ.get("HYPOTHESIS_PROFILE") == "thousands"
LogMachine.TestCase.settings = settings(
    max_examples=int(os.environ.get("LOG_EXAMPLES", "5000" if IS_LONG else "150")),
    stateful_step_count=int(os.environ.get("LOG_STEPS", "50" if IS_LONG else "40")),
    derandomize=not IS_LONG,
    deadline=None,
    database=None,
    print_blob=False,
    phases=(Phase.generate, Phase.shrink) if IS_LONG else (Phase.generate,),
    suppress_health_check=list(HealthCheck),
)
TestLogMachine = pytest.mark.filterwarnings("error")(LogMachine.TestCase)
