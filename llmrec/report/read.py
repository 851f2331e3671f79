"""What a run folder says, read from its files alone. Every part may be missing; a damaged one is an error."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmrec.checked import read_checked, read_table
from llmrec.errors import RunError
from llmrec.indexing.catalogue import Catalogue
from llmrec.indexing.catalogue_file import ABOUT, CODES, ITEMS
from llmrec.run_files import MADE, Example, Health, Writing, read_log, read_made, read_metrics

STAGES = ("data", "items", "catalogue", "tasks", "train", "evaluate")


@dataclass(frozen=True)
class Stage:
    """One finished stage: its folder below the run, and its made.json."""

    name: str
    made: dict[str, Any]


@dataclass(frozen=True)
class Training:
    """One training stage: its folder, its log, and what its evaluation found, where there was one.

    Attributes:
        log: lines of log.jsonl, in order.
        metrics: metrics.json, or None.
        examples: examples.json, or empty.
        writing: writing.json, or None.
        coverage: distinct items among everybody's first ten recommendations, or None.
    """

    name: str
    log: list[dict[str, Any]]
    metrics: dict[str, Any] | None = None
    examples: list[dict[str, Any]] = field(default_factory=list)
    coverage: int | None = None
    writing: dict[str, Any] | None = None


@dataclass(frozen=True)
class Run:
    """A run folder in memory.

    Attributes:
        facts: what the data stage counted, or empty.
        health: catalogue/health.json, or None.
        alike: groups of (title, code) whose codes start alike, or empty.
        codes: (title, tokens of the code) of every item, or empty.
        trainings: every train-N-METHOD, in order.
        stages: every finished stage, in the order they ran.
        recipe: the text of recipe.yaml, or None.
    """

    name: str
    facts: dict[str, Any]
    health: dict[str, Any] | None
    alike: list[list[tuple[str, str]]]
    codes: list[tuple[str, tuple[str, ...]]]
    trainings: list[Training]
    stages: list[Stage]
    recipe: str | None

    @property
    def evaluated(self) -> Training | None:
        """The last training stage with figures: the one that the page is about."""
        return next((t for t in reversed(self.trainings) if t.metrics), None)


def read_run(run: Path) -> Run:
    """Read a run folder.

    Raises:
        RunError: the folder is missing or empty of anything a run leaves, or one of its files is damaged.
    """
    recipe = run / "recipe.yaml"
    stages = _stages(run)
    if not stages and not recipe.is_file():
        raise RunError(f"{run} holds neither recipe.yaml nor a finished stage. Give a folder that `llmrec run` made.")
    made, codes = {stage.name: stage.made for stage in stages}, _codes(run / "catalogue")
    return Run(
        name=run.resolve().name,
        facts=made.get("data", {}).get("facts", {}),
        health=_json(run / "catalogue" / "health.json", Health),
        alike=_alike(codes),
        codes=codes,
        trainings=[_training(folder) for folder in sorted(run.glob("train-*-*"), key=_in_order) if folder.is_dir()],
        stages=stages,
        recipe=recipe.read_text(encoding="utf-8", errors="replace") if recipe.is_file() else None,
    )


def _json(path: Path, shape: Any) -> Any:
    return read_checked(path, shape) if path.exists() else None


def _in_order(folder: Path) -> tuple[int, int, str]:
    """Known stages in the order they run; train-10 after train-9; evaluations after the training they belong to."""
    first = folder.name.split("-")[0]
    number = re.search(r"\d+", folder.name)
    return (STAGES.index(first) if first in STAGES else len(STAGES), int(number[0]) if number else 0, folder.name)


def _stages(run: Path) -> list[Stage]:
    folders = sorted((f for f in run.glob("*") if f.is_dir() and not f.name.startswith(".")), key=_in_order)
    stages = [inner for folder in folders for inner in (folder, folder / "eval") if (inner / MADE).exists()]
    return [Stage(stage.relative_to(run).as_posix(), read_made(stage)) for stage in stages]


def _training(folder: Path) -> Training:
    evaluation = folder / "eval"
    return Training(
        folder.name,
        read_log(folder / "log.jsonl") if (folder / "log.jsonl").exists() else [],
        read_metrics(evaluation) if (evaluation / "metrics.json").exists() else None,
        _json(evaluation / "examples.json", list[Example]) or [],
        _coverage(evaluation / "recommendations.parquet"),
        _json(evaluation / "writing.json", Writing),
    )


def _coverage(path: Path, k: int = 10) -> int | None:
    if not path.is_file():
        return None
    import pyarrow as pa
    import pyarrow.compute as pc

    table = read_table(path, {"item_id": pa.string(), "rank": pa.int32()})
    return len(pc.unique(table.filter(pc.less_equal(table["rank"], k))["item_id"]))


def _codes(catalogue: Path) -> list[tuple[str, tuple[str, ...]]]:
    if not all((catalogue / name).is_file() for name in (ABOUT, ITEMS, CODES)):
        return []
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
