"""Training on preferences: rows of a prompt and its answers, the reference's log-probabilities once, the loss."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers.modeling_outputs import CausalLMOutput

from llmrec.align import rejected
from llmrec.align.figures import Figures
from llmrec.align.ground import Ground
from llmrec.align.losses import margin, preference
from llmrec.align.pairs import Candidates, Pairs, build
from llmrec.align.tree import answer_logprobs, plant
from llmrec.decode.scorer import Scorer
from llmrec.files import atomic_file
from llmrec.recipe import Dpo
from llmrec.seed import stream
from llmrec.train.job import TrainJob
from llmrec.train.loop import Way
from llmrec.train.packing import IGNORE

COUNTS = torch.tensor([IGNORE, 0])  # the loop counts labels behind the first: one a row that counts, and none in empty
BATCH = 16  # rows whose reference is computed together


class PairRows:
    """A row for each moment: its prompt, the codes of the item taken and of those rejected, and their reference."""

    def __init__(self, prompts: Sequence[np.ndarray], codes: np.ndarray, items: np.ndarray) -> None:
        """Put rows together.

        Args:
            prompts: (length,) tokens of each moment's.
            codes: (items, longest) model tokens of every item's code, padded at the end by -1.
            items: (moments, answers) item numbers, the chosen one first.
        """
        self.prompts, self.codes, self.items = prompts, codes, items
        self.reference = np.zeros(items.shape, np.float32)

    @property
    def empty(self) -> dict[str, Tensor]:
        """A prompt of one token without answers."""
        shape = (self.items.shape[1], self.codes.shape[1])
        nothing = {"prompt": torch.zeros(1, dtype=torch.long), "answers": torch.full(shape, -1)}
        return nothing | {"reference": torch.zeros(shape[0]), "labels": torch.full((2,), IGNORE)}

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        return {
            "prompt": torch.from_numpy(self.prompts[row]),
            "answers": torch.from_numpy(self.codes[self.items[row]]),
            "reference": torch.from_numpy(self.reference[row]),
            "labels": COUNTS,
        }


def collate(rows: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tree of some rows, and beside it their reference and labels."""
    tree = plant([row["prompt"].numpy() for row in rows], [row["answers"].numpy() for row in rows])
    return tree | {name: torch.stack([row[name] for row in rows]) for name in ("reference", "labels")}


@torch.no_grad()
def reference_logprobs(model: Any, rows: PairRows) -> np.ndarray:
    """(rows, answers) float32 log-probability of every answer under a model as it stands, in nats."""
    device, found = next(model.parameters()).device, np.zeros(rows.items.shape, np.float32)
    order = np.argsort([len(prompt) for prompt in rows.prompts], kind="stable")  # like lengths share a batch
    model.eval()
    for start in range(0, len(order), BATCH):
        some = order[start : start + BATCH]
        tree = {name: value.to(device) for name, value in collate([rows[int(row)] for row in some]).items()}
        found[some] = answer_logprobs(model, tree).sum(2).cpu().numpy()
    return found


def pairs(settings: Dpo, ground: Ground, model: Any, job: TrainJob) -> Pairs:
    """The pairs of a stage, kept in its work folder.

    Args:
        settings: of the recipe.
        ground: moments and catalogue.
        model: before the stage; its beams are asked for where the recipe wants them.
        job: seed, teacher, and the work folder that keeps pairs for a training that is gone on with.

    Raises:
        DataError: see `pairs.build`.
    """
    kept = job.work / "pairs.npz"
    if kept.is_file():
        with np.load(kept, allow_pickle=False) as found:
            dropped = json.loads(str(found["dropped"]))
            return Pairs(ground.moments.taken, found["rejected"], found["kinds"], dropped)
    made = build(ground.moments, settings.negatives, _sources(settings, ground, model, job))
    with atomic_file(kept) as file, file.open("wb") as sink:
        np.savez(sink, rejected=made.rejected, kinds=made.kinds.astype("U16"), dropped=json.dumps(made.dropped))
    return made


def _sources(settings: Dpo, ground: Ground, model: Any, job: TrainJob) -> dict[str, Candidates]:
    moments, seed = ground.moments, job.seed
    found = {
        "random": rejected.at_random(moments, stream(seed, "align", "random")),
        "popular": rejected.popular(moments, stream(seed, "align", "popular")),
    }
    if "teacher" in settings.negatives:
        assert job.teacher is not None, f"{job.name} has no teacher"
        found["teacher"] = rejected.taught(moments, job.teacher())
    if "beams" in settings.negatives:
        trie = ground.catalogue.trie
        found["beams"] = rejected.own_beams(moments, Scorer(model), trie, ground.tokens, ground.prompts)
    return found


def rows(ground: Ground, made: Pairs, model: Any, work: Path) -> PairRows:
    """Rows of pairs with their reference, which is asked of the model before its first step, once.

    Args:
        ground: prompts and catalogue.
        made: the pairs.
        model: as it will be trained; adapters begin as nothing, and a quantized base is its own reference.
        work: folder that keeps the reference for a training that is gone on with.
    """
    found = PairRows(ground.prompts, ground.codes, np.concatenate([made.chosen[:, None], made.rejected], 1))
    kept = work / "reference.npy"
    if not kept.is_file():
        values = reference_logprobs(model, found)
        with atomic_file(kept) as file, file.open("wb") as sink:
            np.save(sink, values)
    found.reference = np.load(kept)
    return found


def way(settings: Dpo) -> Way:
    """How rows of pairs become the loss that a recipe asks for."""
    figures = Figures()
    return Way(partial(_forward, settings, figures), collate, figures=figures.told, quiet=True)


def _forward(
    settings: Dpo,
    figures: Figures,
    model: Any,
    input_ids: Tensor,
    answers: Tensor | None = None,
    reference: Tensor | None = None,
    labels: Tensor | None = None,
    num_items_in_batch: Tensor | int | None = None,
    **inputs: Tensor,
) -> CausalLMOutput:
    """What takes the place of `model.forward`; without answers, the model's own: validation asks for it."""
    if answers is None or labels is None or reference is None:
        return type(model).forward(model, input_ids=input_ids, labels=labels, **inputs)
    tree = {"input_ids": input_ids, "answers": answers, **inputs}
    counts = labels[:, 1] != IGNORE
    scores = answer_logprobs(model, tree).sum(2)
    lengths = (answers != IGNORE).sum(2).clamp(min=1)
    losses, gained = preference(settings.method, scores, reference, lengths, settings.beta)
    if settings.sft:
        losses = losses - settings.sft * scores[:, 0] / lengths[:, 0]
    ahead, right = margin(gained[counts])
    figures.add({"margin": ahead, "accuracy": right, "chosen gain": gained[counts, 0]})
    total = counts.sum() if num_items_in_batch is None else num_items_in_batch
    loss: Any = (losses * counts).sum() / total
    return CausalLMOutput(loss=loss)
