"""The state in storage is damaged, deleted or another's: the log decides, or the run says what to do; never a guess."""

from __future__ import annotations

import json

import pytest

from tests.harness import ACCOUNT, CONTACT, Site, assert_landed_once, messages_of

CHECKPOINT = "data/AccountChangeEvent.json"


def captured(site: Site) -> None:
    """Two segments and a checkpoint."""
    for _ in range(2):
        site.org.publish(ACCOUNT, 5)
        assert site.capture(ACCOUNT).outcome == "ok"


def warnings(site: Site) -> list[str]:
    """What the last run warned of."""
    return [str(fields["text"]) for fields in site.said.named("log.warning")]


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[]", b"null", b"\xff\xfe", b'{"format": 99}', b'{"channel": 5}', b"x" * 100_000]
)
def test_a_garbled_checkpoint_is_warned_of_and_the_log_decides(site: Site, body: bytes) -> None:
    captured(site)
    site.log.write_state(CHECKPOINT, body)
    site.org.publish(ACCOUNT, 5)
    report = site.capture(ACCOUNT)
    assert report.outcome == "ok", report.summary()
    assert report.channels[ACCOUNT].duplicates == 0
    [warning] = warnings(site)
    assert "the log decides" in warning
    assert ACCOUNT in warning
    assert_landed_once(site.org, site.log, ACCOUNT)
    assert site.log.state()[CHECKPOINT]["segment"] == 3


def test_a_deleted_checkpoint_is_derived_from_the_log(site: Site) -> None:
    captured(site)
    site.log.delete_state(CHECKPOINT)
    site.org.publish(ACCOUNT, 5)
    report = site.capture(ACCOUNT)
    assert (report.outcome, report.channels[ACCOUNT].events) == ("ok", 5), report.summary()
    assert warnings(site) == [f"the checkpoint of {ACCOUNT} is missing; the log decides"]
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_a_checkpoint_that_is_ahead_of_the_log_is_ignored_with_a_warning(site: Site) -> None:
    """The segment that it names was deleted: what it held is replayed into a segment of the same number."""
    captured(site)
    site.log.delete_segment(ACCOUNT, 2)
    site.org.publish(ACCOUNT, 5)
    report = site.capture(ACCOUNT)
    assert report.outcome == "ok", report.summary()
    [warning] = warnings(site)
    assert "ahead" in warning
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_a_checkpoint_that_is_behind_the_log_costs_nothing(site: Site) -> None:
    captured(site)
    old = site.log.read_state(CHECKPOINT)
    for _ in range(3):
        site.org.publish(ACCOUNT, 5)
        site.capture(ACCOUNT)
    site.log.write_state(CHECKPOINT, old)
    site.org.publish(ACCOUNT, 5)
    report = site.capture(ACCOUNT)
    assert (report.outcome, report.channels[ACCOUNT].duplicates) == ("ok", 0)
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_a_checkpoint_whose_replay_id_contradicts_the_segment_loses_to_the_log(site: Site) -> None:
    captured(site)
    checkpoint = json.loads(site.log.read_state(CHECKPOINT))
    site.log.write_state(CHECKPOINT, json.dumps(checkpoint | {"replayId": "1"}).encode())
    site.org.publish(ACCOUNT, 5)
    assert site.capture(ACCOUNT).outcome == "ok"
    assert any("contradicts" in warning for warning in warnings(site))
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_a_segment_that_a_lifecycle_rule_took_leaves_the_checkpoint_standing(site: Site) -> None:
    captured(site)
    checkpoint = json.loads(site.log.read_state(CHECKPOINT))
    checkpoint["written"] = checkpoint["segmentWritten"] = "2020-01-01T00:00:00Z"
    site.log.write_state(CHECKPOINT, json.dumps(checkpoint).encode())
    for number in (1, 2):
        site.log.delete_segment(ACCOUNT, number)
    site.org.publish(ACCOUNT, 5)
    report = site.capture(ACCOUNT)
    assert (report.outcome, report.channels[ACCOUNT].events) == ("ok", 5), report.summary()
    [segment] = site.log.segments(ACCOUNT)
    assert (segment.number, segment.lines) == (3, site.org.deliveries(ACCOUNT)[10:])


def test_a_generation_record_without_checkpoint_and_log_is_an_error_with_a_next_step(site: Site) -> None:
    captured(site)
    site.log.delete_state(CHECKPOINT)
    for number in (1, 2):
        site.log.delete_segment(ACCOUNT, number)
    before = site.log.names()
    report = site.capture(ACCOUNT, CONTACT)
    assert report.outcome == "failed"
    [problem] = report.problems
    assert ACCOUNT in problem.message
    assert "neither a checkpoint nor a segment" in problem.message
    assert "restore" in problem.hint
    assert not [name for name in site.log.names() - before if "AccountChangeEvent" in name]
    assert report.channels[CONTACT].is_subscribed  # the other channel is captured all the same


def test_a_garbled_generation_record_is_an_error_and_never_a_fresh_start(site: Site) -> None:
    captured(site)
    site.log.delete_state(CHECKPOINT)
    site.log.write_state("generations/data/AccountChangeEvent/0001.json", b"{")
    before = site.log.names()
    report = site.capture(ACCOUNT)
    assert report.outcome == "failed"
    assert "0001.json cannot be read" in messages_of(report)[0]
    assert site.log.names() == before


def test_a_garbled_run_record_means_unknown_and_is_written_anew(site: Site) -> None:
    captured(site)
    site.log.write_state("runs/capture1.json", b"\x00garbage")
    assert site.capture(ACCOUNT).outcome == "ok"
    assert site.log.state()["runs/capture1.json"]["outcome"] == "ok"


def test_another_orgs_log_under_the_same_settings_is_refused_by_name_before_anything_is_asked(site: Site) -> None:
    captured(site)
    for name in (CHECKPOINT, "generations/data/AccountChangeEvent/0001.json"):
        text = site.log.read_state(name).decode()
        site.log.write_state(name, text.replace(site.org.org_id, "00D000000000OTHERX").encode())
    before, state = site.log.names(), site.log.state()
    site.org.clear_requests()
    report = site.capture(ACCOUNT)
    assert report.outcome == "failed"
    [problem] = report.problems
    assert "00D000000000OTHERX" in problem.message
    assert site.org.org_id in problem.message
    assert "SALESFORCE_LOGIN_URL" in problem.hint
    assert site.asked() == []
    assert site.log.names() == before
    assert site.log.state()[CHECKPOINT] == state[CHECKPOINT]


def test_a_deleted_events_container_is_not_created_anew_while_there_is_state(site: Site) -> None:
    captured(site)
    site.log.delete_events_container()
    report = site.capture(ACCOUNT)
    assert report.outcome == "failed"
    assert site.events_container in messages_of(report)[0]
    assert not [name for name in site.log.names() if name.startswith(site.events_container)]


def test_two_segments_with_one_number_are_an_error_with_a_next_step(site: Site) -> None:
    captured(site)
    site.log.copy_segment(ACCOUNT, 1, "date=2099-01-01")
    report = site.capture(ACCOUNT)
    assert report.outcome == "failed"
    assert "keep one" in report.problems[0].hint


def test_a_foreign_blob_in_the_place_of_the_next_segment_is_never_overwritten(site: Site) -> None:
    captured(site)
    [*_, last] = site.log.segments(ACCOUNT)
    site.log.write_foreign(f"data/AccountChangeEvent/{last.partition}/{last.number + 1:012d}.jsonl", b"mine\n")
    site.org.publish(ACCOUNT, 5)
    report = site.capture(ACCOUNT)
    assert report.outcome == "failed"
    assert "is not ours" in messages_of(report)[0]


def test_blobs_that_are_not_ours_beside_the_segments_are_ignored(site: Site) -> None:
    captured(site)
    for name in ("_SUCCESS", "date=2030-01-01/readme.txt", "date=nonsense/000000000009.jsonl", "compacted/x.parquet"):
        site.log.write_foreign(f"data/AccountChangeEvent/{name}", b"foreign")
    site.log.delete_state(CHECKPOINT)
    site.org.publish(ACCOUNT, 5)
    report = site.capture(ACCOUNT)
    assert report.outcome == "ok", report.summary()
    assert [line for each in site.log.segments(ACCOUNT) if each.metadata for line in each.lines] == (
        site.org.deliveries(ACCOUNT)
    )
