"""The page in a real headless Chromium: two widths, light and dark, one channel and many, healthy and in trouble."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from cdc import answer
from tests.harness import ACCOUNT, Site
from tests.page.chromium import Page, chromium, program
from tests.page.doors import call
from tests.page.scenes import SCENES, verdict_on

WIDTHS = (390, 1280)

# Every text that is seen, with the contrast between its colour and what lies behind it (WCAG 2.2, section 1.4.3).
CONTRASTS = """(() => {
  const parse = text => text.match(/[\\d.]+/g).map(Number);
  const channel = value => (value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const behind = element => {
    for (; element; element = element.parentElement) {
      const colour = parse(getComputedStyle(element).backgroundColor);
      if (colour.length === 3 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement, box = element.getBoundingClientRect();
    if (!walker.currentNode.data.trim() || element.closest('svg') || box.width < 2) continue;
    const [high, low] = [light(parse(getComputedStyle(element).color)), light(behind(element))].sort((a, b) => b - a);
    found.push([(high + 0.05) / (low + 0.05), walker.currentNode.data.trim()]);
  }
  return found;
})()"""
# Texts that stick out of the window, or are cut off in what holds them.
CUT_OFF = """[...document.querySelectorAll('main *:not(.unseen):not(svg *)')].filter(element => {
  const box = element.getBoundingClientRect();
  return box.width > 1 && (box.right > innerWidth + 0.5 || box.left < -0.5
    || (getComputedStyle(element).overflow !== 'visible' && element.scrollWidth > element.clientWidth + 1
        && !element.closest('svg, .unseen, thead')));
}).map(element => `${element.tagName} ${element.className} ${element.textContent.slice(0, 60)}`)"""


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A tab of the browser; without one the tests are left out, but never unnoticed where nobody looks."""
    path = program()
    if path is None:
        why = "no Chromium on the PATH (Debian: apt install chromium)"
        if os.environ.get("CI") == "true":
            pytest.fail(f"{why}: continuous integration has to have one")
        pytest.skip(why)
    with chromium(path) as tab:
        yield tab


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """Gives every scene with the door's own headers, and below /api/ what the functions answer; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.partition("?")[0].rpartition("/")[2]
            if self.path.startswith("/api/"):
                given = call(name, accept=self.headers.get("Accept", ""))
                code, headers, body = given.status_code, dict(given.headers), given.get_body()
            else:
                seen = SCENES[name]()
                made = answer.status(seen, verdict_on(seen), as_html=True)
                code, headers, body = made.code, dict(made.headers), made.body.encode()
            self.send_response(code)
            for header, value in headers.items():
                self.send_header(header, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_address[1]}"
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", SCENES)
def test_the_page_fits_is_one_request_and_can_be_read(page: Page, server: str, name: str, width: int) -> None:
    for is_dark in (False, True):
        page.open(f"{server}/{name}", width=width, is_dark=is_dark)
        assert page.requests == [f"{server}/{name}"]
        assert [each for each in page.complaints if "503" not in each] == []  # a style that is refused is one
        shown, given = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.clientWidth]")
        assert shown <= given == width
        assert page.evaluate(CUT_OFF) == []
        contrasts = page.evaluate(CONTRASTS)
        assert len(contrasts) > 5
        assert [text for contrast, text in contrasts if contrast < 4.5] == []
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (background == "rgb(244, 245, 247)") is not is_dark  # its own style applies, and follows the scheme


@pytest.mark.parametrize(("width", "is_side_by_side"), [(1280, True), (390, False)])
def test_a_table_of_channels_is_a_card_per_channel_on_a_phone(
    page: Page, server: str, width: int, is_side_by_side: bool
) -> None:
    page.open(f"{server}/trouble-20", width=width)
    tops = page.evaluate(
        "[...document.querySelector('tbody tr').children].map(cell => Math.round(cell.getBoundingClientRect().top))"
    )
    assert (len(set(tops)) == 1) is is_side_by_side
    labels = page.evaluate("getComputedStyle(document.querySelector('tbody td'), '::before').content")
    assert (labels == '"Last event"') is not is_side_by_side
    assert page.evaluate("document.querySelectorAll('[role=row] > [role=cell]').length") == 20 * 6


def test_the_tests_of_the_page_see(page: Page, server: str) -> None:
    """A page that is too wide, fetches something, or is hard to read does not pass."""
    page.open(f"{server}/trouble-1", width=390)
    page.evaluate("document.querySelector('h1').style.width = '900px'")  # by script: the policy is about the page's own
    assert page.evaluate("document.documentElement.scrollWidth") > 390
    assert page.evaluate(CUT_OFF) != []
    page.evaluate("document.querySelector('h1').style.color = '#999'")
    assert [text for contrast, text in page.evaluate(CONTRASTS) if contrast < 4.5] != []
    page.evaluate("document.body.append(Object.assign(new Image(), {src: '/x.png'}))")
    page.evaluate("1")
    assert any("Content Security Policy" in each for each in page.complaints)


def test_a_browser_gets_the_page_from_the_real_function_after_a_real_capture(
    page: Page, server: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in site.environment(ACCOUNT).items():
        monkeypatch.setenv(name, value)
    site.org.publish(ACCOUNT, 7)
    assert site.capture(ACCOUNT).outcome == "ok"
    page.open(f"{server}/api/status?code=key", width=390)
    assert page.evaluate("document.querySelector('h1').textContent") == "All well"
    assert page.evaluate("document.contentType") == "text/html"
    assert ACCOUNT in page.evaluate("document.querySelector('tbody').innerText")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert page.requests == [f"{server}/api/status?code=key"]
