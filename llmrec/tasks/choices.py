"""Held-out examples of tasks with few possible answers: letters, candidate codes, yes or no, ratings.

Each is about a held-out event, with the user's history before it. They are never trained on.
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
from llmrec.tasks import templates
from llmrec.tasks.builder import FAMILIES, SCHEMA, ExampleBuilder
from llmrec.tasks.inputs import TaskInputs
from llmrec.tasks.instances import Instances, NegativeSampler, by_event, concat_ranges
from llmrec.tasks.render import format_rating, has_value


class TrainStats(NamedTuple):
    """Statistics of the training part: (items,) events of each item, and (rated events,) float64 ratings."""

    counts: np.ndarray
    ratings: np.ndarray

    @classmethod
    def of(cls, dataset: Dataset) -> TrainStats:
        """Count events and collect ratings of a data set's training part."""
        counts = np.bincount(dataset.before("valid").items, minlength=dataset.n_items)
        if "rating" not in dataset.interactions.column_names:
            return cls(counts, np.zeros(0))
        trained = pc.equal(dataset.interactions["split"], "train")
        rated = dataset.interactions["rating"].filter(trained).drop_null()
        return cls(counts, rated.cast(pa.float64()).to_numpy())


@dataclass(frozen=True)
class ChoiceExamples:
    """Held-out examples of one task.

    Attributes:
        rows: as `tasks.builder.SCHEMA`.
        slot: slot of the answer: letter, item, verdict or rating.
        values: value of that slot in each possible answer of each example.
        answers: possible answers of each example, as the template writes them.
        target: (examples,) index of the right answer; -1 for a rating that training does not have.
    """

    rows: pa.Table
    slot: str
    values: list[list[str]]
    answers: list[list[str]]
    target: np.ndarray


def held_out_inputs(
    dataset: Dataset, catalogue: Catalogue, texts: list[str], split: Split, most: int, seed: int
) -> TaskInputs:
    """One row per held-out event of a split, or per event of a sample of `most`: the user's history and the event.

    Raises:
        DataError: nothing is held out.
    """
    cases = dataset.cases(split)
    if not len(cases.users):
        raise DataError(f"the split holds out nothing for {split}. Evaluate on another part, or split otherwise.")
    sample = np.sort(stream(seed, "choices").permutation(len(cases.users))[:most])
    starts = dataset.histories.offsets[cases.users[sample]]
    offsets, events = concat_ranges(starts, starts + cases.histories.lengths[sample] + 1)
    rows = Sequences(offsets, dataset.histories.items[events])
    users = pa.array([dataset.user_ids[user] for user in cases.users[sample].tolist()], pa.string())
    columns = {}
    if "rating" in dataset.interactions.column_names:
        columns["rating"] = dataset.interactions["rating"].take(pa.array(events)).combine_chunks()
    return TaskInputs.of(rows, users, catalogue, texts, columns)


def choice_examples(
    task: str, inputs: TaskInputs, stats: TrainStats, tasks: Tasks, template: str, seed: int
) -> ChoiceExamples:
    """Build examples about the last event of each row, and their possible answers.

    Args:
        task: one of `Tasks.choices`.
        inputs: from `held_out_inputs`.
        tasks: of the recipe: history, candidates, and sampling of negatives.
        template: "held-out", or "trained" for the first template of training.
        seed: of negatives.

    Raises:
        PromptError: the template has no few possible answers.
    """
    loaded, family = templates.load(task), FAMILIES[task]
    chosen = (loaded.for_evaluation() if template == "held-out" else loaded.select(tasks.templates)).train[0]
    builder = ExampleBuilder(tasks.model_copy(update=dict.fromkeys(TASKS, 0.0)), inputs, seed)
    instances = by_event(inputs, 0, len(inputs.train), tasks, builder.size).take(inputs.train.offsets[1:] - 1)
    for need in (*loaded.needs, *chosen.needs):
        filled = has_value(need, instances, inputs) & (need != "rating" or len(stats.ratings) > 0)
        instances = instances.take(np.flatnonzero(filled))
    sampler = NegativeSampler(inputs, tasks.negatives == "popularity", stats.counts)
    instances = family.add_labels(instances, tasks, sampler, stream(seed, "choices", task))
    rows = builder.rows(task, chosen, instances) if len(instances) else SCHEMA.empty_table()
    slot = str(templates.parts(chosen.answer)[0][1])
    values = _possible_values(slot, instances, inputs, stats, task) if len(instances) else []
    answers = [[templates.fill(chosen.answer, {slot: [(value, slot, "")]})[0] for value in row] for row in values]
    target = [
        possible.index(answer) if answer in possible else -1
        for answer, possible in zip(rows["answer"].to_pylist(), answers, strict=True)
    ]
    return ChoiceExamples(rows, slot, values, answers, np.array(target, np.int64))


def _possible_values(
    slot: str, instances: Instances, inputs: TaskInputs, stats: TrainStats, task: str
) -> list[list[str]]:
    """Possible values of the slot of the answer, for each instance."""
    if slot == "verdict":
        return [["no", "yes"]] * len(instances)
    if slot == "rating":
        return [list(dict.fromkeys(map(format_rating, np.unique(stats.ratings))))] * len(instances)
    if instances.candidates is None or slot not in ("letter", "item"):
        raise PromptError(
            f"the answers of '{task}' are made of {{{slot}}}, so it has no few possible answers to judge it by. Answer "
            "with {letter}, {item}, {verdict} or {rating}, or give the task the weight 0."
        )
    if slot == "letter":
        return [list(string.ascii_uppercase[:count]) for count in (instances.candidates >= 0).sum(axis=1).tolist()]
    return [inputs.codes.take(pa.array(row[row >= 0])).to_pylist() for row in instances.candidates]
