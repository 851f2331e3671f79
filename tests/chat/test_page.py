"""What the page does for its visitors, without a browser: turns in order, and dialogues apart and bounded."""

from __future__ import annotations

import json
import threading
import time

import pytest

from llmrec.chat import visits
from llmrec.chat.choose import Card
from llmrec.chat.dialogue import Reply
from llmrec.chat.understand import READ
from llmrec.chat.visits import CARDS, WAITING, ChatPage, Turn
from llmrec.errors import ChatError


@pytest.fixture
def page(counter):
    return ChatPage(counter, pause=0)


def finish(page, session, turn):
    """Wait until a turn is done; the visit that it is of."""
    deadline = time.monotonic() + 60
    while not turn.done and time.monotonic() < deadline:
        time.sleep(0.01)
    assert turn.done
    return page.visit(session)


def contents(visit):
    """What the talk shows behind the greeting."""
    return [message["content"] for message in visit.talk()][1:]


def test_a_turn_streams_words_and_codes_and_ends_with_cards_and_panel(page):
    visit, words, panels = page.visit("one"), [], []
    dialogue = visit.dialogue
    turn = Turn("…", lambda: dialogue.hear("I liked film number 2 ccc, no western"))
    for _ in page.answer(visit, turn):
        words.append(turn.words)
        panels.append(visit.panel)
    assert len(words) > 5 and turn.done and turn.words.startswith(words[-1].strip()[:10])
    codes = [panel.count("&lt;b_") for panel in panels]  # second tokens; hostile titles hold only first ones
    assert codes == sorted(codes) and codes[-1] > codes[0] == 0  # level by level
    assert "Film number 2 ccc" in visit.panel and "not western" in visit.panel
    assert len(visit.cards) == CARDS


def test_clicks_and_searched_titles_change_the_cards(page):
    found = page.find("one", "number 12")
    assert found[0] == ("Film number 12 eee (1982)", "i12")
    before = [card.item_id for card in finish(page, "one", page.pick("one", "i12")).cards]
    visit = finish(page, "one", page.judge("one", 2, False))
    assert contents(visit)[-2].startswith("✕") and "Never shown" in visit.panel
    now = [card.item_id for card in visit.cards]
    assert before[2] not in now
    finish(page, "one", page.judge("one", 0, True))
    assert visit.dialogue.state.liked == ["i12", now[0]]
    assert page.pick("one", "no such") is page.pick("one", None) is page.judge("one", 99, True) is None


def test_titles_and_words_are_escaped_wherever_they_are_shown(page):
    hostile = "<script>alert(1)</script>\"'&<img src=x onerror=alert(1)>"
    html = visits.card_html(Card("x", hostile, "<a_1>", [("kind", hostile)], hostile), 1)
    dialogue = page.visit("one").dialogue
    dialogue.state.cards, dialogue.state.about = [Card("x", hostile, "<a_1>", [], "")], hostile
    dialogue.state.liked = [hostile]
    for shown in (html, visits.panel_html(dialogue)):
        assert "<script" not in shown and "<img" not in shown and "&lt;script&gt;" in shown


def test_a_transcript_is_json_of_all_that_was_said(page):
    finish(page, "one", page.hear("one", "I liked film number 2 ccc"))
    saved = json.loads(page.transcript("one"))
    assert [one["who"] for one in saved["said"]] == ["person", "llmrec"] and saved["liked"] == ["i2"]
    assert len(saved["cards"]) == CARDS


def test_messages_sent_at_once_are_all_answered_in_order(page):
    said = ["a comedy", "a drama", "a western", "a documentary", "no western", "not before 1980"]
    turns = [page.hear("one", words) for words in said]
    visit = finish(page, "one", turns[-1])
    assert contents(visit)[::2] == said
    assert all(turn.done and turn.words not in ("", "…") for turn in turns)
    heard = [words for who, words in visit.dialogue.state.said if who == "person"]
    assert heard == said


def test_a_blank_message_or_none_changes_nothing(page):
    visit = finish(page, "one", page.hear("one", "a comedy"))
    before = visit.talk(), visit.panel
    for blank in ("", "  \n", None, ["a drama"], {"text": "a drama"}, 7):
        assert page.hear("one", blank) is None
    assert (visit.talk(), visit.panel) == before


def test_a_turn_that_fails_is_said_without_its_reason_and_the_next_is_answered(page, caplog):
    visit = page.visit("one")

    def fail(error):
        raise error

    turns = [
        Turn("first", lambda: fail(ChatError("/srv/run is down"))),
        Turn("second", lambda: fail(ValueError("/srv"))),
    ]
    for turn in turns:
        list(page.answer(visit, turn))
        assert turn.done and len(turn.words) > 10 and "/srv" not in turn.words and "/srv" in caplog.text
    assert finish(page, "one", page.hear("one", "a comedy")).cards


def test_a_slow_turn_of_one_visitor_keeps_no_other_waiting(page):
    end = threading.Event()
    visit = page.visit("slow")
    slow = page._queue(visit, "slow", lambda: Reply("at last") if end.wait(60) else Reply("too late"))
    assert len(finish(page, "other", page.hear("other", "a comedy")).cards) == CARDS and not slow.done
    end.set()
    assert contents(finish(page, "slow", slow)) == ["slow", "at last"]


def test_of_too_many_messages_the_last_are_refused_in_words_and_all_others_answered(page):
    begun, end, visit = threading.Event(), threading.Event(), page.visit("one")
    page._queue(visit, "slow", lambda: (begun.set(), end.wait(60), Reply("done"))[-1])
    begun.wait(60)
    turns = [page.hear("one", f"a comedy, not before {1980 + at}") for at in range(WAITING + 2)]
    assert [turn.done for turn in turns] == [False] * WAITING + [True] * 2
    end.set()
    finish(page, "one", turns[WAITING - 1])
    assert str(WAITING) in turns[-1].words and all("wait" not in turn.words for turn in turns[:WAITING])


def test_starting_over_drops_what_waits(page):
    end, first = threading.Event(), page.visit("one")
    slow = page._queue(first, "slow", lambda: (end.wait(60), Reply("done"))[-1])
    waits = page.hear("one", "a comedy")
    assert page.open("one").talk()[1:] == []
    end.set()
    finish(page, "one", slow)
    assert waits.done and first.dialogue.state.said == [] and page.visit("one") is not first


def test_dialogues_and_what_is_kept_of_them_are_bounded(page, monkeypatch):
    monkeypatch.setattr(visits, "VISITS", 3)
    monkeypatch.setattr(visits, "SAID", 4)
    first = page.visit("v0")
    for number in range(1, 6):
        page.visit(f"v{number}")
        page.visit("v5")
    assert list(page._visits) == ["v3", "v4", "v5"] and page.visit("v0") is not first
    for _ in range(visits.TALK + 5):
        turn = Turn("x", lambda: Reply("y"))
        first.turns.append(turn)
    for _ in range(4):
        last = finish(page, "v0", page.hear("v0", "x" * 5000 + " comedy"))
    assert len(first.talk()) == 1 + 2 * visits.TALK and len(last.dialogue.state.said) == 4
    assert max(map(len, contents(last))) <= READ and "2000" in contents(last)[-1]
