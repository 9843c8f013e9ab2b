"""REST questions to the org, through simple-salesforce: what changed, what its channels carry, what is left to deliver.

Never writes to the org, never tries again, and passes on none of Salesforce's texts but its error codes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import requests

from cdc.errors import RestDenied, RestFailed
from cdc.exchange import HttpSession, connection_cause, host_of
from cdc.salesforce import Token

MAX_REST_ANSWER_BYTES = 64 * 1024 * 1024  # 600,000 ids, the most that getUpdated lists, have 13 MB
_NO_ALLOCATION = 10**12  # events a day: more than that is no number that Salesforce means
MAX_REST_DAYS = 30  # getUpdated and getDeleted look back no further (REST API guide, "Get Updated")


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
        kind, name = channel.strip("/").split("/", 1)
        if kind != "data":
            raise _rest_failed(
                self._host, _behind(channel), "platform events leave no record that could be asked about"
            )
        if name == "ChangeEvents" or name.endswith("__chn"):
            return self._channel_members(channel, name)
        return [_entity_of(name)]

    def unfiltered_entities(self, channel: str) -> list[str]:
        """Return the entities of which every change that makes an event is to arrive on the channel.

        Members with a filter are left out: a change beside the filter makes no event. Raises: RestFailed.
        """
        if not channel.endswith("__chn"):
            return self.entities(channel)
        return self._channel_members(channel, channel.rpartition("/")[2], has_filters=True)

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

    def _channel_members(self, channel: str, name: str, *, has_filters: bool = False) -> list[str]:
        fields = "SelectedEntity, FilterExpression" if has_filters else "SelectedEntity"
        soql = f"SELECT {fields} FROM PlatformEventChannelMember WHERE EventChannel = '{name}'"  # noqa: S608
        with _rest_exceptions(self._host, _behind(channel)):
            records = self._salesforce.toolingexecute("query/?q=" + quote(soql))["records"]
            members = [_entity_of(each["SelectedEntity"]) for each in records if not each.get("FilterExpression")]
        if not members:
            cause = "each of its members has a filter" if records else "the channel shows no members to this user"
            raise _rest_failed(self._host, _behind(channel), cause)
        return members

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


def _entity_of(event_name: str) -> str:
    """`AccountChangeEvent` -> `Account`, `Invoice__ChangeEvent` -> `Invoice__c` (C-GUIDE, "Subscription Channels")."""
    if event_name.endswith("__ChangeEvent"):
        return event_name.removesuffix("__ChangeEvent") + "__c"
    return event_name.removesuffix("ChangeEvent")


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


def _rest_failed(
    host: str, what: str, cause: str, *, hint: str = _CHANGES_HINT, kind: type[RestFailed] = RestFailed
) -> RestFailed:
    return kind(f"asking {host} for {what}: {cause}", hint=hint)


@contextmanager
def _rest_exceptions(host: str, what: str, *, hint: str = _CHANGES_HINT) -> Iterator[None]:
    from simple_salesforce.exceptions import SalesforceError as ForeignError

    try:
        yield
    except ForeignError as error:
        code = re.search(r"'errorCode': '([A-Z_]+)'", str(getattr(error, "content", "")))
        status = getattr(error, "status", "?")
        kind = RestDenied if status in (400, 403, 404) else RestFailed
        cause = f"HTTP {status}" + (f" {code[1]}" if code else "")
        raise _rest_failed(host, what, cause, hint=hint, kind=kind) from None
    except (requests.RequestException, OSError) as error:
        raise _rest_failed(host, what, connection_cause(error), hint=hint) from None
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError):
        cause = "the answer is not of the documented shape"
        raise _rest_failed(host, what, cause, hint=hint, kind=RestDenied) from None
