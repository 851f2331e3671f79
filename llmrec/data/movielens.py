"""MovieLens in the forms its makers publish: `.dat` files of 2003, and the CSV files of later sets."""

from __future__ import annotations

from pathlib import Path

import duckdb
import pyarrow as pa

from llmrec import embedded
from llmrec.data import origins
from llmrec.data.raw import Raw, Scan
from llmrec.data.tables import glob_free
from llmrec.errors import DataError
from llmrec.recipe import Data

_YEAR = r"'\((\d{4})\)\s*$'"
_FILM = f"""CAST(item_id AS VARCHAR) AS item_id, trim(regexp_replace(title, {_YEAR}, '')) AS title,
            nullif(regexp_extract(title, {_YEAR}, 1), '') AS year, replace(genres, '|', ', ') AS genres"""
_FILES = {"ml-100k": ("ml-100k.inter", "ml-100k.item"), "ml-1m": ("ratings.dat", "movies.dat")}


def paths(data: Data) -> tuple[list[Path], list[Path]]:
    """The files of ratings and of films.

    Raises:
        DataError: the set is not on this machine.
    """
    ratings, films = _FILES.get(data.source, ("ratings.csv", "movies.csv"))
    folder = embedded.path("ml-100k") if data.source == "ml-100k" else _unpacked(data.source, ratings)
    return [folder / ratings], [folder / films]


def read_ml_100k(data: Data) -> Raw:
    """MovieLens 100K as carried by the package that `llmrec setup` fetches."""
    (ratings,), (films,) = paths(data)
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
    return Raw(interactions, items, "seconds", _origin("ml-100k"))


def read_dat(data: Data) -> Raw:
    """`ratings.dat` and `movies.dat`: fields between two colons, no header, Latin letters (MovieLens 1M)."""
    (ratings,), (films,) = paths(data)
    read = "read_csv($path, delim='::', header=false, quote='', escape='', encoding='latin-1', columns={columns})"
    interactions = _query(
        "SELECT user_id, item_id, timestamp, rating FROM "
        + read.format(columns="{user_id: 'VARCHAR', item_id: 'VARCHAR', rating: 'FLOAT', timestamp: 'BIGINT'}"),
        ratings,
    )
    columns = "{item_id: 'VARCHAR', title: 'VARCHAR', genres: 'VARCHAR'}"
    items = _query(f"SELECT {_FILM} FROM {read.format(columns=columns)}", films)
    return Raw(interactions, items, "seconds", _origin(data.source))


def read_csv(data: Data) -> Raw:
    """`ratings.csv` and `movies.csv` (latest-small, 32M); ratings stay in their file until they are cleaned."""
    (ratings,), (films,) = paths(data)
    path = glob_free(ratings).replace("'", "''")
    kinds = "{userId: 'VARCHAR', movieId: 'VARCHAR', rating: 'FLOAT', timestamp: 'BIGINT'}"
    query = f"""SELECT userId AS user_id, movieId AS item_id, timestamp, rating
                FROM read_csv('{path}', header=true, columns={kinds})"""
    items = _query(
        f"SELECT {_FILM} FROM (SELECT movieId AS item_id, * FROM read_csv($path, header=true, all_varchar=true))",
        films,
    )
    interactions = Scan(query, ["user_id", "item_id", "timestamp", "rating"])
    return Raw(interactions, items, "seconds", _origin(data.source))


def _unpacked(name: str, file: str) -> Path:
    """The folder that holds a file: the set's own, or one of its name inside it, as its archive unpacks."""
    outer = origins.folder(name)
    for folder in (outer, outer / name):
        if (folder / file).is_file():
            return folder
    raise DataError(f"{outer} has no {file}. Unpack {name}.zip there, or fetch it: llmrec data fetch {name}")


def _origin(name: str) -> dict[str, str]:
    return {"source": origins.ORIGINS[name].about, "licence": origins.ORIGINS[name].licence}


def _query(query: str, path: Path) -> pa.Table:
    try:
        found = duckdb.connect().sql(query, params={"path": glob_free(path)})
        assert found is not None  # a SELECT always gives a relation
        return found.to_arrow_table()
    except duckdb.Error as error:
        first = str(error).splitlines()[0]
        raise DataError(f"{path} cannot be read: {first} Fetch or unpack it again.") from error
