"""What the chat says without a language model, and why an item is shown: nothing that it does not know."""

from __future__ import annotations

from functools import cache
from typing import Any

import yaml

from llmrec import shipped
from llmrec.chat.choose import Chosen
from llmrec.chat.meaning import Meanings
from llmrec.chat.state import Card, State
from llmrec.chat.store import Store


@cache
def replies() -> dict[str, Any]:
    """The sentences of `prompts/replies.yaml`."""
    found: dict[str, Any] = yaml.safe_load((shipped.folder("prompts") / "replies.yaml").read_text(encoding="utf-8"))
    return found


def say(name: str, turn: int = 0, **words: object) -> str:
    """A sentence, filled in; of several forms the turn's own. What is filled in is plain text, braces and all."""
    form = replies()[name]
    return str(form[turn % len(form)] if isinstance(form, list) else form).format(**words)


def listed(parts: list[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else parts)


def cards(chosen: Chosen, state: State, store: Store, meanings: Meanings | None) -> list[Card]:
    """The chosen items as cards, each with the reason for it."""
    made = []
    for number in chosen.items:
        thing = store.things[number]
        why = _why(number, chosen, state, store, meanings)
        made.append(Card(thing.item_id, thing.title, thing.code, store.traits(number), why))
    return made


def _why(number: int, chosen: Chosen, state: State, store: Store, meanings: Meanings | None) -> str:
    """The wishes that an item fulfils, and which liked item it is like."""
    kept = [wish for wish in state.wishes if store.short(wish)[number] == 0]
    parts = [say("why_wish", wishes=", ".join(str(wish) for wish in kept))] if kept else []
    if chosen.missed and len(kept) < len(state.wishes):
        parts.append(say("why_near"))
    alike = _alike(number, state, store, meanings, {value for wish in kept if wish.wanted for value in wish.values})
    if alike:
        parts.append(alike)
    if not parts:
        parts.append(say("why_popular" if chosen.ranked_by == "popularity" else "why_next"))
    return "; ".join(parts)


def _alike(number: int, state: State, store: Store, meanings: Meanings | None, said: set[str]) -> str:
    """The liked item that shares most values with this one, else the one that is nearest in meaning."""
    liked = [store.number[one] for one in reversed(state.liked) if one in store.number]
    if not liked:
        return ""
    shared = [(store.values(number) & store.values(one), one) for one in liked]
    values, best = max(shared, key=lambda one: len(one[0]))
    names = [value for _, value in sorted(values) if value not in said]
    if names:
        return say("why_shared", values=listed(names), title=store.things[best].title)
    if meanings is None:
        return ""
    near = meanings.near(number)
    nearest = max(liked, key=lambda one: near[one])
    return say("why_like", title=store.things[nearest].title) if near[nearest] > 0.5 else ""


def wishes(state: State) -> str:
    """The wishes of a dialogue in words."""
    return ", ".join([*(str(wish) for wish in state.wishes), *([f"“{state.about}”"] if state.about else [])])
