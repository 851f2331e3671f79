"""An alignment stage: load the model before it, train by the stage's method, and write a plain model folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from llmrec.align import dpo, grpo
from llmrec.align.context import AlignmentContext, PositionRows, StageBundle
from llmrec.indexing.catalogue import Catalogue
from llmrec.model import folder as model_folder
from llmrec.model.adapt import adapt
from llmrec.model.merge import merge_adapters
from llmrec.model.vocabulary import new_token_ids
from llmrec.recipe import Alignment, Dpo, Grpo
from llmrec.seed import seed_everything
from llmrec.train import distributed, loop
from llmrec.train.callbacks import Progress
from llmrec.train.job import TrainContext, TrainJob, explain_oom

METHODS: dict[type, Callable[..., StageBundle]] = {Dpo: dpo.prepare, Grpo: grpo.prepare}


def make(job: TrainJob, target: Path, progress: Progress) -> dict[str, Any]:
    """Align a model, and write model/, adapter/, log.jsonl and what was learnt from.

    Checkpoints are in the job's work folder, from which an interrupted training continues. With several processes all
    call this, and the first one writes. Only the training part of the data is read.

    Args:
        job: an alignment stage.
        target: the stage's folder.
        progress: called with the share done, 0 to 1.

    Returns:
        Facts for made.json; empty in all processes but the first.

    Raises:
        ModelError: see `AlignmentContext.load`, `grpo.preflight` and `loop.train`.
        DataError: see `AlignmentContext.load` and `build_pairs`.
    """
    stage, previous = job.stage, job.previous
    assert isinstance(stage, Alignment) and previous, f"{job.name} is not an alignment stage"
    if distributed.is_main_process():
        job.reset_workdir()

    def initial() -> PreTrainedModel:
        """The model that the stage starts from, the same at every call."""
        seed_everything(job.seed)
        return model_folder.load_model(previous, torch.float32)

    def adapted(model: PreTrainedModel) -> Any:
        """A model with the adapters of the stage."""
        return adapt(model, job.model, job.adapt, new_token_ids(context.tokenizer, context.catalogue.tokens))

    with distributed.main_process_first(), explain_oom(stage, job.name, job.adapt):
        context = AlignmentContext.load(job, Catalogue.load(job.catalogue))
        bundle = METHODS[type(stage)](stage, context, initial(), adapted, job)
    around = TrainContext.of(job, context.tokenizer, context.meta, context.describe)
    model = bundle.model
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    rows = PositionRows(len(context.positions))
    done = loop.train(model, rows, stage, bundle.objective, job.seed, job.work, 0.0, progress, around)
    if not distributed.is_main_process():
        return {}
    plain = merge_adapters(model, context.tokenizer, target, initial)
    model_folder.save(plain, context.tokenizer, context.meta, target / "model")
    shutil.copy(job.work / "log.jsonl", target / "log.jsonl")
    bundle.save(target)
    return {"trained parameters": trained, "positions": len(rows), **bundle.facts, **done.facts}
