"""Language models fine-tuned to predict ratings, by classes or by regression, every rating of a history at once.

The decoder is trained, all of it but its embeddings or its last layers, and a head (see `reader`).

Source: Kang et al. 2023, arXiv 2305.06474, section 3.3; supervising every rating of a history is ours.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ConfigDict
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase
from typing_extensions import TypedDict

from llmrec.checked import read_checked
from llmrec.errors import ModelError
from llmrec.files import atomic_folder, write_json
from llmrec.model.base import load_base
from llmrec.model.loading import explained, model_from
from llmrec.rate.baselines import GlobalMean
from llmrec.rate.ratings import Ratings
from llmrec.rate.reader import STARTS, FineTuned, Head, Reader, Start
from llmrec.rate.rows import PackedHistories, Rows, windows
from llmrec.recipe import Sft
from llmrec.seed import seed_everything
from llmrec.train import loop
from llmrec.train.log import read_log
from llmrec.train.packing import collate

NOTE = "rating.json"


@dataclass(frozen=True)
class Training:
    """How it is trained.

    Attributes:
        head: classes or one number.
        over: what regression starts from and adds to: the training mean, or the user + item bias of all training
            ratings, each without the one that is asked for.
        share: of the training ratings, 0 to 1.
        epochs: passes over them.
        layers: that are trained, counted from the last; 0 for all. The rest stay as they were, which takes less time.
        learning_rate: the highest; it climbs for a tenth of the steps, then falls along a cosine.
        row_tokens: of a packed row.
        batch: packed rows of a step.
        window: ratings of one row; more than a prompt's history, so that all lengths are met.
        save_every: steps between checkpoints.
    """

    head: Head = "regression"
    over: Start = "mean"
    share: float = 0.05
    epochs: int = 2
    layers: int = 0
    learning_rate: float = 1e-4
    row_tokens: int = 512
    batch: int = 2
    window: int = 21
    save_every: int = 100


def fine_tune(
    base: str, ratings: Ratings, training: Training, seed: int, folder: Path, progress: Callable[[float], None],
    loaded: tuple[Any, PreTrainedTokenizerBase] | None = None,
) -> tuple[FineTuned, dict[str, Any]]:  # fmt: skip
    """Train on a share of the ratings, or read what an earlier call left; goes on from a checkpoint after a kill.

    Args:
        base: as `load_base` takes it.
        seed: of rows, order and head.
        folder: for the model, `model/`, and while it trains, `.training/`.
        loaded: a model and its tokenizer instead of the base's.

    Returns:
        The predictor, and facts: ratings and tokens trained on, steps, seconds.

    Raises:
        ModelError: the loss is not a number, or the base cannot be loaded.
    """
    seed_everything(seed)
    language, tokenizer = loaded or load_base(base, torch.float32)
    rows = Rows(ratings, tokenizer)
    start = STARTS[training.over](ratings)
    left = ratings.given - start.without_itself()
    reader = Reader(language, training.head, rows.words, float(left[ratings.train].std()) or 1.0)
    reader.freeze(training.layers)
    if not (folder / "model" / NOTE).is_file():
        facts = _train(reader, rows, left, training, seed, folder / ".training", progress)
        _save(reader, language, tokenizer, {"base": base, **asdict(training), **facts}, folder / "model")
        shutil.rmtree(folder / ".training", ignore_errors=True)
    return _load(reader, rows, start, folder / "model")


def _train(
    reader: Reader, rows: Rows, left: np.ndarray, training: Training, seed: int, work: Path,
    progress: Callable[[float], None],
) -> dict[str, Any]:  # fmt: skip
    ratings = rows.ratings
    made = [rows.of(events) for events in windows(ratings, training.window, training.share, seed)]
    targets = ratings.scale.numbers(ratings.given) if training.head == "classification" else left
    packed = PackedHistories(made, training.row_tokens, seed)
    batch = min(training.batch, len(packed))
    steps = training.epochs * -(-len(packed) // batch)
    stage = Sft(
        epochs=training.epochs,
        batch=batch,
        learning_rate=training.learning_rate,
        weight_decay=0.01,
        warmup=(max(1, steps // 10) - 0.5) / steps,  # a share, which the loop rounds up to whole steps
        precision="bf16",
        save_every=training.save_every,
        row_tokens=training.row_tokens,
    )
    way = loop.Way(partial(Reader.loss, targets=torch.from_numpy(targets).float()), collate)
    around = loop.Around("--method", described=lambda numbers: f"packed rows {numbers}")
    try:
        found = loop.train(reader, packed, stage, way, seed, work, 0.0, progress, around)  # type: ignore[arg-type]  # it has what the loop asks for
    except ModelError as error:
        if error.__cause__ is None:
            raise
        raise ModelError(
            f"out of memory while fine-tuning ({error.__cause__}). Train fewer layers, such as --layers 4, or take a "
            "smaller --model. The last checkpoint is kept: the same command goes on from there."
        ) from error.__cause__
    log = read_log(work / "log.jsonl")
    return {
        "ratings": packed.supervised,
        "tokens": packed.tokens,
        "steps": found.facts["steps"],
        "last loss": round(float(log[-1]["loss"]), 4),
        "seconds": round(float(log[-1]["seconds"]), 1),
    }


def _save(reader: Reader, language: Any, tokenizer: Any, note: dict[str, Any], folder: Path) -> None:
    """A plain folder of transformers, and beside it the head."""
    with atomic_folder(folder) as temporary:
        language.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        save_file(
            {name: value.contiguous() for name, value in reader.head.state_dict().items()},
            temporary / "head.safetensors",
        )
        write_json(temporary / NOTE, {**note, "spread": reader.spread})


class _Note(TypedDict):
    """rating.json, as far as it is read again."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    head: str
    spread: float


def _load(reader: Reader, rows: Rows, start: GlobalMean, folder: Path) -> tuple[FineTuned, dict[str, Any]]:
    note: dict[str, Any] = read_checked(folder / NOTE, _Note, kind=ModelError)
    if note["head"] != reader.kind:
        raise ModelError(f"{folder} holds a head for {note['head']}. Choose another --out, or delete it.")
    reader.decoder = model_from(folder, torch.float32).get_decoder()
    with explained(folder / "head.safetensors"):
        reader.head.load_state_dict(load_file(folder / "head.safetensors"))
    reader.spread = note["spread"]
    return FineTuned(reader.to("cuda" if torch.cuda.is_available() else "cpu"), rows, start), note
