"""REST questions to the org, through simple-salesforce: what changed, and what its channels carry.

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

from cdc.errors import RestFailed
from cdc.exchange import HttpSession, connection_cause, host_of
from cdc.salesforce import Token

MAX_REST_ANSWER_BYTES = 64 * 1024 * 1024  # 600,000 ids, the most that getUpdated lists, have 13 MB
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
            raise _rest_failed(self._host, channel, f"the interval begins more than {MAX_REST_DAYS} days ago")
        return any(self._entity_has_changes(channel, entity, start, end) for entity in self.entities(channel))

    def entities(self, channel: str) -> list[str]:
        """Return the API names of the entities whose changes a channel carries.

        Raises: RestFailed; also for platform events, which leave no record to ask about.
        """
        kind, name = channel.strip("/").split("/", 1)
        if kind != "data":
            raise _rest_failed(self._host, channel, "platform events leave no record that could be asked about")
        if name == "ChangeEvents" or name.endswith("__chn"):
            return self._channel_members(channel, name)
        return [_entity_of(name)]

    def _channel_members(self, channel: str, name: str) -> list[str]:
        soql = f"SELECT SelectedEntity FROM PlatformEventChannelMember WHERE EventChannel = '{name}'"  # noqa: S608
        with _rest_exceptions(self._host, channel):
            answer = self._salesforce.toolingexecute("query/?q=" + quote(soql))
            members = [_entity_of(record["SelectedEntity"]) for record in answer["records"]]
        if not members:
            raise _rest_failed(self._host, channel, "the channel shows no members to this user")
        return members

    def _entity_has_changes(self, channel: str, entity: str, start: datetime, end: datetime) -> bool:
        with _rest_exceptions(self._host, channel):
            sobject = getattr(self._salesforce, entity)
            updated, deleted = sobject.updated(start, end), sobject.deleted(start, end)
            if updated["ids"] or deleted["deletedRecords"]:
                return True
            earliest = _rest_time(deleted.get("earliestDateAvailable"))
            covered = [_rest_time(answer.get("latestDateCovered")) for answer in (updated, deleted)]
        if earliest and earliest > start:
            raise _rest_failed(self._host, channel, f"deletions of {entity} before {earliest:%Y-%m-%d %H:%M} are gone")
        if any(time and time < end - timedelta(minutes=5) for time in covered):
            raise _rest_failed(self._host, channel, f"the answer for {entity} does not reach the end of the interval")
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


def _rest_failed(host: str, channel: str, cause: str) -> RestFailed:
    return RestFailed(
        f"asking {host} for changes behind {channel}: {cause}",
        hint="give the run-as user API Enabled and View All on the entity, or accept that continuity stays unproven",
    )


@contextmanager
def _rest_exceptions(host: str, channel: str) -> Iterator[None]:
    from simple_salesforce.exceptions import SalesforceError as ForeignError

    try:
        yield
    except ForeignError as error:
        code = re.search(r"'errorCode': '([A-Z_]+)'", str(getattr(error, "content", "")))
        cause = f"HTTP {getattr(error, 'status', '?')}" + (f" {code[1]}" if code else "")
        raise _rest_failed(host, channel, cause) from None
    except (requests.RequestException, OSError) as error:
        raise _rest_failed(host, channel, connection_cause(error)) from None
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError):
        raise _rest_failed(host, channel, "the answer is not of the documented shape") from None
