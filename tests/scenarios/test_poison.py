"""Messages that no parser likes come out as they went in, or lie whole in quarantine, and never hold back others."""

from __future__ import annotations

import json

import pytest

from tests.harness import ACCOUNT, CONTACT, OPPORTUNITY, Site, assert_landed_once, messages_of

HEADER = '"ChangeEventHeader":{"entityName":"Account","commitTimestamp":1795435200000}'
REPLAY_ID = "{{replayId}}"  # the emulator puts the event's own here


def event(payload: str, *, replay_id: str = REPLAY_ID, channel: str = ACCOUNT) -> str:
    """A delivery with this payload, as text."""
    start = '{"data":{"schema":"s","payload":'
    return f'{start}{payload},"event":{{"replayId":{replay_id}}}}},"channel":"{channel}"}}'


def fields(text: str) -> str:
    """A delivery with a header and more fields."""
    return event("{" + HEADER + "," + text + "}")


LANDED = {
    "integers above 2^53": fields('"a":9007199254740993,"b":-18446744073709551617,"c":1e400'),
    "a number of 5,000 digits": fields('"a":' + "7" * 5_000),
    "a decimal that no float holds": fields('"a":0.10000000000000000000000000000001,"b":1.0'),
    "NaN and Infinity": fields('"a":NaN,"b":-Infinity'),
    "a lone surrogate escape": fields(r'"a":"x\ud83d","b":"\udc00y"'),
    "escaped and raw unicode": fields(r'"a":"\u00e9 é \u0000 \/ 😀","b":"' + "\u2028" + '"'),
    "nesting of 5,000": fields('"a":' + "[" * 5_000 + "]" * 5_000),
    "nested objects of 5,000": fields('"a":' + '{"a":' * 5_000 + "1" + "}" * 5_000),
    "unknown fields everywhere": '{"x":1,"data":{"y":[{}],"payload":{'
    + HEADER
    + '},"event":{"replayId":'
    + REPLAY_ID
    + ',"z":null}},"channel":"/data/AccountChangeEvent","clientId":"old"}',
    "a name given twice": fields('"a":1,"a":2'),
    "no header": event('{"Name":"x"}'),
    "a header of another type": event('{"ChangeEventHeader":"none"}'),
    "no payload": '{"data":{"event":{"replayId":' + REPLAY_ID + '}},"channel":"/data/AccountChangeEvent"}',
    "a payload that is null": event("null"),
    "a commit time that is text": event('{"ChangeEventHeader":{"commitTimestamp":"yesterday"}}'),
    "a commit time of the year 60000": event('{"ChangeEventHeader":{"commitTimestamp":1830000000000000}}'),
    "a commit time that is huge": event('{"ChangeEventHeader":{"commitTimestamp":' + "9" * 400 + "}}"),
    "spaces between its tokens": event("{}").replace(":", " : ").replace(",", "\t, "),
    "900 kB": fields('"a":"' + "ä€😀 " * 80_000 + '"'),
    "a replay id that is text": event("{" + HEADER + "}", replay_id=f'"{REPLAY_ID}"'),
    "a replay id of 40 digits": event("{" + HEADER + "}", replay_id="7" * 40),
}

STRAYS = {
    "no replay id": ('{"data":{"payload":{' + HEADER + '}},"channel":"/data/AccountChangeEvent"}', "no replay id"),
    "a replay id that is null": (event("{}", replay_id="null"), "a replay id that cannot be used"),
    "a replay id that is -1": (event("{}", replay_id="-1"), "a replay id that cannot be used"),
    "a replay id that is an object": (event("{}", replay_id="{}"), "a replay id that cannot be used"),
    "no data": ('{"channel":"/data/AccountChangeEvent"}', "no replay id"),
    "no channel": ('{"data":{"payload":{},"event":{"replayId":7}}}', "no channel"),
    "a channel that nobody subscribed": (
        event("{}", channel="/data/SecretChangeEvent"),
        "a channel that was not subscribed",
    ),
    "a channel with dots in it": (event("{}", channel="/data/../../x"), "a channel that was not subscribed"),
    "text instead of an object": ('"hello"', "not an object"),
    "a number instead of an object": ("17", "not an object"),
    "an array instead of an object": ('[{"channel":"/data/AccountChangeEvent"}]', "not an object"),
    "null instead of an object": ("null", "not an object"),
}


@pytest.mark.parametrize("order", ["first", "last"])
def test_every_odd_event_comes_out_as_it_went_in_among_its_neighbours(site: Site, order: str) -> None:
    site.org.knobs(event_order=order)
    for body in LANDED.values():
        site.org.publish(ACCOUNT, 1)
        site.org.raw(ACCOUNT, body.encode("utf-8", "surrogatepass"))
        site.org.publish(CONTACT, 1)
    site.org.publish(ACCOUNT, 2)
    report = site.capture(ACCOUNT, CONTACT, seconds=2)
    assert report.outcome == "ok", report.summary()
    assert site.log.quarantine() == []
    landed, published = site.log.lines(ACCOUNT), site.org.deliveries(ACCOUNT)
    for name, place in zip(LANDED, range(1, 2 * len(LANDED), 2), strict=True):
        assert landed[place] == published[place], name
    assert landed == published
    assert_landed_once(site.org, site.log, CONTACT)
    site.org.publish(ACCOUNT, 1)
    assert site.capture(ACCOUNT, CONTACT).outcome == "ok"
    assert site.log.lines(ACCOUNT) == site.org.deliveries(ACCOUNT)


@pytest.mark.parametrize("name", ["a replay id that is text", "nesting of 5,000", "a lone surrogate escape", "900 kB"])
def test_a_run_goes_on_after_an_event_with(site: Site, name: str) -> None:
    """The odd event is the last one landed: its replay id is the position of the next run."""
    site.org.raw(ACCOUNT, LANDED[name].encode("utf-8", "surrogatepass"))
    assert site.capture(ACCOUNT).outcome == "ok"
    token = site.log.segments(ACCOUNT)[-1].metadata["last_replay_id"]
    site.org.publish(ACCOUNT, 1)
    assert site.capture(ACCOUNT).outcome == "ok"
    assert site.asked("subscribe")[-1]["replay"] == {ACCOUNT: json.loads(token)}
    assert site.log.lines(ACCOUNT) == site.org.deliveries(ACCOUNT)


def test_an_org_whose_replay_ids_are_all_text_is_captured_and_asked_in_its_own_spelling(site: Site) -> None:
    site.org.knobs(string_replay_ids=True)
    ids = site.org.publish(ACCOUNT, 5)
    assert site.capture(ACCOUNT).outcome == "ok"
    site.org.publish(ACCOUNT, 5)
    assert site.capture(ACCOUNT).outcome == "ok"
    assert site.asked("subscribe")[-1]["replay"] == {ACCOUNT: str(ids[-1])}
    assert site.log.lines(ACCOUNT) == site.org.deliveries(ACCOUNT)


def test_what_cannot_be_placed_lies_whole_in_quarantine_and_its_neighbours_are_landed(site: Site) -> None:
    site.org.publish(ACCOUNT, 1)
    for body, _ in STRAYS.values():
        site.org.raw(ACCOUNT, body.encode())
        site.org.publish(ACCOUNT, 1)
    published = site.org.deliveries(ACCOUNT)
    report = site.capture(ACCOUNT, seconds=2)
    assert report.outcome == "degraded", report.summary()
    assert site.log.lines(ACCOUNT) == published[0::2]
    assert sorted(site.log.quarantine()) == sorted(published[1::2])
    reasons = [str(each["reason"]) for each in site.said.named("quarantine.kept")]
    assert len(reasons) == len(STRAYS)
    for _, reason in STRAYS.values():
        assert any(each.startswith(reason) for each in reasons), reason
    assert all("quarantine" in message for message in messages_of(report))
    assert all("quarantine/" in problem.hint for problem in report.problems)

    site.org.publish(ACCOUNT, 1)
    following = site.capture(ACCOUNT)
    assert (following.outcome, following.channels[ACCOUNT].events) == ("ok", 1), following.summary()


def test_a_stray_that_is_delivered_again_is_not_reported_again(site: Site) -> None:
    """Nothing moved past it: it is the channel's last message and comes with every replay."""
    site.org.publish(ACCOUNT, 1)
    site.org.raw(ACCOUNT, b'{"data":{"payload":{}},"channel":"/data/AccountChangeEvent"}')
    outcomes = [site.capture(ACCOUNT).outcome for _ in range(3)]
    assert outcomes == ["degraded", "ok", "ok"]
    assert len(site.log.quarantine()) == 1


def test_a_line_break_between_tokens_is_taken_out_and_one_inside_a_string_goes_to_quarantine(site: Site) -> None:
    site.org.publish(ACCOUNT, 1)
    pretty = event('{"a":1}').replace(",", ",\r\n  ").encode()
    broken = event('{"a":"x\ny"}').encode()
    site.org.raw(ACCOUNT, pretty)
    site.org.raw(ACCOUNT, broken)
    site.org.publish(ACCOUNT, 1)
    assert site.capture(ACCOUNT).outcome == "degraded"
    published = site.org.deliveries(ACCOUNT)
    assert site.log.lines(ACCOUNT)[1] == published[1].replace(b"\r\n", b"")
    assert len(site.log.lines(ACCOUNT)) == 3
    assert site.log.quarantine() == [published[2]]


def test_an_answer_that_defeats_both_parsers_once_is_asked_for_again(site: Site) -> None:
    site.org.publish(ACCOUNT, 3)
    site.org.knobs(events_on_subscribe=False)
    site.org.fault("connect", "status", status=200, body="[{]", only_with_events=True)
    report = site.capture(ACCOUNT, seconds=1.5)
    assert report.outcome == "ok", report.summary()
    assert site.log.quarantine() == []
    assert_landed_once(site.org, site.log, ACCOUNT)


def unreadable(site: Site) -> None:
    """Three landed events, then one that breaks the borders of every answer it is in."""
    site.org.publish(ACCOUNT, 3)
    assert site.capture(ACCOUNT).outcome == "ok"
    site.org.raw(ACCOUNT, b'{"channel":"/data/AccountChangeEvent","data":{"payload":}')
    site.org.publish(ACCOUNT, 3)


def test_an_answer_that_defeats_both_parsers_twice_at_one_place_is_kept_raw_and_fails_the_run(site: Site) -> None:
    unreadable(site)
    report = site.capture(ACCOUNT, seconds=2)
    assert report.outcome == "failed", report.summary()
    assert any("cannot be read" in message for message in messages_of(report))
    kept = site.log.quarantine()
    assert kept
    assert all(delivery in each for each in kept for delivery in site.org.deliveries(ACCOUNT)[3:])
    assert len(site.log.lines(ACCOUNT)) == 3
    assert len(site.asked("handshake")) < 10


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_answer_to_a_subscribe_that_stays_unreadable_holds_up_that_channel_alone(site: Site, place: int) -> None:
    """Wherever it stands among the channels: asked first, and alone, it shows whose answer it is."""
    unreadable(site)
    others = [CONTACT, OPPORTUNITY]
    for channel in others:
        site.org.publish(channel, 4)
    channels = [*others[:place], ACCOUNT, *others[place:]]
    report = site.capture(*channels, seconds=3)
    assert report.outcome == "failed"
    [problem] = report.problems
    assert (problem.channel, "cannot be read" in problem.message) == (ACCOUNT, True)
    assert "look at the blob below quarantine/" in problem.hint
    assert len(site.log.quarantine()) == 1
    for channel in others:
        assert_landed_once(site.org, site.log, channel)
    assert len(site.log.lines(ACCOUNT)) == 3
    assert report.channels[CONTACT].is_captured


def test_an_answer_to_a_subscribe_that_cannot_be_read_once_costs_one_session(site: Site) -> None:
    for channel in (ACCOUNT, CONTACT):
        site.org.publish(channel, 3)
    site.org.fault("subscribe", "status", status=200, body="[{]", carried_out=True, subscription=CONTACT)
    report = site.capture(ACCOUNT, CONTACT, seconds=2)
    assert (report.outcome, report.lost_sessions) == ("ok", 1), report.summary()
    assert site.log.quarantine() == []
    for channel in (ACCOUNT, CONTACT):
        assert_landed_once(site.org, site.log, channel)


def test_an_answer_that_cannot_be_read_is_kept_once_a_run(site: Site) -> None:
    unreadable(site)
    site.capture(ACCOUNT, seconds=4)
    assert len(site.log.quarantine()) == 1


def test_an_answer_with_damaged_bytes_is_asked_for_again_and_lands_as_it_was_published(site: Site) -> None:
    site.org.publish(ACCOUNT, 20)
    site.org.knobs(events_on_subscribe=False)
    site.org.fault("connect", "garble", only_with_events=True)
    assert site.capture(ACCOUNT, seconds=3).outcome == "ok"
    assert site.log.quarantine() == []
    assert_landed_once(site.org, site.log, ACCOUNT)


def test_bytes_that_stay_damaged_are_what_salesforce_sends_and_hold_nobody_up(site: Site) -> None:
    site.org.publish(ACCOUNT, 2)
    site.org.raw(ACCOUNT, event('{"s":"?"}').encode().replace(b"?", b"\xff\xfe"))
    site.org.publish(ACCOUNT, 2)
    report = site.capture(ACCOUNT, seconds=2)
    assert report.outcome == "degraded"
    assert (report.sessions, report.lost_sessions) == (2, 1)
    published = site.org.deliveries(ACCOUNT)
    assert site.log.quarantine() == [published[2]]
    assert site.log.lines(ACCOUNT) == [*published[:2], *published[3:]]
