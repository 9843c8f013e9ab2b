"""What is read from a delivery: channel, replay id, time. What cannot be placed is a stray, kept whole."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc import wire
from cdc.events import (
    Deliveries,
    Delivery,
    Stray,
    from_ms,
    is_damaged,
    read_message,
    read_messages,
    read_replay_id,
    read_usual,
    to_ms,
)

pytestmark = pytest.mark.pure

ODD_LETTERS = 'a1-= "\\\n\x7fü😀\ud83d'
FEW = settings(max_examples=40, deadline=None, derandomize=True, database=None)
CHANNEL = "/data/AccountChangeEvent"
NOON_MS = to_ms(datetime(2026, 11, 23, 12, tzinfo=UTC))


def message(replay_id: str = "42", *, header: str = "{}", payload: str = "", channel: str = f'"{CHANNEL}"') -> bytes:
    """An event message; the parts are JSON text."""
    more = f",{payload}" if payload else ""
    return (
        f'{{"data":{{"schema":"s","payload":{{"ChangeEventHeader":{header}{more}}},'
        f'"event":{{"replayId":{replay_id}}}}},"channel":{channel}}}'
    ).encode()


def delivered(raw: bytes) -> Delivery:
    found = read_message(raw)
    assert isinstance(found, Delivery), found
    return found


def stray(raw: bytes) -> Stray:
    found = read_message(raw)
    assert isinstance(found, Stray), found
    return found


def test_a_delivery_has_a_channel_a_replay_id_a_time_and_its_bytes() -> None:
    raw = message("6421", header=f'{{"commitTimestamp":{NOON_MS}}}')
    assert delivered(raw) == Delivery(CHANNEL, "6421", NOON_MS, raw)
    assert delivered(raw).time == datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    "payload",
    [
        '"n":9007199254740993',
        '"n":' + "9" * 5_000,
        '"n":0.10000000000000000000000001',
        '"n":NaN',
        '"s":"\\ud83d"',
        '"d":' + "[" * 5_000 + "]" * 5_000,
        '"ü":"😀"',
        '"a":1,"a":2',
        '"Unknown__c":{"nested":[null,true]}',
        '"s":"' + "x" * 900_000 + '"',
    ],
    ids=lambda payload: payload[:20],
)
def test_an_awkward_payload_is_kept_byte_for_byte(payload: str) -> None:
    raw = message(header=f'{{"commitTimestamp":{NOON_MS}}}', payload=payload)
    found = delivered(raw)
    assert bytes(found.raw) == raw
    assert (found.channel, found.replay_id, found.time_ms) == (CHANNEL, "42", NOON_MS)


@pytest.mark.parametrize("noise", [b"\xff\xfe", b"\x00", b"\x1f", b"\xed\xa0\x80"])
def test_bytes_that_no_json_text_has_make_a_damaged_stray_of_the_whole_message(noise: bytes) -> None:
    raw = message(payload='"s":"?"').replace(b"?", noise)
    found = read_message(raw)
    assert isinstance(found, Stray)
    assert (found.raw, found.is_damaged) == (raw, True)
    [_, (_, again)] = read_messages(b"[" + message() + b"," + raw + b"]")
    assert again == found


@pytest.mark.parametrize("name", [b"channel", b"replayId", b"event"])
def test_noise_in_the_very_names_that_place_a_message_makes_it_a_damaged_one_too(name: bytes) -> None:
    """Found by chaos: it was taken for a message that has no place, and the event was not asked for again."""
    found = read_message(message().replace(name, b"\xff" + name[1:]))
    assert isinstance(found, Stray)
    assert found.is_damaged


@pytest.mark.parametrize(
    "raw",
    [
        b'{"data":{"event":{"replayId":1}},"channel":"/data/A"}',
        b'{"data":{"payload":null,"event":{"replayId":1}},"channel":"/data/A"}',
        b'{"data":{"payload":[],"event":{"replayId":1}},"channel":"/data/A"}',
        b'{"data":{"payload":{"ChangeEventHeader":"?"},"event":{"replayId":1}},"channel":"/data/A"}',
        b'{"data":{"payload":{"ChangeEventHeader":{"commitTimestamp":"soon"}},"event":{"replayId":1}},"channel":"/data/A"}',
        b'{"clientId":7,"data":{"event":{"replayId":1}},"channel":"/data/A","ext":{}}',
    ],
)
def test_a_delivery_without_a_header_has_no_time_but_a_place(raw: bytes) -> None:
    assert delivered(raw) == Delivery("/data/A", "1", None, raw)


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"17", "not an object"),
        (b'"text"', "not an object"),
        (b"[]", "not an object"),
        (b"{}", "no channel"),
        (b'{"channel":null,"data":{"event":{"replayId":1}}}', "no channel"),
        (b'{"channel":7,"data":{"event":{"replayId":1}}}', "no channel"),
        (b'{"channel":"/data/A"}', "no replay id"),
        (b'{"channel":"/data/A","data":null}', "no replay id"),
        (b'{"channel":"/data/A","data":[1]}', "no replay id"),
        (b'{"channel":"/data/A","data":{"event":7}}', "no replay id"),
        (b'{"channel":"/data/A","data":{"event":{}}}', "no replay id"),
        (b'{"channel":"/data/A","data":{"event":{"replayId":null}}}', "a replay id that cannot be used"),
        (b'{"channel":"/data/A","data":{"event":{"replayId":-1}}}', "a replay id that cannot be used"),
        (
            b'{"channel":"/data/A","data":{"event":{"replayId":1},"payload":{"s":"a\nb"}}}',
            "a line break inside a token",
        ),
    ],
)
def test_what_cannot_be_placed_is_a_stray_with_its_reason_and_all_its_bytes(raw: bytes, reason: str) -> None:
    found = stray(raw)
    assert found.reason.startswith(reason)
    assert found.raw == raw


def test_a_stray_knows_its_channel_where_it_names_one() -> None:
    assert stray(b'{"channel":"/data/A"}').channel == "/data/A"


@pytest.mark.parametrize(
    "raw",
    [
        b'{"channel":"/meta/connect","n":NaN}',
        b'{"channel":"/meta/connect","id":"7"}',
        b'{"channel":"\\u002fmeta/connect"}',
    ],
)
def test_a_meta_message_is_told_by_its_channel(raw: bytes) -> None:
    assert read_message(raw) == "/meta/connect"


def test_of_equal_names_the_last_counts_fast_and_leniently() -> None:
    twice = '"event":{"replayId":1},"event":{"replayId":2}'
    fast = f'{{"data":{{{twice}}},"channel":"/data/A","channel":"/data/B"}}'.encode()
    lenient = f'{{"data":{{{twice},"n":NaN}},"channel":"/data/A","channel":"/data/B"}}'.encode()
    for raw in (fast, lenient):
        assert (delivered(raw).channel, delivered(raw).replay_id) == ("/data/B", "2")


def test_a_line_break_between_tokens_is_taken_out() -> None:
    assert delivered(b'{"data":{"event":\n{"replayId":1\r\n}},\n"channel":"/data/A"}').raw == (
        b'{"data":{"event":{"replayId":1}},"channel":"/data/A"}'
    )


# --- replay ids ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("token", "replay_id"),
    [
        ("42", "42"),
        ("0", "0"),
        ("-7", "-7"),
        ("9007199254740993", "9007199254740993"),
        ("123456789012345678901234567890", "123456789012345678901234567890"),
        ("42.0", "42.0"),
        ("4.2E1", "4.2E1"),
        ('"42"', '"42"'),
        ('"AAA="', '"AAA="'),
        ('"a b"', '"a\\u0020b"'),
        ('"ü"', '"\\u00fc"'),
        ('"\\ud800"', '"\\ud800"'),
        ('"\x7f"', '"\\u007f"'),
        ('"\\u0031"', '"\\u0031"'),
        ("-1", None),
        ("-2", None),
        ("-1.0", None),
        ("-2e0", None),
        ("-0.2E1", None),
        ('"-1"', None),
        ('" -2 "', None),
        ('"\\u002d1"', None),
        ('""', None),
        ("null", None),
        ("true", None),
        ("NaN", None),
        ("[1]", None),
        ("{}", None),
        ("", None),
        ("9" * 513, None),
        ('"' + "x" * 600 + '"', None),
        ('"' + "ü" * 100 + '"', None),
        ('"\xff', None),
    ],
)
def test_a_replay_id_is_its_json_token_and_never_a_preset(token: str, replay_id: str | None) -> None:
    assert read_replay_id(token.encode()) == replay_id


@FEW
@given(st.text(ODD_LETTERS, max_size=12) | st.integers() | st.floats(allow_nan=False, allow_infinity=False))
def test_a_replay_id_read_again_is_the_same_and_has_the_same_value(value: object) -> None:
    read = read_replay_id(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))
    if read is not None:
        assert read_replay_id(read.encode("ascii")) == read
        assert json.loads(read) == value
        assert read.isprintable()
        assert " " not in read


# --- times -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("commit_timestamp", "time"),
    [
        ("1795435200123", "2026-11-23T12:00:00.123"),
        ("978307200000", "2001-01-01T00:00:00"),
        ("978307199999", None),
        ("4102444799999", "2099-12-31T23:59:59.999"),
        ("4102444800000", None),
        ("0", None),
        ("-1", None),
        ("1795435200", None),
        ("99999999999999999999999", None),
        ("9" * 5_000, None),
        ("1795435200123.0", None),
        ('"1795435200123"', None),
        ("null", None),
        ("NaN", None),
    ],
)
def test_the_time_is_the_commit_timestamp_where_that_is_plausible(commit_timestamp: str, time: str | None) -> None:
    found = delivered(message(header=f'{{"commitTimestamp":{commit_timestamp}}}')).time
    assert (found.isoformat(timespec="milliseconds") if found else None) == (
        datetime.fromisoformat(f"{time}+00:00").isoformat(timespec="milliseconds") if time else None
    )


@pytest.mark.parametrize(
    ("created_date", "time"),
    [
        ('"2026-11-23T12:00:00.123Z"', "2026-11-23T12:00:00.123000+00:00"),
        ('"2026-11-23T12:00:00.123+0000"', "2026-11-23T12:00:00.123000+00:00"),
        ('"2026-11-23T23:30:00-01:00"', "2026-11-24T00:30:00+00:00"),
        ('"2026-11-23T12:00:00"', "2026-11-23T12:00:00+00:00"),
        ('"1999-12-31T23:59:59Z"', None),
        ('"2100-01-01T00:00:00Z"', None),
        ('"9999-12-31T23:59:59-23:59"', None),
        ('"0001-01-01T00:00:00+23:59"', None),
        ('"yesterday"', None),
        ('""', None),
        ("1795435200123", None),
        ("null", None),
        ('"\\ud800"', None),
    ],
)
def test_a_platform_events_time_is_its_created_date(created_date: str, time: str | None) -> None:
    raw = f'{{"data":{{"payload":{{"CreatedDate":{created_date}}},"event":{{"replayId":1}}}},"channel":"/event/X__e"}}'
    found = delivered(raw.encode()).time
    assert (found.isoformat() if found else None) == time


def test_the_commit_timestamp_goes_before_the_created_date() -> None:
    raw = message(header=f'{{"commitTimestamp":{NOON_MS}}}', payload='"CreatedDate":"2020-01-01T00:00:00Z"')
    assert delivered(raw).time_ms == NOON_MS


@FEW
@given(st.integers(978_307_200_000, 4_102_444_799_999))
def test_milliseconds_survive_the_way_there_and_back(time_ms: int) -> None:
    assert to_ms(from_ms(time_ms)) == time_ms


@FEW
@given(
    st.binary(max_size=40)
    | st.lists(
        st.sampled_from(
            [
                b'{"channel":',
                b'"/meta/x"',
                b'"data":',
                b'{"event":{"replayId":',
                b"1",
                b"}",
                b",",
                b'"\xff"',
                b"\\",
                b"NaN",
            ]
        )
    ).map(b"".join)
)
def test_any_bytes_are_a_delivery_a_stray_or_a_meta_message(raw: bytes) -> None:
    found = read_message(raw)
    if isinstance(found, str):
        assert found.startswith("/meta/")
    elif isinstance(found, Stray):
        assert found.raw == raw


ODD_MESSAGES = (
    message("7"),
    message("-0", header=f'{{"commitTimestamp":{NOON_MS}}}'),
    message("-1", header=f'{{"commitTimestamp":{NOON_MS}}}'),
    message("9" * 400, header=f'{{"commitTimestamp":{NOON_MS}}}'),
    message("1.0", header=f'{{"commitTimestamp":{NOON_MS}}}'),
    message('"8"', header=f'{{"commitTimestamp":{NOON_MS}}}'),
    message("8", header=f'{{"commitTimestamp":{NOON_MS}.0}}'),
    message("8", header='{"commitTimestamp":12}'),
    message("8", header="null", payload='"CreatedDate":"2026-11-23T12:00:00.000Z"'),
    message("8", header=f'{{"commitTimestamp":{NOON_MS}}}', channel="null"),
    message("8", header=f'{{"commitTimestamp":{NOON_MS}}}', channel='"/meta/connect"'),
    message("8", header=f'{{"commitTimestamp":{NOON_MS}}}').replace(b",", b",\r\n"),
    b'{"channel":"/meta/connect","successful":true}',
    b'{"channel":"/data/A","data":7}',
    b"[1]",
    message("8", header=f'{{"commitTimestamp":{NOON_MS}}}', payload='"s":"?"').replace(b"?", b"\xff\xfe"),
    message("8", header=f'{{"commitTimestamp":{NOON_MS}}}', payload='"s":"?"').replace(b"?", b"\x01"),
    message("8", header=f'{{"commitTimestamp":{NOON_MS}}}', payload='"s":"\u6771\u4eac"'),
)


USUAL_MESSAGE = message("8", header=f'{{"commitTimestamp":{NOON_MS}}}', payload='"s":"\u6771\u4eac"')
META_MESSAGE = b'{"channel":"/meta/connect","successful":true}'
USUAL_MESSAGES = st.integers(1, 1 << 65).map(
    lambda number: message(str(number), header=f'{{"commitTimestamp":{NOON_MS + number % 1000}}}')
)
LAYOUTS = (
    (b"[", b",", b"]"),
    (b"[", b", ", b"]"),
    (b"[ ", b" ,\t", b" ] "),
    (b"[\n", b",\r\n", b"\n]"),
    (b"", b",", b"]"),
)


def read_both_ways(body: bytes) -> None:
    """Where the fast way reads an answer, the slow one reads the very same in it."""
    usual = read_usual(body)
    if usual is None:
        return
    fast, metas = usual
    alone = list(read_messages(body))
    assert list(map(bytes, metas)) == [bytes(raw) for raw, found in alone if isinstance(found, str)]
    assert not any(map(is_damaged, metas))
    assert len(fast.lines) == len(fast)
    assert rows(fast) == rows(found for _, found in alone if isinstance(found, Delivery))
    assert not [found for _, found in alone if isinstance(found, Stray)]


def rows(deliveries: Iterable[Delivery]) -> list[tuple[str, str, int | None, bytes]]:
    return [(each.channel, each.replay_id, each.time_ms, bytes(each.raw)) for each in deliveries]


@given(
    st.lists(
        st.sampled_from([META_MESSAGE, USUAL_MESSAGE]) | USUAL_MESSAGES | st.sampled_from(ODD_MESSAGES), max_size=6
    ),
    st.sampled_from(LAYOUTS),
)
@settings(FEW, max_examples=300)
def test_a_whole_answer_is_read_as_its_messages_are_one_by_one(raws: list[bytes], layout: tuple[bytes, ...]) -> None:
    opening, between, closing = layout
    read_both_ways(opening + between.join(raws) + closing)


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    """A usual answer of which bytes were lost, put in, changed or sent twice, most often where messages meet."""
    count = draw(st.integers(2, 4))
    events = [message(str(id_), header=f'{{"commitTimestamp":{NOON_MS}}}') for id_ in range(1, count + 1)]
    opening, between, closing = draw(st.sampled_from(LAYOUTS))
    first, last = draw(st.sampled_from([([], [META_MESSAGE]), ([META_MESSAGE], []), ([META_MESSAGE], [META_MESSAGE])]))
    body = opening + between.join([*first, *events, *last]) + closing
    meetings = [found.end() for found in re.finditer(rb"}(?=\s*[,\]]\s*({|$))", body)]
    places = st.sampled_from(meetings) | st.integers(0, len(body))
    for _ in range(draw(st.integers(1, 2))):
        begin, end = sorted([draw(places), draw(places)]) if draw(st.booleans()) else [draw(places)] * 2
        end += draw(st.integers(0, 2))
        noise = [b"", b" ", b",", b"0", b"{}", b"\x00" * (end - begin), b"\xff", body[begin:end] * 2]
        body = body[:begin] + draw(st.sampled_from(noise)) + body[end:]
    return body


@given(spoilt())
@settings(FEW, max_examples=1000)
def test_a_spoilt_answer_is_never_read_wrongly(body: bytes) -> None:
    try:
        read_both_ways(body)
    except wire.Malformed:
        raise AssertionError("the fast way reads what the slow one cannot") from None


@pytest.mark.parametrize(
    "body",
    [
        b"[M,A,A A,A,M]",
        b"[A,AA,A]",
        b"[A,A A]",
        b"[M A,A]",
        b"[0A,A]",
        b"[M,D,A,A]",
        b"[D,A,A]",
        b"[A,A,D]",
        b'[M,{"data" :{}} A,A]',
        b"[A,A,B,C]",
        b"[A,A,,A]",
        b"[,A,A]",
        b"[A,A,]",
        b"[A,A]]",
        b"[A,A] x",
        b"[A,A",
        b"[[A,A]]",
        b"[A A,A]",
        b"[M,,A,A]",
        b"[A,A,1,2]",
        b"[A,M,A,M]",
        b'[{"data":[A,A]},A]',
        b'[A,{"data":[A,A],"channel":"/data/A"}]',
        b'[A,{"data":{"event":{"replayId":1},"payload":{"ChangeEventHeader":{"commitTimestamp":%d},"a":[A,A]}},"channel":"/d"}]'
        % NOON_MS,
        b'[A,A,{"data":"},A"}]',
    ],
)
def test_an_answer_laid_out_oddly_is_never_read_wrongly(body: bytes) -> None:
    damaged = META_MESSAGE.replace(b"true", b"tr\x00e")
    for letter, raw in ((b"A", USUAL_MESSAGE), (b"M", META_MESSAGE), (b"B", message("9")), (b"D", damaged)):
        body = body.replace(letter, raw)
    read_both_ways(body)


@pytest.mark.parametrize("body", [b"[A,A,M]", b"[M,A,A]", b"[A, A, M]", b"[M,A,A,A,M]", b"[A,A]", b"[ A ,A ] "])
def test_a_usual_answer_is_read_the_fast_way(body: bytes) -> None:
    usual = read_usual(body.replace(b"A", USUAL_MESSAGE).replace(b"M", META_MESSAGE))
    assert usual is not None
    assert (len(usual[0]), len(usual[1])) == (body.count(b"A"), body.count(b"M"))


@pytest.mark.parametrize(
    "layout",
    [
        '{"data":{"schema":"SCHEMA","payload":PAYLOAD,"event":{"replayId":1}},"channel":"CHANNEL"}',
        '{ "data": { "schema" : "SCHEMA", "payload" : PAYLOAD, "event":{"replayId":1}}, "channel" : "CHANNEL" }',
        '{"data":{"payload":PAYLOAD,"event":{"replayId":1},"schema":"SCHEMA"},"channel":"CHANNEL"}',
        '{"data":{"event":{"replayId":1},"payload":PAYLOAD},"channel":"CHANNEL"}',
        '{"id":"SCHEMA","channel":"CHANNEL","data":{"event":{"replayId":1},"payload":PAYLOAD}}',
    ],
)
def test_events_of_several_channels_are_read_the_fast_way_however_their_members_are_ordered(layout: str) -> None:
    payload = f'{{"Name":"FIELD","ChangeEventHeader":{{"commitTimestamp":{NOON_MS}}}}}'
    kinds = [
        layout.replace("PAYLOAD", payload).replace("SCHEMA", name * 3).replace("CHANNEL", f"/data/{name}")
        for name in "ABAA"
    ]
    body = ("[" + ",".join([*kinds, META_MESSAGE.decode()]) + "]").encode()
    usual = read_usual(body)
    assert usual is not None
    assert usual[0].channels == ["/data/A", "/data/B", "/data/A", "/data/A"]
    assert usual[0].lines == [each.encode() for each in kinds]
    read_both_ways(body)


def test_deliveries_are_sorted_by_channel_in_their_order() -> None:
    first, second = (message(header=f'{{"commitTimestamp":{NOON_MS}}}', channel=f'"/data/{name}"') for name in "AB")
    usual = read_usual(b"[" + b",".join([first, second, first, first]) + b"]")
    assert usual is not None
    found = usual[0].by_channel()
    assert {name: len(deliveries) for name, deliveries in found.items()} == {"/data/A": 3, "/data/B": 1}
    assert [bytes(line) for line in found["/data/A"].lines] == [first] * 3
    assert rows(found["/data/A"][1:] + found["/data/B"]) == rows(usual[0].at([2, 3, 1]))
    assert len(found["/data/A"][3:]) == 0
    assert Deliveries().by_channel() == {}
