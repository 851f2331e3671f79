"""Makes the examples of one shard after another: cases, offers, a wording for each, text."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pyarrow as pa

from llmrec.recipe import Tasks
from llmrec.seed import stream
from llmrec.tasks import cases as casing
from llmrec.tasks import slots, templates
from llmrec.tasks.cases import Cases
from llmrec.tasks.families import FAMILIES
from llmrec.tasks.offers import Draw, offer
from llmrec.tasks.render import SLOT, render
from llmrec.tasks.source import Source
from llmrec.tasks.templates import Template, Wording

SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("prompt", "answer", "task", "user_id", "item_id")]
    + [("weight", pa.float32()), ("loss_on", pa.string()), ("slots", pa.list_(SLOT))]
    # what an evaluation of ratings, verdicts and choices needs: the items on offer as shown, and which is right
    + [("candidates", pa.list_(pa.string())), ("label", pa.float32())]
)


@dataclass(frozen=True)
class Shard:
    """A run of rows (of users or items) of one task."""

    task: str
    number: int
    first: int
    last: int

    @property
    def file(self) -> str:
        """Its name below `examples/`."""
        return f"{self.task}-{self.number:05d}.arrow"


class Maker:
    """Makes the examples of a recipe, shard by shard.

    Attributes:
        tasks: weights and window.
        source: the training part.
        seed: of wordings and samples.
        size: items of a history that a prompt holds.
    """

    def __init__(self, tasks: Tasks, source: Source, seed: int, held_out: bool = False) -> None:
        """Make examples to learn from, or, in wordings that are held out, to ask a trained model."""
        self.tasks, self.source, self.seed = tasks, source, seed
        self.size = items_held(tasks, source.levels)
        self.wrong = Draw(source, tasks.negatives == "popularity")
        loaded = {task: templates.load(task) for task in tasks.weights}
        self.templates = {n: t.kept() if held_out else t.chosen(tasks.templates) for n, t in loaded.items()}

    def shards(self) -> list[Shard]:
        """Shards of every task that has a weight, in the recipe's order."""
        items, users = np.ones(self.source.n_items, np.int64), self.source.train.lengths
        return [
            Shard(task, number, first, last)
            for task in self.tasks.weights
            for number, (first, last) in enumerate(
                casing.blocks(items if FAMILIES[task].cases is casing.by_item else users)
            )
        ]

    def table(self, shard: Shard) -> tuple[pa.Table, Counter[str]]:
        """The examples of a shard, and reason → number of cases left out."""
        cases, skipped, draw = self._cases(shard)
        if shard.task in self.tasks.max_examples:
            cases = cases.take(self._kept[shard.task][shard.number])
        family = FAMILIES[shard.task]
        cases = offer(cases, family.offers, family.places(self.tasks), self.wrong, draw)
        template = self.templates[shard.task]
        chosen, unasked = _choose(template, cases, self.source, draw)
        skipped.update({reason: count for reason, count in unasked.items() if count})
        return self._rendered(template, cases, chosen), skipped

    def _cases(self, shard: Shard) -> tuple[Cases, Counter[str], np.random.Generator]:
        """Cases of a shard as often as the weight says, those without what the task needs left out and counted."""
        draw = stream(self.seed, shard.task, shard.number)
        family, skipped = FAMILIES[shard.task], Counter[str]()
        cases = family.cases(self.source, shard.first, shard.last, self.tasks, self.size)
        if family.cases is casing.by_window:
            short = int((self.source.train.lengths[shard.first : shard.last] < 2).sum())
            skipped.update({"user with fewer than two training events": short} if short else {})
        for need in self.templates[shard.task].needs:
            there = slots.has(need, cases, self.source)
            if not there.all():
                skipped[f"no {need}"] += int((~there).sum())
                cases = cases.take(np.flatnonzero(there))
        return cases.take(casing.copies(len(cases), self.tasks.weights[shard.task], draw)), skipped, draw

    @cached_property
    def _kept(self) -> dict[str, list[np.ndarray]]:
        """Capped task → shard number → cases of it that are kept: a sample over all shards, in order."""
        kept = {}
        for task, cap in self.tasks.max_examples.items():
            counts = [len(self._cases(shard)[0]) for shard in self.shards() if shard.task == task]
            total = sum(counts)
            chosen = np.sort(stream(self.seed, task, "cap").choice(total, min(cap, total), replace=False))
            ends = np.cumsum(counts)
            parts = np.split(chosen, np.searchsorted(chosen, ends[:-1])) if counts else []
            kept[task] = [part - start for part, start in zip(parts, ends - counts, strict=True)]
        return kept

    def _rendered(self, template: Template, cases: Cases, chosen: np.ndarray) -> pa.Table:
        """One table in the order of the cases, rendered wording by wording."""
        tables, order = [SCHEMA.empty_table()], []
        for number, wording in enumerate(template.train):
            rows = np.flatnonzero(chosen == number)
            if len(rows):
                tables.append(self.rows(template.task, wording, cases.take(rows)))
                order.append(rows)
        whole = pa.concat_tables(tables).combine_chunks()
        return whole.take(pa.array(np.argsort(np.concatenate(order)))) if order else whole

    def rows(self, task: str, wording: Wording, cases: Cases) -> pa.Table:
        """Examples of some cases in one wording."""
        prompt = render(wording.prompt, cases, self.source, self.tasks)
        answer = render(wording.answer, cases, self.source, self.tasks)
        labels = cases.labels
        if "{rating}" in wording.answer:
            labels = self.source.events["rating"].take(pa.array(cases.events)).cast(pa.float32()).to_numpy()
        count = len(cases)
        loss_on = self.tasks.loss_on if task == "next_item" else "target"
        columns = [
            prompt.texts,
            answer.texts,
            pa.repeat(pa.scalar(task), count),
            _named(self.source.users, cases.users),
            _named(self.source.item_ids, cases.items),
            pa.repeat(pa.scalar(1.0, pa.float32()), count),
            pa.repeat(pa.scalar(loss_on), count),
            prompt.slots,
            _offered(self.source, cases),
            pa.array(labels, pa.float32(), mask=np.isnan(labels)),
        ]
        return pa.Table.from_arrays(columns, schema=SCHEMA)


def items_held(tasks: Tasks, levels: int) -> int:
    """Items of a history that a prompt of codes holds: `history`, or fewer where `history_tokens` ends before."""
    return tasks.history if tasks.history_tokens is None else max(1, min(tasks.history, tasks.history_tokens // levels))


def _choose(
    template: Template, cases: Cases, source: Source, draw: np.random.Generator
) -> tuple[np.ndarray, dict[str, int]]:
    """A wording for each case, by chance among those whose further needs it meets.

    Returns:
        (cases,) number of the wording, -1 where none fits; and reason → how many that is.
    """
    extra = {need for wording in template.train for need in wording.needs}
    there = {need: slots.has(need, cases, source) for need in extra}
    fits = np.array(
        [np.logical_and.reduce([there[n] for n in w.needs] or [np.full(len(cases), True)]) for w in template.train]
    )
    nth = (draw.random(len(cases)) * fits.sum(0)).astype(np.int64)
    chosen = np.argmax(np.cumsum(fits, axis=0) == nth + 1, axis=0)
    chosen[~fits.any(0)] = -1
    return chosen, {"no wording fits what is known": int((chosen < 0).sum())}


def _named(ids: pa.Array, numbers: np.ndarray) -> pa.Array:
    return ids.take(pa.array(numbers, mask=numbers < 0)).fill_null("")


def _offered(source: Source, cases: Cases) -> pa.Array:
    """(cases,) lists of the item ids on offer, in the order shown; empty lists where nothing is."""
    if cases.offers is None:
        return pa.ListArray.from_arrays(pa.array(np.zeros(len(cases) + 1, np.int32)), pa.array([], pa.string()))
    kept = cases.offers >= 0
    offsets = np.concatenate([[0], np.cumsum(kept.sum(1))])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), source.item_ids.take(pa.array(cases.offers[kept])))
