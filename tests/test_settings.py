"""What the app settings may hold, what they become, and what the operator reads when they cannot be used."""

from __future__ import annotations

import base64
import json
import re
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from pydantic import SecretStr, ValidationError

from cdc.errors import SettingsInvalid
from cdc.settings import (
    GRACE_SECONDS,
    SETTINGS,
    ChannelGroup,
    Settings,
    StorageSettings,
    check_function_timeout,
    load_settings,
    timer_groups,
    timer_schedule,
)

pytestmark = pytest.mark.pure

ROOT = Path(__file__).parent.parent
SECRET = "hush-4711-hush"
ACCOUNT_KEY = base64.b64encode(SECRET.encode()).decode()
CONNECTION = (
    f"DefaultEndpointsProtocol=https;AccountName=acmedata;AccountKey={ACCOUNT_KEY};EndpointSuffix=core.windows.net"
)
COMPLETE = {
    "SALESFORCE_LOGIN_URL": "https://acme.my.salesforce.com",
    "SALESFORCE_CLIENT_ID": "consumer-key",
    "SALESFORCE_CLIENT_SECRET": SECRET,
    "CDC_CHANNELS": "/data/AccountChangeEvent",
    "CDC_STORAGE": CONNECTION,
}


def given(changes: Mapping[str, str | None]) -> dict[str, str]:
    """The complete settings with `changes`; None takes a setting away."""
    return {name: value for name, value in {**COMPLETE, **changes}.items() if value is not None}


def loaded(**changes: str | None) -> Settings:
    return load_settings(given(changes))


def problems(**changes: str | None) -> tuple[str, ...]:
    with pytest.raises(SettingsInvalid) as caught:
        load_settings(given(changes))
    return caught.value.problems


@cache
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=1024)


def pem(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, lock: KeySerializationEncryption | None = None) -> str:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock or NoEncryption()).decode()


def jwt(**changes: str | None) -> dict[str, str | None]:
    return {
        "SALESFORCE_CLIENT_SECRET": None,
        "SALESFORCE_USERNAME": "cdc@acme.com",
        "SALESFORCE_PRIVATE_KEY": pem(rsa_key()),
        **changes,
    }


# --- the whole --------------------------------------------------------------------------------------------------------


def test_five_settings_are_enough_and_the_rest_has_defaults() -> None:
    settings = loaded()
    assert settings.salesforce_login_url == "https://acme.my.salesforce.com"
    assert settings.salesforce_client_id == "consumer-key"
    assert settings.salesforce_client_secret == SecretStr(SECRET)
    assert (settings.salesforce_username, settings.salesforce_private_key) == (None, None)
    assert settings.salesforce_api_version == "66.0"
    assert settings.channel_groups == (ChannelGroup("capture1", ("/data/AccountChangeEvent",)),)
    assert (settings.cdc_schedule, settings.cdc_run_seconds) == ("0 */5 * * * *", 260)
    assert (settings.cdc_start, settings.cdc_on_replay_expired) == ("tip", "earliest")
    assert settings.storage == StorageSettings(source="CDC_STORAGE", connection_string=SecretStr(CONNECTION))
    assert (settings.cdc_events_container, settings.cdc_checkpoints_container) == ("cdc-events", "cdc-checkpoints")
    assert settings.unknown == ()


def test_nothing_set_names_everything_that_is_needed_at_once() -> None:
    with pytest.raises(SettingsInvalid) as caught:
        load_settings({})
    assert caught.value.problems == (
        "SALESFORCE_LOGIN_URL: missing; your My Domain URL, like https://acme.my.salesforce.com",
        "SALESFORCE_CLIENT_ID: missing; the consumer key of the External Client App",
        "SALESFORCE_CLIENT_SECRET: missing; set it (client-credentials flow), "
        "or SALESFORCE_USERNAME and SALESFORCE_PRIVATE_KEY (JWT bearer flow)",
        "CDC_CHANNELS: missing; the channels, like /data/AccountChangeEvent,/data/ContactChangeEvent; "
        "a semicolon starts another group",
        "CDC_STORAGE: missing; connection string of the storage account, or UseDevelopmentStorage=true; "
        "or CDC_STORAGE__blobServiceUri",
    )


def test_problems_of_every_kind_come_together_in_the_order_of_the_table() -> None:
    names = [
        problem.partition(":")[0]
        for problem in problems(
            CDC_CHECKPOINTS_CONTAINER="cdc-events",
            CDC_STORAGE__blobServiceUri="ftp://x",
            CDC_RUN_SECONDS="soon",
            SALESFORCE_USERNAME="cdc@acme.com",
            SALESFORCE_CLIENT_ID="@Microsoft.KeyVault(VaultName=v;SecretName=s)",
            CDC_CHANNELS="AccountChangeEvent,/topic/X",
        )
    ]
    assert names == [
        "SALESFORCE_CLIENT_ID",
        "SALESFORCE_CLIENT_SECRET",
        "CDC_CHANNELS",
        "CDC_CHANNELS",
        "CDC_RUN_SECONDS",
        "CDC_STORAGE",
        "CDC_STORAGE__blobServiceUri",
        "CDC_CHECKPOINTS_CONTAINER",
    ]


def test_settings_cannot_be_changed() -> None:
    settings = loaded()
    with pytest.raises(ValidationError):
        settings.cdc_run_seconds = 1
    with pytest.raises(ValidationError):
        settings.storage.source = "elsewhere"


def test_the_table_names_every_setting_that_a_field_is_read_from() -> None:
    aliases = {str(field.validation_alias) for field in Settings.model_fields.values() if field.validation_alias}
    assert aliases <= SETTINGS.keys()
    assert all(len(setting.meaning) < 110 and not setting.meaning.endswith(".") for setting in SETTINGS.values())


# --- each setting -----------------------------------------------------------------------------------------------------

ACCEPTED = [
    ("SALESFORCE_LOGIN_URL", "https://Acme.my.salesforce.com/", "https://acme.my.salesforce.com"),
    ("SALESFORCE_LOGIN_URL", "HTTPS://acme.my.salesforce.com:8443", "https://acme.my.salesforce.com:8443"),
    ("SALESFORCE_LOGIN_URL", "http://localhost:8080", "http://localhost:8080"),
    ("SALESFORCE_LOGIN_URL", "http://127.0.0.1:8080/", "http://127.0.0.1:8080"),
    ("SALESFORCE_LOGIN_URL", "http://[::1]:8080", "http://[::1]:8080"),
    ("SALESFORCE_API_VERSION", "66", "66.0"),
    ("SALESFORCE_API_VERSION", "v66.0", "66.0"),
    ("SALESFORCE_API_VERSION", "37.0", "37.0"),
    ("CDC_SCHEDULE", "*/10 * * * *", "*/10 * * * *"),
    ("CDC_SCHEDULE", "0  0,30 8-18 * Jan Mon-Fri", "0 0,30 8-18 * Jan Mon-Fri"),
    ("CDC_RUN_SECONDS", " 1 ", 1),
    ("CDC_RUN_SECONDS", "86400", 86400),
    ("CDC_SILENCE_CHECK_MINUTES", "0", 0),
    ("CDC_SILENCE_CHECK_MINUTES", "1440", 1440),
    ("CDC_START", "earliest", "earliest"),
    ("CDC_ON_REPLAY_EXPIRED", "stop", "stop"),
    ("CDC_EVENTS_CONTAINER", "a1b", "a1b"),
    ("CDC_EVENTS_CONTAINER", "x" * 63, "x" * 63),
]


@pytest.mark.parametrize(("name", "value", "expected"), ACCEPTED)
def test_a_value_is_taken(name: str, value: str, expected: object) -> None:
    assert getattr(loaded(**{name: value}), name.lower()) == expected


A_URL = "not a URL; expected one like https://acme.my.salesforce.com"
CARRIES = (
    "carries a user, a query or a SAS token; only the plain address belongs here, like https://acme.my.salesforce.com"
)
ENCRYPTED_WAY = "must start with https:// (http:// is accepted for loopback hosts only)"
MY_DOMAIN = "the client-credentials flow works at a My Domain only; use yours, like https://acme.my.salesforce.com"
USER_INTERFACE = "a page of the user interface; needs the My Domain URL, like https://acme.my.salesforce.com"
VERSION = "must be an API version of 37.0 or later, like 66.0"
SCHEDULE = "must be an NCRONTAB expression of 5 or 6 fields, like 0 */5 * * * *"
SECONDS = "must be a whole number of seconds from 1 to 86400"
MINUTES = "must be a whole number of minutes from 1 to 1440, or 0 to switch it off"
CONTAINER = "must be 3 to 63 lower-case letters, digits and single hyphens, no hyphen at either end"
NOT_FOUND = "an unresolved Key Vault reference; the app's identity cannot read the vault, or the secret is not there"

REFUSED = [
    ("SALESFORCE_LOGIN_URL", "acme.my.salesforce.com", A_URL),
    ("SALESFORCE_LOGIN_URL", "https://", A_URL),
    ("SALESFORCE_LOGIN_URL", "https://acme:port", A_URL),
    ("SALESFORCE_LOGIN_URL", "https://[acme", A_URL),
    ("SALESFORCE_LOGIN_URL", "https://ac me.com", A_URL),
    ("SALESFORCE_LOGIN_URL", "http://acme.my.salesforce.com", ENCRYPTED_WAY),
    ("SALESFORCE_LOGIN_URL", "http://127.0.0.1.acme.com", ENCRYPTED_WAY),
    ("SALESFORCE_LOGIN_URL", f"https://me:{SECRET}@acme.my.salesforce.com", CARRIES),
    ("SALESFORCE_LOGIN_URL", f"https://acme.my.salesforce.com?sid={SECRET}", CARRIES),
    (
        "SALESFORCE_LOGIN_URL",
        "https://acme.my.salesforce.com/services",
        "must end after the host name; remove the path",
    ),
    ("SALESFORCE_LOGIN_URL", "https://acme.lightning.force.com", USER_INTERFACE),
    ("SALESFORCE_LOGIN_URL", "https://login.salesforce.com", MY_DOMAIN),
    ("SALESFORCE_LOGIN_URL", "https://Test.salesforce.com/", MY_DOMAIN),
    ("SALESFORCE_API_VERSION", "36.0", VERSION),
    ("SALESFORCE_API_VERSION", "66.1", VERSION),
    ("SALESFORCE_API_VERSION", "latest", VERSION),
    ("CDC_SCHEDULE", "00:05:00", SCHEDULE),
    ("CDC_SCHEDULE", "every 5 minutes", SCHEDULE),
    ("CDC_SCHEDULE", "0 0 */5 * * * *", SCHEDULE),
    ("CDC_RUN_SECONDS", "0", SECONDS),
    ("CDC_RUN_SECONDS", "-5", SECONDS),
    ("CDC_RUN_SECONDS", "4m20s", SECONDS),
    ("CDC_RUN_SECONDS", "260.5", SECONDS),
    ("CDC_RUN_SECONDS", "86401", SECONDS),
    ("CDC_SILENCE_CHECK_MINUTES", "-1", MINUTES),
    ("CDC_SILENCE_CHECK_MINUTES", "1441", MINUTES),
    ("CDC_SILENCE_CHECK_MINUTES", "15m", MINUTES),
    ("CDC_START", "-1", "must be 'tip' or 'earliest'"),
    ("CDC_ON_REPLAY_EXPIRED", "ignore", "must be 'earliest', 'tip' or 'stop'"),
    ("CDC_EVENTS_CONTAINER", "Events", CONTAINER),
    ("CDC_EVENTS_CONTAINER", "ab", CONTAINER),
    ("CDC_EVENTS_CONTAINER", "x" * 64, CONTAINER),
    ("CDC_EVENTS_CONTAINER", "cdc--events", CONTAINER),
    ("CDC_CHECKPOINTS_CONTAINER", "-cdc", CONTAINER),
    ("CDC_CHECKPOINTS_CONTAINER", "cdc-events", "must differ from CDC_EVENTS_CONTAINER"),
    ("SALESFORCE_CLIENT_ID", "@Microsoft.KeyVault(SecretUri=https://v.vault.azure.net/secrets/s)", NOT_FOUND),
    ("SALESFORCE_CLIENT_SECRET", "@microsoft.keyvault(VaultName=v;SecretName=s)", NOT_FOUND),
    ("CDC_CHANNELS", "@Microsoft.KeyVault(VaultName=v;SecretName=s)", NOT_FOUND),
    ("CDC_STORAGE", "@Microsoft.KeyVault(VaultName=v;SecretName=s)", NOT_FOUND),
    ("SALESFORCE_CLIENT_ID", "<consumer key>", "still the placeholder of the example; put your own value"),
]


@pytest.mark.parametrize(("name", "value", "problem"), REFUSED)
def test_a_value_is_refused_with_one_problem(name: str, value: str, problem: str) -> None:
    assert problems(**{name: value}) == (f"{name}: {problem}",)


# --- the sign-in flow -------------------------------------------------------------------------------------------------


def test_a_user_name_and_a_private_key_are_the_jwt_bearer_flow() -> None:
    settings = loaded(**jwt())
    assert settings.salesforce_client_secret is None
    assert settings.salesforce_username == "cdc@acme.com"
    assert settings.salesforce_private_key == SecretStr(pem(rsa_key()))


def test_a_private_key_may_have_its_line_breaks_written_out() -> None:
    written_out = pem(rsa_key()).replace("\n", "\\n")
    assert loaded(**jwt(SALESFORCE_PRIVATE_KEY=written_out)).salesforce_private_key == SecretStr(pem(rsa_key()))


def test_the_jwt_bearer_flow_may_use_the_common_login_host() -> None:
    settings = loaded(**jwt(SALESFORCE_LOGIN_URL="https://login.salesforce.com"))
    assert settings.salesforce_login_url == "https://login.salesforce.com"


def test_two_flows_at_once_say_which_settings_to_remove() -> None:
    assert problems(**jwt(SALESFORCE_CLIENT_SECRET=SECRET)) == (
        "SALESFORCE_CLIENT_SECRET: set beside SALESFORCE_USERNAME and SALESFORCE_PRIVATE_KEY; remove it (JWT bearer "
        "flow) or remove SALESFORCE_USERNAME and SALESFORCE_PRIVATE_KEY (client-credentials flow)",
    )


def test_half_a_jwt_bearer_flow_names_the_other_half() -> None:
    assert problems(**jwt(SALESFORCE_USERNAME=None)) == (
        "SALESFORCE_USERNAME: missing; the user to act as: JWT bearer flow, instead of the secret, "
        "goes with SALESFORCE_PRIVATE_KEY",
    )
    (problem,) = problems(**jwt(SALESFORCE_PRIVATE_KEY=None))
    assert problem.startswith("SALESFORCE_PRIVATE_KEY: missing; the RSA private key as PEM text")


def bad_keys() -> list[tuple[str, str]]:
    whole = pem(rsa_key())
    public = rsa_key().public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    old_lock = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END RSA PRIVATE KEY-----"
    return [
        (public, "a public key; needs the RSA private key"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----", "a certificate; needs the RSA private key"),
        (pem(rsa_key(), BestAvailableEncryption(b"x")), "an encrypted private key; decrypt it"),
        (old_lock, "an encrypted private key; decrypt it"),
        (pem(ec.generate_private_key(ec.SECP256R1())), "not an RSA key, and Salesforce verifies RS256 only"),
        (whole[: len(whole) // 2], "a damaged private key (line breaks lost? write each as \\n)"),
        ("/home/me/server.key", "not PEM text; needs the RSA private key"),
        (SECRET, "not PEM text; needs the RSA private key"),
    ]


@pytest.mark.parametrize("number", range(8))
def test_a_private_key_that_cannot_sign_is_described_without_its_text(number: int) -> None:
    value, start = bad_keys()[number]
    (problem,) = problems(**jwt(SALESFORCE_PRIVATE_KEY=value))
    assert problem.startswith(f"SALESFORCE_PRIVATE_KEY: {start}")
    assert not any(line in problem for line in value.splitlines() if line.strip("-") == line != "")


# --- channels ---------------------------------------------------------------------------------------------------------


def test_channels_form_groups_and_blanks_and_trailing_separators_do_not_matter() -> None:
    value = "/data/ChangeEvents , /data/Order__ChangeEvent,\n;/data/Sales__chn;/event/Shipped__e,;\n; "
    assert loaded(CDC_CHANNELS=value).channel_groups == (
        ChannelGroup("capture1", ("/data/ChangeEvents", "/data/Order__ChangeEvent")),
        ChannelGroup("capture2", ("/data/Sales__chn",)),
        ChannelGroup("capture3", ("/event/Shipped__e",)),
    )


NONE_OF = "is none of /data/<Object>ChangeEvent, /data/ChangeEvents, /data/<Name>__chn, /event/<Name>__e"
STREAMING = "is PushTopic or generic streaming; only /data/… and /event/… channels are captured"
EMPTY = "an empty channel between two separators; remove one of them"
BAD_CHANNELS = [
    (
        "data/AccountChangeEvent",
        ["'data/AccountChangeEvent' is not a whole channel name; write /data/AccountChangeEvent"],
    ),
    ("AccountChangeEvent", ["'AccountChangeEvent' is not a whole channel name; write /data/AccountChangeEvent"]),
    ("Shipped__e", ["'Shipped__e' is not a whole channel name; write /event/Shipped__e"]),
    ("/topic/Accounts", [f"'/topic/Accounts' {STREAMING}"]),
    ("/u/notes/a", [f"'/u/notes/a' {STREAMING}"]),
    ("/data/*", [f"'/data/*' {NONE_OF}"]),
    ("/data/**", [f"'/data/**' {NONE_OF}"]),
    ("/data/../AccountChangeEvent", [f"'/data/../AccountChangeEvent' {NONE_OF}"]),
    ("/data/Account", [f"'/data/Account' {NONE_OF}"]),
    ("/data/1ChangeEvent", [f"'/data/1ChangeEvent' {NONE_OF}"]),
    ("/Data/AccountChangeEvent", [f"'/Data/AccountChangeEvent' {NONE_OF}"]),
    ("/meta/connect", [f"'/meta/connect' {NONE_OF}"]),
    ("/event/Shipped", [f"'/event/Shipped' {NONE_OF}"]),
    ("/data/" + "A" * 200 + "ChangeEvent", [f"'/data/{'A' * 34}'… is longer than 200 characters"]),
    ("/data/AChangeEvent,,/data/BChangeEvent", [EMPTY]),
    ("/data/AChangeEvent;;/data/BChangeEvent", [EMPTY]),
    (";", [EMPTY]),
    (
        "/data/AChangeEvent,/data/aChangeEvent",
        ["'/data/aChangeEvent' stands in capture1 and again in capture1; remove one"],
    ),
    (
        "/data/AChangeEvent;/topic/X,/data/AChangeEvent",
        [f"'/topic/X' {STREAMING}", "'/data/AChangeEvent' stands in capture1 and again in capture2; remove one"],
    ),
]


@pytest.mark.parametrize(("value", "expected"), BAD_CHANNELS)
def test_channels_are_refused_each_with_its_own_problem(value: str, expected: list[str]) -> None:
    assert problems(CDC_CHANNELS=value) == tuple(f"CDC_CHANNELS: {problem}" for problem in expected)


# --- storage ----------------------------------------------------------------------------------------------------------

DEVELOPMENT = "UseDevelopmentStorage=true"
ACCOUNT_URL = "https://acmedata.blob.core.windows.net"
STORAGES: list[tuple[dict[str, str], StorageSettings]] = [
    (
        {"CDC_STORAGE": DEVELOPMENT, "AzureWebJobsStorage": CONNECTION},
        StorageSettings(source="CDC_STORAGE", connection_string=SecretStr(DEVELOPMENT)),
    ),
    (
        {"CDC_STORAGE": f"BlobEndpoint={ACCOUNT_URL};SharedAccessSignature=sv=1&sig={SECRET}"},
        StorageSettings(
            source="CDC_STORAGE",
            connection_string=SecretStr(f"BlobEndpoint={ACCOUNT_URL};SharedAccessSignature=sv=1&sig={SECRET}"),
        ),
    ),
    (
        {
            "CDC_STORAGE__blobServiceUri": f"{ACCOUNT_URL}/",
            "CDC_STORAGE__clientId": "1-2-3",
            "AzureWebJobsStorage": "?",
        },
        StorageSettings(source="CDC_STORAGE", account_url=ACCOUNT_URL, client_id="1-2-3"),
    ),
    ({"CDC_STORAGE__accountName": "acmedata"}, StorageSettings(source="CDC_STORAGE", account_url=ACCOUNT_URL)),
    (
        {"cdc_storage__BLOBSERVICEURI": "http://127.0.0.1:10000/devstoreaccount1"},
        StorageSettings(source="CDC_STORAGE", account_url="http://127.0.0.1:10000/devstoreaccount1"),
    ),
    (
        {"AzureWebJobsStorage": DEVELOPMENT},
        StorageSettings(source="AzureWebJobsStorage", connection_string=SecretStr(DEVELOPMENT)),
    ),
    (
        {"AzureWebJobsStorage__blobServiceUri": ACCOUNT_URL, "AzureWebJobsStorage__accountName": "other"},
        StorageSettings(source="AzureWebJobsStorage", account_url=ACCOUNT_URL),
    ),
    (
        {"AzureWebJobsStorage__accountName": "acmedata", "AzureWebJobsStorage__clientId": "1-2-3"},
        StorageSettings(source="AzureWebJobsStorage", account_url=ACCOUNT_URL, client_id="1-2-3"),
    ),
]


@pytest.mark.parametrize(("values", "expected"), STORAGES)
def test_the_storage_account_comes_from_our_settings_or_else_from_the_host(
    values: dict[str, str], expected: StorageSettings
) -> None:
    assert loaded(**{"CDC_STORAGE": None, **values}).storage == expected


URI = "CDC_STORAGE__blobServiceUri"
BLOB_CARRIES = f"carries a user, a query or a SAS token; only the plain address belongs here, like {ACCOUNT_URL}"
NO_CONNECTION = "not a connection string: needs AccountName and AccountKey, or UseDevelopmentStorage=true"
BAD_STORAGES: list[tuple[dict[str, str], str]] = [
    ({"CDC_STORAGE": CONNECTION, URI: ACCOUNT_URL}, f"CDC_STORAGE: set beside {URI}; remove one of them"),
    (
        {"AzureWebJobsStorage": CONNECTION, "AzureWebJobsStorage__accountName": "acmedata"},
        "AzureWebJobsStorage: set beside AzureWebJobsStorage__accountName; remove one of them",
    ),
    (
        {URI: ACCOUNT_URL, "CDC_STORAGE__accountName": "acmedata"},
        f"CDC_STORAGE__accountName: set beside {URI}; remove one of them",
    ),
    (
        {"CDC_STORAGE": CONNECTION, "CDC_STORAGE__clientId": "1-2-3"},
        "CDC_STORAGE__clientId: has no effect beside a connection string; "
        f"remove it, or use {URI} instead of CDC_STORAGE",
    ),
    ({"CDC_STORAGE": SECRET}, f"CDC_STORAGE: {NO_CONNECTION}"),
    ({"CDC_STORAGE": f"AccountKey={ACCOUNT_KEY}"}, f"CDC_STORAGE: {NO_CONNECTION}"),
    ({"CDC_STORAGE": "UseDevelopmentStorage=false"}, f"CDC_STORAGE: {NO_CONNECTION}"),
    ({"AzureWebJobsStorage": "AccountName=acmedata"}, f"AzureWebJobsStorage: {NO_CONNECTION}"),
    (
        {"CDC_STORAGE": f"AccountName=acmedata;AccountKey={ACCOUNT_KEY[:-3]}"},
        "CDC_STORAGE: the AccountKey in it is damaged (cut off when it was pasted?); copy it again",
    ),
    (
        {"CDC_STORAGE": ACCOUNT_URL},
        "CDC_STORAGE: a URL, not a connection string; it belongs in the setting that ends in __blobServiceUri",
    ),
    ({URI: f"{ACCOUNT_URL}/?sv=1&sig={SECRET}"}, f"{URI}: {BLOB_CARRIES}"),
    ({URI: "http://acmedata.blob.core.windows.net"}, f"{URI}: {ENCRYPTED_WAY}"),
    (
        {URI: f"{ACCOUNT_URL}/cdc-events"},
        f"{URI}: must end after the host name; containers have settings of their own",
    ),
    (
        {"AzureWebJobsStorage__accountName": "Acme_Data"},
        f"AzureWebJobsStorage__accountName: not a URL; expected one like {ACCOUNT_URL}",
    ),
]


@pytest.mark.parametrize(("values", "problem"), BAD_STORAGES)
def test_a_storage_account_is_refused_under_the_name_of_its_setting(values: dict[str, str], problem: str) -> None:
    assert problems(**{"CDC_STORAGE": None, **values}) == (problem,)


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_no_secret_shows_in_a_repr_or_a_text_of_the_settings() -> None:
    for settings in (loaded(), loaded(**jwt())):
        shown = f"{settings!r} {settings} {settings.storage!r} {settings.model_dump()} {settings.model_dump_json()}"
        assert SECRET not in shown
        assert ACCOUNT_KEY not in shown
        assert pem(rsa_key()).splitlines()[1] not in shown
        assert "**********" in shown


@pytest.mark.parametrize("name", sorted(SETTINGS.keys() - {"CDC_CHANNELS"}))
def test_a_secret_in_the_wrong_place_is_not_repeated(name: str) -> None:
    environ = given({name: f"{SECRET} {SECRET}", "SALESFORCE_USERNAME": SECRET})
    with pytest.raises(SettingsInvalid) as caught:
        load_settings(environ)
    assert SECRET not in f"{caught.value} {caught.value!r} {caught.value.problems}"


def test_the_error_carries_no_foreign_error_that_would_carry_the_values() -> None:
    with pytest.raises(SettingsInvalid) as caught:
        load_settings(given({"CDC_STORAGE": SECRET}))
    assert (caught.value.__cause__, caught.value.__context__) == (None, None)


# --- sources ----------------------------------------------------------------------------------------------------------


def local_file(folder: Path, text: str) -> Path:
    path = folder / "local.settings.json"
    path.write_text(text)
    return path


def test_the_environment_wins_over_local_settings_and_an_empty_value_is_none(tmp_path: Path) -> None:
    values = {
        **COMPLETE,
        "CDC_START": "earliest",
        "CDC_RUN_SECONDS": 30,
        "CDC_SCHEDULE": None,
        "CDC_EVENTS_CONTAINER": " ",
    }
    path = local_file(tmp_path, json.dumps({"IsEncrypted": False, "Values": values}))
    settings = load_settings({"cdc_start": " tip ", "CDC_RUN_SECONDS": "", "PATH": "/bin"}, local_settings=path)
    assert (settings.cdc_start, settings.cdc_run_seconds) == ("tip", 30)
    assert (settings.cdc_schedule, settings.cdc_events_container) == ("0 */5 * * * *", "cdc-events")


def test_without_arguments_the_process_and_the_working_directory_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    local_file(tmp_path, json.dumps({"Values": {**COMPLETE, "CDC_RUN_SECONDS": "30"}}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CDC_RUN_SECONDS", "40")
    assert load_settings().cdc_run_seconds == 40
    assert timer_groups() == ("capture1",)


def test_a_given_environment_stands_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    local_file(tmp_path, json.dumps({"Values": {"CDC_RUN_SECONDS": "30"}}))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CDC_RUN_SECONDS", "40")
    assert loaded().cdc_run_seconds == 260


def test_a_missing_local_settings_file_is_no_problem(tmp_path: Path) -> None:
    assert load_settings(COMPLETE, local_settings=tmp_path / "local.settings.json") == loaded()


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"Values": []}', '{"Values": null}'])
def test_a_local_settings_file_that_cannot_be_read_is_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        load_settings(COMPLETE, local_settings=local_file(tmp_path, text))
    assert caught.value.problems == ('local.settings.json: not readable as JSON with an object "Values"',)


def test_an_encrypted_local_settings_file_says_how_to_decrypt_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsInvalid) as caught:
        load_settings(COMPLETE, local_settings=local_file(tmp_path, '{"IsEncrypted": true, "Values": {}}'))
    assert caught.value.problems == ("local.settings.json: encrypted; run func settings decrypt",)


def test_an_unknown_setting_with_our_prefix_is_told_with_what_was_probably_meant() -> None:
    settings = loaded(CDC_CHANNEL="x", salesforce_client_key="y", CDC_ZZZ="z", OTHER="o", CDC_STORAGE__credential="c")
    assert settings.unknown == (
        "CDC_CHANNEL: no such setting; did you mean CDC_CHANNELS?",
        "CDC_STORAGE__credential: no such setting; did you mean CDC_STORAGE__clientId?",
        "CDC_ZZZ: no such setting",
        "salesforce_client_key: no such setting; did you mean SALESFORCE_CLIENT_ID?",
    )


# --- at import and at the start of a run ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, ("capture1",)),
        (" ; ", ("capture1",)),
        ("nonsense", ("capture1",)),
        ("/data/AChangeEvent;/data/BChangeEvent;", ("capture1", "capture2")),
        ("a;;b", ("capture1", "capture2")),
    ],
)
def test_there_is_a_timer_for_each_group_and_always_one(value: str | None, expected: tuple[str, ...]) -> None:
    assert timer_groups({} if value is None else {"CDC_CHANNELS": value}) == expected


def test_the_timers_are_named_like_the_groups() -> None:
    value = "/data/AChangeEvent;/data/BChangeEvent,/data/CChangeEvent; ;"
    assert timer_groups({"CDC_CHANNELS": value}) == tuple(g.name for g in loaded(CDC_CHANNELS=value).channel_groups)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"CDC_SCHEDULE": "0 */2 * * * *"}, "%CDC_SCHEDULE%"),
        ({"CDC_SCHEDULE": "whenever"}, "%CDC_SCHEDULE%"),
        ({"CDC_SCHEDULE": ""}, "0 */5 * * * *"),
        ({}, "0 */5 * * * *"),
    ],
)
def test_the_host_resolves_the_schedule_and_a_missing_one_is_the_default(
    environ: dict[str, str], expected: str
) -> None:
    assert timer_schedule(environ) == expected


OVERRIDE = "AzureFunctionsJobHost__functionTimeout"
FITS: list[tuple[str | None, dict[str, str], str]] = [
    ('{"functionTimeout": "00:09:00"}', {}, "524"),
    ('{"functionTimeout": "00:04:36"}', {}, "260"),
    ('{"functionTimeout": "1.00:00:00"}', {}, "86384"),
    ('{"functionTimeout": "-1"}', {}, "86400"),
    ('{"functionTimeout": -1}', {}, "86400"),
    ('{"functionTimeout": "00:01:00"}', {OVERRIDE: "00:10:00"}, "584"),
    ("{", {OVERRIDE.upper(): "00:10:00"}, "584"),
    ("{}", {}, "284"),
    (None, {}, "284"),
]


@pytest.mark.parametrize(("text", "environ", "seconds"), FITS)
def test_a_run_fits_under_the_function_timeout(
    tmp_path: Path, text: str | None, environ: dict[str, str], seconds: str
) -> None:
    host_json = tmp_path / "host.json"
    if text is not None:
        host_json.write_text(text)
    check_function_timeout(loaded(CDC_RUN_SECONDS=seconds), host_json, environ)


HOST = "functionTimeout in host.json"
END = "s to end the run exceed the"
WAY_OUT = "lower the one or raise the other"
TOO_LONG: list[tuple[str | None, dict[str, str], str, str]] = [
    (
        '{"functionTimeout": "00:09:00"}',
        {},
        "525",
        f"CDC_RUN_SECONDS: 525 and {GRACE_SECONDS} {END} 540 s of {HOST}; {WAY_OUT}",
    ),
    (
        None,
        {},
        "285",
        f"CDC_RUN_SECONDS: 285 and 15 {END} 300 s of {HOST} (absent, so the Consumption plan's default); {WAY_OUT}",
    ),
    (
        '{"functionTimeout": "-1"}',
        {OVERRIDE: "00:01:00"},
        "60",
        f"CDC_RUN_SECONDS: 60 and 15 {END} 60 s of {OVERRIDE}; {WAY_OUT}",
    ),
    ('{"functionTimeout": "9 min"}', {}, "260", f"{HOST}: '9 min' is not a time like 00:09:00, nor -1"),
    ('{"functionTimeout": "24:00:00"}', {}, "260", f"{HOST}: '24:00:00' is not a time like 00:09:00, nor -1"),
    ("{}", {OVERRIDE: "soon"}, "260", f"{OVERRIDE}: 'soon' is not a time like 00:09:00, nor -1"),
    ("{", {}, "260", "host.json: not readable as a JSON object"),
    ("[]", {}, "260", "host.json: not readable as a JSON object"),
]


@pytest.mark.parametrize(("text", "environ", "seconds", "problem"), TOO_LONG)
def test_a_run_that_the_host_would_kill_is_refused(
    tmp_path: Path, text: str | None, environ: dict[str, str], seconds: str, problem: str
) -> None:
    host_json = tmp_path / "host.json"
    if text is not None:
        host_json.write_text(text)
    with pytest.raises(SettingsInvalid) as caught:
        check_function_timeout(loaded(CDC_RUN_SECONDS=seconds), host_json, environ)
    assert caught.value.problems == (problem,)


# --- the files beside -------------------------------------------------------------------------------------------------


def test_the_default_run_fits_under_the_host_json_that_we_ship() -> None:
    check_function_timeout(loaded(), ROOT / "host.json", {})


def test_the_example_asks_for_each_value_that_only_the_operator_knows() -> None:
    with pytest.raises(SettingsInvalid) as caught:
        load_settings({}, local_settings=ROOT / "local.settings.json.example")
    asked = "still the placeholder of the example; put your own value"
    required = [name for name, setting in SETTINGS.items() if setting.required] + ["SALESFORCE_CLIENT_SECRET"]
    assert sorted(caught.value.problems) == sorted(f"{name}: {asked}" for name in required)


def test_the_example_has_no_setting_that_nobody_reads() -> None:
    values = json.loads((ROOT / "local.settings.json.example").read_text())["Values"]
    assert values.keys() <= {*SETTINGS, "FUNCTIONS_WORKER_RUNTIME"}
    assert all(re.fullmatch(r"<.+>|python|UseDevelopmentStorage=true", value) for value in values.values())


def test_reading_settings_loads_neither_azure_nor_requests_nor_cryptography() -> None:
    code = "import sys, cdc.settings; print(*{m.partition('.')[0] for m in sys.modules})"
    out = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert not {"azure", "requests", "cryptography", "simple_salesforce"} & set(out.split())
