"""A stage: a folder that is either whole, and known by the made.json in it, or made anew."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrec import provenance
from llmrec.files import atomic_folder, hash_json, write_json
from llmrec.made import LAYOUT, MADE, Made, check_files, is_stage, output_hash, read_made, records


@dataclass(frozen=True)
class Stage:
    """A folder and all that its content depends on.

    Attributes:
        folder: where it is, or will be.
        version: of the code that makes it; a higher number makes all old results anew.
        config: the part of the recipe that decides what is made, as JSON; nothing about how it is made.
        inputs: name → SHA-256 of what it reads.
        seed: of the run.
    """

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
        """Whether the folder holds the result for just this key, its files as they were left.

        Raises:
            RunError: it does, and a file of it is missing or was changed; or its made.json is damaged.
        """
        if not (self.folder / MADE).is_file():
            return False
        made = read_made(self.folder)
        if made["key"] != self.key:
            return False
        check_files(self.folder, made)
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
            write_json(temporary / MADE, self._made(temporary, facts, time.monotonic() - started))

    def _made(self, folder: Path, facts: dict[str, Any], seconds: float) -> Made:
        files = records(folder)
        return {
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
