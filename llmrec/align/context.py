"""What the alignment methods share: positions of training histories, their prompts, and the training objective."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase
from transformers.modeling_outputs import CausalLMOutput

from llmrec.contracts import Sequences
from llmrec.data.dataset import Dataset
from llmrec.decode.filters import Filter
from llmrec.errors import DataError, ModelError
from llmrec.indexing.catalogue import Catalogue
from llmrec.indexing.trie import Trie
from llmrec.items import read_texts
from llmrec.model import folder as model_folder
from llmrec.model.folder import ModelMeta
from llmrec.model.prompting import format_prompt
from llmrec.model.vocabulary import code_tokens, token_ids
from llmrec.recipe import Alignment
from llmrec.seed import stream
from llmrec.tasks import templates
from llmrec.tasks.examples import next_item_prompt
from llmrec.tasks.tokens import SegmentTokenizer
from llmrec.train.job import TrainJob, shorten
from llmrec.train.loop import Objective
from llmrec.train.packing import IGNORE

BLOCK = 1024  # prompts that are tokenized together


@dataclass(frozen=True)
class TrainPositions:
    """Positions of training histories: the event at each is the target, all earlier events are its history.

    Attributes:
        train: the training part of every history.
        users: (positions,) int64 row of `train`.
        index: (positions,) int64 number of events before the target.
        repeats: whether an item may be recommended again to a user who had it before.
        n_items: items of the catalogue.
    """

    train: Sequences
    users: np.ndarray
    index: np.ndarray
    repeats: bool
    n_items: int

    @classmethod
    def newest(cls, train: Sequences, most: int, repeats: bool, n_items: int) -> TrainPositions:
        """The newest positions of each training history that have a history.

        Args:
            most: positions of one history, at most.
            repeats: where False, an event that repeats an earlier item is not a target.

        Raises:
            DataError: no history has two events.
        """
        index = np.arange(len(train.items)) - train.offsets[train.rows]
        kept = (index > 0) & (index >= train.lengths[train.rows] - most)
        every = cls(train, train.rows, index, repeats, n_items)
        if not repeats:
            kept &= ~every.had_before(every.targets[:, None], np.arange(len(index)))[:, 0]
        if not kept.any():
            raise DataError("no training history has two events, so there is no position to align on.")
        return cls(train, train.rows[kept], index[kept], repeats, n_items)

    def __len__(self) -> int:
        return len(self.users)

    @cached_property
    def targets(self) -> np.ndarray:
        """(positions,) int32 the target item of each position."""
        return self.train.items[self.train.offsets[self.users] + self.index]

    def history(self, row: int) -> np.ndarray:
        """Item numbers before one position, oldest first."""
        start = self.train.offsets[self.users[row]]
        return self.train.items[start : start + self.index[row]]

    def histories(self, rows: Sequence[int] | np.ndarray) -> Sequences:
        """Histories of several positions."""
        return Sequences.of([self.history(int(row)) for row in rows])

    def filters(self, rows: Sequence[int] | np.ndarray, trie: Trie) -> list[Filter | None]:
        """Filter of each position: it denies the items of the history, unless `repeats`."""
        return [None if self.repeats else Filter.of(trie, self.history(int(row))) for row in rows]

    def had_before(self, items: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(rows, k) bool, whether the users had (rows, k) items before some positions."""
        first, _ = self._first_and_last(self.users[rows], items)
        return first < self.index[rows][:, None]

    def taken_later(self, items: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(rows, k) bool, whether the users take (rows, k) items at some positions or later, in the training part."""
        _, last = self._first_and_last(self.users[rows], items)
        return last >= self.index[rows][:, None]

    def _first_and_last(self, users: np.ndarray, items: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(rows, k) first and last index of (rows, k) items in the histories of users; a huge number and -1 if none."""
        keys, first, last = self._pairs
        wanted = users[:, None] * self.n_items + items
        place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        known = keys[place] == wanted
        return np.where(known, first[place], np.iinfo(np.int64).max), np.where(known, last[place], -1)

    @cached_property
    def _pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sorted keys of user-item pairs, and the first and the last index of each in its history."""
        index = np.arange(len(self.train.items)) - self.train.offsets[self.train.rows]
        pairs = self.train.rows * self.n_items + self.train.items
        keys, first = np.unique(pairs, return_index=True)
        _, from_end = np.unique(pairs[::-1], return_index=True)
        return keys, index[first], index[len(pairs) - 1 - from_end]


@dataclass(frozen=True)
class AlignmentContext:
    """The model before the stage, the positions to learn from, and their prompts.

    Attributes:
        tokenizer, meta: of the model before the stage.
        catalogue: of the run.
        tokens: (n_symbols,) the model's token of each symbol.
        positions: of the training histories.
        prompts: token ids of each position's prompt, each (length,).
        users: user id of each history.
        read_texts: reads the text of every item, for custom rewards.
    """

    tokenizer: PreTrainedTokenizerBase
    meta: ModelMeta
    catalogue: Catalogue
    tokens: np.ndarray
    positions: TrainPositions
    prompts: list[np.ndarray]
    users: list[str]
    read_texts: Callable[[], Sequence[str]] = tuple

    @classmethod
    def load(cls, job: TrainJob, catalogue: Catalogue) -> AlignmentContext:
        """Read tokenizer, training histories and texts of an alignment stage. Held-out events are not read.

        Raises:
            ModelError: the previous model has another catalogue or no prompt for recommending, or a prompt of one item
                is too long for it.
            DataError: see `TrainPositions.newest`.
        """
        stage, previous = job.stage, job.previous
        assert isinstance(stage, Alignment) and previous is not None
        tokenizer, meta = model_folder.load_tokenizer(previous)
        if meta.catalogue not in catalogue.lineage:
            raise ModelError(
                f"{previous}, the initial and reference model of this stage, was trained on the catalogue "
                f"{meta.catalogue[:12]}…, not on {catalogue.hash[:12]}…: its vocabulary names other items. Train it on "
                "the catalogue of this run first, or name its own run in model.init_from."
            )
        if not meta.prompt:
            raise ModelError(
                f"{previous}, which this stage starts from, was trained to judge candidates, not to recommend. Put a "
                "stage with method: sft before this one."
            )
        dataset = Dataset.load(job.data, texts=False)
        train = dataset.before("valid")
        positions = TrainPositions.newest(train, stage.max_positions, not job.exclude_seen, dataset.n_items)
        tokens, texts = token_ids(tokenizer, catalogue.tokens), cache(partial(read_texts, job.items, dataset.n_items))
        context = cls(tokenizer, meta, catalogue, tokens, positions, [], dataset.user_ids, texts)
        return replace(context, prompts=context._prompts(job, model_folder.context_length(previous)))

    def _prompts(self, job: TrainJob, window: int) -> list[np.ndarray]:
        """Token ids of every position's prompt, each from a random template of supervised training.

        Where a prompt and an answer are longer than `window`, the prompt loses its oldest items.
        """
        template = templates.load(job.tasks.recommending or "next_item").select(job.tasks.templates)
        usable = [variant for variant in template.train if not variant.needs]
        choice = stream(job.seed, "align", "wordings").integers(len(usable), size=len(self.positions))
        tokenize = SegmentTokenizer(self.tokenizer, special=not self.tokenizer.chat_template)
        room = window - self.catalogue.codes.shape[1]
        prompts: list[np.ndarray] = [np.zeros(0, np.int64)] * len(self.positions)
        rows = list(range(len(prompts)))
        for length in range(self.meta.history, 0, -1):
            for start in range(0, len(rows), BLOCK):
                block = rows[start : start + BLOCK]
                texts = [self._text(row, usable[choice[row]], length) for row in block]
                tokenized = tokenize(pa.array(texts, pa.string()))
                for number, row in enumerate(block):
                    prompts[row] = tokenized.text(number)[0]
            rows = [row for row in rows if len(prompts[row]) > room]
            if not rows:
                return prompts
        longest = max(len(prompts[row]) for row in rows)
        raise ModelError(f"a prompt of one item has {longest} tokens, but the model holds {window} with an answer.")

    def _text(self, row: int, variant: Any, length: int) -> str:
        history, user = self.positions.history(row)[-length:], self.users[self.positions.users[row]]
        return format_prompt(self.tokenizer, next_item_prompt(variant, history, self.catalogue, user)[0])[0]

    @property
    def item_tokens(self) -> np.ndarray:
        """(items, longest) int64 model tokens of every item's code, padded at the end by -1."""
        return code_tokens(self.catalogue.codes, self.tokens)

    def describe(self, rows: Iterable[int]) -> str:
        """Numbers and users of some positions, for messages."""
        known = [row for row in rows if row < len(self.positions)]
        users = shorten(self.users[self.positions.users[row]] for row in known)
        return f"positions {shorten(known)}; users {users}"


@dataclass(frozen=True)
class StageBundle:
    """What an alignment method gives to the training loop.

    Attributes:
        model: with its adapters.
        objective: maps batches of `PositionRows` to a loss.
        facts: for made.json.
        save: writes what was learnt from into a folder.
    """

    model: Any
    objective: Objective
    facts: dict[str, Any]
    save: Callable[[Path], None]


class PositionRows:
    """Training rows: the number of each position, and labels of which the loop counts one."""

    def __init__(self, count: int) -> None:
        self.count = count

    @property
    def empty(self) -> dict[str, Tensor]:
        """No position, and labels that count nothing."""
        return {"position": torch.tensor(-1), "labels": torch.full((2,), IGNORE)}

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {"position": torch.tensor(row), "labels": torch.tensor([IGNORE, 0])}


def collate(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Stack positions and labels of some rows."""
    return {name: torch.stack([row[name] for row in rows]) for name in ("position", "labels")}


def build_objective(
    prepare: Callable[[Any, np.ndarray, int, int], dict[str, Tensor]],
    losses: Callable[[Any, dict[str, Tensor], Tensor], Tensor],
    pop_means: Callable[[], dict[str, float]],
) -> Objective:
    """Build a training objective on rows of positions.

    Args:
        prepare: (model, (rows,) positions or -1, step, micro-batch) → batch with the scores of the `reference`.
        losses: (model, batch, (rows,) bool of rows that are positions) → (rows,) loss, 0 for other rows.
        pop_means: means to log since the last call.
    """

    def prepared(model: Any, inputs: dict[str, Tensor], step: int, micro_batch: int) -> dict[str, Tensor]:
        labels = inputs["labels"]
        batch = prepare(model, inputs["position"].cpu().numpy(), step, micro_batch)
        return {name: value.to(labels.device) for name, value in batch.items()} | {"labels": labels}

    def forward(model: Any, *, num_items_in_batch: Tensor | int | None = None, **batch: Tensor) -> CausalLMOutput:
        if "reference" not in batch:  # validation needs the model's own
            return type(model).forward(model, **batch)
        counted = batch["labels"][:, 1] != IGNORE
        total: Any = losses(model, batch, counted).sum()
        return CausalLMOutput(loss=total / (counted.sum() if num_items_in_batch is None else num_items_in_batch))

    return Objective(forward, collate, prepared, pop_means, no_dropout=True)


class RunningMeans:
    """Means of named values over all batches since the last `pop`; sums stay on the device."""

    def __init__(self) -> None:
        self.sums: dict[str, tuple[Tensor, int]] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        """Add values of any shape; each element counts once, and an empty tensor not at all."""
        for name, value in values.items():
            if value.numel():
                total, count = self.sums.get(name, (0, 0))
                self.sums[name] = total + value.detach().float().sum(), count + value.numel()

    def pop(self) -> dict[str, float]:
        """Return name → mean, and start again."""
        means = {name: float(total) / count for name, (total, count) in self.sums.items()}
        self.sums = {}
        return means
