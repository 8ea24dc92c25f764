"""The explorer in a real browser: headless Chromium, on the model of the box that is always there."""

from __future__ import annotations

import base64
import json
import re
import shutil
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any
from urllib.parse import urlsplit

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
LACKING = [name for name, found in {"Debian's chromium": CHROMIUM, "playwright": find_spec("playwright"),
                                    "gradio": find_spec("gradio")}.items() if not found]  # fmt: skip
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(LACKING), reason=f"not installed: {', '.join(LACKING)}")]
WAIT = 120_000
#: The buttons of each tab but the first, which is answered already.
ASKED = {"Theory": ["features"], "Teleport": ["teleport", "solvers"], "Perturb": ["perturb"], "Map": ["map"],
         "Morph": ["morph"], "Retrieve": ["retrieve"]}  # fmt: skip


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    from underpaint.web.server import start
    from underpaint.web.server_state import ServerState

    blocks, address = start(ServerState(("fashion-mnist",)))
    yield address
    blocks.close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


class Visitor:
    """One page with a memory of what it complained of and whom it asked."""

    def __init__(self, browser: Any, address: str, width: int = 1280) -> None:
        self.page = browser.new_context(viewport={"width": width, "height": 860}).new_page()
        self.complaints: list[str] = []
        self.hosts: set[str | None] = set()
        self.page.on("console", lambda m: self.complaints.append(m.text) if m.type in ("error", "warning") else None)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(urlsplit(request.url).hostname))
        self.page.goto(address)
        self.page.wait_for_selector("#paint-files a", timeout=WAIT)

    def set(self, label: str, value: str) -> None:
        box = self.page.get_by_label(label, exact=True)
        box.fill(value)
        box.press("Enter")
        box.press("Tab")

    def steps(self, count: int) -> None:
        self.set("number input for Steps", str(count))

    def open(self, tab: str) -> None:
        shown = self.page.get_by_role("tab", name=tab, exact=True).locator("visible=true")
        if not shown.count():
            self.page.locator(".overflow-menu button").first.click()
            shown = self.page.locator(".overflow-dropdown").get_by_text(tab, exact=True)
        shown.first.click()

    def request(self, key: str) -> dict[str, Any]:
        """Press a tab's button, wait for its files, and return its numbers."""
        self.page.evaluate(f"document.querySelector('#{key}-files .answer')?.replaceChildren()")
        self.page.click(f"#{key}-run")
        self.page.wait_for_selector(f"#{key}-files a", timeout=WAIT)
        return self.numbers(key)

    def numbers(self, key: str) -> dict[str, Any]:
        link = self.page.get_attribute(f"#{key}-files a[download$='.json']", "href")
        return json.loads(base64.b64decode(link.partition(",")[2]))

    def words(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()

    def content(self) -> None:
        """Nothing was complained of, and nobody else was asked."""
        assert not self.complaints
        assert self.hosts <= {"127.0.0.1", None}
        self.page.context.close()


@pytest.fixture
def visitor(browser: Any, address: str) -> Iterator[Visitor]:
    someone = Visitor(browser, address)
    yield someone
    someone.content()


def test_a_first_painting_is_there_without_asking(visitor: Visitor):
    assert visitor.page.locator("#paint-view .frames figure").count() == 4
    assert "σ/α" in visitor.words("#paint-view output")
    assert visitor.numbers("paint")["setup"]["seeds"] == [int(visitor.page.get_by_label("Seed").first.input_value())]


def test_the_film_is_moved_by_keys_and_plays(visitor: Visitor):
    page = visitor.page
    slider = page.get_by_label("position in the film").first
    slider.focus()
    page.keyboard.press("Home")
    assert visitor.words("#paint-view output").startswith("step 0 of")
    place = "document.querySelector('#paint-view .picture').style.backgroundPosition"
    before = page.evaluate(place)
    page.keyboard.press("ArrowRight")
    assert visitor.words("#paint-view output").startswith("step 1 of")
    assert page.evaluate(place) != before
    assert slider.get_attribute("aria-valuetext") == visitor.words("#paint-view output")
    page.keyboard.press("Shift+Tab")
    page.keyboard.press("Space")
    page.wait_for_function("!document.querySelector('#paint-view output').innerText.startsWith('step 1 ')")
    page.wait_for_function("document.querySelector('#paint-view .play').innerText.includes('Play')", timeout=30_000)
    page.keyboard.press("End")


def test_a_changed_control_says_that_the_result_is_of_the_old_settings(visitor: Visitor):
    """Until the new one is there, or the control is as it was."""
    page, dimmed = visitor.page, "#paint-view .answer.old"
    seed = page.get_by_label("Seed", exact=True).input_value()
    assert page.locator(dimmed).count() == 0
    visitor.set("Seed", str(int(seed) + 1))
    page.wait_for_selector(dimmed)
    words = f"These results belong to the old settings (Seed: {seed}). Press “Paint” for the new ones."
    assert visitor.words("#paint-view .belongs") == words
    assert page.locator("#paint-files .answer.old").count() == 1
    assert page.locator("#theory-view .answer.old").count() == 0  # which is of no seed
    shade = "getComputedStyle(document.querySelector('#paint-view .film')).opacity"
    assert float(page.evaluate(shade)) < 0.5
    visitor.set("Seed", seed)
    page.wait_for_selector(dimmed, state="detached")
    visitor.set("Seed", str(int(seed) + 1))
    page.wait_for_selector(dimmed)
    visitor.request("paint")
    assert page.locator(dimmed).count() == 0
    assert float(page.evaluate(shade)) == 1


def test_every_tab_answers(visitor: Visitor):
    visitor.steps(5)
    page = visitor.page
    for tab, keys in ASKED.items():
        visitor.open(tab)
        for key in keys:
            assert visitor.request(key)["setup"]["steps"] == 5
            cells = page.locator(f"#{key}-view .cells button")
            if cells.count():
                cells.nth(1).click()
                assert cells.nth(1).get_attribute("aria-pressed") == "true"
                opened = visitor.words(f"#{key}-view .opened figcaption >> nth=0")
                assert opened == cells.nth(1).get_attribute("aria-label")
                cells.nth(1).press("ArrowRight")
                assert visitor.words(f"#{key}-view .opened figcaption >> nth=0") != opened


def test_the_tour_leads_on_by_keys_alone(visitor: Visitor):
    page = visitor.page
    page.locator("#tour-next").focus()
    for number, key in enumerate(("paint", "features", "teleport", "perturb", "retrieve", "teleport"), 1):
        page.evaluate(f"document.querySelector('#{key}-files .answer')?.replaceChildren()")
        page.keyboard.press("Enter")
        page.wait_for_function(f"document.querySelector('#tour-words').innerText.startsWith('Step {number} of 6')")
        page.wait_for_selector(f"#{key}-files a", timeout=WAIT)
        assert page.locator(f"#{key}-view").is_visible()
        assert page.locator(f"#{key}-view .answer.old").count() == 0
        page.wait_for_function(f"document.querySelector('#{key}-view').getBoundingClientRect().top < innerHeight / 2")
        words = page.locator("#tour-words").bounding_box()
        assert words is not None
        assert 0 <= words["y"] < page.locator(f"#{key}-view").bounding_box()["y"]
    setup = visitor.numbers("teleport")["setup"]
    assert (setup["condition"], setup["guidance"]) == (1, 8)
    assert "6 steps skipped" in visitor.words("#teleport-view output")
    page.locator("#tour button").first.press("Enter")
    page.locator("#tour-words").wait_for(state="hidden")


def test_a_tab_is_asked_and_a_picture_opened_by_keys_alone(visitor: Visitor):
    page = visitor.page
    page.get_by_role("tab", name="Theory", exact=True).locator("visible=true").press("Enter")
    page.locator("#features-run").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector("#features-files a", timeout=WAIT)
    page.keyboard.press("Tab")  # to Stop
    page.keyboard.press("Tab")  # into the grid
    page.keyboard.press("Enter")
    assert visitor.words("#features-view .opened figcaption") == "The Gaussian's estimate at σ/α = 35.6."
    page.keyboard.press("ArrowDown")
    assert visitor.words("#features-view .opened figcaption").startswith("Component u1,")


def test_the_closed_forms_follow_their_sliders(visitor: Visitor):
    visitor.open("Theory")
    visitor.page.wait_for_selector("#theory-view svg", timeout=WAIT)
    assert visitor.page.locator("#theory-view svg").count() == 6
    visitor.set("number input for log₁₀ λ", "1")
    visitor.page.wait_for_function("document.querySelector('#theory-view').innerText.includes('variance λ = 10 ')")
    visitor.page.click("#theory-figure")
    visitor.page.wait_for_selector("#theory-files a", timeout=WAIT)
    assert visitor.numbers("theory")["variance"]["value"][0] == 10


def test_downloads_have_names(visitor: Visitor):
    for name in ("painting.png", "painting.json", "painting.py"):
        with visitor.page.expect_download() as download:
            visitor.page.click(f"#paint-files a[download='{name}']")
        assert download.value.suggested_filename == name


def test_what_is_wrong_is_said_in_the_page(visitor: Visitor):
    visitor.set("Seed", "-5")
    visitor.page.click("#paint-run")
    visitor.page.get_by_text("The seed must be a whole number from 0").first.wait_for(timeout=WAIT)
    visitor.set("Seed", "2")
    visitor.set("Class", "<img src=x onerror=alert(1)>")
    visitor.page.click("#paint-run")
    visitor.page.get_by_text("is a number from 0 to 9").first.wait_for(timeout=WAIT)
    assert visitor.page.locator("img[src='x']").count() == 0


def test_stop_leaves_the_last_answer_and_frees_the_server(visitor: Visitor):
    before = visitor.numbers("paint")
    visitor.open("Map")
    visitor.steps(100)
    visitor.page.click("#map-run")
    visitor.page.wait_for_timeout(1500)
    visitor.page.click("#map-stop")
    visitor.page.wait_for_timeout(1500)
    assert visitor.page.locator("#map-view .grid").count() == 0
    visitor.steps(4)
    visitor.open("Paint")
    assert visitor.numbers("paint") == before
    assert visitor.request("paint")["setup"]["steps"] == 4


def test_another_model_brings_its_own_controls(visitor: Visitor):
    from underpaint import assets

    if "emoji-scenes" not in assets.names():
        pytest.skip("the model of emoji scenes is not in the box")
    page = visitor.page
    page.get_by_label("Model").click()
    page.get_by_role("option", name="emoji-scenes").click()
    page.get_by_label("Prompt").wait_for(state="visible", timeout=WAIT)
    page.wait_for_selector("#paint-view .answer.old")
    assert "Model: fashion-mnist" in visitor.words("#paint-view .belongs")
    visitor.set("Prompt", "a penguin")
    visitor.steps(5)
    setup = visitor.request("paint")["setup"]
    assert (setup["model"], setup["condition"]) == ("emoji-scenes", "a penguin")


def test_a_narrow_screen_needs_no_sideways_scrolling(browser: Any, address: str):
    """All tabs on a phone; only grids of pictures scroll, inside their own frame."""
    narrow = Visitor(browser, address, width=390)
    narrow.steps(5)
    for tab, keys in {"Paint": ["paint"], **ASKED}.items():
        narrow.open(tab)
        for key in keys:
            narrow.request(key)
        assert narrow.page.evaluate("document.documentElement.scrollWidth") == 390
        parts = [narrow.page.locator(".tab-wrapper"), narrow.page.locator("#tour"), narrow.page.get_by_label("Model")]
        tops = [part.first.bounding_box()["y"] for part in parts]
        assert tops == sorted(tops)  # the tabs come first
        too_wide = "[...document.querySelectorAll('.answer > *')].some(e => e.getBoundingClientRect().right > 391)"
        assert not narrow.page.evaluate(too_wide)
    narrow.content()


def test_eight_at_once_get_each_their_own(browser: Any, address: str):
    """All press before any is answered; every seed comes back to who asked for it."""
    visitors = [Visitor(browser, address) for _ in range(8)]
    for seed, someone in enumerate(visitors):
        someone.steps(6)
        someone.set("Seed", str(100 + seed))
        someone.page.evaluate("document.querySelector('#paint-files .answer').replaceChildren()")
    for someone in visitors:
        someone.page.click("#paint-run", no_wait_after=True)
    for seed, someone in enumerate(visitors):
        someone.page.wait_for_selector("#paint-files a", timeout=WAIT)
        assert someone.numbers("paint")["setup"]["seeds"] == [100 + seed]
        assert re.search("step 4 of 6", someone.words("#paint-view output"))
    pictures = {
        v.page.evaluate("document.querySelector('#paint-view .picture').style.backgroundImage") for v in visitors
    }
    assert len(pictures) == 8
    for someone in visitors:
        someone.content()


def test_leaving_ends_the_work(browser: Any, address: str):
    someone = Visitor(browser, address)
    someone.steps(100)
    someone.page.click("#paint-run")
    someone.page.wait_for_timeout(500)
    someone.page.context.close()
    other = Visitor(browser, address)
    other.steps(4)
    assert other.request("paint")["setup"]["steps"] == 4
    other.content()
    assert threading.active_count() < 60
