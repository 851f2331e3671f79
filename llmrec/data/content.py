"""What a data folder says, as one hash: the same for whoever wrote the files, with whichever version of a writer."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from llmrec.errors import RunError
from llmrec.files import hash_json

ROWS = 1 << 16  # read at once; changes no hash


def content_hash(folder: Path) -> str:
    """SHA-256 over names, types and values of all columns of `interactions.parquet` and `items.parquet`, in row order.

    Args:
        folder: the folder `data/` of a run.

    Returns:
        64 hexadecimal digits.

    Raises:
        RunError: a file is missing.
    """
    told = {}
    for name in ("interactions.parquet", "items.parquet"):
        if not (folder / name).is_file():
            raise RunError(f"{folder / name} is missing; `llmrec run` makes it.")
        told[name] = _table(folder / name)
    return hash_json(told)


def _table(path: Path) -> dict[str, list[str]]:
    """Column → type, hash of the lengths of its values as words, hash of these words."""
    file = pq.ParquetFile(path)
    kinds = {field.name: str(_plain(field.type)) for field in file.schema_arrow}
    sizes, words = ({name: hashlib.sha256() for name in kinds} for _ in range(2))
    for batch in file.iter_batches(ROWS):
        for name in kinds:
            column = _worded(batch[name])
            lengths = pc.binary_length(column).fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
            sizes[name].update(lengths.tobytes())
            words[name].update("".join(column.drop_null().to_pylist()).encode())
    return {name: [kind, sizes[name].hexdigest(), words[name].hexdigest()] for name, kind in sorted(kinds.items())}


def _plain(kind: pa.DataType) -> pa.DataType:
    """Which kind of values, however they are held."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return pa.list_(_plain(kind.value_type))
    return pa.string() if pa.types.is_large_string(kind) else kind


def _worded(column: pa.Array) -> pa.Array:
    if pa.types.is_nested(column.type):
        told = [None if value is None else json.dumps(value, ensure_ascii=False) for value in column.to_pylist()]
        return pa.array(told, pa.string())
    return column.cast(pa.string())
