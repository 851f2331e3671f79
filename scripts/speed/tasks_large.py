"""Memory and time of making, encoding and feeding the examples of a large generated log.

python scripts/speed/tasks_large.py         → results/bench-tasks-large.json
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from llmrec.data.dataset import Dataset
from llmrec.files import read_json, write_json
from llmrec.indexing.catalogue import Catalogue
from llmrec.model import nano
from llmrec.model.vocabulary import add_tokens
from llmrec.recipe import Model, Oracle, Tasks
from llmrec.results.record import write_result
from llmrec.seed import stream
from llmrec.tasks.examples import make, shard_paths, stream_batches
from llmrec.tasks.inputs import TaskInputs
from llmrec.tasks.llm_annotations import add_annotations
from llmrec.train.encode import TokenFile, encode
from llmrec.train.initial_model import vocabulary_texts
from llmrec.train.packing import Order, PackedRows, collate
from shared import RESULTS, alone, command_line, peak_gib, tell

BATCH, STEPS = 64, 2000  # rows of a step, and steps that are fed: memory is the same in each


def main(
    events: int = typer.Option(10_000_000, help="interactions of the generated log"),
    out: Path = typer.Option(RESULTS, help="folder for the JSON file"),
) -> None:
    """Examples of a generated log, made, encoded and fed by a process of its own: seconds and peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        generate(events, Path(folder))
        tell(f"a log of {events} interactions is generated")
        figures = alone(work, Path(folder))
    path = out / "bench-tasks-large.json"
    command = f"python scripts/speed/tasks_large.py --events {events}"
    write_result(path, command, figures, seed=0, mixture="lc-rec, template oracle")
    tell(f"{figures['examples']} examples, at most {figures['peak GiB']} GiB")
    print(path)


def generate(events: int, folder: Path) -> None:
    """Write data and catalogue of a log of popular and rare items, histories of five to fifteen events.

    Args:
        events: about so many interactions.
        folder: gets data/, catalogue/ and texts.json.
    """
    draw, items = stream(0, "bench", "tasks"), max(100, events // 100)
    lengths = draw.integers(5, 16, max(1, events // 10))
    numbers = (items * draw.random(lengths.sum()) ** 3).astype(np.int64)
    last = np.repeat(np.cumsum(lengths), lengths) - np.arange(lengths.sum())  # 1 for the last event of a user
    names = pa.array([f"item-{number}" for number in range(items)])
    words = ["red", "small", "old", "quick", "round", "blue", "loud", "soft"]
    titles = [f"{words[n % 8]} {words[n // 8 % 8]} thing number {n}" for n in range(items)]
    table = pa.table({"item_id": names, "title": titles, "category": [words[n % 8] for n in range(items)]})
    users = pa.array([f"user-{number}" for number in range(len(lengths))])
    log = {
        "user_id": users.take(pa.array(np.repeat(np.arange(len(lengths)), lengths))),
        "item_id": names.take(pa.array(numbers)),
        "timestamp": pa.array(np.arange(lengths.sum())),
        "split": pa.array(["test", "valid", "train"]).take(pa.array(np.clip(last - 1, 0, 2))),
    }
    for name in ("data", "catalogue"):
        (folder / name).mkdir()
    pq.write_table(pa.table(log), folder / "data" / "interactions.parquet")
    pq.write_table(table, folder / "data" / "items.parquet")
    codes = np.stack([np.arange(items) % 256, np.arange(items) // 256 % 256, np.arange(items) // 65536], 1)
    Catalogue.of(table, codes.astype(np.int32), [256, 256, max(1, items // 65536 + 1)]).save(folder / "catalogue", {})
    write_json(folder / "texts.json", titles)


class Steps:
    """Seconds and peak memory after each step of the work."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.peaks: dict[str, float] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Time a block, and note the process's peak at its end."""
        begin = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - begin, 1)
        self.peaks[name] = round(peak_gib(), 3)


def work(folder: Path) -> dict[str, Any]:
    """From a run's data and catalogue to batches of LC-Rec's mixture for nano, in the order of the first pass."""
    tasks, steps = Tasks(mixture="lc-rec", oracle=Oracle()), Steps()
    with steps.of("reading"):
        catalogue = Catalogue.load(folder / "catalogue")
        source = TaskInputs.load(Dataset.load(folder / "data"), catalogue, read_json(folder / "texts.json"))
        source = add_annotations(source, catalogue.items, tasks)
        interactions = len(source.train.items)
    with steps.of("making examples"):
        (folder / "tasks").mkdir()
        counts = make(tasks, source, 0, folder / "tasks")
        del source
    with steps.of("learning a vocabulary"):
        tokenizer = nano.train_tokenizer(vocabulary_texts(folder / "tasks"), Model().vocabulary, folder / "tokenizer")
        add_tokens(tokenizer, catalogue.tokens)
    with steps.of("encoding"):
        (folder / "tokens").mkdir()
        TokenFile.write(encode(stream_batches(folder / "tasks"), tokenizer, 1 << 20), folder / "tokens")
    with steps.of("planning rows"):
        rows = PackedRows(TokenFile(folder / "tokens"), None, np.random.default_rng(0))
    with steps.of("feeding"):
        order = list(Order(len(rows), BATCH, 0))[: STEPS * BATCH]
        fed = sum(
            int(collate([rows[row] for row in order[cut : cut + BATCH]])["input_ids"].numel())
            for cut in range(0, len(order), BATCH)
        )
    return {
        "interactions of the training part": interactions,
        "examples": len(rows.examples),
        "examples by task": {task: count for task, count in counts.items() if isinstance(count, int)},
        "shards": len(shard_paths(folder / "tasks")),
        "bytes of examples": sum(path.stat().st_size for path in shard_paths(folder / "tasks")),
        "tokens": rows.tokens,
        "tokens fed, padding included": fed,
        "rows": len(rows),
        "rows fed": len(order),
        "seconds": steps.seconds,
        "peak GiB": max(steps.peaks.values()),
        "peak GiB after": steps.peaks,
    }


if __name__ == "__main__":
    command_line(main)
