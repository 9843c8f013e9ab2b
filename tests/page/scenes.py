"""Overviews for the page's tests: one channel or many, healthy or in every trouble that storage can show."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

from cdc.continuity import Position
from cdc.errors import CdcError, StorageUnavailable
from cdc.health import Verdict, expected_since, judge
from cdc.layout import ChannelRun, Gap, Generation, PastRun, Reading, RunRecord
from cdc.overview import ChannelState, GroupState, Overview

NOW = datetime(2026, 11, 26, 17, 5, 12, tzinfo=UTC)
NAMES = (
    *("Account", "Contact", "Opportunity", "Case", "Lead", "Order", "OrderItem", "Product2", "Pricebook2", "Quote"),
    *("Asset", "Contract", "Campaign", "User", "Task", "Event", "Invoice__", "Shipment__", "Subscription__"),
)
CHANNELS = (*(f"/data/{name}ChangeEvent" for name in NAMES), "/event/Order_Placed__e")
LONG = "/data/An_Object_With_The_Longest_Name_X__ChangeEvent"


def ago(**span: float) -> datetime:
    """A moment before NOW."""
    return NOW - timedelta(**span)


def generation(channel: str, number: int = 1, **more: object) -> Generation:
    """A generation's record."""
    values = {
        "cause": "first-start", "start": "-1", "t0": ago(days=30), "after_segment": 0, "partition": ago(days=30).date(),
        "user_id": "005Rj000005UEfQIAW", **more,
    }  # fmt: skip
    return Generation(channel=channel, org_id="00DRj000004kniQMAQ", run_id="r", number=number, **values)  # type: ignore[arg-type]


def gap(channel: str, number: int = 2, cause: str = "replay-refused", *, is_bounded: bool = True) -> Gap:
    """A gap's record, of two hours; without bounds nobody knows when it began."""
    return Gap(
        channel=channel, org_id="00DRj000004kniQMAQ", run_id="r", number=number, cause=cause, after_segment=41,
        after_replay_id="6227391", start="-2", since=ago(hours=7) if is_bounded else None, until=ago(hours=5),
        detected=ago(hours=5),
    )  # fmt: skip


def channel_run(seed: int, **more: object) -> ChannelRun:
    """A channel's part of a run, with a day of traffic."""
    hours = {
        f"{ago(hours=back):%Y-%m-%dT%H}": max(0, (seed * 37 + back * back * 11) % 211 - (40 if 4 < back < 14 else 0))
        for back in range(25)
    }
    values = {
        "outcome": "ok", "events": 17, "segments": 2, "bytes": 18211, "lag_p50_s": 0.4 + seed / 10,
        "lag_max_s": 1.9 + seed / 3, "last_event": ago(seconds=9 + 40 * seed), "hours": hours, **more,
    }  # fmt: skip
    return ChannelRun(**values)  # type: ignore[arg-type]


def run(group: str, names: Iterable[str], outcome: str = "ok", past: Iterable[str] = (), **more: object) -> RunRecord:
    """A run record, its last runs `past`, newest first."""
    names = list(names)
    outcomes = list(past) or ["ok"] * 24
    values = {
        "started": ago(seconds=300),
        "finished": ago(seconds=38),
        "clean_polls": {name: ago(seconds=39) for name in names},
        "events": 1204,
        "sessions": 2,
        "lost_sessions": 1,
        "channels": {name: channel_run(number) for number, name in enumerate(names)},
        "past": tuple(
            PastRun(run_id=f"p{back}", outcome=each, started=ago(seconds=300 * (back + 2)),
                    finished=ago(seconds=300 * (back + 2) - 262), events=(back * 71) % 400)
            for back, each in enumerate(outcomes)
        ),
        "allocation": tuple(
            Reading(read=ago(minutes=4 + 5 * back), max=50_000, remaining=31_400 + 6 * back) for back in range(36)
        ),
        **more,
    }  # fmt: skip
    return RunRecord(group=group, run_id="20261126T170012Z-cef0f1d3", outcome=outcome, **values)  # type: ignore[arg-type]


def channel(name: str, age: timedelta = timedelta(seconds=9), **more: object) -> ChannelState:
    """Where a channel stands: its last event so long ago, landed at once."""
    position = Position(
        segment=42, replay_id="6227391", last_time=NOW - age, segment_written=NOW - age + timedelta(seconds=1),
        generation=generation(name),
    )  # fmt: skip
    return ChannelState(name, **{"position": position, "polled": ago(seconds=39), **more})  # type: ignore[arg-type]


def healthy(count: int = 1) -> Overview:
    """All is well; from three channels on in two groups."""
    names = CHANNELS[-count:] if count > 1 else CHANNELS[:1]
    cut = len(names) if count < 3 else count * 2 // 3
    groups = {"capture1": names[:cut], "capture2": names[cut:]}
    return Overview(
        NOW, tuple(GroupState(name, run(name, each), states_of(each)) for name, each in groups.items() if each)
    )


def states_of(names: Iterable[str]) -> tuple[ChannelState, ...]:
    """Channels that are captured, each with an event of its own age."""
    return tuple(channel(name, timedelta(seconds=9 + 40 * place)) for place, name in enumerate(names))


def troubled(count: int = 20) -> Overview:
    """A bit of all troubles at once, as far as there are channels for them."""
    if count == 1:
        name = CHANNELS[0]
        behind = channel(name, timedelta(hours=52), polled=None, gaps=(gap(name),))
        record = run("capture1", [name], "failed", ["failed"] * 9 + ["degraded"] * 2 + ["ok"] * 13, **FAILED)
        return Overview(NOW, (GroupState("capture1", record, (behind,)),))
    names = list(CHANNELS[:count])
    names[6] = LONG
    first, second, third, fourth = names[:8], names[8:14], names[14:17], names[17:]
    states = {name: channel(name, timedelta(seconds=9 + 40 * place)) for place, name in enumerate(names)}
    states[first[1]] = channel(first[1], timedelta(hours=52), polled=None)  # 20 h left
    states[first[2]] = channel(first[2], timedelta(hours=26), polled=None)  # 46 h left
    states[first[3]] = channel(first[3], timedelta(hours=22), polled=None)  # 50 h left
    states[first[4]] = channel(first[4], gaps=(gap(first[4]), gap(first[4], 3, "outage", is_bounded=False)))
    states[second[0]] = channel(second[0], timedelta(hours=3), silent_since=ago(hours=3))
    states[second[2]] = ChannelState(
        second[2], error=CdcError("reading blob: access denied (403)", hint="give the app's identity its role")
    )
    states[second[3]] = ChannelState(second[3])  # never captured
    states[second[4]] = channel(second[4], timedelta(hours=80), polled=None)
    silent = channel_run(3, outcome="degraded", silent_since=ago(hours=3), last_event=ago(hours=3), events=0,
                         lag_p50_s=None, lag_max_s=None, hours={})  # fmt: skip
    degraded = run(
        "capture2", second, "degraded", ["degraded", *["ok"] * 23],
        errors=(f"{second[0]}: records of its entity changed since 14:05 UTC, and no event came",),
        next_steps=("raise CDC_RUN_SECONDS",), allocation=(Reading(read=ago(minutes=3), max=50_000, remaining=4_000),),
    )  # fmt: skip
    failed = run("capture1", first, "failed", ["failed"] * 3 + ["degraded"] + ["ok"] * 20, **FAILED)
    degraded.channels[second[0]] = silent
    for late in (first[1], first[2], first[3], second[3], second[4]):
        record = failed if late in first else degraded
        record.channels[late] = channel_run(4, last_event=None, events=0, lag_p50_s=None, lag_max_s=None, hours={})
    failed.channels[first[0]] = channel_run(1, outcome="failed")
    return Overview(
        NOW,
        (
            GroupState("capture1", failed, tuple(states[name] for name in first)),
            GroupState("capture2", degraded, tuple(states[name] for name in second)),
            GroupState("capture3", None, tuple(ChannelState(name) for name in third)),
            GroupState("capture4", None, tuple(states[name] for name in fourth), is_unreadable=True),
        ),
        ("runs/capture4.json cannot be read (it is not JSON); what that run did is unknown",),
    )


def looking() -> Overview:
    """One thing to look at: a gap."""
    name = CHANNELS[0]
    state = channel(name, gaps=(gap(name),))
    record = run("capture1", [name], "degraded", ["ok"] * 24, errors=("a gap was recorded",), next_steps=("reconcile",))
    return Overview(NOW, (GroupState("capture1", record, (state,)),))


FAILED: dict[str, object] = {
    "errors": (
        "subscribing /data/AccountChangeEvent: 403::User not allowed to subscribe CDC channels without View All Data",
        "asking for a token: 400 invalid_client: invalid client credentials",
    ),
    "next_steps": (
        "give the run-as user View All on the object",
        "check SALESFORCE_CLIENT_SECRET against the consumer secret of the External Client App",
    ),
    "events": 0,
    "sessions": 0,
    "lost_sessions": 0,
}


def unreadable() -> Overview:
    """Storage is not to be reached."""
    return Overview(NOW, error=StorageUnavailable(
        "listing blobs under 'runs/' in container cdc-checkpoints at acme.blob.core.windows.net: connection refused",
        hint="check that Blob Storage can be reached from here: firewall, private endpoint, DNS, CDC_STORAGE",
    ))  # fmt: skip


def verdict_on(seen: Overview) -> Verdict:
    """The verdict with the default schedule."""
    return judge(seen, expected_since("0 */5 * * * *", 260, seen.now))


SCENES = {
    "well-1": lambda: healthy(1),
    "well-20": lambda: healthy(20),
    "trouble-1": lambda: troubled(1),
    "trouble-20": lambda: troubled(20),
    "look-1": looking,
    "unreadable": unreadable,
}
