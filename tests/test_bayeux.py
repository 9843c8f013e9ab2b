"""The protocol core: what is sent, what answers mean, what advice is kept, and why a request failed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc import bayeux, wire
from cdc.bayeux import Advice, Cause, Reply, cause_of, read_advice, read_answer

pytestmark = pytest.mark.pure

FEW = settings(max_examples=40, deadline=None, derandomize=True, database=None)
CHANNEL = "/data/AccountChangeEvent"
EVENT = {"data": {"event": {"replayId": 7}, "payload": {}}, "channel": CHANNEL}


def answer(*messages: dict[str, Any]) -> bytes:
    return json.dumps(messages).encode()


def reply(channel: str = "/meta/connect", **fields: Any) -> Reply:
    (found,) = read_answer(answer({"channel": channel, **fields})).replies
    return found


# --- what is sent ----------------------------------------------------------------------------------------------------


def test_the_handshake_asks_for_long_polling_and_replay() -> None:
    assert json.loads(bayeux.handshake("1")) == [
        {
            "channel": "/meta/handshake",
            "id": "1",
            "version": "1.0",
            "minimumVersion": "1.0",
            "supportedConnectionTypes": ["long-polling"],
            "ext": {"replay": True},
        }
    ]


@pytest.mark.parametrize(
    ("timeout_ms", "more"), [(None, {}), (0, {"advice": {"timeout": 0}}), (20_000, {"advice": {"timeout": 20_000}})]
)
def test_a_connect_travels_alone_and_may_ask_for_an_early_answer(timeout_ms: int | None, more: dict[str, Any]) -> None:
    assert json.loads(bayeux.connect("abc", "2", timeout_ms=timeout_ms)) == [
        {"channel": "/meta/connect", "id": "2", "clientId": "abc", "connectionType": "long-polling", **more}
    ]


@pytest.mark.parametrize(
    "replay_id",
    ["-1", "-2", "6421", "123456789012345678901234567890", "42.0", "4.2E1", '"AAA="', '"a\\u0020b"', '"\\ud800"'],
)
def test_a_replay_id_is_sent_back_exactly_as_it_came(replay_id: str) -> None:
    body = bayeux.subscribe("abc", "3", CHANNEL, replay_id)
    assert f'"ext":{{"replay":{{"{CHANNEL}":{replay_id}}}}}'.encode() in body
    (message,) = json.loads(body)
    assert {name: message[name] for name in ("channel", "id", "clientId", "subscription")} == {
        "channel": "/meta/subscribe",
        "id": "3",
        "clientId": "abc",
        "subscription": CHANNEL,
    }


def test_the_disconnect_names_the_client() -> None:
    assert json.loads(bayeux.disconnect("abc", "9")) == [{"channel": "/meta/disconnect", "id": "9", "clientId": "abc"}]


# --- what is received ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", [0, 1, 2])
def test_deliveries_are_found_before_and_after_the_reply(position: int) -> None:
    messages: list[dict[str, Any]] = [EVENT, EVENT]
    messages.insert(position, {"channel": "/meta/connect", "id": "7", "successful": True})
    found = read_answer(answer(*messages))
    assert [delivery.replay_id for delivery in found.deliveries] == ["7", "7"]
    assert [each.channel for each in found.replies] == ["/meta/connect"]
    assert found.strays == ()


@pytest.mark.parametrize("channel", ["/meta/subscribe", "/meta/disconnect", "/meta/connect"])
def test_deliveries_may_ride_on_any_answer_also_a_failed_one(channel: str) -> None:
    found = read_answer(
        answer({"channel": channel, "id": "1", "successful": False, "error": "403::Unknown client"}, EVENT)
    )
    assert len(found.deliveries) == 1
    assert not found.replies[0].successful


def test_one_message_alone_counts_as_an_answer() -> None:
    assert read_answer(b'{"channel":"/meta/connect","successful":true}').replies[0].successful


def test_one_bad_event_does_not_hold_back_its_neighbours() -> None:
    bad = b'{"data":{"event":{"replayId":8},"payload":{"n":NaN,"s":"\\ud83d"}},"channel":"/data/AccountChangeEvent"}'
    body = b"[" + json.dumps(EVENT).encode() + b"," + bad + b',17,{"channel":"/meta/connect","successful":true}]'
    found = read_answer(body)
    assert [delivery.replay_id for delivery in found.deliveries] == ["7", "8"]
    assert [stray.raw for stray in found.strays] == [b"17"]
    assert found.replies[0].successful


@pytest.mark.parametrize("body", [b"", b"<html/>", b"[{", b'[{"channel":"/meta/connect"}'])
def test_an_answer_without_borders_is_malformed(body: bytes) -> None:
    with pytest.raises(wire.Malformed):
        read_answer(body)


@pytest.mark.parametrize(
    ("fields", "is_ours"),
    [
        ({"id": "7"}, True),
        ({"id": 7}, True),
        ({}, True),
        ({"id": None}, True),
        ({"id": "8"}, False),
        ({"id": 7.5}, False),
        ({"id": True}, False),
        ({"id": "7", "channel": "/meta/subscribe"}, False),
    ],
)
def test_a_reply_is_ours_by_its_channel_and_id(fields: dict[str, Any], is_ours: bool) -> None:
    found = read_answer(answer({"channel": "/meta/connect", "successful": True, **fields}))
    assert (found.reply_to("/meta/connect", "7") is not None) == is_ours


@pytest.mark.parametrize("channel", [bayeux.CONNECT, bayeux.SUBSCRIBE, bayeux.HANDSHAKE])
def test_a_failure_that_names_no_channel_answers_the_request_that_is_outstanding(channel: str) -> None:
    """As "Handling Streaming API Errors" shows it: nothing but error, advice and successful."""
    body = answer(
        {"error": "403::Unknown client", "successful": False, "advice": {"interval": 0, "reconnect": "handshake"}},
        EVENT,
    )
    found = bayeux.read_answer(body)
    assert (len(found.deliveries), found.strays) == (1, ())
    reply = found.reply_to(channel, "7")
    assert reply is not None
    assert (reply.channel, reply.error, reply.successful) == (channel, "403::Unknown client", False)
    assert bayeux.cause_of(reply) is Cause.SESSION


@pytest.mark.parametrize(
    "message",
    [
        {"successful": True, "error": "x"},
        {"successful": False},
        {"successful": False, "error": "x", "data": {}},
        {"successful": "false", "error": "x"},
        {"successful": False, "error": "x" * 5000},
    ],
)
def test_any_other_message_without_a_channel_is_a_stray(message: dict[str, Any]) -> None:
    found = bayeux.read_answer(answer(message))
    assert (found.replies, len(found.strays)) == ((), 1)


def test_the_reply_among_others_is_found() -> None:
    found = read_answer(
        answer({"channel": "/meta/connect", "id": "6"}, {"channel": "/meta/connect", "id": "7", "error": "x"})
    )
    ours = found.reply_to("/meta/connect", "7")
    assert ours is not None
    assert ours.error == "x"


@pytest.mark.parametrize(
    ("message", "is_disconnected"),
    [
        ({"channel": "/meta/disconnect"}, True),
        ({"channel": "/meta/disconnect", "id": "9", "successful": True}, False),
        ({"channel": "/meta/connect"}, False),
    ],
)
def test_a_disconnect_without_an_id_is_the_servers_own(message: dict[str, Any], is_disconnected: bool) -> None:
    assert read_answer(answer(message)).is_disconnected is is_disconnected


@pytest.mark.parametrize("value", ["true", 1, None, [], {}])
def test_only_true_is_a_success(value: Any) -> None:
    assert not reply(successful=value).successful


def test_a_reply_that_no_parser_holds_is_known_by_its_channel_and_is_no_success() -> None:
    body = b'[{"channel":"/meta/connect","successful":true,"n":' + b"[" * 100_000 + b"]" * 100_000 + b"}]"
    (found,) = read_answer(body).replies
    assert (found.channel, found.successful) == ("/meta/connect", False)


def test_a_number_of_5000_digits_in_a_reply_does_not_raise() -> None:
    body = b'[{"channel":"/meta/connect","successful":true,"n":' + b"9" * 5_000 + b"}]"
    assert read_answer(body).replies[0].channel == "/meta/connect"


def test_what_a_server_says_can_always_be_written_down() -> None:
    """A lone surrogate in a text would make every log line and record that quotes it impossible."""
    found = reply(error="403::\ud83d", clientId="a\ud800", ext={"sfdc": {"failureReason": "\udfff"}})
    for text in (found.error, found.reason, found.client_id or "", found.words):
        text.encode()


def test_the_words_are_the_error_and_the_reason_each_once() -> None:
    said = reply(error="403::Handshake denied", ext={"sfdc": {"failureReason": "401::Authentication invalid"}})
    assert said.words == "403::Handshake denied / 401::Authentication invalid"
    assert reply(error="401::x", ext={"sfdc": {"failureReason": "401::x"}}).words == "401::x"
    assert reply().words == "no error text"
    assert reply(error={"odd": 1}, ext={"sfdc": "odd"}).words == "no error text"
    assert len(reply(error="x" * 100_000).words) <= 2_000


# --- advice ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("advice", "expected"),
    [
        ({}, Advice("retry", 0, 110_000, False)),
        ({"reconnect": "retry", "interval": 0, "timeout": 110_000}, Advice()),
        ({"reconnect": "handshake", "interval": 0}, Advice("handshake", 0, 110_000)),
        ({"reconnect": "none", "interval": 0}, Advice("none", 0, 110_000)),
        ({"timeout": 20_000}, Advice("retry", 0, 20_000)),
        ({"timeout": 0}, Advice("retry", 0, 0)),
        ({"interval": 2_000, "multiple-clients": True}, Advice("retry", 2_000, 110_000, True)),
        ({"interval": 1.5, "timeout": 2.9}, Advice("retry", 1, 2)),
        ({"reconnect": "never"}, Advice()),
        ({"reconnect": None}, Advice()),
        ({"timeout": -1, "interval": -1}, Advice()),
        ({"timeout": "110000", "interval": "0"}, Advice()),
        ({"timeout": None, "interval": None}, Advice()),
        ({"timeout": True, "interval": True}, Advice()),
        ({"timeout": float("nan"), "interval": float("nan")}, Advice()),
        ({"timeout": float("inf"), "interval": 10**30}, Advice("retry", 86_400_000, 86_400_000)),
        ({"multiple-clients": "yes"}, Advice()),
    ],
)
def test_advice_is_laid_over_the_defaults_and_never_means_no_limit(advice: dict[str, Any], expected: Advice) -> None:
    assert read_advice(advice) == expected


@pytest.mark.parametrize(
    ("fields", "expected"), [({}, None), ({"advice": None}, None), ({"advice": []}, None), ({"advice": {}}, Advice())]
)
def test_a_reply_without_advice_changes_none(fields: dict[str, Any], expected: Advice | None) -> None:
    assert reply(**fields).advice == expected


# --- causes ----------------------------------------------------------------------------------------------------------

DOS_GUARD = (
    "403::To protect all customers from excessive use and Denial of Service attacks, we limit the number of "
    "simultaneous connections per server.  Your request has been denied because this limit has been exceeded.  "
    "Please try your request again later."
)
BUSY = "503::Server is too busy.  Please try your request again later."
INVALID = (
    "400::The replayId {82} you provided was invalid. Please provide a valid ID, -2 to replay all events, or -1 to"
)
NO_MAP = (
    "400::The replayId for channel {/data/X} wasn't found using the provided replay ID map {{}}. Ensure that the "
    "channel name you provided in the replay map is valid and matches the channel name used for subscribing."
)


@pytest.mark.parametrize(
    ("channel", "error", "reason", "cause"),
    [
        # a wrapper hides the cause
        ("handshake", "403::Handshake denied", "401::Authentication invalid", Cause.CREDENTIAL),
        ("handshake", "403::Handshake denied", "401::Request requires authentication", Cause.CREDENTIAL),
        ("handshake", "403::Handshake denied", DOS_GUARD, Cause.BUSY),
        ("handshake", "403::Handshake denied", BUSY, Cause.BUSY),
        ("handshake", "403::Handshake denied", "", Cause.SESSION),
        ("handshake", "401::Authentication invalid", "", Cause.CREDENTIAL),
        ("handshake", "403::Organization concurrent user limit exceeded", "", Cause.BUSY),
        ("handshake", "403::Handshake denied", "403::Organization concurrent user limit exceeded", Cause.BUSY),
        # a 503 hides behind a 401
        ("connect", "401::Authentication invalid", BUSY, Cause.BUSY),
        ("connect", "401::Authentication invalid", "", Cause.CREDENTIAL),
        ("connect", BUSY, "", Cause.BUSY),
        ("subscribe", "403::Subscribe denied", BUSY, Cause.BUSY),
        # the session is gone
        ("connect", "403::Unknown client", "", Cause.SESSION),
        ("subscribe", "403::Unknown client", "", Cause.SESSION),
        ("connect", "402::Unknown client", "", Cause.SESSION),
        ("connect", "402::session_unknown", "", Cause.SESSION),
        ("subscribe", "402::session_unknown", "", Cause.SESSION),
        ("subscribe", "403::Client has not completed handshake", "", Cause.SESSION),
        (
            "subscribe",
            "400::Client ab12 has established a session, but no BAYEUX_BROWSER cookie present",
            "",
            Cause.SESSION,
        ),
        ("subscribe", "400::Authenticated user id does not match the session's user id", "", Cause.SESSION),
        ("connect", "", "", Cause.SESSION),
        ("connect", "500::whatever", "", Cause.SESSION),
        # the allocation
        ("connect", "403::Organization total events daily limit exceeded", "", Cause.ALLOCATION),
        ("subscribe", "403::Organization total events daily limit exceeded", "", Cause.ALLOCATION),
        ("subscribe", "403::Denied", "403::Organization total events daily limit exceeded", Cause.ALLOCATION),
        # the replay id, and texts that look like it
        ("subscribe", INVALID, "", Cause.REPLAY_ID),
        ("subscribe", INVALID.replace("{82}", '{"AAA="}'), "", Cause.REPLAY_ID),
        ("subscribe", INVALID.replace("{82}", "{}"), "", Cause.REPLAY_ID),
        ("subscribe", INVALID.replace("{82}", "{8\n2}"), "", Cause.REPLAY_ID),
        ("subscribe", "403::Subscribe denied", INVALID, Cause.REPLAY_ID),
        ("subscribe", INVALID.replace("{82}", "82"), "", Cause.CHANNEL),
        ("subscribe", NO_MAP, "", Cause.CHANNEL),
        ("subscribe", f"403::{INVALID}", "", Cause.CHANNEL),
        # the channel
        ("subscribe", "400::The channel you requested to subscribe to doesn't exist {/data/X}", "", Cause.CHANNEL),
        ("subscribe", "400::Channel name not specified", "", Cause.CHANNEL),
        ("subscribe", "400::Channel subscriptions must start with a leading '/'", "", Cause.CHANNEL),
        ("subscribe", "403::Cannot create channel {/data/X}", "", Cause.CHANNEL),
        ("subscribe", "403:denied_by_security_policy:create_denied", "", Cause.CHANNEL),
        ("subscribe", "403::Restricted channel", "", Cause.CHANNEL),
        ("subscribe", "403::User not allowed to subscribe CDC without View All Data permissions", "", Cause.CHANNEL),
        ("subscribe", "403::User not enabled for streaming", "", Cause.CHANNEL),
        ("subscribe", "403::Subscriber does not have access to the entity", "", Cause.CHANNEL),
        ("subscribe", "404::Unknown channel", "", Cause.CHANNEL),
        ("subscribe", "403::subscription_invalid", "", Cause.CHANNEL),
        ("subscribe", "403::Cannot create channel {/event/Unknown_Client__e}", "", Cause.CHANNEL),
        ("subscribe", "403::Cannot create channel {/event/Session_Unknown__e}", "", Cause.CHANNEL),
        ("subscribe", "", "", Cause.CHANNEL),
        # the request
        ("handshake", "400::API version in the URI is mandatory. URI format: '/cometd/66.0'", "", Cause.REQUEST),
        (
            "handshake",
            "400::Unsupported API version. Only API versions '37.0' and later are supported.",
            "",
            Cause.REQUEST,
        ),
        ("connect", "400::Invalid connection type {websocket}", "", Cause.REQUEST),
        ("subscribe", "413::Maximum Request Size Exceeded", "", Cause.REQUEST),
    ],
)
def test_salesforces_texts_mean(channel: str, error: str, reason: str, cause: Cause) -> None:
    ext = {"ext": {"sfdc": {"failureReason": reason}}} if reason else {}
    for advice in ({}, {"advice": {"reconnect": "none", "interval": 0}}, {"advice": {"reconnect": "handshake"}}):
        said = reply(f"/meta/{channel}", id="1", successful=False, error=error, **ext, **advice)
        assert cause_of(said) is cause


def test_a_503_behind_a_401_says_both() -> None:
    said = reply(
        error="401::Authentication invalid", ext={"sfdc": {"failureReason": BUSY}}, advice={"reconnect": "none"}
    )
    assert said.words == f"401::Authentication invalid / {BUSY}"
    assert said.advice == Advice("none")


# --- whatever comes --------------------------------------------------------------------------------------------------

odd = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "x", "/meta/connect"]) | st.just([1])
)
replies = st.fixed_dictionaries(
    {"channel": st.sampled_from(["/meta/connect", "/meta/x", "/data/A"])},
    optional={
        "id": odd,
        "clientId": odd,
        "successful": odd,
        "error": odd,
        "subscription": odd,
        "advice": odd | st.fixed_dictionaries({}, optional={"reconnect": odd, "interval": odd, "timeout": odd}),
        "ext": odd | st.fixed_dictionaries({"sfdc": odd | st.fixed_dictionaries({"failureReason": odd})}),
    },
)


@FEW
@given(st.lists(replies, max_size=3))
def test_whatever_types_a_reply_has_it_is_read(messages: list[dict[str, Any]]) -> None:
    found = read_answer(json.dumps(messages).encode())
    assert len(found.replies) + len(found.deliveries) + len(found.strays) == len(messages)
    for each in found.replies:
        cause_of(each)
        if each.advice:
            assert 0 <= each.advice.timeout_ms <= 86_400_000
            assert 0 <= each.advice.interval_ms <= 86_400_000


@FEW
@given(st.binary(max_size=50))
def test_any_bytes_are_messages_or_malformed(body: bytes) -> None:
    try:
        read_answer(body)
    except wire.Malformed:
        return
