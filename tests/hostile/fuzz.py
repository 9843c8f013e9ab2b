"""Mutates real answers, records, metadata and settings for as long as asked and feeds them to whatever reads them.

    python -m tests.hostile.fuzz --seconds 600 --seed 1

Whatever comes in, values or one of the product's own errors come out, and what came out can be used. It prints one line
and exits 1 at the first input of which that is not true; the seed and the round bring the input back.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cdc import bayeux, continuity, events, exchange, layout, salesforce, wire
from cdc.errors import CdcError, SettingsInvalid
from cdc.session import CometDSession
from cdc.settings import check_function_timeout, load_settings, timer_groups, timer_schedule
from cdc.signals import format_event
from tests.hostile import corpus

CHANNEL = "/data/AccountChangeEvent"
NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
SETTINGS = {
    "SALESFORCE_LOGIN_URL": "https://acme.my.salesforce.com",
    "SALESFORCE_CLIENT_ID": "3MVG9.consumer",
    "SALESFORCE_CLIENT_SECRET": "QZ7-never-to-be-repeated",
    "CDC_CHANNELS": "/data/AccountChangeEvent,/data/ContactChangeEvent;/event/Order__e",
    "CDC_STORAGE": "DefaultEndpointsProtocol=https;AccountName=acme;AccountKey=UVpadmV5",
    "CDC_RUN_SECONDS": "260",
    "CDC_SCHEDULE": "0 */5 * * * *",
    "AzureFunctionsJobHost__functionTimeout": "00:09:00",
}
SECRETS = ("SALESFORCE_CLIENT_SECRET", "CDC_STORAGE")  # where these values may stand


@dataclass
class Canned:
    """A transport that answers with given bytes."""

    body: bytes
    sent: list[bytes] = field(default_factory=list)

    def post(self, body: bytes, what: str, *, timeout_s: float) -> exchange.HttpAnswer:
        self.sent.append(body)
        return exchange.HttpAnswer(200, self.body, NOW)

    def close(self) -> None:
        """Nothing to give back."""


def answer(body: bytes) -> None:
    """An answer becomes messages that can be placed, sent back, logged and recorded, or is Malformed."""
    try:
        messages = bayeux.read_answer(body)
    except wire.Malformed:
        messages = bayeux.Messages((), events.Deliveries(), ())
    else:
        assert messages == _one_by_one(body)
        glanced = bayeux.glance(body)
        assert glanced is None or set(glanced.replies) <= set(messages.replies)
    for delivery in messages.deliveries:
        assert b"\n" not in bytes(delivery.raw)
        assert events.read_replay_id(delivery.replay_id.encode()) == delivery.replay_id
        json.loads(bayeux.subscribe("c", "1", CHANNEL, delivery.replay_id))
        assert delivery.time is None or 2001 <= delivery.time.year <= 2099
        facts = _facts(delivery)
        assert layout.SegmentFacts.from_metadata(facts.to_metadata()) == facts
    for stray in messages.strays:
        name = layout.quarantine_name(stray.channel, stray.raw)
        assert name.startswith("quarantine/")
        assert ".." not in name
        name.encode("ascii")
    for reply in messages.replies:
        bayeux.cause_of(reply)
        _said(reply.words, reply.client_id or "", reply.subscription or "")
        if reply.advice:
            assert 0 <= reply.advice.timeout_ms <= 86_400_000
            assert 0 <= reply.advice.interval_ms <= 86_400_000


def _one_by_one(body: bytes) -> bayeux.Messages:
    """The same answer without the fast way of reading usual ones."""
    read_usual, events.read_usual = events.read_usual, lambda body: None
    try:
        return bayeux.read_answer(body)
    finally:
        events.read_usual = read_usual


def session(body: bytes) -> None:
    """Whatever each answer of a session is, each request has an Answer with a failure that can be said."""
    opened = CometDSession(Canned(body))
    found = [opened.handshake(timeout_s=1)]
    if not opened.is_over:
        found.append(opened.connect(answer_within_ms=0, timeout_s=1))
    if not opened.is_over:
        found.append(opened.subscribe(CHANNEL, "-1", timeout_s=1))
    found.append(opened.disconnect(timeout_s=1))
    for each in found:
        if each.failure is not None:
            _said(str(each.failure), each.failure.hint)


def record(body: bytes) -> None:
    """A record is read and can be reckoned with and shown, or is Unreadable."""
    for kind in (layout.Generation, layout.Gap, layout.GapClosing, layout.Turn, layout.Checkpoint):
        try:
            found = kind.from_blob(body, CHANNEL)
        except layout.Unreadable as error:
            _said(str(error))
            continue
        again = kind.from_blob(found.to_blob(), CHANNEL)
        assert again == found
        if isinstance(found, layout.Checkpoint):
            _reckon(found)
        if isinstance(found, layout.Turn):
            layout.segment_name(CHANNEL, found.partition, found.number)
    try:
        run = layout.RunRecord.from_blob(body)
    except layout.Unreadable:
        return
    layout.spell_time(run.finished)
    assert layout.RunRecord.from_blob(run.to_blob()) == run


def _reckon(checkpoint: layout.Checkpoint) -> None:
    """What a run does with a checkpoint before it asks Salesforce anything."""
    assert checkpoint.progress
    layout.spell_time(checkpoint.last_time)
    if checkpoint.partition:
        layout.segment_name(CHANNEL, checkpoint.partition, checkpoint.segment + 1)
    position = continuity.Position(
        segment=checkpoint.segment,
        partition=checkpoint.partition,
        replay_id=checkpoint.replay_id,
        last_time=checkpoint.last_time,
        generation=checkpoint.generation,
        skipped_to=checkpoint.skipped_to,
        quiet_to=checkpoint.quiet_to,
    )
    for is_refused in (False, True):
        continuity.choose_start(
            CHANNEL,
            position,
            now=NOW,
            is_refused=is_refused,
            is_unproven=False,
            policy=continuity.Policy(),
            last_clean_poll=lambda: NOW - timedelta(days=9),
        )


def metadata(body: bytes) -> None:
    """Metadata is a segment's, or Unreadable; names of any blob are read or passed over."""
    text = body.decode("utf-8", "surrogateescape")
    chance = random.Random(body)
    name = chance.choice(list(corpus.METADATA))
    try:
        facts = layout.SegmentFacts.from_metadata(corpus.METADATA | {name: text[:300]})
    except layout.Unreadable as error:
        _said(str(error))
    else:
        layout.spell_time(facts.last_time)
    layout.read_partition(text)
    layout.read_segment_number(text)
    layout.read_generation_number(text)
    assert layout.quarantine_name(text, body).count("/") in (2, 3)


def token(body: bytes) -> None:
    """A token answer is a token for a trusted host, or refused in words."""
    url = "https://acme.my.salesforce.com/services/oauth2/token"
    text = body.decode("latin-1")
    fields = salesforce._json_object(body)
    for each in (fields or {}, {"access_token": "00D!x", "instance_url": text, "id": text}, {"access_token": text}):
        try:
            found = salesforce._read_token(each, url)
        except CdcError as error:
            _said(str(error))
            continue
        assert found.instance_url.removesuffix(":443").endswith((".salesforce.com", ".force.com")), found.instance_url


def settings(body: bytes) -> None:
    """Settings are read or refused, and a refusal repeats no secret."""
    chance = random.Random(body)
    text = body.decode("utf-8", "surrogateescape")
    text = text.replace("\x00", "") if chance.random() < 0.5 else "".join(map(chr, body[:60]))
    environment = dict(SETTINGS)
    name = chance.choice(list(SETTINGS))
    at = chance.randrange(len(SETTINGS[name]) + 1)
    environment[name] = SETTINGS[name][:at] + text[:200] + SETTINGS[name][at:] if chance.random() < 0.5 else text
    timer_groups(environment)
    timer_schedule(environment)
    try:
        found = load_settings(environment)
        check_function_timeout(found, Path("host.json"), environment)
    except SettingsInvalid as error:
        _is_silent(str(error))
        return
    _is_silent(repr(found))
    for group in found.channel_groups:
        for channel in group.channels:
            assert layout.quarantine_name(channel, b"") != layout.quarantine_name(None, b"")


def _is_silent(text: str) -> None:
    assert not any(secret in text for secret in ("never-to-be-repeated", "UVpadmV5"))


def _facts(delivery: events.Delivery) -> layout.SegmentFacts:
    return layout.SegmentFacts(
        first_replay_id=delivery.replay_id,
        last_replay_id=delivery.replay_id,
        count=1,
        first_time=delivery.time,
        last_time=delivery.time,
        generation=1,
        run_id="r",
        org_id="",
        sha256="0",
    )


def _said(*texts: str) -> None:
    """What an error says can be logged and recorded."""
    for text in texts:
        format_event("x", {"error": text}).encode()
    record = layout.RunRecord(
        group="g", run_id="r", outcome="failed", started=NOW, finished=NOW, clean_polls={}, errors=texts
    )
    record.to_blob()


Target = Callable[[bytes], None]
TARGETS: dict[str, tuple[Target, tuple[bytes, ...]]] = {
    "answer": (answer, corpus.ANSWERS),
    "session": (session, corpus.ANSWERS),
    "record": (record, corpus.RECORDS),
    "metadata": (metadata, (*corpus.RECORDS, *(value.encode() for value in corpus.METADATA.values()))),
    "token": (
        token,
        (
            b'{"access_token":"00DRj000004kniQ!AR8","instance_url":"https://acme.my.salesforce.com",'
            b'"id":"https://login.salesforce.com/id/00DRj000004kniQMAQ/005Rj000001xyzAIAQ","token_type":"Bearer"}',
            b"https://acme.my.salesforce.com",
            b"https://evil.org\\.salesforce.com:443/x?y#z",
        ),
    ),
    "settings": (settings, tuple(SETTINGS[name].encode() for name in SETTINGS if name not in SECRETS)),
}


def fuzz(seconds: float, seed: int, *, only: str = "") -> dict[str, int]:
    """Feed mutations to every target in turn; returns how many each got. Raises: what a target raises, with a note."""
    ends = time.monotonic() + seconds
    counts = dict.fromkeys([only] if only else TARGETS, 0)
    number = 0
    while time.monotonic() < ends:
        for name in counts:
            number += 1
            chance = random.Random(f"{seed}/{number}")
            target, seeds = TARGETS[name]
            body = corpus.mutated(chance.choice(seeds), chance)
            try:
                target(body)
            except BaseException as error:
                error.add_note(f"{name}, seed {seed}, round {number}: {body[:2_000]!r}")
                raise
            counts[name] += 1
    return counts


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", choices=list(TARGETS), default="")
    asked = parser.parse_args()
    try:
        counts = fuzz(asked.seconds, asked.seed, only=asked.only)
    except Exception:
        traceback.print_exc()
        return 1
    print(f"nothing found in {sum(counts.values())} inputs, seed {asked.seed}: {counts}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
