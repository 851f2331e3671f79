"""Ratings to predict, each with what is known of its user, and the prompts that ask for them.

A prompt is a dialogue in the form that `model/prompting` reads: solved examples are earlier turns.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from llmrec.contracts import Sequences
from llmrec.errors import DataError, PromptError
from llmrec.rate.ratings import Ratings
from llmrec.seed import stream
from llmrec.tasks.templates import Template, fill, load

HistoryOrder = Literal["time", "newest first", "shuffled"]
HISTORY_ORDERS: tuple[HistoryOrder, ...] = ("time", "newest first", "shuffled")


@dataclass(frozen=True)
class RatingCases:
    """Ratings to predict.

    Attributes:
        events: (cases,) int64 event numbers of the ratings.
        history: (cases, length) int64 event numbers of the last known ratings before each, oldest first; -1 before
            the first.
        known: event numbers of all known ratings of each case's user: in a random split also later ones.
    """

    events: np.ndarray
    history: np.ndarray
    known: Sequences

    def __len__(self) -> int:
        return len(self.events)

    def take(self, rows: np.ndarray) -> RatingCases:
        """The cases of some row numbers."""
        return RatingCases(self.events[rows], self.history[rows], Sequences.of(self.known[int(row)] for row in rows))

    def with_history_order(self, order: HistoryOrder, seed: int) -> RatingCases:
        """The same cases with each history in another order; `known` stays."""
        if order == "time":
            return self
        history = np.full_like(self.history, -1)
        for row, padded in enumerate(self.history):
            events = padded[padded >= 0]
            rng = stream(seed, "rate", "shuffled", int(self.events[row]))
            history[row, len(padded) - len(events) :] = (
                events[::-1] if order == "newest first" else rng.permutation(events)
            )
        return RatingCases(self.events, history, self.known)


def build_cases(ratings: Ratings, events: np.ndarray, length: int) -> RatingCases:
    """Collect what is known for some events.

    Args:
        events: (cases,) event numbers.
        length: ratings of a history.
    """
    visible = _visible_events(ratings)
    start = np.searchsorted(visible, np.searchsorted(ratings.users, ratings.users[events]))
    last = np.searchsorted(ratings.users, ratings.users[events], side="right") if ratings.split == "random" else events
    lengths = np.searchsorted(visible, last) - start
    rows = np.repeat(np.arange(len(events)), lengths)
    known = visible[np.arange(lengths.sum()) + np.repeat(start - np.cumsum(lengths) + lengths, lengths)]
    other = known != events[rows]  # a training event must not know itself
    offsets = np.concatenate([[0], np.cumsum(np.bincount(rows[other], minlength=len(events)))]).astype(np.int64)
    return RatingCases(events, histories(ratings, events, length), Sequences(offsets, known[other].astype(np.int32)))


def histories(ratings: Ratings, events: np.ndarray, length: int) -> np.ndarray:
    """(cases, length) event numbers of the last known ratings before each event, oldest first; -1 before the first."""
    visible = _visible_events(ratings)
    start = np.searchsorted(visible, np.searchsorted(ratings.users, ratings.users[events]))
    positions = np.searchsorted(visible, events)[:, None] - np.arange(length, 0, -1)
    return np.where(positions >= start[:, None], visible[np.clip(positions, 0, None)], -1)


def _visible_events(ratings: Ratings) -> np.ndarray:
    """Event numbers that a case may know: of the training part, or (in a temporal split) all, if they are earlier."""
    return ratings.train if ratings.split == "random" else np.arange(len(ratings.values))


def sample_cases(ratings: Ratings, part: int, count: int | None, length: int, seed: int) -> RatingCases:
    """Draw cases of a part without replacement; all of them where `count` is None or larger than the part.

    Raises:
        DataError: the part is empty.
    """
    events = np.flatnonzero(ratings.parts == part)
    if not len(events):
        raise DataError(
            "the split held no rating out. Raise data.holdout_fraction, or take the other split: --split random"
        )
    if count is not None and count < len(events):
        events = np.sort(stream(seed, "rate", "cases", part).choice(events, count, replace=False))
    return build_cases(ratings, events, length)


def rating_templates() -> list[Template]:
    """The templates of the prompt, which `--template` numbers from 1; the held-out one is the last."""
    template = load("rate")
    return [*template.train, *template.held_out]


def render_prompts(
    ratings: Ratings, cases: RatingCases, template_number: int = 1, shots: int = 0, seed: int = 0
) -> list[str]:
    """A prompt for each case.

    Args:
        template_number: number of the template in prompts/rate/rate.yaml, from 1.
        shots: solved examples before the question: training ratings of other users, the same for all cases.
        seed: of the choice of examples.

    Raises:
        PromptError: there is no such template, or there are fewer training ratings than examples.
    """
    templates = rating_templates()
    if not 1 <= template_number <= len(templates):
        raise PromptError(f"prompts/rate/rate.yaml has no template {template_number}: it has 1 to {len(templates)}.")
    template = templates[template_number - 1]
    solved = ""
    if shots:
        examples = _examples(ratings, cases, shots, seed)
        for row, event in enumerate(examples.events):
            answer = ratings.scale.format(ratings.values[event])
            solved += f"{_question(ratings, examples, row, template)}\nAssistant: {answer}\nUser: "
    return [solved + _question(ratings, cases, row, template) for row in range(len(cases))]


def _question(ratings: Ratings, cases: RatingCases, row: int, template: Template) -> str:
    lines = [
        f"- {ratings.item_text(ratings.items[event])}: {ratings.scale.format(ratings.values[event])}"
        for event in cases.history[row].tolist()
        if event >= 0
    ]
    slots = {
        "rated": "\n".join(lines) or "(nothing yet)",
        "candidate": ratings.item_text(ratings.items[cases.events[row]]),
        "scale": ratings.scale.description,
    }
    return fill(template.prompt, {name: [(text, name, "")] for name, text in slots.items()})[0]


def _examples(ratings: Ratings, cases: RatingCases, shots: int, seed: int) -> RatingCases:
    """Training ratings with full histories, of users without a case, as far as there are such."""
    length, train = cases.history.shape[1], ratings.train
    lengths = (histories(ratings, train, length) >= 0).sum(axis=1)
    priority = 2 * lengths + ~np.isin(ratings.users[train], ratings.users[cases.events])
    best = np.flatnonzero(priority == priority.max())
    best = best if len(best) >= shots else np.arange(len(train))
    if len(best) < shots:
        raise PromptError(f"{shots} examples are wanted, and there are {len(best)} training ratings. Lower --shots.")
    shuffled = stream(seed, "rate", "examples").permutation(best)
    # One of each rating in turn, so that the examples show the whole scale and not only its most frequent rating.
    steps = ratings.scale.steps(ratings.values[train[shuffled]])
    turn = np.array([int((steps[:index] == step).sum()) for index, step in enumerate(steps[:2000])])
    return build_cases(ratings, train[shuffled[np.argsort(turn, kind="stable")[:shots]]], length)
