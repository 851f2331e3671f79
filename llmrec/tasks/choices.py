"""Examples to judge a trained model by, of tasks with few possible answers: letters, codes on offer, yes or no, stars.

Each is about a held-out event, with all that its user did before it; such examples are never trained on.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from llmrec.contracts import Sequences
from llmrec.data.dataset import Dataset, Split
from llmrec.errors import DataError, PromptError
from llmrec.indexing.catalogue import Catalogue
from llmrec.recipe import TASKS, Tasks
from llmrec.seed import stream
from llmrec.tasks import slots, templates
from llmrec.tasks.cases import Cases, by_event, ragged
from llmrec.tasks.families import FAMILIES
from llmrec.tasks.maker import SCHEMA, Maker
from llmrec.tasks.offers import Draw, offer
from llmrec.tasks.source import Source


class Known(NamedTuple):
    """What the training part says: (items,) events of each item, and (rated events,) float64 ratings."""

    counts: np.ndarray
    ratings: np.ndarray

    @classmethod
    def of(cls, dataset: Dataset) -> Known:
        """From the training part of a data set."""
        counts = np.bincount(dataset.before("valid").items, minlength=dataset.n_items)
        if "rating" not in dataset.interactions.column_names:
            return cls(counts, np.zeros(0))
        trained = pc.equal(dataset.interactions["split"], "train")
        rated = dataset.interactions["rating"].filter(trained).drop_null()
        return cls(counts, rated.cast(pa.float64()).to_numpy())


@dataclass(frozen=True)
class Examples:
    """Held-out examples of one task.

    Attributes:
        rows: as `tasks.maker.SCHEMA` has them.
        slot: what an answer consists of: letter, item, verdict or rating.
        pieces: what stands in that slot in each possible answer of each example.
        answers: the possible answers of each example, as the template writes them.
        right: (examples,) which of them is the right one; -1 for a rating that training does not have.
    """

    rows: pa.Table
    slot: str
    pieces: list[list[str]]
    answers: list[list[str]]
    right: np.ndarray


def held_out(dataset: Dataset, catalogue: Catalogue, texts: list[str], split: Split, most: int, seed: int) -> Source:
    """A row for each held-out event of a split, or a sample of `most`: the event, and what its user did before it.

    Raises:
        DataError: nothing is held out.
    """
    cases = dataset.cases(split)
    if not len(cases.users):
        raise DataError(f"the split holds out nothing for {split}. Evaluate on another part, or split otherwise.")
    drawn = np.sort(stream(seed, "choices").permutation(len(cases.users))[:most])
    starts = dataset.histories.offsets[cases.users[drawn]]
    offsets, events = ragged(starts, starts + cases.histories.lengths[drawn] + 1)
    rows = Sequences(offsets, dataset.histories.items[events])
    users = pa.array([dataset.user_ids[user] for user in cases.users[drawn].tolist()], pa.string())
    carried = {}
    if "rating" in dataset.interactions.column_names:
        carried["rating"] = dataset.interactions["rating"].take(pa.array(events)).combine_chunks()
    return Source.of(rows, users, catalogue, texts, carried)


def examples(task: str, source: Source, known: Known, tasks: Tasks, wording: str, seed: int) -> Examples:
    """Examples of a task about the last event of each row, in one wording, and their possible answers.

    Args:
        task: one of `Tasks.choices`.
        source: see `held_out`.
        known: popularity and ratings of the training part.
        tasks: of the recipe: history, candidates, and how wrong ones are drawn.
        wording: "held-out", or "trained" for the first one that was trained on.
        seed: of wrong candidates.

    Raises:
        PromptError: the template's answers are none of a few.
    """
    template, family = templates.load(task), FAMILIES[task]
    chosen = (template.kept() if wording == "held-out" else template.chosen(tasks.templates)).train[0]
    maker = Maker(tasks.model_copy(update=dict.fromkeys(TASKS, 0.0)), source, seed)
    cases = by_event(source, 0, len(source.train), tasks, maker.size).take(source.train.offsets[1:] - 1)
    for need in (*template.needs, *chosen.needs):
        there = slots.has(need, cases, source) & (need != "rating" or len(known.ratings) > 0)
        cases = cases.take(np.flatnonzero(there))
    wrong = Draw(source, tasks.negatives == "popularity", known.counts)
    cases = offer(cases, family.offers, family.places(tasks), wrong, stream(seed, "choices", task))
    rows = maker.rows(task, chosen, cases) if len(cases) else SCHEMA.empty_table()
    slot = str(templates.parts(chosen.answer)[0][1])
    pieces = _pieces(slot, cases, source, known, task) if len(cases) else []
    answers = [[templates.fill(chosen.answer, {slot: [(piece, slot, "")]})[0] for piece in some] for some in pieces]
    right = [
        some.index(answer) if answer in some else -1
        for answer, some in zip(rows["answer"].to_pylist(), answers, strict=True)
    ]
    return Examples(rows, slot, pieces, answers, np.array(right, np.int64))


def _pieces(slot: str, cases: Cases, source: Source, known: Known, task: str) -> list[list[str]]:
    """What may stand in the slot of an answer, for each case."""
    if slot == "verdict":
        return [["no", "yes"]] * len(cases)
    if slot == "rating":
        return [list(dict.fromkeys(map(slots.stars, np.unique(known.ratings))))] * len(cases)
    if cases.offers is None or slot not in ("letter", "item"):
        raise PromptError(
            f"the answers of '{task}' are made of {{{slot}}}, so it has no few possible answers to judge it by. Answer "
            "with {letter}, {item}, {verdict} or {rating}, or give the task the weight 0."
        )
    if slot == "letter":
        return [list(string.ascii_uppercase[:count]) for count in (cases.offers >= 0).sum(axis=1).tolist()]
    return [source.codes.take(pa.array(row[row >= 0])).to_pylist() for row in cases.offers]
