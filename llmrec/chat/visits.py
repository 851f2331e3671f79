"""Dialogues of the page's visitors, kept on the server, each with a queue of turns that are answered in order."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from llmrec.chat import view
from llmrec.chat.counter import Counter
from llmrec.chat.dialogue import Dialogue, Reply
from llmrec.chat.replies import say
from llmrec.chat.state import Card
from llmrec.chat.understand import READ
from llmrec.errors import ChatError
from llmrec.tasks.templates import neutral

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
        cards: shown now.
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

    def drop(self) -> None:
        """Give up the turns that are not begun."""
        with self.lock:
            while self.waiting:
                self.waiting.popleft().done = True


class Page:
    """What the page does for a session: the name that a browser chose for itself."""

    def __init__(self, counter: Counter, pause: float = PAUSE) -> None:
        """Serve a counter."""
        self.counter, self.pause = counter, pause
        self._visits: OrderedDict[str, Visit] = OrderedDict()
        self._lock, self._busy = threading.Lock(), threading.BoundedSemaphore(BUSY)

    def open(self, session: str) -> Visit:
        """Begin a new dialogue; what waited in the former one is dropped."""
        dialogue = self.counter.dialogue(CARDS)
        visit = Visit(dialogue, panel=view.panel(dialogue))
        with self._lock:
            before = self._visits.pop(session, None)
            self._visits[session] = visit
            if len(self._visits) > VISITS:
                self._visits.popitem(last=False)
        if before is not None:
            before.drop()
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
        return [(dialogue.named(dialogue.store.things[at].item_id), dialogue.store.things[at].item_id) for at in found]

    def transcript(self, session: str) -> str:
        """All that was said and understood, as JSON text."""
        return json.dumps(self.visit(session).dialogue.state.transcript(), ensure_ascii=False, indent=1)

    def answer(self, visit: Visit, turn: Turn) -> Iterator[None]:
        """Work on one turn; yields whenever there is more to show."""
        try:
            reply = self.counter.turn(visit.dialogue, turn.act)
            for _ in self._speak(visit, turn, reply):
                visit.changes += 1
                yield
        except ChatError as error:  # it may name addresses and paths: for whoever runs the page, not for visitors
            log.warning("a turn of the page failed: %s", error)
            turn.words = say("down")
        except Exception:
            log.exception("a turn of the page failed")
            turn.words = say("broken")
        del visit.dialogue.state.said[:-SAID]
        visit.panel, visit.cards = view.panel(visit.dialogue), visit.dialogue.state.cards
        turn.done = True
        visit.changes += 1

    def _speak(self, visit: Visit, turn: Turn, reply: Reply) -> Iterator[None]:
        words, codes, levels = "", "", view.levels(visit.dialogue)
        for number, piece in enumerate(self.counter.speaker.say(visit.dialogue, reply)):
            words, codes = words + piece.text, codes + piece.codes
            turn.words = neutral(words)
            if number < _FIRST:
                visit.panel = view.panel(visit.dialogue, min(number, levels) if reply.changed else None, codes)
                yield
        turn.words = neutral(words.strip())

    def _like(self, visit: Visit, item_id: str, liked: bool) -> Turn:
        said = f"{'♥' if liked else '✕'} {visit.dialogue.title(item_id)}"
        return self._queue(visit, said, lambda: visit.dialogue.like(item_id, liked))

    def _queue(self, visit: Visit, said: str, act: Callable[[], Reply]) -> Turn:
        turn = Turn(neutral(said), act)
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
        """Answer all that waits, in order; one thread a visitor, so that a slow turn keeps nobody else waiting."""
        while True:
            with visit.lock:
                if not visit.waiting:
                    visit.working = False
                    return
                turn = visit.waiting.popleft()
            with self._busy:
                for _ in self.answer(visit, turn):
                    time.sleep(self.pause)


def cards(visit: Visit) -> list[tuple[bool, str]]:
    """(whether it is shown, its HTML) of every place for a card."""
    shown: list[Any] = [*visit.cards, *[None] * CARDS]
    return [(one is not None, view.card(one, place) if one else "") for place, one in enumerate(shown[:CARDS], 1)]
