"""Data at size: a log of any length through cleaning, split and histories; metrics; a peer's script beside ours.

python scripts/speed/data.py log                            → results/bench-data-log.json
python scripts/speed/data.py metrics                        → results/bench-data-metrics.json
python scripts/speed/data.py peer --peer MINIONEREC         → results/bench-data-peer.json

MINIONEREC is a checkout of AkaliKong/MiniOneRec.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer

import data_peer
from llmrec.data import dataset as data
from llmrec.data.dataset import Dataset
from llmrec.metrics import beyond_accuracy as measures
from llmrec.metrics.beyond_accuracy import CORRECTED, Exposure
from llmrec.metrics.ranking import RANKING, rank_in_lists
from llmrec.recipe import Data
from llmrec.results.record import write_result
from shared import RESULTS, alone, command_line, peak_gib, tell


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        events: interactions of the long log; users are a twentieth of them, items a hundredth.
        peer_events: of the log that a peer's script is given too.
        users: lists of the metrics, 50 items each.
        memory: GiB that DuckDB may hold.
    """

    events: int = 100_000_000
    peer_events: int = 2_000_000
    users: int = 1_000_000
    memory: float = 4.0


# Shares of the events → shares of those who have them: the last half of the users, and the last six tenths of the
# items, have so few each that the 5-core takes many of them out, and then others with them.
USERS = ([0, 0.45, 0.9, 1], [0, 0.05, 0.5, 1])
ITEMS = ([0, 0.6, 0.97, 1], [0, 0.02, 0.4, 1])
Part = Literal["log", "metrics", "peer"]


def main(
    part: Part = typer.Argument(help="which figures"),
    out: Path = typer.Option(RESULTS, help="folder for the JSON file"),
    events: int = typer.Option(100_000_000, help="log: interactions of the generated log"),
    memory: float = typer.Option(4.0, help="log: GiB that DuckDB may hold"),
    peer: Path = typer.Option(None, help="peer: a checkout of MiniOneRec, to time its pre-processing beside ours"),
    work: Path = typer.Option(None, help="folder for generated logs, kept for the next time"),
) -> None:
    """Data: a log of a hundred million rows through 5-core, split and histories; metrics; a peer's script."""
    with tempfile.TemporaryDirectory(prefix="llmrec-data-") as temporary:
        print(measure(part, Size(events=events, memory=memory), out, peer, work or Path(temporary)))


def measure(part: Part, size: Size, out: Path, peer: Path | None, folder: Path) -> Path:
    """Measure one part, and write its JSON.

    Args:
        part: which figures.
        size: how much.
        out: folder for the JSON file.
        peer: a checkout of MiniOneRec, whose pre-processing is timed beside ours.
        folder: where logs are written.

    Returns:
        The file.

    Raises:
        DataError: the peer's script is not there, or its output is not ours.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts: dict[Part, Callable[[], dict[str, Any]]] = {
        "log": lambda: long_log(folder, size),
        "metrics": lambda: metrics(size),
        "peer": lambda: data_peer.beside(folder, size.peer_events, peer),
    }
    figures, path = parts[part](), out / f"bench-data-{part}.json"
    command = f"python scripts/speed/data.py {part}" + (" --peer MINIONEREC" if part == "peer" else "")
    write_result(path, command, figures, threads=os.cpu_count(), size=size.__dict__)
    return path


def long_log(folder: Path, size: Size) -> dict[str, Any]:
    """Seconds and peak memory of a generated log through 5-core, leave-one-out and histories, in its own process."""
    log = folder / f"log-{size.events}"
    begin = time.perf_counter()
    if not (log / "items.parquet").is_file():
        tell(f"writing {size.events:,} interactions")
        write_log(log, size.events)
    written = time.perf_counter() - begin
    tell("5-core, split, histories")
    begin = time.perf_counter()
    figures = alone(through_the_stage, log, size.memory)
    return {
        "interactions": size.events,
        "users": size.events // 20,
        "items": size.events // 100,
        "generation s": round(written, 1),
        "total s": round(time.perf_counter() - begin, 1),
        "DuckDB memory limit GiB": size.memory,
        **figures,
    }


def through_the_stage(log: Path, memory: float) -> dict[str, Any]:
    """Make the stage `data` from `log.parquet` and `items.parquet`, 5-core, leave-one-out, and read its histories."""
    os.environ |= {"LLMREC_MEMORY": str(memory), "TMPDIR": str(log.parent)}
    files = {"interactions": str(log / "log.parquet"), "items": str(log / "items.parquet")}
    recipe = Data.model_validate({"source": "files", "k_core": 5, **files})
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        facts = data.make(recipe, 42, Path(folder))
        made = time.perf_counter()
        dataset = Dataset.load(Path(folder))
        train, cases = dataset.before("valid"), dataset.cases("test")
        held = time.perf_counter()
    return {
        "peak GiB": round(peak_gib(), 2),
        "stage data s": round(made - begin, 1),
        "histories s": round(held - made, 1),
        "kept": {name: facts[name] for name in ("users", "items", "interactions", "test users")},
        "training events": len(train.items),
        "test cases": len(cases.users),
    }


def write_log(folder: Path, events: int, seed: int = 0) -> None:
    """Write `log.parquet` and `items.parquet`: popular items and busy users, ids as text, five years of seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    rng, users, items = np.random.default_rng(seed), events // 20, events // 100
    kinds = [("user_id", pa.string()), ("item_id", pa.string()), ("timestamp", pa.int64()), ("rating", pa.float32())]
    with pq.ParquetWriter(folder / "log.parquet", pa.schema(kinds)) as writer:
        for start in range(0, events, 1 << 20):
            rows = min(1 << 20, events - start)
            writer.write_table(
                pa.table(
                    {
                        "user_id": named("u", (users * np.interp(rng.random(rows), *USERS)).astype(np.int64)),
                        "item_id": named("i", (items * np.interp(rng.random(rows), *ITEMS)).astype(np.int64)),
                        "timestamp": 1_500_000_000 + rng.integers(0, 157_680_000, rows),
                        "rating": pa.array(rng.integers(1, 6, rows), pa.float32()),
                    }
                )
            )
    numbers = np.arange(items)
    pq.write_table(
        pa.table({"item_id": named("i", numbers), "title": named("title ", numbers)}), folder / "items.parquet"
    )


def named(letter: str, numbers: np.ndarray) -> Any:
    """An Arrow array of ids: a letter and a number."""
    return pc.binary_join_element_wise(letter, pc.cast(pa.array(numbers), pa.string()), "")


def metrics(size: Size) -> dict[str, Any]:
    """Seconds for every ranking metric at five depths and for what lists are like, over lists of 50."""
    tell(f"metrics of {size.users:,} lists of 50")
    rng, items = np.random.default_rng(0), 100_000
    lists = (items * rng.random((size.users, 50), dtype=np.float32) ** 2).astype(np.int32)
    targets, category = rng.integers(0, items, size.users), rng.integers(0, 40, items)
    users_of_item = rng.integers(0, 500, items)
    obvious = np.tile(np.arange(50, dtype=np.int32), (size.users, 1))
    seconds: dict[str, float] = {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        begin = time.perf_counter()
        found = call()
        seconds[name] = round(time.perf_counter() - begin, 3)
        return found

    places = timed("places", lambda: rank_in_lists(lists, targets))
    timed("ranking", lambda: [metric(places, k) for metric in RANKING.values() for k in (1, 5, 10, 20, 50)])
    counts = timed("exposure", lambda: measures.exposures(lists, items))
    timed("spread", lambda: [measures.coverage(counts), measures.gini(counts), measures.entropy(counts)])
    timed("novelty", lambda: measures.novelty(lists, users_of_item, size.users))
    timed("diversity of category", lambda: measures.category_diversity(lists, category))
    timed("serendipity", lambda: measures.serendipity(lists, targets, obvious))
    timed("fairness", lambda: [measure(Exposure(counts, size.users, 50)) for measure in CORRECTED.values()])
    return {"lists": size.users, "k": 50, "total s": round(sum(seconds.values()), 2), "seconds": seconds}


if __name__ == "__main__":
    command_line(main)
