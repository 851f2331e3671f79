"""Examples of every task, from the training part of the log and the catalogue: an Arrow data set, ready to read.

Shards depend on the seed and the data alone: each is made from its own run of users or items with random numbers of its
own, so any number of workers writes the same files.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds

from llmrec.checked import REMEDY, check_file
from llmrec.errors import DataError, RunError
from llmrec.indexing.catalogue import Catalogue
from llmrec.items.text import plain
from llmrec.recipe import Tasks
from llmrec.tasks.maker import SCHEMA, Maker, Shard
from llmrec.tasks.source import Source
from llmrec.tasks.templates import Piece, Slot, Wording, fill, neutral

_BATCH = 4096  # rows that a reader of a shard holds at once


def make(tasks: Tasks, source: Source, seed: int, folder: Path, workers: int | None = None) -> dict[str, object]:
    """The stage `tasks`: write every example into shards below `examples/`.

    Args:
        tasks: weights and window of the recipe.
        source: the training part; held-out events must not be in it.
        seed: of wordings and samples.
        folder: to write into.
        workers: shards made at a time; the files do not depend on it.

    Returns:
        Task → number of examples; under "skipped", task → reason → number of cases that were left out.

    Raises:
        DataError: no examples at all.
        PromptError: a template that cannot be used.
    """
    maker = Maker(tasks, source, seed)
    (folder / "examples").mkdir()

    def write(shard: Shard) -> tuple[str, int, Counter[str]]:
        table, skipped = maker.table(shard)
        if table.num_rows:
            with pa.OSFile(str(folder / "examples" / shard.file), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as file:
                file.write_table(table, max_chunksize=_BATCH)
        return shard.task, table.num_rows, skipped

    counts: Counter[str] = Counter()
    skipped: dict[str, Counter[str]] = {}
    with ThreadPoolExecutor(workers or min(4, os.cpu_count() or 1)) as pool:
        for task, rows, left_out in pool.map(write, maker.shards()):
            counts[task] += rows
            skipped.setdefault(task, Counter()).update(left_out)
    if not counts.total():
        raise DataError(
            "no training examples: every task has weight 0, or no history has two training events, or the data lack "
            f"what the tasks need. See `tasks:`. Left out: {_words(skipped) or 'nothing'}"
        )
    return {**counts, "skipped": {task: dict(reasons) for task, reasons in skipped.items() if reasons}}


def _words(skipped: dict[str, Counter[str]]) -> str:
    return "; ".join(f"{task}: {count} × {why}" for task, reasons in skipped.items() for why, count in reasons.items())


def load(folder: Path) -> pa.Table:
    """The examples of a run's folder `tasks/`, memory-mapped.

    Raises:
        RunError: there are none, or they are damaged.
    """
    return pa.concat_tables([_shard(path) for path in paths(folder)])


def _shard(path: Path) -> pa.Table:
    """The examples of one shard, memory-mapped.

    Raises:
        RunError: it is damaged.
    """
    try:
        with pa.memory_map(str(path)) as file:
            table = pa.ipc.open_file(file).read_all()
    except (OSError, pa.ArrowException) as error:
        raise RunError(f"{path} cannot be read as examples ({error}). {REMEDY}") from error
    if table.schema != SCHEMA:
        raise RunError(f"{path} holds other columns than examples have. {REMEDY}")
    return table


def stream_batches(folder: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The examples of a run's folder `tasks/`, a few thousand at a time: memory stays small at any size.

    Args:
        folder: `tasks/` of a run.
        columns: of the table; all of them for None.
    """
    shards = [str(path) for path in paths(folder)]
    try:
        yield from ds.dataset(shards, format="ipc", schema=SCHEMA).to_batches(
            columns, batch_size=_BATCH, batch_readahead=1, fragment_readahead=1
        )
    except (OSError, pa.ArrowException) as error:
        raise RunError(f"an example of {folder} cannot be read ({error}). {REMEDY}") from error


def paths(folder: Path) -> list[Path]:
    """Shards of a run's folder `tasks/` in order; `datasets.load_dataset("arrow", data_files=…)` reads them too.

    Raises:
        RunError: there are none.
    """
    found = sorted((folder / "examples").glob("*.arrow"))
    for path in found:
        check_file(path)
    if not found:
        raise RunError(f"{folder} holds no examples. `llmrec run` makes them.")
    return found


def next_item_prompt(
    wording: Wording, history: np.ndarray | list[int], catalogue: Catalogue, user: str = ""
) -> tuple[str, list[Slot]]:
    """The prompt for what comes after a history of item numbers, oldest first, of a user with an id."""
    pieces: list[Piece] = [
        (catalogue.code_texts[int(item)], "history", catalogue.item_ids[int(item)]) for item in history
    ]
    return fill(wording.prompt, {"history": pieces, "user": [(neutral(plain(user)), "user", "")]})
