"""Salesforce's error texts over the whole stack: a new session, an end of the run, or one refused channel; no more."""

from __future__ import annotations

import pytest

from tests.harness import ACCOUNT, CONTACT, Site, assert_landed_once, assert_sessions_clean, messages_of

NO_MAP = "400::The replayId for channel {/data/X} wasn't found using the provided replay ID map {{}}. Ensure that"


SESSION = (
    "400::Client ab12 has established a session, but no BAYEUX_BROWSER cookie present",
    "400::Authenticated user id does not match the session's user id",
    "402::Unknown client",
    "403::Client has not completed handshake",
)


@pytest.mark.parametrize(
    ("on", "text"),
    [*((on, text) for on in ("connect", "subscribe") for text in SESSION), ("connect", "500::Internal error")],
)
def test_a_text_that_concerns_the_session_costs_one_session_and_nothing_else(site: Site, on: str, text: str) -> None:
    site.org.publish(ACCOUNT, 5)
    site.org.fault(on, "reply", end_session=True, reply={"error": text, "advice": {"reconnect": "none"}})
    report = site.capture(ACCOUNT, seconds=1.5)
    assert report.outcome == "ok", report.summary()
    assert (report.sessions, report.lost_sessions) == (2, 1)
    assert site.org.stats()["tokenRequests"] == 1
    assert_landed_once(site.org, site.log, ACCOUNT)
    assert_sessions_clean(site)


@pytest.mark.parametrize(
    ("on", "text"),
    [
        ("handshake", "400::Unsupported API version. Only API versions '37.0' and later are supported."),
        ("handshake", "400::API version in the URI is mandatory. URI format: '/cometd/66.0'"),
        ("connect", "400::Invalid connection type {long-polling}"),
        ("subscribe", "413::Maximum Request Size Exceeded"),
    ],
)
def test_a_request_that_is_wrong_in_itself_is_not_repeated(site: Site, on: str, text: str) -> None:
    site.org.publish(ACCOUNT, 5)
    site.org.fault(on, "reply", times=-1, reply={"error": text})
    report = site.capture(ACCOUNT, seconds=20)
    assert report.outcome == "failed"
    [problem] = report.problems
    assert text in problem.message
    assert "SALESFORCE_API_VERSION" in problem.hint
    assert len(site.asked(on)) == 1
    assert site.late_s < -10
    site.org.clear_faults()
    assert site.capture(ACCOUNT).outcome == "ok"
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_a_replay_map_that_salesforce_does_not_understand_is_no_refused_position(site: Site) -> None:
    for channel in (ACCOUNT, CONTACT):
        site.org.publish(channel, 3)
    assert site.capture(ACCOUNT, CONTACT).outcome == "ok"
    site.org.publish(CONTACT, 3)
    site.org.channel(CONTACT, refusal=NO_MAP)
    report = site.capture(ACCOUNT, CONTACT)
    assert report.outcome == "degraded", report.summary()
    assert "wasn't found using the provided replay ID map" in messages_of(report)[0]
    assert not [name for name in site.log.state() if name.startswith("gaps/")]
    site.org.channel(CONTACT, refusal="")
    assert site.capture(ACCOUNT, CONTACT).outcome == "ok"
    assert_landed_once(site.org, site.log, CONTACT)


def test_an_answer_for_another_client_ends_the_session_and_its_events_come_again(site: Site) -> None:
    site.org.knobs(events_on_subscribe=False)
    site.org.publish(ACCOUNT, 5)
    reply = {"successful": True, "clientId": "somebody-elses"}
    site.org.fault("connect", "reply", only_with_events=True, end_session=False, reply=reply)
    report = site.capture(ACCOUNT, seconds=1.5)
    assert report.outcome == "ok", report.summary()
    assert (report.sessions, report.lost_sessions) == (2, 1)
    assert report.channels[ACCOUNT].duplicates == 0
    assert_landed_once(site.org, site.log, ACCOUNT)
