"""Subscribe: replay, refusals, retention, allocations."""

from __future__ import annotations

from typing import Any

import pytest

from emulator.client import Emulator
from tests.emulator.conftest import ACCOUNT, Comet, replay_ids, reply

INVALID = (
    "400::The replayId {%s} you provided was invalid. Please provide a valid ID, -2 to replay all events, or -1 to"
    " replay only new events."
)


def test_an_id_is_exclusive_and_may_be_text(org: Emulator, client: Comet) -> None:
    ids = org.publish(ACCOUNT, 5)
    assert ids == sorted(ids)
    client.handshake()
    assert replay_ids(client.subscribe(replay=ids[1])) == ids[2:]
    assert replay_ids(client.subscribe(replay=str(ids[3]))) == ids[4:]
    assert replay_ids(client.subscribe(replay=ids[4])) == []


def test_earliest_brings_all_and_tip_only_what_is_new(org: Emulator, client: Comet) -> None:
    ids = org.publish(ACCOUNT, 3)
    client.handshake()
    assert replay_ids(client.subscribe(replay=-2)) == ids
    assert replay_ids(client.subscribe(replay="-1")) == []
    assert replay_ids(client.subscribe()) == []
    new = org.publish(ACCOUNT, 1)
    assert replay_ids(client.connect()) == new


def test_a_refused_id_is_named_in_literal_braces_and_leaves_the_session_alive(org: Emulator, client: Comet) -> None:
    client.handshake()
    client.connect()
    assert client.subscribe(replay=82) == [
        {
            "clientId": client.client_id,
            "channel": "/meta/subscribe",
            "successful": False,
            "id": "3",
            "subscription": ACCOUNT,
            "error": INVALID % 82,
        }
    ]
    org.publish(ACCOUNT)
    assert replay_ids(client.connect()) == []
    assert reply(client.connect())["successful"]


def test_a_replay_map_without_the_channel_is_refused(client: Comet) -> None:
    client.handshake()
    start = f"400::The replayId for channel {{{ACCOUNT}}} wasn't found using the provided replay ID map "
    end = (
        ". Ensure that the channel name you provided in the replay map is valid and matches the channel name used for"
        " subscribing."
    )
    empty = client.meta("subscribe", subscription=ACCOUNT, ext={"replay": {}})
    other = client.meta("subscribe", subscription=ACCOUNT, ext={"replay": {"/data/X": 5}})
    assert empty[0]["error"] == start + "{{}}" + end
    assert other[0]["error"] == start + "{{/data/X=5}}" + end


@pytest.mark.parametrize(
    ("channel", "error"),
    [
        (
            "/data/NoSuchChangeEvent",
            "400::The channel you requested to subscribe to doesn't exist {/data/NoSuchChangeEvent}",
        ),
        ("data/AccountChangeEvent", "400::Channel subscriptions must start with a leading '/'"),
        ("", "400::Channel name not specified"),
        ("/meta/connect", "403::Restricted channel"),
    ],
)
def test_channels_that_cannot_be_subscribed(client: Comet, channel: str, error: str) -> None:
    client.handshake()
    assert client.subscribe(channel)[0]["error"] == error


def test_a_subscribe_without_a_session_is_refused(client: Comet) -> None:
    (answer,) = client.post({"channel": "/meta/subscribe", "subscription": ACCOUNT, "id": "1"}).json()
    assert answer["error"] == "403::Client has not completed handshake"


def test_permissions_refuse_a_channel_or_silence_an_entity(org: Emulator, client: Comet) -> None:
    refusal = "403::User not allowed to subscribe CDC without View All Data permissions"
    org.channel(ACCOUNT, refusal=refusal)
    org.channel("/data/ChangeEvents", silent=["Account"])
    client.handshake()
    assert client.subscribe()[0]["error"] == refusal
    client.subscribe("/data/ChangeEvents", -1)
    org.publish(ACCOUNT, 2)
    org.publish("/data/ContactChangeEvent", 2, kinds=["CREATE"])
    entities = [
        event["data"]["payload"]["ChangeEventHeader"]["entityName"] for event in client.connect() if "data" in event
    ]
    assert entities == ["Contact", "Contact"]
    org.channel(ACCOUNT, refusal="")
    assert client.subscribe()[0]["successful"]


def test_aggregate_channels_have_ids_of_their_own(org: Emulator, client: Comet) -> None:
    (own,) = org.publish(ACCOUNT)
    client.handshake()
    for channel in ("/data/ChangeEvents", "/data/Sales__chn"):
        event, _ = client.subscribe(channel, -2)
        assert event["channel"] == channel
        assert event["data"]["event"]["replayId"] != own
        assert client.subscribe(channel, own)[0]["error"] == INVALID % own


def test_events_are_purged_by_their_own_time(org: Emulator, client: Comet) -> None:
    old = org.publish(ACCOUNT, 2, age_s=71.5 * 3600)
    new = org.publish(ACCOUNT, 2)
    client.handshake()
    assert replay_ids(client.subscribe(replay=old[0])) == [old[1], *new]
    org.advance_clock(3600)
    assert client.subscribe(replay=old[0])[0]["error"] == INVALID % old[0]
    assert client.subscribe(replay=old[1])[0]["error"] == INVALID % old[1]
    assert replay_ids(client.subscribe(replay=-2)) == new


def test_a_purge_through_an_id_keeps_what_is_behind_it(org: Emulator, client: Comet) -> None:
    ids = org.publish(ACCOUNT, 4)
    org.purge(ACCOUNT, ids[1])
    client.handshake()
    assert replay_ids(client.subscribe(replay=-2)) == ids[2:]
    org.purge(ACCOUNT)
    assert replay_ids(client.subscribe(replay=-2)) == []
    assert len(list(org.ledger(ACCOUNT))) == 4


def test_a_stream_reset_makes_all_ids_invalid_and_may_use_them_again(org: Emulator, client: Comet) -> None:
    before = org.publish(ACCOUNT, 3)
    org.reset_stream(ACCOUNT, next_id=before[0])
    client.handshake()
    assert client.subscribe(replay=before[2])[0]["error"] == INVALID % before[2]
    after = org.publish(ACCOUNT, 1)
    assert after == before[:1]
    assert replay_ids(client.subscribe(replay=-2)) == after
    assert [row["epoch"] for row in org.ledger(ACCOUNT)] == [1, 1, 1, 2]


def test_a_slow_seek_needs_session_time_and_starts_anew_in_every_session(org: Emulator, client: Comet) -> None:
    ids = org.publish(ACCOUNT, 1)
    org.channel(ACCOUNT, slow_seek_s=0.25)
    client.open(replay=-2)
    assert replay_ids(client.connect()) == []
    client.meta("disconnect")
    client.open(replay=-2)
    assert replay_ids(client.connect()) == []
    org.knobs(hold_s=5)
    assert replay_ids(client.connect()) == ids


@pytest.mark.parametrize("where", ["subscribe", "connect"])
def test_a_used_up_allocation_is_refused_until_a_day_has_gone(org: Emulator, client: Comet, where: str) -> None:
    org.knobs(daily_deliveries=3, daily_limit_on=where)
    org.publish(ACCOUNT, 3)
    client.open(replay=-2)
    answer = client.subscribe() if where == "subscribe" else client.connect()
    assert answer[0]["error"] == "403::Organization total events daily limit exceeded"
    org.advance_clock(86_401)
    client.handshake()
    client.connect()
    assert reply(client.subscribe())["successful"]
    assert reply(client.connect())["successful"]


def test_several_subscribes_may_come_in_one_request(org: Emulator, client: Comet) -> None:
    client.handshake()
    channels = [ACCOUNT, "/data/ContactChangeEvent", "/data/NoChangeEvent"]
    messages = [
        {"channel": "/meta/subscribe", "clientId": client.client_id, "subscription": channel, "id": str(number)}
        for number, channel in enumerate(channels)
    ]
    answers = client.post(messages).json()
    assert [(a["id"], a["subscription"], a["successful"]) for a in answers] == [
        ("0", channels[0], True),
        ("1", channels[1], True),
        ("2", channels[2], False),
    ]


@pytest.mark.parametrize(("order", "place"), [("first", -1), ("last", 0), ("mixed", None)])
def test_events_stand_where_the_knob_says(org: Emulator, client: Comet, order: str, place: int | None) -> None:
    org.knobs(event_order=order)
    ids = org.publish(ACCOUNT, 10)
    client.handshake()
    answer = client.subscribe(replay=-2)
    assert replay_ids(answer) == ids
    if place is not None:
        assert answer[place]["channel"] == "/meta/subscribe"


def test_events_ride_on_subscribe_and_disconnect_replies_unless_told_otherwise(org: Emulator, client: Comet) -> None:
    client.open()
    ids = org.publish(ACCOUNT, 2)
    assert replay_ids(client.meta("disconnect")) == ids
    org.knobs(events_on_subscribe=False, events_on_disconnect=False)
    client.handshake()
    assert replay_ids(client.subscribe(replay=-2)) == []
    assert replay_ids(client.meta("disconnect")) == []


def test_an_answer_is_bounded_by_count_and_by_bytes(org: Emulator, client: Comet) -> None:
    ids = org.publish(ACCOUNT, 10, size=2_000, kinds=["CREATE"])
    org.knobs(max_events=4)
    client.handshake()
    assert replay_ids(client.subscribe(replay=-2)) == ids[:4]
    org.knobs(max_events=100, max_bytes=5_000)
    assert replay_ids(client.connect()) == ids[4:6]
    org.knobs(max_bytes=10)
    assert replay_ids(client.connect()) == ids[6:7]


def test_ids_can_be_text(org: Emulator, client: Comet) -> None:
    org.knobs(string_replay_ids=True)
    (first, second) = org.publish(ACCOUNT, 2)
    client.handshake()
    assert replay_ids(client.subscribe(replay=str(first))) == [str(second)]


def test_a_failed_delivery_can_be_had_again_in_a_new_session(org: Emulator, client: Comet) -> None:
    ids = org.publish(ACCOUNT, 3)
    client.open(replay=ids[0])
    answer: Any = client.connect()
    assert replay_ids(answer) == []
    client.open(replay=ids[0])
    assert org.stats()["eventsServed"] == 4
