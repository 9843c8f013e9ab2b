"""`tail`: events as they land, from storage alone."""

from __future__ import annotations

import json
import re
import signal
from typing import IO

from tests.cli.conftest import Operator
from tests.harness import ACCOUNT, CONTACT, Site, wait_until


def next_line(stream: IO[str] | None) -> str:
    """Wait for a line of a process's output."""
    assert stream is not None
    return stream.readline().removesuffix("\n")


def test_the_log_from_a_segment_on_is_shown_a_line_each(cdc: Operator, site: Site) -> None:
    ids = site.org.publish(ACCOUNT, 2)
    assert site.capture(ACCOUNT).outcome == "ok"
    more = site.org.publish(ACCOUNT, 2)
    assert site.capture(ACCOUNT).outcome == "ok"
    said = cdc("tail", "--from", "2", "--seconds", "0.1", environment=site.environment(ACCOUNT))
    assert (said.code, said.err) == (0, f"following {ACCOUNT} from segment 2 on\n")
    assert len(said.lines) == 2
    line = rf"<time>  {ACCOUNT}  2  {more[0]}  (CREATE|UPDATE)  Account  001\w+  (<1 s|<s>)"
    assert re.fullmatch(line, said.lines[0]), said.lines[0]
    process = cdc.start("tail", "--from", "1", environment=site.environment(ACCOUNT))
    shown = [next_line(process.stdout) for _ in (*ids, *more)]
    assert [line.split("  ")[3] for line in shown] == list(map(str, [*ids, *more]))
    process.send_signal(signal.SIGINT)
    assert cdc.finish(process).code == 0


def test_json_is_the_landed_lines_byte_for_byte(cdc: Operator, site: Site) -> None:
    site.org.publish(ACCOUNT, 3)
    assert site.capture(ACCOUNT).outcome == "ok"
    process = cdc.start("tail", "--from", "1", "--seconds", "0.1", "--json", environment=site.environment(ACCOUNT))
    out, _ = process.communicate(timeout=40)
    assert out.encode() == b"".join(line + b"\n" for line in site.org.deliveries(ACCOUNT))


def test_from_now_on_what_lands_is_shown_across_dates(cdc: Operator, site: Site) -> None:
    """The log's end lies in a folder of three days ago: the next segment begins another one."""
    site.org.publish(ACCOUNT, 1, age_s=60 * 3600)
    site.org.publish(CONTACT, 1)
    assert site.capture(ACCOUNT, CONTACT).outcome == "ok"
    environment = site.environment(ACCOUNT, CONTACT)
    process = cdc.start("tail", "--channel", ACCOUNT, "--json", environment=environment)
    assert next_line(process.stderr) == f"following {ACCOUNT} from segment 2 on"  # what had landed by now is not shown
    site.org.publish(CONTACT, 1)
    for age_s in (30 * 3600, 0, 0):
        [replay_id] = site.org.publish(ACCOUNT, 1, age_s=age_s)
        assert site.capture(ACCOUNT, CONTACT, seconds=0.8).outcome == "ok"
        line = json.loads(next_line(process.stdout))
        assert line["data"]["event"]["replayId"] == replay_id
    process.send_signal(signal.SIGINT)
    said = cdc.finish(process)
    assert (said.code, said.out, said.err) == (0, "", "")


def test_a_log_that_does_not_exist_yet_is_waited_for(cdc: Operator, site: Site) -> None:
    process = cdc.start("tail", "--from", "1", "--seconds", "60", "--json", environment=site.environment(ACCOUNT))
    assert next_line(process.stderr) == f"following {ACCOUNT} from segment 1 on"
    site.org.publish(ACCOUNT, 1)
    assert site.capture(ACCOUNT).outcome == "ok"
    assert json.loads(next_line(process.stdout))["channel"] == ACCOUNT
    process.send_signal(signal.SIGINT)
    assert cdc.finish(process).code == 0


def test_bad_usage_ends_with_2(cdc: Operator, site: Site) -> None:
    environment = site.environment(ACCOUNT)
    unknown = cdc("tail", "--channel", CONTACT, environment=environment)
    assert (unknown.code, unknown.out) == (2, "")
    assert unknown.err.startswith(f"✗ CDC_CHANNELS: there is no channel {CONTACT}; the channels are {ACCOUNT}")
    odd = cdc("tail", "--from", "yesterday", environment=environment)
    assert odd.code == 2
    assert "must be now, or a segment's number" in odd.err


def test_the_reader_may_close_its_end(cdc: Operator, site: Site) -> None:
    site.org.publish(ACCOUNT, 3)
    assert site.capture(ACCOUNT).outcome == "ok"
    process = cdc.start("tail", "--from", "1", "--seconds", "20", environment=site.environment(ACCOUNT))
    assert next_line(process.stdout)
    assert process.stdout is not None
    process.stdout.close()
    site.org.publish(ACCOUNT, 1)
    site.capture(ACCOUNT)
    wait_until(lambda: process.poll() is not None, at_most_s=40)
    assert process.stderr is not None
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
