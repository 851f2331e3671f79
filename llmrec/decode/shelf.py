"""The shelf: catalogue folders that a server may give items of, found by hash and never by a path of a client's."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from llmrec.errors import RequestError
from llmrec.files import read_json
from llmrec.indexing.catalogue import Catalogue

SHELF = "LLMREC_CATALOGUES"  # folders, parted as in PATH; every process of a server inherits it
_KEPT = 4  # catalogues held beside those that requests in flight hold


def folders(roots: Iterable[Path]) -> dict[str, Path]:
    """Catalogue folders by hash.

    Args:
        roots: catalogue folders, or folders of them; what is neither is passed over, so one may be made later.
    """
    found: dict[str, Path] = {}
    for root in roots:
        inside = sorted(root.iterdir()) if root.is_dir() and not (root / "catalogue.json").is_file() else [root]
        for folder in inside:
            if (folder / "catalogue.json").is_file() and not folder.name.startswith("."):
                found.setdefault(str(read_json(folder / "catalogue.json").get("hash")), folder)
    return found


def roots() -> list[Path]:
    """Where this process looks for catalogues, from LLMREC_CATALOGUES."""
    return [Path(part) for part in os.environ.get(SHELF, "").split(os.pathsep) if part]


@lru_cache(maxsize=_KEPT)
def by_hash(wanted: str) -> Catalogue:
    """A catalogue on the shelf.

    Raises:
        RequestError: the shelf has none of this hash.
        CodeError: its folder is not intact.
    """
    known = folders(roots())
    if wanted not in known:
        raise RequestError(
            f"no catalogue {wanted[:12]!r}… is known here: there are {', '.join(one[:12] for one in known) or 'none'}. "
            "Put its folder into the run's catalogues/, or name it at start with --catalogue FOLDER."
        )
    return Catalogue.load(known[wanted])
