"""Write and read training examples: an Arrow data set in shards.

A shard depends on the seed and the data alone: it is built from its own block of users or items, with its own random
stream. Any number of workers writes the same files.
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
from llmrec.items.item_text import plain_text
from llmrec.recipe import Tasks
from llmrec.tasks.builder import SCHEMA, ExampleBuilder, Shard
from llmrec.tasks.inputs import TaskInputs
from llmrec.tasks.templates import SlotSpan, SlotValue, Template, fill, sanitize

_BATCH = 4096  # rows that a reader of a shard holds in memory


def make(tasks: Tasks, inputs: TaskInputs, seed: int, folder: Path, workers: int | None = None) -> dict[str, object]:
    """Run the stage `tasks`: write all examples into shards below `examples/`.

    Args:
        inputs: the training part; it must not contain held-out events.
        seed: of templates, negatives and samples.
        workers: shards built at a time; the files do not depend on it.

    Returns:
        Task → number of examples; under "skipped", task → reason → number of instances left out.

    Raises:
        DataError: there are no examples at all.
        PromptError: a template cannot be used.
    """
    builder = ExampleBuilder(tasks, inputs, seed)
    (folder / "examples").mkdir()

    def write(shard: Shard) -> tuple[str, int, Counter[str]]:
        table, skipped = builder.table(shard)
        if table.num_rows:
            with pa.OSFile(str(folder / "examples" / shard.file), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as file:
                file.write_table(table, max_chunksize=_BATCH)
        return shard.task, table.num_rows, skipped

    counts: Counter[str] = Counter()
    skipped: dict[str, Counter[str]] = {}
    with ThreadPoolExecutor(workers or min(4, os.cpu_count() or 1)) as pool:
        for task, rows, left_out in pool.map(write, builder.shards()):
            counts[task] += rows
            skipped.setdefault(task, Counter()).update(left_out)
    if not counts.total():
        reasons = [f"{task}: {count} × {why}" for task, whys in skipped.items() for why, count in whys.items()]
        raise DataError(
            "no training examples: every task has weight 0, or no history has two training events, or the data lack "
            f"what the tasks need. See `tasks:`. Left out: {'; '.join(reasons) or 'nothing'}"
        )
    return {**counts, "skipped": {task: dict(reasons) for task, reasons in skipped.items() if reasons}}


def load(folder: Path) -> pa.Table:
    """Load the examples of a run's folder `tasks/`, memory-mapped.

    Raises:
        RunError: there are none, or a shard is damaged.
    """
    tables = []
    for path in shard_paths(folder):
        try:
            with pa.memory_map(str(path)) as file:
                tables.append(pa.ipc.open_file(file).read_all())
        except (OSError, pa.ArrowException) as error:
            raise RunError(f"{path} cannot be read as examples ({error}). {REMEDY}") from error
        if tables[-1].schema != SCHEMA:
            raise RunError(f"{path} holds other columns than examples have. {REMEDY}")
    return pa.concat_tables(tables)


def stream_batches(folder: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Read the examples of a run's folder `tasks/` a few thousand rows at a time, for data larger than memory.

    Args:
        columns: of the table; None for all.
    """
    shards = [str(path) for path in shard_paths(folder)]
    try:
        yield from ds.dataset(shards, format="ipc", schema=SCHEMA).to_batches(
            columns, batch_size=_BATCH, batch_readahead=1, fragment_readahead=1
        )
    except (OSError, pa.ArrowException) as error:
        raise RunError(f"an example of {folder} cannot be read ({error}). {REMEDY}") from error


def shard_paths(folder: Path) -> list[Path]:
    """Shards of a run's folder `tasks/` in order; `datasets.load_dataset("arrow", data_files=…)` reads them too.

    Raises:
        RunError: there are none.
    """
    paths = sorted((folder / "examples").glob("*.arrow"))
    for path in paths:
        check_file(path)
    if not paths:
        raise RunError(f"{folder} holds no examples. `llmrec run` makes them.")
    return paths


def next_item_prompt(
    template: Template, history: np.ndarray | list[int], catalogue: Catalogue, user: str = ""
) -> tuple[str, list[SlotSpan]]:
    """Fill the prompt of a template that predicts the next item.

    Args:
        history: item numbers, oldest first.
        user: id of the user.
    """
    codes: list[SlotValue] = [
        (catalogue.code_texts[int(item)], "history", catalogue.item_ids[int(item)]) for item in history
    ]
    return fill(template.prompt, {"history": codes, "user": [(sanitize(plain_text(user)), "user", "")]})
