"""`gaps`, `quarantine` and `rewind`: what an operator orders, and what is said where it cannot be done."""

from __future__ import annotations

import hashlib
import json

import pytest

from tests.cli.conftest import Operator
from tests.harness import ACCOUNT, CONTACT, Site

GAP = "gaps/data/AccountChangeEvent/0002.json"
CLOSING = "gaps/data/AccountChangeEvent/0002.closed.json"
FOLDER = "quarantine/data/AccountChangeEvent"


def with_gap(site: Site) -> dict[str, str]:
    """A log with a gap, and the settings for it."""
    site.org.publish(ACCOUNT, 5)
    assert site.capture(ACCOUNT).outcome == "ok"
    site.org.reset_stream()
    assert site.capture(ACCOUNT).outcome == "degraded"
    return site.environment(ACCOUNT)


def keep(site: Site, raw: bytes) -> str:
    """Put a message into quarantine and return its id."""
    digest = hashlib.sha256(raw).hexdigest()
    site.log.write_foreign(f"{FOLDER}/{digest}.json", raw)
    return digest


def message(replay_id: int | None, channel: str = ACCOUNT) -> bytes:
    event = {} if replay_id is None else {"event": {"replayId": replay_id}}
    return json.dumps({"data": {**event, "payload": {"Name": "kept \u001b[31m"}}, "channel": channel}).encode()


# --- gaps -------------------------------------------------------------------------------------------------------------


def test_a_gap_is_listed_closed_once_and_counts_no_longer(cdc: Operator, site: Site) -> None:
    environment = with_gap(site)
    listed = cdc("gaps", "list", environment=environment)
    assert listed.lines == [
        "1 open gap, 0 closed",
        "  channel  number  cause  since (UTC)  until (UTC)  goes on at",
        f"! {ACCOUNT}  2  replay-refused  <time>  <time>  earliest",
    ]
    closed = cdc("gaps", "close", ACCOUNT, "2", "--note", "reconciled", "--yes", environment=environment)
    assert (closed.code, closed.lines) == (0, [f"✓ gap 2 of {ACCOUNT} is closed"])
    assert closed.err == f"! gap 2 of {ACCOUNT}: events between <time> and <time> UTC may be missing (replay-refused)\n"
    record = json.loads(site.log.read_state(CLOSING))
    assert (record["channel"], record["number"], record["note"]) == (ACCOUNT, 2, "reconciled")
    assert record["orgId"] == site.org.org_id
    assert record["runId"].startswith("operator-")
    again = cdc("gaps", "close", ACCOUNT, "2", "--yes", environment=environment)
    assert (again.code, again.out) == (1, "")
    assert again.err.splitlines()[1] == f"✗ closing gap 2 of {ACCOUNT}: it was closed at <time> UTC (reconciled)"
    assert cdc("gaps", "list", environment=environment).lines == ["0 open gaps, 1 closed"]
    every = cdc("gaps", "list", "--all", environment=environment)
    assert every.lines[-1] == f"✓ {ACCOUNT}  2  replay-refused  <time>  <time>  earliest  <time>  reconciled"
    status = cdc("status", "--json", environment=environment)
    channel = json.loads(status.out)["groups"]["capture1"]["channels"][ACCOUNT]
    assert (channel["gaps"], channel["closedGaps"]) == ([], 1)


def test_gaps_as_json(cdc: Operator, site: Site) -> None:
    environment = with_gap(site)
    [gap] = json.loads(cdc("gaps", "list", "--json", environment=environment).out)["gaps"]
    assert (gap["channel"], gap["number"], gap["cause"], gap["closed"]) == (ACCOUNT, 2, "replay-refused", None)
    assert gap["record"] == GAP
    closed = cdc("gaps", "close", ACCOUNT, "2", "--yes", "--json", environment=environment)
    assert json.loads(closed.out)["closed"]["note"] == ""
    assert json.loads(cdc("gaps", "list", "--json", environment=environment).out) == {"gaps": []}


def test_a_gap_that_is_not_there_and_an_order_that_nobody_confirms_change_nothing(cdc: Operator, site: Site) -> None:
    environment = with_gap(site)
    before = site.log.names()
    missing = cdc("gaps", "close", ACCOUNT, "7", "--yes", environment=environment)
    assert missing.code == 1
    assert missing.err.splitlines() == [
        f"✗ looking for gap 7 of {ACCOUNT}: there is no such gap",
        "  next step: the channel's gaps: 2",
    ]
    alone = cdc("gaps", "close", ACCOUNT, "2", environment=environment)
    assert alone.code == 2
    assert alone.err.splitlines()[1:] == [
        "✗ nothing was changed: nobody is there to be asked",
        "  next step: give --yes to order it",
    ]
    assert site.log.names() == before


# --- quarantine -------------------------------------------------------------------------------------------------------


def test_a_message_is_listed_shown_and_landed_once(cdc: Operator, site: Site) -> None:
    ids = site.org.publish(ACCOUNT, 2)
    assert site.capture(ACCOUNT).outcome == "ok"
    raw, environment = message(7), site.environment(ACCOUNT)
    digest = keep(site, raw)
    listed = cdc("quarantine", "list", environment=environment)
    assert listed.lines == [
        "1 message in quarantine, 0 landed since",
        "  id  channel  bytes  kept (UTC)  landed as",
        f"! {digest[:12]}  {ACCOUNT}  {len(raw)}  <time>  -",
    ]
    shown = cdc("quarantine", "show", digest[:6], environment=environment)
    assert shown.lines[-1] == f"✓ it can be placed by now: python -m cdc quarantine redrive {digest[:6]}"
    assert "\x1b" not in shown.out
    assert cdc("quarantine", "show", digest[:6], "--raw", environment=environment).out.encode() == raw
    landed = cdc("quarantine", "redrive", digest[:6], "--yes", environment=environment)
    assert (landed.code, landed.lines) == (0, [f"✓ 1 event of {ACCOUNT} landed as segment 2"])
    segment = site.log.segments(ACCOUNT)[1]
    assert segment.lines == [raw]
    assert segment.metadata["redriven"] == "1"
    assert segment.metadata["first_replay_id"] == segment.metadata["last_replay_id"] == str(ids[-1])
    again = cdc("quarantine", "redrive", digest, "--yes", environment=environment)
    assert again.code == 1
    assert f"✗ re-driving {digest[:12]}: it was landed as segment 2 of {ACCOUNT}" in again.err
    assert len(site.log.segments(ACCOUNT)) == 2
    assert cdc("quarantine", "list", environment=environment).lines[0] == "0 messages in quarantine, 1 landed since"
    assert json.loads(cdc("status", "--json", environment=environment).out)["quarantined"] == 0


def test_a_redrive_that_broke_off_after_landing_is_finished_and_not_repeated(cdc: Operator, site: Site) -> None:
    site.org.publish(ACCOUNT, 2)
    assert site.capture(ACCOUNT).outcome == "ok"
    digest, environment = keep(site, message(7)), site.environment(ACCOUNT)
    assert cdc("quarantine", "redrive", digest, "--yes", environment=environment).code == 0
    site.org.publish(ACCOUNT, 2)
    assert site.capture(ACCOUNT).outcome == "ok"
    name = f"{FOLDER}/{digest}.redriven.json"
    record = json.loads(site.log.read_event(name))
    site.log.write_foreign(name, json.dumps(record | {"segment": None}).encode(), overwrite=True)
    resumed = cdc("quarantine", "redrive", digest, "--yes", "--json", environment=environment)
    assert json.loads(resumed.out) == {"id": digest, "channel": ACCOUNT, "segment": 2, "count": 1}
    assert len(site.log.segments(ACCOUNT)) == 3


@pytest.mark.parametrize(
    ("raw", "problem"),
    [
        (message(None), "no replay id"),
        (message(7, CONTACT), f"it is of {CONTACT}, which is not among the channels of CDC_CHANNELS"),
        (b'[{"data":{}', "it is a whole answer, and no message"),
    ],
    ids=["no replay id", "another channel", "an answer"],
)
def test_what_still_cannot_be_placed_says_why_and_changes_nothing(
    cdc: Operator, site: Site, raw: bytes, problem: str
) -> None:
    site.org.publish(ACCOUNT, 2)
    assert site.capture(ACCOUNT).outcome == "ok"
    digest = keep(site, raw)
    before = site.log.names()
    said = cdc("quarantine", "redrive", digest[:8], "--yes", environment=site.environment(ACCOUNT))
    assert said.code == 1
    assert said.err.splitlines()[0] == f"✗ placing {digest[:12]}: {problem}"
    assert said.err.splitlines()[1].startswith("  next step: ")
    assert site.log.names() == before
    document = json.loads(cdc("quarantine", "show", digest, "--json", environment=site.environment(ACCOUNT)).out)
    assert (document["placeable"], document["problem"]) == (False, f"placing {digest[:12]}: {problem}")


def test_messages_that_were_put_aside_together_land_together(cdc: Operator, site: Site) -> None:
    site.org.publish(ACCOUNT, 2)
    assert site.capture(ACCOUNT).outcome == "ok"
    lines = [message(1), message(2), message(3)]
    digest = keep(site, b"\n".join(lines))
    said = cdc("quarantine", "redrive", digest, "--yes", environment=site.environment(ACCOUNT))
    assert said.lines == [f"✓ 3 events of {ACCOUNT} landed as segment 2"]
    assert site.log.segments(ACCOUNT)[1].lines == lines


def test_an_id_must_be_one_messages(cdc: Operator, site: Site) -> None:
    site.org.publish(ACCOUNT, 2)
    assert site.capture(ACCOUNT).outcome == "ok"
    keep(site, message(1)), keep(site, message(2))
    environment = site.environment(ACCOUNT)
    for prefix, found in (("", "2 messages"), ("zz", "no message")):
        said = cdc("quarantine", "show", prefix, environment=environment)
        assert said.code == 1
        assert said.err.startswith(f"✗ looking for '{prefix}' in quarantine: {found} of that id")


# --- rewind -----------------------------------------------------------------------------------------------------------


def test_a_rewind_says_what_it_will_do_and_opens_a_generation(cdc: Operator, site: Site) -> None:
    ids = site.org.publish(ACCOUNT, 3)
    assert site.capture(ACCOUNT).outcome == "ok"
    said = cdc("rewind", ACCOUNT, "--to", "earliest", "--yes", environment=site.environment(ACCOUNT))
    assert said.code == 0
    assert said.lines == [
        f"✓ {ACCOUNT}: generation 2 is opened; the next run starts at the earliest retained event",
    ]
    assert said.err.splitlines() == [
        f"- {ACCOUNT} stands at generation 1, segment 1, replay id {ids[-1]}, last event <time> UTC",
        "- generation 2 will start at the earliest retained event",
        "! up to 72 hours of events land again, and count again against the org's allocation",
    ]
    record = site.log.state("generations/")["generations/data/AccountChangeEvent/0002.json"]
    assert (record["cause"], record["start"], record["mayRepeatEarlierEvents"]) == ("rewind", "-2", True)
    assert record["orgId"] == site.org.org_id
    assert record["runId"].startswith("operator-")


def test_a_rewind_to_the_tip_as_json_with_its_gap(cdc: Operator, site: Site) -> None:
    ids = site.org.publish(ACCOUNT, 3)
    assert site.capture(ACCOUNT).outcome == "ok"
    said = cdc("rewind", ACCOUNT, "--to", "tip", "--yes", "--json", environment=site.environment(ACCOUNT))
    document = json.loads(said.out)
    assert document["from"]["replayId"] == str(ids[-1])
    assert (document["to"]["generation"], document["to"]["start"]) == (2, "-1")
    assert (document["opened"], document["afterSegment"]) == (2, 1)
    gap = json.loads(site.log.read_state(GAP))
    assert gap["cause"] == "rewind"
    assert document["gap"]["until"][:19] == gap["until"][:19]


@pytest.mark.parametrize("target", ["-1", "yesterday", "12 13", "NaN", '"', "[1]"])
def test_a_target_that_is_no_replay_id_is_refused(cdc: Operator, site: Site, target: str) -> None:
    said = cdc("rewind", ACCOUNT, f"--to={target}", "--yes", environment=site.environment(ACCOUNT))
    assert (said.code, said.out) == (2, "")
    assert "neither earliest nor tip, nor a replay id" in " ".join(said.err.split())


def test_nothing_is_opened_where_there_is_no_log_or_it_is_another_orgs(cdc: Operator, site: Site) -> None:
    site.org.channel(ACCOUNT)
    environment = site.environment(ACCOUNT)
    early = cdc("rewind", ACCOUNT, "--to", "earliest", "--yes", environment=environment)
    assert early.code == 1
    assert "no such container" in early.err or "ContainerNotFound" in early.err
    assert site.log.names() == set()
    site.org.publish(CONTACT, 1)
    assert site.capture(CONTACT).outcome == "ok"
    never = cdc("rewind", ACCOUNT, "--to", "earliest", "--yes", environment=environment)
    assert never.err.splitlines()[0] == f"✗ opening the log of {ACCOUNT}: the channel was never captured"
    site.org.publish(ACCOUNT, 1)
    assert site.capture(ACCOUNT).outcome == "ok"
    for name in ("data/AccountChangeEvent.json", "generations/data/AccountChangeEvent/0001.json"):
        text = site.log.read_state(name).decode()
        site.log.write_state(name, text.replace(site.org.org_id, "00D000000000OTHERX").encode())
    before = site.log.names()
    said = cdc("rewind", ACCOUNT, "--to", "earliest", "--yes", environment=environment)
    assert said.code == 1
    assert "it is org <org>'s, but the settings log in to org <org>" in said.err
    assert site.log.names() == before


# --- a reader's role --------------------------------------------------------------------------------------------------


def test_what_only_reads_needs_only_a_readers_role_and_what_writes_says_what_it_lacks(
    cdc: Operator, site: Site, read_only: str
) -> None:
    with_gap(site)
    site.org.publish(ACCOUNT, 2)
    assert site.capture(ACCOUNT).outcome == "ok"
    digest = keep(site, message(7))
    before = site.log.names()
    environment = site.environment(ACCOUNT, CDC_STORAGE=read_only)
    for command in (
        ["status"],
        ["tail", "--from", "1", "--seconds", "0.1"],
        ["gaps", "list"],
        ["quarantine", "list"],
        ["quarantine", "show", digest],
    ):
        said = cdc(*command, environment=environment)
        begins = f"following {ACCOUNT} from segment 1 on\n" if command[0] == "tail" else ""
        assert (said.code, said.err) == (0, begins), command
        assert said.out, command
    for command in (
        ["gaps", "close", ACCOUNT, "2", "--yes"],
        ["quarantine", "redrive", digest, "--yes"],
        ["rewind", ACCOUNT, "--to", "earliest", "--yes"],
    ):
        said = cdc(*command, environment=environment)
        assert said.code == 1, command
        assert "403 AuthorizationPermissionMismatch" in said.err, command
    assert site.log.names() == before
