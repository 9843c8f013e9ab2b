"""App settings to one frozen `Settings`, every problem reported at once; the only module that reads the environment.

It never touches a network and never repeats a value that may hold a secret, neither in a problem nor in a repr.
"""

from __future__ import annotations

import base64
import difflib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple
from urllib.parse import SplitResult, urlsplit

from pydantic import (
    AfterValidator,
    AliasChoices,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
)
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from cdc.errors import SettingsInvalid

GRACE_SECONDS = 15
"""How long after CDC_RUN_SECONDS a run may still be busy ending: the last landing, disconnect, the run record."""


class Setting(NamedTuple):
    meaning: str
    default: str | None = None
    required: bool = False


_IDENTITY = "client id of the user-assigned identity to use; without it the system-assigned one"
_TIMEOUT = "AzureFunctionsJobHost__functionTimeout"

# Every setting that this module reads, in the order in which problems are reported.
SETTINGS: Mapping[str, Setting] = {
    "SALESFORCE_LOGIN_URL": Setting("your My Domain URL, like https://acme.my.salesforce.com", required=True),
    "SALESFORCE_CLIENT_ID": Setting("the consumer key of the External Client App", required=True),
    "SALESFORCE_CLIENT_SECRET": Setting("the consumer secret: client-credentials flow"),
    "SALESFORCE_USERNAME": Setting("the user to act as: JWT bearer flow, instead of the secret"),
    "SALESFORCE_PRIVATE_KEY": Setting("the RSA private key as PEM text, line breaks also as \\n: JWT bearer flow"),
    "SALESFORCE_API_VERSION": Setting("the API version of the session, 37.0 or later", "66.0"),
    "CDC_CHANNELS": Setting(
        "the channels, like /data/AccountChangeEvent,/data/ContactChangeEvent; a semicolon starts another group",
        required=True,
    ),
    "CDC_SCHEDULE": Setting("when a run starts: an NCRONTAB expression of 5 or 6 fields, UTC", "0 */5 * * * *"),
    "CDC_RUN_SECONDS": Setting("how long a run listens, in seconds; must fit under functionTimeout", "260"),
    "CDC_SILENCE_CHECK_MINUTES": Setting(
        "after how many silent minutes a run asks the org whether a channel's records changed; 0 never", "15"
    ),
    "CDC_START": Setting("where a channel without a checkpoint starts: tip or earliest", "tip"),
    "CDC_ON_REPLAY_EXPIRED": Setting("how a channel goes on after lost continuity: earliest, tip or stop", "earliest"),
    "CDC_STORAGE": Setting("connection string of the storage account, or UseDevelopmentStorage=true"),
    "CDC_STORAGE__blobServiceUri": Setting("instead of a connection string: the account's URL, opened by identity"),
    "CDC_STORAGE__accountName": Setting("instead of the URL: the account's name in the public Azure cloud"),
    "CDC_STORAGE__clientId": Setting(_IDENTITY),
    "AzureWebJobsStorage": Setting("the host's storage, used where no CDC_STORAGE setting is given"),
    "AzureWebJobsStorage__blobServiceUri": Setting("the host's storage by URL, opened by identity"),
    "AzureWebJobsStorage__accountName": Setting("the host's storage by name, opened by identity"),
    "AzureWebJobsStorage__clientId": Setting(_IDENTITY),
    "CDC_EVENTS_CONTAINER": Setting("the container of the events; created when missing", "cdc-events"),
    "CDC_CHECKPOINTS_CONTAINER": Setting("the container of the checkpoints; created when missing", "cdc-checkpoints"),
    _TIMEOUT: Setting("the host's override of functionTimeout in host.json"),
}
_BY_UPPER_NAME = {name.upper(): name for name in SETTINGS}


class _Refused(ValueError):
    """A value that cannot be used; each problem is what follows the setting's name."""

    def __init__(self, *problems: str) -> None:
        super().__init__(*problems)
        self.problems = problems


# --- one setting each: text in, value out -----------------------------------------------------------------------------

_LOOPBACK = re.compile(r"localhost|127(\.[0-9]{1,3}){3}|::1")


def _address(value: str, example: str) -> SplitResult:
    """`value` as scheme, host and perhaps a path; nothing of it is repeated in a refusal, it may carry a secret."""
    try:
        parts = urlsplit(value)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        raise _Refused(f"not a URL; expected one like {example}") from None
    if "@" in parts.netloc or "?" in value or "#" in value:
        raise _Refused(f"carries a user, a query or a SAS token; only the plain address belongs here, like {example}")
    if "://" not in value or not re.fullmatch(r"[a-z0-9.:-]*[a-z0-9]", host):
        raise _Refused(f"not a URL; expected one like {example}")
    if parts.scheme != "https" and not (parts.scheme == "http" and _LOOPBACK.fullmatch(host)):
        raise _Refused("must start with https:// (http:// is accepted for loopback hosts only)")
    return parts._replace(netloc=parts.netloc.lower().removesuffix(":"), path=parts.path.rstrip("/"))


def _login_url(value: str) -> str:
    parts = _address(value, "https://acme.my.salesforce.com")
    if parts.path:
        raise _Refused("must end after the host name; remove the path")
    if parts.netloc.endswith((".lightning.force.com", ".salesforce-setup.com")):
        raise _Refused("a page of the user interface; needs the My Domain URL, like https://acme.my.salesforce.com")
    return parts.geturl()


def _account_url(value: str) -> str:
    """The blob endpoint, from its URL or from an account name. Azurite has the account in the path."""
    if re.fullmatch(r"[a-z0-9]{3,24}", value):
        return f"https://{value}.blob.core.windows.net"
    parts = _address(value, "https://acmedata.blob.core.windows.net")
    if parts.path and not _LOOPBACK.fullmatch(parts.hostname or ""):
        raise _Refused("must end after the host name; containers have settings of their own")
    return parts.geturl()


def _connection_string(secret: SecretStr) -> SecretStr:
    value = secret.get_secret_value()
    pairs = dict(part.strip().partition("=")[::2] for part in value.split(";") if part.strip())
    keys = {key.lower(): text for key, text in pairs.items()}
    if keys.get("usedevelopmentstorage", "").lower() == "true":
        return secret
    if value.lower().startswith(("https://", "http://")):
        raise _Refused("a URL, not a connection string; it belongs in the setting that ends in __blobServiceUri")
    if not keys.keys() & {"accountname", "blobendpoint"} or not keys.keys() & {"accountkey", "sharedaccesssignature"}:
        raise _Refused("not a connection string: needs AccountName and AccountKey, or UseDevelopmentStorage=true")
    try:
        base64.b64decode(keys.get("accountkey", ""), validate=True)
    except ValueError:
        raise _Refused("the AccountKey in it is damaged (cut off when it was pasted?); copy it again") from None
    return secret


def _private_key(value: str) -> str:
    pem = value.replace("\\r", "").replace("\\n", "\n").strip() + "\n"
    labels = re.findall(r"-----BEGIN ([A-Z0-9 ]+)-----", pem)
    wanted = "needs the RSA private key as PEM text, from -----BEGIN PRIVATE KEY----- to the END line"
    if not any(label.endswith("PRIVATE KEY") for label in labels):
        raise _Refused(f"{f'a {labels[0].lower()}' if labels else 'not PEM text'}; {wanted}")
    if "ENCRYPTED" in pem:
        raise _Refused("an encrypted private key; decrypt it (openssl pkey -in … -out …) and keep it in Key Vault")
    from cryptography.exceptions import UnsupportedAlgorithm  # only the JWT bearer flow pays for this import
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(pem.encode(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise _Refused(f"a damaged private key (line breaks lost? write each as \\n); {wanted}") from None
    if not isinstance(key, RSAPrivateKey):
        raise _Refused(f"not an RSA key, and Salesforce verifies RS256 only; {wanted}")
    return pem


def _api_version(value: str) -> str:
    match = re.fullmatch(r"[vV]?([0-9]{2,3})(?:\.0)?", value)
    if not match or int(match[1]) < 37:
        raise _Refused("must be an API version of 37.0 or later, like 66.0")
    return f"{match[1]}.0"


def _schedule(value: str) -> str:
    fields = value.split()
    if len(fields) not in (5, 6) or not all(re.fullmatch(r"[0-9A-Za-z*/,-]+", field) for field in fields):
        raise _Refused("must be an NCRONTAB expression of 5 or 6 fields, like 0 */5 * * * *")
    return " ".join(fields)


def _run_seconds(value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", value) or not 1 <= int(value) <= 86_400:
        raise _Refused("must be a whole number of seconds from 1 to 86400")
    return int(value)


def _minutes(value: str) -> int:
    if not re.fullmatch(r"[0-9]{1,4}", value) or int(value) > 1_440:
        raise _Refused("must be a whole number of minutes from 1 to 1440, or 0 to switch it off")
    return int(value)


def _container(value: str) -> str:
    if not re.fullmatch(r"(?=.{3,63}\Z)[a-z0-9]+(-[a-z0-9]+)*", value):
        raise _Refused("must be 3 to 63 lower-case letters, digits and single hyphens, no hyphen at either end")
    return value


# --- channels ---------------------------------------------------------------------------------------------------------

_CHANNEL = re.compile(r"/data/([A-Za-z][A-Za-z0-9_]*(ChangeEvent|__chn)|ChangeEvents)|/event/[A-Za-z][A-Za-z0-9_]*__e")
_CHANNEL_MAX = 200


@dataclass(frozen=True, slots=True)
class ChannelGroup:
    """The channels of one timer function, so of one session."""

    name: str
    channels: tuple[str, ...]


def _channel_problem(channel: str) -> str | None:
    if len(channel) > _CHANNEL_MAX:
        return f"{channel[:40]!r}… is longer than {_CHANNEL_MAX} characters"
    if _CHANNEL.fullmatch(channel):
        return None
    if not channel:
        return "an empty channel between two separators; remove one of them"
    for corrected in (f"/{channel}", f"/data/{channel}", f"/event/{channel}"):
        if _CHANNEL.fullmatch(corrected):
            return f"{channel!r} is not a whole channel name; write {corrected}"
    if channel.startswith(("/topic/", "/u/")):
        return f"{channel!r} is PushTopic or generic streaming; only /data/… and /event/… channels are captured"
    return f"{channel!r} is none of /data/<Object>ChangeEvent, /data/ChangeEvents, /data/<Name>__chn, /event/<Name>__e"


def _split(value: str) -> list[str]:
    """The texts of the groups. Empty ones at the end are no groups."""
    return value.rstrip("; \t\r\n").split(";")


def _channel_groups(value: str) -> tuple[ChannelGroup, ...]:
    groups, problems, seen = [], [], dict[str, str]()
    for number, text in enumerate(_split(value), 1):
        name = f"capture{number}"
        channels = [channel.strip() for channel in text.rstrip(", \t\r\n").split(",")]
        for channel in channels:
            problem = _channel_problem(channel)
            if not problem and channel.lower() in seen:  # blob names differ by case, Salesforce's names do not
                problem = f"{channel!r} stands in {seen[channel.lower()]} and again in {name}; remove one"
            problems += [problem] if problem else []
            seen[channel.lower()] = name
        groups.append(ChannelGroup(name, tuple(channels)))
    if problems:
        raise _Refused(*problems)
    return tuple(groups)


# --- the values -------------------------------------------------------------------------------------------------------


def _setting(name: str) -> Any:
    if SETTINGS[name].required:
        return Field(validation_alias=name)
    return Field(validation_alias=name, default=SETTINGS[name].default)


Start = Literal["tip", "earliest"]
OnReplayExpired = Literal["earliest", "tip", "stop"]
_ConnectionString = Annotated[SecretStr, AfterValidator(_connection_string)]
_PrivateKey = Annotated[SecretStr, BeforeValidator(_private_key)]
_Container = Annotated[str, BeforeValidator(_container)]


class StorageSettings(BaseModel):
    """The storage account: a connection string, or a URL to open by identity; `source` is the setting that gave it."""

    model_config = ConfigDict(frozen=True, populate_by_name=True, hide_input_in_errors=True)

    source: str
    connection_string: _ConnectionString | None = Field(default=None, validation_alias="plain")
    account_url: Annotated[str, BeforeValidator(_account_url)] | None = Field(
        default=None, validation_alias=AliasChoices("__blobServiceUri", "__accountName")
    )
    client_id: str | None = Field(default=None, validation_alias="__clientId")


class Settings(BaseSettings):
    """What a run needs to know, checked. Exactly one sign-in flow is set: the secret, or user name and private key.

    `unknown` has names that start like ours and are none of ours, each with what was probably meant: worth a warning.
    """

    model_config = SettingsConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    salesforce_login_url: Annotated[str, BeforeValidator(_login_url)] = _setting("SALESFORCE_LOGIN_URL")
    salesforce_client_id: str = _setting("SALESFORCE_CLIENT_ID")
    salesforce_client_secret: SecretStr | None = _setting("SALESFORCE_CLIENT_SECRET")
    salesforce_username: str | None = _setting("SALESFORCE_USERNAME")
    salesforce_private_key: _PrivateKey | None = _setting("SALESFORCE_PRIVATE_KEY")
    salesforce_api_version: Annotated[str, BeforeValidator(_api_version)] = _setting("SALESFORCE_API_VERSION")
    channel_groups: Annotated[tuple[ChannelGroup, ...], BeforeValidator(_channel_groups)] = _setting("CDC_CHANNELS")
    cdc_schedule: Annotated[str, BeforeValidator(_schedule)] = _setting("CDC_SCHEDULE")
    cdc_run_seconds: Annotated[int, BeforeValidator(_run_seconds)] = _setting("CDC_RUN_SECONDS")
    cdc_silence_check_minutes: Annotated[int, BeforeValidator(_minutes)] = _setting("CDC_SILENCE_CHECK_MINUTES")
    cdc_start: Start = _setting("CDC_START")
    cdc_on_replay_expired: OnReplayExpired = _setting("CDC_ON_REPLAY_EXPIRED")
    storage: StorageSettings
    cdc_events_container: _Container = _setting("CDC_EVENTS_CONTAINER")
    cdc_checkpoints_container: _Container = _setting("CDC_CHECKPOINTS_CONTAINER")
    unknown: tuple[str, ...] = ()

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource, *_: Any, **__: Any
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what `load_settings` hands over: it has merged, trimmed and named the sources already."""
        return (init_settings,)


# --- sources ----------------------------------------------------------------------------------------------------------


def _local_values(path: Path) -> dict[str, str]:
    """The `Values` of a local.settings.json; none where there is no such file."""
    try:
        document = json.loads(path.read_text("utf-8-sig"))
        values = document["Values"]
        if document.get("IsEncrypted"):
            raise SettingsInvalid([f"{path.name}: encrypted; run func settings decrypt"])
        return {name: str(value) for name, value in values.items() if value is not None}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise SettingsInvalid([f'{path.name}: not readable as JSON with an object "Values"']) from None


def _app_settings(environ: Mapping[str, str] | None, local: Path | None = None) -> dict[str, str]:
    """Name -> trimmed value, empty ones left out; our own names in the spelling of `SETTINGS`, whatever their case."""
    sources = [_local_values(local) if local else {}, os.environ if environ is None else environ]
    return {
        _BY_UPPER_NAME.get(name.upper(), name): value.strip()
        for source in sources
        for name, value in source.items()
        if value.strip()
    }


def _unknown(values: Mapping[str, str]) -> Iterator[str]:
    for name in sorted(values.keys() - SETTINGS.keys()):
        if name.upper().startswith(("CDC_", "SALESFORCE_")):
            close = difflib.get_close_matches(name.upper(), _BY_UPPER_NAME, n=1)
            yield f"{name}: no such setting" + (f"; did you mean {_BY_UPPER_NAME[close[0]]}?" if close else "")


# --- problems ---------------------------------------------------------------------------------------------------------


_UNRESOLVED = "an unresolved Key Vault reference; the app's identity cannot read the vault, or the secret is not there"
_RESOLVE = (
    "check that the app's identity has the role \"Key Vault Secrets User\" on the vault and is the app's "
    "keyVaultReferenceIdentity, that the secret's name or URI is right, and that the vault's network admits the app; "
    "then restart the app"
)


def _unusable(value: str) -> str | None:
    if value.lower().startswith("@microsoft.keyvault("):
        return _UNRESOLVED
    if value.startswith("<") and value.endswith(">"):
        return "still the placeholder of the example; put your own value"
    return None


def _sign_in_problems(values: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    secret, *jwt = "SALESFORCE_CLIENT_SECRET", "SALESFORCE_USERNAME", "SALESFORCE_PRIVATE_KEY"
    given = [name for name in jwt if name in values]
    if secret in values and given:
        both = " and ".join(given)
        yield secret, f"set beside {both}; remove it (JWT bearer flow) or remove {both} (client-credentials flow)"
    elif secret not in values and not given:
        yield secret, f"missing; set it (client-credentials flow), or {' and '.join(jwt)} (JWT bearer flow)"
    elif secret not in values and len(given) == 1:
        (absent,) = set(jwt) - set(given)
        yield absent, f"missing; {SETTINGS[absent].meaning}, goes with {given[0]}"
    login_url = values.get("SALESFORCE_LOGIN_URL", "").lower()
    if not given and re.fullmatch(r"https://(login|test)\.salesforce\.com(:443)?/*", login_url):
        yield (
            "SALESFORCE_LOGIN_URL",
            "the client-credentials flow works at a My Domain only; use yours, like https://acme.my.salesforce.com",
        )


def _storage_problems(values: Mapping[str, str], source: str) -> Iterator[tuple[str, str]]:
    uri, account, client = (f"{source}{suffix}" for suffix in ("__blobServiceUri", "__accountName", "__clientId"))
    identity = [name for name in (uri, account) if name in values]
    if source in values and identity:
        yield source, f"set beside {identity[0]}; remove one of them"
    elif source not in values and not identity:
        yield "CDC_STORAGE", f"missing; {SETTINGS['CDC_STORAGE'].meaning}; or CDC_STORAGE__blobServiceUri"
    elif source == "CDC_STORAGE" and client in values and not identity:
        yield client, f"has no effect beside a connection string; remove it, or use {uri} instead of {source}"
    if source == "CDC_STORAGE" and len(identity) == 2:  # the host's own settings may have both, and mean one account
        yield account, f"set beside {uri}; remove one of them"
    names = "CDC_EVENTS_CONTAINER", "CDC_CHECKPOINTS_CONTAINER"
    if len({values.get(name, SETTINGS[name].default) for name in names}) == 1:
        yield names[1], f"must differ from {names[0]}"


def _field_problems(error: ValidationError, source: str) -> Iterator[tuple[str, str]]:
    """What the validators of the single values refused, in our words."""
    for fault in error.errors(include_url=False, include_input=False):
        name = "".join(str(part) for part in fault["loc"])
        name = name.replace("storage", source, 1).removesuffix("plain") if fault["loc"][0] == "storage" else name
        cause = fault.get("ctx", {}).get("error")
        if fault["type"] == "missing":
            yield name, f"missing; {SETTINGS[name].meaning}"
        elif fault["type"] == "literal_error":
            yield name, f"must be {fault['ctx']['expected']}"
        else:
            yield from ((name, text) for text in (cause.problems if isinstance(cause, _Refused) else ("unusable",)))


def load_settings(environ: Mapping[str, str] | None = None, *, local_settings: Path | None = None) -> Settings:
    """The settings of this app: the environment, behind it the `Values` of local.settings.json.

    Without arguments that is the process environment and the file in the working directory; an `environ` that is
    handed in stands alone, unless `local_settings` names a file as well. A value of nothing but blanks is unset.

    Raises:
        SettingsInvalid: with every problem found, in the order of `SETTINGS`.
    """
    if environ is None and local_settings is None:
        local_settings = Path("local.settings.json")
    values = _app_settings(environ, local_settings)
    ours = {name: value for name, value in values.items() if name in SETTINGS}
    source = "CDC_STORAGE" if any(name.startswith("CDC_STORAGE") for name in ours) else "AzureWebJobsStorage"
    storage = {name.removeprefix(source) or "plain": text for name, text in ours.items() if name.startswith(source)}
    given: dict[str, Any] = {**ours, "storage": {**storage, "source": source}, "unknown": tuple(_unknown(values))}
    problems = {name: [text] for name in ours if (text := _unusable(ours[name]))}
    settings, more = None, [*_sign_in_problems(ours), *_storage_problems(ours, source)]
    try:
        settings = Settings(**given)
    except ValidationError as error:
        more += _field_problems(error, source)
    for name, text in more:
        if not _unusable(ours.get(name, "")):
            problems.setdefault(name, []).append(text)
    if settings is None or problems:  # raised out here so that it carries no ValidationError, which carries the values
        said = [f"{name}: {text}" for name in SETTINGS for text in problems.get(name, ())]
        raise SettingsInvalid(said, steps={each: _RESOLVE for each in said if each.endswith(_UNRESOLVED)})
    return settings


# --- for function_app at import, and for the start of a run -----------------------------------------------------------


def timer_groups(environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """The names of the channel groups, at least one. Never raises: bad settings are to fail the run, not the import."""
    groups = [text for text in _split(_app_settings(environ).get("CDC_CHANNELS", "")) if text.strip()]
    return tuple(f"capture{number}" for number in range(1, max(len(groups), 1) + 1))


def timer_schedule(environ: Mapping[str, str] | None = None) -> str:
    """`%CDC_SCHEDULE%`, which the host resolves; the default itself where the setting is missing.

    A function whose schedule names a setting that does not exist is not loaded at all.
    """
    is_set = "CDC_SCHEDULE" in _app_settings(environ)
    return "%CDC_SCHEDULE%" if is_set else SETTINGS["CDC_SCHEDULE"].default or ""


def has_managed_identity(environ: Mapping[str, str] | None = None) -> bool:
    """True where Azure offers this app an identity (App Service, "Connect to Azure services in app code")."""
    return bool((os.environ if environ is None else environ).get("IDENTITY_ENDPOINT"))


def _seconds(time_span: str) -> float | None:
    """`[d.]hh:mm:ss` in seconds, infinity for -1, None for anything else."""
    if time_span == "-1":
        return math.inf
    match = re.fullmatch(r"(?:([0-9]{1,8})\.)?([01]?[0-9]|2[0-3]):([0-5]?[0-9]):([0-5]?[0-9])", time_span)
    if not match:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds


def check_function_timeout(settings: Settings, host_json: Path, environ: Mapping[str, str] | None = None) -> None:
    """Make sure that a run ends before the host would kill the worker process and every other run in it.

    Without a functionTimeout the shortest default of any plan counts: 5 minutes, on the Consumption plan.

    Raises:
        SettingsInvalid: CDC_RUN_SECONDS and its grace do not fit, or the time-out cannot be read.
    """
    where, time_span = _TIMEOUT, _app_settings(environ).get(_TIMEOUT)
    if time_span is None:
        where = f"functionTimeout in {host_json.name}"
        try:
            time_span = str(json.loads(host_json.read_text("utf-8-sig")).get("functionTimeout") or "")
        except FileNotFoundError:
            time_span = ""
        except (OSError, ValueError, AttributeError, RecursionError):
            raise SettingsInvalid([f"{host_json.name}: not readable as a JSON object"]) from None
    if not time_span:
        where, time_span = f"{where} (absent, so the Consumption plan's default)", "00:05:00"
    limit_s = _seconds(time_span)
    if limit_s is None:
        raise SettingsInvalid([f"{where}: {time_span[:20]!r} is not a time like 00:09:00, nor -1"])
    busy_s = settings.cdc_run_seconds + GRACE_SECONDS
    if busy_s >= limit_s:
        problem = (
            f"CDC_RUN_SECONDS: {settings.cdc_run_seconds} and {GRACE_SECONDS} s to end the run exceed the "
            f"{limit_s:.0f} s of {where}; lower the one or raise the other"
        )
        fits_s = math.ceil(limit_s) - GRACE_SECONDS - 1
        lower = f"set CDC_RUN_SECONDS to at most {fits_s}, or " if fits_s > 0 else ""
        raise SettingsInvalid([problem], steps={problem: f"{lower}raise functionTimeout above {busy_s} s"})
