"""Answers that never end, unpack to gigabytes, drip, lead elsewhere or are none: in time, in bounds, in plain words."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest

from cdc import exchange, rest, salesforce
from cdc.errors import AnswerTooLarge, LoginRefused, RequestLost, RestFailed, ServerBusy
from cdc.rest import Rest
from cdc.salesforce import Credentials, Streaming, Token, fetch_token
from tests.harness import ACCOUNT, Site, slowness, wait_until
from tests.hostile.raw_server import Answer, dripping, http, sending, serving

CONNECTED = b'[{"channel":"/meta/connect","id":"1","successful":true}]'
PLAIN = "Content-Type: application/json"
IN_TIME_S = 10.0  # for what is asked with half a second's patience, on a busy machine


def post(answer: Answer, *, timeout_s: float = 10.0) -> exchange.HttpAnswer:
    """Send one poll to a server that answers so."""
    with serving(answer) as server:
        streaming = Streaming(Token("tok3n", server.url, "", ""), "66.0")
        try:
            return streaming.post(b"[]", "connect", timeout_s=timeout_s)
        finally:
            streaming.close()


def chunked(*chunks: bytes) -> bytes:
    """An answer in chunks, without the last."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    return head + b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)


# --- size ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds of a megabyte, so that a test needs no more."""
    for module, name in (
        (salesforce, "MAX_ANSWER_BYTES"),
        (rest, "MAX_REST_ANSWER_BYTES"),
        (salesforce, "MAX_TOKEN_ANSWER_BYTES"),
    ):
        monkeypatch.setattr(module, name, 1_000_000)


def test_an_honest_compressed_answer_is_unpacked() -> None:
    assert post(sending(http(gzip.compress(CONNECTED), "Content-Encoding: gzip"))).body == CONNECTED


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("layers", [1, 2])
def test_an_answer_that_unpacks_to_more_than_it_may_is_refused(layers: int) -> None:
    body = gzip.compress(b" " * 30_000_000)
    for _ in range(layers - 1):
        body = gzip.compress(body)
    with pytest.raises(AnswerTooLarge, match="larger"):
        post(sending(http(body, "Content-Encoding: " + ", ".join(["gzip"] * layers))))


@pytest.mark.usefixtures("small")
def test_an_answer_without_end_is_refused_as_soon_as_it_is_too_long() -> None:
    with pytest.raises(AnswerTooLarge):
        post(dripping(b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n", b" " * 300_000, every_s=0.001))


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("ask", ["token", "rest"])
def test_the_token_endpoint_and_rest_are_bounded_too(ask: str) -> None:
    with serving(sending(http(b'{"access_token":"' + b"x" * 2_000_000 + b'"}'))) as server:
        if ask == "token":
            with pytest.raises(AnswerTooLarge):
                fetch_token(Credentials(server.url, "id", "secret"))
        else:
            with pytest.raises(RestFailed):
                changes(server.url)


def changes(url: str) -> bool:
    """Ask an org about the last hour."""
    now = datetime.now(UTC)
    return Rest(Token("tok3n", url, "", ""), "66.0").has_changes(ACCOUNT, now - timedelta(hours=1), now)


# --- time ------------------------------------------------------------------------------------------------------------

DRIPS = {
    "body": (b"HTTP/1.1 200 OK\r\nContent-Length: 500000\r\n\r\n[", b" "),
    "body without a length": (b"HTTP/1.1 200 OK\r\n\r\n[", b" "),
    "chunks": (chunked(b"["), b"1\r\n \r\n"),
    "a chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n[", b" "),
    "status line": (b"H", b"T"),
    "a header": (b"HTTP/1.1 200 OK\r\nX: ", b"x"),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    "continuations": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "nothing": (b"", b""),
}


@pytest.mark.parametrize("what", DRIPS)
def test_what_drips_is_given_up_when_the_time_is_up(what: str) -> None:
    head, drop = DRIPS[what]
    began = time.monotonic()
    with pytest.raises(RequestLost, match="no complete answer in time"):
        post(dripping(head, drop, every_s=0.02), timeout_s=0.5)
    assert time.monotonic() - began < IN_TIME_S
    wait_until(lambda: not any(isinstance(thread, threading.Timer) for thread in threading.enumerate()))


@pytest.mark.parametrize("ask", ["token", "rest"])
def test_the_token_endpoint_and_rest_cannot_drip_for_ever_either(ask: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchange, "REQUEST_TIMEOUT_S", 0.5)
    head, drop = DRIPS["a header"]
    began = time.monotonic()
    with serving(dripping(head, drop, every_s=0.02)) as server:
        if ask == "token":
            with pytest.raises(RequestLost):
                fetch_token(Credentials(server.url, "id", "secret"), timeout_s=0.5)
        else:
            with pytest.raises(RestFailed):
                changes(server.url)
    assert time.monotonic() - began < IN_TIME_S


def test_a_body_without_a_length_that_is_cut_by_our_own_limit_never_passes_for_a_whole_one() -> None:
    with pytest.raises(RequestLost):
        post(dripping(b"HTTP/1.1 200 OK\r\n\r\n" + CONNECTED, b" ", every_s=0.02), timeout_s=0.5)


# --- nonsense --------------------------------------------------------------------------------------------------------

NONSENSE = {
    "no HTTP": b"hello\r\n\r\n",
    "nothing": b"",
    "binary": bytes(range(256)) * 20,
    "HTTP/9": b"HTTP/9.9 200 OK\r\n\r\n",
    "a status that is no number": b"HTTP/1.1 abc OK\r\n\r\n",
    "a status of five digits": b"HTTP/1.1 20000 OK\r\n\r\n",
    "a negative length": b"HTTP/1.1 500 OK\r\nContent-Length: -5\r\n\r\n[]",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 200\r\n\r\n[]",
    "a length that is no number": b"HTTP/1.1 500 OK\r\nContent-Length: many\r\n\r\n[]",
    "a length that is too long": b"HTTP/1.1 200 OK\r\nContent-Length: 200\r\n\r\n[]",
    "chunks without an end": chunked(b"[]"),
    "a chunk of garbage": chunked() + b"zz\r\n[]\r\n0\r\n\r\n",
    "a chunk of a negative length": chunked() + b"-2\r\n[]\r\n0\r\n\r\n",
    "a chunk with an endless length": chunked() + b"f" * 100_000,
    "a chunk that is too long": chunked() + b"ffffffffffff\r\n[]",
    "gzip that is none": http(b"not gzip", "Content-Encoding: gzip"),
    "gzip in six layers": http(CONNECTED, "Content-Encoding: gzip, gzip, gzip, gzip, gzip, gzip"),
    "too many headers": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 500 + b"\r\n",
    "a header that is too long": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
    "another protocol": b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n",
    "204": b"HTTP/1.1 204 No Content\r\n\r\n",
    "206": http(CONNECTED, status="206 Partial Content"),
}


@pytest.mark.parametrize("what", NONSENSE)
def test_nonsense_is_a_lost_request(what: str) -> None:
    with pytest.raises((RequestLost, ServerBusy)) as caught:
        post(sending(NONSENSE[what]), timeout_s=3)
    assert "127.0.0.1" in str(caught.value)


DATES = ("", "yesterday", "Mon, 16 Nov 2009 13:32:02 +99999999999999999999", "Mon, 16 Nov 99999999999 13:32:02 GMT")
DATES += ("Fri, 31 Dec 9999 23:59:59 -2359", "Mon, 01 Jan 1601 00:00:00 GMT", "\x80\xff", "1 2 3 4 5 6 7 8", ":" * 500)


@pytest.mark.parametrize("date", DATES)
def test_a_date_header_that_no_server_can_mean_counts_as_absent(date: str) -> None:
    answer = post(sending(http(CONNECTED, f"Date: {date}")))
    assert (answer.body, answer.server_time) == (CONNECTED, None)


def test_a_date_header_of_another_zone_is_told_in_utc() -> None:
    answer = post(sending(http(CONNECTED, "Date: Mon, 16 Nov 2026 01:30:00 +0500")))
    assert answer.server_time == datetime(2026, 11, 15, 20, 30, tzinfo=UTC)
    assert answer.server_time is not None
    assert answer.server_time.date().day == 15


def test_a_flood_of_odd_cookies_spoils_nothing() -> None:
    odd = ["=", ";;;", "a" * 5_000, "x=y; Max-Age=9e999", "x=y; Expires=Fri, 99 Zzz 99999 99:99:99 GMT", "\x80=\xff"]
    odd += [f"c{number}={'v' * 500}; Domain=127.0.0.1; Path=/" for number in range(80)]
    with serving(sending(http(CONNECTED, *(f"Set-Cookie: {cookie}" for cookie in odd)))) as server:
        streaming = Streaming(Token("tok3n", server.url, "", ""), "66.0")
        for _ in range(3):
            assert streaming.post(b"[]", "connect", timeout_s=10).body == CONNECTED
        streaming.close()


REST_NONSENSE = (b"[" * 100_000, b"[]", b"{}", b"null", b"9" * 5_000, b'{"ids":5,"deletedRecords":7}', b"\xff")
REST_NONSENSE += (b'{"ids":[],"deletedRecords":[],"earliestDateAvailable":"0001-01-01T00:00:00+23:59"}', b"<html>")


@pytest.mark.parametrize("body", REST_NONSENSE)
def test_rest_nonsense_proves_nothing_and_is_said(body: bytes) -> None:
    with serving(sending(http(body, PLAIN))) as server, suppress(RestFailed):
        assert changes(server.url) in (True, False)


@pytest.mark.parametrize("status", ["400 No", "401 No", "403 No", "500 No"])
@pytest.mark.parametrize("body", [b"[" * 100_000, b"{}", b"[]", b"\xff", b'[{"errorCode":5}]'])
def test_a_refused_rest_question_is_said_whatever_the_answer_is(status: str, body: bytes) -> None:
    with serving(sending(http(body, PLAIN, status=status))) as server, pytest.raises(RestFailed):
        changes(server.url)


TOKENS = (b'{"access_token":5,"instance_url":7}', b'{"access_token":"a\\nb"}')
TOKENS += (b'{"access_token":"x","instance_url":"https://[::1"}', b'{"access_token":"x","instance_url":"//"}')


@pytest.mark.parametrize("body", TOKENS)
def test_what_is_no_token_answer_is_a_refused_login(body: bytes) -> None:
    with serving(sending(http(body, PLAIN))) as server, pytest.raises(LoginRefused):
        fetch_token(Credentials(server.url, "id", "secret"))


@pytest.mark.parametrize("body", [b"<html>", b"", b"[" * 100_000, b"[]", b"null", b"\xff"])
def test_what_is_no_answer_at_all_in_place_of_a_token_is_asked_for_again(body: bytes) -> None:
    with serving(sending(http(body, PLAIN))) as server, pytest.raises(RequestLost, match="no JSON object"):
        fetch_token(Credentials(server.url, "id", "secret"))


# --- a whole run -----------------------------------------------------------------------------------------------------

MEASURED_RUN = """
import json, re, sys
from cdc import app
settings = app.load_settings()
report = app.capture(settings, settings.channel_groups[0], seconds=float(sys.argv[1]))
peak = re.search("VmHWM:\\\\s+([0-9]+)", open("/proc/self/status").read())[1]
print(json.dumps([report.outcome, report.events, int(peak) // 1024, report.summary()]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
def test_one_answer_of_60_mb_is_landed_whole_in_bounded_memory(site: Site) -> None:
    """Through everything: the emulator, HTTP, the parser, the landing, Blob Storage; each event has 30 kB."""
    site.org.knobs(max_bytes=70_000_000, max_events=1_000_000, events_on_subscribe=False)
    site.org.backlog(ACCOUNT, 2_000, size=30_000)
    with subprocess.Popen(
        [sys.executable, "-c", MEASURED_RUN, str(6 * slowness())],
        env=os.environ | site.environment(ACCOUNT),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        out, _ = process.communicate(timeout=120)
    outcome, events, peak_mb, summary = json.loads(out)
    assert (outcome, events) == ("ok", 2_000), summary
    largest = max(entry["events"] for entry in site.asked("connect"))
    assert largest == 2_000
    print(f"peak {peak_mb} MB")
    assert peak_mb < 400


@pytest.fixture
def drip() -> Iterator[str]:
    """An org whose every answer drips."""
    with serving(dripping(b"HTTP/1.1 200 OK\r\nX: ", b"x", every_s=0.05)) as server:
        yield server.url


def test_a_run_over_answers_that_drip_ends_in_time_and_says_why(site: Site, drip: str) -> None:
    report = site.capture(ACCOUNT, seconds=1, SALESFORCE_LOGIN_URL=drip)
    assert site.late_s < 8
    assert report.outcome == "failed"
    [problem] = report.problems
    assert "no complete answer" in problem.message or "no answer" in problem.message
    assert problem.hint
