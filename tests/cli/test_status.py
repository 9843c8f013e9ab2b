"""`status`: where every channel stands, by storage alone; it writes nothing."""

from __future__ import annotations

import json
import signal
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from tests.cli.conftest import Operator, containers_of
from tests.harness import ACCOUNT, CONTACT, Site, slowness

ALLOCATION = "✓ delivery allocation: 0 % used, 5 of 5,000,000 events in 24 hours, read <s> ago"
HEADER = "  channel  segment  replay id  generation  last event (UTC)  age  lag  left  gaps"


def test_before_the_first_run_nothing_landed_yet_and_nothing_is_created(cdc: Operator, site: Site) -> None:
    said = cdc("status", environment=site.environment(ACCOUNT))
    assert said.lines == [
        "capture1: no run on record",
        HEADER,
        f"! {ACCOUNT}  -  -  -  nothing landed yet  -  -  -  0",
    ]
    assert (said.code, said.err) == (0, "")
    assert containers_of(site) == set()
    assert site.asked() == []


def test_after_a_run_each_channel_shows_its_position(cdc: Operator, site: Site) -> None:
    ids = site.org.publish(ACCOUNT, 5)
    site.org.channel(CONTACT)
    assert site.capture(ACCOUNT, CONTACT).outcome == "ok"
    before = site.log.names()
    said = cdc("status", environment=site.environment(ACCOUNT, CONTACT))
    assert said.lines == [
        "capture1: last run ok, <s> ago (<run>)",
        HEADER,
        f"✓ {ACCOUNT}  1  {ids[-1]}  1  <time>  <s>  <s>  72.0 h  0",
        f"✓ {CONTACT}  -  -  1  nothing landed yet  -  -  72.0 h  0",
        ALLOCATION,
    ]
    assert said.code == 0
    assert site.log.names() == before


def test_json_has_every_value(cdc: Operator, site: Site) -> None:
    ids = site.org.publish(ACCOUNT, 5)
    assert site.capture(ACCOUNT).outcome == "ok"
    said = cdc("status", "--json", environment=site.environment(ACCOUNT))
    document = json.loads(said.out)
    group = document["groups"]["capture1"]
    assert (said.code, document["errors"], document["warnings"]) == (0, [], [])
    assert group["lastRun"]["outcome"] == "ok"
    channel = group["channels"][ACCOUNT]
    assert channel.keys() == {
        *("segment", "replayId", "generation", "lastEvent", "age", "lag", "lastCleanPoll", "retentionLeftHours"),
        *("silentSince", "lastRun", "hours", "gaps", "closedGaps", "warnings", "error"),
    }
    assert (document["quarantined"], group["lastRun"]["past"]) == (0, [])
    assert [reading["max"] for reading in group["lastRun"]["allocation"]] == [5_000_000]
    assert (channel["segment"], channel["replayId"], channel["generation"]) == (1, str(ids[-1]), 1)
    assert 71.9 < channel["retentionLeftHours"] <= 72


def test_a_gap_and_a_failed_run_are_shown_with_what_to_do(cdc: Operator, site: Site) -> None:
    site.org.publish(ACCOUNT, 5)
    assert site.capture(ACCOUNT).outcome == "ok"
    site.org.reset_stream()
    assert site.capture(ACCOUNT).outcome == "degraded"
    said = cdc("status", environment=site.environment(ACCOUNT))
    assert said.code == 0
    assert said.lines[:2] == ["capture1: last run degraded, <s> ago (<run>)", "  before it ok <s> ago"]
    assert said.lines[3].startswith(f"! {ACCOUNT}  1  ")
    assert said.lines[3].endswith("  1")
    assert said.lines[4].startswith("! last run of capture1: ")
    assert said.lines[5].startswith("  next step: read gap record 0002")
    assert said.lines[6:] == [
        f"! {ACCOUNT}: events between <time> and <time> UTC may be missing (replay-refused, generation 2)",
        "  next step: reconcile the records changed in that interval; the gap record is "
        "gaps/data/AccountChangeEvent/0002.json in the checkpoints container; then "
        f"python -m cdc gaps close {ACCOUNT} 2",
        ALLOCATION,
    ]


def test_a_retention_window_that_runs_out_is_warned_of(cdc: Operator, site: Site) -> None:
    """The last event is three days old, and whether anybody listened since is not on record."""
    site.org.publish(ACCOUNT, 5, age_s=71 * 3600)
    assert site.capture(ACCOUNT).outcome == "ok"
    site.log.delete_state("runs/capture1.json")
    said = cdc("status", environment=site.environment(ACCOUNT))
    assert said.code == 0
    assert said.lines[2].startswith(f"✗ {ACCOUNT}  1  ")
    assert "  3.0 d  3.0 d  1.0 h  0" in said.lines[2]
    assert said.lines[3:5] == [
        f"✗ {ACCOUNT}: captured up to <time> UTC, and Salesforce keeps events for 72 hours",
        "  next step: see why runs fail or do not start, and capture now: python -m cdc run",
    ]


def record_run(site: Site, **changes: Any) -> None:
    """Change the last run's record, as a run that saw more would have written it."""
    record = json.loads(site.log.read_state("runs/capture1.json"))
    site.log.write_state("runs/capture1.json", json.dumps(record | changes).encode())


def ago(**time: float) -> str:
    return (datetime.now(UTC) - timedelta(**time)).isoformat()


@pytest.mark.parametrize(("age_h", "mark"), [(12, "✓"), (25, "!"), (49, "✗")])
def test_the_mark_follows_the_hours_that_are_left(cdc: Operator, site: Site, age_h: int, mark: str) -> None:
    site.org.publish(ACCOUNT, 2, age_s=age_h * 3600)
    assert site.capture(ACCOUNT).outcome == "ok"
    record_run(site, cleanPolls={})
    record_run(site, cleanPolls={ACCOUNT: ago(hours=age_h)}, started=ago(hours=age_h))
    said = cdc("status", environment=site.environment(ACCOUNT))
    [line] = [line for line in said.lines if line.startswith(f"{mark} {ACCOUNT}  ")]
    assert f"  {72 - age_h}.0 h  0" in line


def test_a_silent_channel_the_allocation_and_the_quarantine_are_shown(cdc: Operator, site: Site) -> None:
    site.org.publish(ACCOUNT, 5)
    assert site.capture(ACCOUNT).outcome == "ok"
    silent = {ACCOUNT: {"outcome": "degraded", "silentSince": ago(hours=2)}}
    readings = [{"read": ago(hours=age), "max": 50_000, "remaining": left} for age, left in ((0, 9_000), (3, 12_000))]
    record_run(site, channels=silent, allocation=readings, outcome="degraded")
    site.log.write_foreign(f"quarantine/data/AccountChangeEvent/{64 * 'a'}.json", b"{}")
    site.log.write_foreign("quarantine/readme.txt", b"not a message")
    said = cdc("status", environment=site.environment(ACCOUNT))
    assert said.lines[0] == "capture1: last run degraded, <s> ago (<run>)"
    assert said.lines[2].startswith(f"✗ {ACCOUNT}  ")
    assert said.lines[3:] == [
        f"✗ {ACCOUNT}: silent since <time> UTC though its records change in the org",
        "  next step: let runs listen longer: raise CDC_RUN_SECONDS",
        "! in quarantine: 1 message",
        "  next step: look at them: python -m cdc quarantine list",
        "! delivery allocation: 82 % used, 41,000 of 50,000 events in 24 hours, read <s> ago; going towards 124 %",
        "  next step: find out which subscriber takes most; at 100 % deliveries stop",
    ]


def test_an_allocation_that_cannot_be_read_is_told_once_and_a_run_under_way_shows_as_one(
    cdc: Operator, site: Site
) -> None:
    site.org.publish(ACCOUNT, 5)
    assert site.capture(ACCOUNT).outcome == "ok"
    record_run(site, allocation=[], allocationProblem="/limits: HTTP 403", isUnderWay=True, started=ago(minutes=12))
    said = cdc("status", environment=site.environment(ACCOUNT))
    assert said.lines[0] == "capture1: run under way for 12 min, ok so far, word of it <s> ago (<run>)"
    assert said.lines[-1] == "- delivery allocation: not known (/limits: HTTP 403)"


def test_a_watch_looks_again_and_again_until_it_is_interrupted(cdc: Operator, site: Site) -> None:
    site.org.publish(ACCOUNT, 2)
    assert site.capture(ACCOUNT).outcome == "ok"
    process = cdc.start("status", "--watch", "--every", "0.2", "--json", environment=site.environment(ACCOUNT))
    assert process.stdout is not None
    looks = [json.loads(process.stdout.readline()) for _ in range(3)]
    assert looks[0]["time"] < looks[1]["time"] < looks[2]["time"]
    process.send_signal(signal.SIGINT)
    said = cdc.finish(process)
    assert (said.code, said.err) == (0, "")


def test_the_exit_code_of_a_watch_is_that_of_its_last_look(cdc: Operator, site: Site, no_storage: str) -> None:
    environment = site.environment(ACCOUNT, CDC_STORAGE=no_storage)
    process = cdc.start("status", "--watch", "--every", "0.1", "--json", environment=environment)
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["errors"]
    process.send_signal(signal.SIGINT)
    assert cdc.finish(process).code == 1


def test_a_quiet_channel_that_is_listened_to_is_not_warned_of(cdc: Operator, site: Site) -> None:
    site.org.publish(ACCOUNT, 5, age_s=71 * 3600)
    assert site.capture(ACCOUNT).outcome == "ok"
    record = json.loads(site.log.read_state("runs/capture1.json"))
    polled = datetime.now(UTC) + timedelta(minutes=10)  # as after another run that found nothing
    record["cleanPolls"][ACCOUNT] = polled.isoformat()
    site.log.write_state("runs/capture1.json", json.dumps(record).encode())
    said = cdc("status", environment=site.environment(ACCOUNT))
    assert said.lines[2].startswith(f"✓ {ACCOUNT}  1  ")
    assert "  72.2 h  0" in said.lines[2]


def test_a_run_record_that_cannot_be_read_is_warned_of(cdc: Operator, site: Site) -> None:
    site.org.publish(ACCOUNT, 5)
    assert site.capture(ACCOUNT).outcome == "ok"
    site.log.write_state("runs/capture1.json", b"[]")
    said = cdc("status", environment=site.environment(ACCOUNT))
    assert said.code == 0
    assert said.lines[0] == "capture1: no run on record"
    assert said.lines[-1].startswith("! runs/capture1.json cannot be read (")
    assert said.lines[-1].endswith("); what that run did is unknown")


@pytest.mark.parametrize("form", ["text", "json"])
def test_storage_where_nobody_listens_is_named_within_seconds(
    cdc: Operator, site: Site, no_storage: str, form: str
) -> None:
    arguments = ["--json"] if form == "json" else []
    said = cdc("status", *arguments, environment=site.environment(ACCOUNT, CDC_STORAGE=no_storage))
    assert said.code == 1
    message = "listing blobs under 'runs/' in container cdc-checkpoints at 127.0.0.1:9: connection refused"
    if form == "json":
        assert json.loads(said.out)["errors"][0]["message"].startswith(message)
    else:
        assert said.lines[0].startswith(f"✗ {message}")
        assert said.lines[1].startswith("  next step: ")
    assert said.seconds < 8 * slowness()


def test_a_log_that_contradicts_itself_is_an_error_and_a_garbled_checkpoint_a_warning(
    cdc: Operator, site: Site
) -> None:
    site.org.publish(ACCOUNT, 5)
    assert site.capture(ACCOUNT).outcome == "ok"
    site.log.write_state("data/AccountChangeEvent.json", b"{")
    warned = cdc("status", environment=site.environment(ACCOUNT))
    assert warned.code == 0
    assert warned.lines[-2] == f"! the checkpoint of {ACCOUNT} cannot be read (it is not JSON); the log decides"
    site.log.delete_state("data/AccountChangeEvent.json")
    site.log.delete_events_container()
    said = cdc("status", environment=site.environment(ACCOUNT))
    assert said.code == 1
    assert said.lines[2].startswith(f"✗ {ACCOUNT}  ?  ?")
    assert said.lines[-2] == (
        f"✗ opening the log of {ACCOUNT}: generation 1 has a record, but there is neither a checkpoint nor a segment"
    )


def test_settings_that_cannot_be_used_end_with_2(cdc: Operator) -> None:
    said = cdc("status", environment={})
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("✗ SALESFORCE_LOGIN_URL: missing")
