"""`check`: a line for each thing tried, with what to do; it writes nothing."""

from __future__ import annotations

import json

from tests.cli.conftest import Operator, containers_of
from tests.harness import ACCOUNT, CONTACT, Site, slowness

UNKNOWN = "/data/NopeChangeEvent"
SETTINGS = "✓ settings: {} channels in 1 group, client-credentials flow, storage by CDC_STORAGE"
TIME = "✓ time limit: a run of 260 s fits under functionTimeout"
CLOCK = "✓ clock: agrees with that of Salesforce and of storage"
LEFT = [
    "✓ allocation: 0 of 5,000,000 delivered events of 24 hours used (0 %)",
    "✓ clients: 0 of 1,000 concurrent CometD clients used (0 %)",
]


def test_before_the_first_run_all_is_well_and_nothing_is_written(cdc: Operator, site: Site) -> None:
    site.org.publish(ACCOUNT, 5)
    site.org.channel(CONTACT)
    said = cdc("check", environment=site.environment(ACCOUNT, CONTACT))
    assert said.lines == [
        SETTINGS.format(2),
        TIME,
        "! storage cdc-events: does not exist yet; it will be created on the first run",
        "! storage cdc-checkpoints: does not exist yet; it will be created on the first run",
        CLOCK,
        "✓ token: granted for org <org>, user <user>",
        *LEFT,
        "✓ session: opened at http://<host>",
        f"✓ {ACCOUNT}: may be subscribed",
        f"✓ {CONTACT}: may be subscribed",
        "ok · python -m cdc run can start",
    ]
    assert (said.code, said.err) == (0, "")
    assert containers_of(site) == set()
    assert [entry["channel"] for entry in site.asked()][-1] == "/meta/disconnect"


def test_after_a_run_the_containers_may_be_used(cdc: Operator, site: Site) -> None:
    site.org.publish(ACCOUNT, 5)
    assert site.capture(ACCOUNT).outcome == "ok"
    before = site.log.names()
    said = cdc("check", "--json", environment=site.environment(ACCOUNT))
    document = json.loads(said.out)
    assert (said.code, document["outcome"]) == (0, "ok")
    assert [finding["verdict"] for finding in document["findings"]] == ["ok"] * 10
    assert document["findings"][2] == {
        "subject": "storage cdc-events",
        "verdict": "ok",
        "text": "may be listed, read and written",
    }
    assert site.log.names() == before


def test_one_failure_does_not_hide_the_next(cdc: Operator, site: Site, no_storage: str) -> None:
    cdc.secrets.append("s3cret-of-another-app")
    environment = site.environment(
        ACCOUNT, CDC_STORAGE=no_storage, SALESFORCE_CLIENT_SECRET="s3cret-of-another-app", CDC_CHANELS="x"
    )
    said = cdc("check", environment=environment)
    refused = "at 127.0.0.1:9: connection refused (ConnectionRefusedError)"
    reachable = "  next step: check the storage address and the way to it; if both are right, the next run tries again"
    assert said.lines == [
        SETTINGS.format(1).replace("channels", "channel"),
        "! settings: CDC_CHANELS: no such setting; did you mean CDC_CHANNELS?",
        "  next step: correct its name or remove it",
        TIME,
        f"✗ storage cdc-events: listing folders under 'quarantine/' in container cdc-events {refused}",
        reachable,
        f"✗ storage cdc-checkpoints: listing folders under 'quarantine/' in container cdc-checkpoints {refused}",
        reachable,
        "✓ clock: agrees with that of Salesforce",
        "✗ token: logging in to <host>: invalid_client: invalid client credentials",
        "  next step: check SALESFORCE_CLIENT_SECRET: it does not belong to this consumer key",
        "- session and channels: not tried without a token",
        "failed · 3 to mend",
    ]
    assert said.code == 1
    assert said.seconds < 10 * slowness()


def test_a_channel_that_is_refused_is_named_and_the_others_are_tried(cdc: Operator, site: Site) -> None:
    site.org.channel(ACCOUNT)
    said = cdc("check", environment=site.environment(UNKNOWN, ACCOUNT))
    assert said.code == 1
    assert said.lines[-4:] == [
        f"✗ {UNKNOWN}: 400::The channel you requested to subscribe to doesn't exist {{{UNKNOWN}}}",
        "  next step: select Nope in Setup > Change Data Capture, or correct its name in CDC_CHANNELS (case counts)",
        f"✓ {ACCOUNT}: may be subscribed",
        "failed · 1 to mend",
    ]


def test_a_handshake_that_is_refused_leaves_the_channels_untried(cdc: Operator, site: Site) -> None:
    site.org.fault("handshake", "reply", like="concurrent_limit")
    said = cdc("check", environment=site.environment(ACCOUNT))
    assert said.code == 1
    assert "Organization concurrent user limit exceeded" in said.out
    assert said.lines[-2:] == ["- channels: not tried without a session", "failed · 1 to mend"]


def test_storage_that_may_only_be_read_is_found_out_without_writing(cdc: Operator, site: Site, read_only: str) -> None:
    site.org.publish(ACCOUNT, 1)
    assert site.capture(ACCOUNT).outcome == "ok"
    before = site.log.names()
    said = cdc("check", environment=site.environment(ACCOUNT, CDC_STORAGE=read_only))
    assert said.code == 1
    assert [line for line in said.lines if line.startswith("✗")] == [
        f"✗ storage {name}: trying to write to container {name} at <storage>: 403 AuthorizationPermissionMismatch"
        for name in ("cdc-events", "cdc-checkpoints")
    ]
    assert site.log.names() == before


def test_the_log_of_another_org_is_named(cdc: Operator, site: Site) -> None:
    site.org.publish(ACCOUNT, 1)
    assert site.capture(ACCOUNT).outcome == "ok"
    for name in ("data/AccountChangeEvent.json", "generations/data/AccountChangeEvent/0001.json"):
        text = site.log.read_state(name).decode()
        site.log.write_state(name, text.replace(site.org.org_id, "00D000000000OTHERX").encode())
    said = cdc("check", environment=site.environment(ACCOUNT))
    assert said.code == 1
    [problem] = [line for line in said.lines if line.startswith("✗")]
    assert problem == f"✗ log: opening the log of {ACCOUNT}: it is org <org>'s, but the settings log in to org <org>"


def test_settings_that_cannot_be_used_end_with_2(cdc: Operator, site: Site) -> None:
    said = cdc("check", environment={"CDC_CHANNELS": ACCOUNT})
    assert said.code == 2
    assert said.lines[0].startswith("✗ settings: SALESFORCE_LOGIN_URL: missing")
    assert said.lines[-2:] == ["- storage and Salesforce: not tried with these settings", "failed · 4 to mend"]
    site.org.channel(ACCOUNT)
    too_long = cdc("check", "--json", environment=site.environment(ACCOUNT, CDC_RUN_SECONDS="600"))
    verdicts = [(each["subject"], each["verdict"]) for each in json.loads(too_long.out)["findings"]]
    assert too_long.code == 2
    assert verdicts[:2] == [("settings", "ok"), ("settings", "failed")]
    assert verdicts[-1] == (ACCOUNT, "ok")
