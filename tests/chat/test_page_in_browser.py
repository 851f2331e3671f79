"""The page in Chromium, where there is one."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from llmrec.chat.page import background

CARDS = 10
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium on this machine (Debian: apt-get install chromium)"
)


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


def test_search_like_ask_and_the_cards_change(browser, page_address):
    visitor = visit(browser, page_address)
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


def test_hostile_titles_are_only_text_and_nothing_reaches_out(browser, page_address):
    visitor = visit(browser, page_address)
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


def test_the_page_fits_a_phone(browser, page_address):
    visitor = visit(browser, page_address, width=390)
    say(visitor, "I liked film number 2 ccc")
    until_changed(visitor, [])
    assert visitor.evaluate("document.documentElement.scrollWidth") <= 390
    boxes = [one.bounding_box() for one in visitor.locator(".llmrec-card:visible").all()]
    assert all(box["x"] >= 0 and box["x"] + box["width"] <= 390 for box in boxes)


WISHES = ("a comedy", "a drama", "a western", "a documentary", "no western", "not before 1980")
SAID = "#talk [data-testid=user], #talk [data-testid=bot]"
BUBBLES = f"Array.from(document.querySelectorAll('{SAID}')).map(one => one.innerText.trim())"


def talk(visitor, messages):
    """What stands in the talk, when it has come to so many messages and none waits for its reply."""
    visitor.wait_for_function(
        f"count => {{ const all = {BUBBLES}; return all.length >= count && !all.includes('…') }}", arg=messages
    )
    visitor.wait_for_timeout(500)  # for what might still be taken away
    return visitor.evaluate(BUBBLES)


def test_enter_on_an_empty_box_leaves_the_talk_as_it_is(browser, page_address):
    visitor = visit(browser, page_address)
    say(visitor, "a comedy")
    before = talk(visitor, 3)
    say(visitor, "")
    say(visitor, "   ")
    visitor.wait_for_timeout(1000)
    assert talk(visitor, 3) == before and before[1] == "a comedy"


def test_messages_typed_while_it_answers_are_all_answered_in_order(browser, page_address):
    visitor = visit(browser, page_address)
    visitor.locator("#said textarea").focus()
    for words in WISHES:
        visitor.keyboard.type(words)
        visitor.keyboard.press("Enter")
    shown = talk(visitor, 1 + 2 * len(WISHES))
    assert [*shown[1::2]] == [*WISHES]
    assert all(len(reply) > 10 for reply in shown[2::2])
    assert not visitor.wrong


def test_clicks_and_messages_wait_in_one_queue(browser, page_address):
    visitor = visit(browser, page_address)
    say(visitor, "a comedy")
    talk(visitor, 3)
    first = titles(visitor)[0].split(". ", 1)[1]
    say(visitor, "no western")
    visitor.locator(".llmrec-like:visible").first.click()
    say(visitor, "not before 1980")
    shown = talk(visitor, 9)
    assert [*shown[1::2]] == ["a comedy", "no western", f"♥ {first}", "not before 1980"]


def test_the_dustbin_on_the_talk_starts_over(browser, page_address):
    visitor = visit(browser, page_address)
    say(visitor, "I liked film number 2 ccc")
    talk(visitor, 3)
    visitor.locator("#talk").get_by_label("Clear").click()
    visitor.get_by_text("nothing yet").wait_for()
    assert len(talk(visitor, 1)) == 1 and not titles(visitor)


def test_a_message_that_the_page_refuses_goes_back_into_the_box(browser, page_address):
    visitor = visit(browser, page_address)
    visitor.route("**/queue/join*", lambda route: route.fulfill(status=429, json={"detail": "busy"}))
    say(visitor, "a comedy")
    visitor.wait_for_function("() => document.querySelector('#said textarea').value === 'a comedy'")


def test_who_logs_in_can_talk(browser, counter):
    with background(counter, "films", ("ann", "long enough: 1")) as address:
        visitor = browser.new_context().new_page()
        visitor.goto(address)
        visitor.get_by_label("username").fill("ann")
        visitor.get_by_label("password").fill("long enough: 1")
        visitor.get_by_role("button", name="Login").click()
        visitor.get_by_text("nothing yet").wait_for()
        say(visitor, "a comedy")
        assert talk(visitor, 3)[1] == "a comedy"
        visitor.context.close()
