"""What is published: believable events, raw bytes, backlogs, and the ledger that remembers them."""

from __future__ import annotations

import hashlib
import json
import time
from collections import Counter
from typing import Any

import pytest

from emulator.client import ControlError, Emulator
from emulator.knobs import Knobs
from emulator.org import Clock, Org
from tests.emulator.conftest import ACCOUNT, Comet, replay_ids

ORDERS = "/event/Order_Placed__e"
INVOICE = "/data/Invoice__ChangeEvent"


def events(org: Emulator, channel: str) -> list[dict[str, Any]]:
    return [json.loads(body) for body in org.deliveries(channel)]


def header(event: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = event["data"]["payload"]["ChangeEventHeader"]
    return found


def test_change_events_follow_the_rules_of_change_data_capture(org: Emulator) -> None:
    org.publish(ACCOUNT, 300)
    kinds = Counter(header(event)["changeType"] for event in events(org, ACCOUNT))
    assert set(kinds) == {"CREATE", "UPDATE", "DELETE", "UNDELETE"}
    for event in events(org, ACCOUNT):
        payload, head = event["data"]["payload"], header(event)
        assert set(event) == {"data", "channel"}
        assert head["commitNumber"] > 2**53
        assert head["commitTimestamp"] % 1000 == 0
        assert head["sequenceNumber"] >= 1
        if head["changeType"] == "DELETE":
            assert set(payload) == {"ChangeEventHeader"}
        if head["changeType"] == "UPDATE":
            assert {name.split(".")[0] for name in head["changedFields"]} == set(payload) - {"ChangeEventHeader"}
        else:
            assert head["changedFields"] == []
        if head["changeType"] == "CREATE":
            assert None not in payload.values()
            assert set(payload["BillingAddress"]) >= {"Street", "City", "Country"}
    text = b"".join(org.deliveries(ACCOUNT))
    assert b":null" in text
    assert max(len(header(event)["recordIds"]) for event in events(org, ACCOUNT)) > 1
    assert max(Counter(header(event)["transactionKey"] for event in events(org, ACCOUNT)).values()) > 1


def test_the_same_seed_makes_the_same_events() -> None:
    def made() -> list[bytes]:
        org = Org(Knobs(), Clock(lambda: 1_795_000_000.0), seed=5)
        org.publish(ACCOUNT, 50)
        org.publish_backlog(ACCOUNT, 50)
        return [row.body for rows in org.streams[ACCOUNT].ledger() for row in rows]

    assert made() == made()


@pytest.mark.parametrize(
    ("kind", "change_type", "record_id"),
    [
        ("GAP_CREATE", "GAP_CREATE", "001R"),
        ("GAP_UPDATE", "GAP_UPDATE", "001R"),
        ("GAP_DELETE", "GAP_DELETE", "001R"),
        ("GAP_UNDELETE", "GAP_UNDELETE", "001R"),
        ("GAP_OVERFLOW", "GAP_OVERFLOW", "000000000000000AAA"),
        ("WILDCARD", "UPDATE", "001*"),
    ],
)
def test_rare_events_have_a_header_only(org: Emulator, kind: str, change_type: str, record_id: str) -> None:
    org.publish(ACCOUNT, 3, kinds=["CREATE"])
    org.publish(ACCOUNT, 1, kinds=[kind])
    last = events(org, ACCOUNT)[-1]
    assert set(last["data"]["payload"]) == {"ChangeEventHeader"}
    assert header(last)["changeType"] == change_type
    assert header(last)["recordIds"][0].startswith(record_id)


def test_platform_events_have_an_uuid_and_no_change_header(org: Emulator) -> None:
    org.publish(ORDERS, 2)
    for event in events(org, ORDERS):
        assert set(event["data"]["event"]) == {"EventUuid", "replayId"}
        assert "ChangeEventHeader" not in event["data"]["payload"]
        assert event["data"]["payload"]["CreatedDate"].endswith("Z")


@pytest.mark.parametrize("size", [1_000, 4_000, 11_000, 900_000])
@pytest.mark.parametrize("channel", [ACCOUNT, INVOICE, ORDERS])
def test_events_are_about_as_large_as_asked(org: Emulator, channel: str, size: int) -> None:
    org.publish(channel, 1, size=size, kinds=["CREATE"])
    org.backlog(channel, 1, size=size, kinds=["CREATE"])
    for row in org.ledger(channel):
        assert 0.8 * size < row["bytes"] < 1.2 * size + 250


def test_a_change_above_one_megabyte_becomes_a_gap_event(org: Emulator) -> None:
    org.publish(ACCOUNT, 1, size=1_100_000, kinds=["CREATE"])
    (event,) = events(org, ACCOUNT)
    assert header(event)["changeType"] == "GAP_CREATE"


def test_a_field_that_the_user_may_not_see_is_missing(org: Emulator) -> None:
    org.channel(ACCOUNT, hidden_fields={"Account": ["Phone"]})
    org.publish(ACCOUNT, 1, kinds=["CREATE"])
    (event,) = events(org, ACCOUNT)
    assert "Phone" not in event["data"]["payload"]
    assert "Name" in event["data"]["payload"]


@pytest.mark.parametrize(
    "body",
    [
        b'{"data":{"payload":{"n":9007199254740993,"x":NaN,"d":1.10},"event":{"replayId":{{replayId}}}},"channel":"/data/X"}',
        b'{"data":{"payload":{"s":"\\ud83d"},"event":{"replayId":{{replayId}}}},"channel":"/data/AccountChangeEvent"}',
        b'{"n":' + b"9" * 5_000 + b"}",
        b"[" * 2_000 + b"]" * 2_000,
        b'{"data":{\n "payload":{}},\n"channel":"/data/AccountChangeEvent"}',
        b"17",
        b"\xff\xfe",
    ],
)
def test_raw_bytes_are_delivered_verbatim(org: Emulator, client: Comet, body: bytes) -> None:
    replay_id = org.raw(ACCOUNT, body)
    client.handshake()
    message = {"channel": "/meta/subscribe", "clientId": client.client_id, "subscription": ACCOUNT}
    content = client.post({**message, "ext": {"replay": {ACCOUNT: -2}}}).content
    expected = body.replace(b"{{replayId}}", b"%d" % replay_id)
    assert content.startswith(b"[" + expected + b',{"clientId"')
    assert org.deliveries(ACCOUNT) == [expected]


def test_the_ledger_knows_the_exact_bytes_that_were_delivered(org: Emulator, client: Comet) -> None:
    org.publish(ACCOUNT, 20)
    org.backlog(ACCOUNT, 3_000, kinds=["CREATE", "UPDATE", "DELETE"])
    org.publish(ACCOUNT, 5)
    client.open(replay=-2)
    client.handshake()
    content = client.post(
        {
            "channel": "/meta/subscribe",
            "clientId": client.client_id,
            "subscription": ACCOUNT,
            "ext": {"replay": {ACCOUNT: -2}},
        }
    ).content
    rows, bodies = list(org.ledger(ACCOUNT)), org.deliveries(ACCOUNT)
    assert len(rows) == len(bodies) == 3_025
    assert [hashlib.sha256(body).hexdigest() for body in bodies] == [row["sha256"] for row in rows]
    assert content.startswith(b"[" + b",".join(bodies[:2_000]))
    ids = [row["replayId"] for row in rows]
    assert ids == sorted(set(ids))
    assert [json.loads(body)["data"]["event"]["replayId"] for body in bodies] == ids


def test_a_backlog_is_unique_spread_over_time_and_replayable_from_its_middle(org: Emulator, client: Comet) -> None:
    org.backlog(ACCOUNT, 2_500, hours=80)
    heads = [header(event) for event in events(org, ACCOUNT)]
    for name in ("transactionKey", "commitNumber"):
        assert len({head[name] for head in heads}) == 2_500
    assert len({head["recordIds"][0] for head in heads}) == 2_500
    assert heads[-1]["commitTimestamp"] - heads[0]["commitTimestamp"] > 79 * 3_600_000
    rows = list(org.ledger(ACCOUNT))
    client.handshake()
    middle = rows[2_000]["replayId"]
    assert replay_ids(client.subscribe(replay=middle)) == [row["replayId"] for row in rows[2_001:]]
    assert client.subscribe(replay=rows[100]["replayId"])[0]["successful"] is False
    retained = org.channels()[ACCOUNT]["retained"]
    assert 2_200 < retained < 2_300


def test_a_backlog_also_shows_on_the_aggregate_channels(org: Emulator) -> None:
    org.backlog(ACCOUNT, 10)
    payloads = [event["data"]["payload"] for event in events(org, ACCOUNT)]
    assert [event["data"]["payload"] for event in events(org, "/data/ChangeEvents")] == payloads
    org.backlog("/data/ChangeEvents", 30)
    entities = Counter(header(event)["entityName"] for event in events(org, "/data/ChangeEvents"))
    assert len(entities) == 4
    assert org.stats()["published"][ACCOUNT] == 10


def test_live_traffic_runs_until_it_is_stopped(org: Emulator) -> None:
    org.traffic(ACCOUNT, 500)
    until = time.monotonic() + 30
    while org.stats()["published"][ACCOUNT] < 20:
        assert time.monotonic() < until
        time.sleep(0.01)
    org.traffic(ACCOUNT, 0)
    count = org.stats()["published"][ACCOUNT]
    time.sleep(0.06)
    assert org.stats()["published"][ACCOUNT] == count


def test_new_channels_can_be_made_and_taken_away(org: Emulator, client: Comet) -> None:
    org.channel("/data/Machine__ChangeEvent")
    org.channel("/data/Mine__chn", entities=["Machine__c"])
    org.publish("/data/Machine__ChangeEvent", 1)
    (event,) = events(org, "/data/Mine__chn")
    assert header(event)["entityName"] == "Machine__c"
    org.channel("/data/Machine__ChangeEvent", exists=False)
    client.handshake()
    assert not client.subscribe("/data/Machine__ChangeEvent")[0]["successful"]
    with pytest.raises(ControlError, match="it is not the name of"):
        org.channel("/topic/Old")


def test_the_control_api_names_what_it_does_not_know(org: Emulator) -> None:
    with pytest.raises(ControlError, match="/data/NoChangeEvent"):
        org.publish("/data/NoChangeEvent")
    with pytest.raises(ControlError, match="'MOVE' is not a kind of change"):
        org.publish(ACCOUNT, kinds=["MOVE"])
    with pytest.raises(ControlError, match="there is no knob 'speed'"):
        org.knobs(speed=11)
    with pytest.raises(ControlError, match="hold_s takes float"):
        org.knobs(hold_s=[])


def test_the_journal_tells_what_each_session_asked_and_got(org: Emulator, client: Comet) -> None:
    (first, *_) = org.publish(ACCOUNT, 3)
    client.open(replay=first)
    client.meta("disconnect")
    told = [
        (e["channel"], e["state"], e["successful"], e["events"], e.get("replay"))
        for e in org.requests(client.client_id)
    ]
    assert told == [
        ("/meta/handshake", "answered", True, 0, True),
        ("/meta/connect", "answered", True, 0, None),
        ("/meta/subscribe", "answered", True, 2, {ACCOUNT: first}),
        ("/meta/disconnect", "answered", True, 0, None),
    ]
    cookies = [entry["cookies"] for entry in org.requests()]
    assert cookies[0] == {}
    assert set(cookies[1]) == {"BAYEUX_BROWSER", "sfdc-stream"}
    org.clear_requests()
    assert org.requests() == []
    assert org.stats()["meta"]["/meta/connect"] == 1
