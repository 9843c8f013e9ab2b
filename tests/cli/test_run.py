"""`run`, good and bad, as an operator meets it."""

from __future__ import annotations

import json
import signal
import sys
import threading
import traceback
from concurrent.futures import Future, wait

import pytest

from cdc import cli
from cdc.cli.run import Progress, stopped_by_signals, watch
from cdc.report import RunReport
from tests.cli.conftest import Operator
from tests.harness import ACCOUNT, CONTACT, Site, assert_landed_once, run_seconds, slowness, wait_until

UNKNOWN = "/data/NopeChangeEvent"
HEADER = "  channel  events  segments  lag  replay id  generation"


def test_a_run_that_is_ok_says_what_it_landed(cdc: Operator, site: Site) -> None:
    ids = site.org.publish(ACCOUNT, 5)
    said = cdc("run", "--seconds", run_seconds(), environment=site.environment(ACCOUNT))
    assert said.lines == [
        "ok · 5 events landed · 1 session · <s>",
        HEADER,
        f"✓ {ACCOUNT}  5  1  <s>  {ids[-1]}  1",
    ]
    assert said.code == 0
    assert f"INFO channel.finished channel={ACCOUNT} outcome=ok events=5 segments=1" in said.err
    last = said.err.splitlines()[-1]
    assert last.startswith("<clock> INFO run.finished run_id=<run> group=capture1 outcome=ok")
    assert " events=5 segments=1 " in last
    assert " sessions=1 lost_sessions=0" in last
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_json_is_the_report_and_nothing_else(cdc: Operator, site: Site) -> None:
    ids = site.org.publish(ACCOUNT, 5)
    said = cdc("run", "--seconds", run_seconds(), "--json", environment=site.environment(ACCOUNT))
    report = json.loads(said.out)
    assert said.code == 0
    assert (report["outcome"], report["group"], report["sessions"], report["errors"]) == ("ok", "capture1", 1, [])
    channel = report["channels"][ACCOUNT]
    assert {"subscribed", "events", "segments", "replayId", "lag", "generation"} <= channel.keys()
    assert (channel["subscribed"], channel["events"], channel["replayId"]) == (True, 5, str(ids[-1]))
    assert "run.finished" in said.err


def test_groups_run_side_by_side_and_one_may_be_chosen(cdc: Operator, site: Site) -> None:
    site.org.publish(ACCOUNT, 3)
    site.org.publish(CONTACT, 4)
    environment = site.environment(ACCOUNT, CDC_CHANNELS=f"{ACCOUNT};{CONTACT}")
    both = cdc("run", "--seconds", run_seconds(), "--json", environment=environment)
    document = json.loads(both.out)
    assert (both.code, document["outcome"], list(document["groups"])) == (0, "ok", ["capture1", "capture2"])
    assert document["groups"]["capture2"]["channels"][CONTACT]["events"] == 4
    assert f"group=capture2 channel={CONTACT}" in both.err
    one = cdc("run", "--seconds", run_seconds(), "--group", "capture2", environment=environment)
    assert one.lines == ["ok · 0 events landed · 1 session · <s>", HEADER, one.lines[-1]]
    assert one.lines[-1].startswith(f"✓ {CONTACT}  0  0  -  ")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--seconds", "0"), "Invalid value for '--seconds': must be more than 0"),
        (("--seconds", "nan"), "Invalid value for '--seconds': must be more than 0"),
        (("--group", "sales"), "✗ CDC_CHANNELS: there is no channel group sales; the groups are capture1"),
    ],
)
def test_arguments_that_cannot_be_used(cdc: Operator, site: Site, arguments: tuple[str, ...], problem: str) -> None:
    said = cdc("run", *arguments, environment=site.environment(ACCOUNT))
    assert (said.code, said.out) == (2, "")
    assert problem in said.err


def test_missing_settings_are_named_all_at_once(cdc: Operator) -> None:
    said = cdc("run", "--json", environment={"CDC_START": "now"})
    assert (said.code, said.out) == (2, "")
    assert said.err.splitlines() == [
        "✗ SALESFORCE_LOGIN_URL: missing; your My Domain URL, like https://acme.my.salesforce.com",
        "✗ SALESFORCE_CLIENT_ID: missing; the consumer key of the External Client App",
        "✗ SALESFORCE_CLIENT_SECRET: missing; set it (client-credentials flow), or SALESFORCE_USERNAME and "
        "SALESFORCE_PRIVATE_KEY (JWT bearer flow)",
        "✗ CDC_CHANNELS: missing; the channels, like /data/AccountChangeEvent,/data/ContactChangeEvent; a semicolon "
        "starts another group",
        "✗ CDC_START: must be 'tip' or 'earliest'",
        "✗ CDC_STORAGE: missing; connection string of the storage account, or UseDevelopmentStorage=true; or "
        "CDC_STORAGE__blobServiceUri",
        "→ correct the settings named above: app settings in Azure, local.settings.json or the environment here",
    ]


def test_a_run_longer_than_the_hosts_limit_is_refused_as_the_timer_refuses_it(cdc: Operator, site: Site) -> None:
    said = cdc("run", environment=site.environment(ACCOUNT, CDC_RUN_SECONDS="600"))
    assert (said.code, said.out) == (2, "")
    assert "✗ CDC_RUN_SECONDS: 600 and 15 s to end the run exceed the 540 s of functionTimeout" in said.err


@pytest.mark.parametrize(
    ("setting", "value", "words", "next_step"),
    [
        (
            "SALESFORCE_CLIENT_SECRET",
            "s3cret-of-another-app",
            "invalid_client: invalid client credentials",
            "check SALESFORCE_CLIENT_SECRET: it does not belong to this consumer key",
        ),
        (
            "SALESFORCE_CLIENT_ID",
            "no-such-key",
            "invalid_client_id: client identifier invalid",
            "check SALESFORCE_CLIENT_ID: the consumer key of the External Client App",
        ),
    ],
)
def test_a_refused_login_is_told_in_salesforces_words_with_what_to_fix(
    cdc: Operator, site: Site, setting: str, value: str, words: str, next_step: str
) -> None:
    cdc.secrets += [value] if setting.endswith("SECRET") else []
    said = cdc("run", "--seconds", "5", environment=site.environment(ACCOUNT, **{setting: value}))
    assert said.code == 1
    assert said.lines == [
        "failed · 0 events landed · 0 sessions · <s>",
        HEADER,
        f"✗ {ACCOUNT}  0  0  -  -  -",
        f"✗ logging in to <host>: {words}",
        f"  next step: {next_step}",
    ]
    assert said.seconds < 5 * slowness()
    assert not [name for name in site.log.names() if name.startswith(site.events_container)]


def test_a_domain_where_nobody_listens_is_named(cdc: Operator, site: Site) -> None:
    environment = site.environment(ACCOUNT, SALESFORCE_LOGIN_URL="http://127.0.0.1:9")
    said = cdc("run", "--seconds", "2", environment=environment)
    assert said.code == 1
    assert said.lines[0].startswith("failed · 0 events landed · 0 sessions")
    assert said.lines[3:] == [
        "✗ asking for a token to 127.0.0.1:9: connection refused",
        "  next step: the run tries again by itself; if it lasts, check the network path and status.salesforce.com",
    ]


def test_an_unknown_channel_and_one_without_permission_do_not_hold_back_the_others(cdc: Operator, site: Site) -> None:
    site.org.publish(ACCOUNT, 5)
    words = "403::User not allowed to subscribe CDC without View All Records on Contact"
    site.org.channel(CONTACT, refusal=words)
    said = cdc("run", "--seconds", run_seconds(), environment=site.environment(ACCOUNT, CONTACT, UNKNOWN))
    assert said.code == 1
    assert said.lines[0] == "degraded · 5 events landed · 1 session · <s>"
    assert [line[0] for line in said.lines[2:5]] == ["✓", "✗", "✗"]
    assert said.lines[5:] == [
        f"! subscribe {CONTACT}: {words}",
        "  next step: give the run-as user View All Records on the entity",
        f"! subscribe {UNKNOWN}: 400::The channel you requested to subscribe to doesn't exist {{{UNKNOWN}}}",
        "  next step: check the name, and select the entity in Setup > Change Data Capture (names are case-sensitive)",
    ]
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_the_process_ends_in_time_though_a_request_still_hangs(cdc: Operator, site: Site) -> None:
    site.org.fault("token", "hang", times=-1)
    said = cdc("run", "--seconds", "1", environment=site.environment(ACCOUNT))
    assert said.code == 1
    assert said.lines[0] == "failed · 0 events landed · 0 sessions · <s>"
    assert said.lines[3].startswith("✗ asking for a token")
    assert said.seconds < 6 * slowness()


def test_storage_where_nobody_listens_is_named_within_seconds(cdc: Operator, site: Site, no_storage: str) -> None:
    said = cdc("run", "--seconds", "3", environment=site.environment(ACCOUNT, CDC_STORAGE=no_storage))
    assert said.code == 1
    assert said.lines[0] == "failed · 0 events landed · 0 sessions · <s>"
    assert said.lines[3].startswith("✗ ")
    assert "connection refused" in said.out
    assert "check the storage address" in said.out
    assert said.seconds < 8 * slowness()


def test_storage_that_may_only_be_read_is_named_and_nothing_is_recorded(
    cdc: Operator, site: Site, read_only: str
) -> None:
    said = cdc("run", "--seconds", "5", "--json", environment=site.environment(ACCOUNT, CDC_STORAGE=read_only))
    report = json.loads(said.out)
    assert (said.code, report["outcome"]) == (1, "failed")
    assert "cdc-checkpoints" in report["errors"][0]["message"]
    assert "Storage Blob Data Contributor" in report["errors"][0]["hint"]
    assert site.log.names() == set()


def test_a_garbled_checkpoint_is_warned_of(cdc: Operator, site: Site) -> None:
    site.org.publish(ACCOUNT, 2)
    assert site.capture(ACCOUNT).outcome == "ok"
    site.log.write_state("data/AccountChangeEvent.json", b"{")
    said = cdc("run", "--seconds", run_seconds(), environment=site.environment(ACCOUNT))
    assert said.code == 0
    assert "WARNING log.warning" in said.err
    assert "the log decides" in said.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_cleanly(cdc: Operator, site: Site, number: signal.Signals) -> None:
    site.org.publish(ACCOUNT, 5)
    process = cdc.start("run", "--seconds", "60", environment=site.environment(ACCOUNT))
    wait_until(lambda: len(site.log.lines(ACCOUNT)) == 5)
    process.send_signal(number)
    said = cdc.finish(process)
    assert said.code == 0
    assert said.lines[0] == "ok · 5 events landed · 1 session · <s>, stopped early"
    assert said.seconds < 8 * slowness()
    assert len(site.asked("disconnect")) == 1
    assert_landed_once(site.org, site.log, ACCOUNT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_the_system_hands_to_another_thread_is_noticed_too(number: signal.Signals) -> None:
    stop: Future[None] = Future()
    capture: Future[RunReport] = Future()
    ended: list[bool] = []
    main = threading.get_ident()

    def is_waited_for() -> bool:
        innermost = traceback.extract_stack(sys._current_frames()[main])[-3:]
        return [frame.name for frame in innermost] == [
            "wait",
            "wait",
            "wait",
        ]  # the futures', an Event's, a Condition's

    def receive() -> None:
        wait_until(is_waited_for)
        signal.pthread_kill(threading.get_ident(), number)
        ended.append(bool(wait([stop], timeout=10).done))
        capture.set_exception(TimeoutError())  # it is over, whatever it brought

    with stopped_by_signals(stop):
        receiving = threading.Thread(target=receive)
        receiving.start()
        watch([capture], Progress([ACCOUNT], 60, stop))
    receiving.join()
    assert ended == [True]


def test_a_second_ctrl_c_aborts_at_once(cdc: Operator, site: Site) -> None:
    site.org.fault("disconnect", "hang", times=-1)
    process = cdc.start("run", "--seconds", "60", environment=site.environment(ACCOUNT))
    wait_until(lambda: len(site.asked("connect")) >= 1 and site.org.sessions())
    process.send_signal(signal.SIGINT)
    wait_until(lambda: site.asked("disconnect"))
    process.send_signal(signal.SIGINT)
    said = cdc.finish(process)
    assert (said.code, said.out) == (130, "")
    assert said.err.endswith("aborted; nothing is lost: the next run goes on from the last landed event\n")
    assert said.seconds < 2 * slowness()


@pytest.mark.parametrize("debug", [False, True])
def test_an_unexpected_error_is_one_line_and_its_traceback_is_for_those_who_ask(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], debug: bool
) -> None:
    def load() -> None:
        raise KeyError("s3cret")

    monkeypatch.setattr("cdc.cli.status.load_settings", load)
    monkeypatch.setattr("sys.argv", ["cdc", *(["--debug"] if debug else []), "status"])
    assert cli.main() == 1
    *before, problem, next_step = capsys.readouterr().err.splitlines()
    assert problem.startswith("✗ unexpected: KeyError at test_run.py:")
    assert "please report it" in next_step
    assert bool(before) == debug
    assert ("Traceback (most recent call last):" in before) == debug
