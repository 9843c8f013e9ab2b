"""Draws from a seed what goes wrong in each round; pure. The same seed and number give the same round.

It never draws what ends a channel's continuity for good (a reset stream, purged events, an id refused in two sessions):
there a new generation would be right, and here every event must land once.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Literal

from tests.faultproxy import Spoil

CHANNELS = (
    "/data/AccountChangeEvent",
    "/data/ContactChangeEvent",
    "/data/OpportunityChangeEvent",
    "/data/Invoice__ChangeEvent",
    "/event/Order_Placed__e",
)
GROUPS = f"{','.join(CHANNELS[:3])};{','.join(CHANNELS[3:])}"
GRACE_S = 15.0  # a run must end so long after its seconds
IMPATIENT_S = 2.5  # mostly a run that ends late is killed after so long: a stalled request can take the whole grace

Where = Literal["salesforce", "storage"]
Ending = Literal["deadline", "term", "kill"]


@dataclass(frozen=True)
class RunPlan:
    """One process. Times are seconds from the start of the round; `clock_s` is how far its wall clock is wrong."""

    starts_s: float
    seconds: float
    ending: Ending = "deadline"
    ends_s: float = 0.0
    limit_s: float = GRACE_S
    clock_s: float = 0.0
    clock_jumps_s: float = 0.0  # by so much more, in the middle of the run
    is_cold: bool = False  # a new interpreter with the command line, instead of a fork


@dataclass(frozen=True)
class Ambush:
    """A spoil that waits in a proxy for the so-many-th thing that it fits."""

    where: Where
    spoil: Spoil
    after: int
    times: int = 1


@dataclass(frozen=True)
class Moment:
    """Something that happens once, while the runs go on."""

    at_s: float
    what: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RoundPlan:
    """Everything that one round does."""

    number: int
    before: tuple[Moment, ...]
    knobs: dict[str, Any]
    rates: dict[str, float]
    faults: tuple[dict[str, Any], ...]
    ambushes: tuple[Ambush, ...]
    moments: tuple[Moment, ...]
    runs: tuple[RunPlan, ...]

    def at_pace(self, pace: float) -> RoundPlan:
        """Return the round with everything so many times slower, for a machine that is busy with other things."""
        runs = [
            replace(
                run,
                starts_s=run.starts_s * pace,
                seconds=run.seconds * pace,
                ends_s=run.ends_s * pace,
                limit_s=run.limit_s if run.limit_s == GRACE_S else run.limit_s * pace,
            )
            for run in self.runs
        ]
        moments = [replace(moment, at_s=moment.at_s * pace) for moment in self.moments]
        return replace(self, runs=tuple(runs), moments=tuple(moments))

    def lines(self) -> list[str]:
        """The round in words, for -v and for the report of a failing seed."""
        found = [f"round {self.number}"]
        found += [f"  before   {moment.what} {_said(moment.details)}" for moment in self.before]
        found += [f"  knobs    {_said(self.knobs)}"] if self.knobs else []
        found += [f"  rates    {' '.join(f'{rate:g}' for rate in self.rates.values())}"]
        found += [f"  fault    {_said(fault)}" for fault in self.faults]
        found += [f"  network  {a.where} {a.spoil} after={a.after} times={a.times}" for a in self.ambushes]
        found += [f"  at {moment.at_s:5.2f} {moment.what} {_said(moment.details)}" for moment in self.moments]
        return found + [f"  run      {run}" for run in self.runs]


def start_of(seed: int) -> str:
    """CDC_START for this seed."""
    return Random(f"{seed} start").choice(("earliest", "tip"))


def draw_round(seed: int, number: int, seconds: float) -> RoundPlan:
    """Return one round of about `seconds`."""
    random = Random(f"{seed} {number}")
    span_s = seconds * 1.2
    return RoundPlan(
        number=number,
        before=_before(random),
        knobs=_knobs(random),
        rates={channel: random.choice((0.0, 4.0, 12.0, 40.0)) for channel in CHANNELS},
        faults=tuple(_fault(random) for _ in range(random.choice((0, 1, 1, 2, 3, 4)))),
        ambushes=tuple(_ambush(random) for _ in range(random.choice((0, 0, 1, 1, 2, 3)))),
        moments=tuple(
            sorted((_moment(random, span_s) for _ in range(random.choice((0, 1, 1, 2, 3)))), key=lambda m: m.at_s)
        ),
        runs=_runs(random, seconds),
    )


def _said(details: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in details.items())


# --- the app's processes ----------------------------------------------------------------------------------------------


def _runs(random: Random, seconds: float) -> tuple[RunPlan, ...]:
    count = random.choices((1, 2, 3), (70, 20, 10))[0]
    return tuple(_run(random, seconds, 0.0 if number == 0 else random.uniform(0, seconds)) for number in range(count))


def _run(random: Random, seconds: float, starts_s: float) -> RunPlan:
    lasts_s = random.uniform(0.3, 1.2) * seconds
    ending: Ending = random.choices(("deadline", "kill", "term"), (55, 33, 12))[0]
    wrong_s = random.choice((1.0, 60.0, 3_600.0, 86_400.0, 4 * 86_400.0)) * random.choice((-1, 1))
    is_wrong = random.random() < 0.25
    return RunPlan(
        starts_s=round(starts_s, 3),
        seconds=round(lasts_s, 2),
        ending=ending,
        ends_s=0.0 if ending == "deadline" else round(starts_s + random.uniform(0.02, lasts_s + 0.4), 3),
        limit_s=GRACE_S if random.random() < 0.08 else IMPATIENT_S,
        clock_s=wrong_s if is_wrong else 0.0,
        clock_jumps_s=-wrong_s if is_wrong and random.random() < 0.4 else 0.0,
        is_cold=not is_wrong and random.random() < 0.05,
    )


# --- the org ----------------------------------------------------------------------------------------------------------

_LOST: dict[str, dict[str, Any]] = {
    "drop": {},
    "reset": {},
    "truncate": {},
    "truncate_clean": {},
    "status": {"status": 503},
    "html": {},
    "garble": {},
    "delay": {},
}
_ADVICE: tuple[dict[str, Any], ...] = (
    {"reconnect": "handshake", "interval": 0},
    {"reconnect": "none"},
    {"reconnect": "retry", "interval": 250, "timeout": 300},
    {"reconnect": "retry", "interval": 0, "timeout": 0},
    {"reconnect": "retry"},
    {"interval": -1, "timeout": 99_999_999},
    {"multiple-clients": True, "reconnect": "retry", "interval": 200},
    {},
)
_LIKES = {
    "connect": ("unknown_client", "unknown_client_none", "auth_invalid", "busy", "retry", "multiple_clients"),
    "subscribe": ("unknown_client", "unknown_client_none", "auth_invalid", "busy", "retry"),
    "disconnect": ("unknown_client", "auth_invalid"),
    "handshake": ("handshake_auth_invalid", "handshake_dos", "handshake_busy", "concurrent_limit"),
}


def _fault(random: Random) -> dict[str, Any]:
    on = random.choices(("connect", "subscribe", "disconnect", "handshake", "token"), (50, 18, 14, 12, 6))[0]
    after = random.randrange(0, 8) if on in ("connect", "subscribe") else random.randrange(0, 2)
    fault: dict[str, Any] = {"on": on, "after": after}
    kind = random.choices(("lost", "reply", "advice", "silence"), (60, 25, 8, 4))[0]
    if kind == "reply" and on == "token":
        return fault | {"do": "status", "status": random.choice((500, 503))}
    if kind == "reply":
        return fault | _reply(random, on)
    if kind == "advice":
        reply = {"successful": True, "advice": random.choice(_ADVICE)}
        return {"on": "connect", "after": after, "do": "reply", "reply": reply, "carried_out": random.random() < 0.5}
    if kind == "silence":
        return fault | {"do": "hang" if on != "connect" or random.random() < 0.5 else "stall"}
    do = random.choice(tuple(_LOST))
    fault |= {"do": do, **_LOST[do]}
    if do in ("truncate", "truncate_clean"):
        fault["keep"] = round(random.random(), 3)
    if do in ("status", "html") and on != "token":
        fault["carried_out"] = random.random() < 0.6
    if do == "delay":
        fault["seconds"] = round(random.uniform(0.05, 0.8), 2)
    if on == "connect" and random.random() < 0.6:
        fault["only_with_events"] = True
    return fault


def _reply(random: Random, on: str) -> dict[str, Any]:
    if on == "connect" and random.random() < 0.15:
        return {"do": "push_disconnect", "carried_out": random.random() < 0.5}
    if on == "subscribe" and random.random() < 0.35:
        text = random.choice(
            (
                "400::The replayId {4711} you provided was invalid.  Please provide a valid ID, -2 to replay all "
                "events, or -1 to replay only new events.",
                "400::The channel you requested to subscribe to doesn't exist {/data/X}",
            )
        )
        return {"do": "reply", "reply": {"error": text}, "end_session": False}
    return {"do": "reply", "like": random.choice(_LIKES[on]), "carried_out": random.random() < 0.4}


def is_refusal(fault: dict[str, Any]) -> bool:
    """True where the fault refuses a replay id: one in a round, for two in a row are believed."""
    return "replayId" in str(fault.get("reply", {}).get("error", ""))


def is_noise(fault: dict[str, Any]) -> bool:
    """True where the fault spoils bytes: one in a round, for the same noise twice in a row is believed."""
    return bool(fault["do"] == "garble")


_KNOBS: dict[str, tuple[Any, ...]] = {
    "event_order": ("last", "mixed"),
    "events_on_subscribe": (False,),
    "events_on_disconnect": (False,),
    "honour_client_timeout": (False,),
    "advised_timeout_ms": (400, 1_000, 40_000),
    "hold_s": (0.1, 0.5, 1.0),
    "unknown_client_reconnect": ("none",),
    "unknown_client_with_id": (True,),
    "auth_errors": ("http",),
    "max_events": (1, 3, 10, 50),
    "max_bytes": (1, 5_000, 100_000),
    "linger_s": (0.02, 0.1),
    "route_cookie_s": (0.7,),
    "session_expiry_s": (0.2,),
    "token_ttl_s": (0.5,),
    "reuse_token": (False,),
}


def _knobs(random: Random) -> dict[str, Any]:
    return {name: random.choice(values) for name, values in _KNOBS.items() if random.random() < 0.13}


# --- the network ------------------------------------------------------------------------------------------------------


def _ambush(random: Random) -> Ambush:
    where: Where = "storage" if random.random() < 0.55 else "salesforce"
    after = random.randrange(0, 30 if where == "storage" else 14)
    cut: Any = random.choice(("cut", "reset"))
    size = random.choice((0, 1, 40, 300, random.randrange(4_000)))
    verb = random.choice((b"PUT", b"PUT", b"PUT", b"GET", b"HEAD")) if where == "storage" else b""
    kind = random.choices(("response", "request", "late", "slow", "connection", "silence"), (42, 18, 16, 8, 10, 6))[0]
    if kind == "response":
        return Ambush(where, Spoil(cut, "response", after_bytes=size, request=verb), after, random.choice((1, 1, 2, 5)))
    if kind == "request":
        return Ambush(where, Spoil(cut, "request", after_bytes=size, request=verb), after)
    if kind == "late":
        late_s = round(random.uniform(0.1, 3.0), 2)
        return Ambush(where, Spoil("delay", "request", seconds=late_s, request=verb), after, random.choice((1, 3)))
    if kind == "slow":
        slow_s = round(random.uniform(0.05, 0.6), 2)
        return Ambush(where, Spoil("delay", "response", seconds=slow_s, request=verb), after, random.choice((1, 8)))
    if kind == "connection":
        do: Any = random.choice(("refuse", "refuse", "cut", "reset", "black_hole"))
        return Ambush(where, Spoil(do, "connection", after_bytes=0 if do == "black_hole" else size), after % 4)
    silent: Any = random.choice(("stall", "half_open"))
    return Ambush(where, Spoil(silent, random.choice(("request", "response")), after_bytes=size, request=verb), after)


# --- moments ----------------------------------------------------------------------------------------------------------


def _moment(random: Random, span_s: float) -> Moment:
    at_s = round(random.uniform(0, span_s), 3)
    what = random.choices(
        ("sessions", "revoke", "burst", "odd", "strike", "away", "clock"), (30, 10, 20, 12, 18, 6, 8)
    )[0]
    details: dict[str, Any] = {}
    if what == "sessions":
        details = {"do": random.choice(("expire", "push_disconnect", "release", "close"))}
    elif what in ("burst", "odd"):
        details = {"channel": random.choice(CHANNELS), "count": random.choice((1, 5, 60, 300))}
        if what == "burst":
            details["size"] = random.choice((0, 0, 3_000, 60_000))
            details["kinds"] = random.choice(((), (), ("GAP_UPDATE", "WILDCARD", "DIFF", "GAP_OVERFLOW")))
            details["count"] = min(details["count"], 40 if details["size"] > 10_000 else 300)
    elif what == "strike":
        details = {
            "where": random.choice(("salesforce", "storage")),
            "do": random.choice(("reset", "cut", "half_open")),
        }
    elif what == "away":
        details = {"where": random.choice(("salesforce", "storage")), "for_s": round(random.uniform(0.05, 0.8), 2)}
    elif what == "clock":
        details = {"by_s": _org_clock_s(random)}
    return Moment(at_s, what, details)


def _org_clock_s(random: Random) -> float:
    """Seldom far ahead, so that retention stays out of it; never back by the tip's margin of five minutes."""
    return random.choice((-100.0, -2.0, 5.0, 600.0, 7_200.0))


def _before(random: Random) -> tuple[Moment, ...]:
    """What happens to the checkpoints while nothing runs: they are a cache, the log decides."""
    found = []
    for _ in range(random.choices((0, 1, 2), (70, 20, 10))[0]):
        what = random.choices(("delete", "garble", "older", "forget runs"), (40, 25, 25, 10))[0]
        found.append(Moment(0.0, what, {"channel": random.choice(CHANNELS)} if what != "forget runs" else {}))
    return tuple(found)
