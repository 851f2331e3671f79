"""The ledger of looks at test parts: one JSON object a line, only ever added to, so that tuning on test shows.

A line is written by one call on a file opened for appending: others may append at the same time, and a process that is
killed has written a line or none. What somebody else's hand broke is named by its number, never passed over.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from pathlib import Path
from typing import Any

from llmrec.git import who

from llmrec.errors import RunError
from llmrec.files import explain_disk

BOOK = Path("results/ledger.jsonl")
NEEDED = ("date", "by", "run", "recipe hash", "seed", "data", "metrics", "figures")


def append(book: Path, line: dict[str, Any]) -> None:
    """Add a line; date and name of who asked come by themselves.

    Args:
        book: the ledger; made where it is missing.
        line: what was looked at and what was seen.

    Raises:
        RunError: the disk takes no more.
    """
    dated = {"date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "by": who()} | line
    text = json.dumps(dated, ensure_ascii=False) + "\n"
    with explain_disk(book):
        book.parent.mkdir(parents=True, exist_ok=True)
        with book.open("ab+", buffering=0) as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # whether the last line is whole must not change before ours is written
            whole = (b"" if _ends_well(file) else b"\n") + text.encode()
            if file.write(whole) < len(whole):
                raise RunError(
                    f"{book}: the disk took a part of the line only. Free some space and repair the last line."
                )
            os.fsync(file.fileno())


def read(book: Path) -> list[dict[str, Any]]:
    """All looks, oldest first; none where there is no ledger yet.

    Raises:
        RunError: a line is no look; names it. Or no ledger can be there, since a folder is, or a file is in its way.
    """
    if book.is_dir() or (book.parent.exists() and not book.parent.is_dir()):
        raise RunError(f"no ledger can be written to {book}. Name a file with --ledger, such as {BOOK}")
    if not book.is_file():
        return []
    found = []
    for number, text in enumerate(book.read_text(encoding="utf-8", errors="replace").split("\n"), 1):
        if text:
            found.append(_parsed(book, number, text))
    return found


def _parsed(book: Path, number: int, text: str) -> dict[str, Any]:
    try:
        line = json.loads(text)
    except ValueError as error:
        raise RunError(f"{book}, line {number} is not JSON ({error}). {_MEND}") from None
    missing = [name for name in NEEDED if name not in line] if isinstance(line, dict) else ["everything"]
    if missing:
        raise RunError(f"{book}, line {number} tells no look at a test part: it lacks {', '.join(missing)}. {_MEND}")
    return dict(line)


_MEND = "Put the line back as it was (git log -p tells); a ledger is added to and not edited."


def _ends_well(file: Any) -> bool:
    if not file.seek(0, os.SEEK_END):
        return True
    file.seek(-1, os.SEEK_END)
    return bool(file.read(1) == b"\n")
