"""What looks like a healthy stream and is none, events that only say that events are missing, and a wrong clock."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta, tzinfo
from types import SimpleNamespace

import pytest

from cdc import app, salesforce
from cdc.session import CometDSession
from cdc.waiting import Clock
from tests.harness import ACCOUNT, Site, assert_landed_once, messages_of
from tests.scenarios.test_refusals import jwt_settings, key_pair

KINDS = ("GAP_CREATE", "GAP_UPDATE", "GAP_DELETE", "GAP_UNDELETE", "GAP_OVERFLOW", "WILDCARD", "DIFF", "MERGED", "NULL")


def test_a_starved_stream_looks_like_a_quiet_one_and_loses_nothing_by_it(site: Site) -> None:
    """Salesforce searches for longer than the run lasts, but not for long enough that the org would be asked."""
    site.org.publish(ACCOUNT, 5)
    assert site.capture(ACCOUNT).outcome == "ok"
    site.org.publish(ACCOUNT, 5)
    site.org.channel(ACCOUNT, slow_seek_s=60)
    starved = site.capture(ACCOUNT)
    assert (starved.outcome, starved.channels[ACCOUNT].events) == ("ok", 0), starved.summary()
    site.org.channel(ACCOUNT, slow_seek_s=0)
    assert site.capture(ACCOUNT).channels[ACCOUNT].events == 5
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_gap_overflow_wildcard_and_diff_events_are_landed_like_all_others(site: Site) -> None:
    for kind in KINDS:
        site.org.publish(ACCOUNT, 2, kinds=[kind])
    report = site.capture(ACCOUNT)
    assert (report.outcome, report.channels[ACCOUNT].events) == ("ok", 2 * len(KINDS)), report.summary()
    assert site.log.quarantine() == []
    assert_landed_once(site.org, site.log, ACCOUNT)


class WrongTime:
    """Stands in for `datetime` where a module asks for the time."""

    def __init__(self, offset: timedelta) -> None:
        self._offset = offset

    def now(self, zone: tzinfo | None = None) -> datetime:
        return datetime.now(zone) + self._offset


@pytest.mark.parametrize("start", ["tip", "earliest"])
@pytest.mark.parametrize("hours", [-100, -1, 1, 100])
def test_a_clock_that_is_wrong_moves_no_position(
    site: Site, monkeypatch: pytest.MonkeyPatch, hours: int, start: str
) -> None:
    """A run by the right clock, one by the wrong one, and one by the right one again."""
    if start == "tip":
        assert site.capture(ACCOUNT, CDC_START=start).outcome == "ok"
    for is_wrong in (False, True, False):
        with monkeypatch.context() as patch:
            if is_wrong:
                wrong = WrongTime(timedelta(hours=hours))
                patch.setattr(app, "datetime", wrong)
                patch.setattr(Clock, "now", lambda self, wrong=wrong: wrong.now(UTC))
            site.org.publish(ACCOUNT, 5)
            report = site.capture(ACCOUNT, CDC_START=start)
            assert report.outcome == "ok", report.summary()
    assert not [name for name in site.log.state() if name.startswith("gaps/")]
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_a_clock_that_is_slow_spoils_the_login_assertion_until_it_is_right(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    private, public = key_pair()
    site.org.credentials(public_key=public)
    slow = SimpleNamespace(time=lambda: time.time() - 3_600, monotonic=time.monotonic)
    site.org.publish(ACCOUNT, 5)
    with monkeypatch.context() as patch:
        patch.setattr(salesforce, "time", slow)
        report = site.capture(ACCOUNT, settings=jwt_settings(site, private))
    assert report.outcome == "failed"
    assert "invalid_grant" in messages_of(report)[0]
    assert site.capture(ACCOUNT, settings=jwt_settings(site, private)).outcome == "ok"
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_the_same_change_on_two_channels_is_landed_once_in_each(site: Site) -> None:
    site.org.publish(ACCOUNT, 5)
    report = site.capture(ACCOUNT, "/data/ChangeEvents")
    assert report.outcome == "ok", report.summary()
    for channel in (ACCOUNT, "/data/ChangeEvents"):
        assert_landed_once(site.org, site.log, channel)


def test_an_orphaned_session_that_still_counts_is_waited_out(site: Site) -> None:
    """The org allows one client; a session that nobody disconnected holds the place until the server forgets it."""
    site.org.knobs(max_clients=1, session_expiry_s=1.5)
    site.org.publish(ACCOUNT, 5)
    token = salesforce.fetch_token(app.credentials_of(app.load_settings(site.environment())))
    orphan = CometDSession(salesforce.Streaming(token, "66.0"))
    assert orphan.handshake(timeout_s=10).failure is None
    orphan.close()
    report = site.capture(ACCOUNT, seconds=6)
    assert report.outcome == "ok", report.summary()
    failed = [str(fields["error"]) for fields in site.said.named("session.failed")]
    assert any("concurrent user limit" in error for error in failed), failed
    assert_landed_once(site.org, site.log, ACCOUNT)
