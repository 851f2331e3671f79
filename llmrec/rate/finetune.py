"""Language models fine-tuned to predict ratings, by classes or by regression, every rating of a history at once.

The decoder is trained, all of it but its embeddings or its last layers, and a head (see `reader`).

Source: Kang et al. 2023, arXiv 2305.06474, section 3.3; supervising every rating of a history is ours.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import ConfigDict
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import pad as filled
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerBase, Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback
from typing_extensions import TypedDict

from llmrec.checked import read_checked
from llmrec.errors import ModelError
from llmrec.files import atomic_folder, write_json
from llmrec.model.base import load_base
from llmrec.model.loading import explained, model_from
from llmrec.rate.baselines import GlobalMean
from llmrec.rate.ratings import Ratings
from llmrec.rate.reader import STARTS, FineTuned, Head, Reader, Start
from llmrec.rate.rows import Row, Rows, windows
from llmrec.seed import seed_everything, stream
from llmrec.train.log import read_log
from llmrec.train.order import Order
from llmrec.train.packing import pack
from llmrec.train.watch import Watch, newest_checkpoint

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
    packed = _Packed(made, targets, training.row_tokens, seed)
    batch = min(training.batch, len(packed))
    arguments = TrainingArguments(
        output_dir=str(work),
        per_device_train_batch_size=batch,
        num_train_epochs=training.epochs,
        learning_rate=training.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=max(1, training.epochs * -(-len(packed) // batch) // 10),
        weight_decay=0.01,
        adam_beta2=0.98,
        bf16=True,
        use_cpu=not torch.cuda.is_available(),
        logging_steps=10,
        logging_nan_inf_filter=False,  # it would hide the loss that `Watch` stops on
        save_steps=training.save_every,
        save_total_limit=1,
        remove_unused_columns=False,
        seed=seed % 2**32,
        data_seed=seed % 2**32,
        report_to=[],
        disable_tqdm=True,
    )
    work.mkdir(parents=True, exist_ok=True)
    start = newest_checkpoint(work)
    order = Order(len(packed), batch, seed % 2**32)
    watch = Watch(work, progress, order, "--method", lambda numbers: f"packed rows {numbers}")
    loop = _Loop(watch, reader, arguments, packed)
    loop.train(resume_from_checkpoint=None if start is None else str(start))
    lines, log = [line for line in loop.state.log_history if "loss" in line], read_log(work / "log.jsonl")
    return {
        "ratings": int(sum(len(row.events) for row in made)),
        "tokens": int(sum(len(row.tokens) for row in made)),
        "steps": loop.state.global_step,
        "last loss": round(lines[-1]["loss"], 4) if lines else None,
        "seconds": round(float(log[-1]["seconds"]), 1) if log else 0.0,
    }


class _Loop(Trainer):
    """The loop of transformers, with our order of rows and an eye on every loss."""

    def __init__(self, watch: Watch, reader: Reader, arguments: TrainingArguments, packed: _Packed) -> None:
        self.watch = watch
        super().__init__(model=reader, args=arguments, train_dataset=packed, data_collator=_collate, callbacks=[watch])
        self.remove_callback(PrinterCallback)

    def _get_train_sampler(self, train_dataset: Any = None) -> Order:
        return self.watch.order

    def training_step(self, *given: Any, **named: Any) -> Tensor:
        """One pass; `Watch` looks at its loss later."""
        loss = super().training_step(*given, **named)
        self.watch.losses.append(loss)
        return loss


class _Packed(Dataset[dict[str, Tensor]]):
    """Several histories in a row, kept apart by restarting positions (see `train/packing`).

    Args:
        targets: (events,) what is to be read off.
    """

    def __init__(self, rows: list[Row], targets: np.ndarray, row_tokens: int, seed: int) -> None:
        lengths = np.array([len(row.tokens) for row in rows])
        order = stream(seed, "rate", "pack").permutation(len(rows))
        self.rows, self.targets = rows, targets
        self.packs = pack(lengths, row_tokens, order)

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, number: int) -> dict[str, Tensor]:
        parts = [self.rows[row] for row in self.packs[number]]
        return {
            "input_ids": torch.from_numpy(np.concatenate([part.tokens for part in parts])),
            "position_ids": torch.from_numpy(np.concatenate([np.arange(len(part.tokens)) for part in parts])),
            "targets": torch.from_numpy(np.concatenate([self._targets(part) for part in parts])),
        }

    def _targets(self, row: Row) -> np.ndarray:
        found = np.full(len(row.tokens), np.nan, np.float32)
        found[row.reads] = self.targets[row.events]
        return found


def _collate(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    width = max(len(row["input_ids"]) for row in rows)
    fill = {"input_ids": 0, "position_ids": 0, "targets": np.nan}
    return {
        name: torch.stack([filled(row[name], (0, width - len(row[name])), value=value) for row in rows])
        for name, value in fill.items()
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
