"""Paths that are typed."""

from __future__ import annotations

from pathlib import Path

from llmrec.errors import RunError


def named(text: str) -> Path:
    """The path of an option; a home (~) that a shell left as it is, as in --out=~/runs, is put in.

    Raises:
        RunError: the text is blank, which pathlib would take for the folder that one stands in; or nobody's home.
    """
    if not text.strip():
        raise RunError("a path is blank. Name a folder or a file, such as --out runs/mine")
    try:
        return Path(text).expanduser() if text.startswith("~") else Path(text)
    except RuntimeError as error:
        raise RunError(f"{text}: {error} Write ./{text} for a folder of that name.") from None
