"""Salesforce says no, to a channel or to the login: its words, what to fix, and everything else is captured."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.harness import ACCOUNT, CONTACT, OPPORTUNITY, Site, assert_landed_once, messages_of

UNKNOWN = "/data/Nonsense__ChangeEvent"
REFUSALS = {
    "403::User not allowed to subscribe CDC without View All Data permissions": "View All Data",
    "403::Cannot create channel /data/ContactChangeEvent": "name",
    "403:denied_by_security_policy:create_denied": "name",
    "403::Restricted channel": "channels can be captured",
    "400::Channel name not specified": "name",
}


def test_an_unknown_channel_is_named_and_the_others_are_captured(site: Site) -> None:
    for channel in (ACCOUNT, CONTACT):
        site.org.publish(channel, 10)
    report = site.capture(ACCOUNT, UNKNOWN, CONTACT)
    assert report.outcome == "degraded", report.summary()
    [problem] = report.problems
    assert (problem.channel, UNKNOWN in problem.message) == (UNKNOWN, True)
    assert "400::The channel you requested to subscribe to doesn't exist" in problem.message
    assert "Change Data Capture" in problem.hint
    assert not report.channels[UNKNOWN].is_subscribed
    for channel in (ACCOUNT, CONTACT):
        assert_landed_once(site.org, site.log, channel)


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refused_channel_is_named_with_salesforces_words_and_what_to_do(site: Site, text: str) -> None:
    site.org.publish(ACCOUNT, 3)
    site.org.channel(CONTACT, refusal=text)
    report = site.capture(ACCOUNT, CONTACT)
    assert report.outcome == "degraded", report.summary()
    [problem] = report.problems
    assert problem.channel == CONTACT
    assert text in problem.message
    assert REFUSALS[text] in problem.hint
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_a_channel_that_is_allowed_again_goes_on_where_it_was(site: Site) -> None:
    site.org.publish(CONTACT, 3)
    site.capture(ACCOUNT, CONTACT)
    site.org.channel(CONTACT, refusal="403::User not allowed to subscribe CDC without View All Data permissions")
    site.org.publish(CONTACT, 3)
    assert site.capture(ACCOUNT, CONTACT).outcome == "degraded"
    site.org.channel(CONTACT, refusal="")
    assert site.capture(ACCOUNT, CONTACT).outcome == "ok"
    assert_landed_once(site.org, site.log, CONTACT)


def test_all_channels_refused_is_a_failed_run_that_ends_at_once(site: Site) -> None:
    report = site.capture(UNKNOWN, "/data/Other__ChangeEvent", seconds=20)
    assert report.outcome == "failed"
    assert len(report.problems) == 2
    assert site.late_s < -10
    assert len(site.asked("handshake")) == 1
    assert site.org.sessions() == []


def test_a_channel_that_is_silent_for_want_of_a_right_holds_nobody_back(site: Site) -> None:
    site.org.channel(OPPORTUNITY, silent=["Opportunity"])
    site.org.publish(ACCOUNT, 5)
    site.org.publish(OPPORTUNITY, 5)
    assert site.capture(ACCOUNT, OPPORTUNITY).outcome == "ok"
    assert_landed_once(site.org, site.log, ACCOUNT)


@pytest.mark.parametrize(
    ("change", "words", "hint"),
    [
        ({"SALESFORCE_CLIENT_ID": "nobody"}, "client identifier invalid", "SALESFORCE_CLIENT_ID"),
        ({"SALESFORCE_CLIENT_SECRET": "wrong"}, "invalid client credentials", "SALESFORCE_CLIENT_SECRET"),
    ],
)
def test_a_refused_login_tells_salesforces_words_and_what_to_fix(
    site: Site, change: dict[str, str], words: str, hint: str
) -> None:
    before = site.log.names()
    report = site.capture(ACCOUNT, CONTACT, seconds=20, settings=change)
    assert report.outcome == "failed"
    [problem] = report.problems
    assert words in problem.message
    assert hint in problem.hint
    assert site.org.stats()["tokenRequests"] == 1
    assert site.late_s < -10
    assert not [name for name in site.log.names() - before if "/generations/" in name or ".jsonl" in name]


@pytest.mark.parametrize(
    ("knob", "words", "hint"),
    [
        ({"client_credentials_user": False}, "no client credentials user enabled", "run-as user"),
        ({"my_domain": False}, "request not supported on this domain", "My Domain"),
    ],
)
def test_an_app_that_is_set_up_badly_is_told_what_to_set(
    site: Site, knob: dict[str, bool], words: str, hint: str
) -> None:
    site.org.knobs(**knob)
    report = site.capture(ACCOUNT)
    assert report.outcome == "failed"
    assert words in messages_of(report)[0]
    assert hint in report.problems[0].hint


def test_a_login_refused_for_good_changes_nothing_that_was_written(site: Site) -> None:
    site.org.publish(ACCOUNT, 3)
    site.capture(ACCOUNT)
    before = site.log.state("data/")
    assert site.capture(ACCOUNT, SALESFORCE_CLIENT_SECRET="wrong").outcome == "failed"
    assert site.log.state("data/") == before


def test_a_token_endpoint_that_is_busy_is_asked_again(site: Site) -> None:
    site.org.publish(ACCOUNT, 3)
    site.org.fault("token", "status", status=503)
    report = site.capture(ACCOUNT, seconds=2.5)
    assert report.outcome == "ok", report.summary()
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_a_token_endpoint_under_maintenance_is_asked_again(site: Site) -> None:
    site.org.publish(ACCOUNT, 3)
    site.org.fault("token", "html", times=2)
    report = site.capture(ACCOUNT, seconds=4)
    assert report.outcome == "ok", report.summary()
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_a_token_endpoint_that_answers_with_a_web_page_is_named(site: Site) -> None:
    site.org.fault("token", "html", times=-1)
    report = site.capture(ACCOUNT, seconds=2)
    assert report.outcome == "failed"
    assert "the answer is no JSON object" in messages_of(report)[0]
    assert "SALESFORCE_LOGIN_URL" in report.problems[0].hint
    assert site.org.stats()["tokenRequests"] <= 6


def test_a_login_url_where_nobody_answers_is_named(site: Site) -> None:
    report = site.capture(ACCOUNT, seconds=2, SALESFORCE_LOGIN_URL="http://127.0.0.1:9")
    assert report.outcome == "failed"
    assert "127.0.0.1:9" in messages_of(report)[0]
    assert "refused" in messages_of(report)[0]


# --- the JWT bearer flow ---------------------------------------------------------------------------------------------


def key_pair() -> tuple[str, str]:
    """A fresh RSA key: the private one as PEM text, and the public one as the org holds it."""
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return private, public


def jwt_settings(site: Site, private_key: str, **more: str) -> dict[str, str]:
    """The settings of the JWT bearer flow instead of the secret."""
    name = site.org.username
    return {
        "SALESFORCE_CLIENT_SECRET": "",
        "SALESFORCE_USERNAME": name,
        "SALESFORCE_PRIVATE_KEY": private_key,
        **more,
    }


@pytest.mark.parametrize("spelling", ["PEM text", "escaped line breaks"])
def test_the_jwt_bearer_flow_captures_with_a_real_key(site: Site, spelling: str) -> None:
    private, public = key_pair()
    site.org.credentials(public_key=public)
    site.org.publish(ACCOUNT, 5)
    spelled = private if spelling == "PEM text" else private.replace("\n", "\\n")
    report = site.capture(ACCOUNT, seconds=2, settings=jwt_settings(site, spelled))
    assert report.outcome == "ok", report.summary()
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_a_key_that_is_not_the_apps_and_a_user_who_is_not_approved_are_told_apart(site: Site) -> None:
    private, public = key_pair()
    site.org.credentials(public_key=public)
    other_key = site.capture(ACCOUNT, settings=jwt_settings(site, key_pair()[0]))
    assert "invalid assertion" in messages_of(other_key)[0]
    assert "SALESFORCE_PRIVATE_KEY" in other_key.problems[0].hint
    other_user = site.capture(ACCOUNT, settings=jwt_settings(site, private, SALESFORCE_USERNAME="someone@else.example"))
    assert "user hasn't approved this consumer" in messages_of(other_user)[0]
    assert "pre-authorise" in other_user.problems[0].hint
    other_app = site.capture(ACCOUNT, settings=jwt_settings(site, private, SALESFORCE_CLIENT_ID="nobody"))
    assert "client identifier invalid" in messages_of(other_app)[0]
    assert {each.outcome for each in (other_key, other_user, other_app)} == {"failed"}
