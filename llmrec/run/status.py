"""Whether a run folder holds what its recipe says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmrec.checked import check_file
from llmrec.errors import RunError
from llmrec.files import hash_file, hash_json
from llmrec.made import MADE, Made, check_files, read_made
from llmrec.run.layout import RunFolder
from llmrec.run.specs import Outside, StageSpec
from llmrec.run.stage import Stage

_MISSING = object()
_SMALL = 2**20  # bytes of a file of a base that is read whole; of larger ones the size counts


def stage(run: RunFolder, spec: StageSpec, seed: int) -> Stage:
    """A stage of a run, with hashes of what it reads as that is now.

    Raises:
        RunError: a stage that it reads is not made, or a file is missing.
    """
    inputs = {}
    for read in spec.reads:
        name = read.label if isinstance(read, Outside) else read
        inputs[name] = _outside_hash(read) if isinstance(read, Outside) else _inside_hash(run, read)
    return Stage(run.stage(spec.name), spec.version, spec.config, inputs, seed)


def _inside_hash(run: RunFolder, name: str) -> str:
    """Hash of a stage of the run, or of a file of one."""
    path = run.stage(name)
    if (path / MADE).is_file():
        return read_made(path)["output"]
    made = read_made(path.parent)
    if path.name not in made["files"]:
        raise RunError(f"{path} is missing. Make it again: delete {path.parent}, and `llmrec run`.")
    return made["files"][path.name]["sha256"]


def _outside_hash(read: Outside) -> str:
    """Hash of a file, of a stage of another run, or of a folder with a model."""
    path = read.find()
    if (path / MADE).is_file():
        return read_made(path)["output"]
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return hash_json([[file.relative_to(path).as_posix(), _brief_hash(file)] for file in files])
    check_file(path, f"The recipe names it ({read.label}): put it back, or name another.")
    return hash_file(path)


def _brief_hash(file: Path) -> str | int:
    size = file.stat().st_size
    return hash_file(file) if size <= _SMALL else size


def require_current(run: RunFolder, specs: list[StageSpec], seed: int, all_files: bool = True) -> dict[str, str]:
    """See that stages of a run are those of a recipe, made of one another, with their files as they were left.

    Files outside of the run count as they were when the stages were made.

    Args:
        run: the run folder.
        specs: stages that must be there, in order.
        seed: of the recipe.
        all_files: whether every file must be there; False where weights stayed on another machine.

    Returns:
        Stage → hash of its files.

    Raises:
        RunError: a stage is missing, was made from another recipe, seed or input, or a file of it was changed.
    """
    hashes: dict[str, str] = {}
    for spec in specs:
        folder = run.stage(spec.name)
        if not (folder / MADE).is_file():
            raise RunError(f"{folder} is not made. Finish the run with: llmrec run RECIPE --out {run.path}")
        made = read_made(folder)
        inputs = {read: _inside_hash(run, read) for read in spec.reads if isinstance(read, str)}
        inputs |= {label: made["inputs"].get(label, "") for label in _outside_labels(spec, made)}
        if made["key"] != Stage(folder, spec.version, spec.config, inputs, seed).key:
            raise RunError(
                f"{folder} was made {_difference(made, spec, inputs, seed)}, as when a run with changes was stopped on "
                "its way. Finish it, or go back to the recipe before, with: llmrec run RECIPE --out RUN"
            )
        check_files(folder, made, all_files)
        hashes[spec.name] = made["output"]
    return hashes


def _outside_labels(spec: StageSpec, made: Made) -> list[str]:
    """What a stage of the recipe reads outside of the run; of data, whose files may be gone, what it did read."""
    if spec.kind == "data":
        return list(made["inputs"])
    return [read.label for read in spec.reads if isinstance(read, Outside)]


def _difference(made: Made, spec: StageSpec, inputs: dict[str, str], seed: int) -> str:
    """How a made stage differs from what it must be."""
    if made["seed"] != seed:
        return f"with seed {made['seed']}, and the recipe has seed {seed}"
    if made["config"] != spec.config:
        return f"with {_first_difference(made['config'], spec.config)}"
    names = sorted(made["inputs"].keys() | inputs.keys())
    others = [name for name in names if made["inputs"].get(name) != inputs.get(name)]
    return f"from another {others[0]} than the run holds now" if others else "by another version of llmrec"


def _first_difference(made: Any, planned: Any, name: str = "") -> str:
    """The first setting in which two configurations differ, and both values; one that is missing differs from null."""
    if isinstance(made, dict) and isinstance(planned, dict):
        both = sorted(made.keys() | planned.keys())
        key = next(key for key in both if made.get(key, _MISSING) != planned.get(key, _MISSING))
        inside = f"{name}.{key}" if name else key
        return _first_difference(made.get(key, _MISSING), planned.get(key, _MISSING), inside)
    old, new = ("no such setting" if value is _MISSING else json.dumps(value) for value in (made, planned))
    return f"{name}: {old}, and the recipe has {new}"
