"""The JSON files of a run folder: what each must hold, so that readers find it checked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, NotRequired

import numpy as np
import pyarrow as pa
from pydantic import AfterValidator, ConfigDict, Field
from typing_extensions import TypedDict

from llmrec.checked import REMEDY, read_array, read_checked, read_lines, read_table
from llmrec.errors import RunError

MADE = "made.json"
_OPEN = ConfigDict(extra="allow")  # further keys are shown to people at most
_Number = Annotated[float, Field(allow_inf_nan=False)]


class Made(TypedDict):
    """made.json of a stage: its part of the recipe, hashes of its inputs and of its files, and facts about it."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    recipe: Any
    inputs: dict[str, str]
    output: str
    seed: int
    facts: dict[str, Any]
    versions: dict[str, str]
    device: str
    seconds: Annotated[_Number, Field(ge=0)]
    key: NotRequired[str]
    commit: NotRequired[str]


class _Data(TypedDict):
    __pydantic_config__ = _OPEN  # type: ignore[misc]
    source: str


class MadeOfData(TypedDict):
    """made.json of the data stage."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    recipe: _Data
    output: str
    facts: dict[str, Any]


class _Model(TypedDict):
    __pydantic_config__ = _OPEN  # type: ignore[misc]
    base: str


class _Trained(TypedDict):
    __pydantic_config__ = _OPEN  # type: ignore[misc]
    model: _Model
    train: dict[str, Any]


class Training(TypedDict):
    """made.json of a training stage."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    recipe: _Trained
    output: str
    seed: int
    facts: dict[str, Any]
    versions: dict[str, str]
    device: str
    seconds: Annotated[_Number, Field(ge=0)]


class Mean(TypedDict):
    """A mean with its interval, and a p-value where it is of a paired difference."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    mean: _Number
    low: _Number
    high: _Number
    p: NotRequired[_Number]


class Protocol(TypedDict):
    """How an evaluation was made, as far as readers need it."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    target: str
    candidates: str
    items: int
    users: int
    exclude_seen: bool
    beams: int


class Metrics(TypedDict):
    """metrics.json of an evaluation: how it was made, means of each system, and paired differences to the model."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    protocol: Protocol
    model: str
    systems: dict[str, Annotated[dict[str, Mean], Field(min_length=1)]]
    paired: NotRequired[dict[str, dict[str, Mean]]]


class Example(TypedDict):
    """One user of examples.json: titles of the history, of what was recommended, and of the held-out item."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    user_id: str
    history: list[str | None]
    recommended: list[str | None]
    held_out: str | None
    held_out_rank: NotRequired[int | None]


class _Written(TypedDict):
    __pydantic_config__ = _OPEN  # type: ignore[misc]
    cases: int
    systems: NotRequired[Annotated[dict[str, dict[str, _Number]], Field(min_length=1)]]


class Writing(TypedDict):
    """writing.json: figures of what the model wrote, by task and system."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    protocol: dict[str, Any]
    tasks: dict[str, _Written]


class _Level(TypedDict):
    __pydantic_config__ = _OPEN  # type: ignore[misc]
    level: int
    width: Annotated[int, Field(ge=1)]
    used: int
    entropy_bits: _Number
    counts: NotRequired[list[int]]


class Health(TypedDict, total=False):
    """health.json of a catalogue: use of each code level, agreement with categories and behaviour, a verdict."""

    __pydantic_config__ = _OPEN  # type: ignore[misc]
    levels: list[_Level]
    tokens: dict[str, int | _Number]
    category_nmi: list[_Number]
    company_nmi: list[_Number]
    verdict: list[str]
    collisions_before: int
    moved: int
    largest_group: int


def training_folders(run: Path) -> list[Path]:
    """The folders of all training stages of a run, in order."""
    found = [path for path in run.glob("train-*-*") if path.name.split("-")[1].isdecimal()]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


def trained_folders(run: Path) -> list[Path]:
    """The folders of all finished training stages of a run, in order."""
    return [folder for folder in training_folders(run) if (folder / MADE).is_file()]


def read_made(folder: Path) -> dict[str, Any]:
    """made.json of a finished stage.

    Raises:
        RunError: it is missing or damaged.
    """
    return _object(folder / MADE, Made)


def read_training(folder: Path) -> dict[str, Any]:
    """made.json of a finished training stage.

    Raises:
        RunError: it is missing or damaged.
    """
    return _object(folder / MADE, Training)


def read_metrics(folder: Path) -> dict[str, Any]:
    """metrics.json of a folder with an evaluation.

    Raises:
        RunError: it is missing or damaged.
    """
    return _object(folder / "metrics.json", Annotated[Metrics, AfterValidator(_with_its_model)])


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a training's log.jsonl, each with at least `step`; without a last line that was torn by a kill.

    Raises:
        RunError: another line is damaged.
    """
    return read_lines(path, Annotated[dict[str, int | float], AfterValidator(_with_its_step)])


def read_texts(run: Path, items: int) -> list[str]:
    """The text of each item, of `items/texts.json`.

    Args:
        run: the run folder.
        items: how many there must be.

    Raises:
        RunError: it is missing, damaged, or of other items.
    """
    path = run / "items" / "texts.json"
    texts: list[str] = read_checked(path, list[str])
    _check_count(path, len(texts), items)
    return texts


def read_vectors(run: Path, encoder: str, items: int) -> np.ndarray:
    """(items, dim) vectors of the items' texts, of `items/vectors`.

    Args:
        run: the run folder.
        encoder: that made them.
        items: how many there must be.

    Raises:
        RunError: they are missing, damaged, or of other items.
    """
    path = run / "items" / "vectors" / f"{encoder}.npy"
    vectors = read_array(path, 2)
    _check_count(path, len(vectors), items)
    return vectors


def read_cases(path: Path) -> pa.Table:
    """per_user.parquet of an evaluation: user_id, target, and a column of figures for each system and metric.

    Raises:
        RunError: it is missing or damaged, or of a version that did not write down what was held out.
    """
    table = read_table(path, {"user_id": pa.string()})
    if "target" not in table.column_names:
        raise RunError(f"{path} does not say what was held out: it is of an older version. Evaluate the run again.")
    for name in set(table.column_names) - {"user_id", "target"}:
        column = table[name]
        numbers = pa.types.is_floating(column.type) and not column.null_count and np.isfinite(column.to_numpy()).all()
        if not numbers or " " not in name:
            raise RunError(f"{path}: the column '{name}' must be SYSTEM METRIC and hold numbers alone. {REMEDY}")
    return table


def _object(path: Path, shape: Any) -> dict[str, Any]:
    value: dict[str, Any] = read_checked(path, shape)
    return value


def _check_count(path: Path, found: int, items: int) -> None:
    if found != items:
        raise RunError(f"{path} is of {found} items, but the data have {items}. {REMEDY}")


def _with_its_model(metrics: Metrics) -> Metrics:
    if metrics["model"] not in metrics["systems"]:
        raise ValueError(f"the model {metrics['model']!r} is not among the systems")
    return metrics


def _with_its_step(line: dict[str, int | float]) -> dict[str, int | float]:
    if "step" not in line:
        raise ValueError("a line needs the key 'step'")
    return line
