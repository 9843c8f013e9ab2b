"""After a start the log has what `check` finds: once per process, beside the first run, and without a session more."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cdc import first_check
from cdc.finding import Finding
from tests.harness import ACCOUNT, CONTACT, Recorder, Site, slowness

ROOT = Path(__file__).parent.parent.parent
SALES = "/data/Sales__chn"
# As the worker does: import, index, call each function, twice; what it logs goes to stderr.
TWICE = """
import json, logging, sys
from types import SimpleNamespace
logging.basicConfig(level=logging.INFO, format="%(message)s")
import function_app
found = [each for each in function_app.app.get_functions() if each.get_function_name().startswith("capture")]
functions = [each.get_user_function() for each in found]
for function in functions * 2:
    try:
        function(SimpleNamespace(past_due=False))
        print(json.dumps(None))
    except Exception as error:
        print(json.dumps(str(error)))
"""
FINE, BAD = Finding("token", "ok", "granted"), Finding("clock", "failed", "an hour behind", "set it")


def host(settings: dict[str, str]) -> tuple[list[str | None], list[dict[str, Any]]]:
    """Run every timer function twice in one process; what each call ended with, and the events of the check."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", TWICE],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **settings},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    events = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    return [json.loads(line) for line in done.stdout.splitlines()], [
        event for event in events if event["event"].startswith("check.")
    ]


def finding(level: str, subject: str, verdict: str, text: str, next_step: str) -> dict[str, Any]:
    """A finding as a log query sees it."""
    said = {"level": level, "subject": subject, "verdict": verdict, "text": text, "next_step": next_step}
    return {"event": "check.finding", **said}


def test_the_first_run_logs_each_finding_once_and_fails_for_none_of_them(site: Site) -> None:
    site.org.rights(view_all_data=False, objects={"Opportunity": "none"})
    site.org.knobs(daily_deliveries=10)
    site.org.publish(CONTACT, 9)
    assert site.capture(CONTACT).outcome == "ok"
    handshakes = len(site.asked("handshake"))
    seconds = str(round(1.5 * slowness()))
    settings = site.environment(CDC_RUN_SECONDS=seconds, CDC_CHANGEL="x") | {"CDC_CHANNELS": f"{ACCOUNT};{SALES}"}
    ended, said = host(settings)
    assert ended == [None] * 4
    assert said == [
        finding(
            *("warning", "settings", "warning"),
            "CDC_CHANGEL: no such setting; did you mean CDC_CHANNELS?",
            "correct its name or remove it",
        ),
        finding(
            *("warning", "allocation", "warning"),
            "9 of 10 delivered events of 24 hours used (90 %)",
            "capture fewer objects, filter by a custom channel, stop other subscribers, or buy the add-on; "
            "events stay 72 hours",
        ),
        finding(
            *("error", SALES, "failed"),
            "the user may not read Opportunity: such events are left out without a word",
            "give the run-as user Read and View All Records on Opportunity (or View All Data)",
        ),
        {"event": "check.finished", "level": "info", "outcome": "failed", "ok": 7, "warning": 2, "failed": 1},
    ]
    assert len(site.asked("handshake")) == handshakes + 4, "a session for each run and no other"


def test_settings_that_cannot_be_used_are_logged_too(site: Site) -> None:
    reference = "@Microsoft.KeyVault(SecretUri=https://kv-cdc-x.vault.azure.net/secrets/x)"
    ended, said = host(site.environment(ACCOUNT, SALESFORCE_CLIENT_SECRET=reference))
    assert all(text and "unresolved Key Vault reference" in text for text in ended)
    assert [(event["event"], event.get("subject"), event.get("verdict")) for event in said] == [
        ("check.finding", "settings", "failed"),
        ("check.finding", "storage and Salesforce", "skipped"),
        ("check.finished", None, None),
    ]
    assert "keyVaultReferenceIdentity" in said[0]["next_step"]
    assert "kv-cdc-x" not in repr(said)


# --- the block by itself ---------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _first(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process nothing has run yet."""
    monkeypatch.setattr(first_check, "_is_done", False)


def test_only_the_first_block_is_checked_beside() -> None:
    said = Recorder()
    for _ in range(3):
        with first_check.beside(lambda: iter([FINE, BAD]), said):
            pass
    [finding] = said.named("check.finding")
    assert finding == {"subject": "clock", "verdict": "failed", "text": "an hour behind", "next_step": "set it"}
    assert said.named("check.finished") == [{"outcome": "failed", "ok": 1, "warning": 0, "failed": 1}]


def test_what_was_found_when_the_time_is_up_is_said_and_the_rest_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_check, "CHECK_S", 0.2)
    going_on, said = threading.Event(), Recorder()

    def check() -> Iterator[Finding]:
        yield Finding("allocation", "warning", "nearly used", "buy more")
        going_on.wait(60)
        yield BAD

    began = time.monotonic()
    with first_check.beside(check, said):
        pass
    assert time.monotonic() - began < 30
    assert [finding["subject"] for finding in said.named("check.finding")] == ["allocation"]
    assert said.named("check.finished")[0]["outcome"] == "unfinished"
    going_on.set()


def test_a_block_that_fails_fails_as_it_did_and_the_findings_come_first() -> None:
    said = Recorder()
    with pytest.raises(KeyError, match="of the run"), first_check.beside(lambda: iter([BAD]), said):
        raise KeyError("of the run")
    assert len(said.named("check.finding")) == 1


def test_a_check_that_breaks_breaks_nothing() -> None:
    said = Recorder()

    def check() -> Iterator[Finding]:
        yield BAD
        raise RuntimeError

    with first_check.beside(check, said):
        pass
    assert [name for name, _ in said.events] == ["check.finding", "check.finished"]


def test_the_events_come_from_the_thread_of_the_run() -> None:
    """The worker ties a log line to its invocation by the thread."""
    threads: list[threading.Thread] = []
    checked = threading.Event()

    def emit(name: str, /, *, level: int = 20, **fields: object) -> None:
        threads.append(threading.current_thread())

    def check() -> Iterator[Finding]:
        yield from (FINE, BAD)
        checked.set()

    with first_check.beside(check, emit):
        assert checked.wait(10)
    assert set(threads) == {threading.current_thread()}
