"""Runs a recipe in forked processes, each of which is killed at a later write, until one comes to its end.

Usage: killed.py RECIPE OUT STEP OVERRIDE…; prints how many were killed. A fork costs no import.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import llmrec.evaluate.ranking
import llmrec.train.stage  # noqa: F401  # what a run imports on its way, once for all forks
from llmrec.recipe import Recipe
from llmrec.recipe_file import load
from llmrec.run import execute

KILLED = 77
_CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


def killed_at(number: int, recipe: Recipe, out: Path) -> bool:
    """Run a recipe in a process that ends at its so-manieth change of a file below a folder; whether it was ended."""
    child = os.fork()
    if not child:
        _end_at(number, str(out))
        execute.run(recipe, out, "train")
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, KILLED), code
    return code == KILLED


def _end_at(number: int, folder: str) -> None:
    left = number

    def count(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        writes = event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & _WRITING)
        if (writes or event in _CHANGES) and folder in str(arguments[0]):
            left -= 1
            if not left:
                os._exit(KILLED)

    sys.addaudithook(count)


if __name__ == "__main__":
    recipe, out, step = load(Path(sys.argv[1]), sys.argv[4:]), Path(sys.argv[2]), int(sys.argv[3])
    times = 0
    while killed_at((times + 1) * step, recipe, out):
        times += 1
    print(times)
