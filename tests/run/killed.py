"""Runs a recipe in forked processes that are killed on their way: what they import is imported once.

killed.py again RECIPE OUT STEP OVERRIDE…: each is killed STEP writes later than the one before, until one comes to its
end; prints how many were killed.
killed.py at RECIPE "EVENT PLACE=OUT"… OVERRIDE…: each is killed right before EVENT (such as os.rename) of a path that
ends in PLACE.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import llmrec.train.sft  # noqa: F401  # what a run imports on its way
from llmrec.recipe import Recipe
from llmrec.recipe_file import load
from llmrec.run import execute

KILLED = 77
_CHANGES = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
Event = Callable[[str, tuple[object, ...]], bool]


def is_killed(ends: Event, recipe: Recipe, out: Path) -> bool:
    """Run a recipe in a process that ends at an event of its Python; whether it did."""
    child = os.fork()
    if not child:
        sys.addaudithook(lambda event, arguments: os._exit(KILLED) if ends(event, arguments) else None)
        execute.run(recipe, out, "train")
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, KILLED), code
    return code == KILLED


def nth_write(number: int, folder: str) -> Event:
    """The so-manieth time that something below a folder is opened to be written, made, renamed or removed."""
    left = number

    def ends(event: str, arguments: tuple[object, ...]) -> bool:
        nonlocal left
        writes = event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & _WRITING)
        left -= (writes or event in _CHANGES) and folder in str(arguments[0])
        return left == 0

    return ends


def first(kind: str, place: str) -> Event:
    """The first event of a kind whose path ends in a place."""
    return lambda event, arguments: event == kind and str(arguments[0]).endswith(place)


def again(recipe: Recipe, out: Path, step: int) -> int:
    """Kill a run again and again, until one comes to its end; how often."""
    times = 0
    while is_killed(nth_write((times + 1) * step, str(out)), recipe, out):
        times += 1
    return times


if __name__ == "__main__":
    mode, path, *rest = sys.argv[1:]
    if mode == "again":
        print(again(load(Path(path), rest[2:]), Path(rest[0]), int(rest[1])))
    else:
        places = [one.split("=", 1) for one in rest if "/" in one.split("=", 1)[1]]
        recipe = load(Path(path), rest[len(places) :])
        for place, out in places:
            assert is_killed(first(*place.split()), recipe, Path(out)), place
