"""Ledger of test evaluations: an append-only JSON-lines file, so that tuning on the test part is visible.

A recipe with `evaluate.split: valid` keeps its test part closed; `evaluate_test` opens it and appends a line. Each line
is one write to a file opened for appending, so concurrent writers and kills leave whole lines. A line that was edited
or cut is reported with its number, never skipped.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmrec import provenance
from llmrec.data.dataset import content_hash
from llmrec.errors import RunError
from llmrec.evaluate.files import CHOICES, METRICS, read_evaluation
from llmrec.files import explain_disk, hash_file
from llmrec.recipe_file import fingerprint, shipped_name
from llmrec.run import execute
from llmrec.run.layout import RunFolder, recipe_of
from llmrec.run.plan import plan
from llmrec.run.stage import Context
from llmrec.stage_record import read_record

LEDGER = Path("results/ledger.jsonl")
REQUIRED = ("date", "by", "run", "recipe hash", "seed", "data", "metrics", "figures")


def evaluate_test(path: Path, ledger: Path, why: str, progress: Callable[[str, float], None]) -> Path:
    """Evaluate a run on its test part and record that in a ledger; an evaluation on record is not repeated.

    The line is written before the figures are in the run, so a kill cannot hide a test evaluation.

    Args:
        path: the run folder, its model trained.
        why: reason for the evaluation; may be empty.

    Returns:
        The folder of the evaluation.

    Raises:
        RunError: the ledger has an unreadable line, the run is in use, or it has stages of two recipes.
    """
    run, recipe = RunFolder(path.absolute()), recipe_of(path)
    read(ledger)  # an unreadable ledger stops here, before any evaluation
    stage = plan(recipe, "test")[-1]

    def record(folder: Path) -> None:
        """Append the figures of the evaluation, unless the ledger has them for this run."""
        result = read_evaluation(folder)
        figures = hash_file(folder / (METRICS if "systems" in result else CHOICES))[:16]
        name = run.path.resolve().name
        if any((line["run"], line["figures"]) == (name, figures) for line in read(ledger)):
            return
        line = {
            "run": name,
            "why": why,
            "recipe": shipped_name(fingerprint(recipe)),
            "recipe hash": fingerprint(recipe),
            "trained at commit": read_record(run.last_trained).get("commit", "unknown"),
            "data": {"source": recipe.data.source, "hash": content_hash(run.data)},
        }
        append(ledger, line | {"commit": provenance.commit(), **_summary(result), "figures": figures})

    def make(context: Context) -> dict[str, Any]:
        facts = stage.make(context)
        record(context.folder)
        return facts

    folder = execute.judge(recipe, run.path, replace(stage, make=make), progress)
    record(folder)  # if the evaluation existed, but this ledger does not have it
    return folder


def _summary(result: dict[str, Any]) -> dict[str, Any]:
    """Seed, cases and the model's metrics; of a model that only has choice tasks, metrics by task."""
    if "systems" in result:
        about = {name: result["protocol"][name] for name in ("seed", "beams", "exclude_seen", "cases")}
        metrics = result["systems"][result["model"]]
    else:
        choices = result["choices"]
        cases = {task: figures["cases"] for task, figures in choices["tasks"].items()}
        about = {"seed": choices["protocol"]["seed"], "cases": cases}
        metrics = {
            f"{task} {name}": value
            for task, figures in choices["tasks"].items()
            for name, value in figures.get("systems", {}).get("model", {}).items()
        }
    rounded = {name: [round(value[k], 6) for k in ("mean", "low", "high")] for name, value in metrics.items()}
    return {**about, "metrics": rounded}


def append(ledger: Path, line: dict[str, Any]) -> None:
    """Append a line with the date and the author's name; the ledger is created if missing."""
    dated = {"date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "by": provenance.author()} | line
    text = json.dumps(dated, ensure_ascii=False) + "\n"
    with explain_disk(ledger):
        ledger.parent.mkdir(parents=True, exist_ok=True)
        with ledger.open("ab+", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # no other writer between the check of the last line and our write
            whole = (b"" if _ends_with_newline(file) else b"\n") + text.encode()
            if file.write(whole) < len(whole):
                raise RunError(
                    f"{ledger}: the disk took a part of the line only. Free some space and repair the last line."
                )
            os.fsync(file.fileno())


def read(ledger: Path) -> list[dict[str, Any]]:
    """Read all lines, oldest first; an empty list if there is no ledger yet.

    Raises:
        RunError: a line is unreadable or incomplete, or no ledger can be written to this path.
    """
    if ledger.is_dir() or (ledger.parent.exists() and not ledger.parent.is_dir()):
        raise RunError(f"no ledger can be written to {ledger}. Name a file with --ledger, such as {LEDGER}")
    if not ledger.is_file():
        return []
    lines = ledger.read_text(encoding="utf-8", errors="replace").split("\n")
    return [_parse(ledger, number, text) for number, text in enumerate(lines, 1) if text]


def _parse(ledger: Path, number: int, text: str) -> dict[str, Any]:
    remedy = "Put the line back as it was (git log -p shows it); a ledger is added to and not edited."
    try:
        line = json.loads(text)
    except ValueError as error:
        raise RunError(f"{ledger}, line {number} is not JSON ({error}). {remedy}") from None
    missing = [name for name in REQUIRED if name not in line] if isinstance(line, dict) else ["everything"]
    if missing:
        raise RunError(f"{ledger}, line {number} records no test evaluation: it lacks {', '.join(missing)}. {remedy}")
    return dict(line)


def _ends_with_newline(file: Any) -> bool:
    if not file.seek(0, os.SEEK_END):
        return True
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")
