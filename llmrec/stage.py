"""A stage: a folder that is either whole and known by its `made.json`, or made anew."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import socket
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from llmrec import __version__, peak
from llmrec.errors import RunError
from llmrec.files import atomic_folder, explain_disk, hash_folder, hash_json, write_json
from llmrec.git import commit
from llmrec.run_files import MADE, read_made
from llmrec.run_folder import LOCK, is_stage, refuse_foreign


@dataclass(frozen=True)
class Stage:
    """What a stage's result depends on.

    Attributes:
        folder: where it goes.
        format: number of its file format; a change redoes the stage.
        recipe: its part of the recipe.
        inputs: name → hash of what it reads.
        seed: of the run.
    """

    folder: Path
    format: int
    recipe: Any
    inputs: dict[str, str]
    seed: int

    @property
    def key(self) -> str:
        """Hash of everything the result depends on."""
        return hash_json([self.format, self.recipe, self.inputs, self.seed])

    def is_made(self) -> bool:
        """Whether the folder holds the result of just this recipe, these inputs, this format."""
        return (self.folder / MADE).is_file() and read_made(self.folder).get("key") == self.key

    def run(self, make: Callable[[Path], dict[str, Any]]) -> str:
        """Make the folder unless it is made already.

        Args:
            make: fills a folder and returns facts about it for people.

        Returns:
            Hash of the folder's files.
        """
        if not self.is_made():
            started = time.monotonic()
            peak.reset()
            with atomic_folder(self.folder, is_stage) as temporary:
                facts = make(temporary)
                output = hash_folder(temporary, without=(MADE, "log.jsonl"))
                write_json(temporary / MADE, self._made(output, facts, time.monotonic() - started))
        return made_hash(self.folder)

    def _made(self, output: str, facts: dict[str, Any], seconds: float) -> dict[str, Any]:
        return {
            "key": self.key,
            "format": self.format,
            "recipe": self.recipe,
            "inputs": self.inputs,
            "output": output,
            "seed": self.seed,
            "facts": facts,
            "versions": versions(),
            "commit": commit(),
            "device": device(),
            "seconds": round(seconds, 2),
            "peak": peak.peaks(),
        }


def made_hash(folder: Path) -> str:
    """Hash of the files of a finished stage.

    Raises:
        RunError: there is none in that folder, or its made.json is damaged.
    """
    return read_made(folder)["output"]


def versions() -> dict[str, str]:
    """Versions of what results depend on."""
    found = {"llmrec": __version__, "python": platform.python_version()}
    for package in ("torch", "transformers", "numpy", "faiss-cpu", "duckdb", "sentencepiece"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[package] = metadata.version(package)
    return found


def device() -> str:
    """The accelerator, or the number of cores."""
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else f"CPU, {os.cpu_count()} cores"


@contextlib.contextmanager
def lock(run: Path) -> Iterator[int]:
    """Hold a run folder, by a file descriptor that children may hold on to; it is made and marked as a run's.

    Raises:
        RunError: another process holds it, it cannot be made, or it holds other files than a run's.
    """
    refuse_foreign(run)
    with explain_disk(run):
        try:
            run.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError:
            raise RunError(
                f"{run} cannot be made: its parent takes no folders. Choose another with --out DIR."
            ) from None
        descriptor = os.open(run / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    with os.fdopen(descriptor, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read().strip() or "another process"
            raise RunError(
                f"{run} is in use by {holder}. Wait for it, stop it, or write elsewhere with --out DIR."
            ) from None
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        file.truncate()  # only now: this line marks the folder as a run's, also for who reads it at this moment
        file.flush()
        yield file.fileno()
