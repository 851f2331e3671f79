"""Data at size: a log of any length through cleaning, split and histories; metrics; a peer's script beside ours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.bench import data_peer
from llmrec.metrics import CORRECTED, RANKING, Exposure, place_in_list
from llmrec.metrics import beyond as measures
from llmrec.results import write_result

Tell = Callable[[str], None]


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
TINY = Size(events=200_000, peer_events=20_000, users=20_000, memory=1.0)


def bench(part: str, out: Path, size: Size, peer: Path | None, work: Path | None, tell: Tell) -> list[Path]:
    """Measure one part or all, and write a JSON for each.

    Args:
        part: "log", "metrics", "peer" or "all"; "all" leaves the peer out where there is none.
        out: folder for the JSON files.
        size: how much.
        peer: a checkout of MiniOneRec, whose pre-processing is timed beside ours.
        work: where logs are written, and stay; a temporary folder otherwise.
        tell: told in words what is done.

    Returns:
        The files.

    Raises:
        DataError: the peer's script is not there, or its output is not ours.
    """
    written = []
    with tempfile.TemporaryDirectory(prefix="llmrec-bench-") as temporary:
        folder = work or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        parts: dict[str, Callable[[], dict[str, Any]]] = {
            "log": lambda: long_log(folder, size, tell),
            "metrics": lambda: metrics(size, tell),
        }
        if peer or part == "peer":
            parts["peer"] = lambda: data_peer.beside(folder, size.peer_events, peer, tell)
        for name in parts if part == "all" else [part]:
            figures = parts[name]()
            written.append(out / f"bench-data-{name}.json")
            command = f"llmrec bench data {name}" + (" --peer MINIONEREC" if name == "peer" else "")
            write_result(written[-1], command, figures, threads=os.cpu_count(), size=size.__dict__)
    return written


def long_log(folder: Path, size: Size, tell: Tell) -> dict[str, Any]:
    """Seconds and peak memory of a generated log through 5-core, leave-one-out and histories, in its own process."""
    log = folder / f"log-{size.events}"
    begin = time.perf_counter()
    if not (log / "items.parquet").is_file():
        tell(f"writing {size.events:,} interactions")
        write_log(log, size.events)
    written = time.perf_counter() - begin
    tell("5-core, split, histories")
    environment = os.environ | {"LLMREC_MEMORY": str(size.memory), "TMPDIR": str(folder)}
    command = [sys.executable, "-m", "llmrec.bench.data_worker", str(log)]
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as worker:
        assert worker.stdout
        told = worker.stdout.read()
        _, status, used = os.wait4(worker.pid, 0)
        worker.returncode = os.waitstatus_to_exitcode(status)
    if worker.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {worker.returncode}")
    return {
        "interactions": size.events,
        "users": size.events // 20,
        "items": size.events // 100,
        "generation s": round(written, 1),
        "total s": round(time.perf_counter() - begin, 1),
        "peak GiB": round(used.ru_maxrss / 2**20, 2),
        "DuckDB memory limit GiB": size.memory,
        **json.loads(told.splitlines()[-1]),
    }


def write_log(folder: Path, events: int, seed: int = 0) -> None:
    """Write `log.parquet` and `items.parquet`: popular items and busy users, ids as text, five years of seconds."""
    import pyarrow as pa
    import pyarrow.parquet as pq

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
    import pyarrow as pa
    import pyarrow.compute as pc

    return pc.binary_join_element_wise(letter, pc.cast(pa.array(numbers), pa.string()), "")


def metrics(size: Size, tell: Tell) -> dict[str, Any]:
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

    places = timed("places", lambda: place_in_list(lists, targets))
    timed("ranking", lambda: [metric(places, k) for metric in RANKING.values() for k in (1, 5, 10, 20, 50)])
    counts = timed("exposure", lambda: measures.exposures(lists, items))
    timed("spread", lambda: [measures.coverage(counts), measures.gini(counts), measures.entropy(counts)])
    timed("novelty", lambda: measures.novelty(lists, users_of_item, size.users))
    timed("diversity of category", lambda: measures.category_diversity(lists, category))
    timed("serendipity", lambda: measures.serendipity(lists, targets, obvious))
    timed("fairness", lambda: [measure(Exposure(counts, size.users, 50)) for measure in CORRECTED.values()])
    return {"lists": size.users, "k": 50, "total s": round(sum(seconds.values()), 2), "seconds": seconds}
