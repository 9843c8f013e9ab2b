"""The log under every order of steps and faults that hypothesis finds: nothing lost, nothing twice, order kept.

`make test` runs the same modest number of examples every time. `HYPOTHESIS_PROFILE=thousands` runs many, new ones each
time; `LOG_EXAMPLES` and `LOG_STEPS` say how many and how long:

    HYPOTHESIS_PROFILE=thousands LOG_EXAMPLES=20000 .venv/bin/python -m pytest tests/landing/test_state_machine.py
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from cdc import landing
from cdc.continuity import Policy
from cdc.events import EARLIEST, TIP
from tests.faulty_store import Fault, on
from tests.landing.world import CHANNEL, LIFECYCLE, RETAINED, Account, Twist, World, Writer

CHANNELS = (CHANNEL, "/data/Account_ChangeEvent")
MIDNIGHT_NEAR = datetime(2026, 11, 23, 23, 50, tzinfo=UTC)
MAX_WRITERS = 3
LATE_BELOW_TIP_MARGIN = timedelta(minutes=4)

where = st.sampled_from([0, 0, 0, 1])  # mostly in one channel, where the steps then meet
which = st.integers(0, MAX_WRITERS - 1)
faults = st.builds(
    Twist,
    nth=st.sampled_from([1, 1, 1, 2, 2, 3, 4, 5, 6, 7, 8]),
    fault=st.sampled_from([fault for fault in Fault for _ in range(2)]),
)
twists = st.one_of(st.none(), st.none(), st.none(), faults)
deeds = st.sampled_from(["connect"] * 3 + ["prepare", "subscribe", "checkpoint", "lose_answer", "end"])
minutes_between = st.sampled_from([1] * 6 + [5, 11] * 3 + [60, 24 * 60, 50 * 60, 80 * 60, 170 * 60])


class LogMachine(RuleBasedStateMachine):
    """Two or three runs over two channels; every step may meet a fault, or another run between two storage calls."""

    def __init__(self) -> None:
        super().__init__()
        self.worlds = [World()]
        self._is_skewed = False
        self._segment_bytes = landing.MAX_SEGMENT_BYTES

    @initialize(
        start=st.sampled_from([TIP, EARLIEST]),
        expired=st.sampled_from([EARLIEST, TIP, "stop"]),
        segment_bytes=st.sampled_from([1, 400, 1_000_000]),
    )
    def begin(self, start: str, expired: str, segment_bytes: int) -> None:
        policy, account = Policy(start=start, on_replay_expired=expired), Account(MIDNIGHT_NEAR)
        self.worlds = [World(policy=policy, channel=channel, account=account) for channel in CHANNELS]
        landing.MAX_SEGMENT_BYTES = segment_bytes
        self.open(timedelta(0))

    def teardown(self) -> None:
        try:
            for world in self.worlds:
                self.finish(world)
        finally:
            landing.MAX_SEGMENT_BYTES = self._segment_bytes

    def finish(self, world: World) -> None:
        """The faults stop, what was late arrives: one quiet run lands everything, later ones find nothing to do."""
        for writer in world.writers:
            world.release(writer)
        world.release_orders()
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

    def writer(self, world: World, number: int) -> Writer:
        if not world.active:
            self.open(timedelta(0))
        return world.active[number % len(world.active)]

    def other(self, world: World, than: Writer, number: int) -> Writer:
        others = [writer for writer in world.active if writer.run_id != than.run_id]
        if not others:
            self.open(timedelta(0))
            return world.active[-1]
        return others[number % len(others)]

    @precondition(lambda self: any(len(world.active) < MAX_WRITERS for world in self.worlds))
    @rule(skew=st.sampled_from([timedelta(0)] * 4 + [timedelta(hours=hours) for hours in (-26, -1, 1, 26)]))
    def open(self, skew: timedelta) -> None:
        """Start a run over all channels; the clock of its host may be wrong."""
        self._is_skewed |= bool(skew)
        first = self.worlds[0].open(skew=skew)
        for world in self.worlds[1:]:
            world.open(part_of=first)

    @rule(where=where, number=which, published=st.integers(0, 3), count=st.integers(0, 5), twist=twists)
    def session(self, where: int, number: int, published: int, count: int, twist: Twist | None) -> None:
        world = self.worlds[where]
        self.publish(where, published, 0)
        world.session(self.writer(world, number), count, twist)

    @rule(
        where=where,
        number=which,
        published=st.integers(0, 3),
        count=st.integers(0, 5),
        again=st.integers(0, 2),
        twist=twists,
    )
    def poll(self, where: int, number: int, published: int, count: int, again: int, twist: Twist | None) -> None:
        world = self.worlds[where]
        self.publish(where, published, 0)
        world.poll(self.writer(world, number), count, twist, again=again)

    @rule(where=where, number=which, deed=deeds, count=st.integers(0, 5), twist=twists)
    def act(self, where: int, number: int, deed: str, count: int, twist: Twist | None) -> None:
        world = self.worlds[where]
        self.deed(world, self.writer(world, number), deed, count, twist)()

    def deed(
        self, world: World, writer: Writer, deed: str, count: int, twist: Twist | None = None
    ) -> Callable[[], object]:
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
            "rewind": lambda: self.rewind_to(world, count),
            "redrive": lambda: world.redrive(world.strays[-1]) if world.strays else world.keep_stray(),
        }
        return named[deed]

    @rule(
        where=where,
        number=which,
        deed=st.sampled_from(["session", "poll", "connect", "prepare", "checkpoint"]),
        count=st.integers(1, 5),
        nth=st.integers(1, 8),
        elsewhere=st.sampled_from([0, 0, 0, 1]),
        intruder=which,
        intrusion=st.sampled_from(
            ["session", "session", "poll", "prepare", "checkpoint", "release", "rewind", "rewind", "redrive"]
        ),
        intruding=st.integers(1, 5),
    )
    def interleave(
        self,
        where: int,
        number: int,
        deed: str,
        count: int,
        nth: int,
        elsewhere: int,
        intruder: int,
        intrusion: str,
        intruding: int,
    ) -> None:
        """Another run acts, in full, between two storage calls of this one; in the same channel or in the other."""
        world, beside = self.worlds[where], self.worlds[(where + elsewhere) % len(self.worlds)]
        writer = self.writer(world, number)
        other = self.other(beside, writer, intruder)
        twist = Twist(nth, intrusion=self.deed(beside, other, intrusion, intruding))
        self.deed(world, writer, deed, count, twist)()

    @rule(
        where=where,
        back=st.integers(0, 5),
        is_redriving=st.booleans(),
        twist=twists,
        nth=st.integers(1, 12),
        number=which,
        meanwhile=st.sampled_from([None, "session", "session", "poll", "prepare", "checkpoint", "rewind", "redrive"]),
        published=st.integers(0, 3),
    )
    def order(
        self,
        where: int,
        back: int,
        is_redriving: bool,
        twist: Twist | None,
        nth: int,
        number: int,
        meanwhile: str | None,
        published: int,
    ) -> None:
        """The operator rewinds or re-drives while runs capture, which may act in full between two storage calls."""
        world = self.worlds[where]
        self.publish(where, published, 0)
        if meanwhile is not None:
            twist = Twist(nth, intrusion=self.deed(world, self.writer(world, number), meanwhile, published))
        if not is_redriving:
            self.rewind_to(world, back, twist)
        elif world.strays:
            world.redrive(world.strays[back % len(world.strays)], twist)
        else:
            world.keep_stray()

    def rewind_to(self, world: World, back: int, twist: Twist | None = None) -> None:
        """0: the tip, where late events allow it; up to 2: the earliest; else the id of an event so far back."""
        known = world.org.events[world.org.floor :]
        is_tip_safe = TIP in (world.policy.start, world.policy.on_replay_expired)
        if back == 0 and is_tip_safe:
            world.rewind(TIP, twist)
        elif back > 2 and len(known) >= back:
            world.rewind(known[-back].replay_id, twist)
        else:
            world.rewind(EARLIEST, twist)

    # --- the org and the operator ------------------------------------------------------------------------------------

    @rule(where=where, number=st.integers(0, 9))
    def release(self, where: int, number: int) -> None:
        world = self.worlds[where]
        world.release(world.writers[number % len(world.writers)])

    @rule(
        where=where,
        number=which,
        count=st.integers(0, 3),
        after=st.sampled_from(["session", "connect"]),
        more=st.integers(0, 3),
    )
    def write_late(self, where: int, number: int, count: int, after: str, more: int) -> None:
        """A segment's write is held up, the session lost; the write arrives while the next session is under way."""
        world = self.worlds[where]
        writer = self.writer(world, number)
        self.publish(where, 1, 0)
        world.session(writer, count, on(Fault.LATE, verb="create"))
        self.publish(where, more, 0)
        if after == "connect":
            world.connect(writer)
        world.release(writer)
        world.session(writer, count + more)

    @rule(where=where, count=st.integers(1, 8), late=st.sampled_from([0, 0, 0, 1, 4, 1_600, None]))
    def publish(self, where: int, count: int, late: int | None) -> None:
        world = self.worlds[where]
        lateness = None if late is None else timedelta(minutes=late)
        if lateness is not None and TIP in (world.policy.start, world.policy.on_replay_expired):
            lateness = min(lateness, LATE_BELOW_TIP_MARGIN)  # what is later counts as before the tip
        for _ in range(count):
            world.org.publish(late=lateness)
            world.org.now += timedelta(seconds=5)

    @rule(minutes=minutes_between)
    def wait(self, minutes: int) -> None:
        self.worlds[0].org.now += timedelta(minutes=minutes)
        if minutes > 60:  # no session outlives this, nor a write on its way
            self.end_all_runs()

    def end_all_runs(self) -> None:
        """Every process is gone, and what it wrote has arrived."""
        for world in self.worlds:
            for writer in world.writers:
                world.release(writer)
                writer.is_over = True
            world.release_orders()

    @rule(
        where=where,
        what=st.sampled_from(
            [
                "purge",
                "expire_segments",
                "reset_stream",
                "delete_checkpoint",
                "garble_checkpoint",
                "restore_checkpoint",
                "delete_last_segment",
                "write_foreign",
                "rest_fails",
                "rest_works",
            ]
        ),
    )
    def befall(self, where: int, what: str) -> None:
        """What the org, the operator or a lifecycle rule does to everybody."""
        world = self.worlds[where]
        named: dict[str, Callable[[], object]] = {
            "purge": world.org.purge,
            # A clock that is wrong by more than what is left of the week would take a young segment for an expired one.
            "expire_segments": lambda: world.expire_segments(LIFECYCLE if self._is_skewed else RETAINED),
            "reset_stream": lambda: self.reset_stream(world),
            "delete_checkpoint": world.delete_checkpoint,
            "garble_checkpoint": world.garble_checkpoint,
            "restore_checkpoint": world.restore_checkpoint,
            "delete_last_segment": lambda: self.delete_last_segment(world),
            "write_foreign": world.write_foreign,
            "rest_fails": lambda: setattr(world.org, "can_be_asked", False),
            "rest_works": lambda: setattr(world.org, "can_be_asked", True),
        }
        named[what]()

    def reset_stream(self, world: World) -> None:
        """The org moves: no retained event is left, no replay id is known, every session is over."""
        if not world.is_anchored:
            return  # without a position there is no id that the org could refuse: nobody can notice
        world.org.floor = world.org.count
        for writer in world.writers:
            world.release(writer)
            writer.lose_session()

    def delete_last_segment(self, world: World) -> None:
        """Against all advice, but while no run goes on: the next run finds the log's end anew."""
        self.end_all_runs()
        world.delete_last_segment()
        world.capture(Policy(world.policy.start, EARLIEST))

    @invariant()
    def promises_hold(self) -> None:
        for world in self.worlds:
            world.check()


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
