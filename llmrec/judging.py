"""Judging a run: its held-out items ranked by its last model, in a folder beside that model.

A recipe is judged on the part that its `evaluate.target` names, in `eval/`. One that is judged on validation keeps its
test part shut: `look` opens it, leaves the figures in `eval-test/`, and a line in the ledger.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from llmrec import ledger
from llmrec.data.content import content_hash
from llmrec.data.dataset import Dataset
from llmrec.files import hash_file
from llmrec.git import commit
from llmrec.indexing.catalogue import Catalogue
from llmrec.recipe import Evaluate, Recipe
from llmrec.recipe_file import fingerprint, recipe_of, shipped_name
from llmrec.run_files import read_made, read_metrics, read_texts, read_vectors
from llmrec.stage import Stage, lock, made_hash
from llmrec.stale import refuse_stale

Target = Literal["valid", "test"]
_EVALUATE = 3  # format number: raise it to judge every run anew


def stage_of(recipe: Recipe, out: Path, trained: Path, target: Target) -> Stage:
    """The stage that judges a trained model on a part.

    Args:
        recipe: of the run.
        out: the run folder, with its data made.
        trained: the folder of a finished training stage in it.
        target: the part that is predicted.
    """
    settings = recipe.evaluate.model_copy(update={"target": target})
    name = "eval" if target == recipe.evaluate.target else f"eval-{target}"
    inputs = {"data": made_hash(out / "data"), "model": made_hash(trained)}
    return Stage(trained / name, _EVALUATE, settings.model_dump(mode="json"), inputs, recipe.seed)


def judge(
    recipe: Recipe, out: Path, trained: Path, stage: Stage, folder: Path, progress: Callable[[float], None]
) -> dict[str, Any]:
    """Rank, compare with the baselines, and let the model write where the recipe asks for it; facts for made.json.

    Args:
        recipe: of the run.
        out: the run folder.
        trained: the folder of the training stage that is judged.
        stage: from `stage_of`.
        folder: to fill.
        progress: told the share done, 0 to 1.
    """
    from llmrec.decode.blend import blender
    from llmrec.decode.recommender import Recommender
    from llmrec.evaluate.ranking import evaluate

    settings, dataset = Evaluate.model_validate(stage.recipe), Dataset.load(out / "data")
    recommender = Recommender.open(trained / "model", out / "catalogue", settings.wording == "held-out")
    if blended := blender(settings, out):
        recommender.blend = blended(recommender.catalogue)
    vectors = read_vectors(out, recipe.items.encoder, dataset.n_items)
    result = evaluate(
        recommender, system(recipe), dataset, settings, settings.target, recipe.seed, folder, progress, vectors
    )
    if settings.writing:
        _writing(recipe, settings, out, trained / "model", dataset, folder, progress)
    return {"users": result["protocol"]["users"]}


def system(recipe: Recipe) -> str:
    """What tables call a run's model: its base, and the teacher that is mixed in."""
    blend = recipe.evaluate.blend
    return f"{recipe.model.name}+{blend.teacher.name}" if blend else recipe.model.name


def _writing(
    recipe: Recipe,
    settings: Evaluate,
    out: Path,
    model_at: Path,
    dataset: Dataset,
    folder: Path,
    progress: Callable[[float], None],
) -> None:
    """What the model writes about held-out reviews."""
    import torch

    from llmrec.evaluate.writing import Asked, evaluate_writing
    from llmrec.model import folder as model_folder
    from llmrec.tasks.source import Source

    catalogue, texts = Catalogue.load(out / "catalogue"), read_texts(out, dataset.n_items)
    sources = (Source.load(dataset, catalogue, texts), Source.load(dataset, catalogue, texts, settings.target))
    model, tokenizer, _ = model_folder.load(model_at, torch.float32)
    data = str(dataset.facts.get("source"))
    asked = Asked(settings.writing, settings.writing_cases, data, recipe.seed, settings.target)
    evaluate_writing(model, tokenizer, sources, asked, folder, progress)


def look(run: Path, trained: Path, book: Path, why: str, progress: Callable[[float], None]) -> Path:
    """Judge a run on its test part and write the look into a ledger; a look that is known is not taken again.

    The line is written before the figures are where anybody finds them, so no kill leaves a look untold.

    Args:
        run: the run folder.
        trained: the folder of its last training stage.
        book: the ledger.
        why: what the look is for, in words; may be empty.
        progress: told the share done, 0 to 1.

    Returns:
        The folder of the evaluation.

    Raises:
        RunError: the ledger has a line that cannot be read, the run is in use, or it holds parts of another recipe.
    """
    recipe = recipe_of(run)
    refuse_stale(recipe, run)
    ledger.read(book)  # before anything is looked at
    stage = stage_of(recipe, run, trained, "test")
    told = {
        "run": run.resolve().name,
        "why": why,
        "recipe": shipped_name(recipe),
        "recipe hash": fingerprint(recipe),
        "trained at commit": read_made(trained).get("commit", "unknown"),
        "data": {"source": recipe.data.source, "hash": content_hash(run / "data")},
    }

    def make(folder: Path) -> dict[str, Any]:
        facts = judge(recipe, run, trained, stage, folder, progress)
        _tell(book, folder, told)
        return facts

    with lock(run):
        stage.run(make)
        _tell(book, stage.folder, told)
    return stage.folder


def _tell(book: Path, folder: Path, told: dict[str, Any]) -> None:
    """Write the figures of a folder into a ledger, unless it has them as this run's."""
    figures = hash_file(folder / "metrics.json")[:16]
    if any((line["run"], line["figures"]) == (told["run"], figures) for line in ledger.read(book)):
        return
    metrics = read_metrics(folder)
    protocol = metrics["protocol"]
    ledger.append(
        book,
        told
        | {
            "commit": commit(),
            "seed": protocol["seed"],
            "beams": protocol["beams"],
            "exclude_seen": protocol["exclude_seen"],
            "cases": protocol["cases"],
            "metrics": {m: [round(v[k], 6) for k in ("mean", "low", "high")]
                        for m, v in metrics["systems"][metrics["model"]].items()},
            "figures": figures,
        },
    )  # fmt: skip
