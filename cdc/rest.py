"""REST questions to the org, through simple-salesforce: what changed, what its channels carry, what the user may.

Never writes to the org, never tries again, and passes on none of Salesforce's texts but its error codes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import requests

from cdc.errors import RestDenied, RestFailed
from cdc.exchange import NETWORK_HINT, HttpSession, connection_cause, host_of
from cdc.salesforce import API_ENABLED, Token

MAX_REST_ANSWER_BYTES = 64 * 1024 * 1024  # 600,000 ids, the most that getUpdated lists, have 13 MB
_NO_ALLOCATION = 10**12  # events a day: more than that is no number that Salesforce means
MAX_REST_DAYS = 30  # getUpdated and getDeleted look back no further (REST API guide, "Get Updated")


@dataclass(frozen=True)
class Allocation:
    """One of the org's limits (REST API guide, "Limits"): how much it is, and how much is left of it."""

    maximum: int
    remaining: int


@dataclass(frozen=True)
class Permissions:
    """What a user's permission sets, the profile's among them, grant for change events.

    `objects` has whether View All Records is granted on each object that has permissions of its own.
    """

    views_all_data: bool
    views_all_users: bool
    objects: Mapping[str, bool]


class Rest:
    """Questions to the org through simple-salesforce, with our token, our time limits and nobody's retries."""

    def __init__(self, token: Token, api_version: str) -> None:
        from simple_salesforce.api import Salesforce

        self._host = host_of(token.instance_url)
        self._salesforce = Salesforce(
            session_id=token.access_token,
            instance_url=token.instance_url,
            version=api_version,
            session=HttpSession(token.instance_url, token.access_token, max_bytes=MAX_REST_ANSWER_BYTES),
        )

    def __repr__(self) -> str:
        return f"<Rest {self._host}>"

    def has_changes(self, channel: str, start: datetime, end: datetime) -> bool:
        """True where records of the channel's entities changed or were deleted between two UTC times.

        Salesforce answers by whole minutes: the first begun and the last unfinished minute are left out.
        Raises: RestFailed where the org cannot be asked or its answer does not cover the interval.
        """
        start = (start + timedelta(seconds=59, microseconds=999_999)).replace(second=0, microsecond=0)
        end = end.replace(second=0, microsecond=0)
        if end <= start:
            return False
        if datetime.now(UTC) - start > timedelta(days=MAX_REST_DAYS):
            raise _rest_failed(self._host, _behind(channel), f"the interval begins more than {MAX_REST_DAYS} days ago")
        return any(self._entity_has_changes(channel, entity, start, end) for entity in self.entities(channel))

    def entities(self, channel: str) -> list[str]:
        """Return the API names of the entities whose changes a channel carries.

        Raises: RestFailed; also for platform events, which leave no record to ask about.
        """
        if channel.startswith("/event/"):
            raise _rest_failed(
                self._host, _behind(channel), "platform events leave no record that could be asked about"
            )
        entity = entity_of(channel)
        return [entity] if entity is not None else self._named_members(channel)

    def unfiltered_entities(self, channel: str) -> list[str]:
        """Return the entities of which every change that makes an event is to arrive on the channel.

        Members with a filter are left out: a change beside the filter makes no event. Raises: RestFailed.
        """
        if not channel.endswith("__chn"):
            return self.entities(channel)
        return self._named_members(channel, has_filters=True)

    def newest_change(self, channel: str, entity: str, after: datetime, until: datetime) -> datetime | None:
        """Return when the newest record changed (SystemModstamp) after one time and until another, deleted ones too.

        One query for one row, on an indexed field; None where there is none. Raises: RestFailed.
        """
        soql = (
            f"SELECT Id, SystemModstamp FROM {entity} WHERE SystemModstamp > {after:%Y-%m-%dT%H:%M:%SZ} "  # noqa: S608
            f"AND SystemModstamp <= {until:%Y-%m-%dT%H:%M:%SZ} ORDER BY SystemModstamp DESC LIMIT 1"
        )
        with _rest_exceptions(self._host, _behind(channel)):
            records = self._salesforce.query(soql, include_deleted=True)["records"]
            changed = _rest_time(records[0]["SystemModstamp"]) if records else None
            if records and changed is None:
                raise KeyError("SystemModstamp")
            return changed

    def delivery_allocation(self) -> tuple[int, int]:
        """Return how many events the org may deliver in 24 hours, and how many of them are left.

        Raises: RestFailed; RestDenied without the right to see it ("View Setup and Configuration").
        """
        with _rest_exceptions(self._host, "its limits", hint=_LIMITS_HINT):
            limit = self._salesforce.limits()["DailyDeliveredPlatformEvents"]
            maximum, remaining = int(limit["Max"]), int(limit["Remaining"])
            if not 0 <= maximum < _NO_ALLOCATION or abs(remaining) >= _NO_ALLOCATION:
                raise ValueError(maximum)
            return maximum, remaining

    def _named_members(self, channel: str, *, has_filters: bool = False) -> list[str]:
        """Return the entities of a channel of several, those with a filter left out where filters are asked for."""
        with _rest_exceptions(self._host, _behind(channel)):
            found = self._members(has_filters=has_filters).get(channel, [])
        members = [entity for entity, is_filtered in found if not is_filtered]
        if not members:
            cause = "each of its members has a filter" if found else "the channel shows no members to this user"
            raise _rest_failed(self._host, _behind(channel), cause)
        if "" in members:
            cause = "the org tells some of its members by their ids alone"
            raise _rest_failed(self._host, _behind(channel), cause)
        return members

    # what the org grants: for `check`

    def allocations(self) -> dict[str, Allocation]:
        """Return the org's limits by their names. Raises: RestFailed."""
        with _rest_exceptions(self._host, "its limits", hint=_LIMITS_HINT):
            found = self._salesforce.limits()
            return {
                name: Allocation(int(each["Max"]), int(each["Remaining"]))
                for name, each in found.items()
                if isinstance(each, dict) and {"Max", "Remaining"} <= each.keys()
            }

    def selected(self) -> dict[str, list[str]]:
        """Return what is selected for Change Data Capture: channel -> its entities. Raises: RestFailed.

        An entity of which the org tells nothing but an id is "".
        """
        with _rest_exceptions(self._host, "what is selected for Change Data Capture", hint=_SETUP_HINT):
            return {channel: [entity for entity, _ in members] for channel, members in self._members().items()}

    def _members(self, *, has_filters: bool = False) -> dict[str, list[tuple[str, bool]]]:
        """Return channel -> its entities, each with whether it has a filter (False where filters are not asked for)."""
        fields = "EventChannel, SelectedEntity" + (", FilterExpression" if has_filters else "")
        members = self._tooling(f"SELECT {fields} FROM PlatformEventChannelMember")  # noqa: S608
        names: dict[str, str] = {}
        if any(_is_channel_id(record["EventChannel"]) for record in members):
            custom = self._tooling("SELECT Id, DeveloperName, NamespacePrefix FROM PlatformEventChannel")
            names = {record["Id"][:15]: _channel_name(record) for record in custom}
        channels: dict[str, list[tuple[str, bool]]] = {}
        for record in members:
            channel, entity = str(record["EventChannel"]), str(record["SelectedEntity"])
            known = _entity_of(entity) if entity.endswith("ChangeEvent") else ""
            is_filtered = bool(record.get("FilterExpression"))
            channels.setdefault(f"/data/{names.get(channel[:15], channel)}", []).append((known, is_filtered))
        return channels

    def is_readable(self, entity: str) -> bool:
        """True where the object exists for the user (sObject Describe). Raises: RestFailed."""
        try:
            with _rest_exceptions(
                self._host, f"a description of {entity}", hint=f"give the run-as user Read on {entity}"
            ):
                return bool(getattr(self._salesforce, entity).describe())
        except RestFailed as error:
            if error.status in (403, 404) and error.code not in REFUSES_ALL:
                return False
            raise

    def permissions(self, user_id: str) -> Permissions:
        """Return what the user's permission sets grant, looked up as the user itself. Raises: RestFailed."""
        asked = f"SELECT PermissionSetId FROM PermissionSetAssignment WHERE AssigneeId = '{user_id}'"  # noqa: S608
        with _rest_exceptions(self._host, "the user's permissions", hint=_SETUP_HINT):
            ids = ",".join(f"'{record['PermissionSetId']}'" for record in self._query(asked)) or "''"
            fields = "PermissionsViewAllData, PermissionsViewAllUsers"
            sets = self._query(f"SELECT {fields} FROM PermissionSet WHERE Id IN ({ids})")  # noqa: S608
            fields = "SobjectType, PermissionsViewAllRecords"
            granted = self._query(f"SELECT {fields} FROM ObjectPermissions WHERE ParentId IN ({ids})")  # noqa: S608
            objects: dict[str, bool] = {}
            for record in granted:
                name = record["SobjectType"]
                objects[name] = objects.get(name, False) or bool(record["PermissionsViewAllRecords"])
            return Permissions(
                views_all_data=any(record["PermissionsViewAllData"] for record in sets),
                views_all_users=any(record["PermissionsViewAllUsers"] for record in sets),
                objects=objects,
            )

    def _query(self, soql: str) -> list[Any]:
        return list(self._salesforce.query_all(soql)["records"])

    def _tooling(self, soql: str) -> list[Any]:
        return list(self._salesforce.toolingexecute("query/?q=" + quote(soql))["records"])

    def _entity_has_changes(self, channel: str, entity: str, start: datetime, end: datetime) -> bool:
        with _rest_exceptions(self._host, _behind(channel)):
            sobject = getattr(self._salesforce, entity)
            updated, deleted = sobject.updated(start, end), sobject.deleted(start, end)
            if updated["ids"] or deleted["deletedRecords"]:
                return True
            earliest = _rest_time(deleted.get("earliestDateAvailable"))
            covered = [_rest_time(answer.get("latestDateCovered")) for answer in (updated, deleted)]
        if earliest and earliest > start:
            raise _rest_failed(
                self._host, _behind(channel), f"deletions of {entity} before {earliest:%Y-%m-%d %H:%M} are gone"
            )
        if any(time and time < end - timedelta(minutes=5) for time in covered):
            raise _rest_failed(
                self._host, _behind(channel), f"the answer for {entity} does not reach the end of the interval"
            )
        return False


def entity_of(channel: str) -> str | None:
    """Return the entity whose own channel this is: `/event/Order__e` -> `Order__e`; None for a channel of several."""
    kind, name = channel.strip("/").split("/", 1)
    if kind == "event":
        return name
    return None if name == "ChangeEvents" or name.endswith("__chn") else _entity_of(name)


def _entity_of(event_name: str) -> str:
    """`AccountChangeEvent` -> `Account`, `Invoice__ChangeEvent` -> `Invoice__c` (C-GUIDE, "Subscription Channels")."""
    if event_name.endswith("__ChangeEvent"):
        return event_name.removesuffix("__ChangeEvent") + "__c"
    return event_name.removesuffix("ChangeEvent")


def _is_channel_id(value: str) -> bool:
    """True for the id of a custom channel: only the standard one goes by its name (PlatformEventChannelMember)."""
    return value.startswith("0YL")


def _channel_name(record: Mapping[str, Any]) -> str:
    """`Sales` -> `Sales__chn`, with its package's prefix: a developer name has neither (PlatformEventChannel)."""
    prefix = record.get("NamespacePrefix")
    return (f"{prefix}__" if prefix else "") + f"{record['DeveloperName']}__chn"


def _rest_time(value: Any) -> datetime | None:
    if not isinstance(value, str):
        return None
    time = datetime.fromisoformat(value)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def _behind(channel: str) -> str:
    return f"changes behind {channel}"


_CHANGES_HINT = "give the run-as user API Enabled and View All on the entity, or accept that continuity stays unproven"
_LIMITS_HINT = (
    "give the run-as user View Setup and Configuration, or watch the allocation in Setup; capture needs neither"
)
_SETUP_HINT = "give the run-as user the system permission View Setup and Configuration"
# Error codes by which Salesforce refuses whatever is asked, and what to do (REST API guide, "Status Codes and Errors").
REFUSES_ALL = {
    "API_DISABLED_FOR_ORG": API_ENABLED,
    "API_CURRENTLY_DISABLED": API_ENABLED,
    "INVALID_SESSION_ID": "give the External Client App the OAuth scope Manage user data via APIs (api)",
    "REQUEST_LIMIT_EXCEEDED": "the org's API requests of 24 hours are used up (DailyApiRequests): see who uses them",
}


def _rest_failed(host: str, what: str, cause: str) -> RestFailed:
    return RestFailed(f"asking {host} for {what}: {cause}", hint=_CHANGES_HINT)


@contextmanager
def _rest_exceptions(host: str, question: str, *, hint: str = _CHANGES_HINT) -> Iterator[None]:
    from simple_salesforce.exceptions import SalesforceError as ForeignError

    what = f"asking {host} for {question}"
    try:
        yield
    except ForeignError as error:
        found = re.search(r"'errorCode': '([A-Z_]+)'", str(getattr(error, "content", "")))
        status, code = int(getattr(error, "status", 0)), found[1] if found else ""
        kind = RestDenied if status in (400, 403, 404) else RestFailed
        cause = f"HTTP {status}" + (f" {code}" if code else "")
        raise kind(f"{what}: {cause}", hint=REFUSES_ALL.get(code, hint), status=status, code=code) from None
    except (requests.RequestException, OSError) as error:
        raise RestFailed(f"{what}: {connection_cause(error)}", hint=NETWORK_HINT) from None
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError):
        raise RestDenied(f"{what}: the answer is not of the documented shape", hint=hint) from None
