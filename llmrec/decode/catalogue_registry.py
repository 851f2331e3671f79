"""Registry of the catalogue folders that a server may use: by hash, never by a path that a client sends."""

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

CATALOGUES_VARIABLE = "LLMREC_CATALOGUES"  # folders, separated as in PATH; all processes of a server inherit it
_KEPT = 4  # catalogues kept loaded, beside those of requests in flight
log = logging.getLogger("vllm.llmrec.catalogues")  # below vLLM's own logger, which a server has set up


class Registry(NamedTuple):
    """Known catalogue folders by hash, and folders with an unusable catalogue.json, with reasons that name no path."""

    known: dict[str, Path]
    skipped: dict[Path, str]


def scan(roots: Iterable[Path]) -> Registry:
    """Find catalogue folders among the roots or directly in them; a missing root is ignored."""
    registry = Registry({}, {})
    for folder in (folder for root in roots for folder in _catalogue_folders(root)):
        try:
            about = read_json(folder / "catalogue.json")
            digest = about.get("hash") if isinstance(about, dict) else None
            if isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest):
                registry.known.setdefault(digest, folder)
            else:
                registry.skipped[folder] = "its catalogue.json has no `hash` of 64 hexadecimal digits"
        except (LlmrecError, OSError, RecursionError):
            registry.skipped[folder] = "its catalogue.json cannot be read, or is not JSON"
    return registry


def roots() -> list[Path]:
    """Folders of LLMREC_CATALOGUES, in which this process looks for catalogues."""
    return [Path(part) for part in os.environ.get(CATALOGUES_VARIABLE, "").split(os.pathsep) if part]


@lru_cache(maxsize=_KEPT)
def load_by_hash(digest: str) -> tuple[Path, Catalogue]:
    """Load a known catalogue; also return its folder. Errors name no path, since clients see them; the log does.

    Raises:
        RequestError: no catalogue has this hash.
        CodeError: its folder is not intact.
    """
    known = scan(roots()).known
    if digest not in known:
        raise RequestError(
            f"no catalogue {digest[:12]!r}… is known; there are {', '.join(each[:12] for each in known) or 'none'}. "
            "Put its folder into the run's catalogues/, or name it at start with --catalogue FOLDER."
        )
    try:
        return known[digest], Catalogue.load(known[digest])
    except Exception as error:  # a damaged folder must not stop the server
        log.error(f"the catalogue {known[digest]} cannot be used: {type(error).__name__}: {error}")
        raise CodeError(
            f"the catalogue {digest[:12]}… is not intact, so it cannot be used: the log of the server has the reason."
        ) from error


def _catalogue_folders(root: Path) -> list[Path]:
    """Folders with a catalogue.json: the root itself, or its subfolders."""
    try:
        is_catalogue = not root.is_dir() or (root / "catalogue.json").is_file()
        folders = [root] if is_catalogue else sorted(root.iterdir())
        return [folder for folder in folders if (folder / "catalogue.json").is_file() and folder.name[:1] != "."]
    except OSError as error:
        log.error(f"catalogues cannot be looked for in {root}: {error.strerror}")
        return []
