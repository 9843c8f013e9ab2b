"""Borders of JSON values in bytes: found fast or leniently, no byte changed, no error but Malformed."""

from __future__ import annotations

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc import wire

pytestmark = pytest.mark.pure

ODD_LETTERS = 'a"\\[]{},:\n\u2028ü😀'
FEW = settings(max_examples=25, deadline=None, derandomize=True, database=None)

# What the fast parser refuses or cannot hold; each is one message of an answer.
AWKWARD = {
    "integer above 2^53": b'{"n":9007199254740993}',
    "integer above 2^64": b'{"n":18446744073709551617}',
    "5,000 digits": b'{"n":' + b"9" * 5_000 + b"}",
    "5,000 digits behind the point": b'{"n":0.' + b"1" * 5_000 + b"}",
    "exponent that no float holds": b'{"n":1e999999}',
    "NaN": b'{"n":NaN}',
    "infinity": b'{"n":-Infinity}',
    "lone high surrogate escape": b'{"s":"\\ud83d"}',
    "lone low surrogate escape": b'{"s":"\\ude00!"}',
    "raw surrogate bytes": b'{"s":"\xed\xa0\xbd"}',
    "invalid UTF-8": b'{"s":"\xff\xfe"}',
    "raw control characters": b'{"s":"\x00\x01\t"}',
    "unknown escape": b'{"s":"\\x41"}',
    "brackets and quotes in a string": b'{"s":"]},{[\\"\\\\"}',
    "key twice": b'{"a":1,"a":2}',
    "deep arrays": b'{"d":' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "deep objects": b'{"d":' + b'{"x":' * 20_000 + b"1" + b"}" * 20_000 + b"}",
    "900 kB": b'{"s":"' + b"x" * 900_000 + b'"}',
    "empty object": b"{}",
    "number": b"17",
}


def as_bytes(values: list[wire.Raw]) -> list[bytes]:
    return [bytes(value) for value in values]


@pytest.mark.parametrize("awkward", AWKWARD.values(), ids=AWKWARD.keys())
def test_an_awkward_message_comes_out_as_it_went_in_and_does_not_hide_its_neighbours(awkward: bytes) -> None:
    before, after = b'{"data":1,"channel":"/data/A"}', b'{"channel":"/meta/connect","successful":true}'
    body = b"[" + before + b"," + awkward + b" , " + after + b"]\n"
    assert as_bytes(wire.elements(body)) == [before, awkward, after]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"[]", []),
        (b" [ ] \r\n", []),
        (b'{"a":1}', [b'{"a":1}']),
        (b'\n {"a":NaN} ', [b'{"a":NaN}']),
        (b"[1]", [b"1"]),
        (b'[ {"a":\n[1,2]} ]', [b'{"a":\n[1,2]}']),
    ],
)
def test_an_answer_is_an_array_of_messages_or_one_alone(body: bytes, expected: list[bytes]) -> None:
    assert as_bytes(wire.elements(body)) == expected


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"null",
        b'"text"',
        b"<html><body>503</body></html>",
        b'[{"a":1}',
        b'[{"a":1},',
        b'[{"a":"unfinished',
        b'[{"a":1}]]',
        b'[{"a":1}] [',
        b'[{"a":1},,{"b":2}]',
        b'[{"a":1},]',
        b"[{]}",
        b"[" * 5_000,
        b"[\xff",
        b'{"a":1',
    ],
)
def test_bytes_without_borders_are_malformed(body: bytes) -> None:
    with pytest.raises(wire.Malformed):
        wire.elements(body)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"{}", {}),
        (b' {"a" : 1 , "b":[1,{"c":2}] } ', {"a": b"1", "b": b'[1,{"c":2}]'}),
        (b'{"a":1,"a":2}', {"a": b"2"}),
        (b'{"\\u0061":NaN}', {"a": b"NaN"}),
        (b'{"a,b:{":"}"}', {"a,b:{": b'"}"'}),
        (b'{"\\ud800":1}', {"\ud800": b"1"}),
        (b'{"a":}', {"a": b""}),
    ],
)
def test_members_are_raw_values_the_last_of_equal_names_winning(value: bytes, expected: dict[str, bytes]) -> None:
    assert wire.members(value) == expected


@pytest.mark.parametrize(
    "value",
    [b"", b"[]", b"1", b'{"a"}', b'{"a",1}', b"{a:1}", b"{1:1}", b'{"a":1,}', b'{"a":1}}', b'{"a":1} 2', b'{"a'],
)
def test_what_is_not_one_object_has_no_members(value: bytes) -> None:
    with pytest.raises(wire.Malformed):
        wire.members(value)


@pytest.mark.parametrize(
    ("value", "line"),
    [
        pytest.param(b'{"a":1}', b'{"a":1}', id="none"),
        pytest.param(b'{\r\n "a" :\n[1,\n2]\n}', b'{ "a" :[1,2]}', id="between tokens"),
        pytest.param(b'{"a":"\\n"}', b'{"a":"\\n"}', id="an escape stays"),
        pytest.param(b'{"a":"\xe2\x80\xa8\xc2\x85"}', b'{"a":"\xe2\x80\xa8\xc2\x85"}', id="unicode's own stay"),
        pytest.param(b'{"a":"b\nc"}', None, id="inside a string"),
        pytest.param(b'{"a":"b\rc"}', None, id="carriage return inside a string"),
        pytest.param(b'{"a\n":1}', None, id="inside a name"),
        pytest.param(b'{"a":"b\n', None, id="inside a string that never ends"),
        pytest.param(b'{"a":1\n2}', None, id="inside a number: two would become one"),
        pytest.param(b'{"a":tr\r\nue}', None, id="inside a word"),
        pytest.param(b'{"a":1 \n 2}', b'{"a":1  2}', id="between what is not JSON, nothing grows together"),
        pytest.param(b'\n{"a":-1\n}\n', b'{"a":-1}', id="at the ends"),
    ],
)
def test_only_line_breaks_between_tokens_are_taken_out(value: bytes, line: bytes | None) -> None:
    found = wire.as_line(value)
    assert (None if found is None else bytes(found)) == line


def test_a_value_without_line_breaks_is_the_very_same_object() -> None:
    value = msgspec.Raw(b'{"a":1}')
    assert wire.as_line(value) is value


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b'"a"', "a"),
        (b'"\\ud83d"', "\ud83d"),
        (b'"\\ud83d\\ude00"', "😀"),
        (b"1", None),
        (b"null", None),
        (b"", None),
        (b'"', None),
        (b'"a" "b"', None),
        (b"9" * 5_000, None),
        (b"[" * 100_000, None),
        (b'"\xff"', None),
    ],
)
def test_text_is_a_json_strings_and_nothing_elses(value: bytes, text: str | None) -> None:
    assert wire.as_text(value) == text


# --- whatever comes --------------------------------------------------------------------------------------------------

any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(ODD_LETTERS, max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(ODD_LETTERS, max_size=3), inner, max_size=4),
    max_leaves=8,
)
json_like = st.lists(
    st.sampled_from(
        [b"[", b"]", b"{", b"}", b",", b":", b'"', b"\\", b'"a"', b"1", b"\n", b" ", b"\xff", b"\x00", b"NaN"]
    )
).map(b"".join)


@FEW
@given(st.binary(max_size=60) | json_like)
def test_any_bytes_are_values_or_malformed(body: bytes) -> None:
    for read in (wire.elements, wire.members):
        try:
            values = read(body)
        except wire.Malformed:
            continue
        for value in values.values() if isinstance(values, dict) else values:
            assert bytes(value) in body
            wire.as_line(value)
            wire.as_text(value)


@FEW
@given(st.lists(any_json, max_size=5), st.booleans(), st.sampled_from([None, 1]))
def test_the_lenient_parser_agrees_with_json_on_valid_json(values: list[object], ascii_only: bool, indent: int) -> None:
    body = json.dumps(values, ensure_ascii=ascii_only, indent=indent).encode("utf-8", "surrogatepass")
    lenient = wire._lenient_elements(body.strip())
    assert [json.loads(bytes(value)) for value in lenient] == values
    assert as_bytes(wire.elements(body)) == as_bytes(lenient)


@FEW
@given(st.dictionaries(st.text(ODD_LETTERS, max_size=3), any_json, max_size=5))
def test_members_agree_with_json_on_valid_objects(value: dict[str, object]) -> None:
    found = wire.members(json.dumps(value).encode())
    assert {name: json.loads(raw) for name, raw in found.items()} == value


@FEW
@given(st.lists(any_json | st.sampled_from(list(AWKWARD.values())[:13]), max_size=5))
def test_elements_joined_again_are_the_same_bytes(values: list[object]) -> None:
    parts = [value if isinstance(value, bytes) else json.dumps(value).encode() for value in values]
    assert as_bytes(wire.elements(b"[" + b",".join(parts) + b"]")) == parts


@FEW
@given(any_json)
def test_a_line_has_the_same_value_and_no_line_break(value: object) -> None:
    line = wire.as_line(json.dumps(value, indent=2).encode())
    assert line is not None
    assert b"\n" not in bytes(line)
    assert json.loads(bytes(line)) == value
