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
from tests.faulty_store import Fault, on
from tests.landing.world import Twist, World, Writer

MAX_WRITERS = 3
LATE_BELOW_TIP_MARGIN = timedelta(minutes=4)

which = st.integers(0, MAX_WRITERS - 1)
faults = st.builds(
    Twist,
    nth=st.sampled_from([1, 1, 1, 2, 2, 3, 4, 5, 6, 7, 8]),
    fault=st.sampled_from([fault for fault in Fault for _ in range(2)]),
)
twists = st.one_of(st.none(), st.none(), st.none(), faults)
deeds = st.sampled_from(["connect"] * 3 + ["prepare", "subscribe", "checkpoint", "lose_answer", "end"])
minutes_between = st.sampled_from([1] * 6 + [5, 11] * 3 + [60, 24 * 60, 50 * 60, 80 * 60])


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

    def writer(self, number: int) -> Writer:
        active = self.world.active
        return active[number % len(active)] if active else self.world.open()

    def other(self, than: Writer, number: int) -> Writer:
        others = [writer for writer in self.world.active if writer is not than]
        return others[number % len(others)] if others else self.world.open()

    @precondition(lambda self: len(self.world.active) < MAX_WRITERS)
    @rule()
    def open(self) -> None:
        self.world.open()

    @rule(number=which, published=st.integers(0, 3), count=st.integers(0, 5), twist=twists)
    def session(self, number: int, published: int, count: int, twist: Twist | None) -> None:
        self.publish(published, 0)
        self.world.session(self.writer(number), count, twist)

    @rule(number=which, published=st.integers(0, 3), count=st.integers(0, 5), again=st.integers(0, 2), twist=twists)
    def poll(self, number: int, published: int, count: int, again: int, twist: Twist | None) -> None:
        self.publish(published, 0)
        self.world.poll(self.writer(number), count, twist, again=again)

    @rule(number=which, deed=deeds, count=st.integers(0, 5), twist=twists)
    def act(self, number: int, deed: str, count: int, twist: Twist | None) -> None:
        self.deed(self.writer(number), deed, count, twist)()

    def deed(self, writer: Writer, deed: str, count: int, twist: Twist | None = None) -> Callable[[], object]:
        world = self.world
        named: dict[str, Callable[[], object]] = {
            "session": lambda: world.session(writer, count, twist),
            "poll": lambda: world.poll(writer, count, twist),
            "connect": lambda: world.connect(writer, twist),
            "prepare": lambda: world.prepare(writer, twist),
            "subscribe": lambda: world.subscribe(writer),
            "checkpoint": lambda: world.checkpoint(writer, twist),
            "lose_answer": lambda: world.lose_answer(writer),
            "end": lambda: world.end(writer, twist),
            "release": lambda: world.release(writer),
        }
        return named[deed]

    @rule(
        number=which,
        deed=st.sampled_from(["session", "poll", "connect", "prepare", "checkpoint"]),
        count=st.integers(1, 5),
        nth=st.integers(1, 8),
        intruder=which,
        intrusion=st.sampled_from(["session", "session", "poll", "prepare", "checkpoint", "release"]),
        intruding=st.integers(1, 5),
    )
    def interleave(
        self, number: int, deed: str, count: int, nth: int, intruder: int, intrusion: str, intruding: int
    ) -> None:
        """Another writer acts, in full, between two storage calls of this one."""
        writer = self.writer(number)
        other = self.other(writer, intruder)
        twist = Twist(nth, intrusion=self.deed(other, intrusion, intruding))
        self.deed(writer, deed, count, twist)()

    # --- the org and the operator ------------------------------------------------------------------------------------

    @rule(number=st.integers(0, 9))
    def release(self, number: int) -> None:
        self.world.release(self.world.writers[number % len(self.world.writers)])

    @rule(number=which, count=st.integers(0, 3), after=st.sampled_from(["session", "connect"]), more=st.integers(0, 3))
    def write_late(self, number: int, count: int, after: str, more: int) -> None:
        """A segment's write is held up, the session lost; the write arrives while the next session is under way."""
        writer, world = self.writer(number), self.world
        self.publish(1, 0)
        world.session(writer, count, on(Fault.LATE, verb="create"))
        self.publish(more, 0)
        if after == "connect":
            world.connect(writer)
        world.release(writer)
        world.session(writer, count + more)

    @rule(count=st.integers(1, 8), late=st.sampled_from([0, 0, 0, 1, 4, 1_600, None]))
    def publish(self, count: int, late: int | None) -> None:
        lateness = None if late is None else timedelta(minutes=late)
        if lateness is not None and TIP in (self.world.policy.start, self.world.policy.on_replay_expired):
            lateness = min(lateness, LATE_BELOW_TIP_MARGIN)  # what is later counts as before the tip
        for _ in range(count):
            self.world.org.publish(late=lateness)
            self.world.org.now += timedelta(seconds=5)

    @rule(minutes=minutes_between)
    def wait(self, minutes: int) -> None:
        self.world.org.now += timedelta(minutes=minutes)
        if minutes > 60:  # no session outlives this, nor a write on its way
            for writer in self.world.writers:
                self.world.release(writer)
                writer.is_over = True

    @rule(
        what=st.sampled_from(
            [
                "purge",
                "expire_segments",
                "reset_stream",
                "delete_checkpoint",
                "garble_checkpoint",
                "rest_fails",
                "rest_works",
            ]
        )
    )
    def befall(self, what: str) -> None:
        """What the org, the operator or a lifecycle rule does to everybody."""
        world = self.world
        if what == "purge":
            world.org.purge()
        elif what == "reset_stream":
            self.reset_stream()
        elif what in ("rest_fails", "rest_works"):
            world.org.can_be_asked = what == "rest_works"
        else:
            {
                "expire_segments": world.expire_segments,
                "delete_checkpoint": world.delete_checkpoint,
                "garble_checkpoint": world.garble_checkpoint,
            }[what]()

    def reset_stream(self) -> None:
        """The org moves: no retained event is left, no replay id is known, every session is over."""
        if not self.world.is_anchored:
            return  # without a position there is no id that the org could refuse: nobody can notice
        self.world.org.floor = self.world.org.count
        for writer in self.world.writers:
            self.world.release(writer)
            writer.lose_session()

    @invariant()
    def promises_hold(self) -> None:
        self.world.check()


IS_LONG = os.environ.get("HYPOTHESIS_PROFILE") == "thousands"
LogMachine.TestCase.settings = settings(
    max_examples=int(os.environ.get("LOG_EXAMPLES", "5000" if IS_LONG else "300")),
    stateful_step_count=int(os.environ.get("LOG_STEPS", "50" if IS_LONG else "40")),
    derandomize=not IS_LONG,
    deadline=None,
    database=None,
    print_blob=False,
    phases=(Phase.generate, Phase.shrink) if IS_LONG else (Phase.generate,),
    suppress_health_check=list(HealthCheck),
)
TestLogMachine = pytest.mark.filterwarnings("error")(LogMachine.TestCase)
