"""Measured numbers: one JSON file a measurement under results/, with all that is needed to repeat it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

from llmrec.git import commit

from llmrec.errors import RunError
from llmrec.files import read_json, write_json
from llmrec.stage import device, versions


def write_result(path: Path, command: str, figures: dict[str, Any], **about: Any) -> None:
    """Write one result.

    Args:
        path: a file under results/.
        command: what prints these figures again.
        figures: the numbers.
        about: protocol, seeds, hashes of recipe and data, dtype, threads, …

    Raises:
        RunError: another file than a result is there.
    """
    before = read_json(path) if path.is_file() else {"command": "", "figures": {}}
    if not isinstance(before, dict) or not before.keys() >= {"command", "figures"}:
        raise RunError(f"{path} is no result, and is not replaced. Move it away, or choose another folder with --out.")
    write_json(
        path,
        {
            "command": command,
            "date": time.strftime("%Y-%m-%d"),
            "commit": commit(),
            "machine": {
                "device": device(),
                "memory_gib": _memory(),
                "load": [round(part, 2) for part in os.getloadavg()],
            },
            "versions": versions(),
            **about,
            "figures": figures,
        },
    )


def _memory() -> int:
    return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
