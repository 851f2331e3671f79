"""Read the content of a run folder for its report. A part may be missing; a damaged one is an error."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrec.checked import read_checked, read_table
from llmrec.evaluate.files import METRICS, ExampleUser, GenerationFile, read_choices, read_metrics
from llmrec.indexing.catalogue import Catalogue
from llmrec.indexing.health import read_health
from llmrec.run.layout import DATA, RunFolder, recipe_of
from llmrec.run.plan import plan
from llmrec.run.stage import require_current
from llmrec.stage_record import RECORD_FILE, StageRecord, read_record
from llmrec.train.log import LOG, read_log


@dataclass(frozen=True)
class Evaluation:
    """Files of the evaluation of the last model; None where a file does not exist.

    `coverage` is the number of distinct items in the top ten of all users.
    """

    metrics: dict[str, Any] | None
    examples: list[dict[str, Any]]
    coverage: int
    generation: dict[str, Any] | None
    choices: dict[str, Any] | None


@dataclass(frozen=True)
class Run:
    """Content of a run folder.

    Attributes:
        facts: counts of the data stage, or empty.
        health: catalogue/health.json, or None.
        similar: groups of (title, code) with a common code prefix, or empty.
        codes: (title, tokens of the code) of each item, or empty.
        trainings: name → lines of the log of each finished training stage, in order.
        evaluation: on the split of the recipe, or None.
        stages: name → made.json of every finished stage of the recipe, in the order they ran.
        recipe: the text of recipe.yaml.
    """

    name: str
    facts: dict[str, Any]
    health: dict[str, Any] | None
    similar: list[list[tuple[str, str]]]
    codes: list[tuple[str, tuple[str, ...]]]
    trainings: dict[str, list[dict[str, Any]]]
    evaluation: Evaluation | None
    stages: dict[str, StageRecord]
    recipe: str


def read_run(run: RunFolder) -> Run:
    """Read the finished stages of a run folder.

    Raises:
        RunError: it is not a run folder, has stages of two recipes, lacks a stage before its last one, or one of its
            files is damaged.
    """
    recipe = recipe_of(run.path)
    specs = plan(recipe)
    made = [place for place, spec in enumerate(specs) if (run.stage(spec.name) / RECORD_FILE).is_file()]
    finished = specs[: made[-1] + 1] if made else []
    require_current(run, finished, recipe.seed)
    stages = {spec.name: read_record(run.stage(spec.name)) for spec in finished}
    logs = {spec.name: run.stage(spec.name) / LOG for spec in finished if spec.kind == "train"}
    evaluated = run.evaluation(recipe.evaluate.split)
    indexed = (run.catalogue / RECORD_FILE).is_file()
    codes = _codes(run.catalogue) if indexed else []
    return Run(
        name=run.path.resolve().name,
        facts=stages[DATA]["facts"] if DATA in stages else {},
        health=dict(read_health(run.catalogue)) if indexed else None,
        similar=_similar(codes),
        codes=codes,
        trainings={name: read_log(log) if log.exists() else [] for name, log in logs.items()},
        evaluation=_evaluation(evaluated) if (evaluated / RECORD_FILE).is_file() else None,
        stages=stages,
        recipe=run.recipe.read_text(encoding="utf-8", errors="replace"),
    )


def _evaluation(folder: Path) -> Evaluation:
    written, choices = folder / "writing.json", read_choices(folder)
    recommends = choices is None or (folder / METRICS).exists()
    return Evaluation(
        read_metrics(folder) if recommends else None,
        read_checked(folder / "examples.json", list[ExampleUser]) if recommends else [],
        _coverage(folder / "recommendations.parquet") if recommends else 0,
        read_checked(written, GenerationFile) if written.exists() else None,
        choices,
    )


def _coverage(path: Path, k: int = 10) -> int:
    import pyarrow as pa
    import pyarrow.compute as pc

    table = read_table(path, {"item_id": pa.string(), "rank": pa.int32()})
    return len(pc.unique(table.filter(pc.less_equal(table["rank"], k))["item_id"]))


def _codes(catalogue: Path) -> list[tuple[str, tuple[str, ...]]]:
    loaded = Catalogue.load(catalogue)
    codes = (tuple(loaded.tokens[symbol] for symbol in code if symbol >= 0) for code in loaded.codes.tolist())
    return list(zip(loaded.titles, codes, strict=True))


def _similar(codes: list[tuple[str, tuple[str, ...]]], groups: int = 3, size: int = 5) -> list[list[tuple[str, str]]]:
    """Example items whose codes differ only in the last two tokens, from the largest groups."""
    shared: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for title, code in codes:
        shared.setdefault(code[: max(1, len(code) - 2)], []).append((title, " ".join(code)))
    crowded = sorted((group for group in shared.values() if len(group) > 1), key=len, reverse=True)
    return [group[:size] for group in crowded[:groups]]
