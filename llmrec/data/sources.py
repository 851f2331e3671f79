"""Where data come from: embedded, prepared, raw as published, somebody's own files, or generated.

Every source returns the same two tables and what it knows about itself; nothing is cleaned or split here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from llmrec import embedded
from llmrec.data import amazon, movielens, origins, own
from llmrec.data.amazon import EDITIONS, read_amazon
from llmrec.data.movielens import read_csv, read_dat, read_ml_100k
from llmrec.data.own import read_files
from llmrec.data.raw import Raw
from llmrec.data.tables import read_table
from llmrec.data.world_words import read_world
from llmrec.recipe import Data

__all__ = ["SOURCES", "Raw", "given", "read", "where"]


def read(data: Data) -> Raw:
    """Read the source that a recipe names.

    Raises:
        DataError: files missing, malformed, or without the columns needed.
    """
    return SOURCES[data.source](data)


def read_prepared(data: Data) -> Raw:
    """A folder that holds interactions.parquet and items.parquet (the prepared Amazon sets)."""
    interactions, items = (read_table(path).table for (path,) in _prepared(data))
    licence = origins.ORIGINS[data.source].licence
    return Raw(interactions, items, "position", {"source": data.source, "licence": licence})


def _prepared(data: Data) -> tuple[list[Path], list[Path]]:
    folder = origins.folder(data.source)
    return [folder / "interactions.parquet"], [folder / "items.parquet"]


def given(data: Data) -> list[tuple[str, Path]]:
    """Every file that `read` reads, as "interactions" or as "items".

    Raises:
        DataError: they are not on this machine.
    """
    found = _PATHS[data.source](data)
    return [(name, path) for name, paths in zip(("interactions", "items"), found, strict=True) for path in paths]


SOURCES: dict[str, Callable[[Data], Raw]] = {
    "ml-100k": read_ml_100k,
    "ml-1m": read_dat,
    "ml-32m": read_csv,
    "ml-latest-small": read_csv,
    "amazon-beauty-2014": read_prepared,
    "amazon-games-2018": read_prepared,
    **dict.fromkeys(EDITIONS, read_amazon),
    "files": read_files,
    "world": lambda data: read_world(data.world),
}
_PATHS: dict[str, Callable[[Data], tuple[list[Path], list[Path]]]] = {
    **dict.fromkeys(("ml-100k", "ml-1m", "ml-32m", "ml-latest-small"), movielens.paths),
    **dict.fromkeys(("amazon-beauty-2014", "amazon-games-2018"), _prepared),
    **dict.fromkeys(EDITIONS, amazon.paths),
    "files": own.paths,
    "world": lambda data: ([], []),
}


def where() -> list[tuple[str, bool, str]]:
    """Every source by name: whether it is here, and where it is or how to get it."""
    found = [(name, *_where(name)) for name in origins.ORIGINS]
    mine = [("files", True, "your own: llmrec init FILES"), ("world", True, "generated, its truth known: data.world")]
    return found + mine


def _where(name: str) -> tuple[bool, str]:
    if name == "ml-100k":
        here = embedded.is_fetched(name)
        return here, str(embedded.cache_folder() / name) if here else "get it with: llmrec setup"
    place = next((folder for folder in origins.places(name) if folder.is_dir()), None)
    if place:
        return True, str(place)
    fetch = f"llmrec data fetch {name}" + (" --category NAME" if origins.ORIGINS[name].by_category else "")
    return False, fetch if origins.ORIGINS[name].addresses else f"read from $LLMREC_DATA/{name}"
