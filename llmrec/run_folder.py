"""Which folders a run may be written to: a new or an empty one, or a run of ours; nothing else is ever replaced."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

from llmrec.errors import RunError
from llmrec.files import explain_disk

LOCK, WORK = ".lock", ".work"
_LOCKED = re.compile(rb"process \d+ on .* since \d{4}-")  # what `stage.lock` writes into it
_STAGES = re.compile(r"data|items|catalogue|tasks|train-[0-9]{1,9}-[a-z-]+")
_KEYS = {"recipe", "inputs", "output", "seed", "facts"}  # of a stage's made.json, in every version


def is_stage(folder: Path) -> bool:
    """Whether a folder is a stage of a run, which its made.json tells."""
    try:
        made = json.loads((folder / "made.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(made, dict) and made.keys() >= _KEYS


def is_run(folder: Path) -> bool:
    """Whether a folder is a run: it was locked by one, or holds a stage of one."""
    lock = folder / LOCK
    locked = lock.is_file() and not lock.is_symlink() and _LOCKED.match(lock.read_bytes()[:200])
    return bool(locked) or any(is_stage(folder / name) for name in _stages(folder))


def refuse_foreign(folder: Path) -> None:
    """See that a run may be written to a folder.

    Raises:
        RunError: it cannot be a folder, holds files and is no run, is part of a run, or a stage of it is not ours.
    """
    with explain_disk(folder):
        _refuse_name(folder)
        try:
            folder.lstat()
        except FileNotFoundError:
            return
        if not folder.is_dir():
            what = "a link that leads to no folder" if folder.is_symlink() else "no folder"
            raise RunError(f"{folder} is {what}, so no run can be written there. Name another with --out DIR.")
        _refuse_files(folder)
        _refuse_parts(folder)


def _refuse_files(folder: Path) -> None:
    names = sorted(path.name for path in folder.iterdir())
    beginning = names == [LOCK] and not (folder / LOCK).is_symlink() and not (folder / LOCK).stat().st_size
    if names and not beginning and not is_run(folder):
        shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        raise RunError(
            f"{folder} holds other files ({shown}) and is no run, so nothing is written there. Name a new or an "
            "empty folder with --out DIR."
        )


def _refuse_parts(folder: Path) -> None:
    """Refuse what a run would delete or replace and did not make."""
    if (folder / WORK).is_symlink():
        raise RunError(f"{folder / WORK} is a link, and what a run leaves there is deleted. Put a folder there.")
    for stage in (folder / name for name in _stages(folder)):
        if _is_foreign(stage):
            raise RunError(
                f"{stage} is no stage of a run (it has no made.json of one), and a run would replace it. Move it "
                "away, or name another folder with --out DIR."
            )


def _is_foreign(stage: Path) -> bool:
    if stage.is_symlink() or (stage.exists() and not stage.is_dir()):
        return True
    try:
        return any(stage.iterdir()) and not is_stage(stage)
    except FileNotFoundError:  # another process of this run has replaced it just now
        return False


def _refuse_name(folder: Path) -> None:
    whole = next((parent for parent in Path(os.path.realpath(folder)).parents if is_stage(parent)), None)
    if whole:
        raise RunError(f"{folder} lies in {whole}, a stage of a run that may be replaced. Name another with --out DIR.")
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise RunError(f"{str(folder)!r} is not valid UTF-8, as a run folder's name must be. Choose another.") from None


def refuse_below(paths: Iterable[tuple[str, str | Path]], folder: Path) -> None:
    """See that nothing that a run reads lies in its own folder, where stages are replaced.

    Args:
        paths: what it is, as a recipe calls it, and where it is; what is not there is passed over.
        folder: of the run.

    Raises:
        RunError: one lies there, by its name or through links.
    """
    for name, path in paths:
        if os.path.lexists(path) and is_below(Path(path), folder):
            raise RunError(
                f"{name} ({path}) lies in the run folder {folder}, whose parts are replaced when they are made anew. "
                "Move it elsewhere, or write the run elsewhere with --out DIR."
            )


def is_below(path: Path, folder: Path) -> bool:
    """Whether a path leads to a folder or below it, by its name or through links."""
    places = {Path(os.path.abspath(path)), Path(os.path.realpath(path))}  # noqa: PTH100  # as written, links kept
    return any(_same(parent, folder) for place in places for parent in (place, *place.parents))


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _stages(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if _STAGES.fullmatch(path.name))
