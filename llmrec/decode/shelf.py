"""Catalogue folders that a server may give items of, found by hash and never by a path that a client sends."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from llmrec.errors import CodeError, LlmrecError, RequestError
from llmrec.files import read_json
from llmrec.indexing.catalogue import Catalogue

SHELF = "LLMREC_CATALOGUES"  # folders, separated as in PATH; every process of a server inherits it
_KEPT = 4  # catalogues held beside those that requests in flight hold
log = logging.getLogger("vllm.llmrec.catalogues")  # below vLLM's own logger, which a server has set up


class Listing(NamedTuple):
    """Catalogue folders by hash, and those whose catalogue.json cannot be used, with a reason that names no path."""

    known: dict[str, Path]
    skipped: dict[Path, str]


def listing(roots: Iterable[Path]) -> Listing:
    """Find catalogue folders among the roots or in them; what is neither is passed over, so one may be made later."""
    found = Listing({}, {})
    for folder in (folder for root in roots for folder in _inside(root)):
        try:
            about = read_json(folder / "catalogue.json")
            digest = about.get("hash") if isinstance(about, dict) else None
            if isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest):
                found.known.setdefault(digest, folder)
            else:
                found.skipped[folder] = "its catalogue.json has no `hash` of 64 hexadecimal digits"
        except (LlmrecError, OSError, RecursionError):
            found.skipped[folder] = "its catalogue.json cannot be read, or is not JSON"
    return found


def roots() -> list[Path]:
    """Where this process looks for catalogues, from LLMREC_CATALOGUES."""
    return [Path(part) for part in os.environ.get(SHELF, "").split(os.pathsep) if part]


@lru_cache(maxsize=_KEPT)
def by_hash(wanted: str) -> tuple[Path, Catalogue]:
    """A catalogue of the listing, and its folder. Clients see the errors, so none names a path; the log has it.

    Raises:
        RequestError: no catalogue has this hash.
        CodeError: its folder is not intact.
    """
    known = listing(roots()).known
    if wanted not in known:
        raise RequestError(
            f"no catalogue {wanted[:12]!r}… is known here: there are {', '.join(one[:12] for one in known) or 'none'}. "
            "Put its folder into the run's catalogues/, or name it at start with --catalogue FOLDER."
        )
    try:
        return known[wanted], Catalogue.load(known[wanted])
    except Exception as error:  # whatever a folder holds, the server goes on
        log.error(f"the catalogue {known[wanted]} cannot be used: {type(error).__name__}: {error}")
        raise CodeError(
            f"the catalogue {wanted[:12]}… is not intact, so it cannot be used: the log of the server has the reason."
        ) from error


def _inside(root: Path) -> list[Path]:
    """Folders with a catalogue.json: the root itself, or those in it."""
    try:
        inside = sorted(root.iterdir()) if root.is_dir() and not (root / "catalogue.json").is_file() else [root]
        return [folder for folder in inside if (folder / "catalogue.json").is_file() and folder.name[:1] != "."]
    except OSError as error:
        log.error(f"catalogues cannot be looked for in {root}: {error.strerror}")
        return []
