"""The answer to each write of a run is lost in turn: every event lies in the log once all the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from azure.storage.blob import ExponentialRetry

from cdc.report import RunReport
from tests.azurite import Azurite
from tests.faultproxy import FaultProxy, Spoil
from tests.harness import ACCOUNT, CONTACT, Site, assert_layout

STRAY = b'{"channel":"/data/ContactChangeEvent","data":{}}'
# Writes of a first run of two channels: containers (each may try), checkpoints, generations, segments, run record.
FIRST_RUN = range(11, 14)
# Of a run with a gap, a generation, turns and a stray: all the kinds that a first run has not.
LATER_RUN = range(8, 14)


@pytest.fixture
def line(storage: Azurite, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """The line to the storage; the SDK repeats at once instead of after seconds."""
    monkeypatch.setattr(ExponentialRetry, "get_backoff_time", lambda self, settings: 0.05)
    with FaultProxy(storage.url) as opened:
        yield opened


def first_run(site: Site) -> None:
    """Two channels that nobody has captured yet."""
    for channel in (ACCOUNT, CONTACT):
        site.org.publish(channel, 5)


def later_run(site: Site) -> None:
    """The day after: one channel's stream was reset, and the other has an event that cannot be placed."""
    first_run(site)
    assert site.capture(ACCOUNT, CONTACT).outcome == "ok"
    site.org.advance_clock(86_400)
    site.org.reset_stream(ACCOUNT)
    first_run(site)
    site.org.raw(CONTACT, STRAY)


def assert_landed(site: Site) -> None:
    """Each event stands in the log once; what cannot be placed, in quarantine."""
    for channel in (ACCOUNT, CONTACT):
        published = [delivery for delivery in site.org.deliveries(channel) if delivery != STRAY]
        assert site.log.lines(channel) == published
        assert_layout(site.log, channel)


def captured_through(site: Site, line: FaultProxy) -> RunReport:
    """A run over the line, polls enough of it for a second session."""
    return site.capture(ACCOUNT, CONTACT, seconds=2, CDC_STORAGE=line.stand_in_for(site.connection_string))


def lose_one_answer(site: Site, line: FaultProxy, nth: int, writes: range) -> RunReport:
    """Cut the answer to the nth write of a run, let another run follow, and check that all is landed."""
    line.arm(Spoil("cut", on="response", request=b"PUT "), after=nth)
    report = captured_through(site, line)
    assert line.struck["response.cut"] == 1 or nth >= writes.start
    site.org.publish(ACCOUNT, 5)
    assert site.capture(ACCOUNT, CONTACT).outcome == "ok"
    assert_landed(site)
    return report


@pytest.mark.parametrize("nth", range(FIRST_RUN.stop))
def test_the_answer_to_one_write_of_a_first_run_is_lost(site: Site, line: FaultProxy, nth: int) -> None:
    """Whichever it is: the write took effect, and nobody was told."""
    first_run(site)
    report = lose_one_answer(site, line, nth, FIRST_RUN)
    assert report.outcome == "ok", report.summary()
    assert not [name for name in site.log.state() if name.startswith("gaps/")]


@pytest.mark.parametrize("nth", range(LATER_RUN.stop))
def test_the_answer_to_one_write_of_an_eventful_run_is_lost(site: Site, line: FaultProxy, nth: int) -> None:
    """The same for gap, generation, turn and quarantine."""
    later_run(site)
    report = lose_one_answer(site, line, nth, LATER_RUN)
    assert report.outcome == "degraded", report.summary()
    assert len(site.log.quarantine()) == 1
    assert len(site.log.state("gaps/")) == 1


@pytest.mark.parametrize(("prepare", "writes"), [(first_run, FIRST_RUN), (later_run, LATER_RUN)])
def test_the_two_runs_have_no_more_writes_than_were_tried(
    site: Site, line: FaultProxy, prepare: Callable[[Site], None], writes: range
) -> None:
    prepare(site)
    before = site.log.names()
    line.arm(Spoil("delay", on="request", request=b"PUT "), times=-1)
    captured_through(site, line)
    assert line.struck["request.delay"] in range(writes.start, writes.stop + 4)  # a slow run repeats its checkpoints
    kinds = {name.split("/")[1] for name in site.log.names() - before}
    assert kinds == {"data", "generations"} | ({"runs"} if prepare is first_run else {"gaps", "turns", "quarantine"})
