"""Lock a run folder, and refuse folders that are not runs, so that no other file is ever replaced."""

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

_LOCKED = re.compile(rb"process \d+ on .* since \d{4}-")  # written by `lock`


@contextlib.contextmanager
def lock(run: RunFolder) -> Iterator[int]:
    """Create and lock a run folder; yield the file descriptor of the lock, which children may inherit.

    Raises:
        RunError: another process holds the lock, the folder cannot be created, or it has other files.
    """
    refuse_foreign(run)
    with explain_disk(run.path):
        try:
            run.path.mkdir(parents=True, exist_ok=True)
        except FileNotFoundError:
            raise RunError(
                f"{run.path} cannot be created in its parent folder. Choose another with --out DIR."
            ) from None
        descriptor = os.open(run.lock, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    with os.fdopen(descriptor, "r+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = file.read().strip() or "another process"
            raise RunError(
                f"{run.path} is in use by {holder}. Wait for it, stop it, or choose another folder with --out DIR."
            ) from None
        file.write(f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
        file.truncate()  # after writing, since other processes may read this line at any time
        file.flush()
        yield file.fileno()


def refuse_foreign(run: RunFolder) -> None:
    """Check that a run may be written to a folder.

    Raises:
        RunError: it is not a folder, has files but is not a run, is inside a stage of a run, has a stage that llmrec
            did not make, or is a run of another version of llmrec.
    """
    folder = run.path
    with explain_disk(folder):
        _refuse_name(folder)
        try:
            folder.lstat()
        except FileNotFoundError:
            return
        if not folder.is_dir():
            what = "a link to something that is not a folder" if folder.is_symlink() else "not a folder"
            raise RunError(f"{folder} is {what}, so no run can be written there. Choose another with --out DIR.")
        _refuse_files(run)
        _refuse_parts(run)


def _refuse_files(run: RunFolder) -> None:
    """Refuse a folder with files that is not marked as a run."""
    names, lock = sorted(path.name for path in run.path.iterdir()), run.lock
    own_lock = lock.is_file() and not lock.is_symlink()
    beginning = names == [lock.name] and not lock.is_symlink() and not lock.stat().st_size
    locked = own_lock and _LOCKED.match(lock.read_bytes()[:200])
    if names and not beginning and not locked and not any(is_stage(stage) for stage in run.stages):
        shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        raise RunError(
            f"{run.path} has other files ({shown}) and is not a run, so nothing is written there. Choose a new or "
            "empty folder with --out DIR."
        )


def _refuse_parts(run: RunFolder) -> None:
    """Refuse a folder with parts that a run would delete or replace, but that no run of this version made."""
    if run.work.is_symlink():
        raise RunError(f"{run.work} is a link, but its content would be deleted. Replace it with a folder.")
    for stage in run.stages:
        if _is_foreign(stage):
            raise RunError(
                f"{stage} is not a stage of a run (it has no valid {RECORD_FILE}), but a run would replace it. Move it "
                "away, or choose another folder with --out DIR."
            )
        if (stage / RECORD_FILE).is_file():
            read_record(stage)


def _is_foreign(stage: Path) -> bool:
    if stage.is_symlink() or (stage.exists() and not stage.is_dir()):
        return True
    try:
        return any(stage.iterdir()) and not is_stage(stage)
    except FileNotFoundError:  # another process replaced it at this moment
        return False


def _refuse_name(folder: Path) -> None:
    whole = next((parent for parent in Path(os.path.realpath(folder)).parents if is_stage(parent)), None)
    if whole:
        raise RunError(f"{folder} is inside {whole}, a stage of a run. Choose another with --out DIR.")
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        raise RunError(f"{str(folder)!r} is not valid UTF-8, as a run folder's name must be. Choose another.") from None


def refuse_below(paths: Iterable[tuple[str, str | Path]], folder: Path) -> None:
    """Raise RunError if an input of a run is inside the run folder, directly or through links.

    Args:
        paths: (recipe key, path) of inputs; missing files are skipped.
    """
    for name, path in paths:
        if os.path.lexists(path) and is_below(Path(path), folder):
            raise RunError(
                f"{name} ({path}) is inside the run folder {folder}, whose parts are replaced by new results. "
                "Move it, or choose another run folder with --out DIR."
            )


def is_below(path: Path, folder: Path) -> bool:
    """Whether a path is a folder or inside it, directly or through links."""
    places = {Path(os.path.abspath(path)), Path(os.path.realpath(path))}  # noqa: PTH100  # as written, links kept
    return any(_same(parent, folder) for place in places for parent in (place, *place.parents))


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
