"""The checker sees what it is there to see: each planted mistake is found, and named for what it is."""

from __future__ import annotations

import hashlib
from collections import Counter
from dataclasses import replace

import pytest

from chaos.check import Findings, Published, Segment, compare, layout_faults, replay_id_of, total
from chaos.plan import draw_round, start_of
from chaos.table import SHOWN, differences, table

pytestmark = pytest.mark.pure

CHANNEL = "/data/AccountChangeEvent"


def delivery(replay_id: int, text: str = "x") -> bytes:
    data = f'{{"payload":{{"Name":"{text}"}},"event":{{"replayId":{replay_id}}}}}'
    return f'{{"data":{data},"channel":"{CHANNEL}"}}'.encode()


def segment(number: int, *lines: bytes, partition: str = "date=2026-11-23") -> Segment:
    content = b"\n".join(lines) + b"\n"
    metadata = {
        "sha256": hashlib.sha256(content).hexdigest(),
        "count": str(len(lines)),
        "first_replay_id": str(replay_id_of(lines[0])),
        "last_replay_id": str(replay_id_of(lines[-1])),
        "generation": "1",
        "run_id": "r1",
    }
    return Segment(number, partition, metadata, content)


EVENTS = [delivery(10 * number) for number in range(1, 7)]
LEDGER = [Published(10 * number, event) for number, event in enumerate(EVENTS, 1)]


def found_in(*segments: Segment, required_from: int = 0) -> dict[str, int]:
    """Kind -> how many, of what was found."""
    found = compare(CHANNEL, LEDGER, segments, required_from=required_from)
    return {kind: len(entries) for kind, entries in found.kinds().items() if entries}


def test_a_log_with_every_event_once_in_order_is_clean() -> None:
    found = compare(CHANNEL, LEDGER, [segment(1, *EVENTS[:2]), segment(2, *EVENTS[2:])])
    assert found.is_clean
    assert (found.published, found.landed, found.segments) == (6, 6, 2)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (EVENTS[:3] + EVENTS[4:], {"lost": 1}),
        (EVENTS[1:], {"lost": 1}),
        (EVENTS[:4], {"lost": 2}),
        ([*EVENTS, EVENTS[2]], {"duplicated": 1}),
        ([*EVENTS[:2], EVENTS[3], EVENTS[2], *EVENTS[4:]], {"out of order": 1}),
        ([*EVENTS[:2], delivery(30, "y"), *EVENTS[3:]], {"altered": 1}),
        ([*EVENTS, delivery(999)], {"unknown": 1}),
        ([*EVENTS, b'{"no":"delivery"}'], {"unknown": 1}),
        ([*EVENTS[:2], b"{}", *EVENTS[3:]], {"lost": 1, "unknown": 1}),
    ],
    ids=["a hole", "no beginning", "no end", "twice", "swapped", "altered", "unknown", "no delivery", "replaced"],
)
def test_a_planted_mistake_is_found_and_named(lines: list[bytes], expected: dict[str, int]) -> None:
    assert found_in(segment(1, *lines)) == expected


def test_an_empty_log_has_lost_everything() -> None:
    assert found_in() == {"lost": 6}


def test_a_log_that_began_at_the_tip_may_lack_its_beginning_but_has_no_hole() -> None:
    assert found_in(segment(1, *EVENTS[2:]), required_from=2) == {}
    assert found_in(segment(1, *EVENTS[3:]), required_from=2) == {"lost": 1}
    assert found_in(segment(1, EVENTS[0], *EVENTS[2:]), required_from=2) == {"lost": 1}
    assert found_in(required_from=2) == {"lost": 4}


def test_a_message_that_is_no_json_is_known_by_its_bytes_and_by_its_replay_id() -> None:
    odd = delivery(70, "NaN").replace(b'"NaN"', b"NaN")
    ledger = [*LEDGER, Published(70, odd)]
    assert compare(CHANNEL, ledger, [segment(1, *EVENTS, odd)]).is_clean
    assert compare(CHANNEL, ledger, [segment(1, *EVENTS, odd.replace(b"NaN", b"Nan"))]).altered != []


def test_faults_of_the_layout_are_found() -> None:
    good = [segment(1, *EVENTS[:2]), segment(2, *EVENTS[2:], partition="date=2026-11-24")]
    assert layout_faults(good) == []
    assert "number 2 was to come" in layout_faults([good[0], replace(good[1], number=3)])[0]
    assert "number 2 was to come" in layout_faults([good[0], good[0]])[0]
    assert "lies before" in layout_faults([good[0], replace(good[1], partition="date=2026-11-22")])[0]
    for name in ("sha256", "count", "first_replay_id", "last_replay_id", "generation"):
        wrong = replace(good[0], metadata=good[0].metadata | {name: "0"})
        assert [name in fault for fault in layout_faults([wrong])] == [True]
    assert layout_faults([replace(good[0], content=good[0].content[:-1])]) != []


def test_the_table_and_the_report_say_what_was_found() -> None:
    found = compare(CHANNEL, LEDGER, [segment(1, *EVENTS[:3], *EVENTS[4:])])
    text = table([found], [("seed", "7"), ("faults", Counter({"drop": 3, "": 1}))], [])
    assert text.splitlines() == [
        "channel                   published  landed  segments  lost  duplicated  out of order  altered  unknown  layout",  # noqa: E501
        "/data/AccountChangeEvent          6       5         1     1           0             0        0        0       0",  # noqa: E501
        "total                             6       5         1     1           0             0        0        0       0",  # noqa: E501
        "",
        "seed    7",
        "faults  drop 3",
        "",
        "FAILED",
    ]
    assert differences([found], []).splitlines() == [
        "/data/AccountChangeEvent: 1 lost",
        "  event 3, replay id 40: should come after date=2026-11-23/000000000001 (run r1) line 3",
    ]
    clean = compare(CHANNEL, LEDGER, [segment(1, *EVENTS)])
    assert table([clean], [("seed", "7")], []).endswith("\nevery event lies in the log once, in order, byte for byte")
    assert table([clean], [("seed", "7")], ["a run hung"]).endswith("\nconduct: a run hung\nFAILED")
    assert total([found, found])["lost"] == 2
    many = Findings(CHANNEL, lost=["event"] * (SHOWN + 2))
    assert differences([many], []).splitlines()[-1] == "  … and 2 more"


def test_a_seed_draws_the_same_rounds_again_and_another_seed_others() -> None:
    assert [draw_round(7, number, 1.5) for number in range(50)] == [draw_round(7, number, 1.5) for number in range(50)]
    assert draw_round(7, 3, 1.5) != draw_round(8, 3, 1.5)
    assert {start_of(seed) for seed in range(20)} == {"earliest", "tip"}


def test_a_hundred_rounds_draw_every_kind_of_trouble() -> None:
    rounds = [draw_round(1, number, 1.5) for number in range(300)]
    runs = [run for each in rounds for run in each.runs]
    assert {run.ending for run in runs} == {"deadline", "kill", "term"}
    assert any(run.clock_s for run in runs)
    assert any(run.clock_jumps_s for run in runs)
    assert any(run.is_cold for run in runs)
    assert {len(each.runs) for each in rounds} == {1, 2, 3}
    assert {ambush.where for each in rounds for ambush in each.ambushes} == {"salesforce", "storage"}
    spoils = {ambush.spoil.do for each in rounds for ambush in each.ambushes}
    assert spoils == {"delay", "cut", "reset", "stall", "half_open", "black_hole", "refuse"}
    happening = {moment.what for each in rounds for moment in each.moments}
    assert happening == {"sessions", "revoke", "burst", "odd", "strike", "away", "clock"}
    assert {moment.what for each in rounds for moment in each.before} == {"delete", "garble", "older", "forget runs"}
    assert {fault["on"] for each in rounds for fault in each.faults} == {
        "connect", "subscribe", "disconnect", "handshake", "token"
    }  # fmt: skip
    assert all(each.lines()[0] == f"round {each.number}" for each in rounds)
