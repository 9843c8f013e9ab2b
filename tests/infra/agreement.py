"""What must be the same in infra/ and in the code: each rule gives a sentence for every place where it is not."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, get_args

from cdc.errors import SettingsInvalid
from cdc.settings import OnReplayExpired, Setting, Start, load_settings, timer_groups
from tests.infra import bicep
from tests.infra.bicep import Rendered

# App settings that are the host's alone; the app never reads them.
HOST_ONLY = {
    "AzureWebJobsStorage__credential",
    "APPLICATIONINSIGHTS_CONNECTION_STRING",
    "APPLICATIONINSIGHTS_AUTHENTICATION_STRING",
}
# Settings of the app that a deployment does not use: keys, second spellings, and an override of host.json.
NOT_DEPLOYED = {
    "CDC_STORAGE",
    "CDC_STORAGE__accountName",
    "AzureWebJobsStorage",
    "AzureWebJobsStorage__accountName",
    "AzureFunctionsJobHost__functionTimeout",
}
GIVEN = {
    "environmentName": "prod",
    "salesforceLoginUrl": "https://acme.my.salesforce.com",
    "salesforceClientId": "3MVG9.consumer.key",
    "channels": "/data/AccountChangeEvent,/data/ContactChangeEvent;/event/Order__e",
}
# In Azure the references are resolved and the outputs known by the time the app reads its settings.
RESOLVED = {
    "dataStorage.outputs.blobServiceUri": "https://cdcdata.blob.core.windows.net/",
    "hostStorage.outputs.blobServiceUri": "https://cdchost.blob.core.windows.net/",
    "identity.outputs.clientId": "6f1d9f0e-0000-4000-8000-000000000001",
}


@dataclass(frozen=True)
class Both:
    """The two sides, each of which a test may change: the texts of infra/, and what the code says."""

    texts: Mapping[str, str]
    code: Mapping[str, Setting]
    grace_s: int
    host_json: Mapping[str, Any]
    pythons: tuple[str, ...]

    def deployed(self, **given: Any) -> Rendered:
        """Return what a deployment with these parameters creates."""
        return bicep.render(self.texts, "infra/main.bicep", GIVEN | given)

    def parameters(self) -> dict[str, bicep.Parameter]:
        """Return the parameters of main.bicep."""
        return bicep.parameters_of(self.texts["infra/main.bicep"])

    def with_text(self, path: str, old: str, new: str) -> Both:
        """Return the same with one place of one file changed."""
        assert self.texts[path].count(old) == 1, f"{old!r} stands in {path} {self.texts[path].count(old)} times"
        return replace(self, texts={**self.texts, path: self.texts[path].replace(old, new)})

    def with_setting(self, name: str, setting: Setting | None) -> Both:
        """Return the same with one setting of the code changed, added or (None) taken away."""
        rest = {each: value for each, value in self.code.items() if each != name}
        return replace(self, code=rest | ({name: setting} if setting else {}))


def app_settings(deployed: Rendered) -> dict[str, str]:
    """Return the app settings of a deployment, name -> value or expression."""
    [config] = deployed.everywhere("Microsoft.Web/sites/config").values()
    found: dict[str, str] = config.body["properties"]
    return found


def flows(both: Both) -> dict[str, dict[str, str]]:
    """Return the app settings of both sign-in flows."""
    return {
        "client credentials": app_settings(both.deployed()),
        "JWT bearer": app_settings(both.deployed(salesforceUsername="cdc@acme.example")),
    }


# --- the rules --------------------------------------------------------------------------------------------------------


def names(both: Both) -> Iterator[str]:
    """Every app setting is one that something reads, and every one that a deployment can use is set."""
    seen: set[str] = set()
    for flow, values in flows(both).items():
        yield from (f"{flow}: {name} is no setting of the app" for name in values.keys() - both.code.keys() - HOST_ONLY)
        required = [name for name, setting in both.code.items() if setting.required or setting.default is not None]
        yield from (f"{flow}: {name} is not set" for name in required if name not in values)
        seen |= values.keys()
    yield from (f"{name} is never set" for name in both.code if name not in seen | NOT_DEPLOYED)


def defaults(both: Both) -> Iterator[str]:
    """What a deployment sets where nothing was chosen is the code's own default."""
    for name, value in app_settings(both.deployed()).items():
        default = both.code[name].default if name in both.code else None
        if default is not None and value != default:
            yield f"{name} is {value!r} in infra/ and {default!r} in the code"


def acceptance(both: Both) -> Iterator[str]:
    """The app takes its settings from a deployment of either flow."""
    for flow, values in flows(both).items():
        if not re.fullmatch(
            r"@Microsoft\.KeyVault\(SecretUri=keyVault\.outputs\.urisecrets/[a-z-]+\)", _secret(values)
        ):
            yield f"{flow}: {_secret(values)!r} is no reference without a version to the vault"
        resolved = {name: _resolved(value) for name, value in values.items()}
        try:
            loaded = load_settings(resolved | {_secret_name(values): _example_secret(_secret_name(values))})
        except SettingsInvalid as error:
            yield from (f"{flow}: {problem}" for problem in error.problems)
        else:
            yield from (f"{flow}: {unknown}" for unknown in loaded.unknown)
            if loaded.storage.source != "CDC_STORAGE" or not loaded.storage.client_id:
                yield f"{flow}: data is not reached by CDC_STORAGE with the identity"


def _secret_name(values: Mapping[str, str]) -> str:
    return "SALESFORCE_PRIVATE_KEY" if "SALESFORCE_PRIVATE_KEY" in values else "SALESFORCE_CLIENT_SECRET"


def _secret(values: Mapping[str, str]) -> str:
    return str(values.get(_secret_name(values), ""))


def _resolved(value: str) -> str:
    for expression, known in RESOLVED.items():
        value = value.replace(expression, known)
    return str(value)


def _example_secret(name: str) -> str:
    return _example_key() if name == "SALESFORCE_PRIVATE_KEY" else "secret"


@cache
def _example_key() -> str:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def choices(both: Both) -> Iterator[str]:
    """Where Bicep allows a few values, the code allows the same."""
    parameters = both.parameters()
    for name, wanted in (("start", get_args(Start)), ("onReplayExpired", get_args(OnReplayExpired))):
        if set(parameters[name].decorators.get("allowed", ())) != set(wanted):
            yield f"{name} allows {parameters[name].decorators.get('allowed')}, the code {list(wanted)}"
    if set(parameters["pythonVersion"].decorators.get("allowed", ())) != set(both.pythons):
        yield f"pythonVersion is not among {both.pythons}"


def containers(both: Both) -> Iterator[str]:
    """The containers that are made, written to and opened by a role are the same two."""
    for given in ({}, {"eventsContainer": "landed", "checkpointsContainer": "state"}):
        deployed = both.deployed(**given)
        values = app_settings(deployed)
        wanted = {values.get("CDC_EVENTS_CONTAINER"), values.get("CDC_CHECKPOINTS_CONTAINER")}
        made = {each["name"] for each in deployed.modules["dataStorage"].resources["containers"].body}
        opened = {deployed.modules["roles"].resources[name].body["name"] for name in ("events", "checkpoints")}
        yield from (
            f"the containers {sorted(found)} are not {sorted(map(str, wanted))}"
            for found in (made, opened)
            if found != wanted
        )


def lifecycle(both: Both) -> Iterator[str]:
    """Old segments are cooled, nothing is deleted or archived, and no rule touches the checkpoints container."""
    deployed = both.deployed()
    values = app_settings(deployed)
    policies = deployed.everywhere("Microsoft.Storage/storageAccounts/managementPolicies")
    rules = [
        rule
        for each in policies.values()
        if each.condition is True
        for rule in each.body["properties"]["policy"]["rules"]
    ]
    if not rules:
        yield "no lifecycle rule"
    for rule in rules:
        actions = rule["definition"]["actions"]
        if {"baseBlob": {"tierToCool"}} != {kind: set(actions[kind]) for kind in actions}:
            yield f"the rule {rule['name']} does more than cool: {actions}"
        prefixes = rule["definition"]["filters"].get("prefixMatch", [""])
        events, state = values["CDC_EVENTS_CONTAINER"], f"{values['CDC_CHECKPOINTS_CONTAINER']}/"
        for prefix in prefixes or [""]:
            if not prefix.startswith(f"{events}/") or state.startswith(prefix) or prefix.startswith(state):
                yield f"the rule {rule['name']} reaches {prefix!r}"
        if set(prefixes) != {f"{events}/data/", f"{events}/event/"}:
            yield f"the rule {rule['name']} does not name the segments: {prefixes}"


def times(both: Both) -> Iterator[str]:
    """A run ends before the host's limit, whatever a deployment chooses, and by default before the next one is due."""
    hours, minutes, seconds = (int(part) for part in str(both.host_json.get("functionTimeout", "00:05:00")).split(":"))
    limit_s = hours * 3600 + minutes * 60 + seconds
    longest_s = both.parameters()["runSeconds"].decorators.get("maxValue", 86_400)
    possible_s = limit_s - both.grace_s - 1
    if longest_s != possible_s:
        yield f"runSeconds goes up to {longest_s}; functionTimeout allows {possible_s} and {both.grace_s} s to end"
    values = app_settings(both.deployed())
    every = re.fullmatch(r"0 \*/([0-9]+) \* \* \* \*", values.get("CDC_SCHEDULE", ""))
    if not every or int(values.get("CDC_RUN_SECONDS", 0)) + both.grace_s >= int(every[1]) * 60:
        yield f"by default a run of {values.get('CDC_RUN_SECONDS')} s is not over when the next is due"


def scale(both: Both) -> Iterator[str]:
    """A group's timer function is scaled, and kept warm where that is wanted, under the name that the host gives it."""
    groups = list(timer_groups({"CDC_CHANNELS": GIVEN["channels"]}))
    [site] = both.deployed(alwaysReadyGroups=groups).everywhere("Microsoft.Web/sites").values()
    found = site.body["properties"]["functionAppConfig"]["scaleAndConcurrency"]
    if found.get("alwaysReady") != [{"name": f"function:{group}", "instanceCount": 1} for group in groups]:
        yield f"always ready: {found.get('alwaysReady')}"
    [site] = both.deployed().everywhere("Microsoft.Web/sites").values()
    found = site.body["properties"]["functionAppConfig"]["scaleAndConcurrency"]
    if found.get("alwaysReady") != []:
        yield "an instance is kept warm though nobody asked for it"


def azd(both: Both) -> Iterator[str]:
    """azd finds the service by its tag, and hands over every parameter with main.bicep's own default."""
    [site] = both.deployed().everywhere("Microsoft.Web/sites").values()
    services = re.findall(r"^  ([a-z]+):$", both.texts["azure.yaml"].partition("services:")[2], re.MULTILINE)
    if services != [site.body["tags"].get("azd-service-name")]:
        yield f"azure.yaml has the services {services}, the app's tags are {site.body['tags']}"
    parameters, values = both.parameters(), both.deployed().values
    for name, entry in json.loads(both.texts["infra/main.parameters.json"])["parameters"].items():
        match = re.fullmatch(r"\$\{([A-Z_]+)(?:=(.*))?\}", entry["value"])
        if name not in parameters or not match:
            yield f"main.parameters.json: {name} is no parameter of main.bicep, or not of the form ${{NAME=default}}"
            continue
        variable, default = match[1], match[2]
        if variable.startswith(("CDC_", "SALESFORCE_")) and variable not in both.code:
            yield f"main.parameters.json: {variable} is no setting"
        wanted = values[name] if parameters[name].has_default else None
        wanted = str(wanted).lower() if isinstance(wanted, bool) else str(wanted or "")
        if name not in ("location", *GIVEN) and (default or "") != wanted:
            yield f"main.parameters.json: {name} is {default!r} by default, in main.bicep {wanted!r}"
    missing = {name for name, each in parameters.items() if not each.has_default}
    yield from (
        f"main.parameters.json: {name} is missing"
        for name in missing
        if f'"{name}"' not in both.texts["infra/main.parameters.json"]
    )


def identity(both: Both) -> Iterator[str]:
    """No key opens anything, and the app's identity has these roles on these scopes and no others."""
    deployed = both.deployed()
    for name, account in deployed.everywhere("Microsoft.Storage/storageAccounts").items():
        wanted = {"allowSharedKeyAccess": False, "allowBlobPublicAccess": False, "minimumTlsVersion": "TLS1_2",
                  "supportsHttpsTrafficOnly": True, "isLocalUserEnabled": False}  # fmt: skip
        yield from (
            f"{name}: {key} is not {value}"
            for key, value in wanted.items()
            if account.body["properties"].get(key) != value
        )
    [vault] = deployed.everywhere("Microsoft.KeyVault/vaults").values()
    if (
        vault.body["properties"].get("enableRbacAuthorization") is not True
        or "accessPolicies" in vault.body["properties"]
    ):
        yield "the vault is not opened by roles"
    [component] = deployed.everywhere("Microsoft.Insights/components").values()
    if component.body["properties"].get("DisableLocalAuth") is not True:
        yield "telemetry may be sent without an identity"
    [site] = deployed.everywhere("Microsoft.Web/sites").values()
    if (
        site.body["identity"]["type"] != "UserAssigned"
        or site.body["properties"].get("keyVaultReferenceIdentity") != "identity.outputs.id"
    ):
        yield "the app has another identity than the user-assigned one"
    roles = {
        (str(each.body["scope"]), each.body["properties"]["roleDefinitionId"].rpartition("/")[2])
        for each in deployed.everywhere("Microsoft.Authorization/roleAssignments").values()
        if each.body["properties"]["principalId"] == "identity.outputs.principalId"
    }
    yield from (f"role: {role}" for role in roles ^ APP_ROLES)


# Microsoft's ids of the built-in roles.
APP_ROLES = {
    ("hostAccount", "b7e6dc6d-f1e8-4753-8033-0f276bb0955b"),  # Storage Blob Data Owner
    ("dataAccount::blobs::events", "ba92f5b4-2d11-453d-a403-e96b0029c9fe"),  # Storage Blob Data Contributor
    ("dataAccount::blobs::checkpoints", "ba92f5b4-2d11-453d-a403-e96b0029c9fe"),
    ("vault", "4633458b-17de-408a-b874-0445c86b69e6"),  # Key Vault Secrets User
    ("component", "3913510d-42f4-4e42-8a64-420c390055eb"),  # Monitoring Metrics Publisher
}

RULES: tuple[Callable[[Both], Iterator[str]], ...] = (
    *(names, defaults, acceptance, choices, containers),
    *(lifecycle, times, scale, azd, identity),
)


def disagreements(both: Both) -> list[str]:
    """Return a sentence for each place where infra/ and the code do not agree."""
    return [f"{rule.__name__}: {sentence}" for rule in RULES for sentence in rule(both)]
