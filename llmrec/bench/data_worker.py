"""One log through the stage `data`, and its histories: `python -m llmrec.bench.data_worker FOLDER`, figures as JSON."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from llmrec.data import dataset as data
from llmrec.data.dataset import Dataset
from llmrec.recipe import Data


def main(log: Path) -> None:
    """Make the stage from `log.parquet` and `items.parquet`, 5-core, leave-one-out; print what it took."""
    files = {"interactions": str(log / "log.parquet"), "items": str(log / "items.parquet")}
    recipe = Data.model_validate({"source": "files", "core": 5, **files})
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        facts = data.make(recipe, 42, Path(folder))
        made = time.perf_counter()
        dataset = Dataset.load(Path(folder))
        train, cases = dataset.before("valid"), dataset.cases("test")
        held = time.perf_counter()
    told = {
        "stage data s": round(made - begin, 1),
        "histories s": round(held - made, 1),
        "kept": {name: facts[name] for name in ("users", "items", "interactions", "test users")},
        "training events": len(train.items),
        "test cases": len(cases.users),
    }
    print(json.dumps(told))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
