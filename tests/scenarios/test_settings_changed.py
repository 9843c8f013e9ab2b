"""Settings change between two runs: the log goes on where it is, or the run says why it does not."""

from __future__ import annotations

from tests.harness import ACCOUNT, CONTACT, Site, assert_landed_once, capture, messages_of


def test_another_start_changes_nothing_for_a_channel_that_has_begun(site: Site) -> None:
    site.org.publish(ACCOUNT, 5)
    for start in ("earliest", "tip", "earliest"):
        site.org.publish(ACCOUNT, 5)
        report = site.capture(ACCOUNT, CDC_START=start)
        assert report.outcome == "ok", report.summary()
    assert_landed_once(site.org, site.log, ACCOUNT)
    assert len([name for name in site.log.state() if name.startswith("generations/")]) == 1


def test_a_channel_that_was_left_out_for_a_while_goes_on_where_it_was(site: Site) -> None:
    for channels in ((ACCOUNT, CONTACT), (ACCOUNT,), (ACCOUNT, CONTACT)):
        for channel in (ACCOUNT, CONTACT):
            site.org.publish(channel, 5)
        assert site.capture(*channels).outcome == "ok"
    for channel in (ACCOUNT, CONTACT):
        assert_landed_once(site.org, site.log, channel)


def test_a_channel_that_moves_to_another_group_goes_on_where_it_was(site: Site) -> None:
    site.org.publish(CONTACT, 5)
    assert site.capture(ACCOUNT, CONTACT).outcome == "ok"
    site.org.publish(CONTACT, 5)
    report = capture(site.environment() | {"CDC_CHANNELS": f"{ACCOUNT};{CONTACT}"}, seconds=1.2, group=1)
    assert (report.outcome, report.channels[CONTACT].events) == ("ok", 5), report.summary()
    assert_landed_once(site.org, site.log, CONTACT)


def test_another_api_version_changes_nothing(site: Site) -> None:
    for version in ("66.0", "67.0", "60.0"):
        site.org.publish(ACCOUNT, 5)
        assert site.capture(ACCOUNT, SALESFORCE_API_VERSION=version).outcome == "ok"
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_another_events_container_beside_the_old_checkpoints_is_refused(site: Site) -> None:
    site.org.publish(ACCOUNT, 5)
    assert site.capture(ACCOUNT).outcome == "ok"
    before = site.log.names()
    report = site.capture(ACCOUNT, CDC_EVENTS_CONTAINER="another-container")
    assert report.outcome == "failed"
    assert "container another-container is missing" in messages_of(report)[0]
    assert "CDC_EVENTS_CONTAINER" in report.problems[0].hint
    assert site.log.names() == before
