"""The stories of the alerts: each makes its trouble in an emulated org, and keeps what the app said about it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pytest

from tests.alerts.transcripts import FIRST, ORDERS, SECOND, Transcript, run
from tests.harness import ACCOUNT, CONTACT, Site, slowness

HOUR = 3600
REFUSAL = "403::User not allowed to subscribe CDC without View All Data permissions"
NO_REPLAY_ID = b'{"data":{"payload":{"Name":"x"}},"channel":"/data/AccountChangeEvent"}'
Fires = dict[str, set[tuple[str, ...]]]


@dataclass(frozen=True)
class Story:
    """What happens, which group's run tells it, and what fires where it goes on for so many runs."""

    happens: Callable[[Site], None]
    group: str = FIRST
    fires: dict[int, Fires] = field(default_factory=dict)
    seconds: float = 1.0
    settings: dict[str, str] = field(default_factory=dict)
    undo: Callable[[Site], object] = lambda site: None
    is_alone: bool = False  # in an org that no other story has changed
    traffic: str = ""  # a long run, with events on this channel meanwhile


def healthy(site: Site) -> dict[str, list[Transcript]]:
    """Runs of a good day, per group: a start, events, nothing at all, a broken connection that was overcome."""
    said: dict[str, list[Transcript]] = {FIRST: [], SECOND: []}
    for channel in (ACCOUNT, CONTACT, ORDERS):
        site.org.publish(channel, 3)
    for group, runs in said.items():
        runs.append(run(site, group))
    site.org.publish(ACCOUNT, 20)
    said[FIRST].append(run(site))
    said[FIRST].append(run(site))
    site.org.fault("connect", "drop")
    site.org.publish(CONTACT, 2)
    said[FIRST].append(run(site, seconds=1.5))
    said[SECOND].append(run(site, SECOND))
    said[SECOND].append(long_run(site, SECOND, ORDERS))
    return said


def long_run(site: Site, group: str, channel: str) -> Transcript:
    """A run that is longer than the time after which it says that it is alive, here of a second."""
    site.org.traffic(channel, 5)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("cdc.run.ALIVE_EVERY_S", 1.2 * slowness())
            return run(site, group, seconds=3)
    finally:
        site.org.traffic(channel, 0)


def _event_of_age(channel: str, hours: float) -> Callable[[Site], None]:
    return lambda site: _publish(site, channel, hours)


def _publish(site: Site, channel: str, hours: float) -> None:
    site.org.publish(channel, 3, age_s=hours * HOUR)


def _quiet_for_days(site: Site) -> None:
    _publish(site, ACCOUNT, 60)
    run(site)
    site.org.advance_clock(HOUR / 6)
    run(site)  # a clean poll with nothing new: captured up to now


def _change_behind_silence(site: Site) -> None:
    site.org.publish(ACCOUNT, 1, kinds=["CREATE"], age_s=HOUR)
    run(site)
    site.org.change_record("Account", age_s=HOUR / 3)
    run(site, seconds=2.0)  # the verdict, which stands in the next run


def _deliver_nearly_all(site: Site) -> None:
    run(site)
    _make_older(site, hours=2)  # a forecast takes a reading that is more than an hour old
    site.org.publish(ORDERS, 90)
    run(site, SECOND)
    site.org.knobs(daily_deliveries=site.org.stats()["delivered24h"] * 10 // 9)


def _make_older(site: Site, *, hours: int) -> None:
    [(name, record)] = site.log.state(f"runs/{FIRST}").items()
    [reading] = record["allocation"]
    earlier = datetime.fromisoformat(reading["read"]) - timedelta(hours=hours)
    reading["read"] = record["allocationAsked"] = earlier.isoformat()
    site.log.write_state(name, json.dumps(record).encode())


def _reset_stream(site: Site) -> None:
    site.org.publish(ACCOUNT, 3)
    run(site)
    site.org.reset_stream(ACCOUNT)
    site.org.publish(ACCOUNT, 3)


def _stray(site: Site) -> None:
    site.org.raw(ACCOUNT, NO_REPLAY_ID)


STORIES = {
    "a channel is refused": Story(
        lambda site: site.org.channel(CONTACT, refusal=REFUSAL),
        undo=lambda site: site.org.channel(CONTACT, refusal=""),
        fires={
            1: {},
            2: {"channel-degraded-twice": {(CONTACT,)}},
            48: {"channel-degraded-twice": {(CONTACT,)}, "no-ok-run": {(FIRST,)}},
        },
    ),
    "events come two hours late": Story(
        _event_of_age(CONTACT, 2), fires={1: {"lag-above-its-bound": {(CONTACT,)}}},
    ),
    "a channel is behind by 30 hours": Story(
        _event_of_age(CONTACT, 30),
        fires={1: {"lag-above-its-bound": {(CONTACT,)}, "position-older-than-24-h": {(CONTACT,)}}},
    ),
    "a channel is behind by 50 hours": Story(
        _event_of_age(CONTACT, 50),
        fires={
            1: {
                "lag-above-its-bound": {(CONTACT,)},
                "position-older-than-24-h": {(CONTACT,)},
                "position-older-than-48-h": {(CONTACT,)},
            }
        },
    ),
    "a platform event's channel is behind by 10 hours": Story(
        _event_of_age(ORDERS, 10),
        group=SECOND,
        fires={1: {"lag-above-its-bound": {(ORDERS,)}, "position-older-than-24-h": {(ORDERS,)}}},
    ),
    "the stream was reset": Story(
        _reset_stream, seconds=2.0, fires={1: {"gap-opened": {(ACCOUNT, "2")}}},
    ),
    "a message has no replay id": Story(
        _stray, traffic=ACCOUNT, fires={1: {"quarantine-used": {(ACCOUNT,)}}},
    ),
    "records change behind a silent channel": Story(
        _change_behind_silence,
        traffic=CONTACT,
        fires={
            1: {"silent-channel": {(ACCOUNT,)}},
            12: {
                "silent-channel": {(ACCOUNT,)},
                "channel-degraded-twice": {(ACCOUNT,)},
                "no-ok-run": {(FIRST,)},
            },
        },
    ),
    "nine tenths of the allocation are used": Story(
        _deliver_nearly_all,
        undo=lambda site: site.org.knobs(daily_deliveries=0),
        fires={1: {"allocation-nearly-used-up": {()}}},
    ),
    "the login is refused": Story(
        _quiet_for_days,
        is_alone=True,
        settings={"SALESFORCE_CLIENT_SECRET": "wrong"},
        fires={
            1: {"run-failed": {(FIRST,)}},
            48: {"run-failed": {(FIRST,)}, "no-ok-run": {(FIRST,)}},
        },
    ),
}  # fmt: skip


def told(site: Site, story: Story) -> Transcript:
    """Let the story happen, and return what the run said."""
    story.happens(site)
    try:
        if story.traffic:
            return long_run(site, story.group, story.traffic)
        return run(site, story.group, seconds=story.seconds, **story.settings)
    finally:
        story.undo(site)
