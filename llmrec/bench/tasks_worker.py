"""One process that makes the examples of a log, encodes them and feeds a trainer, and says how much memory it took.

Run by `bench tasks`: python -m llmrec.bench.tasks_worker FOLDER
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from llmrec.data.dataset import Dataset
from llmrec.files import read_json
from llmrec.indexing.catalogue import Catalogue
from llmrec.model import nano
from llmrec.model.vocabulary import add_tokens
from llmrec.recipe import Model, Oracle, Tasks
from llmrec.tasks.examples import make, paths, stream_batches
from llmrec.tasks.source import Source
from llmrec.tasks.wishes import worded
from llmrec.train.encode import encode
from llmrec.train.feed import TokenFile
from llmrec.train.order import Order
from llmrec.train.packing import PackedRows, collate
from llmrec.train.start import words

BATCH, STEPS = 64, 2000  # rows of a step, and steps that are fed: memory is the same in each


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
        self.peaks[name] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3)


def work(folder: Path) -> dict[str, object]:
    """From a run's data and catalogue to batches of LC-Rec's mixture for nano, in the order of the first pass."""
    tasks, steps = Tasks(mixture="lc-rec", oracle=Oracle()), Steps()
    with steps.of("reading"):
        catalogue = Catalogue.load(folder / "catalogue")
        source = Source.load(Dataset.load(folder / "data"), catalogue, read_json(folder / "texts.json"))
        source = worded(source, catalogue.items, tasks)
        interactions = len(source.train.items)
    with steps.of("making examples"):
        (folder / "tasks").mkdir()
        counts = make(tasks, source, 0, folder / "tasks")
        del source
    with steps.of("learning a vocabulary"):
        tokenizer = nano.train_tokenizer(words(folder / "tasks"), Model().vocabulary, folder / "tokenizer")
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
        "shards": len(paths(folder / "tasks")),
        "bytes of examples": sum(path.stat().st_size for path in paths(folder / "tasks")),
        "tokens": rows.tokens,
        "tokens fed, padding included": fed,
        "rows": len(rows),
        "rows fed": len(order),
        "seconds": steps.seconds,
        "peak GiB": max(steps.peaks.values()),
        "peak GiB after": steps.peaks,
    }


if __name__ == "__main__":
    print(json.dumps(work(Path(sys.argv[1]))))
