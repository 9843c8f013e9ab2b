"""What a run says and remembers: stable names and fields, as JSON in Azure and as text in a terminal."""

from __future__ import annotations

import json
import logging
import random
import threading
from datetime import UTC, date, datetime, timedelta

import pytest

from cdc.continuity import CAUGHT_UP, Position
from cdc.errors import RequestLost
from cdc.landing import Landed
from cdc.layout import HOURS_KEPT, Generation, RunRecord
from cdc.report import ChannelReport, Lags, RunReport
from cdc.signals import bound, event_json, format_event, from_one_thread, log_event, log_json
from tests.harness import ACCOUNT, CONTACT, Recorder

pytestmark = pytest.mark.pure

NOW = datetime(2026, 11, 26, 17, 30, tzinfo=UTC)


def ago(**time: float) -> datetime:
    return NOW - timedelta(**time)


def generation(t0: datetime) -> Generation:
    return Generation(
        channel=ACCOUNT,
        org_id="00D",
        run_id="run",
        number=1,
        cause="first-start",
        start="-1",
        t0=t0,
        after_segment=0,
        partition=date(2026, 11, 26),
        user_id="005",
    )


def landed(count: int, at: datetime | None, channel: str = ACCOUNT) -> Landed:
    return Landed(channel, 1, count, 100 * count, "42", at)


def report_of(*channels: str) -> RunReport:
    return RunReport("run-1", "capture1", ago(minutes=4), {name: ChannelReport(name) for name in channels})


# --- the two forms ----------------------------------------------------------------------------------------------------

FIELDS: dict[str, object] = {
    "channel": ACCOUNT,
    "lag_s": 1.23456,
    "count": 0,
    "since": ago(hours=1),
    "lost_causes": {"RequestLost": 2, "ServerBusy": 1},
    "error": RequestLost('connect: "no" answer\nat all', hint="wait"),
    "entity": None,
    "text": "",
    "none": {},
}


def test_in_azure_an_event_is_one_json_object_without_the_fields_that_have_no_value() -> None:
    line = event_json("channel.landed", logging.WARNING, FIELDS)
    assert "\n" not in line
    assert json.loads(line) == {
        "event": "channel.landed",
        "level": "warning",
        "channel": ACCOUNT,
        "lag_s": 1.235,
        "count": 0,
        "since": "2026-11-26T16:30:00.000Z",
        "lost_causes": {"RequestLost": 2, "ServerBusy": 1},
        "error": 'connect: "no" answer\nat all',
    }


def test_in_a_terminal_an_event_is_a_line_of_text() -> None:
    assert format_event("channel.landed", FIELDS) == (
        f"channel.landed channel={ACCOUNT} lag_s=1.235 count=0 "
        'since="2026-11-26 16:30:00+00:00" lost_causes=RequestLost:2,ServerBusy:1 error="connect: \'no\' answer at all"'
    )


@pytest.mark.parametrize(
    ("emit", "text"), [(log_event, "x.y a=1"), (log_json, '{"event": "x.y", "level": "error", "a": 1}')]
)
def test_both_go_to_the_log_at_their_level(emit: object, text: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="cdc"):
        emit("x.y", level=logging.ERROR, a=1)  # type: ignore[operator]
        emit("x.z", level=logging.DEBUG, a=1)  # type: ignore[operator]
    assert [(record.levelno, record.getMessage()) for record in caplog.records] == [(logging.ERROR, text)]


def test_what_all_events_of_a_run_have_in_common_is_bound_once_and_stands_first() -> None:
    said = Recorder()
    bound(said, run_id="run-1", group="capture1")("channel.landed", channel=ACCOUNT)
    assert [(name, list(fields.items())) for name, fields in said.events] == [
        ("channel.landed", [("run_id", "run-1"), ("group", "capture1"), ("channel", ACCOUNT)])
    ]


def test_what_other_threads_say_waits_for_the_one_thread_whose_lines_azure_keeps() -> None:
    threads, said = [], Recorder()

    def emit(name: str, /, *, level: int = logging.INFO, **fields: object) -> None:
        threads.append(threading.get_ident())
        said(name, level=level, **fields)

    hearing = from_one_thread(emit)
    hearing("run.started")
    for number in (1, 2):
        other = threading.Thread(target=lambda number=number: hearing("quarantine.kept", level=40, bytes=number))
        other.start()
        other.join()
    assert [name for name, _ in said.events] == ["run.started"]
    hearing("run.finished")
    assert [name for name, _ in said.events] == ["run.started", "quarantine.kept", "quarantine.kept", "run.finished"]
    assert [fields.get("bytes") for _, fields in said.events] == [None, 1, 2, None]
    assert set(threads) == {threading.get_ident()}


# --- lag --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_the_median_lag_is_at_most_5_percent_too_high_and_takes_no_more_room_than_its_classes(seed: int) -> None:
    chance = random.Random(seed)
    lags, all_of_them = Lags(), []
    for _ in range(2_000):
        lag_s, count = chance.lognormvariate(chance.choice([-3, 0, 9]), 2), chance.randint(1, 50)
        lags.add(lag_s, count)
        all_of_them += [lag_s] * count
    median = sorted(all_of_them)[(len(all_of_them) - 1) // 2]
    assert lags.p50_s is not None
    assert median * 0.999 <= max(lags.p50_s, 0.001) <= max(median, 0.001) * 1.0501
    assert lags.max_s == max(all_of_them)
    assert len(lags.classes) < 600


def test_lags_of_nothing_at_all_and_of_the_clocks_edge() -> None:
    assert (Lags().p50_s, Lags().max_s) == (None, None)
    lags = Lags()
    lags.add(0.0, 3)
    assert (lags.p50_s, lags.max_s) == (0.0, 0.0)


def test_a_run_counts_each_segments_lag_by_its_events() -> None:
    report = report_of(ACCOUNT)
    report.add_landed(landed(1, ago(hours=2)), NOW)
    report.add_landed(landed(99, ago(seconds=2)), NOW)
    report.add_landed(landed(5, None), NOW)
    [(_, fields)] = report.channel_signals(NOW)
    assert fields["lag_p50_s"] == pytest.approx(2.0, rel=0.06)
    assert fields["lag_max_s"] == 7_200.0
    assert (fields["events"], fields["segments"], fields["bytes"]) == (105, 3, 10_500)


# --- how old, how long left -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last_time", "written", "polled", "captured_to"),
    [
        (None, None, None, ago(days=2)),  # T0
        (None, None, ago(minutes=1), ago(minutes=1)),  # nothing ever landed, and nothing was there
        (ago(hours=5), ago(hours=5), None, ago(hours=5)),
        (ago(hours=5), ago(hours=5), ago(minutes=1), ago(minutes=1)),  # quiet since
        (ago(hours=5), ago(minutes=1), ago(minutes=1), ago(hours=5)),  # a backlog is being fetched
        (ago(hours=5), ago(minutes=1) - CAUGHT_UP, ago(seconds=50), ago(seconds=50)),  # and was: a poll found no more
    ],
)
def test_captured_to_is_the_last_event_or_a_clean_poll_that_found_nothing_more(
    last_time: datetime | None, written: datetime | None, polled: datetime | None, captured_to: datetime
) -> None:
    position = Position(last_time=last_time, segment_written=written, generation=generation(ago(days=2)))
    assert position.captured_to(polled) == captured_to


def test_a_quiet_channel_has_all_of_its_retention_left_and_a_silent_one_what_its_last_event_leaves() -> None:
    report = report_of(ACCOUNT)
    channel = report.channels[ACCOUNT]
    channel.position = Position(last_time=ago(hours=10), segment_written=ago(hours=10), generation=generation(NOW))
    channel.polled, channel.is_captured = ago(minutes=6), True
    [(outcome, fields)] = report.channel_signals(NOW)
    assert (outcome, fields["position_age_s"], fields["retention_left_h"]) == ("ok", 36_000.0, 71.9)
    assert fields["silent_s"] is None
    channel.silent_since, channel.needs_attention = ago(hours=10), True
    [(outcome, fields)] = report.channel_signals(NOW)
    assert (outcome, fields["retention_left_h"], fields["silent_s"]) == ("degraded", 62.0, 36_000.0)


# --- outcomes, the record ---------------------------------------------------------------------------------------------


def test_each_channel_has_an_outcome_of_its_own() -> None:
    report = report_of(ACCOUNT, CONTACT)
    report.channels[ACCOUNT].is_captured = True
    assert [outcome for outcome, _ in report.channel_signals(NOW)] == ["ok", "degraded"]
    report.is_interrupted = True
    assert [outcome for outcome, _ in report.channel_signals(NOW)] == ["ok", "ok"]
    report.fail(RequestLost("x", hint="y"), channel=CONTACT)
    assert [outcome for outcome, _ in report.channel_signals(NOW)] == ["ok", "failed"]


def test_a_run_says_what_it_landed_and_why_sessions_were_lost() -> None:
    report = report_of(ACCOUNT, CONTACT)
    report.add_landed(landed(3, ago(seconds=1)), NOW)
    report.add_landed(landed(4, ago(seconds=1), CONTACT), NOW)
    for channel in report.channels.values():
        channel.is_captured = True
    report.sessions = 3
    report.lost_causes.update(["RequestLost", "UnknownClient"])
    report.close(NOW)
    assert report.signal(NOW) == {
        "outcome": "ok",
        "seconds": 240.0,
        "events": 7,
        "segments": 2,
        "bytes": 700,
        "sessions": 3,
        "lost_sessions": 2,
        "lost_causes": {"RequestLost": 1, "UnknownClient": 1},
        "errors": "",
    }


def test_the_record_has_it_all_and_carries_on_what_runs_remember() -> None:
    before = report_of(ACCOUNT)
    before.add_landed(landed(10, ago(minutes=61)), ago(minutes=60))
    before.channels[ACCOUNT].polled = ago(minutes=60)
    before.channels[ACCOUNT].silence_asked = ago(minutes=59)
    before.close(ago(minutes=58))
    report = report_of(ACCOUNT)
    report.run_id = "run-2"
    report.add_landed(landed(3, ago(seconds=1)), NOW)
    report.channels[ACCOUNT].position = Position(last_time=ago(seconds=1))
    under_way = report.to_record(NOW)
    assert (under_way.is_under_way, under_way.finished, under_way.outcome) == (True, NOW, "failed")
    report.channels[ACCOUNT].is_captured = True
    report.close(NOW)
    record = RunRecord.from_blob(report.to_record(NOW).after(before.to_record(NOW)).to_blob())
    assert (record.is_under_way, record.outcome, record.events) == (False, "ok", 3)
    assert record.clean_polls == {ACCOUNT: ago(minutes=60)}
    assert [(past.run_id, past.events) for past in record.past] == [("run-1", 10)]
    run = record.channels[ACCOUNT]
    assert run.hours == {"2026-11-26T16": 10, "2026-11-26T17": 3}
    assert (run.events, run.segments, run.bytes, run.outcome) == (3, 1, 300, "ok")
    assert (run.last_event, run.silence_asked) == (ago(seconds=1), ago(minutes=59))
    assert run.lag_p50_s == pytest.approx(1.0, rel=0.06)


def test_the_hours_of_a_run_of_days_are_those_of_the_last_day() -> None:
    report = report_of(ACCOUNT)
    for hour in range(72):
        report.add_landed(landed(1, None), ago(hours=71 - hour))
    hours = report.to_record(NOW).channels[ACCOUNT].hours
    assert (len(hours), min(hours), max(hours)) == (HOURS_KEPT, "2026-11-25T17", "2026-11-26T17")
