"""Files that are either whole or absent: atomic writes, hashes, and messages for a full or read-only disk."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmrec.errors import RunError


@contextlib.contextmanager
def explain_disk(path: Path) -> Iterator[None]:
    """Turn a full or read-only disk into a message that names the place.

    Raises:
        RunError: the disk is full, read-only, or closed to this user.
    """
    try:
        yield
    except OSError as error:
        reasons = {
            errno.ENOSPC: ("the disk is full", "Free some space or choose another place with `--out DIR`"),
            errno.EDQUOT: ("the disk quota is used up", "Free some space or choose another place with `--out DIR`"),
            errno.EROFS: ("the file system is read-only", "Choose another place with `--out DIR`"),
            errno.EACCES: ("permission is denied", "Choose a place that you may write to with `--out DIR`"),
        }
        if error.errno not in reasons:
            raise
        what, remedy = reasons[error.errno]
        raise RunError(f"cannot write {path}: {what}. {remedy}; nothing half-written is kept.") from error


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """A path to write to, which takes the place of `path` only when the block ends well."""
    with explain_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of `path` only when the block ends well."""
    with explain_disk(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.partial")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            yield temporary
            if path.exists():
                shutil.rmtree(path)
            temporary.replace(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, whole or not at all."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file, whole or not at all; keys keep their order."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        RunError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise RunError(f"{path} is missing. Was the run finished? `llmrec run` goes on where it was.") from error
    except ValueError as error:
        raise RunError(
            f"{path} is not valid JSON ({error}). If a run made it, delete it and run again; else mend it."
        ) from error


def hash_bytes(data: bytes) -> str:
    """SHA-256 of some bytes, as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def hash_json(value: Any) -> str:
    """SHA-256 of a JSON value, whatever the order of its keys."""
    return hash_bytes(json.dumps(value, sort_keys=True, ensure_ascii=False).encode())


def hash_file(path: Path) -> str:
    """SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_folder(path: Path, without: tuple[str, ...] = ("made.json",)) -> str:
    """SHA-256 over the names and contents of all files below a folder, hidden ones and `without` left out."""
    files = sorted(
        file
        for file in path.rglob("*")
        if file.is_file()
        and file.name not in without
        and not any(p.startswith(".") for p in file.relative_to(path).parts)
    )
    return hash_json([[file.relative_to(path).as_posix(), hash_file(file)] for file in files])
