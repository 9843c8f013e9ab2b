"""Signing in to Salesforce: by assertion with a real key, across rotations, and never with an unresolved reference."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from cdc import app
from cdc.errors import LoginRefused
from cdc.salesforce import fetch_token
from cdc.settings import load_settings
from tests.harness import ACCOUNT, Site, assert_landed_once, messages_of
from tests.identity.conftest import pem_of, private_key, public_half

ROOT = Path(__file__).absolute().parent.parent.parent
REFERENCE = "@Microsoft.KeyVault(SecretUri=https://kv-cdc.vault.azure.net/secrets/salesforce-client-secret)"
CALL = """
import json
from types import SimpleNamespace
import function_app
function = {each.get_function_name(): each for each in function_app.app.get_functions()}["capture1"]
try:
    function.get_user_function()(SimpleNamespace(past_due=False))
except Exception as error:
    print(json.dumps([type(error).__name__, str(error)]))
"""


def by_assertion(site: Site, key: str) -> dict[str, str]:
    """Return the settings that sign in by JWT bearer."""
    secret = {"SALESFORCE_CLIENT_SECRET": ""}
    return site.environment(ACCOUNT, SALESFORCE_USERNAME=site.org.username, SALESFORCE_PRIVATE_KEY=key) | secret


@pytest.mark.parametrize("written", [str, lambda pem: pem.replace("\n", "\\n")], ids=["lines", "one line"])
def test_a_run_signs_in_by_assertion(site: Site, written: type[str]) -> None:
    key = private_key()
    site.org.credentials(public_key=public_half(key))
    site.org.publish(ACCOUNT, 10)
    secret = {"SALESFORCE_USERNAME": site.org.username, "SALESFORCE_PRIVATE_KEY": written(pem_of(key))}
    report = site.capture(ACCOUNT, **secret, SALESFORCE_CLIENT_SECRET="")
    assert (report.outcome, messages_of(report)) == ("ok", [])
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_after_the_certificate_was_replaced_the_old_key_is_refused_and_the_new_one_signs_in(site: Site) -> None:
    old, new = private_key(), private_key()
    site.org.credentials(public_key=public_half(old))
    granted = fetch_token(app.credentials_of(load_settings(by_assertion(site, pem_of(old)))))
    site.org.credentials(public_key=public_half(new))
    with pytest.raises(LoginRefused, match="invalid assertion") as raised:
        fetch_token(app.credentials_of(load_settings(by_assertion(site, pem_of(old)))))
    assert "SALESFORCE_PRIVATE_KEY" in raised.value.hint
    assert fetch_token(app.credentials_of(load_settings(by_assertion(site, pem_of(new))))).org_id == granted.org_id


def test_a_secret_rotated_between_two_runs_costs_no_event(site: Site) -> None:
    """The run with the old secret fails and says why; the next one, with the new secret, goes on where the log ends."""
    site.org.publish(ACCOUNT, 5)
    assert site.capture(ACCOUNT).outcome == "ok"
    old = site.org.client_secret
    site.org.credentials(client_secret="rotated-secret")
    site.org.publish(ACCOUNT, 5)
    report = site.capture(ACCOUNT, SALESFORCE_CLIENT_SECRET=old)
    assert report.outcome == "failed"
    assert "invalid client credentials" in " ".join(messages_of(report))
    assert "SALESFORCE_CLIENT_SECRET" in " ".join(problem.hint for problem in report.problems)
    assert site.capture(ACCOUNT).outcome == "ok"
    assert_landed_once(site.org, site.log, ACCOUNT)


@pytest.mark.parametrize("name", ["SALESFORCE_CLIENT_SECRET", "SALESFORCE_PRIVATE_KEY"])
def test_an_unresolved_reference_is_named_as_such_and_never_sent(site: Site, name: str) -> None:
    """Azure hands the text of a reference to the app where it cannot resolve it."""
    environment = site.environment(ACCOUNT, CDC_RUN_SECONDS="2")
    if name == "SALESFORCE_PRIVATE_KEY":
        environment = {**environment, "SALESFORCE_USERNAME": site.org.username, "SALESFORCE_CLIENT_SECRET": ""}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", CALL],
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **environment, name: REFERENCE},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    kind, message = json.loads(done.stdout)
    assert kind == "CaptureFailed"
    assert f"{name}: an unresolved Key Vault reference" in message
    assert "the app's identity cannot read the vault, or the secret is not there" in message
    assert "vault.azure.net" not in message + done.stderr
    assert site.org.stats()["tokenRequests"] == 0
