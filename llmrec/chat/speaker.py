"""Who finds the words: templates, any OpenAI-compatible model, or the served model in its own chat mode."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Protocol

from llmrec.chat.client import Client
from llmrec.chat.dialogue import Dialogue, Reply
from llmrec.chat.replies import replies, wishes
from llmrec.chat.state import Card
from llmrec.chat.store import Store
from llmrec.chat.words import fold
from llmrec.errors import ChatError, TextError
from llmrec.items.text import plain
from llmrec.tasks.templates import neutral
from llmrec.text.client import OpenAIClient

MENTION = "<|item|>"
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[^a-z])")
_TOKENS = re.compile(r"(?:<[a-z]_\d+>)*")
_NUMBER = re.compile(r"\[(\d{1,2})\]")


@dataclass
class Said:
    """Words as they come.

    Attributes:
        text: to add to what was said.
        items: item numbers that were named since the last of these.
        codes: codes as they are generated.
    """

    text: str
    items: list[int] = field(default_factory=list)
    codes: str = ""


class Speaker(Protocol):
    """Finds words for a reply."""

    def say(self, dialogue: Dialogue, reply: Reply) -> Iterator[Said]:
        """The words of a reply, piece by piece; never the name of an item that does not exist."""
        ...


class Templates:
    """Says what the dialogue says."""

    def say(self, dialogue: Dialogue, reply: Reply) -> Iterator[Said]:
        """Word by word; then the codes of the cards, level by level."""
        yield from (Said(word) for word in re.findall(r"\S+\s*", reply.words))


class Model:
    """Any server that speaks OpenAI's chat completions. It never sees ids, and cannot name what is not there.

    It refers to items by number, and titles are put in afterwards; a sentence in which anything else looks like a name
    is left out.
    """

    def __init__(self, url: str, model: str, patience: float = 60.0) -> None:
        """Name a server.

        Args:
            url: of its API, such as http://localhost:8000/v1
            model: its name for the model.
            patience: seconds to wait for words.
        """
        self._client = OpenAIClient(url, model, patience)

    def say(self, dialogue: Dialogue, reply: Reply) -> Iterator[Said]:
        """What the chat itself must say (questions, what it could not do), or the model's sentences about the items."""
        if reply.down or not dialogue.state.cards or not reply.changed or dialogue.state.question:
            yield from Templates().say(dialogue, reply)
            return
        spoken = False
        try:
            for sentence in _sentences(self._client.stream(self._body(dialogue))):
                checked = proper(sentence, dialogue.state.cards)
                if checked:
                    spoken = True
                    yield Said(checked + " ")
        except TextError:
            pass  # words are an ornament: without them the template's say the same
        if not spoken:
            yield from Templates().say(dialogue, reply)

    def _body(self, dialogue: Dialogue) -> dict[str, object]:
        state = dialogue.state
        items = [
            {"number": at, "title": neutral(plain(card.title)), "why": neutral(plain(card.why))}
            | {name: neutral(plain(value)) for name, value in card.traits}
            for at, card in enumerate(state.cards, 1)
        ]
        said = next((words for who, words in reversed(state.said) if who == "person"), "")
        asked = replies()["asked"].format(
            said=json.dumps(neutral(plain(said)), ensure_ascii=False),
            wishes=json.dumps(neutral(plain(wishes(state))), ensure_ascii=False),
            items=json.dumps(items, ensure_ascii=False),
        )
        return {"messages": [{"role": "user", "content": asked}], "temperature": 0.3}


class Served:
    """The served model itself, trained on chat turns: its mentions are held to the catalogue by the server (vLLM)."""

    def __init__(self, client: Client, model: str, tokens: int = 200) -> None:
        """Talk with the model of a server.

        Args:
            model: its name there.
            tokens: that it may say.
        """
        self.client, self.model, self.tokens = client, model, tokens

    def say(self, dialogue: Dialogue, reply: Reply) -> Iterator[Said]:
        """The model's words, with titles where it names items by their codes."""
        state = dialogue.state
        if reply.down or state.question or not reply.changed:
            yield from Templates().say(dialogue, reply)
            return
        roles = {"person": "user", "llmrec": "assistant"}
        turns = [{"role": roles[who], "content": neutral(plain(words))} for who, words in state.said[-9:-1]]
        body = {
            "model": self.model,
            "messages": [one for at, one in enumerate(turns) if at or one["role"] == "user"],
            "max_tokens": self.tokens,
            "skip_special_tokens": False,
            "vllm_xargs": {"items": "chat", "deny": [*state.liked, *state.disliked]},
        }
        spoken = False
        try:
            for said in mentions(self.client.talk(body), dialogue.store):
                spoken = spoken or bool(said.text.strip())
                yield said
        except ChatError:
            spoken = False
        if not spoken:
            yield from Templates().say(dialogue, reply)


def mentions(pieces: Iterator[str], store: Store) -> Iterator[Said]:
    """A stream in which `<|item|>` and a code become a title: words, the items named, and the codes as they grow."""
    kept = ""
    for piece in chain(pieces, [None]):
        kept += piece or ""
        if piece and MENTION in kept:
            yield Said("", codes=piece)
        while MENTION in kept:
            before, _, after = kept.partition(MENTION)
            codes, rest = _codes(after)
            code = next((code for code in codes if code in store.by_code), "")
            if not code and piece is not None and re.fullmatch(r"(<[a-z]?_?\d*)?", rest):
                break  # the code still grows
            at = store.by_code.get(code)
            name = "" if at is None else f"“{store.things[at].title}”"
            yield Said(_words(before) + name, [] if at is None else [at])
            kept = after[len(code) :] if code else rest
        else:
            open_ = kept.rfind("<")
            hold = len(kept) if piece is None or open_ < 0 or ">" in kept[open_:] or len(kept) - open_ > 30 else open_
            yield Said(_words(kept[:hold]))
            kept = kept[hold:]


def proper(sentence: str, cards: list[Card]) -> str:
    """A sentence with titles for its numbers; "" where something else in it looks like a name.

    A capital letter inside a sentence, a first word that is no plain one, quotes and emphasis all look like one.
    """
    ordinary = {fold(word) for word in replies()["openers"]}
    values = {fold(part) for card in cards for _, value in card.traits for part in re.findall(r"\w+", value)}
    numbers = [int(found) for found in _NUMBER.findall(sentence)]
    bare = _NUMBER.sub(" ", sentence).strip()
    found = re.findall(r"\w+(?:['’]\w+)*", bare)
    opens = not found or sentence.strip().startswith("[") or fold(found[0]) in ordinary
    rest = found if sentence.strip().startswith("[") else found[1:]
    named = [one for one in rest if not one[0].islower() and not one[0].isdigit()]
    strange = [one for one in named if fold(one) not in values and fold(one) not in ("i", "im", "id", "ive")]
    if (
        not opens
        or strange
        or re.search(r"[\"“”«»*_<>`\[\]]", bare)
        or any(not 1 <= one <= len(cards) for one in numbers)
    ):
        return ""
    return _NUMBER.sub(lambda one: f"“{cards[int(one[1]) - 1].title}”", sentence).strip()


def _sentences(pieces: Iterator[str]) -> Iterator[str]:
    kept = ""
    for piece in pieces:
        kept += re.sub(r"\s+", " ", piece)
        *whole, kept = _SENTENCE.split(kept)
        yield from whole
    yield kept


def _codes(text: str) -> tuple[list[str], str]:
    """What of a text's beginning may be a code, the longest first, and what follows all item tokens there."""
    tokens = _TOKENS.match(text)
    parts = re.findall(r"<[a-z]_\d+>", tokens[0]) if tokens else []
    return ["".join(parts[:size]) for size in range(len(parts), 0, -1)], text[sum(map(len, parts)) :]


def _words(text: str) -> str:
    """Free words without control tokens and stray codes."""
    return re.sub(r"<\|?[^<>|]{0,30}\|?>|</s>|<s>", "", text)
