"""Stages of a run: their inputs, whether a folder is current, and how it is made atomically."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from llmrec import provenance
from llmrec.checked import check_file
from llmrec.errors import RunError
from llmrec.files import atomic_folder, hash_file, hash_json, write_json
from llmrec.run.layout import RunFolder
from llmrec.stage_record import (
    LAYOUT,
    RECORD_FILE,
    StageRecord,
    check_unchanged,
    file_records,
    is_stage,
    output_hash,
    read_record,
)

Split = Literal["valid", "test"]
EngineName = Literal["transformers", "vllm"]
Kind = Literal["data", "items", "catalogue", "collaborative", "tasks", "train", "evaluate"]
_MISSING = object()
_SMALL = 2**20  # bytes; larger files of a base model are compared by size only


@dataclass(frozen=True)
class Context:
    """Arguments of the function that makes a stage.

    Attributes:
        run: the run folder, with all stages that are read.
        folder: the folder to write to.
        work: folder for files that survive an interruption.
        key: of the stage.
        progress: called with the share done, 0 to 1.
        report_to: experiment trackers; None: TensorBoard if it is installed.
        engine: of the language model in an evaluation.
    """

    run: RunFolder
    folder: Path
    work: Path
    key: str
    seed: int
    progress: Callable[[float], None]
    report_to: Sequence[str] | None = None
    engine: EngineName = "transformers"


@dataclass(frozen=True)
class Outside:
    """An input of a stage outside the run folder.

    Attributes:
        label: its name in made.json, independent of its path.
        find: returns its path; called only to make the stage, so that a run can be read without it.
    """

    label: str
    find: Callable[[], Path]


@dataclass(frozen=True)
class StageSpec:
    """One stage of a plan.

    Attributes:
        name: of its folder in the run.
        version: of the code; increase it to invalidate old results.
        config: all settings that change the result, as JSON.
        reads: stages, files of stages (`data/items.parquet`), and inputs outside the run.
        make: writes the folder and returns facts.
    """

    name: str
    kind: Kind
    version: int
    config: Any
    reads: tuple[str | Outside, ...]
    make: Callable[[Context], dict[str, Any]]


@dataclass(frozen=True)
class Stage:
    """A stage folder, which may not exist, and everything its content depends on; `inputs`: name → SHA-256."""

    folder: Path
    version: int
    config: Any
    inputs: dict[str, str]
    seed: int

    @property
    def key(self) -> str:
        """SHA-256 of everything the result depends on."""
        return hash_json([self.version, self.config, self.inputs, self.seed])

    def is_made(self) -> bool:
        """Whether the folder has the result for this key.

        Raises:
            RunError: a file of it is missing or was changed, or its made.json is damaged.
        """
        if not (self.folder / RECORD_FILE).is_file():
            return False
        made = read_record(self.folder)
        if made["key"] != self.key:
            return False
        check_unchanged(self.folder, made)
        return True

    def make(self, fill: Callable[[Path], dict[str, Any]]) -> None:
        """Make the folder atomically: an old one is replaced only when the new one is complete.

        Args:
            fill: writes the files into an empty folder and returns facts.

        Raises:
            RunError: the folder is not a stage, or the disk is full.
        """
        started = time.monotonic()
        provenance.reset_peak_memory()
        with atomic_folder(self.folder, is_stage) as temporary:
            facts = fill(temporary)
            seconds, files = time.monotonic() - started, file_records(temporary)
            made: StageRecord = {
                "layout": LAYOUT,
                "key": self.key,
                "version": self.version,
                "config": self.config,
                "inputs": self.inputs,
                "seed": self.seed,
                "files": files,
                "output": output_hash(files),
                "facts": facts,
                "versions": provenance.versions(),
                "commit": provenance.commit(),
                "device": provenance.device(),
                "seconds": round(seconds, 2),
                "peak": provenance.peak_memory(),
            }
            write_json(temporary / RECORD_FILE, made)


def resolve(run: RunFolder, spec: StageSpec, seed: int) -> Stage:
    """Return a stage with the current hashes of its inputs.

    Raises:
        RunError: an input stage is not made, or a file is missing.
    """
    inputs = {
        read.label if isinstance(read, Outside) else read: _outside_hash(read)
        if isinstance(read, Outside)
        else _inside_hash(run, read)
        for read in spec.reads
    }
    return Stage(run.stage(spec.name), spec.version, spec.config, inputs, seed)


def _inside_hash(run: RunFolder, name: str) -> str:
    """Return the hash of a stage of the run, or of a file of it."""
    path = run.stage(name)
    if (path / RECORD_FILE).is_file():
        return read_record(path)["output"]
    made = read_record(path.parent)
    if path.name not in made["files"]:
        raise RunError(f"{path} is missing. Make it again: delete {path.parent}, and `llmrec run`.")
    return made["files"][path.name]["sha256"]


def _outside_hash(read: Outside) -> str:
    """Return the hash of a file, of a stage of another run, or of a model folder."""
    path = read.find()
    if (path / RECORD_FILE).is_file():
        return read_record(path)["output"]
    if path.is_dir():
        files = {file.relative_to(path).as_posix(): file for file in sorted(path.rglob("*")) if file.is_file()}
        sizes = {name: file.stat().st_size for name, file in files.items()}
        return hash_json([[name, hash_file(files[name]) if size <= _SMALL else size] for name, size in sizes.items()])
    check_file(path, f"The recipe has it as {read.label}: restore it, or change the recipe.")
    return hash_file(path)


def require_current(run: RunFolder, specs: Sequence[StageSpec], seed: int, all_files: bool = True) -> dict[str, str]:
    """Check that stages of a run are current: made by this recipe from one another, with unchanged files.

    Inputs outside the run are not checked again.

    Args:
        specs: the required stages, in order.
        all_files: whether every file must exist; False if weights are on another machine.

    Returns:
        Stage → hash of its files.

    Raises:
        RunError: a stage is missing, was made from another recipe, seed or input, or has a changed file.
    """
    hashes: dict[str, str] = {}
    for spec in specs:
        folder = run.stage(spec.name)
        if not (folder / RECORD_FILE).is_file():
            raise RunError(f"{folder} is not made. Finish the run with: llmrec run RECIPE --out {run.path}")
        made = read_record(folder)
        inputs = {read: _inside_hash(run, read) for read in spec.reads if isinstance(read, str)}
        # The user's own files may be gone, so for `data` the recorded inputs count.
        outside = made["inputs"] if spec.kind == "data" else [r.label for r in spec.reads if isinstance(r, Outside)]
        inputs |= {label: made["inputs"].get(label, "") for label in outside}
        if made["key"] != Stage(folder, spec.version, spec.config, inputs, seed).key:
            raise RunError(
                f"{folder} was made {_difference(made, spec, inputs, seed)}, as when a run with changes was stopped on "
                "its way. Finish it, or go back to the recipe before, with: llmrec run RECIPE --out RUN"
            )
        check_unchanged(folder, made, all_files)
        hashes[spec.name] = made["output"]
    return hashes


def _difference(made: StageRecord, spec: StageSpec, inputs: dict[str, str], seed: int) -> str:
    """Describe how a stage differs from its plan."""
    if made["seed"] != seed:
        return f"with seed {made['seed']}, and the recipe has seed {seed}"
    if made["config"] != spec.config:
        return f"with {_first_difference(made['config'], spec.config)}"
    names = sorted(made["inputs"].keys() | inputs.keys())
    others = [name for name in names if made["inputs"].get(name) != inputs.get(name)]
    return f"from another {others[0]} than the run holds now" if others else "by another version of llmrec"


def _first_difference(made: Any, planned: Any, name: str = "") -> str:
    """Describe the first setting that differs, with both values; a missing setting differs from null."""
    if isinstance(made, dict) and isinstance(planned, dict):
        both = sorted(made.keys() | planned.keys())
        key = next(key for key in both if made.get(key, _MISSING) != planned.get(key, _MISSING))
        inside = f"{name}.{key}" if name else key
        return _first_difference(made.get(key, _MISSING), planned.get(key, _MISSING), inside)
    old, new = ("no such setting" if value is _MISSING else json.dumps(value) for value in (made, planned))
    return f"{name}: {old}, and the recipe has {new}"
