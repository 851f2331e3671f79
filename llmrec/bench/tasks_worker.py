"""One process that makes and streams the examples of a log, and says how much memory it took.

Run by `bench tasks`: python -m llmrec.bench.tasks_worker FOLDER
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path

from llmrec.data.dataset import Dataset
from llmrec.files import read_json
from llmrec.indexing.catalogue import Catalogue
from llmrec.recipe import Oracle, Tasks
from llmrec.tasks.examples import make, paths, stream_batches
from llmrec.tasks.source import Source
from llmrec.tasks.wishes import worded


def work(folder: Path) -> dict[str, float]:
    """Make the examples of LC-Rec's mixture from a run's data and catalogue, and read them all once."""
    tasks = Tasks(mixture="lc-rec", oracle=Oracle())
    begin = time.perf_counter()
    catalogue = Catalogue.load(folder / "catalogue")
    source = Source.load(Dataset.load(folder / "data"), catalogue, read_json(folder / "texts.json"))
    source = worded(source, catalogue.items, tasks)
    read = time.perf_counter()
    (folder / "tasks").mkdir()
    counts = make(tasks, source, 0, folder / "tasks")
    made = time.perf_counter()
    rows = sum(batch.num_rows for batch in stream_batches(folder / "tasks"))
    return {
        "interactions": len(source.train.items),
        "examples": rows,
        "bytes": sum(path.stat().st_size for path in paths(folder / "tasks")),
        "shards": len(paths(folder / "tasks")),
        "seconds reading": round(read - begin, 2),
        "seconds making": round(made - read, 2),
        "seconds streaming": round(time.perf_counter() - made, 2),
        "peak GiB": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 3),
        **{f"examples of {task}": count for task, count in counts.items() if isinstance(count, int)},
    }


if __name__ == "__main__":
    print(json.dumps(work(Path(sys.argv[1]))))
