"""Prompts that ask for a rating: what a person rated, then the candidate; with solved examples before them or without.

A prompt is a talk, as `model/prompting` reads them: examples are earlier turns.
"""

from __future__ import annotations

import numpy as np
from transformers import PreTrainedTokenizerBase

from llmrec.errors import PromptError
from llmrec.rate.cases import Cases, cases_of, histories
from llmrec.rate.ratings import Ratings
from llmrec.seed import stream
from llmrec.tasks.templates import Template, fill, load

LABEL = "\nRating:"
"""Ends a question to a base without a chat template, see `model/prompting`."""
_NOTHING = "(nothing yet)"


def wordings() -> list[Template]:
    """All that there are, the held-out one last."""
    template = load("rate")
    return [*template.train, *template.held_out]


def render(ratings: Ratings, cases: Cases, wording: int = 1, shots: int = 0, seed: int = 0) -> list[str]:
    """A prompt for each case.

    Args:
        wording: its number in prompts/rate/rate.yaml, from 1.
        shots: solved examples before the question: training ratings of other users, the same for all cases.
        seed: draws the examples.

    Raises:
        PromptError: there is no such wording, or fewer training ratings than examples.
    """
    known = wordings()
    if not 1 <= wording <= len(known):
        raise PromptError(f"there is no wording {wording} in prompts/rate/rate.yaml; it has 1 to {len(known)}.")
    words = known[wording - 1]
    before = ""
    if shots:
        solved = _examples(ratings, cases, shots, seed)
        asked = [_question(ratings, solved, row, words) for row in range(shots)]
        answers = [ratings.scale.write(ratings.given[event]) for event in solved.events]
        before = "".join(
            f"{prompt}\nAssistant: {answer}\nUser: " for prompt, answer in zip(asked, answers, strict=True)
        )
    return [before + _question(ratings, cases, row, words) for row in range(len(cases))]


def item(ratings: Ratings, number: int) -> str:
    """What prompts say of an item: its title, and what kinds it is of."""
    kinds = ratings.kinds[number]
    return f"{ratings.titles[number]} ({kinds})" if kinds else ratings.titles[number]


def _question(ratings: Ratings, cases: Cases, row: int, words: Template) -> str:
    history = cases.history[row]
    history = history[history >= 0]
    event = int(cases.events[row])
    lines = [f"- {item(ratings, ratings.items[e])}: {ratings.scale.write(ratings.given[e])}" for e in history.tolist()]
    slots = {
        "rated": "\n".join(lines) or _NOTHING,
        "candidate": item(ratings, int(ratings.items[event])),
        "scale": ratings.scale.said,
    }
    return fill(words.prompt, {name: [(text, name, "")] for name, text in slots.items()})[0]


def _examples(ratings: Ratings, cases: Cases, shots: int, seed: int) -> Cases:
    """Training ratings of people whom no case is about, where there are such, with full histories where there are."""
    places, train = cases.history.shape[1], ratings.train
    length = (histories(ratings, train, places) >= 0).sum(axis=1)
    weight = 2 * length + ~np.isin(ratings.users[train], ratings.users[cases.events])
    best = np.flatnonzero(weight == weight.max())
    best = best if len(best) >= shots else np.arange(len(train))
    if len(best) < shots:
        raise PromptError(f"{shots} examples are wanted, and there are {len(best)} training ratings. Lower --shots.")
    draw = stream(seed, "rate", "examples").permutation(best)
    # One of each rating in turn, so that examples show the scale and not only its favourite.
    steps = ratings.scale.numbers(ratings.given[train[draw]])
    turn = np.array([int((steps[:place] == step).sum()) for place, step in enumerate(steps[:2000])])
    chosen = draw[np.argsort(turn, kind="stable")[:shots]]
    return cases_of(ratings, train[chosen], places)


def written(tokenizer: PreTrainedTokenizerBase, words: list[str]) -> list[str]:
    """Ratings as they follow a prompt: behind a label there is a space."""
    return words if tokenizer.chat_template else [f" {word}" for word in words]
