"""Data sources by name: MovieLens, prepared and raw Amazon data sets, the user's own files, synthetic data."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import duckdb
import pyarrow as pa

from llmrec import resources
from llmrec.data import amazon, fetch, user_files
from llmrec.data.amazon import EDITIONS, read_amazon
from llmrec.data.raw import RawData, Scan, escape_glob, sql_paths
from llmrec.data.synthetic import read_synthetic
from llmrec.data.tables import read_table
from llmrec.data.user_files import read_files
from llmrec.errors import DataError
from llmrec.recipe import Data

_YEAR = r"'\((\d{4})\)\s*$'"
_FILM = f"""CAST(item_id AS VARCHAR) AS item_id, trim(regexp_replace(title, {_YEAR}, '')) AS title,
            nullif(regexp_extract(title, {_YEAR}, 1), '') AS year, replace(genres, '|', ', ') AS genres"""
_MOVIELENS = {
    "ml-100k": ("ml-100k.inter", "ml-100k.item"),
    "ml-1m": ("ratings.dat", "movies.dat"),
    "ml-32m": ("ratings.csv", "movies.csv"),
    "ml-latest-small": ("ratings.csv", "movies.csv"),
}
_PREPARED = ("amazon-beauty-2014", "amazon-games-2018")


def read(data: Data) -> RawData:
    """Read the source of a recipe.

    Raises:
        DataError: files are missing, malformed, or lack a column.
    """
    return SOURCES[data.source](data)


def source_files(data: Data) -> list[tuple[str, Path]]:
    """Return the files that `read` reads, each with its kind, "interactions" or "items".

    Raises:
        DataError: they are not on this machine.
    """
    logs, items = _PATHS[data.source](data)
    return [("interactions", path) for path in logs] + [("items", path) for path in items]


def availability() -> list[tuple[str, bool, str]]:
    """List all sources: name, whether it is on this machine, and its folder or how to get it."""
    return [
        *((name, *_location(name)) for name in fetch.REGISTRY),
        ("files", True, "your own files: llmrec init FILES"),
        ("synthetic", True, "generated with known ground truth: data.synthetic"),
    ]


def _location(name: str) -> tuple[bool, str]:
    if name == "ml-100k":
        present = resources.is_downloaded(name)
        return present, str(resources.cache_folder() / name) if present else "get it with: llmrec setup"
    folder = next((folder for folder in fetch.candidate_folders(name) if folder.is_dir()), None)
    if folder:
        return True, str(folder)
    command = f"llmrec data fetch {name}" + (" --category NAME" if fetch.REGISTRY[name].by_category else "")
    return False, command if fetch.REGISTRY[name].urls else f"read from $LLMREC_DATA/{name}"


def _movielens(data: Data) -> tuple[list[Path], list[Path]]:
    """Find the files of ratings and films, in the data set's folder or in the subfolder that its archive unpacks to."""
    name = data.source
    ratings, films = _MOVIELENS[name]
    outer = resources.asset_path(name) if name == "ml-100k" else fetch.find_folder(name)
    for folder in (outer, outer / name):
        if name == "ml-100k" or (folder / ratings).is_file():
            return [folder / ratings], [folder / films]
    raise DataError(f"{outer} has no {ratings}. Unpack {name}.zip there, or fetch it: llmrec data fetch {name}")


def read_ml_100k(data: Data) -> RawData:
    """Read MovieLens 100K from the package that `llmrec setup` downloads."""
    (ratings,), (films,) = _movielens(data)
    read = "read_csv($path, delim='\t', header=true, all_varchar=true, quote='')"
    interactions = _query(
        f"""SELECT "user_id:token" AS user_id, "item_id:token" AS item_id,
                   CAST(CAST("timestamp:float" AS DOUBLE) AS BIGINT) AS timestamp,
                   CAST("rating:float" AS FLOAT) AS rating FROM {read}""",
        ratings,
    )
    items = _query(
        f"""SELECT "item_id:token" AS item_id, "movie_title:token_seq" AS title, "release_year:token" AS year,
                   replace("class:token_seq", ' ', ', ') AS genres FROM {read}""",
        films,
    )
    return RawData(interactions, items, "seconds", fetch.attribution("ml-100k"))


def read_dat(data: Data) -> RawData:
    """Read `ratings.dat` and `movies.dat` of MovieLens 1M: fields separated by `::`, no header, Latin-1."""
    (ratings,), (films,) = _movielens(data)
    read = "read_csv($path, delim='::', header=false, quote='', escape='', encoding='latin-1', columns={columns})"
    columns = "{user_id: 'VARCHAR', item_id: 'VARCHAR', rating: 'FLOAT', timestamp: 'BIGINT'}"
    interactions = _query(f"SELECT user_id, item_id, timestamp, rating FROM {read.format(columns=columns)}", ratings)
    columns = "{item_id: 'VARCHAR', title: 'VARCHAR', genres: 'VARCHAR'}"
    items = _query(f"SELECT {_FILM} FROM {read.format(columns=columns)}", films)
    return RawData(interactions, items, "seconds", fetch.attribution(data.source))


def read_csv(data: Data) -> RawData:
    """Read `ratings.csv` and `movies.csv` (latest-small, 32M); the ratings are scanned while they are cleaned."""
    logs, (films,) = _movielens(data)
    kinds = "{userId: 'VARCHAR', movieId: 'VARCHAR', rating: 'FLOAT', timestamp: 'BIGINT'}"
    query = f"""SELECT userId AS user_id, movieId AS item_id, timestamp, rating
                FROM read_csv({sql_paths(logs)}, header=true, columns={kinds})"""
    items = _query(
        f"SELECT {_FILM} FROM (SELECT movieId AS item_id, * FROM read_csv($path, header=true, all_varchar=true))",
        films,
    )
    interactions = Scan(query, ["user_id", "item_id", "timestamp", "rating"])
    return RawData(interactions, items, "seconds", fetch.attribution(data.source))


def _query(query: str, path: Path) -> pa.Table:
    try:
        relation = duckdb.connect().sql(query, params={"path": escape_glob(path)})
        assert relation is not None  # a SELECT always gives a relation
        return relation.to_arrow_table()
    except duckdb.Error as error:
        raise DataError(f"{path} cannot be read: {str(error).splitlines()[0]} Fetch or unpack it again.") from error


def _prepared(data: Data) -> tuple[list[Path], list[Path]]:
    folder = fetch.find_folder(data.source)
    return [folder / "interactions.parquet"], [folder / "items.parquet"]


def read_prepared(data: Data) -> RawData:
    """Read the interactions.parquet and items.parquet of a prepared Amazon data set."""
    interactions, items = (read_table(path).table for (path,) in _prepared(data))
    return RawData(interactions, items, "position", fetch.attribution(data.source) | {"source": data.source})


SOURCES: dict[str, Callable[[Data], RawData]] = {
    "ml-100k": read_ml_100k,
    "ml-1m": read_dat,
    "ml-32m": read_csv,
    "ml-latest-small": read_csv,
    **dict.fromkeys(_PREPARED, read_prepared),
    **dict.fromkeys(EDITIONS, read_amazon),
    "files": read_files,
    "synthetic": lambda data: read_synthetic(data.synthetic),
}
_PATHS: dict[str, Callable[[Data], tuple[list[Path], list[Path]]]] = {
    **dict.fromkeys(_MOVIELENS, _movielens),
    **dict.fromkeys(_PREPARED, _prepared),
    **dict.fromkeys(EDITIONS, amazon.paths),
    "files": user_files.paths,
    "synthetic": lambda data: ([], []),
}
