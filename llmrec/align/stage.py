"""A stage of alignment: the model it starts from, moments of training histories, the loop, a plain model folder."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from llmrec.align import preferring, reinforcing
from llmrec.align.ground import Ground, before
from llmrec.align.preflight import preflight
from llmrec.files import write_json
from llmrec.indexing.catalogue import Catalogue
from llmrec.model import folder as model_folder
from llmrec.model.adapt import adapt
from llmrec.model.merge import merged
from llmrec.model.vocabulary import new_token_ids
from llmrec.recipe import Alignment, Dpo, Grpo
from llmrec.train import loop, together
from llmrec.train.job import TrainJob
from llmrec.train.memory import explain_memory
from llmrec.train.order import Rows
from llmrec.train.watch import Progress


@dataclass(frozen=True)
class Ready:
    """What a method makes of the ground it stands on.

    Attributes:
        model: as it will be trained.
        rows: one a moment.
        way: how they become a loss.
        facts: for made.json.
        keep: writes what was learnt from into a folder.
    """

    model: Any
    rows: Rows
    way: loop.Way
    facts: dict[str, Any]
    keep: Callable[[Path], None]


def make(job: TrainJob, target: Path, progress: Progress) -> dict[str, Any]:
    """Align in a work folder that survives a kill, then write model/, adapter/, log.jsonl and what was learnt from.

    Of several processes that train together all call this, and the first one writes. Only the training part of the
    data is read.

    Args:
        job: a stage of alignment.
        target: the stage's folder.
        progress: called with the share done, 0 to 1.

    Returns:
        Facts for made.json; none but in the first process.

    Raises:
        ModelError: see `Ground.of` and `loop.train`.
        DataError: see `Ground.of` and `pairs.build`.
    """
    stage, previous, validate = job.stage, job.previous, job.validate
    assert isinstance(stage, Alignment) and previous, f"{job.name} aligns no model"
    if together.is_first():
        job.claim_work()
    begin = partial(before, previous, job.seed)
    with together.in_turn(), explain_memory(stage, job.name, job.adapt):
        ground = Ground.of(job, Catalogue.load(job.catalogue))
        ready = _READY[type(stage)](stage, ground, begin(), partial(_adapted, job, ground), job)
    around = loop.Around(
        job.name,
        job.adapt,
        (lambda model: validate(model, ground.tokenizer, ground.note)) if validate else None,
        ground.described,
        job.logs,
        job.report_to,
    )
    trained = sum(parameter.numel() for parameter in ready.model.parameters() if parameter.requires_grad)
    done = loop.train(ready.model, ready.rows, stage, ready.way, job.seed, job.work, 0.0, progress, around)
    if not together.is_first():
        return {}
    plain = merged(ready.model, ground.tokenizer, target, begin)
    model_folder.save(plain, ground.tokenizer, ground.note, target / "model")
    shutil.copy(job.work / "log.jsonl", target / "log.jsonl")
    ready.keep(target)
    return {"trained parameters": trained, "moments": len(ground.moments), **ready.facts, **done.facts}


def _adapted(job: TrainJob, ground: Ground, model: Any) -> Any:
    return adapt(model, job.model, job.adapt, new_token_ids(ground.tokenizer, ground.catalogue.tokens))


def _prefer(stage: Dpo, ground: Ground, model: Any, adapted: Callable[[Any], Any], job: TrainJob) -> Ready:
    pairs = preferring.pairs(stage, ground, model, job)
    model = adapted(model)
    rows = preferring.rows(ground, pairs, model, job.work)
    return Ready(
        model,
        rows,
        preferring.way(stage),
        {"pairs": pairs.rejected.size, "left out": pairs.dropped},
        lambda folder: pairs.save(
            ground.moments, ground.users, ground.catalogue, rows.reference, folder / "pairs.parquet"
        ),
    )


def _reinforce(stage: Grpo, ground: Ground, model: Any, adapted: Callable[[Any], Any], job: TrainJob) -> Ready:
    # adapters switched off are the model before, so only full training needs a copy of it
    reference = reinforcing.frozen(model) if job.adapt == "full" else None
    model = adapted(model)
    player = reinforcing.Player(stage, ground, job.seed, reference, teacher=job.teacher)
    found = preflight(player, model, job.name)
    rows = reinforcing.MomentRows(len(ground.moments))
    return Ready(
        model, rows, player.way(), {"preflight": found}, lambda folder: write_json(folder / "preflight.json", found)
    )


_READY: dict[type, Callable[..., Ready]] = {Dpo: _prefer, Grpo: _reinforce}
