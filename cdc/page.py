"""The status page: an overview and its verdict as one HTML document, trouble first.

Pure: values in, text out. All text passes through an element tree, whose serialiser escapes it. The page fetches
nothing: no script, no font, no picture.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from urllib.parse import quote
from xml.etree.ElementTree import Element, tostring

from cdc.allocation import WARNING_PERCENT, forecast_percent, used_percent
from cdc.health import (
    FAILING_BELOW,
    LOOK_BELOW,
    Detail,
    Finding,
    Level,
    Verdict,
    rank,
    readings_of,
)
from cdc.layout import ChannelRun, PastRun, RunRecord, spell_time
from cdc.overview import ChannelState, GroupState, Overview
from cdc.style import STYLE
from cdc.wording import duration, moment, plural

REFRESH_S = 60
HOURS = 24
RUNS_DRAWN, RUNS_LISTED = 25, 60  # of a group, the last one included; of all groups together, at most 8 of each
FINDINGS_SHOWN, DETAILS_SHOWN, TEXT_SHOWN = 30, 24, 240  # of a page, of a page, characters: small, and soon read

Content = Element | str | None


def render(seen: Overview, verdict: Verdict) -> str:
    """Return the page."""
    body = _e(
        "main",
        _marks(),
        _verdict(seen, verdict),
        _findings(verdict.findings),
        *([_numbers(seen)] if seen.groups else []),
        *(_group(group, verdict, seen) for group in _worst_first(seen.groups, verdict)),
        _footer(seen),
    )
    head = _e(
        "head",
        _e("meta", charset="utf-8"),
        _e("meta", name="viewport", content="width=device-width, initial-scale=1"),
        _e("meta", name="color-scheme", content="light dark"),
        _e("meta", http_equiv="refresh", content=str(REFRESH_S)),
        _e("title", f"{_cut(verdict.headline, 80)} · change capture"),
        _e("link", rel="icon", href=_icon(verdict.level)),
        _e("style", STYLE),
    )
    document = _e("html", head, _e("body", body), lang="en")
    return "<!doctype html>\n" + tostring(document, encoding="unicode", method="html") + "\n"


def content_security_policy() -> str:
    """Return the policy that lets a browser apply the page's own style and do nothing else for it."""
    style = base64.b64encode(hashlib.sha256(STYLE.encode()).digest()).decode()
    return (
        f"default-src 'none'; style-src 'sha256-{style}'; img-src data:; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )


# --- the verdict -----------------------------------------------------------------------------------------------------

_WORDS: Mapping[Level, str] = {"well": "ok", "look": "to be looked at", "failing": "failing"}
_RUN_LEVELS: Mapping[str, Level] = {"ok": "well", "degraded": "look"}


def _verdict(seen: Overview, verdict: Verdict) -> Element:
    return _e(
        "header",
        _mark(verdict.level),
        _e("div", _e("h1", _cut(verdict.headline, 200)), _e("p", *_at_risk(seen, verdict))),
        class_=f"verdict {verdict.level}",
    )


def _at_risk(seen: Overview, verdict: Verdict) -> list[Content]:
    """What would be lost, and when: the channel whose events Salesforce drops first."""
    risk, now = verdict.risk, seen.now
    if seen.error is not None:
        return ["What is at risk cannot be told: Salesforce keeps change events for 72 hours, some events for 24."]
    if risk is None and verdict.level == "failing":
        return ["What is at risk cannot be told: what fails has no position on record."]
    if risk is None:
        return ["Nothing is landed yet, so nothing is known to be at risk."]
    since, until = _time(risk.since, now), _time(risk.until, now)
    left = duration((risk.until - now).total_seconds())
    more = f" {plural(risk.others, 'more channel')} may follow later." if risk.others else ""
    if verdict.level != "failing":
        return ["Should capture stop now, Salesforce keeps what follows until ", until, f" UTC ({left}) at least."]
    if risk.until <= now:
        lost = " UTC may be dropped already; Salesforce kept it until "
        return [f"{risk.channel}: what followed ", since, lost, until, f" UTC.{more}"]
    waiting = " UTC on that are not captured yet. Salesforce keeps them until "
    return [f"At risk: events of {risk.channel} from ", since, waiting, until, f" UTC, {left} from now.{more}"]


def _findings(findings: Sequence[Finding]) -> Element | None:
    """All findings, each with as many details as there is room for: the page stays small, whatever has happened."""
    if not findings:
        return None
    items, left = [], DETAILS_SHOWN
    for finding in findings[:FINDINGS_SHOWN]:
        room = max(1, left // 2)
        shown = [each for number, each in enumerate(finding.details) if number < room or not each.text]
        left -= len(shown)
        items.append(_finding(finding, shown))
    if len(findings) > FINDINGS_SHOWN:
        items.append(_e("li", f"… and {len(findings) - FINDINGS_SHOWN} more.", class_="finding"))
    return _e("section", _e("h2", "What to look at"), _e("ul", *items))


def _finding(finding: Finding, shown: Sequence[Detail]) -> Element:
    hidden = len(finding.details) - len(shown)
    more = _e("p", f"… and {hidden} more.") if hidden else None
    content = _e("div", _e("h3", _cut(finding.headline)), *map(_detail, shown), more)
    return _e("li", _mark(finding.level), content, class_=f"finding {finding.level}")


def _detail(detail: Detail) -> Element:
    step = _e("p", _e("b", "Next step: "), _cut(detail.next_step)) if detail.next_step else None
    text = _e("p", _cut(detail.text)) if detail.text else None
    return _e("div", text, step, class_="detail")


# --- the numbers -----------------------------------------------------------------------------------------------------


def _numbers(seen: Overview) -> Element:
    """Four numbers over all channels: events, lag, retention left, allocation."""
    runs = [run for group in seen.groups if group.last_run for run in group.last_run.channels.values()]
    hours = [sum(counts) for counts in zip(*(_counts(run, seen.now) for run in runs), strict=True)]
    return _e(
        "section",
        _e("h2", "All channels", class_="unseen"),
        _e("dl", _events_tile(hours), _lag_tile(runs), _retention_tile(seen), _allocation_tile(seen)),
        class_="numbers",
    )


def _tile(name: str, value: str, *more: Content) -> Element:
    return _e("div", _e("dt", name), _e("dd", _e("strong", value), *more))


def _events_tile(hours: Sequence[int]) -> Element:
    if not hours:
        return _tile("Events, last 24 h", "–")
    return _tile("Events, last 24 h", f"{sum(hours):,}", _chart(hours))


def _lag_tile(runs: Sequence[ChannelRun]) -> Element:
    medians = [run.lag_p50_s for run in runs if run.lag_p50_s is not None]
    longest = [run.lag_max_s for run in runs if run.lag_max_s is not None]
    if not medians:
        return _tile("Lag, last runs", "–", _e("small", "no event in the last runs"))
    return _tile(
        "Lag, last runs", duration(max(medians)), _e("small", f"at most {duration(max(longest, default=None))}")
    )


def _retention_tile(seen: Overview) -> Element:
    states = [each for group in seen.groups for each in group.channels if each.captured_to]
    if not states:
        return _tile("Least retention left", "–")
    least = min(states, key=lambda state: _share_left(state, seen.now))
    more = _retention_bar(least, seen.now), _e("small", least.channel)
    return _tile("Least retention left", _hours_left(least, seen.now), *more)


def _allocation_tile(seen: Overview) -> Element:
    readings = readings_of(seen)
    problems = [group.last_run.allocation_problem for group in seen.groups if group.last_run]
    percent = used_percent(readings[0]) if readings else None
    if percent is None:
        why = next(filter(None, problems), "not read yet")
        return _tile("Delivery allocation", "–", _e("small", _cut(why, 120)))
    newest, forecast = readings[0], forecast_percent(readings)
    level: Level = "look" if max(percent, forecast or 0.0) > WARNING_PERCENT else "well"
    text = f"{newest.max - newest.remaining:,} of {newest.max:,}, read {_ago(newest.read, seen.now)}"
    going = f"; at this pace {forecast:.0f} % in a day" if forecast is not None else ""
    bar = _bar(percent / 100, level, f"{percent:.0f} % used{going}", mark=forecast)
    return _tile("Delivery allocation", f"{percent:.0f} %", bar, _e("small", text + going))


# --- a group ---------------------------------------------------------------------------------------------------------

COLUMNS = ("Channel", "Last event", "Lag", "Retention left", "Events, 24 h", "Generation", "Gaps")
_PAIRS = ("Retention left", "Events, 24 h")  # a number and a picture side by side


def _worst_first(groups: Sequence[GroupState], verdict: Verdict) -> list[GroupState]:
    return sorted(groups, key=lambda group: rank(_group_level(group, verdict)))


def _group_level(group: GroupState, verdict: Verdict) -> Level:
    levels = (_channel_level(each, group, verdict) for each in group.channels)
    return min((verdict.level_of(group.name), *levels), key=rank)


def _channel_level(state: ChannelState, group: GroupState, verdict: Verdict) -> Level:
    """The worst of what was found about the channel and of what its last run made of it."""
    outcome = group.run_of(state.channel).outcome
    return min(verdict.level_of(state.channel), _run_level(outcome or "ok"), key=rank)


def _group(group: GroupState, verdict: Verdict, seen: Overview) -> Element:
    channels = sorted(group.channels, key=lambda state: rank(_channel_level(state, group, verdict)))
    header = _e("tr", *(_e("th", name, scope="col", role="columnheader") for name in COLUMNS), role="row")
    rows = (_row(state, group.last_run, _channel_level(state, group, verdict), seen.now) for state in channels)
    return _e(
        "section",
        _e(
            "div",
            _e("h2", _mark(verdict.level_of(group.name)), group.name),
            *_last_run(group, seen.now),
            class_="group",
        ),
        _e(
            "table",
            _e("thead", header, role="rowgroup"),
            _e("tbody", *rows, role="rowgroup"),
            role="table",
            aria_label=f"Channels of {group.name}",
        ),
        _runs_table(group.last_run, seen.now, max(2, min(8, RUNS_LISTED // len(seen.groups)))),
    )


def _last_run(group: GroupState, now: datetime) -> list[Element | None]:
    run = group.last_run
    if run is None:
        why = "The record of its last run cannot be read." if group.is_unreadable else "No run on record yet."
        return [_e("p", why)]
    outcome = _e("b", run.outcome, class_=_run_level(run.outcome))
    sessions = plural(run.sessions, "session") + (f", {run.lost_sessions} lost" if run.lost_sessions else "")
    told = f" ({_ago(run.finished, now)})" + (f" · {plural(run.events, 'event')} · {sessions}" if run.sessions else "")
    if run.is_under_way:
        text = _e("p", "Run under way, ", outcome, " so far; last heard of ", _time(run.finished, now), told)
    else:
        text = _e("p", "Last run ", outcome, ", ended ", _time(run.finished, now), told)
    return [text, _dots(run)]


def _run_level(outcome: str) -> Level:
    return _RUN_LEVELS.get(outcome, "failing")


def _all_runs(run: RunRecord) -> list[PastRun]:
    """The last run and those before it, newest first."""
    last = PastRun(
        run_id=run.run_id, outcome=run.outcome, started=run.started, finished=run.finished, events=run.events
    )
    return [last, *run.past][:RUNS_DRAWN]


def _dots(run: RunRecord) -> Element:
    """The last runs, the newest at the right: a disc is ok, a triangle degraded, a cross failed."""
    shapes: dict[Level, str] = {"well": "", "look": "", "failing": ""}
    runs = _all_runs(run)[::-1]
    for place, each in enumerate(runs):
        level, x = _run_level(each.outcome), 12 * place + 6
        shapes[level] += {
            "well": f"M{x - 4} 6a4 4 0 1 1 8 0a4 4 0 1 1-8 0",
            "look": f"M{x} 1l5 10h-10z",
            "failing": f"M{x - 4} 2l8 8m0-8l-8 8",
        }[level]
    counts = {word: sum(each.outcome == word for each in runs) for word in ("ok", "degraded", "failed")}
    said = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    paths = (_e("path", d=path, class_=level) for level, path in shapes.items() if path)
    label = f"The last {plural(len(runs), 'run')}: {said}"
    return _svg(12 * len(runs), 12, label, *paths, class_="dots")


def _runs_table(run: RunRecord | None, now: datetime, most: int) -> Element | None:
    if run is None:
        return None
    header = _e("tr", *(_e("th", name, scope="col") for name in ("Started, UTC", "Outcome", "Took", "Events")))
    rows = (
        _e(
            "tr",
            _e("td", moment(each.started, now)),
            _e("td", each.outcome, class_=None if each.outcome == "ok" else _run_level(each.outcome)),
            _e("td", duration((each.finished - each.started).total_seconds())),
            _e("td", f"{each.events:,}"),
        )
        for each in _all_runs(run)[:most]
    )
    return _e("details", _e("summary", f"Last runs of {run.group}"), _e("table", header, *rows, class_="runs"))


# --- a channel -------------------------------------------------------------------------------------------------------


def _row(state: ChannelState, run: RunRecord | None, level: Level, now: datetime) -> Element:
    of_run = run.channels.get(state.channel) if run else None
    is_unknown = level == "well" and state.captured_to is None
    mark = _e("span", "–", class_="mark", title="not captured yet") if is_unknown else _mark(level)
    name = _e("th", _e("div", mark, _e("span", state.channel), class_="name"), scope="row", role="rowheader")
    if state.error is not None:
        cells: Iterable[Sequence[Content]] = ([_e("span", "cannot be read")], *([_e("span", "?")] for _ in COLUMNS[2:]))
    else:
        position = state.position
        cells = (
            _last_event(state, of_run, now),
            _lag(state, of_run),
            _retention(state, now),
            _events(of_run, now),
            [str(position.generation.number) if position.generation else "–"],
            [_e("b", str(len(state.gaps)), class_="look")] if state.gaps else ["none"],
        )
    tds = (
        _e("td", *cell, data_label=label, role="cell", class_="pair" if len(cell) == 2 and label in _PAIRS else None)
        for label, cell in zip(COLUMNS[1:], cells, strict=True)
    )
    return _e("tr", name, *tds, role="row", class_=level)


def _last_event(state: ChannelState, run: ChannelRun | None, now: datetime) -> list[Content]:
    """The record's is at least as new as the checkpoint's: the checkpoint is a cache."""
    times = [time for time in (state.position.last_time, run.last_event if run else None) if time]
    silent = run.silent_since if run else None
    more = [_e("small", "silent since ", _time(silent, now), class_="failing")] if silent else []
    if not times:
        return ["nothing yet", *more]
    return [_time(max(times), now), _e("small", _ago(max(times), now)), *more]


def _lag(state: ChannelState, run: ChannelRun | None) -> list[Content]:
    """Of the last run's events; of the last landed one where that run had none."""
    if run and run.lag_p50_s is not None:
        return [duration(run.lag_p50_s), _e("small", f"at most {duration(run.lag_max_s)}")]
    if state.lag is None:
        return ["–"]
    return [duration(state.lag.total_seconds()), _e("small", "last event")]


def _events(run: ChannelRun | None, now: datetime) -> list[Content]:
    if run is None:
        return ["–"]
    counts = _counts(run, now)
    return [_e("span", f"{sum(counts):,}"), _chart(counts)]


def _counts(run: ChannelRun, now: datetime) -> list[int]:
    """Events of each of the last 24 hours, the one under way at the end."""
    now = now.astimezone(UTC)
    return [run.hours.get(f"{now - timedelta(hours=back):%Y-%m-%dT%H}", 0) for back in reversed(range(HOURS))]


def _retention(state: ChannelState, now: datetime) -> list[Content]:
    if state.captured_to is None:
        return ["–"]
    return [_e("span", _hours_left(state, now), class_=_retention_level(state, now)), _retention_bar(state, now)]


def _retention_level(state: ChannelState, now: datetime) -> Level | None:
    """None where nothing need be said."""
    share = _share_left(state, now)
    return "failing" if share <= FAILING_BELOW else "look" if share <= LOOK_BELOW else None


def _share_left(state: ChannelState, now: datetime) -> float:
    left = state.retention_left(now) or timedelta(0)
    return left / state.retention


def _hours_left(state: ChannelState, now: datetime) -> str:
    left = max(timedelta(0), state.retention_left(now) or timedelta(0))
    return f"{min(left, state.retention).total_seconds() / 3600:.1f} h"


def _retention_bar(state: ChannelState, now: datetime) -> Element:
    share, hours = _share_left(state, now), state.retention.total_seconds() / 3600
    level = _retention_level(state, now) or "well"
    return _bar(share, level, f"{_hours_left(state, now)} of {hours:.0f} h left")


# --- pictures --------------------------------------------------------------------------------------------------------


def _svg(
    width: float, height: float, label: str, *content: Element | None, class_: str, stretch: bool = False
) -> Element:
    """The label is what a reader without the picture gets, and what a pointer over it shows."""
    return _e(
        "svg",
        _e("title", label),
        *content,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        class_=class_,
        preserveAspectRatio="none" if stretch else None,
    )


def _bar(share: float, level: Level, label: str, *, mark: float | None = None) -> Element:
    """A bar, and on it, at `mark` percent, where it is going."""
    width = 100 * min(1.0, max(0.0, share))
    filled = _e("rect", width=f"{width:.1f}", height="6", class_=level)
    going = _e("rect", x=f"{min(99.0, mark):.1f}", width="1", height="6", class_="going") if mark is not None else None
    return _svg(
        100, 6, label, _e("rect", width="100", height="6", class_="track"), filled, going, class_="bar", stretch=True
    )


def _chart(counts: Sequence[int]) -> Element:
    """A bar per hour, as high as the highest allows; an hour with events is never flat, one without is a tick."""
    most = max(counts, default=0)
    heights = [max(2.0, 22 * count / most) if count else 0.5 for count in counts]
    bars = "".join(f"M{4 * place + 2} 24v-{height:.2g}" for place, height in enumerate(heights))
    label = f"Events per hour, last 24 hours: {sum(counts):,} in all, at most {most:,} in one hour"
    return _svg(4 * len(counts), 24, label, _e("path", d=bars), class_="chart", stretch=True)


_SHAPES: Mapping[Level, str] = {
    "well": "M8 0a8 8 0 1 0 0 16a8 8 0 0 0 0-16zM7 11.5l-3.2-3.2l1.3-1.3l1.9 1.9l4-4l1.3 1.3z",
    "look": "M8 0l8 15.5h-16zM7.1 5.5v5h1.8v-5zM7.1 11.8v1.8h1.8v-1.8z",
    "failing": "M4.7 0h6.6l4.7 4.7v6.6l-4.7 4.7h-6.6l-4.7-4.7v-6.6zM7 3.5v5.5h2v-5.5zM7 10.5v2h2v-2z",
}


def _mark(level: Level) -> Element:
    return _svg(16, 16, _WORDS[level], _e("use", href=f"#{level}"), class_=f"mark {level}")


def _marks() -> Element:
    """The shapes of the marks, once for all places that use them."""
    shapes = (_e("path", id=level, d=shape, fill_rule="evenodd") for level, shape in _SHAPES.items())
    return _e("svg", _e("defs", *shapes), width="0", height="0", aria_hidden="true", class_="unseen")


_ICON_COLOURS: Mapping[Level, str] = {"well": "#1a7f4b", "look": "#b7791f", "failing": "#c0352b"}


def _icon(level: Level) -> str:
    """The browser tab's icon; an address with its content, so that nobody asks the server for one."""
    shape = f"<path fill='{_ICON_COLOURS[level]}' fill-rule='evenodd' d='{_SHAPES[level]}'/>"
    picture = f"<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 16 16'>{shape}</svg>"
    return f"data:image/svg+xml,{quote(picture)}"


# --- words and elements ----------------------------------------------------------------------------------------------


def _footer(seen: Overview) -> Element:
    read = _time(seen.now, seen.now, seconds=True)
    if seen.error:
        return _e("footer", _e("p", "Tried at ", read, f" UTC, and again every {REFRESH_S} s."))
    source = " UTC from checkpoints, gap and run records. All times are UTC. "
    again = f"The page reads them again every {REFRESH_S} s; as JSON with "
    return _e("footer", _e("p", "Read ", read, source, again, _e("code", "format=json"), "."))


def _time(time: datetime, now: datetime, *, seconds: bool = False) -> Element:
    return _e("time", moment(time, now, seconds=seconds), datetime=spell_time(time))


def _ago(time: datetime, now: datetime) -> str:
    seconds = max(0.0, (now - time).total_seconds())
    return f"{seconds:.0f} s ago" if seconds < 10 else f"{duration(seconds)} ago"


def _cut(text: str, most: int = TEXT_SHOWN) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _e(tag: str, *content: Content, **attributes: str | None) -> Element:
    """Return an element; an attribute's `_` stands for `-`, a last one is left out, None leaves out the attribute."""
    names = {name: name.rstrip("_").replace("_", "-") for name in attributes}
    element = Element(tag, {names[name]: _clean(value) for name, value in attributes.items() if value is not None})
    for each in content:
        if isinstance(each, Element):
            element.append(each)
        elif each and len(element):
            element[-1].tail = (element[-1].tail or "") + _clean(each)
        elif each:
            element.text = (element.text or "") + _clean(each)
    return element


def _clean(text: str) -> str:
    """Without characters that no HTML document may hold."""
    return "".join(letter if letter.isprintable() or letter == "\n" else " " for letter in text)
