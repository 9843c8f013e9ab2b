"""What the org grants the run-as user, asked through REST: the API, the allocations, the objects behind each channel.

Salesforce leaves the events of objects that the user may not see out of a channel of several, and says nothing. That
is found out here: by description, and by the user's permission sets where it may look at them. Only asks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cdc import background
from cdc.errors import RestFailed
from cdc.finding import Finding, failed, warned
from cdc.rest import REFUSES_ALL, Permissions, Rest, entity_of
from cdc.salesforce import Token

NEARLY_USED_PERCENT = 80
DESCRIPTIONS_AT_ONCE = 4
NAMES_SHOWN = 6

# Limit -> subject, what it counts, what to do when little of it is left (REST API guide, "Limits").
_ALLOCATIONS = {
    "DailyDeliveredPlatformEvents": (
        "allocation",
        "delivered events of 24 hours",
        "capture fewer objects, filter by a custom channel, stop other subscribers, or buy the add-on; "
        "events stay 72 hours",
    ),
    "MonthlyPlatformEventsUsageEntitlement": (
        "allocation of the month",
        "delivered events of the month",
        "capture fewer objects or stop other subscribers until the month is over, or buy more",
    ),
    "DurableStreamingApiConcurrentClients": (
        "clients",
        "concurrent CometD clients",
        "end other CometD clients; each channel group takes one, and a lost one is freed after some minutes",
    ),
}


@dataclass
class Granted:
    """Findings about the org as a whole, and about channels of ours: those of several objects, and those in trouble."""

    org: list[Finding] = field(default_factory=list)
    channels: dict[str, Finding] = field(default_factory=dict)


def right_for(channel: str) -> str:
    """Return the permission that a channel's events need (Change Data Capture guide, "Required Permissions")."""
    entity = entity_of(channel)
    if entity is None and channel.endswith("/ChangeEvents"):
        return "Read and View All Records on each selected object (or View All Data)"
    if entity is None:
        return "Read and View All Records on each object of the channel (or View All Data)"
    return f"Read on {entity}" if channel.startswith("/event/") else right_on([entity])


_OWN_RIGHTS = {"User": "View All Users", "Task": "View All Data", "Event": "View All Data"}


def right_on(entities: Sequence[str]) -> str:
    """Return the permissions that the change events of these objects need."""
    plain = [entity for entity in entities if entity not in _OWN_RIGHTS]
    rights = [f"Read and View All Records on {_listed(plain)}"] if plain else []
    rights += dict.fromkeys(_OWN_RIGHTS[entity] for entity in entities if entity in _OWN_RIGHTS)
    return " and ".join(rights) + ("" if "View All Data" in rights else " (or View All Data)")


def look(channels: Sequence[str], token: Token, open_rest: Callable[[Token], Rest]) -> Granted:
    """Return what the org says. One question that cannot be answered at all ends the asking."""
    granted, rest = Granted(), open_rest(token)
    try:
        granted.org += _allocations(rest)
        granted.channels |= _channels(channels, token, open_rest, rest.selected())
    except RestFailed as error:
        if error.code in REFUSES_ALL:
            granted.org.append(failed("REST API", error))
        elif not 400 <= error.status < 500:
            granted.org.append(warned("REST API", error))
        elif several := [channel for channel in channels if entity_of(channel) is None]:
            text = f"whether the user may read all objects of {_listed(several)} cannot be seen: {error}"
            granted.org.append(Finding("objects", "warning", text, error.hint))
    return granted


def _allocations(rest: Rest) -> Iterator[Finding]:
    try:
        found = rest.allocations()
    except RestFailed as error:
        if error.code in REFUSES_ALL or not 400 <= error.status < 500:
            raise
        yield Finding("allocation", "warning", f"what is left cannot be seen: {error}", error.hint)
        return
    for name, (subject, counted, next_step) in _ALLOCATIONS.items():
        allocation = found.get(name)
        if allocation is None or allocation.maximum <= 0:
            continue
        used = allocation.maximum - allocation.remaining
        percent = 100 * used // allocation.maximum
        text = f"{used:,} of {allocation.maximum:,} {counted} used ({percent} %)"
        if percent < NEARLY_USED_PERCENT:
            yield Finding(subject, "ok", text)
        else:
            yield Finding(subject, "warning", text, next_step)


# --- channels --------------------------------------------------------------------------------------------------------


def _channels(
    channels: Sequence[str], token: Token, open_rest: Callable[[Token], Rest], selected: Mapping[str, Sequence[str]]
) -> Iterator[tuple[str, Finding]]:
    several = {channel: list(selected.get(channel, ())) for channel in channels if entity_of(channel) is None}
    entities = sorted({entity for members in several.values() for entity in members} - {""})
    readable = dict(zip(entities, _readable(entities, token, open_rest), strict=True))
    permissions = _permissions(token, open_rest) if entities else None
    anywhere = {entity for members in selected.values() for entity in members}
    for channel in channels:
        if channel in several:
            yield channel, _of_several(channel, several[channel], readable, permissions, is_blind=not selected)
        elif selected and channel.startswith("/data/") and not anywhere & {entity_of(channel), ""}:
            yield channel, _not_selected(channel)


def _readable(entities: Sequence[str], token: Token, open_rest: Callable[[Token], Rest]) -> list[bool]:
    """Return for each entity whether the user may read it; a session of its own for each question, a few at once."""
    calls = [background.bind(lambda entity: open_rest(token).is_readable(entity), entity) for entity in entities]
    return [each.result() for each in background.start_each("check objects", calls, at_once=DESCRIPTIONS_AT_ONCE)]


def _permissions(token: Token, open_rest: Callable[[Token], Rest]) -> Permissions | None:
    """Return the user's permissions, None where it may not look at them."""
    try:
        return open_rest(token).permissions(token.user_id) if token.user_id else None
    except RestFailed:
        return None


def _not_selected(channel: str) -> Finding:
    return Finding(
        channel,
        "failed",
        f"{entity_of(channel)} is not selected for Change Data Capture, so nothing will come",
        f"select {entity_of(channel)} in Setup > Change Data Capture",
    )


def _of_several(
    channel: str,
    members: Sequence[str],
    readable: Mapping[str, bool],
    permissions: Permissions | None,
    *,
    is_blind: bool,
) -> Finding:
    if not members and is_blind:
        text = "the org shows this user no selected object: there is none, or View Setup and Configuration is missing"
        return Finding(channel, "warning", text, "select objects, and give the run-as user that permission to see them")
    if not members:
        where = "Setup > Change Data Capture" if channel.endswith("/ChangeEvents") else "the custom channel"
        return Finding(
            channel, "failed", "no object is selected on it, so nothing will come", f"add objects to {where}"
        )
    members = [entity for entity in members if entity]
    unread = [entity for entity in members if not readable[entity]]
    silent = [entity for entity in members if entity not in unread and _is_withheld(entity, permissions)]
    if unread or silent:
        parts = [f"read {_listed(unread)}"] if unread else []
        parts += [f"view all records of {_listed(silent)}"] if silent else []
        text = f"the user may not {', nor '.join(parts)}: such events are left out without a word"
        return Finding(channel, "failed", text, f"give the run-as user {right_on([*unread, *silent])}")
    if not members:
        return Finding(
            channel, "warning", "the org tells its objects by their ids alone", "compare what lands with the org"
        )
    seen = "" if permissions else "; whether it may view all their records could not be looked up"
    return Finding(channel, "ok", f"carries {_listed(members)}, which the user may read{seen}")


def _is_withheld(entity: str, permissions: Permissions | None) -> bool:
    """True where the permission sets prove that the entity's events are withheld; unknown is no proof."""
    if permissions is None or permissions.views_all_data:
        return False
    if entity == "User":
        return not permissions.views_all_users
    return entity in _OWN_RIGHTS or permissions.objects.get(entity) is False


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN])
    return shown + (f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else "")
