"""Build the examples of each task, shard by shard: instances, candidates, a template for each, rendered text."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from llmrec.recipe import TASKS, Tasks
from llmrec.seed import stream
from llmrec.tasks import templates
from llmrec.tasks.inputs import TaskInputs
from llmrec.tasks.instances import (
    Instances,
    NegativeSampler,
    add_candidates,
    add_verdicts,
    by_event,
    by_item,
    by_user,
    by_window,
    repeat_by_weight,
    split_blocks,
)
from llmrec.tasks.render import SLOT_SPAN, has_value, render
from llmrec.tasks.templates import TaskTemplates, Template

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("prompt", "answer", "task", "user_id", "item_id")]
    + [("weight", pa.float32()), ("loss_on", pa.string()), ("slots", pa.list_(SLOT_SPAN))]
    # candidates as shown, and the label: for evaluation of choices, verdicts and ratings
    + [("candidates", pa.list_(pa.string())), ("label", pa.float32())]
)


@dataclass(frozen=True)
class Family:
    """What an example of a task is about, and which candidates it has.

    Attributes:
        instances: makes one instance per window, event, user or item.
        candidates: number of candidates, from the recipe; None for tasks without candidates.
        verdict: whether half of the instances have a wrong item, and the answer is yes or no.
    """

    instances: Callable[[TaskInputs, int, int, Tasks, int], Instances]
    candidates: Callable[[Tasks], int] | None = None
    verdict: bool = False

    def add_labels(
        self, instances: Instances, tasks: Tasks, sampler: NegativeSampler, rng: np.random.Generator
    ) -> Instances:
        """Add candidates or verdicts and their labels, where the task has them."""
        if self.verdict:
            return add_verdicts(instances, sampler, rng)
        if self.candidates:
            return add_candidates(instances, self.candidates(tasks), sampler, rng)
        return instances


FAMILIES = {
    **dict.fromkeys(("next_item", "sequential", "straightforward", "fused"), Family(by_window)),
    **dict.fromkeys(("item_to_text", "text_to_item"), Family(by_item)),
    **dict.fromkeys(("item_search", "chat"), Family(by_window)),
    "preference": Family(by_user),
    **dict.fromkeys(("rating", "explanation", "review_summary", "review_title", "review_rating"), Family(by_event)),
    "direct_pick": Family(by_window, lambda tasks: tasks.candidates),
    "rerank": Family(by_window, lambda tasks: tasks.options),
    "pairwise": Family(by_window, lambda tasks: 2),
    **dict.fromkeys(("direct_yes_no", "pointwise"), Family(by_window, verdict=True)),
}
assert set(FAMILIES) == set(TASKS)


@dataclass(frozen=True)
class Shard:
    """A block of rows (users or items) of one task."""

    task: str
    number: int
    first: int
    last: int

    @property
    def file(self) -> str:
        """File name below `examples/`."""
        return f"{self.task}-{self.number:05d}.arrow"


class ExampleBuilder:
    """Builds the examples of a recipe, shard by shard.

    Attributes:
        tasks: of the recipe.
        inputs: data of one split.
        seed: of templates, negatives and samples.
        size: items of a history in a prompt, at most.
    """

    def __init__(self, tasks: Tasks, inputs: TaskInputs, seed: int, held_out: bool = False) -> None:
        """Use the templates of training, or with `held_out` those kept for evaluation."""
        self.tasks, self.inputs, self.seed = tasks, inputs, seed
        self.size = max_history(tasks, inputs.levels)
        self.sampler = NegativeSampler(inputs, tasks.negatives == "popularity")
        loaded = {task: templates.load(task) for task in tasks.weights}
        self.templates = {
            task: found.for_evaluation() if held_out else found.select(tasks.templates)
            for task, found in loaded.items()
        }

    def shards(self) -> list[Shard]:
        """Shards of every task with a weight, in the recipe's order."""
        items, users = np.ones(self.inputs.n_items, np.int64), self.inputs.train.lengths
        return [
            Shard(task, number, first, last)
            for task in self.tasks.weights
            for number, (first, last) in enumerate(
                split_blocks(items if FAMILIES[task].instances is by_item else users)
            )
        ]

    def table(self, shard: Shard) -> tuple[pa.Table, Counter[str]]:
        """Build the examples of a shard; also return reason → number of instances left out."""
        instances, skipped, rng = self._instances(shard)
        if shard.task in self.tasks.max_examples:
            instances = instances.take(self._sampled[shard.task][shard.number])
        instances = FAMILIES[shard.task].add_labels(instances, self.tasks, self.sampler, rng)
        chosen = _choose_templates(self.templates[shard.task], instances, self.inputs, rng)
        if unmatched := int((chosen < 0).sum()):
            skipped["no template fits the known values"] += unmatched
        return self._rendered(self.templates[shard.task], instances, chosen), skipped

    def _instances(self, shard: Shard) -> tuple[Instances, Counter[str], np.random.Generator]:
        """Instances of a shard, repeated by weight; those without a needed value are left out and counted."""
        rng = stream(self.seed, shard.task, shard.number)
        family, skipped = FAMILIES[shard.task], Counter[str]()
        instances = family.instances(self.inputs, shard.first, shard.last, self.tasks, self.size)
        if family.instances is by_window:
            short = int((self.inputs.train.lengths[shard.first : shard.last] < 2).sum())
            skipped.update({"user with fewer than two training events": short} if short else {})
        for need in self.templates[shard.task].needs:
            filled = has_value(need, instances, self.inputs)
            if not filled.all():
                skipped[f"no {need}"] += int((~filled).sum())
                instances = instances.take(np.flatnonzero(filled))
        weight = self.tasks.weights[shard.task]
        return instances.take(repeat_by_weight(len(instances), weight, rng)), skipped, rng

    @cached_property
    def _sampled(self) -> dict[str, list[np.ndarray]]:
        """Task with `max_examples` → shard number → rows of the sample, which is drawn over all shards."""
        sampled = {}
        for task, most in self.tasks.max_examples.items():
            counts = [len(self._instances(shard)[0]) for shard in self.shards() if shard.task == task]
            total = sum(counts)
            chosen = np.sort(stream(self.seed, task, "cap").choice(total, min(most, total), replace=False))
            ends = np.cumsum(counts)
            parts = np.split(chosen, np.searchsorted(chosen, ends[:-1])) if counts else []
            sampled[task] = [part - start for part, start in zip(parts, ends - counts, strict=True)]
        return sampled

    def _rendered(self, task: TaskTemplates, instances: Instances, chosen: np.ndarray) -> pa.Table:
        """One table in the order of the instances, rendered template by template."""
        tables, order = [SCHEMA.empty_table()], []
        for number, template in enumerate(task.train):
            rows = np.flatnonzero(chosen == number)
            if len(rows):
                tables.append(self.rows(task.task, template, instances.take(rows)))
                order.append(rows)
        whole = pa.concat_tables(tables).combine_chunks()
        return whole.take(pa.array(np.argsort(np.concatenate(order)))) if order else whole

    def rows(self, task: str, template: Template, instances: Instances) -> pa.Table:
        """Render instances with one template, as a table of `SCHEMA`."""
        prompt = render(template.prompt, instances, self.inputs, self.tasks)
        answer = render(template.answer, instances, self.inputs, self.tasks)
        labels = instances.labels
        if "{rating}" in template.answer:
            labels = self.inputs.events["rating"].take(pa.array(instances.events)).cast(pa.float32()).to_numpy()
        count = len(instances)
        loss_on = self.tasks.loss_on if task == "next_item" else "target"
        columns = [
            prompt.texts,
            answer.texts,
            pa.repeat(pa.scalar(task), count),
            _ids(self.inputs.users, instances.users),
            _ids(self.inputs.item_ids, instances.items),
            pa.repeat(pa.scalar(1.0, pa.float32()), count),
            pa.repeat(pa.scalar(loss_on), count),
            prompt.slots,
            _candidate_ids(self.inputs, instances),
            pa.array(labels, pa.float32(), mask=np.isnan(labels)),
        ]
        return pa.Table.from_arrays(columns, schema=SCHEMA)


def max_history(tasks: Tasks, levels: int) -> int:
    """Most items in the history of a prompt of codes: `history`, or fewer if `history_tokens` allows fewer."""
    return tasks.history if tasks.history_tokens is None else max(1, min(tasks.history, tasks.history_tokens // levels))


def _choose_templates(
    task: TaskTemplates, instances: Instances, inputs: TaskInputs, rng: np.random.Generator
) -> np.ndarray:
    """(instances,) index of a random template among those whose further needs have values; -1 if none has."""
    extra = {need for template in task.train for need in template.needs}
    filled = {need: has_value(need, instances, inputs) for need in extra}
    everything = np.full(len(instances), True)
    fits = np.array([np.logical_and.reduce([everything, *(filled[n] for n in t.needs)]) for t in task.train])
    nth = (rng.random(len(instances)) * fits.sum(0)).astype(np.int64)
    chosen = np.argmax(np.cumsum(fits, axis=0) == nth + 1, axis=0)
    chosen[~fits.any(0)] = -1
    return chosen


def _ids(ids: pa.Array, numbers: np.ndarray) -> pa.Array:
    return ids.take(pa.array(numbers, mask=numbers < 0)).fill_null("")


def _candidate_ids(inputs: TaskInputs, instances: Instances) -> pa.Array:
    """(instances,) lists of candidate item ids, in the order shown; empty without candidates."""
    candidates = instances.candidates
    if candidates is None:
        candidates = np.zeros((len(instances), 0), np.int64)
    filled = candidates >= 0
    offsets = np.concatenate([[0], np.cumsum(filled.sum(1))])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), inputs.item_ids.take(pa.array(candidates[filled])))
