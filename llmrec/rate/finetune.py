"""Language models fine-tuned to predict ratings, by classes or by regression, every rating of a history at once.

The decoder (all of it but its embeddings, or its last layers) and a head are trained, see `rating_model`.

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
from llmrec.model.loading import as_model_error, model_from
from llmrec.rate.rating_model import (
    STARTS,
    FineTunedPredictor,
    Head,
    HistoryTokenizer,
    PackedHistories,
    RatingModel,
    Start,
    training_windows,
)
from llmrec.rate.ratings import Ratings
from llmrec.recipe import Sft
from llmrec.seed import seed_everything
from llmrec.train import loop
from llmrec.train.job import TrainContext
from llmrec.train.log import read_log
from llmrec.train.packing import collate

NOTE = "rating.json"


@dataclass(frozen=True)
class FineTuning:
    """How a model is fine-tuned.

    Attributes:
        head: classes or one number.
        over: what regression is added to: the training mean, or the user + item bias, which for a training rating is
            computed without it.
        share: of the training ratings, 0 to 1.
        epochs: passes over them.
        layers: trained layers, counted from the last; 0 for all.
        learning_rate: the highest; it rises for a tenth of the steps, then falls along a cosine.
        pack_length: tokens of a packed row.
        batch: packed rows of a step.
        window: ratings of one history; more than in a prompt, so that all lengths occur.
        save_every: steps between checkpoints.
    """

    head: Head = "regression"
    over: Start = "mean"
    share: float = 0.05
    epochs: int = 2
    layers: int = 0
    learning_rate: float = 1e-4
    pack_length: int = 512
    batch: int = 2
    window: int = 21
    save_every: int = 100


class ModelNote(TypedDict):
    """What rating.json must hold; its other keys are for people."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    head: str
    spread: float


def fine_tune(
    base: str,
    ratings: Ratings,
    tuning: FineTuning,
    seed: int,
    folder: Path,
    progress: Callable[[float], None],
    loaded: tuple[Any, PreTrainedTokenizerBase] | None = None,
) -> tuple[FineTunedPredictor, dict[str, Any]]:
    """Fine-tune on a share of the ratings, or load an earlier result; continues from a checkpoint after a kill.

    Args:
        base: as `load_base` takes it.
        seed: of rows, order and head.
        folder: for the model, `model/`, and while it trains, `.training/`.
        loaded: a model and its tokenizer, used instead of the base's.

    Returns:
        The predictor, and facts: ratings and tokens trained on, steps, seconds.

    Raises:
        ModelError: the loss is not finite, memory does not suffice, or the base or the result cannot be loaded.
    """
    seed_everything(seed)
    language, tokenizer = loaded or load_base(base, torch.float32)
    histories, start = HistoryTokenizer(ratings, tokenizer), STARTS[tuning.over](ratings)
    residuals = ratings.values - start.leave_one_out()
    model = RatingModel(language, tuning.head, histories.labels, float(residuals[ratings.train].std()) or 1.0)
    model.freeze_layers(tuning.layers)
    result = folder / "model"
    if not (result / NOTE).is_file():
        targets = ratings.scale.steps(ratings.values) if tuning.head == "classification" else residuals
        facts = _train(model, histories, targets, tuning, seed, folder / ".training", progress)
        with atomic_folder(result) as temporary:
            language.save_pretrained(temporary)
            tokenizer.save_pretrained(temporary)
            head = {name: value.contiguous() for name, value in model.head.state_dict().items()}
            save_file(head, temporary / "head.safetensors")
            write_json(temporary / NOTE, {"base": base, **asdict(tuning), **facts, "spread": model.spread})
        shutil.rmtree(folder / ".training", ignore_errors=True)
    note: dict[str, Any] = read_checked(result / NOTE, ModelNote, kind=ModelError)
    if note["head"] != model.kind:
        raise ModelError(f"{result} holds a head for {note['head']}. Choose another --out, or delete it.")
    model.decoder = model_from(result, torch.float32).get_decoder()
    with as_model_error(result / "head.safetensors"):
        model.head.load_state_dict(load_file(result / "head.safetensors"))
    model.spread = note["spread"]
    return FineTunedPredictor(model.to("cuda" if torch.cuda.is_available() else "cpu"), histories, start), note


def _train(
    model: RatingModel,
    histories: HistoryTokenizer,
    targets: np.ndarray,
    tuning: FineTuning,
    seed: int,
    work: Path,
    progress: Callable[[float], None],
) -> dict[str, Any]:
    """Train in place with the common loop; `targets` are as `RatingModel.loss` takes them."""
    windows = training_windows(histories.ratings, tuning.window, tuning.share, seed)
    packed = PackedHistories([histories.tokenize(events) for events in windows], tuning.pack_length, seed)
    batch = min(tuning.batch, len(packed))
    steps = tuning.epochs * -(-len(packed) // batch)
    stage = Sft(
        epochs=tuning.epochs,
        batch=batch,
        learning_rate=tuning.learning_rate,
        weight_decay=0.01,
        warmup=(max(1, steps // 10) - 0.5) / steps,  # a share, which the loop rounds up to whole steps
        precision="bf16",
        save_every=tuning.save_every,
        pack_length=tuning.pack_length,
    )
    objective = loop.Objective(partial(RatingModel.loss, targets=torch.from_numpy(targets).float()), collate)
    context = TrainContext(
        describe=lambda numbers: f"packed rows {numbers}",
        advice=f"Lower --learning-rate (now {tuning.learning_rate})",
    )
    try:
        trained = loop.train(model, packed, stage, objective, seed, work, 0.0, progress, context)  # type: ignore[arg-type]  # it has what the loop asks for
    except ModelError as error:
        if error.__cause__ is None:
            raise
        raise ModelError(
            f"out of memory while fine-tuning ({error.__cause__}). Train fewer layers, such as --layers 4, or take a "
            "smaller --model. The last checkpoint is kept: the same command goes on from there."
        ) from error.__cause__
    last = read_log(work / "log.jsonl")[-1]
    return {
        "ratings": packed.supervised,
        "tokens": packed.tokens,
        "steps": trained.facts["steps"],
        "last loss": round(float(last["loss"]), 4),
        "seconds": round(float(last["seconds"]), 1),
    }
