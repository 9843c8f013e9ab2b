"""The page as text: every fact is there, everything is escaped, nothing is fetched, and it stays small."""

from __future__ import annotations

import base64
import hashlib
import html
import re
from dataclasses import replace
from datetime import timedelta
from html.parser import HTMLParser

import pytest

from cdc.errors import SettingsInvalid, StorageUnavailable
from cdc.health import Verdict
from cdc.layout import ChannelRun, RunRecord
from cdc.overview import ChannelState, GroupState, Overview
from cdc.page import content_security_policy, render
from tests.page.scenes import CHANNELS, NOW, SCENES, ago, channel, gap, healthy, run, troubled, verdict_on

pytestmark = pytest.mark.pure

ACCOUNT = CHANNELS[0]
EVIL = "<script>alert(1)</script>\"'>&amp;<img src=x onerror=alert(2)>\x00\x1b[31m\ud800"
VOID = {"meta", "link"}


def page_of(seen: Overview) -> str:
    return render(seen, verdict_on(seen))


class Reader(HTMLParser):
    """Reads the page as a browser would: text, attributes, and whether every tag is closed in its order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", " ".join(self.texts))


def test_one_healthy_channel_shows_all_its_facts() -> None:
    text = Reader(page_of(healthy(1))).text
    for fact in (
        "All well",
        "Should capture stop now, Salesforce keeps what follows until 29 Nov 17:05 UTC",
        ACCOUNT,
        "17:05", "9 s ago",  # the last event
        "0.4 s", "at most 1.9 s",  # lag
        "72.0 h of 72 h left",
        "Events per hour, last 24 hours: 2,050 in all",
        "Generation", "Gaps", "none",
        "Last run ok , ended 17:04 (38 s ago) · 1,204 events · 2 sessions, 1 lost",
        "The last 25 runs: 25 ok",
        "37 %", "18,600 of 50,000, read 4 min ago; at this pace 40 % in a day",
        "Read 17:05:12 UTC",
    ):  # fmt: skip
        assert fact in text, fact


def test_every_trouble_is_said_in_words_with_what_to_do() -> None:
    text = Reader(page_of(troubled(20))).text
    for fact in (
        "Failing: capture1 failed in its last run, and 11 more",
        "/data/CampaignChangeEvent: what followed 23 Nov 09:05 UTC may be dropped already",
        "Salesforce kept it until 09:05 UTC.",
        "12 more channels may follow later.",
        "403::User not allowed to subscribe CDC channels without View All Data",
        "Next step: give the run-as user View All on the object",
        "/data/ContactChangeEvent has only 20.0 h left until Salesforce drops events",
        "/data/OpportunityChangeEvent has only 46.0 h left",
        "/data/CampaignChangeEvent may have lost events already",
        "/data/Pricebook2ChangeEvent is silent though its records change",
        "silent since 14:05",
        "/data/LeadChangeEvent may lack events",
        "Between 10:05 and 12:05 UTC; replay-refused, generation 2, record gaps/data/LeadChangeEvent/0002.json.",
        "Between an unknown time and 12:05 UTC; outage, generation 3",
        "capture3 has no run on record", "No run on record yet.",
        "capture4 has a run record that cannot be read",
        "/data/AssetChangeEvent cannot be read", "reading blob: access denied (403)",
        "92 % of the event delivery allocation is used",
        "The last 25 runs: 20 ok, 1 degraded, 4 failed",
    ):  # fmt: skip
        assert fact in text, fact
    assert "50.0 h has" not in text


def test_what_is_at_risk_is_said_until_when() -> None:
    text = Reader(page_of(troubled(1))).text
    assert f"At risk: events of {ACCOUNT} from 24 Nov 13:05 UTC on that are not captured yet." in text
    assert "Salesforce keeps them until 27 Nov 13:05 UTC, 20.0 h from now." in text


def test_trouble_comes_first() -> None:
    text = Reader(page_of(troubled(20))).text
    table = text[text.index("Last run failed") :]
    places = [table.index(f"{name} ") for name in ("ContactChangeEvent", "LeadChangeEvent", "OrderChangeEvent")]
    assert places == sorted(places)
    assert text.index("What to look at") < text.index("Events, last 24 h") < text.index("Last run failed")


@pytest.mark.parametrize("name", SCENES)
def test_every_scene_is_well_formed_labelled_small_and_fetches_nothing(name: str) -> None:
    page = page_of(SCENES[name]())
    reader = Reader(page)
    assert page.startswith('<!doctype html>\n<html lang="en">')
    assert len(page.encode()) < 100_000
    assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)", html.unescape(page).replace("%3A", ":"))
    for tag, attributes in reader.tags:
        assert tag not in ("script", "img", "iframe", "form", "object", "base")
        assert not [attribute for attribute in attributes if attribute.startswith("on") or attribute == "style"]
        assert set(attributes) & {"src", "href"} <= {"href"}
        if tag == "link":
            assert str(attributes["href"]).startswith("data:image/svg+xml,")
        if tag == "use":
            assert str(attributes["href"]).startswith("#")
        if tag == "svg":
            assert attributes.get("role") == "img" or attributes.get("aria-hidden") == "true"
    assert reader.tags.count(("meta", {"http-equiv": "refresh", "content": "60"})) == 1
    tags = [tag for tag, _ in reader.tags]
    assert tags.count("h1") == 1
    assert tags.count("title") == tags.count("svg")  # that of the page, and one for each picture that is seen


def test_twenty_groups_with_all_their_runs_gaps_and_errors_stay_below_100_kb() -> None:
    groups = []
    for place, name in enumerate(CHANNELS):
        group = f"capture{place + 1}"
        record = run(
            group, [name], "failed", ["degraded"] * 24, errors=("e" * 5_000,) * 40, next_steps=("n" * 900,) * 40
        )
        gaps = tuple(gap(name, number) for number in range(2, 60))
        groups.append(GroupState(group, record, (channel(name, timedelta(hours=60), polled=None, gaps=gaps),)))
    page = page_of(Overview(NOW, tuple(groups), ("w" * 3_000,) * 50))
    assert len(page.encode()) < 100_000
    Reader(page)


def test_everything_from_outside_is_escaped() -> None:
    record = run(
        "capture1", [ACCOUNT], EVIL, errors=(EVIL,), next_steps=(EVIL,), allocation=(), allocation_problem=EVIL
    )
    states = (
        ChannelState(EVIL, error=StorageUnavailable(EVIL, hint=EVIL)),
        channel(ACCOUNT, warnings=(EVIL,), gaps=(gap(ACCOUNT, cause=EVIL),)),
    )
    seen = Overview(NOW, (GroupState(EVIL, record, states),), (EVIL,))
    for each in (seen, Overview(NOW, error=StorageUnavailable(EVIL, hint=EVIL))):
        page = page_of(each)
        reader = Reader(page)
        assert not {"script", "img"} & {tag for tag, _ in reader.tags}
        assert "<script>alert(1)</script>" in reader.text
        page.encode()
        assert not re.search("[\x00-\x09\x0b-\x1f]", page)


def test_however_many_settings_are_wrong_the_next_step_is_there() -> None:
    page = page_of(Overview(NOW, error=SettingsInvalid([f"SETTING_{number}: missing" for number in range(40)])))
    text = Reader(page).text
    assert "SETTING_11: missing" in text
    assert "SETTING_12: missing" not in text
    assert "… and 28 more." in text
    assert "Next step: correct the settings named above" in text


def test_the_policy_names_exactly_the_style_of_the_page() -> None:
    [style] = re.findall(r"<style>(.*?)</style>", page_of(healthy(1)), re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in content_security_policy()


def test_a_record_of_an_older_version_has_no_more_to_tell_and_is_shown() -> None:
    older = RunRecord(
        group="capture1", run_id="r", outcome="ok", started=ago(minutes=5), finished=ago(seconds=9),
                        clean_polls={ACCOUNT: ago(seconds=9)})  # fmt: skip
    reader = Reader(page_of(Overview(NOW, (GroupState("capture1", older, (channel(ACCOUNT),)),))))
    assert "All well" in reader.text
    assert "The last 1 run: 1 ok" in reader.text
    assert "Delivery allocation – not read yet" in reader.text


def test_a_channel_without_a_single_event_is_shown() -> None:
    state = channel(ACCOUNT)
    state = replace(state, position=replace(state.position, segment=0, last_time=None, segment_written=None))
    record = run("capture1", [ACCOUNT], channels={ACCOUNT: ChannelRun(outcome="ok")})
    text = Reader(page_of(Overview(NOW, (GroupState("capture1", record, (state,)),)))).text
    assert "nothing yet" in text
    assert "0 in all, at most 0 in one hour" in text


def test_a_run_under_way_is_told_apart_from_one_that_ended() -> None:
    record = run("capture1", [ACCOUNT], is_under_way=True)
    text = Reader(page_of(Overview(NOW, (GroupState("capture1", record, (channel(ACCOUNT),)),)))).text
    assert "Run under way, ok so far" in text


def test_without_groups_the_page_is_the_verdict_alone() -> None:
    page = render(Overview(NOW, error=StorageUnavailable("reading: refused", hint="look")), Verdict(()))
    assert "Events, last 24 h" not in page
