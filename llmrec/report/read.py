"""The content of a run folder, read from its files alone. A part may be missing; a damaged one is an error."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrec.checked import read_checked, read_table
from llmrec.evaluate.files import METRICS, Example, Writing, read_choices, read_metrics
from llmrec.indexing.catalogue import Catalogue
from llmrec.indexing.health import read_health
from llmrec.made import MADE, Made, read_made
from llmrec.run.layout import RunFolder, recipe_of
from llmrec.run.plan import plan
from llmrec.run.specs import StageSpec
from llmrec.run.status import require_current
from llmrec.train.log import LOG, read_log


@dataclass(frozen=True)
class Stage:
    """One finished stage: its folder below the run, and its made.json."""

    name: str
    made: Made


@dataclass(frozen=True)
class Training:
    """One training stage: its folder, and the lines of its log in order."""

    name: str
    log: list[dict[str, Any]]


@dataclass(frozen=True)
class Evaluation:
    """Figures of the last model.

    Attributes:
        metrics: metrics.json; None where the model was not trained to recommend.
        examples: examples.json.
        coverage: distinct items among the first ten recommendations of all users.
        writing: writing.json, or None.
        choices: choices.json, or None.
    """

    metrics: dict[str, Any] | None
    examples: list[dict[str, Any]]
    coverage: int
    writing: dict[str, Any] | None
    choices: dict[str, Any] | None


@dataclass(frozen=True)
class Run:
    """A run folder in memory.

    Attributes:
        name: of the folder.
        facts: what the data stage counted, or empty.
        health: catalogue/health.json, or None.
        alike: groups of (title, code) whose codes start alike, or empty.
        codes: (title, tokens of the code) of every item, or empty.
        trainings: every finished training stage, in order.
        evaluation: on the split that the recipe names, or None.
        stages: every finished stage of the recipe, in the order they ran.
        recipe: the text of recipe.yaml.
    """

    name: str
    facts: dict[str, Any]
    health: dict[str, Any] | None
    alike: list[list[tuple[str, str]]]
    codes: list[tuple[str, tuple[str, ...]]]
    trainings: list[Training]
    evaluation: Evaluation | None
    stages: list[Stage]
    recipe: str


def read_run(run: RunFolder) -> Run:
    """Read what a run folder holds of its recipe's stages.

    Raises:
        RunError: it is no run folder, holds stages of two recipes, or one of its files is damaged.
    """
    recipe = recipe_of(run.path)
    finished = _finished(run, plan(recipe), recipe.seed)
    stages = [Stage(spec.name, read_made(run.stage(spec.name))) for spec in finished]
    trained = [spec.name for spec in finished if spec.kind == "train"]
    evaluated = run.evaluation(recipe.evaluate.target)
    indexed = (run.catalogue / MADE).is_file()
    codes = _codes(run.catalogue) if indexed else []
    return Run(
        name=run.path.resolve().name,
        facts=next((stage.made["facts"] for stage in stages if run.stage(stage.name) == run.data), {}),
        health=dict(read_health(run.catalogue)) if indexed else None,
        alike=_alike(codes),
        codes=codes,
        trainings=[_training(run.stage(name)) for name in trained],
        evaluation=_evaluation(evaluated) if (evaluated / MADE).is_file() else None,
        stages=stages,
        recipe=run.recipe.read_text(encoding="utf-8", errors="replace"),
    )


def _finished(run: RunFolder, specs: list[StageSpec], seed: int) -> list[StageSpec]:
    """The stages of a plan that a run holds.

    Raises:
        RunError: one before the last of them is missing, or one was made from another recipe or was changed.
    """
    made = [place for place, spec in enumerate(specs) if (run.stage(spec.name) / MADE).is_file()]
    finished = specs[: made[-1] + 1] if made else []
    require_current(run, finished, seed)
    return finished


def _training(folder: Path) -> Training:
    return Training(folder.name, read_log(folder / LOG) if (folder / LOG).exists() else [])


def _evaluation(folder: Path) -> Evaluation:
    written, choices = folder / "writing.json", read_choices(folder)
    recommends = choices is None or (folder / METRICS).exists()
    return Evaluation(
        read_metrics(folder) if recommends else None,
        read_checked(folder / "examples.json", list[Example]) if recommends else [],
        _coverage(folder / "recommendations.parquet") if recommends else 0,
        read_checked(written, Writing) if written.exists() else None,
        choices,
    )


def _coverage(path: Path, k: int = 10) -> int:
    import pyarrow as pa
    import pyarrow.compute as pc

    table = read_table(path, {"item_id": pa.string(), "rank": pa.int32()})
    return len(pc.unique(table.filter(pc.less_equal(table["rank"], k))["item_id"]))


def _codes(catalogue: Path) -> list[tuple[str, tuple[str, ...]]]:
    held = Catalogue.load(catalogue)
    codes = (tuple(held.tokens[symbol] for symbol in code if symbol >= 0) for code in held.codes.tolist())
    return list(zip(held.titles, codes, strict=True))


def _alike(codes: list[tuple[str, tuple[str, ...]]], groups: int = 3, size: int = 5) -> list[list[tuple[str, str]]]:
    """A few items whose codes share all but the last two tokens, from the most crowded beginnings."""
    shared: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for title, code in codes:
        shared.setdefault(code[: max(1, len(code) - 2)], []).append((title, " ".join(code)))
    crowded = sorted((group for group in shared.values() if len(group) > 1), key=len, reverse=True)
    return [group[:size] for group in crowded[:groups]]
