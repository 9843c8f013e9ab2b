"""`check` names each planted fault: one line that says what it is, and one next step, over the whole client.

The org is the emulator, storage is Azurite; before it stands a server that answers as Azure does where Azurite cannot.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from azure.storage.blob import BlobServiceClient
from typer.testing import CliRunner

from cdc import cli
from cdc.salesforce import Credentials, Streaming, fetch_token
from cdc.session import CometDSession
from emulator.client import Emulator
from tests.azurite import Azurite
from tests.cli.conftest import containers_of
from tests.harness import ACCOUNT, CONTACT, Site
from tests.nursery import Nursery
from tests.preflight.azure_front import AzureFront, before, everything, of_the_account, writes

SALES = "/data/Sales__chn"  # Account and Opportunity
CHANGES = "/data/ChangeEvents"
REFERENCE = "@Microsoft.KeyVault(SecretUri=https://kv-cdc-x.vault.azure.net/secrets/salesforce-client-secret)"
NO_RIGHT = "403::User not allowed to subscribe CDC without View All Data permissions"
ROLE = 'the role "Storage Blob Data Contributor" on the container'


@dataclass
class World:
    """An org, a storage account with Azure's doorman before it, and the app's settings, all of them good."""

    site: Site
    front: AzureFront
    settings: dict[str, str]
    sessions: list[CometDSession] = field(default_factory=list)

    def let_containers_exist(self) -> None:
        """As a deployment leaves them."""
        with BlobServiceClient.from_connection_string(self.site.connection_string) as service:
            for name in (self.site.events_container, self.site.checkpoints_container):
                service.create_container(name)

    def open_session(self) -> None:
        """Somebody else's CometD client."""
        token = fetch_token(Credentials(self.site.org.url, self.site.org.client_id, self.site.org.client_secret))
        session = CometDSession(Streaming(token, "66.0"))
        assert session.handshake(timeout_s=10).failure is None
        self.sessions.append(session)


@dataclass(frozen=True)
class Fault:
    """What is planted, and what has to be said of it: the finding's subject and verdict, words of text and step."""

    plant: Callable[[World], Any]
    subject: str
    text: str
    step: str
    verdict: str = "failed"
    code: int = 1
    shown: int = 1  # lines: what is wrong with storage is wrong with both containers


def settings(**changes: str) -> Callable[[World], None]:
    return lambda world: world.settings.update(changes)


def knobs(**changes: Any) -> Callable[[World], None]:
    return lambda world: world.site.org.knobs(**changes)


def storage(refuses: Callable[[str, str], bool], code: str) -> Callable[[World], None]:
    return lambda world: world.front.refuse(refuses, code)


def rights(*channels: str, **changes: Any) -> Callable[[World], None]:
    def plant(world: World) -> None:
        world.settings["CDC_CHANNELS"] = ",".join(channels or (ACCOUNT,))
        for channel in channels:
            world.site.org.channel(channel)
        world.site.org.rights(**changes)

    return plant


def not_selected(world: World) -> None:
    world.settings["CDC_CHANNELS"] = f"{ACCOUNT},{CONTACT}"
    world.site.org.channel(CONTACT, exists=False)


def accepted_though_not_selected(world: World) -> None:
    """The subscribe succeeds all the same; only PlatformEventChannelMember tells."""
    world.settings["CDC_CHANNELS"] = "/data/LeadChangeEvent"
    world.site.org.channel("/data/LeadChangeEvent", selected=False)


def both_clocks(world: World) -> None:
    world.site.org.advance_clock(3600)
    world.front.clock_ahead = timedelta(hours=1)


def storage_clock(world: World) -> None:
    world.front.clock_ahead = timedelta(hours=-1)
    world.front.refuse(everything, "AuthenticationFailed")


def allocation_used(world: World) -> None:
    world.site.org.knobs(daily_deliveries=10)
    world.site.org.publish(ACCOUNT, 9)
    world.let_containers_exist()
    assert world.site.capture(ACCOUNT).outcome == "ok"


FAULTS = {
    # the ten
    "wrong secret": Fault(
        settings(SALESFORCE_CLIENT_SECRET="not-the-secret"),
        "token", "invalid_client: invalid client credentials", "check SALESFORCE_CLIENT_SECRET",
    ),
    "unknown client id": Fault(
        settings(SALESFORCE_CLIENT_ID="3MVG9.of.another.org"),
        "token", "invalid_client_id: client identifier invalid", "check SALESFORCE_CLIENT_ID",
    ),
    "user without the needed right": Fault(
        rights(view_all_data=False, objects={"Account": "read"}),
        ACCOUNT, NO_RIGHT, "give the run-as user Read and View All Records on Account (or View All Data)",
    ),
    "entity not selected": Fault(
        not_selected, CONTACT, "400::The channel you requested to subscribe to doesn't exist",
        "select Contact in Setup > Change Data Capture",
    ),
    "wrong domain": Fault(
        knobs(my_domain=False), "token", "request not supported on this domain",
        "set SALESFORCE_LOGIN_URL to the My Domain URL",
    ),
    "no blob role": Fault(
        storage(everything, "AuthorizationPermissionMismatch"),
        "storage cdc-events", "403 AuthorizationPermissionMismatch", f"give the identity {ROLE} cdc-events", shown=2,
    ),
    "container missing and not creatable": Fault(
        storage(of_the_account, "AuthorizationPermissionMismatch"),
        "storage cdc-events", "does not exist, and may not be created",
        "az storage container create --name cdc-events", shown=2,
    ),
    "clock off by an hour": Fault(
        both_clocks, "clock", "60 min behind that of Salesforce, 60 min behind that of storage",
        "set this machine's clock",
    ),
    "unresolved reference": Fault(
        settings(SALESFORCE_CLIENT_SECRET=REFERENCE),
        "settings", "SALESFORCE_CLIENT_SECRET: an unresolved Key Vault reference", '"Key Vault Secrets User"', code=2,
    ),
    "run seconds above functionTimeout": Fault(
        settings(CDC_RUN_SECONDS="600"),
        "settings", "CDC_RUN_SECONDS: 600 and 15 s to end the run exceed the 540 s of functionTimeout in host.json",
        "set CDC_RUN_SECONDS to at most 524, or raise functionTimeout above 615 s", code=2,
    ),
    # and more of them
    "unknown host": Fault(
        settings(SALESFORCE_LOGIN_URL="https://acme.my.salesforce.invalid"), "token", "no such host",
        "Setup > My Domain",
    ),
    "nobody at the login URL": Fault(
        settings(SALESFORCE_LOGIN_URL="http://127.0.0.1:9"),
        "token", "connection refused", "check SALESFORCE_LOGIN_URL",
    ),
    "no run-as user": Fault(
        knobs(client_credentials_user=False), "token", "no client credentials user enabled", "name a run-as user",
    ),
    "user not admitted to the app": Fault(
        lambda world: world.site.org.fault(
            "token", "reply", reply={"error": "invalid_app_access",
                                     "error_description": "user is not admin approved to access this app"}),
        "token", "user is not admin approved", "External Client App > Policies, Permitted Users",
    ),
    "API disabled": Fault(
        knobs(rest_denied="API_DISABLED_FOR_ORG"), "REST API", "HTTP 403 API_DISABLED_FOR_ORG",
        "system permission API Enabled",
    ),
    "allocation nearly used": Fault(
        allocation_used, "allocation", "9 of 10 delivered events of 24 hours used (90 %)", "buy the add-on", "warning",
        0,
    ),
    "clients nearly used up": Fault(
        lambda world: [world.site.org.knobs(max_clients=5), *(world.open_session() for _ in range(4))],
        "clients", "4 of 5 concurrent CometD clients used (80 %)", "end other CometD clients", "warning", 0,
    ),
    "no right to see the allocation": Fault(
        rights(view_setup=False),
        "allocation", "what is left cannot be seen", "give the run-as user View Setup and Configuration", "warning", 0,
    ),
    "entity silently undelivered on a custom channel": Fault(
        rights(SALES, view_all_data=False, objects={"Opportunity": "none"}),
        SALES, "the user may not read Opportunity: such events are left out without a word",
        "give the run-as user Read and View All Records on Opportunity (or View All Data)",
    ),
    "entity that may be read but not viewed whole": Fault(
        rights(CHANGES, view_all_data=False, objects={"Contact": "read", "Account": "none"}),
        CHANGES, "the user may not read Account, nor view all records of Contact",
        "Read and View All Records on Account, Contact",
    ),
    "user object without its own right": Fault(
        rights("/data/UserChangeEvent", view_all_data=False, view_all_users=False),
        "/data/UserChangeEvent", NO_RIGHT, "give the run-as user View All Users (or View All Data)",
    ),
    "tasks without the only right that counts": Fault(
        rights("/data/TaskChangeEvent", view_all_data=False),
        "/data/TaskChangeEvent", NO_RIGHT, "give the run-as user View All Data",
    ),
    "platform event without the right": Fault(
        rights("/event/Order_Placed__e", view_all_data=False, objects={"Order_Placed__e": "none"}),
        "/event/Order_Placed__e", "403::Cannot create channel", "give the run-as user Read on Order_Placed__e",
    ),
    "subscribe that is accepted though nothing is selected": Fault(
        accepted_though_not_selected, "/data/LeadChangeEvent", "Lead is not selected for Change Data Capture",
        "select Lead in Setup",
    ),
    "storage firewall": Fault(
        storage(everything, "AuthorizationFailure"),
        "storage cdc-events", "403 AuthorizationFailure", "firewall admit this app (account > Networking", shown=2,
    ),
    "wrong storage key": Fault(
        storage(everything, "AuthenticationFailed"),
        "storage cdc-events", "403 AuthenticationFailed", "check the account key or SAS", shown=2,
    ),
    "role that only reads": Fault(
        lambda world: [world.let_containers_exist(), world.front.refuse(writes, "AuthorizationPermissionMismatch")],
        "storage cdc-events", "trying to write to container cdc-events",
        "Storage Blob Data Reader is enough for status", shown=2,
    ),
    "clock of storage alone": Fault(
        storage_clock, "clock", "60 min ahead of that of storage, though in step with that of Salesforce",
        "set this machine's clock", shown=3,
    ),
    "clock a few minutes off": Fault(
        lambda world: world.site.org.advance_clock(300), "clock", "5 min behind that of Salesforce",
        "set this machine's clock",
        "warning", 0,
    ),
}  # fmt: skip
MARKS = {"failed": "✗", "warning": "!"}


@pytest.fixture(scope="module")
def shared_org(nursery: Nursery) -> Iterator[Emulator]:
    """One org for all faults: each leaves it as it was."""
    with nursery.start() as running:
        yield running


@pytest.fixture
def org(shared_org: Emulator) -> Iterator[Emulator]:
    """The org, afterwards as it was before."""
    knobs, rights, channels = shared_org.knobs(), shared_org.rights(), shared_org.channels()
    yield shared_org
    shared_org.knobs(**knobs)
    shared_org.rights(**rights | {"objects": dict.fromkeys(shared_org.rights()["objects"], "view_all")})
    shared_org.advance_clock(-shared_org.stats()["clockOffset"])
    shared_org.clear_faults()
    shared_org.end_sessions("expire")
    for channel in channels.keys() ^ shared_org.channels().keys():
        shared_org.channel(channel, exists=channel in channels)


@pytest.fixture
def front(storage: Azurite) -> Iterator[AzureFront]:
    """Azure's doorman."""
    with before(storage.url) as running:
        yield running


@pytest.fixture
def world(
    site: Site, front: AzureFront, storage: Azurite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """Good settings, in a folder without settings of its own."""
    monkeypatch.chdir(tmp_path)
    connection = storage.connection_string.replace(storage.url, front.url)
    made = World(site, front, site.environment(ACCOUNT, CDC_STORAGE=connection))
    yield made
    for session in made.sessions:
        session.close()


def check(world: World, monkeypatch: pytest.MonkeyPatch, *options: str) -> tuple[int, str]:
    """Run the command as an operator does; its exit code and what it printed, the containers by their usual names."""
    with monkeypatch.context() as environment:
        for name, value in world.settings.items():
            environment.setenv(name, value)
        done = CliRunner().invoke(cli.app, ["check", *options])
    assert not isinstance(done.exception, Exception), done.exception
    said = done.stdout.replace(world.site.events_container, "cdc-events")
    return done.exit_code, said.replace(world.site.checkpoints_container, "cdc-checkpoints")


def test_without_a_fault_nothing_is_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.settings["CDC_CHANNELS"] = f"{ACCOUNT},{SALES};/event/Order_Placed__e"
    world.let_containers_exist()
    code, said = check(world, monkeypatch)
    assert code == 0
    assert {line[0] for line in said.splitlines()} == {"✓", "o"}, said


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_named_in_one_line_with_one_next_step(
    name: str, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    fault = FAULTS[name]
    fault.plant(world)
    before_check = containers_of(world.site), world.site.log.names()
    code, said = check(world, monkeypatch)
    lines = said.splitlines()
    troubles = [
        number for number, line in enumerate(lines)
        if line.startswith(("✗", "!")) and "it will be created on the first run" not in line
    ]  # fmt: skip
    assert len(troubles) == fault.shown, said
    [found] = [number for number in troubles if lines[number].startswith(f"{MARKS[fault.verdict]} {fault.subject}: ")]
    assert fault.text in lines[found]
    assert lines[found + 1].startswith("  next step: ")
    assert fault.step in lines[found + 1]
    assert not lines[found + 2].startswith(" ")
    assert code == fault.code
    assert (containers_of(world.site), world.site.log.names()) == before_check, "check has written something"
    assert len(world.site.org.sessions()) == len(world.sessions), "check has left a session open"
    for secret in (world.settings["SALESFORCE_CLIENT_SECRET"], world.site.org.client_secret, "kv-cdc-x"):
        assert secret not in said


@pytest.mark.parametrize("name", ["no blob role", "entity silently undelivered on a custom channel"])
def test_a_machine_gets_the_same_as_json(name: str, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    fault = FAULTS[name]
    fault.plant(world)
    code, said = check(world, monkeypatch, "--json")
    document = json.loads(said)
    [finding] = [each for each in document["findings"] if each["subject"] == fault.subject]
    assert (code, document["outcome"], finding["verdict"]) == (1, "failed", "failed")
    assert fault.text in finding["text"]
    assert fault.step in finding["hint"]
