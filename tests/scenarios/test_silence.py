"""A subscribed channel that delivers nothing: quiet where no record changed, silent where records did."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from tests.harness import ACCOUNT, CONTACT, Site, messages_of

EVERYTHING, SALES, ORDERS = "/data/ChangeEvents", "/data/Sales__chn", "/event/Order_Placed__e"
MINUTES = 60
RUN_S = 2.0


def queries(site: Site) -> int:
    """How often the org was asked for records, and for the members of a channel."""
    asked: dict[str, int] = site.org.stats()["rest"]
    return sum(count for path, count in asked.items() if "query" in path.lower())


def silent(site: Site, channel: str, **more: Any) -> None:
    """The org shows the channel's events to nobody from now on, as if the bus were still being searched."""
    site.org.channel(channel, slow_seek_s=3_600, **more)


def settle(site: Site, *channels: str, age_s: float = 60 * MINUTES) -> None:
    """Each channel has landed an event that is an hour old."""
    for channel in channels:
        site.org.publish(channel, 1, kinds=["CREATE"], age_s=age_s)
    assert site.capture(*channels, seconds=RUN_S).outcome == "ok"


def told(site: Site, name: str = "channel.silent") -> list[dict[str, object]]:
    return site.said.named(name)


def test_a_silent_channel_whose_records_change_is_degraded_within_one_run(site: Site) -> None:
    settle(site, ACCOUNT, CONTACT)
    site.org.change_record("Account", age_s=20 * MINUTES)
    report = site.capture(ACCOUNT, CONTACT, seconds=RUN_S)
    assert report.outcome == "degraded"
    [message] = messages_of(report)
    assert message.startswith(f"{ACCOUNT} is subscribed and silent since ")
    assert ", but records of Account changed at " in message
    assert report.problems[0].hint.startswith("Salesforce may still be searching")
    assert "CDC_RUN_SECONDS first" in report.problems[0].hint
    [fields] = told(site)
    assert (fields["channel"], fields["entity"], fields["group"]) == (ACCOUNT, "Account", "capture1")
    assert isinstance(fields["since"], datetime)
    finished = {str(each["channel"]): each for each in told(site, "channel.finished")}
    assert (finished[ACCOUNT]["outcome"], finished[CONTACT]["outcome"]) == ("degraded", "ok")
    assert 3_500 < float(str(finished[ACCOUNT]["silent_s"])) < 4_200
    assert float(str(finished[ACCOUNT]["retention_left_h"])) < 71.1
    record = site.log.state("runs/")["runs/capture1.json"]
    assert record["channels"][ACCOUNT]["silentSince"]
    assert record["channels"][CONTACT]["silentSince"] is None
