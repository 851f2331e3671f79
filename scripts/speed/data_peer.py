"""A peer's pre-processing beside ours: the same reviews in, the same training, validation and test rows out.

The peer is MiniOneRec's `data/amazon18_data_process.py`, run from a checkout of the user's own:
5-core by time window, every event of a user from the second on with up to ten before it, 8:1:1 by time.

Part `peer` of data.py.
"""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from llmrec.contracts import Sequences
from llmrec.data import dataset as data
from llmrec.data.dataset import Dataset
from llmrec.errors import DataError
from llmrec.recipe import Data
from shared import alone, ratio, take_turns, tell

SCRIPT = Path("data/amazon18_data_process.py")
HISTORY = 10
COLUMNS = ("user", "history", "target")
PIECE = 100_000  # events
ROUNDS = 3


def beside(folder: Path, events: int, peer: Path | None) -> dict[str, Any]:
    """Seconds of both, in turns, and whether their rows are the same.

    Args:
        folder: to write into.
        events: reviews to generate.
        peer: a checkout of MiniOneRec.

    Raises:
        DataError: no such checkout, or the outputs differ.
    """
    if peer is None or not (peer / SCRIPT).is_file():
        raise DataError(f"--peer must be a checkout of MiniOneRec that has {SCRIPT}; got {peer}.")
    tell(f"writing {events:,} reviews")
    write_reviews(folder, events)
    contenders = {"peer": lambda: _theirs(folder, peer), "llmrec": lambda: alone(prepare, folder)}
    seconds = take_turns(contenders, ROUNDS, warm_up=0)
    rows, times = _same(folder), ratio(seconds["peer"], seconds["llmrec"])
    return {
        "reviews": events,
        "rows": rows,
        "seconds": {name: [round(one, 2) for one in each] for name, each in seconds.items()},
        "times faster": {name: round(times[name], 1) for name in ("median", "least")},
        "same rows": True,
    }


def write_reviews(folder: Path, events: int, seed: int = 0) -> None:
    """Reviews and metadata as Amazon 2018 has them; every moment is another, so that no order depends on a tie."""
    rng, users, items = np.random.default_rng(seed), events // 12, max(events // 60, 40)
    begin, end = 1_000_000_000, 1_500_000_000
    times = rng.permutation(begin + np.arange(events) * ((end - begin) // events))
    user, item = (users * rng.random(events) ** 1.3).astype(int), (items * rng.random(events) ** 2).astype(int)
    with (folder / "Bench.json").open("w") as file:
        for u, i, t in zip(user.tolist(), item.tolist(), times.tolist(), strict=True):
            file.write(
                f'{{"overall": {1.0 + (u + i) % 5}, "verified": true, "reviewerID": "A{u:013d}", "asin": "B{i:09d}", '
                f'"reviewerName": "n", "reviewText": "Text of {u} about {i}.", "summary": "Of {i}", '
                f'"unixReviewTime": {t}}}\n'
            )
    with (folder / "meta_Bench.json").open("w") as file:
        for i in range(items):
            row = {"asin": f"B{i:09d}", "title": f"Item {i}", "brand": "b", "category": ["c"], "description": ["d"]}
            file.write(json.dumps(row) + "\n")


def _theirs(folder: Path, peer: Path) -> None:
    command = [sys.executable, str((peer / SCRIPT).resolve()), "--dataset", "Bench"]
    command += ["--reviews_file", str(folder / "Bench.json"), "--metadata_file", str(folder / "meta_Bench.json")]
    command += ["--output_path", str(folder / "theirs")]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise DataError(f"the peer's script ended with {done.returncode}: {done.stderr.strip().splitlines()[-1]}")


def prepare(folder: Path) -> None:
    """The stage `data` and the three files of rows: user, history, target, as the peer lays them out, by our ids."""
    given = {"interactions": str(folder / "Bench.json"), "items": str(folder / "meta_Bench.json")}
    recipe = Data.model_validate({"source": "amazon-reviews-2018", "k_core": 5, "split": "temporal", **given})
    (folder / "ours").mkdir(exist_ok=True)
    data.make(recipe, 42, folder / "ours")
    dataset = Dataset.load(folder / "ours", texts=False)
    for number, split in enumerate(("train", "valid", "test")):
        _write(dataset, np.flatnonzero(dataset.splits == number), folder / "ours" / f"{split}.tsv")


def _write(dataset: Dataset, events: np.ndarray, path: Path) -> None:
    """Rows of events, in pieces that fit a processor's cache, two at a time."""
    written = pa_csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    pieces = np.array_split(events, max(1, len(events) // PIECE))
    users, ids = pa.array(dataset.user_ids), dataset.items["item_id"].combine_chunks()
    with (
        ThreadPoolExecutor(2) as pool,
        pa_csv.CSVWriter(path, pa.schema([(n, pa.string()) for n in COLUMNS]), write_options=written) as writer,
    ):
        for rows in pool.map(lambda piece: _rows(dataset.histories, piece, users, ids), pieces):
            writer.write_table(rows)


def _rows(histories: Sequences, events: np.ndarray, users: pa.Array, ids: pa.Array) -> pa.Table:
    """Every event that something came before: user id, up to ten item ids before it, item id."""
    rows = np.searchsorted(histories.offsets, events, side="right") - 1
    starts = histories.offsets[rows]
    events, rows, starts = (column[events > starts] for column in (events, rows, starts))
    lengths = np.minimum(events - starts, HISTORY)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32)
    places = np.arange(offsets[-1]) + np.repeat(events - lengths - offsets[:-1], lengths)
    before = pa.ListArray.from_arrays(pa.array(offsets), ids.take(pa.array(histories.items[places])))
    columns = users.take(pa.array(rows)), pc.binary_join(before, " "), ids.take(pa.array(histories.items[events]))
    return pa.table(dict(zip(COLUMNS, columns, strict=True)))


def _same(folder: Path) -> dict[str, int]:
    """Rows of each split, which are the same on both sides.

    Raises:
        DataError: they are not.
    """
    theirs = folder / "theirs" / "Bench"
    users, items = (
        dict(line.split("\t")[::-1] for line in (theirs / f"Bench.{kind}2id").read_text().splitlines())
        for kind in ("user", "item")
    )
    counted = {}
    for split in ("train", "valid", "test"):
        lines = (theirs / f"Bench.{split}.inter").read_text().splitlines()[1:]
        fields = [line.split("\t") for line in lines]
        wanted = {(users[u], " ".join(items[i] for i in h.split()), items[t]) for u, h, t in fields}
        found = {tuple(line.split("\t")) for line in (folder / "ours" / f"{split}.tsv").read_text().splitlines()}
        if wanted != found:
            raise DataError(
                f"{split}: {len(wanted - found)} rows are only the peer's, {len(found - wanted)} only ours."
            )
        counted[split] = len(lines)
    return counted
