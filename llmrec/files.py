"""Atomic writes of files and folders, hashes, and messages for errors of the file system."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llmrec.errors import RunError

_ELSEWHERE = "Choose another place with `--out DIR`"
REASONS = {  # error of the system → what it means, and what to do
    errno.ENOSPC: ("the disk is full", "Free some space or choose another place with `--out DIR`"),
    errno.EDQUOT: ("the disk quota is used up", "Free some space or choose another place with `--out DIR`"),
    errno.EROFS: ("the file system is read-only", _ELSEWHERE),
    errno.EACCES: ("permission is denied", "Choose a place that you may write to with `--out DIR`"),
    errno.EPERM: ("the system does not permit it", _ELSEWHERE),
    errno.EFBIG: ("the file grew larger than the system takes", _ELSEWHERE),
    errno.EBUSY: ("it is a mount point, or in use", _ELSEWHERE),
    errno.ENAMETOOLONG: ("the name is longer than the system takes", "Choose a shorter one with `--out DIR`"),
    errno.ENOTDIR: ("a file is in the way, where a folder must be", _ELSEWHERE),
    errno.EISDIR: ("a folder is in the way, where a file must be", _ELSEWHERE),
    errno.EEXIST: ("something else is there", _ELSEWHERE),
    errno.ELOOP: ("its links go round in a circle", _ELSEWHERE),
}


@contextlib.contextmanager
def explain_disk(path: Path) -> Iterator[None]:
    """Turn known errors of the file system (disk full, read-only, no permission …) into a RunError with a remedy.

    Args:
        path: that the block writes.

    Raises:
        RunError: `path` cannot be written, or another file cannot be used; names the file.
    """
    if "\0" in str(path):
        raise RunError(f"{str(path)!r} holds a NUL, which no name can. Choose another place with `--out DIR`.")
    try:
        yield
    except OSError as error:
        if error.errno not in REASONS:
            raise
        file = _file_of(error)
        if file and not _is_written(file, path):
            raise RunError(f"{unusable(error)} See that it is a file that you may use.") from error
        what, remedy = REASONS[error.errno]
        raise RunError(f"cannot write {path}: {what}. {remedy}; nothing half-written is kept.") from error


def unusable(error: OSError) -> str | None:
    """Say which file cannot be used, and why; None where an error of Python, NumPy or Arrow does not name it."""
    file = _file_of(error)
    return f"{str(file)[:300]} cannot be used: {REASONS[error.errno][0]}." if file and error.errno in REASONS else None


def _file_of(error: OSError) -> Path | None:
    """The file that an error names; Arrow names it only in its text."""
    quoted = re.search(r"local file '(.+)'\.", str(error))
    name = error.filename or (quoted[1] if quoted else None)
    return Path(os.fsdecode(name)) if isinstance(name, str | bytes | os.PathLike) else None


def _is_written(file: Path, path: Path) -> bool:
    """Whether a file is the written path, below it, or a parent of it.

    Until it is complete, the written file has a hidden name beside the path.
    """
    file, path = file.absolute(), path.absolute()
    if file in path.parents:
        return True
    if path.parent not in file.parents:
        return False
    name = file.relative_to(path.parent).parts[0]
    return name == path.name or name.startswith(f".{path.name}.")


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path that replaces `path` when the block ends without an error.

    Raises:
        RunError: `path` is a folder or a device, or cannot be written.
    """
    with explain_disk(path):
        if path.exists() and not path.is_file():
            raise RunError(f"{path} is {'a folder' if path.is_dir() else 'no regular file'}. Name a file.")
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name).absolute()  # DuckDB and Arrow read ~ as a home folder, and a colon as an address
        try:
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path, replaces: Callable[[Path], bool] = lambda folder: False) -> Iterator[Path]:
    """Yield a temporary folder that replaces `path` when the block ends without an error.

    Args:
        replaces: whether an existing folder with files may be deleted: only one that llmrec made.

    Raises:
        RunError: `path` exists and may not be replaced, or cannot be written.
    """
    with explain_disk(path):
        path = path.absolute()  # as in `atomic_file`
        restore_replaced(path, replaces)
        _refuse_occupied(path, replaces)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary, before = (_free_name(path, ending, replaces) for ending in ("partial", "replaced"))
        temporary.mkdir()
        (temporary / _OURS).touch()
        try:
            yield temporary
            _refuse_occupied(path, replaces)
            (temporary / _OURS).unlink()
            if path.exists():
                path.replace(before)
            temporary.replace(path)
        finally:
            if before.exists() and not path.exists():
                before.replace(path)
            for folder in (temporary, before):
                shutil.rmtree(folder, ignore_errors=True)


def restore_replaced(path: Path, replaces: Callable[[Path], bool]) -> None:
    """Restore a folder that a process moved away for a new one, if it was killed before the new one was in place."""
    before = path.with_name(f".{path.name}.replaced")
    if not os.path.lexists(path) and before.is_dir() and not before.is_symlink() and replaces(before):
        before.replace(path)


_OURS = ".llmrec-partial"  # marks a folder that is being filled: after a kill it may be deleted


def _refuse_occupied(path: Path, replaces: Callable[[Path], bool]) -> None:
    if not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_dir():
        what = "a link" if path.is_symlink() else "no folder"
        raise RunError(f"{path} is {what}, and is not replaced. Move it away, or name another folder.")
    if any(path.iterdir()) and not replaces(path):
        raise RunError(
            f"{path} holds files that llmrec is not known to have made, and is not replaced. Move it away, or name "
            "another folder."
        )


def _free_name(path: Path, ending: str, replaces: Callable[[Path], bool]) -> Path:
    """A hidden name beside a path; the remains of a killed process are deleted, and nothing else."""
    folder = path.with_name(f".{path.name}.{ending}")
    if folder.is_dir() and not folder.is_symlink():
        ours = (folder / _OURS).is_file() or replaces(folder)
        if ours or not any(folder.iterdir()):  # one that is empty was killed as it began
            shutil.rmtree(folder)
    return path.with_name(f"{folder.name}-{os.getpid()}") if os.path.lexists(folder) else folder


def write_text(path: Path, text: str) -> None:
    """Write a text file atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically; keys keep their order."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file; RunError if it is missing, cannot be read, or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing. Was the run finished? `llmrec run` goes on where it was.") from error
    except OSError as error:
        raise RunError(f"{path} cannot be read ({error.strerror}). See that it is a file that you may read.") from error
    except (ValueError, RecursionError) as error:
        raise RunError(
            f"{path} is not valid JSON ({error}). If a run made it, delete it and run again; otherwise correct it."
        ) from error


def hash_bytes(data: bytes) -> str:
    """SHA-256 of bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def hash_json(value: Any) -> str:
    """SHA-256 of a JSON value, independent of the order of keys."""
    return hash_bytes(json.dumps(value, sort_keys=True, ensure_ascii=False).encode())


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_folder(path: Path, without: tuple[str, ...] = ("made.json",)) -> str:
    """SHA-256 of the names and contents of all files below a folder, without hidden ones and `without`."""
    files = sorted(
        file
        for file in path.rglob("*")
        if file.is_file()
        and file.name not in without
        and not any(p.startswith(".") for p in file.relative_to(path).parts)
    )
    return hash_json([[file.relative_to(path).as_posix(), hash_file(file)] for file in files])
