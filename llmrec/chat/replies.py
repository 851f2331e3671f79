"""Language models that find the words: any OpenAI-compatible one, or the served model in its own chat mode."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import chain

from llmrec.chat.choose import Card
from llmrec.chat.client import Client
from llmrec.chat.dialogue import Dialogue, Piece, Reply, template_replies, templates
from llmrec.chat.store import Store
from llmrec.chat.words import fold
from llmrec.errors import ChatError, TextError
from llmrec.items.item_text import plain_text
from llmrec.tasks.templates import sanitize
from llmrec.text.client import OpenAIClient

MENTION = "<|item|>"
_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[^a-z])")
_CODE_TOKENS = re.compile(r"(?:<[a-z]_\d+>)*")
_NUMBER = re.compile(r"\[(\d{1,2})\]")


class ServerReplyGenerator:
    """Any server that speaks OpenAI's chat completions. It never sees ids, and cannot name what is not there.

    It refers to items by number, and titles are put in afterwards; a sentence in which anything else looks like a name
    is left out.

    Args:
        url: of its API, such as http://localhost:8000/v1
        model: its name for the model.
        patience: seconds to wait for words.
    """

    def __init__(self, url: str, model: str, patience: float = 60.0) -> None:
        self._client = OpenAIClient(url, model, patience)

    def __call__(self, dialogue: Dialogue, reply: Reply) -> Iterator[Piece]:
        """The model's sentences about the items."""
        state = dialogue.state
        items = [
            {"number": at, "title": _data(card.title), "why": _data(card.why)}
            | {name: _data(value) for name, value in card.traits}
            for at, card in enumerate(state.cards, 1)
        ]
        said = next((words for who, words in reversed(state.said) if who == "person"), "")
        data = {"said": _data(said), "wishes": _data(", ".join(state.wishes())), "items": items}
        asked = templates()["asked"].format(**{k: json.dumps(one, ensure_ascii=False) for k, one in data.items()})
        pieces = self._client.stream({"messages": [{"role": "user", "content": asked}], "temperature": 0.3})
        checked = (proper(sentence, state.cards) for sentence in _sentences(pieces))
        yield from _or_template((Piece(f"{sentence} ") for sentence in checked if sentence), dialogue, reply)


class ModelReplyGenerator:
    """The served model itself, trained on chat turns: its mentions are held to the catalogue by the server (vLLM).

    Args:
        model: its name there.
        tokens: that it may say.
    """

    def __init__(self, client: Client, model: str, tokens: int = 200) -> None:
        self.client, self.model, self.tokens = client, model, tokens

    def __call__(self, dialogue: Dialogue, reply: Reply) -> Iterator[Piece]:
        """The model's words, with titles where it names items by their codes."""
        state, roles = dialogue.state, {"person": "user", "llmrec": "assistant"}
        turns = [{"role": roles[who], "content": _data(words)} for who, words in state.said[-9:-1]]
        body = {
            "model": self.model,
            "messages": [one for at, one in enumerate(turns) if at or one["role"] == "user"],
            "max_tokens": self.tokens,
            "skip_special_tokens": False,
            "vllm_xargs": {"items": "chat", "deny": [*state.liked, *state.disliked]},
        }
        yield from _or_template(mentions(self.client.talk(body), dialogue.store), dialogue, reply)


def _data(text: str) -> str:
    """A text of the catalogue or a person that cannot steer a model."""
    return sanitize(plain_text(text))


def _or_template(pieces: Iterator[Piece], dialogue: Dialogue, reply: Reply) -> Iterator[Piece]:
    """A model's pieces; the template where the chat itself must speak, or the model fails or says nothing."""
    spoken, state = False, dialogue.state
    if state.cards and reply.changed and not reply.down and state.question is None:
        try:
            for piece in pieces:
                spoken = spoken or bool(piece.text.strip())
                yield piece
        except TextError:
            pass  # whole sentences came before
        except ChatError:
            spoken = False
    if not spoken:
        yield from template_replies(dialogue, reply)


def mentions(stream: Iterator[str], store: Store) -> Iterator[Piece]:
    """A stream in which `<|item|>` and a code become a title; with the codes as they grow."""
    kept = ""
    for part in chain(stream, [None]):
        kept += part or ""
        if part and MENTION in kept:
            yield Piece("", codes=part)
        while MENTION in kept:
            before, _, after = kept.partition(MENTION)
            tokens = re.findall(r"<[a-z]_\d+>", _CODE_TOKENS.match(after)[0])  # type: ignore[index]  # it always matches
            rest = after[sum(map(len, tokens)) :]
            codes = ("".join(tokens[:size]) for size in range(len(tokens), 0, -1))
            code = next((code for code in codes if code in store.by_code), "")
            if not code and part is not None and re.fullmatch(r"(<[a-z]?_?\d*)?", rest):
                break  # the code still grows
            name = f"“{store.items[store.by_code[code]].title}”" if code else ""
            yield Piece(_words(before) + name)
            kept = after[len(code) :] if code else rest
        else:
            start = kept.rfind("<")
            whole = part is None or start < 0 or ">" in kept[start:] or len(kept) - start > 30
            yield Piece(_words(kept if whole else kept[:start]))
            kept = "" if whole else kept[start:]


def _words(text: str) -> str:
    """Free words without control tokens and stray codes."""
    return re.sub(r"<\|?[^<>|]{0,30}\|?>|</s>|<s>", "", text)


def proper(sentence: str, cards: list[Card]) -> str:
    """A sentence with titles for its numbers; "" where something else in it looks like a name.

    A capital letter inside a sentence, a first word that is no plain one, quotes and emphasis all look like one.
    """
    sentence, bare = sentence.strip(), _NUMBER.sub(" ", sentence)
    words = re.findall(r"\w+(?:['’]\w+)*", bare)
    if not sentence.startswith("["):  # then the first word may have a capital letter, where it is a plain one
        first, words = words[:1], words[1:]
        if first and fold(first[0]) not in {fold(word) for word in templates()["openers"]}:
            return ""
    known = {fold(part) for card in cards for _, value in card.traits for part in re.findall(r"\w+", value)}
    known |= {"i", "im", "id", "ive"}
    named = any(not one[0].islower() and not one[0].isdigit() and fold(one) not in known for one in words)
    wrong_number = any(not 1 <= int(number) <= len(cards) for number in _NUMBER.findall(sentence))
    if named or wrong_number or re.search(r"[\"“”«»*_<>`\[\]]", bare):
        return ""
    return _NUMBER.sub(lambda one: f"“{cards[int(one[1]) - 1].title}”", sentence)


def _sentences(stream: Iterator[str]) -> Iterator[str]:
    kept = ""
    for part in stream:
        kept += re.sub(r"\s+", " ", part)
        *whole, kept = _SENTENCE.split(kept)
        yield from whole
    yield kept
