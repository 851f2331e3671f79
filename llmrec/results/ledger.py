"""The ledger of looks at test parts: one JSON object a line, only ever added to, so that tuning on test shows.

A recipe that is judged on validation (`evaluate.split: valid`) keeps its test part shut; `look` opens it and adds a
line. A line is written by one call on a file opened for appending: others may append at the same time, and a process
that is killed has written a line or none. A line that was edited or cut is named by its number, never passed over.
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
from llmrec.evaluate.files import CHOICES, METRICS, read_judged
from llmrec.files import explain_disk, hash_file
from llmrec.recipe_file import fingerprint, shipped_name
from llmrec.run import execute
from llmrec.run.layout import RunFolder, recipe_of
from llmrec.run.plan import plan
from llmrec.run.stage import Context
from llmrec.stage_record import read_record

BOOK = Path("results/ledger.jsonl")
NEEDED = ("date", "by", "run", "recipe hash", "seed", "data", "metrics", "figures")


def look(path: Path, book: Path, why: str, progress: Callable[[str, float], None]) -> Path:
    """Judge a run on its test part and write the look into a ledger; a look that is known is not taken again.

    The line is written before the figures are in the run, so that a kill leaves no look out of the ledger.

    Args:
        path: the run folder, its model trained.
        book: the ledger.
        why: what the look is for, in words; may be empty.

    Returns:
        The folder of the evaluation.

    Raises:
        RunError: the ledger has a line that cannot be read, the run is in use, or it holds stages of two recipes.
    """
    run, recipe = RunFolder(path.absolute()), recipe_of(path)
    read(book)  # before anything is looked at
    judged = plan(recipe, "test")[-1]

    def note(folder: Path) -> None:
        about = {
            "run": run.path.resolve().name,
            "why": why,
            "recipe": shipped_name(fingerprint(recipe)),
            "recipe hash": fingerprint(recipe),
            "trained at commit": read_record(run.last_trained).get("commit", "unknown"),
            "data": {"source": recipe.data.source, "hash": content_hash(run.data)},
        }
        _note(book, folder, about)

    def make(context: Context) -> dict[str, Any]:
        facts = judged.make(context)
        note(context.folder)
        return facts

    folder = execute.judge(recipe, run.path, replace(judged, make=make), progress)
    note(folder)  # where it was judged before, and this ledger does not have it
    return folder


def _note(book: Path, folder: Path, about: dict[str, Any]) -> None:
    """Write the figures of an evaluation into a ledger, unless it has them as this run's."""
    judged = read_judged(folder)
    figures = hash_file(folder / (METRICS if "systems" in judged else CHOICES))[:16]
    if any((line["run"], line["figures"]) == (about["run"], figures) for line in read(book)):
        return
    append(book, about | {"commit": provenance.commit(), **_figures(judged), "figures": figures})


def _figures(judged: dict[str, Any]) -> dict[str, Any]:
    """How a model was judged on test, and its figures: over the catalogue, or by task where it recommends nothing."""
    if "systems" in judged:
        protocol, of_model = judged["protocol"], judged["systems"][judged["model"]]
        about = {name: protocol[name] for name in ("seed", "beams", "exclude_seen", "cases")}
    else:
        tasks = judged["choices"]["tasks"]
        about = {
            "seed": judged["choices"]["protocol"]["seed"],
            "cases": {t: found["cases"] for t, found in tasks.items()},
        }
        of_model = {
            f"{task} {name}": value
            for task, found in tasks.items()
            for name, value in found.get("systems", {}).get("model", {}).items()
        }
    rounded = {name: [round(one[k], 6) for k in ("mean", "low", "high")] for name, one in of_model.items()}
    return {**about, "metrics": rounded}


def append(book: Path, line: dict[str, Any]) -> None:
    """Add a line, with the date and the name of who adds it; the ledger is made where it is missing."""
    dated = {"date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "by": provenance.author()} | line
    text = json.dumps(dated, ensure_ascii=False) + "\n"
    with explain_disk(book):
        book.parent.mkdir(parents=True, exist_ok=True)
        with book.open("ab+", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # whether the last line is whole must not change before ours is written
            whole = (b"" if _ends_well(file) else b"\n") + text.encode()
            if file.write(whole) < len(whole):
                raise RunError(
                    f"{book}: the disk took a part of the line only. Free some space and repair the last line."
                )
            os.fsync(file.fileno())


def read(book: Path) -> list[dict[str, Any]]:
    """All looks, oldest first; none where there is no ledger yet.

    Raises:
        RunError: a line is no look; names it. Or no ledger can be there, since a folder is, or a file is in its way.
    """
    if book.is_dir() or (book.parent.exists() and not book.parent.is_dir()):
        raise RunError(f"no ledger can be written to {book}. Name a file with --ledger, such as {BOOK}")
    if not book.is_file():
        return []
    lines = book.read_text(encoding="utf-8", errors="replace").split("\n")
    return [_parsed(book, number, text) for number, text in enumerate(lines, 1) if text]


def _parsed(book: Path, number: int, text: str) -> dict[str, Any]:
    remedy = "Put the line back as it was (git log -p shows it); a ledger is added to and not edited."
    try:
        line = json.loads(text)
    except ValueError as error:
        raise RunError(f"{book}, line {number} is not JSON ({error}). {remedy}") from None
    missing = [name for name in NEEDED if name not in line] if isinstance(line, dict) else ["everything"]
    if missing:
        raise RunError(f"{book}, line {number} is no look at a test part: it lacks {', '.join(missing)}. {remedy}")
    return dict(line)


def _ends_well(file: Any) -> bool:
    if not file.seek(0, os.SEEK_END):
        return True
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")
