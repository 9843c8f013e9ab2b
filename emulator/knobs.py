"""What can be turned on the emulated org, with its defaults; values only, no behaviour."""

from __future__ import annotations

import contextlib
import dataclasses
from dataclasses import dataclass
from typing import Any, get_type_hints


@dataclass
class Knobs:
    """Every switch of the org. Durations are seconds unless the name says otherwise."""

    # the long poll and the session
    hold_s: float = 110.0  # how long a connect is held without events (Clients and Timeouts)
    advised_timeout_ms: int = 110_000  # what the first connect's advice says
    session_expiry_s: float = 40.0  # after the last answer, unless a connect is being held
    honour_client_timeout: bool = True  # obey advice.timeout of a connect
    route_cookie_s: float = 10_800.0  # life of the load balancer's routing cookie
    route_cookie_secure: bool = False  # Salesforce says Secure; a cookie jar would not send that over http
    unknown_client_reconnect: str = "handshake"  # or "none"
    unknown_client_with_id: bool = False  # whether a 403::Unknown client names the clientId
    auth_errors: str = "bayeux"  # or "http": a bare HTTP 401
    max_clients: int = 1_000  # concurrent CometD clients, orphans included
    linger_s: float = 0.0  # wait this long after the first event so that more can join the answer

    # deliveries
    event_order: str = "first"  # events "first", "last" or "mixed" relative to the meta replies
    events_on_subscribe: bool = True  # events ride on subscribe and unsubscribe replies
    events_on_disconnect: bool = True
    max_events: int = 2_000  # per answer
    max_bytes: int = 10_000_000  # per answer, all events together
    string_replay_ids: bool = False  # replay ids as JSON strings instead of numbers
    daily_deliveries: int = 0  # allocation per rolling 24 h; 0 = no limit
    daily_limit_on: str = "both"  # refuse on "subscribe", on "connect", or "both"
    retention_hours: float = 72.0  # by event time
    auto_purge: bool = True

    # tokens
    reuse_token: bool = True  # a repeated request gets the live token again
    token_ttl_s: float = 7_200.0  # after its last use
    jwt_max_exp_s: float = 300.0  # how far in the future exp may lie
    client_credentials_user: bool = True  # False: the app has no run-as user
    my_domain: bool = True  # False: as if asked on login.salesforce.com

    # REST
    rest_denied: str = ""  # an errorCode: every REST call answers 403 with it
    rest_failing: bool = False  # every REST call answers 500
    rest_page_size: int = 2_000
    limits: str = "shown"  # "denied": /limits answers 403; "hidden": without the delivery allocation


def turn(knobs: Knobs, changes: dict[str, Any]) -> None:
    """Set the named knobs; nothing is set unless all of them are known and of the right type.

    Raises: ValueError.
    """
    kinds = get_type_hints(Knobs)
    checked: dict[str, Any] = {}
    for name, value in changes.items():
        if name not in kinds:
            raise ValueError(f"turning a knob: there is no knob {name!r}")
        checked[name] = _as(kinds[name], name, value)
    for name, value in checked.items():
        setattr(knobs, name, value)


def _as(kind: type, name: str, value: Any) -> Any:
    if kind is bool and isinstance(value, str) and value.lower() in {"true", "false", "1", "0", "on", "off"}:
        return value.lower() in {"true", "1", "on"}
    if kind in (int, float) and isinstance(value, (int, float, str)) and not isinstance(value, bool):
        with contextlib.suppress(ValueError):
            return kind(value)
    elif isinstance(value, kind):
        return value
    raise ValueError(f"turning a knob: {name} takes {kind.__name__}, not {value!r}")


def as_dict(knobs: Knobs) -> dict[str, Any]:
    """All knobs with their present values."""
    return dataclasses.asdict(knobs)
