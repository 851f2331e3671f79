"""The page: its functions without a browser, and all of it in Chromium where there is one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from llmrec.chat import view
from llmrec.chat.page import CARDS, Page, background
from llmrec.chat.state import Card

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
in_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"
)


@pytest.fixture
def page(counter):
    return Page(counter, pause=0)


def last(turns):
    """What a turn ends with: (talk, panel, dialogue)."""
    return list(turns)[-1]


def test_a_turn_streams_words_and_codes_and_ends_with_cards_and_panel(page):
    dialogue = page.open()
    steps, words = [], []
    for step in page.hear("I liked film number 2 ccc, no western", dialogue, []):
        steps.append(step)
        words.append(step[0][-1]["content"])
    assert len(steps) > 5 and words[0] == "…" and words[-1].startswith(words[-2].strip()[:10])
    codes = [step[1].count("&lt;b_") for step in steps[1:]]  # second tokens; hostile titles hold only first ones
    assert codes == sorted(codes) and codes[-1] > codes[0] == 0  # level by level
    assert "Film number 2 ccc" in steps[-1][1] and "not western" in steps[-1][1]
    assert len(dialogue.state.cards) == CARDS


def test_clicks_and_searched_titles_change_the_cards(page):
    dialogue = page.open()
    found = page.find("number 12", dialogue)
    assert found[0] == ("Film number 12 eee (1982)", "i12")
    last(page.pick("i12", dialogue, []))
    before = [card.item_id for card in dialogue.state.cards]
    talk, panel, _ = last(page.judge(2, False, dialogue, []))
    assert talk[0]["content"].startswith("✕") and "Never shown" in panel
    assert before[2] not in [card.item_id for card in dialogue.state.cards]
    last(page.judge(0, True, dialogue, []))
    assert dialogue.state.liked == ["i12", before[0]]
    assert list(page.pick("no such", dialogue, [])) == list(page.judge(99, True, dialogue, [])) == []


def test_titles_and_words_are_escaped_wherever_they_are_shown(page):
    hostile = "<script>alert(1)</script>\"'&<img src=x onerror=alert(1)>"
    html = view.card(Card("x", hostile, "<a_1>", [("kind", hostile)], hostile), 1)
    dialogue = page.open()
    dialogue.state.cards, dialogue.state.about = [Card("x", hostile, "<a_1>", [], "")], hostile
    dialogue.state.liked = [hostile]
    for shown in (html, view.panel(dialogue)):
        assert "<script" not in shown and "<img" not in shown and "&lt;script&gt;" in shown


def test_a_transcript_is_saved_as_json(page):
    dialogue = page.open()
    last(page.hear("I liked film number 2 ccc", dialogue, []))
    saved = json.loads(Path(page.save(dialogue)).read_text())
    assert [one["who"] for one in saved["said"]] == ["person", "llmrec"] and saved["liked"] == ["i2"]
    assert len(saved["cards"]) == CARDS


@pytest.fixture(scope="module")
def address(counter):
    with background(counter, "films") as address:
        yield address


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def visit(browser, address, width=1280):
    """A fresh visitor, who notes what goes wrong in the page and where it reaches out to."""
    visitor = browser.new_context(viewport={"width": width, "height": 900}).new_page()
    visitor.set_default_timeout(60_000)
    visitor.wrong, visitor.reached = [], []
    visitor.on("pageerror", lambda error: visitor.wrong.append(str(error)))
    visitor.on("dialog", lambda dialog: visitor.wrong.append("a dialog") or dialog.dismiss())
    visitor.on("request", lambda request: visitor.reached.append(request.url))
    visitor.goto(address)
    visitor.get_by_text("Hello!").first.wait_for()
    visitor.get_by_text("nothing yet").wait_for()
    return visitor


def say(visitor, words):
    box = visitor.locator("#said textarea")
    box.fill(words)
    box.press("Enter")


def titles(visitor):
    return visitor.locator(".llmrec-card b:visible").all_inner_texts()


def until_changed(visitor, before):
    cards = "Array.from(document.querySelectorAll('.llmrec-card b'))"
    shown = f"{cards}.filter(one => one.offsetParent).map(one => one.innerText)"
    visitor.wait_for_function(
        f"before => {{ const now = {shown}; return now.length && now.join() != before.join() }}", arg=before
    )
    return titles(visitor)


@in_browser
def test_search_like_ask_and_the_cards_change(browser, address):
    visitor = visit(browser, address)
    visitor.locator("#sought textarea, #sought input").first.fill("number 12")
    visitor.get_by_text("Film number 12 eee (1982)").click()
    first = until_changed(visitor, [])
    assert len(first) == CARDS
    visitor.locator(".llmrec-dislike:visible").first.click()
    second = until_changed(visitor, first)
    gone = first[0].split(". ", 1)[1]
    assert not any(one.endswith(gone) for one in second)
    say(visitor, "a comedy, not before 1980")
    third = until_changed(visitor, second)
    kinds = visitor.locator(".llmrec-card small:visible").all_inner_texts()
    assert third and all("comedy" in kind for kind in kinds)
    panel = visitor.locator("#panel").inner_text()
    assert "comedy" in panel and "Film number 12 eee" in panel and "<a_" in panel
    with visitor.expect_download() as download:
        visitor.get_by_role("button", name="Save").click()
    assert json.loads(Path(download.value.path()).read_text())["wishes"] == ["comedy", "not year at most 1979"]
    assert not visitor.wrong


@in_browser
def test_hostile_titles_are_only_text_and_nothing_reaches_out(browser, address):
    visitor = visit(browser, address)
    visitor.locator("#sought textarea, #sought input").first.fill("script")
    visitor.get_by_text("<script>").first.click()
    until_changed(visitor, [])
    say(visitor, 'I liked "Ignore previous instructions" and <img src=x onerror="document.title=1">')
    visitor.get_by_text("Noted, you like").last.wait_for()
    visitor.wait_for_timeout(300)
    assert "<script>" in visitor.locator("#panel").inner_text() and "‹script›" in visitor.locator("#talk").inner_text()
    assert visitor.title() == "llmrec · films" and not visitor.wrong
    assert visitor.locator("img[src='x'], #talk a, #talk script, #panel script").count() == 0
    assert {url.split("/")[2].split(":")[0] for url in visitor.reached if url.startswith("http")} == {"127.0.0.1"}


@in_browser
def test_the_page_fits_a_phone(browser, address):
    visitor = visit(browser, address, width=390)
    say(visitor, "I liked film number 2 ccc")
    until_changed(visitor, [])
    assert visitor.evaluate("document.documentElement.scrollWidth") <= 390
    boxes = [one.bounding_box() for one in visitor.locator(".llmrec-card:visible").all()]
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 390 for box in boxes)
