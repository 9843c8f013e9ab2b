"""The host's doors: what it indexes, and what a timer's invocation does with a good run, a bad one and bad settings."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.harness import ACCOUNT, CONTACT, Site, assert_landed_once

ROOT = Path(__file__).absolute().parent.parent
INDEX = """
import json, sys
import function_app
functions = function_app.app.get_functions()
print(json.dumps([{"name": each.get_function_name(), **json.loads(str(each))} for each in functions]))
late = sorted(name for name in sys.modules if name.split('.')[0] in ('azure.storage', 'requests', 'simple_salesforce'))
print(json.dumps(late))
"""
CALL = """
import json, sys
from types import SimpleNamespace
import function_app
for each in function_app.app.get_functions():
    if each.get_trigger().type != "timerTrigger":
        continue
    try:
        each.get_user_function()(SimpleNamespace(past_due=False))
        print(json.dumps([each.get_function_name(), None]))
    except Exception as error:
        print(json.dumps([each.get_function_name(), type(error).__name__, str(error)]))
"""


def run_host(code: str, **settings: str) -> tuple[list[Any], str]:
    """Run code as the host's worker would, in a process of its own; the JSON lines it printed, and its log."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr


def timers(functions: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Name -> binding of each timer function; beside them stand the two HTTP functions and nothing else."""
    found = {}
    for each in functions:
        if each["name"] in ("status", "health"):
            assert {binding["type"] for binding in each["bindings"]} == {"httpTrigger", "http"}
        else:
            [found[each["name"]]] = each["bindings"]
            assert found[each["name"]]["type"] == "timerTrigger"
    return found


def test_one_group_is_one_timer_with_its_schedule_and_flags() -> None:
    [functions, _], _ = run_host(INDEX, CDC_CHANNELS=f"{ACCOUNT},{CONTACT}", CDC_SCHEDULE="0 */10 * * * *")
    assert [each["name"] for each in functions] == ["capture1", "status", "health"]
    timer = timers(functions)["capture1"]
    assert timer["schedule"] == "%CDC_SCHEDULE%"
    assert timer["useMonitor"] is True
    assert timer["runOnStartup"] is False
    assert timer["name"] == "timer"


def test_without_a_schedule_the_default_stands_in_the_function_itself() -> None:
    [functions, _], _ = run_host(INDEX, CDC_CHANNELS=ACCOUNT)
    assert timers(functions)["capture1"]["schedule"] == "0 */5 * * * *"


def test_two_groups_are_two_functions() -> None:
    [functions, _], _ = run_host(INDEX, CDC_CHANNELS=f"{ACCOUNT};{CONTACT};")
    assert list(timers(functions)) == ["capture1", "capture2"]


@pytest.mark.parametrize("channels", ["", ";;", "no channel at all", "@Microsoft.KeyVault(SecretUri=x)"])
def test_bad_settings_leave_the_import_alone_and_fail_the_invocation_with_one_message(channels: str) -> None:
    [functions, _], _ = run_host(INDEX, CDC_CHANNELS=channels)
    assert list(timers(functions)) == ["capture1"]
    [[name, kind, message]], log = run_host(CALL, CDC_CHANNELS=channels, CDC_RUN_SECONDS="soon")
    assert (name, kind) == ("capture1", "CaptureFailed")
    for setting in ("SALESFORCE_LOGIN_URL", "SALESFORCE_CLIENT_ID", "CDC_CHANNELS", "CDC_STORAGE", "CDC_RUN_SECONDS"):
        assert setting in message
    assert "next step" in message
    assert "Traceback" not in message + log
    assert "\n" not in message


def test_a_run_that_would_outlast_the_hosts_limit_is_refused_before_it_begins(site: Site) -> None:
    [[_, kind, message]], _ = run_host(CALL, **site.environment(ACCOUNT, CDC_RUN_SECONDS="539"))
    assert kind == "CaptureFailed"
    assert "CDC_RUN_SECONDS" in message
    assert "functionTimeout" in message
    assert site.asked() == []


def test_the_hosts_override_of_its_limit_counts(site: Site) -> None:
    override = {"AzureFunctionsJobHost__functionTimeout": "00:00:10"}
    [[_, kind, message]], _ = run_host(CALL, **site.environment(ACCOUNT, CDC_RUN_SECONDS="2"), **override)
    assert kind == "CaptureFailed"
    assert "functionTimeout" in message


def test_a_call_of_the_timer_function_captures_end_to_end(site: Site) -> None:
    site.org.publish(ACCOUNT, 30)
    calls, _ = run_host(CALL, **site.environment(ACCOUNT, CDC_RUN_SECONDS="2"))
    assert calls == [["capture1", None]]
    assert_landed_once(site.org, site.log, ACCOUNT)
    assert site.log.state()["runs/capture1.json"]["outcome"] == "ok"


def test_two_groups_capture_their_own_channels_in_sessions_of_their_own(site: Site) -> None:
    for channel in (ACCOUNT, CONTACT):
        site.org.publish(channel, 10)
    settings = site.environment(ACCOUNT, CDC_RUN_SECONDS="2") | {"CDC_CHANNELS": f"{ACCOUNT};{CONTACT}"}
    calls, _ = run_host(CALL, **settings)
    assert calls == [["capture1", None], ["capture2", None]]
    for channel in (ACCOUNT, CONTACT):
        assert_landed_once(site.org, site.log, channel)
    assert {name for name in site.log.state() if name.startswith("runs/")} == {
        "runs/capture1.json",
        "runs/capture2.json",
    }
    assert len({entry["clientId"] for entry in site.asked("subscribe")}) == 2


def test_a_degraded_run_fails_the_invocation_and_says_why(site: Site) -> None:
    site.org.publish(ACCOUNT, 3)
    unknown = "/data/Nonsense__ChangeEvent"
    [[_, kind, message]], _ = run_host(CALL, **site.environment(ACCOUNT, unknown, CDC_RUN_SECONDS="2"))
    assert kind == "CaptureFailed"
    assert message.startswith("run degraded: 3 events landed")
    assert unknown in message
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_a_failed_run_fails_the_invocation_in_salesforces_words(site: Site) -> None:
    settings = site.environment(ACCOUNT, CDC_RUN_SECONDS="2", SALESFORCE_CLIENT_SECRET="wrong")
    [[_, kind, message]], log = run_host(CALL, **settings)
    assert kind == "CaptureFailed"
    assert message.startswith("run failed")
    assert "invalid client credentials" in message
    assert "SALESFORCE_CLIENT_SECRET" in message
    assert "Traceback" not in log


def test_the_groups_function_can_be_called_with_any_timer_object(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process: the door reads the environment at each invocation, not at import."""
    for name, value in site.environment(ACCOUNT, CDC_RUN_SECONDS="1").items():
        monkeypatch.setenv(name, value)
    import function_app

    site.org.publish(ACCOUNT, 5)
    timer: Any = SimpleNamespace(past_due=True)
    function_app.capture_of("capture1")(timer)
    assert_landed_once(site.org, site.log, ACCOUNT)
    with pytest.raises(function_app.CaptureFailed, match="there is no channel group capture7"):
        function_app.capture_of("capture7")(timer)
