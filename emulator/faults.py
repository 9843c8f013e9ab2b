"""What goes wrong and when: scripted faults in order, then random ones. It decides; others carry it out."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from random import Random
from typing import Any, get_type_hints

ON = ("token", "handshake", "connect", "subscribe", "unsubscribe", "disconnect", "rest")
BEFORE = ("status", "html", "hang", "reply", "push_disconnect")  # by default the request itself is not carried out
AFTER = ("drop", "reset", "truncate", "truncate_clean", "stall", "garble", "delay")  # it is; its answer is spoiled
DOS_TEXT = (
    "403::To protect all customers from excessive use and Denial of Service attacks, we limit the number of"
    " simultaneous connections per server.  Your request has been denied because this limit has been exceeded.  Please"
    " try your request again later."
)
BUSY_TEXT = "503::Server is too busy.  Please try your request again later."
HANDSHAKE, NONE = {"interval": 0, "reconnect": "handshake"}, {"reconnect": "none", "interval": 0}
REPLIES: dict[str, dict[str, Any]] = {
    "unknown_client": {"error": "403::Unknown client", "advice": HANDSHAKE, "clientId": None},
    "unknown_client_none": {"error": "403::Unknown client", "advice": NONE},
    "auth_invalid": {"error": "401::Authentication invalid", "advice": NONE},
    "busy": {
        "error": "401::Authentication invalid",
        "ext": {"sfdc": {"failureReason": BUSY_TEXT}},
        "advice": NONE,
    },
    "daily_limit": {"error": "403::Organization total events daily limit exceeded", "advice": NONE},
    "handshake_auth_invalid": {
        "error": "403::Handshake denied",
        "ext": {"sfdc": {"failureReason": "401::Authentication invalid"}},
        "advice": {"reconnect": "none"},
    },
    "handshake_dos": {
        "error": "403::Handshake denied",
        "ext": {"sfdc": {"failureReason": DOS_TEXT}, "replay": True, "payload.format": True},
        "advice": {"reconnect": "none"},
    },
    "handshake_busy": {
        "error": "403::Handshake denied",
        "ext": {"sfdc": {"failureReason": BUSY_TEXT}},
        "advice": {"reconnect": "none"},
    },
    "concurrent_limit": {
        "error": "403::Handshake denied",
        "ext": {"sfdc": {"failureReason": "403::Organization concurrent user limit exceeded"}},
        "advice": {"reconnect": "none"},
    },
    "retry": {"error": "500::Internal error", "advice": {"reconnect": "retry", "interval": 0}},
    "multiple_clients": {"successful": True,
                         "advice": {"multiple-clients": True, "reconnect": "retry", "interval": 2000}},
}  # fmt: skip


@dataclass
class Fault:
    """One thing that goes wrong `times` times after `after` matching requests went well. times=-1: for ever."""

    on: str
    do: str
    after: int = 0
    times: int = 1
    only_with_events: bool = False
    path: str = ""  # rest: only requests whose path contains this
    subscription: str = ""  # subscribe: only for this channel
    carried_out: bool | None = None  # whether the request takes effect all the same; None: as `do` has it
    status: int = 0  # of `status` (default 503) and `html` (default 200)
    body: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    reply: dict[str, Any] = field(default_factory=dict)  # merged into the meta reply; null takes a field away
    like: str = ""  # a ready-made reply, see REPLIES
    end_session: bool | None = None  # None: when the reply's advice is not to retry
    seconds: float = 1.0  # of delay
    keep: float = 0.5  # the part of the body that is sent before a cut or a stall

    @property
    def is_before(self) -> bool:
        """Whether it strikes before the request is carried out."""
        if self.carried_out is not None:
            return not self.carried_out
        return self.do in BEFORE and not self.only_with_events

    @property
    def fields(self) -> dict[str, Any]:
        """What a `reply` fault merges into the meta reply."""
        return {"successful": False, **REPLIES.get(self.like, {}), **self.reply}

    @property
    def ends_session(self) -> bool:
        """Whether the server forgets the session with this."""
        if self.end_session is not None:
            return self.end_session
        advice = self.fields.get("advice") or {}
        return self.do == "push_disconnect" or (self.do == "reply" and advice.get("reconnect") in ("none", "handshake"))


def parse(source: dict[str, Any]) -> Fault:
    """A fault from its JSON.

    Raises: ValueError naming what is wrong.
    """
    known = {f.name for f in dataclasses.fields(Fault)}
    for name in source:
        if name not in known:
            raise ValueError(f"reading a fault: there is no field {name!r}")
    if source.get("on") not in ON:
        raise ValueError(f"reading a fault: `on` is one of {', '.join(ON)}")
    if source.get("do") not in BEFORE + AFTER:
        raise ValueError(f"reading a fault: `do` is one of {', '.join(BEFORE + AFTER)}")
    if source.get("like", "") not in ("", *REPLIES):
        raise ValueError(f"reading a fault: `like` is one of {', '.join(REPLIES)}")
    for name, kind in get_type_hints(Fault).items():
        if kind in (int, str, dict) and name in source and not isinstance(source[name], kind):
            raise ValueError(f"reading a fault: {name} takes {kind.__name__}, not {source[name]!r}")
    return Fault(**source)


@dataclass
class Request:
    """What a fault can look at, and the random fault that waits for its answer."""

    on: str
    path: str = ""
    subscriptions: tuple[str, ...] = ()
    chance: Fault | None = None


class Faults:
    """The script. The first fault of the request's kind is the one that counts, until it is used up."""

    def __init__(self) -> None:
        self.script: list[Fault] = []
        self.struck = 0
        self._probability = 0.0
        self._random = Random(0)
        self._random_on: tuple[str, ...] = ()
        self._random_do: tuple[str, ...] = ()

    def add(self, fault: Fault) -> None:
        """Append to the script."""
        self.script.append(fault)

    def clear(self) -> None:
        """No more faults, random ones included."""
        self.script.clear()
        self._probability = 0.0

    def set_random(self, probability: float, seed: int, on: tuple[str, ...], do: tuple[str, ...]) -> None:
        """From now on a request meets a random fault with this probability."""
        self._probability, self._random = probability, Random(seed)
        self._random_on = on or ("connect", "subscribe", "disconnect", "handshake")
        self._random_do = do or ("drop", "reset", "truncate", "truncate_clean", "garble", "status", "html")

    def before(self, request: Request) -> Fault | None:
        """The fault that strikes before the request is carried out, if any; to be asked once per request."""
        fault = self._first(request)
        if fault is not None:
            return self._count(fault) if fault.is_before else None
        if self._probability and request.on in self._random_on and self._random.random() < self._probability:
            chance = Fault(request.on, self._random.choice(self._random_do), keep=self._random.random())
            if chance.is_before:
                self.struck += 1
                return chance
            request.chance = chance
        return None

    def after(self, request: Request, event_count: int) -> Fault | None:
        """The fault that spoils the answer of a request that was carried out, if any."""
        if request.chance is not None:
            self.struck += 1
            return request.chance
        fault = self._first(request)
        if fault is None or fault.is_before or (fault.only_with_events and not event_count):
            return None
        return self._count(fault)

    def _first(self, request: Request) -> Fault | None:
        for fault in self.script:
            is_there = not fault.subscription or fault.subscription in request.subscriptions
            if fault.on == request.on and fault.path in request.path and is_there:
                return fault
        return None

    def _count(self, fault: Fault) -> Fault | None:
        if fault.after > 0:
            fault.after -= 1
            return None
        if fault.times > 0:
            fault.times -= 1
            if fault.times == 0:
                self.script.remove(fault)
        self.struck += 1
        return fault
