"""Which folders a run may be written to: a new or an empty one, or a run's; nothing else is ever replaced."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from llmrec.errors import RunError
from llmrec.files import explain_disk
from llmrec.run.layout import RunFolder
from llmrec.stage_record import RECORD_FILE, is_stage, read_record

_LOCKED = re.compile(rb"process \d+ on .* since \d{4}-")  # what `lock` writes


@contextlib.contextmanager
def lock(run: RunFolder) -> Iterator[int]:
    """Hold a run folder, by a file descriptor that children may hold on to; the folder is made and marked as a run's.

    Raises:
        RunError: another process holds it, it cannot be made, or it holds other files than a run's.
    """
    refuse_foreign(run)
    with explain_disk(run.path):
        try:
            run.path.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError:
            raise RunError(
                f"{run.path} cannot be made: its parent takes no folders. Choose another with --out DIR."
            ) from None
        descriptor = os.open(run.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    with os.fdopen(descriptor, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read().strip() or "another process"
            raise RunError(
                f"{run.path} is in use by {holder}. Wait for it, stop it, or write elsewhere with --out DIR."
            ) from None
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        file.truncate()  # only now: this line marks the folder as a run's, also for who reads it at this moment
        file.flush()
        yield file.fileno()


def refuse_foreign(run: RunFolder) -> None:
    """See that a run may be written to a folder.

    Raises:
        RunError: it cannot be a folder, holds files and is no run, is part of a run, a stage of it is not ours, or it
            is a run of another version of llmrec.
    """
    folder = run.path
    with explain_disk(folder):
        _refuse_name(folder)
        try:
            folder.lstat()
        except FileNotFoundError:
            return
        if not folder.is_dir():
            what = "a link that leads to no folder" if folder.is_symlink() else "no folder"
            raise RunError(f"{folder} is {what}, so no run can be written there. Name another with --out DIR.")
        _refuse_files(run)
        _refuse_parts(run)


def _refuse_files(run: RunFolder) -> None:
    """Refuse a folder with files that no run has marked as its own."""
    names, lock = sorted(path.name for path in run.path.iterdir()), run.lock
    own_lock = lock.is_file() and not lock.is_symlink()
    beginning = names == [lock.name] and not lock.is_symlink() and not lock.stat().st_size
    locked = own_lock and _LOCKED.match(lock.read_bytes()[:200])
    if names and not beginning and not locked and not any(is_stage(stage) for stage in run.stages):
        shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        raise RunError(
            f"{run.path} holds other files ({shown}) and is no run, so nothing is written there. Name a new or an "
            "empty folder with --out DIR."
        )


def _refuse_parts(run: RunFolder) -> None:
    """Refuse what a run would delete or replace and did not make, or another version made."""
    if run.work.is_symlink():
        raise RunError(f"{run.work} is a link, and what a run leaves there is deleted. Put a folder there.")
    for stage in run.stages:
        if _is_foreign(stage):
            raise RunError(
                f"{stage} is no stage of a run (it has no {RECORD_FILE} of one), and a run would replace it. Move it "
                "away, or name another folder with --out DIR."
            )
        if (stage / RECORD_FILE).is_file():
            read_record(stage)


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
    """Raise RunError where a file that a run reads lies in its own folder, by its name or through links.

    Args:
        paths: what it is, as a recipe calls it, and where it is; what is not there is passed over.
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
