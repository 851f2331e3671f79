"""Damaged run folders end in one message, whatever they are used for."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
from damage import (
    Damage,
    array,
    changed,
    column,
    content,
    copied,
    fifo,
    nested,
    part,
    renamed,
    signed,
    special,
    table,
    without,
)
from renewed import renew
from typer.testing import CliRunner

from llmrec.cli.main import app
from llmrec.data.fetch import KNOWN, _checksums
from llmrec.errors import LlmrecError, RunError
from llmrec.rate.experiment import Experiment

METRICS, CASES = "evaluate-test/metrics.json", "evaluate-test/per_user.parquet"
ALL = ("user", "evaluate", "report", "export")
RECORDS: dict[str, Damage] = {
    "cut": part("data/made.json", 0.5),
    "a list": content("data/made.json", b"[]"),
    "without a hash": changed("train-1-sft/made.json", output=...),
    "without inputs": changed("train-1-sft/made.json", inputs=...),
    "without settings": changed("train-1-sft/made.json", config=...),
    "of strange facts": changed("data/made.json", facts=3),
    "of another layout": changed("catalogue/made.json", layout=1),
    "of a layout that is a word": changed("catalogue/made.json", layout="2"),
    "missing": without("catalogue/made.json"),
}
"""Damage to what a stage noted about itself."""

RUN: dict[str, tuple[Damage, tuple[str, ...]]] = {
    "no items": (without("data/items.parquet"), ("user", "evaluate", "report", "show", "run")),
    "items that are a pipe": (special("data/items.parquet", fifo), ("user", "evaluate", "report", "show", "run")),
    "half of the interactions": (
        table("data/interactions.parquet", lambda old: old.slice(0, 420)),
        ("user", "evaluate", "show"),
    ),
    "interactions cut": (part("data/interactions.parquet", 0.5), ("user", "evaluate")),
    "interactions without items": (
        table("data/interactions.parquet", lambda old: old.drop_columns(["item_id"])),
        ("user", "evaluate", "show"),
    ),
    "interactions with words for times": (
        table("data/interactions.parquet", column("timestamp", lambda old: ["x"] * len(old))),
        ("user", "evaluate"),
    ),
    "interactions without a user": (
        table("data/interactions.parquet", column("user_id", lambda old: [None, *old[1:]])),
        ("user", "evaluate"),
    ),
    "interactions of an item that the items lack": (
        table("data/interactions.parquet", column("item_id", lambda old: ["i99", *old[1:]])),
        ("user", "evaluate", "show"),
    ),
    "interactions of no split": (
        table("data/interactions.parquet", column("split", lambda old: ["later", *old[1:]])),
        ("evaluate", "show"),
    ),
    "interactions out of order": (
        table("data/interactions.parquet", lambda old: old.take(pa.array([*range(1, len(old)), 0]))),
        ("user", "evaluate", "show"),
    ),
    "items of the data twice": (
        table("data/items.parquet", column("item_id", lambda old: [old[1], *old[1:]])),
        ("user", "show"),
    ),
    "a catalogue of other items": (
        signed(renamed),
        ("user", "evaluate"),
    ),
    "texts of fewer items": (content("items/texts.json", b'["one"]'), ("run",)),
    "texts of numbers": (content("items/texts.json", b"[1, 2]"), ("run",)),
    "vectors cut": (part("items/vectors.npy", 0.5), ("evaluate", "show")),
    "vectors of other items": (array("items/vectors.npy", lambda old: old[:-1]), ("evaluate", "show")),
    "vectors that are no numbers": (array("items/vectors.npy", lambda old: old * np.nan), ("evaluate", "show")),
    "pickled vectors": (
        array("items/vectors.npy", lambda old: np.array([{}], object)),
        ("evaluate", "show"),
    ),
    "health without a level's width": (nested("catalogue/health.json", "levels", 0, "width"), ("report", "show")),
    "health of strange words": (changed("catalogue/health.json", verdict=3), ("report", "show")),
    "quantizer cut": (part("catalogue/codebooks.npy", 0.5), ("add",)),
    "quantizer of other widths": (array("catalogue/codebooks.npy", lambda old: old[:, :3]), ("add",)),
    "quantizer of infinity": (array("catalogue/codebooks.npy", lambda old: old + np.inf), ("add",)),
    "settings of no method": (changed("catalogue/indexing.json", method="magic"), ("add",)),
    "examples cut": (part("tasks/examples/next_item-00000.arrow", 0.5), ("tasks",)),
    "examples that are a pipe": (special("tasks/examples/next_item-00000.arrow", fifo), ("tasks",)),
    "examples of text": (content("tasks/examples/next_item-00000.arrow", b"hello"), ("tasks",)),
    "metrics cut": (part(METRICS, 0.5), ("report", "compare", "export")),
    "metrics without the model": (nested(METRICS, "systems", "nano"), ("report", "compare", "export")),
    "metrics of words": (nested(METRICS, "systems", "nano", "hr@1", "mean", value="good"), ("report", "compare")),
    "metrics of no protocol": (changed(METRICS, protocol=...), ("report", "compare", "export")),
    "metrics that are infinite": (nested(METRICS, "systems", "ease", "hr@1", "low", value=float("nan")), ("report",)),
    "differences of words": (nested(METRICS, "paired", "ease", value=[]), ("report",)),
    "cases cut": (part(CASES, 0.5), ("compare",)),
    "cases without figures": (table(CASES, lambda old: old.drop_columns(["nano hr@1"])), ("compare",)),
    "cases of words": (table(CASES, column("nano hr@1", lambda old: ["x"] * len(old))), ("compare",)),
    "cases without a figure": (table(CASES, column("nano hr@1", lambda old: [None, *old[1:]])), ("compare",)),
    "no cases": (table(CASES, lambda old: old.slice(0, 0)), ("compare",)),
    "examples of users without titles": (content("evaluate-test/examples.json", b'[{"user_id": "1"}]'), ("report",)),
    "lists of words for ranks": (
        table("evaluate-test/recommendations.parquet", column("rank", lambda old: ["x"] * len(old))),
        ("report",),
    ),
    "log of words": (content("train-1-sft/log.jsonl", b'{"step": 1, "loss": "low"}\n'), ("report",)),
    "log without steps": (content("train-1-sft/log.jsonl", b'{"loss": 1.0}\n'), ("report",)),
    "model: note of another type": (changed("train-1-sft/model/llmrec.json", history="8"), ("user", "evaluate")),
    "model: weights cut": (part("train-1-sft/model/model.safetensors", 0.5), ("user", "evaluate")),
}
"""Damage to files of a run, and the verbs that must end in an error of ours for it."""


@pytest.fixture(scope="module")
def verbs(tiny_run: Path, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Path], list[str]]:
    """Name of a use → the words of the command line for a run."""
    new = tmp_path_factory.mktemp("new") / "new.csv"
    new.write_text("item_id,title,kind\nnew,A new film,drama\n")

    def words(name: str, run: Path) -> list[str]:
        places = {
            "user": ["recommend", run, "--user", "u3"],
            "evaluate": ["evaluate", run, "--beams", "9"],
            "report": ["report", run],
        }
        places |= {"compare": ["compare", run, tiny_run], "export": ["export", run, run.with_name("exported")]}
        places |= {"show": ["index", "show", run], "add": ["index", "add", run, new], "tasks": ["tasks", "show", run]}
        places |= {"run": ["run", world, "--out", run, "tasks.history=7", "--until", "tasks"]}
        return [str(word) for word in places[name]]

    return words


def ended(words: list[str]) -> BaseException | None:
    """What a command ended with."""
    return CliRunner().invoke(app, words).exception


@pytest.mark.parametrize("name", ["user", "evaluate", "report", "compare", "export", "show", "add", "tasks", "run"])
def test_every_use_of_a_whole_run_goes_well(
    name: str, tiny_run: Path, tmp_path: Path, verbs: Callable[[str, Path], list[str]]
) -> None:
    assert ended(verbs(name, copied(tiny_run, tmp_path / "run", lambda run: None))) is None


@pytest.mark.parametrize("damage", RECORDS)
def test_a_run_with_a_damaged_record_ends_in_one_message(
    damage: str, tiny_run: Path, tmp_path: Path, verbs: Callable[[str, Path], list[str]]
) -> None:
    run = copied(tiny_run, tmp_path / "run", RECORDS[damage])
    for name in ALL:
        ends_in_one_message(verbs(name, run))


@pytest.mark.parametrize("on_purpose", [False, True], ids=["by mishap", "on purpose"])
@pytest.mark.parametrize("damage", RUN)
def test_a_damaged_run_ends_in_one_message(
    damage: str, on_purpose: bool, tiny_run: Path, tmp_path: Path, verbs: Callable[[str, Path], list[str]]
) -> None:
    """By mishap the records of the stages show it; on purpose these are made to fit, and readers of the file see it."""
    harm, names = RUN[damage]
    run = copied(tiny_run, tmp_path / "run", harm)
    if on_purpose:
        with contextlib.suppress(RunError):  # a stage reads a file that is no more
            renew(run)
    for name in names:
        ends_in_one_message(verbs(name, run))


def ends_in_one_message(words: list[str]) -> None:
    error = ended(words)
    assert isinstance(error, LlmrecError), f"{words} ended in {error!r}"
    assert "\n" not in str(error) and len(str(error)) < 1000


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"a": 1}', '{"system": "a", "facts": {}, "predicted": [1.0]}'])
def test_a_damaged_file_of_an_experiment_or_of_a_fetched_set_ends_in_one_message(text: str, tmp_path: Path) -> None:
    experiment = Experiment(cast(Any, None), cast(Any, [0, 0]), tmp_path, 0)
    (tmp_path / "systems").mkdir()
    for file in (tmp_path / "systems" / "a.json", tmp_path / KNOWN):
        file.write_text(text)
    with pytest.raises(RunError, match=r"a\.json .*Delete the file"):
        experiment.systems()
    with pytest.raises(RunError, match=rf"{KNOWN} .*Delete it, and fetch"):
        _checksums(tmp_path)
