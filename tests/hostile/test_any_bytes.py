"""Any bytes in: values or one of our errors come out, in bounded memory, and what came out can be used."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdc import bayeux, wire
from cdc.bayeux import MAX_REPLIES, MAX_STRAYS
from cdc.session import CometDSession
from tests.hostile import corpus, fuzz

MEGABYTE = 1024 * 1024
CONNECTED = b'{"channel":"/meta/connect","id":"1","clientId":"abc","successful":true}'


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_any_bytes_at_all(name: str) -> None:
    target = fuzz.TARGETS[name][0]

    @settings(max_examples=150, deadline=None, database=None)
    @given(st.binary(max_size=300) | st.text(max_size=100).map(lambda text: text.encode("utf-8", "surrogatepass")))
    def holds(body: bytes) -> None:
        target(body)

    holds()


@pytest.mark.parametrize("name", fuzz.TARGETS)
def test_mutations_of_what_really_comes(name: str) -> None:
    counts = fuzz.fuzz(0.5, 20261123, only=name)
    assert counts[name] > 20


any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
_KEYS = st.sampled_from(
    [
        *json.loads(corpus.REFUSED),
        *json.loads(corpus.REFUSED)["advice"],
        *("data", "event", "replayId", "payload", "ChangeEventHeader", "commitTimestamp", "sfdc", "failureReason"),
        *corpus.GENERATION,
    ]
)
ill_typed = st.recursive(
    any_json | st.sampled_from(["/meta/connect", "/meta/disconnect", fuzz.CHANNEL, "\ud800", "-1", 1e400]),
    lambda inner: st.dictionaries(_KEYS, inner, max_size=6) | st.lists(inner, max_size=3),
    max_leaves=25,
)


@settings(max_examples=150, deadline=None, database=None)
@given(st.lists(ill_typed, max_size=4))
def test_right_names_with_values_of_any_type(messages: list[Any]) -> None:
    body = json.dumps(messages).encode()
    fuzz.answer(body)
    fuzz.session(body)
    for each in messages:
        fuzz.record(json.dumps(each).encode())


@settings(max_examples=100, deadline=None, database=None)
@given(st.dictionaries(st.sampled_from(list(corpus.GENERATION) + list(corpus.CHECKPOINT)), any_json, max_size=4))
def test_records_with_some_fields_of_any_type(fields: dict[str, Any]) -> None:
    for whole in (corpus.GENERATION, corpus.GAP, corpus.TURN, corpus.CHECKPOINT, corpus.RUN):
        fuzz.record(json.dumps(whole | fields).encode())


def spoilt(body: bytes, chance: random.Random) -> bytes:
    """The answer with noise somewhere in it that no JSON text has, as long as it was."""
    noise = bytes(chance.randrange(256) for _ in range(chance.randrange(1, 40))) + b"\xff"
    at = chance.randrange(1, len(body) - len(noise))
    return body[:at] + noise + body[at + len(noise) :]


@pytest.mark.parametrize("place", [0, 1, 3])
def test_noise_anywhere_in_an_answer_with_events_is_never_taken_for_a_whole_one(place: int) -> None:
    """It may eat an event, or the very names by which one is placed: nothing of such an answer counts."""
    reply = '{"channel":"/meta/connect","id":"7","clientId":"abc","successful":true,"advice":{"reconnect":"retry"}}'
    messages = [event(str(number)) for number in (101, 102, 103)]
    messages.insert(place, reply)
    body = f"[{','.join(messages)}]".encode()
    for number in range(3_000):
        noisy = spoilt(body, random.Random(number))
        try:
            found = bayeux.read_answer(noisy)
        except wire.Malformed:
            continue
        assert found.damaged, noisy


# --- who an answer is for --------------------------------------------------------------------------------------------


def event(replay_id: str, channel: str = fuzz.CHANNEL) -> str:
    """A delivery with this token as its replay id."""
    return f'{{"channel":"{channel}","data":{{"event":{{"replayId":{replay_id}}}}}}}'


def test_a_reply_for_another_client_ends_the_session_and_none_of_its_events_are_taken() -> None:
    body = f'[{event("7")},{{"channel":"/meta/connect","id":"1","clientId":"other","successful":true}}]'.encode()
    session = CometDSession(fuzz.Canned(body), client_id="abc")
    answer = session.connect(timeout_s=1)
    assert (len(answer.deliveries), session.is_over) == (0, True)
    assert "another client" in str(answer.failure)


@pytest.mark.parametrize("token", ["7", "1e3", "3.5", "-7", "9" * 512, '"7"', '"a b"', '"\\ud83d"', "0", "-0"])
def test_a_replay_id_of_any_spelling_is_sent_back_as_it_came_or_so_that_it_means_the_same(token: str) -> None:
    [delivery] = bayeux.read_answer(f"[{event(token)}]".encode()).deliveries
    sent = bayeux.subscribe("c", "1", fuzz.CHANNEL, delivery.replay_id).decode()
    if token[0] == '"':
        assert json.loads(sent)[0]["ext"]["replay"][fuzz.CHANNEL] == json.loads(token)
    else:
        assert f'"{fuzz.CHANNEL}":{token}}}' in sent


@pytest.mark.parametrize(
    "token", ["-1", "-2", "-1.0", "-2e0", '"-1"', '" -2 "', "9" * 513, "007", "null", "true", "[]", "{}", "NaN", '""']
)
def test_what_is_no_replay_id_or_would_mean_the_tip_makes_a_stray(token: str) -> None:
    messages = bayeux.read_answer(f"[{event(token)},{event('8')}]".encode())
    assert [delivery.replay_id for delivery in messages.deliveries] == ["8"]
    assert [stray.raw for stray in messages.strays] == [event(token).encode()]


def test_a_name_that_is_not_utf_8_hides_neither_the_reply_nor_the_events_beside_it() -> None:
    body = b"[" + event("7").encode() + b"," + CONNECTED.replace(b'"id"', b'"\xff":1,"id"') + b"]"
    messages = bayeux.read_answer(body)
    assert [delivery.replay_id for delivery in messages.deliveries] == ["7"]
    assert [reply.channel for reply in messages.replies] == ["/meta/connect"]


def test_of_a_name_given_twice_the_last_counts_for_replay_id_and_channel() -> None:
    twice = event("7").replace('"replayId":7', '"replayId":6,"replayId":7').replace("{", '{"channel":"/data/X",', 1)
    [delivery] = bayeux.read_answer(f"[{twice}]".encode()).deliveries
    assert (delivery.channel, delivery.replay_id) == (fuzz.CHANNEL, "7")


# --- how much --------------------------------------------------------------------------------------------------------


def test_a_million_messages_without_a_place_are_kept_as_the_one_answer_they_came_in() -> None:
    body = b"[" + b'{"some":"thing"},' * 300_000 + event("7").encode() + b"," + CONNECTED + b"]"
    messages = bayeux.read_answer(body)
    [stray] = messages.strays
    assert stray.raw == body
    assert "300000" in stray.reason
    assert [delivery.replay_id for delivery in messages.deliveries] == ["7"]
    assert len(messages.replies) == 1


def test_up_to_a_thousand_strays_are_kept_each_for_itself() -> None:
    body = b"[" + b",".join(b'{"stray":%d}' % number for number in range(MAX_STRAYS)) + b"]"
    assert len(bayeux.read_answer(body).strays) == MAX_STRAYS


def test_of_endless_replies_the_first_thousand_are_looked_at() -> None:
    messages = bayeux.read_answer(b"[" + b",".join([CONNECTED] * (MAX_REPLIES * 3)) + b"]")
    assert len(messages.replies) == MAX_REPLIES


# name -> a hostile answer; each would take gigabytes, or minutes, of a parser that holds every part as a value.
FLOODS: dict[str, Callable[[int], bytes]] = {
    "numbers": lambda size: b"[" + b"1," * (size // 2) + b"1]",
    "empty objects": lambda size: b"[" + b"{}," * (size // 3) + b"{}]",
    "empty objects after a NaN": lambda size: b"[NaN," + b"{}," * (size // 3) + b"{}]",
    "empty strings": lambda size: b"[NaN," + b'"",' * (size // 3) + b"1]",
    "commas": lambda size: b"[" + b"," * size,
    "open brackets": lambda size: b"[" * size,
    "open objects": lambda size: b'[{"a":' * (size // 6),
    "closed brackets": lambda size: b"[" * (size // 2) + b"]" * (size // 2),
    "an endless string": lambda size: b'["' + b"\\n" * (size // 2),
    "quotes": lambda size: b'["' + b'"' * size,
    "a reply with endless lists": lambda size: b'[{"channel":"/meta/connect","x":[' + b"[]," * (size // 3) + b"1]}]",
    "members": lambda size: b'[{"channel":"/meta/connect","b":NaN' + b',"":1' * (size // 5) + b"}]",
    "line breaks": lambda size: b"[" + event("7").encode()[:-1] + b',"a":[1' + b',\n""' * (size // 4) + b"]}]",
    "borders": lambda size: b'[{"data":{' + b'},{"data":{' * (size // 11) + b"}}]",
    "short events": lambda size: (
        b"[" + b'{"data":{"event":{"replayId":7}},"channel":"/data/A"},' * (size // 55) + CONNECTED + b"]"
    ),
    "replies": lambda size: b"[" + b'{"channel":"/meta/x"},' * (size // 22) + CONNECTED + b"]",
}
MEASURE = """
import sys, re
from cdc import bayeux, wire
from tests.hostile.test_any_bytes import FLOODS
def peak(): return int(re.search("VmHWM:\\\\s+([0-9]+)", open("/proc/self/status").read())[1]) // 1024
body = FLOODS[sys.argv[1]](int(sys.argv[2]))
before = peak()
try: bayeux.read_answer(body)
except wire.Malformed: pass
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_takes_little_more_memory_than_its_bytes(name: str) -> None:
    size = 2 * MEGABYTE
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, name, str(size)], capture_output=True, text=True, timeout=120, check=True
    )
    assert int(done.stdout) < 30, f"{done.stdout.strip()} MB for 2 MB"


@pytest.mark.parametrize("name", FLOODS)
def test_reading_takes_time_in_proportion_to_the_bytes(name: str) -> None:
    def cpu_s(size: int) -> float:
        body, began = FLOODS[name](size), time.process_time()
        with suppress(wire.Malformed):
            bayeux.read_answer(body)
        return time.process_time() - began

    tries = []  # other work on the machine makes the larger one slower: one try without it is proof
    for _ in range(20):
        small, large = min(cpu_s(100_000) for _ in range(3)), min(cpu_s(800_000) for _ in range(3))
        if large < 24 * small + 0.05:
            return
        tries.append(f"{small:.3f} s for 100 kB, {large:.3f} s for 800 kB")
    pytest.fail("; ".join(tries))


def test_the_fuzzer_reports_what_it_finds_with_the_input_that_brings_it_back() -> None:
    def is_wrong(body: bytes) -> None:
        assert b"\xff" not in body, "planted"

    fuzz.TARGETS["planted"] = (is_wrong, (b"abc",))
    try:
        with pytest.raises(AssertionError, match="planted") as caught:
            fuzz.fuzz(20, 1, only="planted")
    finally:
        del fuzz.TARGETS["planted"]
    [note] = caught.value.__notes__
    assert "seed 1, round" in note


def test_mutations_are_the_same_for_the_same_seed() -> None:
    first, second = (
        [corpus.mutated(seed, random.Random(7)) for seed in (*corpus.ANSWERS, *corpus.RECORDS)] for _ in range(2)
    )
    assert first == second
