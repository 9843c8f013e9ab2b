"""The stories of the alerts: each makes its trouble in an emulated org, and keeps what the app said about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

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
    undo: Callable[[Site], None] = lambda site: None
    is_long: bool = False


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
    run(site)  # a clean poll with nothing new: captured up to now


def _reset_stream(site: Site) -> None:
    site.org.publish(ACCOUNT, 3)
    run(site)
    site.org.reset_stream(ACCOUNT)
    site.org.publish(ACCOUNT, 3)


def _stray(site: Site) -> None:
    site.org.raw(ACCOUNT, NO_REPLAY_ID)


STORIES = {
    "the login is refused": Story(
        _quiet_for_days,
        settings={"SALESFORCE_CLIENT_SECRET": "wrong"},
        fires={
            1: {"run-failed": {(FIRST,)}},
            12: {"run-failed": {(FIRST,)}, "no-ok-run": {(FIRST,)}},
            96: {"run-failed": {(FIRST,)}, "no-ok-run": {(FIRST,)}},
        },
    ),
    "a channel is refused": Story(
        lambda site: site.org.channel(CONTACT, refusal=REFUSAL),
        undo=lambda site: site.org.channel(CONTACT, refusal=""),
        fires={
            1: {},
            2: {"channel-degraded-twice": {(CONTACT,)}},
            96: {"channel-degraded-twice": {(CONTACT,)}, "no-ok-run": {(FIRST,)}},
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
        _stray, is_long=True, fires={1: {"quarantine-used": {(ACCOUNT,)}}},
    ),
}  # fmt: skip


def told(site: Site, story: Story) -> Transcript:
    """Let the story happen, and return what the run said."""
    story.happens(site)
    try:
        if story.is_long:
            return long_run(site, story.group, ACCOUNT)
        return run(site, story.group, seconds=story.seconds, **story.settings)
    finally:
        story.undo(site)
