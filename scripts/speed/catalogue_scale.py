"""A catalogue of ten million items: seconds and memory to write, open, hash and search it, beside the way before.

python scripts/speed/catalogue_scale.py         → results/catalogue-scale.json

The way before (format 1) kept codes as lists of Python texts, hashed them as JSON and found items in a dictionary. It
is timed at --beside items, and the new way at as many and at --items. Every figure is of a process of its own, whose
peak of memory includes what importing llmrec takes (`imports`).
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import typer

from llmrec.files import hash_json
from llmrec.indexing.catalogue import Catalogue, hash_codes
from llmrec.indexing.trie import Trie
from llmrec.results.record import write_result
from shared import RESULTS, alone, command_line, peak_gib, ratio, tell

LEVELS, WIDTH = 4, 256
ASKED = 100_000  # ids that are looked up at once
Figures = dict[str, float]


def main(
    items: int = typer.Option(10_000_000, help="items of the large catalogue"),
    beside: int = typer.Option(1_000_000, help="items of the catalogue that both ways open"),
    rounds: int = typer.Option(3, help="times that both ways open it, in turns"),
    out: Path = typer.Option(RESULTS, help="folder for the JSON file"),
) -> None:
    """Seconds and GiB of a large catalogue, and of a smaller one beside the way before."""
    figures: dict[str, Any] = {"imports": {"peak_gib": alone(peak_gib)}}
    with tempfile.TemporaryDirectory() as folder:
        figures["beside"] = _beside(Path(folder), beside, rounds)
        tell(json.dumps(figures))
        write = alone(written, Path(folder), items)
        figures["large"] = {"items": items, "write": write, "open": alone(opened, Path(folder))}
    tell(json.dumps(figures["large"]))
    command = f"python scripts/speed/catalogue_scale.py --items {items} --beside {beside} --rounds {rounds}"
    path = out / "catalogue-scale.json"
    write_result(path, command, figures, levels=LEVELS, width=WIDTH, asked=ASKED, seed=0)
    print(path)


def _beside(folder: Path, items: int, rounds: int) -> dict[str, Any]:
    """Both ways to write and open the same items, in turns."""
    write = {"before": alone(written_before, folder, items), "now": alone(written, folder, items)}
    each: dict[str, list[Figures]] = {"before": [], "now": []}
    ways: dict[str, Callable[[Path], Figures]] = {"before": opened_before, "now": opened}
    for _ in range(rounds):
        for name, way in ways.items():
            each[name].append(alone(way, folder))
    shared = each["before"][0].keys() & each["now"][0].keys()
    times = {name: ratio(*([one[name] for one in each[way]] for way in ways)) for name in sorted(shared)}
    return {"items": items, "write": write, "open": each, "before / now": times}


def generated(items: int) -> tuple[pa.Table, np.ndarray]:
    """Items with ids and titles, and (items, LEVELS) int32 different codes in random order."""
    number = pa.array(np.arange(items)).cast(pa.string())
    names = [pc.binary_join_element_wise(start, number, "") for start in ("B00", "The title of item ")]
    drawn = np.random.default_rng(0).permutation(items).astype(np.int64)
    codes = np.empty((items, LEVELS), np.int32)
    for level in range(LEVELS):
        codes[:, level] = drawn // WIDTH**level % WIDTH
    return pa.table({"item_id": names[0], "title": names[1]}), codes


def written(folder: Path, items: int) -> Figures:
    """Write a catalogue folder: seconds to make the catalogue and to save it; MiB on the disk."""
    table, codes = generated(items)
    begin = perf_counter()
    catalogue = Catalogue.of(table, codes, [WIDTH] * LEVELS)
    made = perf_counter()
    catalogue.save(folder)
    ended = perf_counter()
    size = sum((folder / name).stat().st_size for name in ("items.parquet", "codes.npy", "catalogue.json"))
    return _figures(make_s=made - begin, save_s=ended - made, mib=size / 2**20)


def opened(folder: Path) -> Figures:
    """Open a catalogue folder, hash it again, and look ids up."""
    begin = perf_counter()
    catalogue = Catalogue.load(folder)
    loaded = perf_counter()
    assert hash_codes(catalogue.ids, catalogue.codes, catalogue.tokens) == catalogue.hash
    hashed = perf_counter()
    asked = catalogue.ids.take(pa.array(_asked(len(catalogue))))
    begin_look_up = perf_counter()
    found = catalogue.numbers(asked)
    looked_up = perf_counter()
    assert (found == _asked(len(catalogue))).all()
    return _figures(load_s=loaded - begin, hash_s=hashed - loaded, look_up_s=looked_up - begin_look_up)


def written_before(folder: Path, items: int) -> Figures:
    """Write the items and their codes as format 1 did: a list of tokens for each item."""
    table, codes = generated(items)
    begin = perf_counter()
    tokens = _tokens()
    starts = WIDTH * np.arange(LEVELS, dtype=np.int32)
    named = [[tokens[symbol] for symbol in row] for row in (codes + starts).tolist()]
    coded = pa.table({"item_id": table["item_id"], "code": pa.array(named, pa.list_(pa.string()))})
    pq.write_table(table, folder / "items-before.parquet")
    pq.write_table(coded, folder / "codes-before.parquet")
    ended = perf_counter()
    size = sum((folder / f"{name}-before.parquet").stat().st_size for name in ("items", "codes"))
    return _figures(save_s=ended - begin, mib=size / 2**20)


def opened_before(folder: Path) -> Figures:
    """Open the items and their codes as format 1 did, hash them, and look ids up in a dictionary."""
    tokens, begin = _tokens(), perf_counter()
    symbol = {token: number for number, token in enumerate(tokens)}
    ids = pq.read_table(folder / "items-before.parquet")["item_id"].to_pylist()
    rows = pq.read_table(folder / "codes-before.parquet")["code"].to_pylist()
    codes = np.array([[symbol[token] for token in row] for row in rows], np.int32)
    numbers = {item_id: number for number, item_id in enumerate(ids)}
    Trie.build(codes, len(tokens))
    begin_hash = perf_counter()
    hash_json([ids, codes.tolist(), tokens])
    loaded = perf_counter()  # the hash was part of opening, as it is now
    asked = [ids[number] for number in _asked(len(ids)).tolist()]
    begin_look_up = perf_counter()
    found = [numbers[item_id] for item_id in asked]
    looked_up = perf_counter()
    assert found == _asked(len(ids)).tolist()
    return _figures(load_s=loaded - begin, hash_s=loaded - begin_hash, look_up_s=looked_up - begin_look_up)


def _tokens() -> list[str]:
    return [f"<{chr(97 + level)}_{number}>" for level in range(LEVELS) for number in range(WIDTH)]


def _asked(items: int) -> np.ndarray:
    """(ASKED,) item numbers to look up, drawn at random."""
    return np.random.default_rng(1).integers(0, items, ASKED)


def _figures(**seconds: float) -> Figures:
    return {name: round(value, 3) for name, value in seconds.items()} | {"peak_gib": round(peak_gib(), 3)}


if __name__ == "__main__":
    command_line(main)
