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
from llmrec.data.dataset import Dataset
from llmrec.files import write_json
from llmrec.indexing.catalogue import Catalogue
from llmrec.model import folder as model_folder
from llmrec.model.adapt import adapt
from llmrec.model.merge import merged
from llmrec.model.vocabulary import new_token_ids
from llmrec.recipe import Aligning, Grpo, Prefer, Recipe
from llmrec.train import loop, together
from llmrec.train.memory import explain_memory
from llmrec.train.order import Rows
from llmrec.train.stage import Validate, claim
from llmrec.train.watch import Progress


@dataclass(frozen=True)
class Place:
    """Where a stage reads and writes.

    Attributes:
        number: of the training stage, from 1.
        key: hash of all that the result depends on; a work folder of another key is thrown away.
        previous: the model folder to go on from.
        work: what survives a kill.
        target: the stage's folder.
        logs: folder for trackers; None for none.
    """

    number: int
    key: str
    previous: Path
    work: Path
    target: Path
    logs: Path | None = None


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


def make(
    recipe: Recipe,
    place: Place,
    dataset: Dataset,
    catalogue: Catalogue,
    progress: Progress,
    validate: Validate | None = None,
) -> dict[str, Any]:
    """Align in a work folder that survives a kill, then write model/, adapter/, log.jsonl and what was learnt from.

    Of several processes that train together all call this, and the first one writes.

    Args:
        recipe: of the run.
        place: which stage, where.
        dataset: of the run; its training part alone is read.
        catalogue: for the item tokens.
        progress: told the share done.
        validate: the figures of validation, where the recipe asks for them.

    Returns:
        Facts for made.json; none but in the first process.

    Raises:
        ModelError: see `Ground.of` and `loop.train`.
        DataError: see `Ground.of` and `pairs.build`.
    """
    part, name = recipe.train[place.number - 1], f"train.{place.number - 1}"
    assert isinstance(part, Aligning), f"{name} is supervised fine-tuning"
    if together.is_first():
        claim(place.work, place.key)
    method, begin = part.adapt or recipe.model.adapt, partial(before, place.previous, recipe.seed)
    with together.in_turn(), explain_memory(part, name, method):
        ground = Ground.of(recipe, part, place.previous, dataset, catalogue)
        adapted = partial(_adapted, recipe, method, ground)
        ready = _READY[type(part)](part, ground, begin(), adapted, recipe.seed, place)
    around = loop.Around(
        name,
        method,
        (lambda model: validate(model, ground.tokenizer, ground.note)) if validate else None,
        ground.described,
        place.logs,
        recipe.launch.report_to,
    )
    trained = sum(parameter.numel() for parameter in ready.model.parameters() if parameter.requires_grad)
    done = loop.train(ready.model, ready.rows, part, ready.way, recipe.seed, place.work, 0.0, progress, around)
    if not together.is_first():
        return {}
    plain = merged(ready.model, ground.tokenizer, place.target, begin)
    model_folder.save(plain, ground.tokenizer, ground.note, place.target / "model")
    shutil.copy(place.work / "log.jsonl", place.target / "log.jsonl")
    ready.keep(place.target)
    return {"trained parameters": trained, "moments": len(ground.moments), **ready.facts, **done.facts}


def _adapted(recipe: Recipe, method: Any, ground: Ground, model: Any) -> Any:
    return adapt(model, recipe.model, method, new_token_ids(ground.tokenizer, ground.catalogue.tokens))


def _prefer(part: Prefer, ground: Ground, model: Any, adapted: Callable[[Any], Any], seed: int, place: Place) -> Ready:
    pairs = preferring.pairs(part, ground, model, seed, place.work)
    model = adapted(model)
    rows = preferring.rows(ground, pairs, model, place.work)
    return Ready(
        model,
        rows,
        preferring.way(part),
        {"pairs": pairs.rejected.size, "left out": pairs.dropped},
        lambda folder: pairs.save(
            ground.moments, ground.users, ground.catalogue, rows.reference, folder / "pairs.parquet"
        ),
    )


def _reinforce(part: Grpo, ground: Ground, model: Any, adapted: Callable[[Any], Any], seed: int, place: Place) -> Ready:
    twin = reinforcing.frozen(model)
    model = adapted(model)
    reference = None if hasattr(model, "disable_adapter") else twin
    player = reinforcing.Player(part, ground, seed, reference)
    found = preflight(player, model, f"train.{place.number - 1}")
    rows = reinforcing.MomentRows(len(ground.moments))
    return Ready(
        model, rows, player.way(), {"preflight": found}, lambda folder: write_json(folder / "preflight.json", found)
    )


_READY: dict[type, Callable[..., Ready]] = {Prefer: _prefer, Grpo: _reinforce}
