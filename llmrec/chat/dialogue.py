"""One dialogue: a message or a click in, words and cards out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llmrec.chat.choose import Chooser
from llmrec.chat.client import ServerDown
from llmrec.chat.mentions import Mention
from llmrec.chat.replies import cards, listed, say, wishes
from llmrec.chat.state import Question, State
from llmrec.chat.store import Store
from llmrec.chat.understand import READ, Understanding, Understood
from llmrec.errors import ChatError


@dataclass(frozen=True)
class Reply:
    """What a turn gives.

    Attributes:
        words: to say.
        changed: whether there are other cards than before.
        down: the server did not answer.
    """

    words: str
    changed: bool = False
    down: bool = False


class Dialogue:
    """Turns of one person."""

    def __init__(self, understanding: Understanding, chooser: Chooser, k: int = 10) -> None:
        """Begin.

        Args:
            k: cards that are shown.
        """
        self.understanding, self.chooser, self.k = understanding, chooser, k
        self.state, self._down = State(), False

    @property
    def store(self) -> Store:
        """The items."""
        return self.chooser.store

    def move(self, understanding: Understanding, chooser: Chooser) -> None:
        """Go on with another catalogue: what was said stays, items that are gone are forgotten."""
        self.understanding, self.chooser = understanding, chooser
        known = set(chooser.store.columns)
        self.state.wishes = [wish for wish in self.state.wishes if wish.column in known]

    def hear(self, text: str) -> Reply:
        """Take a message in and answer it."""
        heard = self.understanding.read(text)
        return self._turn(text, lambda: self._take(heard, len(text) > READ))

    def like(self, item_id: str, liked: bool = True, others: bool = False) -> Reply:
        """Take a click on a card, or on a title that was searched for; `others` shows nothing that was shown before."""
        said = ("♥ " if liked else "✕ ") + self.title(item_id)
        return self._turn(said, lambda: (*self._judge({item_id: liked})[:2], others))

    def others(self) -> Reply:
        """Show what was not shown before."""
        return self._turn("(others)", lambda: self._take(Understood(others=True), False))

    def clear(self) -> Reply:
        """Drop all filters."""
        return self._turn("(filters off)", lambda: self._take(Understood(clear=True), False))

    def again(self) -> Reply:
        """Ask the server again, with what is known."""
        return self._show([], others=False)

    def title(self, item_id: str) -> str:
        """What an item is called."""
        at = self.store.number.get(item_id)
        return item_id if at is None else self.store.things[at].title

    def _turn(self, text: str, take: Callable[[], tuple[list[str], bool, bool]]) -> Reply:
        self.state.said.append(("person", text[:READ]))
        said, show, others = take()
        reply = self._show(said, others) if show else Reply(" ".join(said))
        self.state.said.append(("llmrec", reply.words))
        return reply

    def _judge(self, judged: dict[str, bool]) -> tuple[list[str], bool, bool]:
        """What is liked and disliked: (what to say, whether to show items, whether others)."""
        said = []
        for name, wanted in (("liked", True), ("disliked", False)):
            chosen = [one for one, liked in judged.items() if liked is wanted]
            for one in chosen:
                self.state.like(one) if wanted else self.state.dislike(one)
            if chosen:
                said.append(say(name, titles=listed([f"“{self.title(one)}”" for one in chosen])))
        return said, True, False

    def _take(self, heard: Understood, cut: bool) -> tuple[list[str], bool, bool]:
        """What a message changes: (what to say, whether to show items, whether others)."""
        said = [say("cut", count=READ)] if cut else []
        if heard.reset:
            self.state = State(said=self.state.said)
            return [say("reset")], True, False
        question, self.state.question = self.state.question, None
        if question is not None and heard.answer is not None:
            return self._answered(question, heard.answer)
        if heard.nothing or (heard.answer is not None and not heard.cards):
            return [*said, say("gibberish", values=self._values())], False, False
        if heard.clear:
            self.state.wishes, self.state.about, self.state.seeds = [], "", []
            said.append(say("cleared"))
        judged, unknown = self._named(heard)
        said += self._judge(judged)[0]
        said += [say("unknown", titles=listed([f"“{one.said}”" for one in unknown]))] if unknown else []
        self._wished(heard, judged)
        if self.state.question is not None:
            titles = [f"({at}) “{self.named(one)}”" for at, one in enumerate(self.state.question.offered, 1)]
            said.append(say("unsure", titles=" ".join(titles)))
        acted = (
            judged or heard.wishes or heard.about or heard.relations or heard.like_this or heard.others or heard.clear
        )
        said += [say("others")] if heard.others and not heard.wishes and not judged else []
        return said, bool(acted), heard.others

    def named(self, item_id: str) -> str:
        """A title with its year, where the catalogue has one."""
        column, at = self.store.kind("year"), self.store.number.get(item_id)
        year = column.numbers[at] if column is not None and at is not None else float("nan")
        return self.title(item_id) + (f" ({year:.0f})" if year == year else "")

    def _answered(self, question: Question, answer: int) -> tuple[list[str], bool, bool]:
        if not 1 <= answer <= len(question.offered):
            return [say("unknown", titles=f"“{question.said}”")], bool(self.state.liked), False
        return self._judge({question.offered[answer - 1]: question.liked})

    def _named(self, heard: Understood) -> tuple[dict[str, bool], list[Mention]]:
        """Items that are judged by a message, and names that are not known; unsure ones become a question."""
        judged: dict[str, bool] = {}
        unknown = []
        things = self.store.things
        for mention in heard.mentions:
            ids = [things[number].item_id for number in mention.match.items]
            if ids and mention.match.sure:
                judged[ids[0]] = mention.liked
            elif ids and self.state.question is None:
                self.state.question = Question(mention.said, ids, mention.liked)
            elif not ids and mention.plain:
                unknown.append(mention)
        for place, liked in heard.cards.items():
            card = self._card(place)
            if card is not None:
                judged[card] = liked
        return judged, unknown

    def _card(self, place: int) -> str | None:
        shown = self.state.cards
        at = len(shown) if place < 0 else place
        return shown[at - 1].item_id if 1 <= at <= len(shown) else None

    def _wished(self, heard: Understood, judged: dict[str, bool]) -> None:
        seed = self._card(heard.like_this) if heard.like_this else None
        if seed is None and heard.like_this and self.state.liked:
            seed = self.state.liked[-1]
        narrowed = heard.wishes or heard.relations or heard.about
        seeds = [one for one, liked in judged.items() if liked] if narrowed else []
        if seed is not None:
            self.state.like(seed)
            seeds.append(seed)
        if seeds or heard.wishes or heard.about:
            self.state.seeds = seeds
        self.state.wish(heard.wishes, heard.also)
        if heard.about or heard.wishes:
            self.state.about = heard.about
        for relation in heard.relations:
            self.state.relate(relation, self.store)

    def _show(self, said: list[str], others: bool) -> Reply:
        """Ask for items and say what they are."""
        state = self.state
        before = [card.item_id for card in state.cards]
        try:
            chosen = self.chooser.choose(state, self.k, set(state.shown) if others else set())
            if others and state.shown and (chosen.missed or not chosen.items):  # all that fits was shown already
                chosen, said = self.chooser.choose(state, self.k), [*said, say("again")]
        except ServerDown:
            self._down = True
            return Reply(" ".join([*said, say("down")]), down=True)
        except ChatError as error:
            return Reply(" ".join([*said, str(error)]))
        if self._down:
            said, self._down = [say("back"), *said], False
        state.missed = chosen.missed
        state.cards = cards(chosen, state, self.store, self.chooser.meanings)
        now = [card.item_id for card in state.cards]
        state.shown = list(dict.fromkeys([*state.shown, *now]))
        same = now == before and bool(now)
        said.append(say("same") if same else self._said(chosen.missed != [], chosen.ranked_by))
        return Reply(" ".join(said), changed=now != before)

    def _said(self, missed: bool, ranked_by: str) -> str:
        state, count = self.state, len(self.state.cards)
        if not count:
            return say("nothing_left")
        if missed:
            return say("nothing", wishes=wishes(state))
        if count < self.k:
            return say("few", count=count)
        if state.wishes or state.about:
            return say("filtered", len(state.said) // 2, wishes=wishes(state))
        if ranked_by != "model":
            return say("popular" if ranked_by == "popularity" else "need_title")
        return say("found", len(state.said) // 2)

    def _values(self) -> str:
        """Some values that could be asked for: the most frequent of the first small vocabulary."""
        small = [column for column in self.store.columns.values() if column.kind == "values" and column.small]
        ranked = sorted(small[0].holders.items(), key=lambda one: -len(one[1])) if small else []
        return ", ".join(value for value, _ in ranked[:6]) or "something like a title"
