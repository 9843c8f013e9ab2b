"""When the org is asked about a silent channel, what follows from its answer, and that nothing is held up by it."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from types import SimpleNamespace
from typing import Any, cast

import pytest

from cdc.continuity import Position
from cdc.errors import RestFailed
from cdc.layout import ChannelRun, Generation, RunRecord
from cdc.report import ChannelReport, RunReport
from cdc.salesforce import Token
from cdc.silence import DELIVERY_S, MAX_ENTITIES, Finding, SilenceWatch, ask, silent_from
from cdc.starting import REST_GRACE_S, Channel
from cdc.waiting import Clock, Waiting
from tests.harness import ACCOUNT, Recorder

pytestmark = pytest.mark.pure

NOON = datetime(2026, 11, 26, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
TOKEN = cast(Token, object())


class StepClock(Clock):
    """Stands still while something is being done, and jumps where somebody waits in vain."""

    def __init__(self) -> None:
        self.s = 0.0

    def now(self) -> datetime:
        return NOON + timedelta(seconds=self.s)

    def monotonic(self) -> float:
        return self.s

    def wait(self, futures: Sequence[Future[Any]], timeout_s: float) -> None:
        if not wait(futures, timeout=0.05, return_when="FIRST_COMPLETED").done:
            self.s += max(0.0, timeout_s)


@dataclass
class Org:
    """Answers what a test has put into it, and keeps what it was asked."""

    entities: list[str] = field(default_factory=lambda: ["Account"])
    changed: dict[str, datetime | RestFailed] = field(default_factory=dict)
    asked: list[tuple[str, datetime, datetime]] = field(default_factory=list)
    answers: threading.Event = field(default_factory=threading.Event)

    def unfiltered_entities(self, channel: str) -> list[str]:
        self.answers.wait(10)
        return self.entities

    def newest_change(self, channel: str, entity: str, after: datetime, until: datetime) -> datetime | None:
        self.asked.append((entity, after, until))
        found = self.changed.get(entity)
        if isinstance(found, RestFailed):
            raise found
        return found if found and after < found <= until else None

    def has_changes(self, channel: str, start: datetime, end: datetime) -> bool:
        raise AssertionError

    def delivery_allocation(self) -> tuple[int, int]:
        raise AssertionError


class Run:
    """A run of so many seconds over one channel whose last event is an hour old; its subscribes are through at 1 s."""

    def __init__(self, seconds: float, *, org: Org | None = None, minutes: float = 15, last: datetime = NOON - HOUR):
        self.clock = StepClock()
        self.org = org or Org()
        self.org.answers.set()
        self.said = Recorder()
        self.report = RunReport("run", "capture1", NOON, {ACCOUNT: ChannelReport(ACCOUNT, is_subscribed=True)})
        self.report.channels[ACCOUNT].is_captured = True
        log = SimpleNamespace(channel=ACCOUNT, known_position=Position(last_time=last, generation=generation(last)))
        self.channel = Channel(cast(Any, log), self.report.channels[ACCOUNT])
        self.waiting = Waiting(self.clock, seconds, Future())
        self.watch = SilenceWatch(
            [self.channel], self.report, self.waiting, self.said, lambda token: self.org, interval_s=60 * minutes
        )
        self.watch.restore(None)

    def at(self, seconds: float) -> Run:
        """Look round at that second of the run, and let what was asked be answered."""
        self.clock.s = seconds
        self.look()
        if self.org.answers.is_set():
            wait([watched.asking for watched in self.watch._watched.values() if watched.asking], timeout=10)
        self.look()
        return self

    def look(self) -> None:
        self.watch.look(listening_since_s=1.0, now=self.clock.now(), token=TOKEN)

    def end(self, known: RunRecord | None = None) -> str:
        self.watch.restore(known)
        self.watch.conclude()
        return self.report.outcome


def generation(t0: datetime, start: str = "-2", number: int = 1) -> Generation:
    return Generation(
        channel=ACCOUNT, org_id="00D", run_id="run", number=number, cause="first-start", start=start, t0=t0,
        after_segment=0, partition=date(2026, 11, 26), user_id="005",
    )  # fmt: skip


def record(**channel: Any) -> RunRecord:
    run = ChannelRun(**channel)
    return RunRecord(
        group="capture1", run_id="before", outcome="ok", started=NOON, finished=NOON, clean_polls={},
        channels={ACCOUNT: run},
    )  # fmt: skip


# --- since when -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("channel", "position", "since"),
    [
        (ACCOUNT, Position(), None),
        ("/event/Order__e", Position(generation=generation(NOON - HOUR)), None),
        (ACCOUNT, Position(generation=generation(NOON - HOUR)), NOON - HOUR),
        (ACCOUNT, Position(generation=generation(NOON - 9 * HOUR), last_time=NOON - HOUR), NOON - HOUR),
        (ACCOUNT, Position(generation=generation(NOON - HOUR, "-1"), last_time=NOON - 9 * HOUR), NOON - HOUR),
        (ACCOUNT, Position(generation=generation(NOON - HOUR, "-2"), last_time=NOON - 9 * HOUR), NOON - 9 * HOUR),
        (ACCOUNT, Position(generation=generation(NOON - HOUR, number=2), last_time=NOON - 9 * HOUR), NOON - HOUR),
        (ACCOUNT, Position(generation=generation(NOON), last_time=NOON - 99 * HOUR), NOON - 72 * HOUR),
        (
            ACCOUNT,
            Position(generation=generation(NOON), last_time=NOON - 70 * HOUR, quiet_to=NOON - HOUR),
            NOON - HOUR,
        ),
    ],
)
def test_a_change_counts_from_the_last_event_or_from_where_nothing_older_can_come(
    channel: str, position: Position, since: datetime | None
) -> None:
    assert silent_from(channel, position, NOON) == since


# --- when -------------------------------------------------------------------------------------------------------------


def test_a_run_of_minutes_asks_once_near_its_end_about_what_is_older_than_a_minute() -> None:
    run = Run(260)
    for second in (2, 50, 100, 229):
        assert run.at(second).org.asked == []
    assert run.at(231).at(245).org.asked == [
        ("Account", NOON - HOUR + timedelta(seconds=2), NOON + timedelta(seconds=231 - DELIVERY_S))
    ]
    assert (run.end(), run.said.events) == ("ok", [])


@pytest.mark.parametrize("seconds", [8, 10, 30])
def test_a_run_of_seconds_asks_near_its_end_once_it_has_listened(seconds: float) -> None:
    run = Run(seconds, org=Org(changed={"Account": NOON - timedelta(seconds=1)}))
    assert run.at(1.1).at(seconds / 2).org.asked == []
    assert len(run.at(0.75 * seconds).org.asked) == 1
    assert run.end() == "degraded"


def test_a_session_that_was_opened_at_the_last_moment_proves_nothing() -> None:
    run = Run(260)
    run.clock.s = 250
    run.watch.look(listening_since_s=249, now=run.clock.now(), token=TOKEN)
    assert (run.end(), run.org.asked) == ("ok", [])


def test_a_run_of_hours_asks_every_interval_and_says_so_at_once() -> None:
    run = Run(4 * 3_600)
    for second in range(0, 3_600, 30):
        run.at(second)
    assert [until for _, _, until in run.org.asked] == [
        NOON + timedelta(seconds=second - DELIVERY_S) for second in (900, 1_800, 2_700)
    ]
    run.org.changed["Account"] = NOON + timedelta(minutes=50)
    run.at(3_600).at(3_610)
    [fields] = run.said.named("channel.silent")
    assert (fields["entity"], fields["since"]) == ("Account", NOON - HOUR)
    assert run.report.outcome == "degraded"
    run.watch.heard(run.channel)
    assert (run.report.outcome, run.report.problems) == ("ok", [])
    assert run.end() == "ok"


def test_switched_off_nothing_is_asked_and_nobody_wakes_up_for_it() -> None:
    run = Run(260, minutes=0)
    assert (run.at(250).end(), run.org.asked) == ("ok", [])
    assert run.watch.next_look_s(1.0) == float("inf")


def test_a_run_wakes_up_when_something_may_be_due() -> None:
    run = Run(10)
    assert run.watch.next_look_s(1.0) == pytest.approx(4.0)
    run.clock.s = 5
    assert run.watch.next_look_s(1.0) == pytest.approx(2.0)
    run.clock.s = 8
    assert run.watch.next_look_s(1.0) == pytest.approx(90.0)


@pytest.mark.parametrize(("minutes_ago", "times"), [(1, 0), (14, 0), (16, 1), (-5, 1)])
def test_runs_share_the_interval_and_a_time_from_the_future_is_no_reason_to_wait(minutes_ago: int, times: int) -> None:
    run = Run(10)
    run.watch._is_restored = False
    run.watch.restore(record(silence_asked=NOON - timedelta(minutes=minutes_ago)))
    assert len(run.at(8).org.asked) == times


# --- what follows -----------------------------------------------------------------------------------------------------


def test_an_event_that_arrives_while_the_org_is_asked_is_stronger() -> None:
    run = Run(10, org=Org(changed={"Account": NOON - timedelta(minutes=5)})).at(8)
    run.clock.s = 9
    run.watch.heard(run.channel)
    assert (run.end(), run.said.events) == ("ok", [])


def test_a_verdict_stands_until_the_org_shows_no_change() -> None:
    known = record(silence_asked=NOON - timedelta(minutes=5), silent_since=NOON - HOUR)
    run = Run(10)
    run.watch._is_restored = False
    assert run.end(known) == "degraded"
    assert "behind it had changed when the org was asked at 2026-11-26 11:55 UTC" in run.report.summary()
    assert [fields["channel"] for fields in run.said.named("channel.silent")] == [ACCOUNT]
    assert run.report.channels[ACCOUNT].silent_since == NOON - HOUR
    run = Run(10)
    run.watch._is_restored = False
    run.watch.restore(record(silence_asked=NOON - timedelta(minutes=16), silent_since=NOON - HOUR))
    assert (run.at(8).end(), run.report.problems, run.said.events) == ("ok", [], [])


def test_a_verdict_is_over_where_another_run_has_landed_something_since() -> None:
    run = Run(10, last=NOON - timedelta(minutes=20))
    run.watch._is_restored = False
    assert run.end(record(silence_asked=NOON - timedelta(minutes=5), silent_since=NOON - HOUR)) == "ok"


def test_an_org_that_cannot_be_asked_neither_makes_nor_ends_a_verdict() -> None:
    trouble = RestFailed("asking the org: HTTP 403", hint="x")
    for known, outcome in ((None, "ok"), (record(silent_since=NOON - HOUR), "degraded")):
        run = Run(10, org=Org(changed={"Account": trouble}))
        run.watch._is_restored = False
        run.watch.restore(known)
        assert run.at(8).end() == outcome
        [fields] = run.said.named("silence.unknown")
        assert fields["error"] is trouble


def test_an_org_that_never_answers_is_waited_for_no_longer_than_the_runs_grace() -> None:
    run = Run(10)
    run.org.answers.clear()
    run.at(8)
    assert run.end() == "ok"
    assert run.clock.s <= 10 + REST_GRACE_S
    assert len(run.said.named("silence.unknown")) == 1
    run.org.answers.set()


def test_of_many_entities_ten_are_asked_at_a_time_and_all_of_them_in_turn() -> None:
    org = Org(entities=[f"E{number}" for number in range(25)])
    finding = Finding()
    for turn in range(3):
        finding = ask(org, "/data/ChangeEvents", org.entities, NOON - HOUR, NOON, turn)
        assert not finding.is_complete
        assert len(org.asked) == MAX_ENTITIES * (turn + 1)
    assert {entity for entity, _, _ in org.asked} == set(org.entities)


def test_an_entity_that_cannot_be_asked_hides_no_change_of_another() -> None:
    trouble = RestFailed("no", hint="x")
    org = Org(entities=["A", "B"], changed={"A": trouble, "B": NOON - timedelta(minutes=1)})
    assert ask(org, ACCOUNT, org.entities, NOON - HOUR, NOON, 0).entity == "B"
    del org.changed["B"]
    with pytest.raises(RestFailed):
        ask(org, ACCOUNT, org.entities, NOON - HOUR, NOON, 0)
