"""REST as simple-salesforce sees it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import requests
from requests.adapters import HTTPAdapter
from simple_salesforce.api import Salesforce
from simple_salesforce.exceptions import SalesforceError, SalesforceExpiredSession, SalesforceMalformedRequest

from emulator.client import Emulator
from tests.emulator.conftest import ACCOUNT, Comet


class Plain(HTTPAdapter):
    """Sends what was meant for https to the emulator's http."""

    def send(self, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        assert request.url is not None
        request.url = request.url.replace("https://", "http://", 1)
        return super().send(request, *args, **kwargs)


@pytest.fixture
def salesforce(org: Emulator, client: Comet) -> Iterator[Any]:
    with requests.Session() as session:
        session.mount("https://", Plain())
        host = org.url.removeprefix("http://")
        yield Salesforce(instance=host, session_id=client.token, session=session, version="66.0")


def test_queries_agree_with_the_events(org: Emulator, salesforce: Any) -> None:
    org.publish(ACCOUNT, 30, kinds=["CREATE"])
    org.publish(ACCOUNT, 5, kinds=["DELETE"])
    assert salesforce.query("SELECT COUNT() FROM Account")["totalSize"] == 25
    assert salesforce.query_all("SELECT COUNT(Id) FROM Account", include_deleted=True)["records"][0]["expr0"] == 30
    found = salesforce.query(
        "SELECT Id, Name, BillingCity FROM Account WHERE IsDeleted = false ORDER BY Name DESC LIMIT 3"
    )
    names = [row["Name"] for row in found["records"]]
    assert len(names) == 3
    assert names == sorted(names, reverse=True)
    assert found["records"][0]["attributes"]["type"] == "Account"


def test_queries_know_conditions(org: Emulator, salesforce: Any) -> None:
    org.publish(ACCOUNT, 10, kinds=["CREATE"])
    identity = org.change_record("Account", fields={"Name": "It's AND Co", "NumberOfEmployees": 7}, age_s=-5)
    for where in (
        r"Name = 'It\'s AND Co' AND NumberOfEmployees = 7",
        f"Id IN ('{identity}', 'x') AND NumberOfEmployees < 8",
        "Name LIKE 'it%co'",
        f"LastModifiedDate > {datetime.now(UTC) + timedelta(seconds=2):%Y-%m-%dT%H:%M:%SZ}",
    ):
        assert [row["Id"] for row in salesforce.query(f"SELECT Id FROM Account WHERE {where}")["records"]] == [identity]


def test_long_answers_come_in_pages(org: Emulator, salesforce: Any) -> None:
    org.knobs(rest_page_size=4)
    org.publish(ACCOUNT, 10, kinds=["CREATE"])
    assert salesforce.query("SELECT Id FROM Account")["done"] is False
    assert len(list(salesforce.query_all_iter("SELECT Id FROM Account"))) == 10


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("DELETE FROM Account", "MALFORMED_QUERY"),
        ("SELECT Id FROM No", "INVALID_TYPE"),
        ("SELECT No FROM Account", "INVALID_FIELD"),
    ],
)
def test_bad_queries_are_refused(org: Emulator, salesforce: Any, text: str, code: str) -> None:
    org.publish(ACCOUNT)
    with pytest.raises(SalesforceMalformedRequest) as caught:
        salesforce.query(text)
    content: Any = caught.value.content
    assert content[0]["errorCode"] == code


def test_records_can_be_read_one_by_one_and_together(org: Emulator, salesforce: Any) -> None:
    org.publish("/data/ContactChangeEvent", 2, kinds=["CREATE"])
    ids = [row["Id"] for row in salesforce.query("SELECT Id FROM Contact")["records"]]
    row = salesforce.Contact.get(ids[0])
    assert row["Name"] == f"{row['FirstName']} {row['LastName']}"
    many = salesforce.restful("composite/sobjects/Contact", params={"ids": f"{ids[1]},nope", "fields": "Id,Name"})
    assert [found and found["Id"] for found in many] == [ids[1], None]
    assert {"Id", "FirstName", "MailingCity"} <= {f["name"] for f in salesforce.Contact.describe()["fields"]}


def test_updated_and_deleted_are_cut_to_minutes_and_see_silent_changes(org: Emulator, salesforce: Any) -> None:
    org.publish(ACCOUNT, 3, kinds=["CREATE"], age_s=7_200)
    changed = org.change_record("Account", fields={"Phone": "1"}, age_s=600)
    gone = org.change_record("Account", "delete", age_s=600)
    end = datetime.now(UTC)
    assert len(org.deliveries(ACCOUNT)) == 3
    found = salesforce.Account.updated(end - timedelta(hours=1), end)
    assert set(found["ids"]) == {changed} - {gone}
    assert found["latestDateCovered"] == f"{end:%Y-%m-%dT%H:%M}:00.000+0000"
    deletions = salesforce.Account.deleted(end - timedelta(hours=1), end)["deletedRecords"]
    assert [row["id"] for row in deletions] == [gone]
    assert len(salesforce.Account.updated(end - timedelta(hours=3), end)["ids"]) == 2


def test_a_backlog_shows_in_updated(org: Emulator, salesforce: Any) -> None:
    org.backlog(ACCOUNT, 120, hours=2)
    end = datetime.now(UTC)
    ids = salesforce.Account.updated(end - timedelta(hours=1), end)["ids"]
    assert 58 <= len(ids) <= 62


def test_limits_channel_members_and_schemas(org: Emulator, salesforce: Any, client: Comet) -> None:
    org.knobs(daily_deliveries=1_000)
    org.publish(ACCOUNT, 4)
    client.open(replay=-2)
    limits = salesforce.limits()
    assert limits["DailyDeliveredPlatformEvents"] == {"Max": 1_000, "Remaining": 996}
    assert limits["DurableStreamingApiConcurrentClients"] == {"Max": 1_000, "Remaining": 999}
    soql = "SELECT Id FROM PlatformEventChannel WHERE DeveloperName = 'Sales'"
    [channel] = salesforce.toolingexecute("query/", params={"q": soql})["records"]
    soql = f"SELECT SelectedEntity FROM PlatformEventChannelMember WHERE EventChannel = '{channel['Id']}'"
    members = salesforce.toolingexecute("query/", params={"q": soql})["records"]
    assert {row["SelectedEntity"] for row in members} == {"AccountChangeEvent", "OpportunityChangeEvent"}
    schema = salesforce.restful("sobjects/AccountChangeEvent/eventSchema")
    assert salesforce.restful(f"event/eventSchema/{schema['uuid']}", params={"payloadFormat": "COMPACT"}) == schema


def test_limits_can_be_denied_and_can_lack_the_delivery_allocation(org: Emulator, salesforce: Any) -> None:
    org.knobs(limits="hidden")
    assert "DailyDeliveredPlatformEvents" not in salesforce.limits()
    org.knobs(limits="denied")
    with pytest.raises(SalesforceError) as caught:
        salesforce.limits()
    content: Any = caught.value.content
    assert (caught.value.status, content[0]["errorCode"]) == (403, "INSUFFICIENT_ACCESS")


def test_the_newest_change_of_an_entity_is_one_row_of_one_query(org: Emulator, salesforce: Any) -> None:
    org.publish(ACCOUNT, 3, kinds=["CREATE"], age_s=3_600)
    gone = org.change_record("Account", "delete", age_s=600)
    since = datetime.now(UTC) - timedelta(minutes=30)
    soql = (
        f"SELECT Id, SystemModstamp FROM Account WHERE SystemModstamp > {since:%Y-%m-%dT%H:%M:%SZ} "
        f"AND SystemModstamp <= {datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ} ORDER BY SystemModstamp DESC LIMIT 1"
    )
    assert salesforce.query(soql)["records"] == []
    assert [row["Id"] for row in salesforce.query(soql, include_deleted=True)["records"]] == [gone]


def test_a_channel_member_shows_its_filter(org: Emulator, salesforce: Any) -> None:
    org.channel("/data/Sales__chn", filters={"Account": "Industry = 'Energy'"})
    soql = (
        "SELECT SelectedEntity, FilterExpression FROM PlatformEventChannelMember WHERE EventChannel != 'ChangeEvents'"
    )
    members = salesforce.toolingexecute("query/", params={"q": soql})["records"]
    assert {row["SelectedEntity"]: row["FilterExpression"] for row in members} == {
        "AccountChangeEvent": "Industry = 'Energy'",
        "OpportunityChangeEvent": None,
    }


def test_a_dead_token_is_an_invalid_session(org: Emulator, salesforce: Any) -> None:
    org.revoke_tokens()
    with pytest.raises(SalesforceExpiredSession) as caught:
        salesforce.limits()
    content: Any = caught.value.content
    assert content == [{"message": "Session expired or invalid", "errorCode": "INVALID_SESSION_ID"}]


def test_rest_can_be_denied_and_can_fail(org: Emulator, salesforce: Any) -> None:
    for knobs, status in (
        ({"rest_denied": "API_DISABLED_FOR_ORG"}, 403),
        ({"rest_failing": True, "rest_denied": ""}, 500),
    ):
        org.knobs(**knobs)
        with pytest.raises(SalesforceError) as caught:
            salesforce.limits()
        assert caught.value.status == status
    org.knobs(rest_failing=False)
    org.fault("rest", "status", path="/updated", status=503)
    assert salesforce.limits()
    with pytest.raises(SalesforceError):
        salesforce.Account.updated(datetime.now(UTC) - timedelta(hours=1), datetime.now(UTC))
    assert org.stats()["rest"]["/services/data/v66.0/limits/"] == 3
