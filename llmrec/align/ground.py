"""What every way of alignment stands on: the model before it, the moments to learn from, their prompts as tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmrec.align.moments import Moments, prompts
from llmrec.data.dataset import Dataset
from llmrec.errors import ModelError
from llmrec.indexing.catalogue import Catalogue
from llmrec.items.folder import read_texts
from llmrec.model import folder as model_folder
from llmrec.model.folder import Note
from llmrec.model.vocabulary import code_tokens, token_ids
from llmrec.recipe import Alignment
from llmrec.seed import seed_everything
from llmrec.train.job import TrainJob, shorten


@dataclass(frozen=True)
class Ground:
    """Where alignment begins.

    Attributes:
        tokenizer, note: of the model before it.
        catalogue: of the run.
        tokens: (n_symbols,) the model's token of each symbol.
        moments: of training histories.
        prompts: (length,) tokens of each moment's.
        users: id of each history.
        read_texts: reads the text of every item, for rewards of one's own.
    """

    tokenizer: PreTrainedTokenizerBase
    note: Note
    catalogue: Catalogue
    tokens: np.ndarray
    moments: Moments
    prompts: list[np.ndarray]
    users: list[str]
    read_texts: Callable[[], Sequence[str]] = tuple

    @classmethod
    def of(cls, job: TrainJob, catalogue: Catalogue) -> Ground:
        """Read words and histories; the training part of them alone.

        Args:
            job: a stage of alignment.
            catalogue: of the run.

        Raises:
            ModelError: the model before was trained on another catalogue, or lacks its tokens; or see `prompts`.
            DataError: see `Moments.newest`.
        """
        stage, previous = job.stage, job.previous
        assert isinstance(stage, Alignment) and previous is not None
        tokenizer, note = model_folder.load_words(previous)
        if note.catalogue not in catalogue.lineage:
            raise ModelError(
                f"{previous}, which this stage starts from and holds to, was trained on the catalogue "
                f"{note.catalogue[:12]}…, not on {catalogue.hash[:12]}…: its vocabulary names other items. Train it on "
                "the catalogue of this run first, or name its own run in model.init_from."
            )
        if not note.prompt:
            raise ModelError(
                f"{previous}, which this stage starts from, was trained to judge candidates, not to recommend. Put a "
                "stage with method: sft before this one."
            )
        dataset = Dataset.load(job.data, texts=False)
        train = dataset.before("valid")
        moments = Moments.newest(train, stage.max_positions, not job.exclude_seen, dataset.n_items)
        window = model_folder.window(previous)
        users, task = dataset.user_ids, job.tasks.recommending or "next_item"
        asked = prompts(moments, tokenizer, catalogue, users, task, note.history, job.tasks.templates, window, job.seed)
        tokens = token_ids(tokenizer, catalogue.tokens)
        texts = cache(partial(read_texts, job.items, dataset.n_items))
        return cls(tokenizer, note, catalogue, tokens, moments, asked, users, texts)

    @property
    def codes(self) -> np.ndarray:
        """(items, longest) int64 model tokens of every item's code, padded at the end by -1."""
        return code_tokens(self.catalogue.codes, self.tokens)

    def described(self, rows: Iterable[int]) -> str:
        """What some moments are, for messages."""
        numbers = [row for row in rows if row < len(self.moments)]
        return f"moments {shorten(numbers)}; users {shorten(self.users[self.moments.users[row]] for row in numbers)}"


def before(previous: Path, seed: int) -> PreTrainedModel:
    """The model that a stage starts from; the same whenever it is asked for."""
    seed_everything(seed)
    return model_folder.load_model(previous, torch.float32)
