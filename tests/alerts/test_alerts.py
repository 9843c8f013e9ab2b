"""Each alert fires in its story, once, and ends; none fires on a healthy day: over events that the app really said."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import UTC, datetime, timedelta

import pytest

from emulator.client import Emulator
from tests.alerts import kql
from tests.alerts.rules import Rule, asked_of, moments, pictures, rules
from tests.alerts.scenarios import STORIES, healthy, told
from tests.alerts.transcripts import (
    CHANNELS,
    FIRST,
    ORDERS,
    PACE,
    SECOND,
    Trace,
    Transcript,
    timeline,
)
from tests.azurite import Azurite
from tests.harness import ACCOUNT, CONTACT, Site, open_site
from tests.nursery import Nursery

MIDNIGHT = datetime(2026, 11, 26, tzinfo=UTC)
RUNS_A_DAY = timedelta(days=1) // PACE
HOUR_OF_RUNS = timedelta(hours=1) // PACE
RULES = rules(channels=CHANNELS)
SETTLED = timedelta(minutes=20)  # from then on every channel and group has been heard of


class Said:
    """What the app said: on good runs of each group, and in each story."""

    def __init__(self, healthy: dict[str, list[Transcript]], stories: dict[str, Transcript]) -> None:
        self.healthy = healthy
        self.stories = stories

    def good(self, group: str, runs: int) -> list[Transcript]:
        """So many good runs of a group, one after the other."""
        first, *rest = self.healthy[group]
        return [first, *itertools.islice(itertools.cycle(rest), runs - 1)]

    def everything(self) -> list[Trace]:
        """All of it, a run every five minutes."""
        return timeline(MIDNIGHT, *self.healthy.values(), list(self.stories.values()))


@pytest.fixture(scope="module")
def said(storage: Azurite, nursery: Nursery) -> Said:
    numbers = itertools.count()

    @contextmanager
    def fresh_site(org: Emulator) -> Iterator[Site]:
        for channel in (ACCOUNT, CONTACT, ORDERS):
            org.purge(channel)
        number = next(numbers)
        with open_site(org, storage.connection_string, f"alerts-{number}", f"alerts-state-{number}") as site:
            yield site

    stories = {}
    with nursery.start() as shared:
        with fresh_site(shared) as site:
            good = healthy(site)
        for name, story in STORIES.items():
            with nursery.start() if story.is_alone else nullcontext(shared) as org, fresh_site(org) as site:
                stories[name] = told(site, story)
    return Said(good, stories)


def all_told(traces: list[Trace], end: datetime) -> dict[str, list[tuple[str, tuple[str, ...]]]]:
    """What Azure tells of each rule until `end`, where it tells anything."""
    found = {name: rule.told(traces, MIDNIGHT + SETTLED, end) for name, rule in RULES.items()}
    return {name: [(what, whom) for _, what, whom in each] for name, each in found.items() if each}


# --- quiet ------------------------------------------------------------------------------------------------------------


def test_nothing_fires_on_a_healthy_day(said: Said) -> None:
    traces = timeline(MIDNIGHT, said.good(FIRST, RUNS_A_DAY), said.good(SECOND, RUNS_A_DAY))
    assert all_told(traces, MIDNIGHT + timedelta(days=1)) == {}


def test_the_healthy_day_is_not_quiet_for_want_of_events(said: Said) -> None:
    lines = [line for runs in said.healthy.values() for run in runs for _, line in run]
    for event in ("session.lost", "channel.finished", "run.finished", "channel.alive", "run.alive"):
        assert any(line.startswith(f'{{"event": "{event}"') for line in lines), event
    assert any('"lag_p50_s"' in line for line in lines)


# --- and not ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "runs"), [(name, runs) for name, story in STORIES.items() for runs in story.fires])
def test_a_story_fires_its_alerts_once_and_no_other_and_they_end(said: Said, name: str, runs: int) -> None:
    story = STORIES[name]
    series = {group: said.good(group, HOUR_OF_RUNS + runs + 3 * HOUR_OF_RUNS) for group in (FIRST, SECOND)}
    series[story.group][HOUR_OF_RUNS : HOUR_OF_RUNS + runs] = [said.stories[name]] * runs
    end = MIDNIGHT + len(series[FIRST]) * PACE
    assert all_told(timeline(MIDNIGHT, *series.values()), end) == {
        rule: [*(("fired", each) for each in sorted(whom)), *(("resolved", each) for each in sorted(whom))]
        for rule, whom in story.fires[runs].items()
    }


def test_every_alert_has_its_story() -> None:
    fired = {rule for story in STORIES.values() for fires in story.fires.values() for rule in fires}
    assert fired == set(RULES)


def test_an_app_that_says_nothing_any_more_is_missed_and_its_positions_grow_old(said: Said) -> None:
    silence = 60 * HOUR_OF_RUNS
    series = [
        [*said.good(group, HOUR_OF_RUNS), *[None] * silence, *said.good(group, 3 * HOUR_OF_RUNS)]
        for group in (FIRST, SECOND)
    ]
    traces, stopped = timeline(MIDNIGHT, *series), MIDNIGHT + timedelta(hours=1)
    end = MIDNIGHT + len(series[0]) * PACE
    after = {
        name: {(what, whom): when - stopped for when, what, whom in RULES[name].told(traces, MIDNIGHT + SETTLED, end)}
        for name in RULES
    }
    assert {name for name, each in after.items() if each} == {
        "no-ok-run", "position-older-than-24-h", "position-older-than-48-h",
    }  # fmt: skip
    for name, whom, hours in [
        ("no-ok-run", (FIRST,), 0.25),
        ("no-ok-run", (SECOND,), 0.25),
        ("position-older-than-24-h", (ACCOUNT,), 24),
        ("position-older-than-24-h", (CONTACT,), 24),
        ("position-older-than-24-h", (ORDERS,), 8),
        ("position-older-than-48-h", (ACCOUNT,), 48),
        ("position-older-than-48-h", (CONTACT,), 48),
        ("position-older-than-48-h", (ORDERS,), 16),
    ]:
        late = after[name]["fired", whom] - timedelta(hours=hours)
        assert timedelta(minutes=-5) < late <= timedelta(minutes=15), (name, whom, late)
        assert after[name]["resolved", whom] > timedelta(hours=60), "not before it runs again"


def test_a_group_that_never_said_anything_is_missed(said: Said) -> None:
    traces = timeline(MIDNIGHT, said.good(FIRST, HOUR_OF_RUNS))
    later = MIDNIGHT + timedelta(minutes=45)
    assert RULES["no-ok-run"].fires(traces, later) == {(SECOND,)}
    assert RULES["position-older-than-48-h"].fires(traces, later) == {(ORDERS,)}
    assert RULES["no-ok-run"].fires([], later) == {(FIRST,), (SECOND,)}


def test_lines_of_others_and_broken_ones_change_nothing(said: Said) -> None:
    traces = timeline(MIDNIGHT, said.good(FIRST, HOUR_OF_RUNS), said.good(SECOND, HOUR_OF_RUNS))
    noise = ["Executing 'Functions.capture1'", '{"event":', '{"event": "run.finished"', '{"event": 7}', "[]", "{}", ""]
    moment = MIDNIGHT + timedelta(minutes=50)
    traces = sorted(
        [*traces, *({"timestamp": moment, "message": text} for text in noise)],
        key=lambda trace: trace["timestamp"],
    )
    for rule in RULES.values():
        assert rule.fires(traces, moment + timedelta(minutes=5)) == set(), rule.name


# --- queries and events -----------------------------------------------------------------------------------------------


def said_fields(said: Said) -> set[tuple[str, str]]:
    lines = [kql.evaluate("traces | extend Said = parse_json(message) | project Said", said.everything(), MIDNIGHT)]
    return {(each["Said"]["event"], name) for rows in lines for each in rows for name in each["Said"]}


@pytest.mark.parametrize("rule", RULES.values(), ids=lambda rule: rule.name)
def test_every_field_that_an_alert_asks_for_is_really_said(said: Said, rule: Rule) -> None:
    assert unsaid(rule.query, said_fields(said)) == set()


@pytest.mark.parametrize("title", pictures())
def test_every_picture_of_the_workbook_asks_for_what_is_said_and_shows_something(said: Said, title: str) -> None:
    query = pictures()[title]
    assert unsaid(query, said_fields(said)) == set()
    assert kql.evaluate(query, said.everything(), MIDNIGHT + timedelta(days=1))


def test_a_field_or_an_event_that_nobody_says_is_noticed(said: Said) -> None:
    fields = said_fields(said)
    for name, old, new in [
        ("lag-above-its-bound", "Said.lag_p50_s", "Said.lag_p90_s"),
        ("run-failed", "Said.outcome", "Said.result"),
        ("gap-opened", '"gap.opened"', '"gap.open"'),
        ("no-ok-run", '"run.finished"', '"run.ended"'),
    ]:
        assert unsaid(RULES[name].query.replace(old, new), fields), name


def unsaid(query: str, fields: set[tuple[str, str]]) -> set[tuple[str, str]]:
    """What a query asks for and nobody said."""
    return asked_of(query) - fields


def test_the_moments_of_evaluation_are_as_many_as_the_clock_says() -> None:
    assert len(list(moments(MIDNIGHT, MIDNIGHT + timedelta(hours=1), PACE))) == HOUR_OF_RUNS + 1
