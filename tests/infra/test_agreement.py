"""infra/ and the code agree, and a change on one side alone is noticed."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import replace
from pathlib import Path

import pytest

from cdc import settings
from cdc.settings import SETTINGS, Setting
from tests.infra import bicep
from tests.infra.agreement import Both, disagreements

ROOT = Path(__file__).parent.parent.parent
MAIN, FUNCTION, STORAGE, ROLES = (
    "infra/main.bicep",
    "infra/app/function.bicep",
    "infra/app/storage.bicep",
    "infra/app/roles.bicep",
)
PARAMETERS = "infra/main.parameters.json"
SECRET, START = "  SALESFORCE_CLIENT_SECRET: secretReference\n", "  CDC_START: start\n"
COOLED = "['${eventsContainer}/data/', '${eventsContainer}/event/']"
MADE = "containerNames: [eventsContainer, checkpointsContainer]"
ON_EVENTS = "scope: dataAccount::blobs::events\n  name: guid(dataAccount::blobs::events.id, appPrincipalId"


def both_sides() -> Both:
    """Return infra/ and the code as they are."""
    first, last = re.findall(
        r"3\.(\d+)", tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["requires-python"]
    )
    return Both(
        texts={**bicep.texts_of(ROOT), "azure.yaml": (ROOT / "azure.yaml").read_text(encoding="utf-8")},
        code=SETTINGS,
        grace_s=settings.GRACE_SECONDS,
        host_json=json.loads((ROOT / "host.json").read_text(encoding="utf-8")),
        pythons=tuple(f"3.{minor}" for minor in range(int(first), int(last))),
    )


def test_infra_and_the_code_agree() -> None:
    assert disagreements(both_sides()) == []


@pytest.mark.parametrize(
    ("path", "old", "new", "rule"),
    [
        (FUNCTION, START, "  CDC_STARTS: start\n", "names"),
        (FUNCTION, "  CDC_SCHEDULE: schedule\n", "", "names"),
        (FUNCTION, "  SALESFORCE_LOGIN_URL: loginUrl\n", "", "names"),
        (FUNCTION, "  SALESFORCE_USERNAME: username\n", "", "names"),
        (FUNCTION, "  CDC_STORAGE__clientId: identityClientId\n", "", "acceptance"),
        (FUNCTION, START, f"{START}  CDC_STORAGE: 'UseDevelopmentStorage=true'\n", "acceptance"),
        (FUNCTION, SECRET, "  SALESFORCE_CLIENT_SECRET: 'plain'\n", "acceptance"),
        (MAIN, "'0 */5 * * * *'", "'0 */4 * * * *'", "defaults"),
        (MAIN, "param runSeconds int = 260", "param runSeconds int = 290", "times"),
        (MAIN, "@maxValue(524)", "@maxValue(525)", "times"),
        (MAIN, "param salesforceApiVersion string = '66.0'", "param salesforceApiVersion string = '67.0'", "defaults"),
        (MAIN, "param eventsContainer string = 'cdc-events'", "param eventsContainer string = 'events'", "defaults"),
        (MAIN, MADE, "containerNames: ['cdc-events', 'cdc-checkpoints']", "containers"),
        (MAIN, "@allowed(['tip', 'earliest'])", "@allowed(['tip', 'earliest', 'now'])", "choices"),
        (MAIN, "@allowed(['3.11', '3.12', '3.13'])", "@allowed(['3.11', '3.12', '3.14'])", "choices"),
        (MAIN, COOLED, "[]", "lifecycle"),
        (MAIN, COOLED, "['${checkpointsContainer}/data/']", "lifecycle"),
        (MAIN, COOLED, "['cdc-']", "lifecycle"),
        (STORAGE, "tierToCool: {", "delete: {", "lifecycle"),
        (STORAGE, "tierToCool: {", "tierToArchive: {", "lifecycle"),
        (STORAGE, "allowSharedKeyAccess: false", "allowSharedKeyAccess: true", "identity"),
        (STORAGE, "minimumTlsVersion: 'TLS1_2'", "minimumTlsVersion: 'TLS1_0'", "identity"),
        (ROLES, "scope: hostAccount\n", "scope: dataAccount\n", "identity"),
        (ROLES, ON_EVENTS, "scope: dataAccount\n  name: guid(dataAccount.id, appPrincipalId", "identity"),
        (ROLES, "4633458b-17de-408a-b874-0445c86b69e6", "b86a8fe4-44ce-4948-aee5-eccb2c155cd8", "identity"),
        (FUNCTION, "'function:${group}'", "'${group}'", "scale"),
        ("azure.yaml", "  capture:\n", "  api:\n", "azd"),
        (PARAMETERS, "${CDC_RUN_SECONDS=260}", "${CDC_RUN_SECONDS=250}", "azd"),
        (PARAMETERS, "${CDC_START=tip}", "${CDC_STARTS=tip}", "azd"),
        (PARAMETERS, '    "channels": { "value": "${CDC_CHANNELS}" },\n', "", "azd"),
    ],
)  # fmt: skip
def test_a_change_in_infra_alone_is_noticed(path: str, old: str, new: str, rule: str) -> None:
    found = disagreements(both_sides().with_text(path, old, new))
    assert any(sentence.startswith(f"{rule}:") for sentence in found), found


@pytest.mark.parametrize(
    ("name", "setting", "rule"),
    [
        ("CDC_EVENTS_CONTAINER", Setting("", "other-events"), "defaults"),
        ("CDC_CHECKPOINTS_CONTAINER", Setting("", "other-checkpoints"), "defaults"),
        ("CDC_SCHEDULE", Setting("", "0 */10 * * * *"), "defaults"),
        ("CDC_RUN_SECONDS", Setting("", "250"), "defaults"),
        ("CDC_ON_REPLAY_EXPIRED", Setting("", "stop"), "defaults"),
        ("CDC_NEW_SETTING", Setting("", "1"), "names"),
        ("CDC_NEW_SETTING", Setting("", required=True), "names"),
        ("CDC_NEW_SETTING", Setting(""), "names"),
        ("CDC_START", None, "names"),
    ],
)
def test_a_change_of_a_setting_in_the_code_alone_is_noticed(name: str, setting: Setting | None, rule: str) -> None:
    found = disagreements(both_sides().with_setting(name, setting))
    assert any(sentence.startswith(f"{rule}:") for sentence in found), found


def test_a_change_of_the_hosts_limit_or_of_the_grace_alone_is_noticed() -> None:
    both = both_sides()
    shorter = replace(both, host_json={**both.host_json, "functionTimeout": "00:05:00"})
    for changed in (shorter, replace(both, host_json={}), replace(both, grace_s=20)):
        assert any(sentence.startswith("times:") for sentence in disagreements(changed))
