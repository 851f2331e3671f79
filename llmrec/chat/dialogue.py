"""Dialogues: a message or a click in, words and cards out. Words are templates of `prompts/replies.yaml`."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from llmrec import resources
from llmrec.chat.choose import Card, ItemSelector, Question, Selection, State
from llmrec.chat.client import Client, OwnServer, ServerDown
from llmrec.chat.store import SemanticIndex, Store
from llmrec.chat.titles import Titles
from llmrec.chat.understand import READ, Understanding, Understood
from llmrec.errors import ChatError

LIKE, DISLIKE = "♥", "✕"


@cache
def templates() -> dict[str, Any]:
    """The sentences of `prompts/replies.yaml`."""
    text = (resources.folder("prompts") / "replies.yaml").read_text(encoding="utf-8")
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def say(name: str, turn: int = 0, **words: object) -> str:
    """A sentence, filled in; of several forms the turn's own. What is filled in is plain text, braces and all."""
    form = templates()[name]
    return str(form[turn % len(form)] if isinstance(form, list) else form).format(**words)


def listed(parts: list[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def quoted(titles: list[str]) -> str:
    """`“a”, “b” and “c”`."""
    return listed([f"“{title}”" for title in titles])


@dataclass(frozen=True)
class Reply:
    """Words to say, whether there are other cards than before, and whether the server did not answer."""

    words: str
    changed: bool = False
    down: bool = False


@dataclass
class Piece:
    """A part of a reply: text to add, and codes as a model generates them."""

    text: str
    codes: str = ""


class Dialogue:
    """Turns of one person; shows k cards."""

    def __init__(self, understanding: Understanding, selector: ItemSelector, k: int = 10) -> None:
        self.understanding, self.selector, self.k = understanding, selector, k
        self.state, self._down = State(), False

    @property
    def store(self) -> Store:
        """The items."""
        return self.selector.store

    def move(self, understanding: Understanding, selector: ItemSelector) -> None:
        """Go on with another catalogue: what was said stays, items that are gone are forgotten."""
        self.understanding, self.selector = understanding, selector
        self.state.constraints = [one for one in self.state.constraints if one.column in self.store.columns]

    def hear(self, text: str) -> Reply:
        """Take a message in and answer it."""
        cut = [say("cut", count=READ)] if len(text) > READ else []
        return self._take(text, self.understanding.read(text), cut)

    def like(self, item_id: str, liked: bool = True, others: bool = False) -> Reply:
        """Take a click on a card, or on a title that was searched for; `others` shows nothing that was shown before."""
        self.state.said.append(("person", f"{LIKE if liked else DISLIKE} {self.store.title(item_id)}"))
        return self._show(self._judge({item_id: liked}), others)

    def others(self) -> Reply:
        """Show what was not shown before."""
        return self._take("(others)", Understood(others=True))

    def clear(self) -> Reply:
        """Drop all filters."""
        return self._take("(filters off)", Understood(clear=True))

    def _judge(self, judged: dict[str, bool]) -> list[str]:
        """Note what is liked and disliked; what to say of it."""
        for item_id, liked in judged.items():
            self.state.judge(item_id, liked)
        likes, dislikes = ([one for one, liked in judged.items() if liked is wanted] for wanted in (True, False))
        return [
            say(name, titles=quoted([self.store.title(one) for one in items]))
            for name, items in (("liked", likes), ("disliked", dislikes))
            if items
        ]

    def _take(self, text: str, heard: Understood, said: list[str] | None = None) -> Reply:
        """Change the state by a message, and answer it."""
        state, said = self.state, said or []
        state.said.append(("person", text[:READ]))
        question, state.question = state.question, None
        if heard.reset:
            self.state = State(said=state.said)
            return self._show([say("reset")])
        if question is not None and heard.answer is not None:
            if 1 <= heard.answer <= len(question.offered):
                return self._show(self._judge({question.offered[heard.answer - 1]: question.liked}))
            said = [say("unknown", titles=quoted([question.text]))]
            return self._show(said) if state.liked else self._reply(said)
        if heard.nothing or (heard.answer is not None and not heard.cards):
            return self._reply([*said, say("gibberish", values=self._values())])
        if heard.clear:
            state.constraints, state.about, state.seeds = [], "", []
            said.append(say("cleared"))
        judged, unknown = self._named(heard)
        said += self._judge(judged)
        if unknown:
            said.append(say("unknown", titles=quoted(unknown)))
        self._constrain(heard, [one for one, liked in judged.items() if liked])
        if state.question is not None:
            titles = [self.store.title(one, with_year=True) for one in state.question.offered]
            said.append(say("unsure", titles=" ".join(f"({at}) “{title}”" for at, title in enumerate(titles, 1))))
        if heard.others and not heard.constraints and not judged:
            said.append(say("others"))
        wanted = heard.constraints or heard.about or heard.relations or heard.like_this
        acted = judged or wanted or heard.others or heard.clear
        return self._show(said, heard.others) if acted else self._reply(said)

    def _named(self, heard: Understood) -> tuple[dict[str, bool], list[str]]:
        """Items that are judged by a message, and names that are not known; an unsure one becomes a question."""
        judged: dict[str, bool] = {}
        unknown = []
        for mention in heard.mentions:
            ids = [self.store.items[number].item_id for number in mention.match.items]
            if ids and mention.match.sure:
                judged[ids[0]] = mention.liked
            elif ids and self.state.question is None:
                self.state.question = Question(mention.text, ids, mention.liked)
            elif not ids and mention.plain:
                unknown.append(mention.text)
        cards = {self._card(place): liked for place, liked in heard.cards.items()}
        return judged | {item_id: liked for item_id, liked in cards.items() if item_id}, unknown

    def _card(self, place: int) -> str:
        """The item id of a card by its number, -1 for the last; "" where there is none."""
        shown = self.state.cards
        place = len(shown) if place < 0 else place
        return shown[place - 1].item_id if 1 <= place <= len(shown) else ""

    def _constrain(self, heard: Understood, liked: list[str]) -> None:
        """Take in constraints, free words, and the items that the next ones are to be like."""
        state = self.state
        seeds = liked if heard.constraints or heard.relations or heard.about else []
        seed = (self._card(heard.like_this) or next(reversed(state.liked), "")) if heard.like_this else ""
        if seed:
            state.judge(seed, True)
            seeds = [*seeds, seed]
        if seeds or heard.constraints or heard.about:
            state.seeds = seeds
        state.constrain(heard.constraints, heard.also)
        if heard.about or heard.constraints:
            state.about = heard.about
        for relation in heard.relations:
            state.relate(relation, self.store)

    def _reply(self, said: list[str], changed: bool = False, down: bool = False) -> Reply:
        reply = Reply(" ".join(said), changed, down)
        self.state.said.append(("llmrec", reply.words))
        return reply

    def _show(self, said: list[str], others: bool = False) -> Reply:
        """Select items and say what they are."""
        state = self.state
        before = [card.item_id for card in state.cards]
        try:
            selection = self.selector.select(state, self.k, state.shown if others else ())
            if others and state.shown and (selection.missed or not selection.items):  # all that fits was shown already
                selection, said = self.selector.select(state, self.k), [*said, say("again")]
        except ServerDown:
            self._down = True
            return self._reply([*said, say("down")], down=True)
        except ChatError as error:
            return self._reply([*said, str(error)])
        if self._down:
            said, self._down = [say("back"), *said], False
        state.missed = selection.missed
        state.cards = [self._made_card(number, selection) for number in selection.items]
        now = [card.item_id for card in state.cards]
        state.shown = list(dict.fromkeys([*state.shown, *now]))
        same = now == before and bool(now)
        return self._reply([*said, say("same") if same else self._introduction(selection)], changed=now != before)

    def _introduction(self, selection: Selection) -> str:
        turn, count, wishes = len(self.state.said) // 2, len(selection.items), ", ".join(self.state.wishes())
        if not count:
            return say("nothing_left")
        if selection.missed:
            return say("nothing", wishes=wishes)
        if count < self.k:
            return say("few", count=count)
        if wishes:
            return say("filtered", turn, wishes=wishes)
        return say({"model": "found", "popularity": "popular"}.get(selection.ranked_by, "need_title"), turn)

    def _values(self) -> str:
        """Some values that could be asked for: the most frequent of the first vocabulary."""
        holders = self.store.vocabularies[0].holders if self.store.vocabularies else {}
        return ", ".join(sorted(holders, key=lambda value: -len(holders[value]))[:6]) or "something like a title"

    def _made_card(self, number: int, selection: Selection) -> Card:
        """An item with the reason for it: the constraints that it meets, and which liked item it is like."""
        item, constraints = self.store.items[number], self.state.constraints
        met = [one for one in constraints if self.store.distance(one)[number] == 0]
        reasons = [say("why_wish", wishes=", ".join(map(str, met)))] if met else []
        if selection.missed and len(met) < len(constraints):
            reasons.append(say("why_near"))
        reasons += self._alike(number, {value for one in met if one.wanted for value in one.values})
        reason = "; ".join(reasons) or say("why_popular" if selection.ranked_by == "popularity" else "why_next")
        return Card(item.item_id, item.title, item.code, self.store.traits(number), reason)

    def _alike(self, number: int, told: set[str]) -> list[str]:
        """The liked item that shares most values with this one, else the one that is nearest in meaning."""
        store, index = self.store, self.selector.index
        liked = [store.number[one] for one in reversed(self.state.liked) if one in store.number]
        if not liked:
            return []
        shared = {one: store.values(number) & store.values(one) for one in liked}
        best = max(liked, key=lambda one: len(shared[one]))
        values = [value for _, value in sorted(shared[best]) if value not in told]
        if values:
            return [say("why_shared", values=listed(values), title=store.items[best].title)]
        near = index.to_item(number) if index else np.zeros(len(store))
        nearest = max(liked, key=lambda one: near[one])
        return [say("why_like", title=store.items[nearest].title)] if near[nearest] > 0.5 else []


ReplyGenerator = Callable[[Dialogue, Reply], Iterator[Piece]]
"""Finds words for a reply, piece by piece; never the name of an item that does not exist."""


def template_replies(dialogue: Dialogue, reply: Reply) -> Iterator[Piece]:
    """Say what the dialogue says, word by word."""
    yield from (Piece(word) for word in re.findall(r"\S+\s*", reply.words))


class ChatService:
    """What all dialogues of one chat share: the server, what is known of its catalogue, and who finds the words.

    Args:
        encoder: of words and items, a key of `ENCODERS`; None for no understanding by meaning.
        run: a run folder whose vectors may be used.
        own: a server that is started again where it died.

    Raises:
        ServerDown, Declined: see `Client`.
    """

    def __init__(
        self,
        client: Client,
        encoder: str | None,
        run: Path | None = None,
        own: OwnServer | None = None,
        speaker: ReplyGenerator = template_replies,
    ) -> None:
        self.client, self.own, self.speaker = client, own, speaker
        self._encoder, self._run, self._lock = encoder, run, threading.Lock()
        self.parts = self._learn()

    def dialogue(self, k: int = 10) -> Dialogue:
        """A new dialogue."""
        return Dialogue(*self.parts, k)

    def turn(self, dialogue: Dialogue, act: Callable[[], Reply]) -> Reply:
        """One turn. A server of ours that died is started again first; a catalogue that was switched is learnt anew."""
        with self._lock:
            if self.own is not None and not self.own.alive:
                self.own.start()
            try:
                if self.client.version()["catalogue"] != self.parts[1].store.catalogue:
                    self.parts = self._learn()
                if dialogue.store is not self.parts[1].store:
                    dialogue.move(*self.parts)
            except ServerDown:
                pass  # the turn itself will say so
        return act()

    def _learn(self) -> tuple[Understanding, ItemSelector]:
        version, store = self.client.version(), self.client.store()
        index = SemanticIndex.of(store, self._encoder, self._run) if self._encoder else None
        selector = ItemSelector(self.client, store, index, bool(version.get("queries")))
        return Understanding(store, Titles(store, index)), selector
