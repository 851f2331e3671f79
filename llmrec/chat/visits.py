"""Dialogues of the page's visitors, kept on the server, each with a queue of turns; and their cards and panel as HTML.

Every word of the catalogue and of a person is escaped here.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from html import escape

from llmrec.chat.choose import Card
from llmrec.chat.dialogue import DISLIKE, LIKE, ChatService, Dialogue, Reply, say
from llmrec.chat.understand import READ
from llmrec.errors import ChatError
from llmrec.tasks.templates import sanitize

CARDS = 10
VISITS = 500  # dialogues that are kept; the one that was longest unused gives way
WAITING = 20  # turns of one visitor that may wait
TALK = 100  # turns of a dialogue that are shown
SAID = 1000  # messages of a dialogue that are kept for the transcript
BUSY = 32  # turns of all visitors that are worked on at a time
PAUSE = 0.02  # seconds between words of a template, so that they are seen to come
_FIRST = 40  # pieces of a reply that may come slowly; the rest comes at once
WAITS = "…"  # shown in place of a reply that has not come

log = logging.getLogger("llmrec.chat")


@dataclass
class Turn:
    """What a visitor said or clicked, and the reply to it.

    Attributes:
        said: as it is shown.
        act: what it does to the dialogue.
        words: the reply as far as it has come, with typographic brackets: Gradio would take tags out of the talk, and
            with them parts of a title.
        done: whether all of it has come.
    """

    said: str
    act: Callable[[], Reply]
    words: str = WAITS
    done: bool = False


@dataclass
class Visit:
    """One visitor.

    Attributes:
        dialogue: changed by one turn at a time.
        turns: the newest, oldest first.
        waiting: those of them that are not begun.
        panel: its HTML.
        changes: grows whenever there is something else to show.
        working: whether a thread takes turns from `waiting`.
        lock: held while one of these is read or changed by several threads.
    """

    dialogue: Dialogue
    turns: deque[Turn] = field(default_factory=lambda: deque(maxlen=TALK))
    waiting: deque[Turn] = field(default_factory=deque)
    panel: str = ""
    cards: list[Card] = field(default_factory=list)
    changes: int = 0
    working: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)

    def talk(self) -> list[dict[str, str]]:
        """Messages for a chatbot: role and content."""
        with self.lock:
            turns = list(self.turns)
        messages = [{"role": "assistant", "content": say("hello")}]
        for turn in turns:
            messages += [{"role": "user", "content": turn.said}, {"role": "assistant", "content": turn.words}]
        return messages

    def slots(self) -> list[tuple[bool, str]]:
        """Whether each place for a card is shown, and its HTML."""
        shown = [(True, card_html(card, place)) for place, card in enumerate(self.cards[:CARDS], 1)]
        return shown + [(False, "")] * (CARDS - len(shown))


class ChatPage:
    """What the page does for a session: the name that a browser chose for itself.

    Args:
        pause: seconds between pieces of a reply.
    """

    def __init__(self, service: ChatService, pause: float = PAUSE) -> None:
        self.service, self.pause = service, pause
        self._visits: OrderedDict[str, Visit] = OrderedDict()
        self._lock, self._busy = threading.Lock(), threading.BoundedSemaphore(BUSY)

    def open(self, session: str) -> Visit:
        """Begin a new dialogue; what waited in the former one is dropped."""
        dialogue = self.service.dialogue(CARDS)
        visit = Visit(dialogue, panel=panel_html(dialogue))
        with self._lock:
            former = self._visits.pop(session, None)
            self._visits[session] = visit
            if len(self._visits) > VISITS:
                self._visits.popitem(last=False)
        if former is not None:
            with former.lock:
                while former.waiting:
                    former.waiting.popleft().done = True
        return visit

    def visit(self, session: str) -> Visit:
        """The dialogue of a session; a new one where there is none."""
        with self._lock:
            if session in self._visits:
                self._visits.move_to_end(session)
                return self._visits[session]
        return self.open(session)

    def find_visit(self, session: str) -> Visit | None:
        """The dialogue of a session, where there is one; this is no use of it."""
        return self._visits.get(session)

    def hear(self, session: str, text: object) -> Turn | None:
        """Queue a message; None where there is none: blank, or no text at all."""
        if not isinstance(text, str) or not text.strip():
            return None
        visit = self.visit(session)
        words = text[: READ + 1]  # one more than is read, so that the reply says that it was cut
        return self._queue(visit, words[:READ], lambda: visit.dialogue.hear(words))

    def judge(self, session: str, place: int, liked: bool) -> Turn | None:
        """Queue a click on the card that stands in a place now."""
        visit = self.visit(session)
        cards = visit.cards
        return self._like(visit, cards[place].item_id, liked) if place < len(cards) else None

    def pick(self, session: str, item_id: object) -> Turn | None:
        """Queue a title that was searched for; None where no item has this id."""
        visit = self.visit(session)
        known = isinstance(item_id, str) and item_id in visit.dialogue.store.number
        return self._like(visit, str(item_id), True) if known else None

    def clear(self, session: str) -> Turn | None:
        """Queue: all filters off."""
        visit = self.visit(session)
        return self._queue(visit, "(filters off)", visit.dialogue.clear)

    def find(self, session: str, text: object) -> list[tuple[str, str]]:
        """(title, item id) of titles for a search box."""
        dialogue = self.visit(session).dialogue
        found = dialogue.understanding.titles.search(text[:200]) if isinstance(text, str) else []
        ids = [dialogue.store.items[at].item_id for at in found]
        return [(dialogue.store.title(item_id, with_year=True), item_id) for item_id in ids]

    def transcript(self, session: str) -> str:
        """All that was said and understood, as JSON text."""
        return json.dumps(self.visit(session).dialogue.state.transcript(), ensure_ascii=False, indent=1)

    def answer(self, visit: Visit, turn: Turn) -> Iterator[None]:
        """Work on one turn; yields whenever there is more to show."""
        dialogue = visit.dialogue
        try:
            reply = self.service.turn(dialogue, turn.act)
            words = codes = ""
            for number, piece in enumerate(self.service.speaker(dialogue, reply)):
                words, codes = words + piece.text, codes + piece.codes
                turn.words = sanitize(words)
                if number < _FIRST:
                    visit.panel = panel_html(dialogue, number if reply.changed else None, codes)
                    visit.changes += 1
                    yield
            turn.words = sanitize(words.strip())
        except ChatError as error:  # it may name addresses and paths: for whoever runs the page, not for visitors
            log.warning("a turn of the page failed: %s", error)
            turn.words = say("down")
        except Exception:
            log.exception("a turn of the page failed")
            turn.words = say("broken")
        del dialogue.state.said[:-SAID]
        visit.panel, visit.cards = panel_html(dialogue), dialogue.state.cards
        turn.done = True
        visit.changes += 1

    def _like(self, visit: Visit, item_id: str, liked: bool) -> Turn:
        said = f"{LIKE if liked else DISLIKE} {visit.dialogue.store.title(item_id)}"
        return self._queue(visit, said, lambda: visit.dialogue.like(item_id, liked))

    def _queue(self, visit: Visit, said: str, act: Callable[[], Reply]) -> Turn:
        turn = Turn(sanitize(said), act)
        with visit.lock:
            visit.turns.append(turn)
            visit.changes += 1
            if len(visit.waiting) >= WAITING:
                turn.words, turn.done = say("busy", count=WAITING), True
                return turn
            visit.waiting.append(turn)
            begin, visit.working = not visit.working, True
        if begin:
            threading.Thread(target=self._work, args=(visit,), daemon=True).start()
        return turn

    def _work(self, visit: Visit) -> None:
        """Answer all that waits, in order; one thread a visitor, so that a slow turn keeps no other visitor waiting."""
        while True:
            with visit.lock:
                if not visit.waiting:
                    visit.working = False
                    return
                turn = visit.waiting.popleft()
            with self._busy:
                for _ in self.answer(visit, turn):
                    time.sleep(self.pause)


def card_html(card: Card, place: int) -> str:
    """A card: title, attributes, why."""
    traits = " · ".join(escape(value) for _, value in card.traits)
    return (
        f'<div class="llmrec-card"><b>{place}. {escape(card.title)}</b>'
        f"<small>{traits}</small><i>{escape(card.why)}</i></div>"
    )


def panel_html(dialogue: Dialogue, levels: int | None = None, codes: str = "") -> str:
    """The history in use, the filters read from the words, and the codes.

    Args:
        levels: how many levels of each card's code are shown; None for all.
        codes: that a model writes just now among its words.
    """
    state, title = dialogue.state, dialogue.store.title
    chips = [*state.wishes(), *(f"like “{title(one)}”" for one in state.seeds)]
    rows = []
    for card in state.cards:
        tokens = [part + ">" for part in card.code.split(">") if part]
        rows.append(f"<code>{escape(''.join(tokens[:levels]))}</code> {escape(card.title)}")
    disliked = _ordered([escape(title(one, with_year=True)) for one in state.disliked], "")
    return (
        '<div class="llmrec-panel"><h4>History in use, oldest first</h4>'
        + _ordered([escape(title(one, with_year=True)) for one in state.liked], "<p>nothing yet</p>")
        + (f"<h4>Never shown</h4>{disliked}" if disliked else "")
        + "<h4>Filters read from the words</h4>"
        + ("".join(f'<span class="llmrec-chip">{escape(chip)}</span>' for chip in chips) or "<p>none</p>")
        + f"<h4>Codes</h4>{_ordered(rows, '<p>none</p>')}"
        + (f"<p>now: <code>{escape(codes)}</code></p>" if codes else "")
        + "</div>"
    )


def _ordered(rows: list[str], nothing: str) -> str:
    """An ordered list of HTML rows, or what stands for an empty one."""
    return "<ol>" + "".join(f"<li>{row}</li>" for row in rows) + "</ol>" if rows else nothing
