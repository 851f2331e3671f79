"""Stages of a run: what one depends on, whether its folder holds just that, and how it is made whole or not at all."""

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
_SMALL = 2**20  # bytes of a file of a base that is read whole; of larger ones the size counts


@dataclass(frozen=True)
class Context:
    """What the function that makes a stage is given.

    Attributes:
        run: the run folder; stages that are read are whole.
        folder: to write into.
        work: for files that survive a kill.
        key: of the stage.
        progress: called with the share done, 0 to 1.
        report_to: names of trackers of training; None for TensorBoard where it is installed.
        engine: what runs a language model that is evaluated.
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
    """A file or folder outside of the run that a stage reads.

    Attributes:
        label: what made.json calls it; the same wherever the file lies.
        find: gives its path; called only when the stage is to be made, so a run is read where it is not.
    """

    label: str
    find: Callable[[], Path]


@dataclass(frozen=True)
class StageSpec:
    """One stage of a plan.

    Attributes:
        name: of its folder, below the run.
        version: of the code that makes it; raise it to make old results anew.
        config: what decides its result, as JSON; nothing about how it is made.
        reads: stages, files of stages (`data/items.parquet`), and what lies outside of the run.
        make: fills a folder; returns facts for people.
    """

    name: str
    kind: Kind
    version: int
    config: Any
    reads: tuple[str | Outside, ...]
    make: Callable[[Context], dict[str, Any]]


@dataclass(frozen=True)
class Stage:
    """A folder, made or not, and all that its content depends on; `inputs` are name → SHA-256 of what it reads."""

    folder: Path
    version: int
    config: Any
    inputs: dict[str, str]
    seed: int

    @property
    def key(self) -> str:
        """SHA-256 of everything that the result depends on."""
        return hash_json([self.version, self.config, self.inputs, self.seed])

    def is_made(self) -> bool:
        """Whether the folder holds the result for just this key.

        Raises:
            RunError: it does, and a file of it is missing or was changed; or its made.json is damaged.
        """
        if not (self.folder / RECORD_FILE).is_file():
            return False
        made = read_record(self.folder)
        if made["key"] != self.key:
            return False
        check_unchanged(self.folder, made)
        return True

    def make(self, fill: Callable[[Path], dict[str, Any]]) -> None:
        """Make the folder; what was there before stays until the new one is whole.

        Args:
            fill: writes files into an empty folder and returns facts for people.

        Raises:
            RunError: the folder holds something that is no stage, or the disk takes no more.
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
    """A stage of a run, with hashes of what it reads as that is now.

    Raises:
        RunError: a stage that it reads is not made, or a file is missing.
    """
    inputs = {
        read.label if isinstance(read, Outside) else read: _outside_hash(read)
        if isinstance(read, Outside)
        else _inside_hash(run, read)
        for read in spec.reads
    }
    return Stage(run.stage(spec.name), spec.version, spec.config, inputs, seed)


def _inside_hash(run: RunFolder, name: str) -> str:
    """Hash of a stage of the run, or of a file of one."""
    path = run.stage(name)
    if (path / RECORD_FILE).is_file():
        return read_record(path)["output"]
    made = read_record(path.parent)
    if path.name not in made["files"]:
        raise RunError(f"{path} is missing. Make it again: delete {path.parent}, and `llmrec run`.")
    return made["files"][path.name]["sha256"]


def _outside_hash(read: Outside) -> str:
    """Hash of a file, of a stage of another run, or of a folder with a model."""
    path = read.find()
    if (path / RECORD_FILE).is_file():
        return read_record(path)["output"]
    if path.is_dir():
        files = {file.relative_to(path).as_posix(): file for file in sorted(path.rglob("*")) if file.is_file()}
        sizes = {name: file.stat().st_size for name, file in files.items()}
        return hash_json([[name, hash_file(files[name]) if size <= _SMALL else size] for name, size in sizes.items()])
    check_file(path, f"The recipe names it ({read.label}): put it back, or name another.")
    return hash_file(path)


def require_current(run: RunFolder, specs: Sequence[StageSpec], seed: int, all_files: bool = True) -> dict[str, str]:
    """Check that stages of a run are those of a recipe, made of one another, with their files as they were left.

    Files outside of the run count as they were when the stages were made.

    Args:
        specs: stages that must be there, in order.
        all_files: whether every file must be there; False where weights stayed on another machine.

    Returns:
        Stage → hash of its files.

    Raises:
        RunError: a stage is missing, was made from another recipe, seed or input, or a file of it was changed.
    """
    hashes: dict[str, str] = {}
    for spec in specs:
        folder = run.stage(spec.name)
        if not (folder / RECORD_FILE).is_file():
            raise RunError(f"{folder} is not made. Finish the run with: llmrec run RECIPE --out {run.path}")
        made = read_record(folder)
        inputs = {read: _inside_hash(run, read) for read in spec.reads if isinstance(read, str)}
        # Files of a user's own data may be gone, so of `data` what it did read counts.
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
