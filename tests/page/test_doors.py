"""The two HTTP functions over a real Azurite, after real captures from an emulated org."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from cdc.store import BlobService, Container
from tests.azurite import Azurite
from tests.harness import ACCOUNT, CONTACT, Site
from tests.page.doors import call, trigger_of

HTML = "text/html,application/xhtml+xml,*/*;q=0.8"
RUN = "runs/capture1.json"


@pytest.fixture
def deployed(site: Site, monkeypatch: pytest.MonkeyPatch) -> Site:
    """The site, whose settings are the environment's."""
    for name, value in site.environment(ACCOUNT, CONTACT).items():
        monkeypatch.setenv(name, value)
    site.org.channel(CONTACT)
    return site


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the containers that the app has opened, as it goes on."""
    names: list[str] = []
    really: Callable[[BlobService, str], Container] = BlobService.container

    def container(service: BlobService, name: str) -> Container:
        names.append(name)
        return really(service, name)

    monkeypatch.setattr(BlobService, "container", container)
    return names


def captured(site: Site) -> Site:
    site.org.publish(ACCOUNT, 5)
    assert site.capture(ACCOUNT, CONTACT).outcome == "ok"
    return site


def an_hour_ago() -> str:
    return (datetime.now(UTC) - timedelta(hours=1)).isoformat()


def test_the_host_is_told_who_may_ask() -> None:
    status, health = trigger_of("status"), trigger_of("health")
    assert (status["route"], status["authLevel"].value) == ("status", "function")
    assert (health["route"], health["authLevel"].value) == ("health", "anonymous")
    assert [[method.value for method in each["methods"]] for each in (status, health)] == [["GET"], ["GET"]]


def test_after_a_capture_all_is_well_for_people_programs_and_probes_by_the_checkpoints_container_alone(
    deployed: Site, storage: Azurite, opened: list[str]
) -> None:
    captured(deployed)
    opened.clear()
    page, data, probe = call("status", accept=HTML), call("status", accept="*/*"), call("health")
    assert [each.status_code for each in (page, data, probe)] == [200, 200, 200]
    html = page.get_body().decode()
    assert "<h1>All well</h1>" in html
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in page.headers["Content-Security-Policy"]
    document = json.loads(data.get_body())
    assert data.headers["Content-Type"] == "application/json"
    assert (document["status"], document["errors"]) == ("well", [])
    channel = document["groups"]["capture1"]["channels"][ACCOUNT]
    assert (channel["segment"], channel["generation"]) == (1, 1)
    assert 71.9 < channel["retentionLeftHours"] <= 72
    assert ACCOUNT in html
    assert CONTACT in html
    assert probe.get_body() == b'{"status": "ok"}\n'
    for secret in (deployed.org.client_secret, storage.key, "AccountKey"):
        assert secret not in html + data.get_body().decode()
    deployed.log.delete_events_container()
    after = json.loads(call("status").get_body())
    assert (after["status"], after["warnings"], after["errors"]) == ("well", [], [])
    assert after["groups"]["capture1"]["channels"][ACCOUNT]["segment"] == 1
    assert opened == [deployed.checkpoints_container] * 4


def test_the_form_that_is_asked_for_wins(deployed: Site) -> None:
    assert call("status", accept="*/*", query={"format": "html"}).get_body().startswith(b"<!doctype html>")
    assert call("status", accept=HTML, query={"format": "json"}).get_body().startswith(b"{")


def test_before_the_first_run_nothing_proves_that_it_captures(deployed: Site) -> None:
    document = json.loads(call("status").get_body())
    assert document["headline"] == "Failing: capture1 has no run on record"
    assert call("health").status_code == 503
    assert deployed.log.names() == set()  # and nothing was created by asking
    assert deployed.asked() == []


def test_health_follows_the_last_run_of_every_group(deployed: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    captured(deployed)
    as_it_was = json.loads(deployed.log.read_state(RUN))
    silent = {ACCOUNT: {"outcome": "degraded", "silentSince": an_hour_ago()}}
    for changes, code in (
        ({"outcome": "failed"}, 503),
        ({"outcome": "degraded"}, 200),
        ({"finished": an_hour_ago()}, 503),
        ({"isUnderWay": True}, 200),
        ({"isUnderWay": True, "finished": an_hour_ago()}, 503),
        ({"isUnderWay": True, "outcome": "failed"}, 503),
        ({"outcome": "degraded", "channels": silent}, 503),
    ):
        deployed.log.write_state(RUN, json.dumps(as_it_was | changes).encode())
        probe = call("health")
        assert probe.status_code == code, changes
        assert probe.get_body() == (b'{"status": "ok"}\n' if code == 200 else b'{"status": "failing"}\n')
    monkeypatch.setenv("CDC_CHANNELS", f"{ACCOUNT};{CONTACT}")
    deployed.log.write_state(RUN, json.dumps(as_it_was).encode())
    assert call("health").status_code == 503
    assert json.loads(call("status").get_body())["headline"] == "Failing: capture2 has no run on record"
    deployed.log.write_state(RUN, b"[]")
    assert call("health").status_code == 503
    assert "has a run record that cannot be read" in json.loads(call("status").get_body())["headline"]


def test_a_failed_run_and_a_gap_are_on_the_page_with_what_to_do(deployed: Site) -> None:
    captured(deployed)
    deployed.org.reset_stream()
    assert deployed.capture(ACCOUNT, CONTACT).outcome == "degraded"
    html = call("status", accept=HTML).get_body().decode()
    assert "<h1>Look: " in html
    assert f"{ACCOUNT} may lack events" in html
    assert "gaps/data/AccountChangeEvent/0002.json" in html
    assert call("health").status_code == 200
    closing = {"number": 2, "closed": an_hour_ago(), "note": "reconciled"}
    record = json.loads(deployed.log.read_state("gaps/data/AccountChangeEvent/0002.json"))
    shared = {name: record[name] for name in ("format", "channel", "orgId", "runId")}
    deployed.log.write_state("gaps/data/AccountChangeEvent/0002.closed.json", json.dumps(shared | closing).encode())
    assert "may lack events" not in call("status", accept=HTML).get_body().decode()
    wrong = deployed.capture(ACCOUNT, CONTACT, SALESFORCE_CLIENT_SECRET="wrong")
    assert wrong.outcome == "failed"
    html = call("status", accept=HTML).get_body().decode()
    assert "<h1>Failing: capture1 failed in its last run" in html
    assert "invalid client credentials" in html
    assert "SALESFORCE_CLIENT_SECRET" in html
    assert call("health").status_code == 503


def test_settings_that_cannot_be_used_are_named_and_no_value_is_repeated(
    deployed: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CDC_STORAGE", "https://acme.blob.core.windows.net?sig=SECRET")
    monkeypatch.setenv("CDC_RUN_SECONDS", "soon")
    for accept in (HTML, "*/*"):
        answer = call("status", accept=accept)
        body = answer.get_body().decode()
        assert answer.status_code == 503
        assert "the settings cannot be used" in body
        assert "CDC_STORAGE" in body
        assert "CDC_RUN_SECONDS" in body
        assert "SECRET" not in body.replace("SALESFORCE_CLIENT_SECRET", "")
        assert "Traceback" not in body
    probe = call("health")
    assert (probe.status_code, probe.get_body()) == (503, b'{"status": "failing"}\n')


def test_storage_that_refuses_a_connection_is_named(
    deployed: Site, storage: Azurite, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = (
        f"AccountName={storage.account};AccountKey={storage.key};BlobEndpoint=http://127.0.0.1:9/{storage.account};"
    )
    monkeypatch.setenv("CDC_STORAGE", nobody)
    answer = call("status", accept=HTML)
    assert answer.status_code == 503
    assert "connection refused" in answer.get_body().decode()
    assert storage.key not in answer.get_body().decode()


def test_storage_that_hangs_is_not_waited_for(
    deployed: Site, storage: Azurite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody listens, and never answers; the door's patience is made shorter than the SDK's."""
    monkeypatch.setattr("cdc.app._READ_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        where = f"BlobEndpoint=http://127.0.0.1:{port}/{storage.account};"
        monkeypatch.setenv("CDC_STORAGE", f"AccountName={storage.account};AccountKey={storage.key};{where}")
        began = time.monotonic()
        answer = call("status")
        probe = call("health")
        assert time.monotonic() - began < 20
    assert (answer.status_code, probe.status_code) == (503, 503)
    assert "no answer within" in json.loads(answer.get_body())["errors"][0]["message"]
