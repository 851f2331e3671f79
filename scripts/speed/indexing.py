"""Indexing: a million vectors, Amazon Beauty, RQ-VAE, new items, MiniOneRec's RQ-VAE beside ours.

python scripts/speed/indexing.py million                    → results/bench-indexing-million.json
python scripts/speed/indexing.py beauty                     → results/bench-indexing-beauty.json: residual k-means
python scripts/speed/indexing.py rq-vae                     → results/bench-indexing-rq-vae.json
python scripts/speed/indexing.py new                        → results/bench-indexing-new.json: items added later
python scripts/speed/indexing.py peer --peer MINIONEREC --epochs 100        → results/bench-indexing-peer.json

MINIONEREC is a checkout of AkaliKong/MiniOneRec.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any, Literal

import faiss
import numpy as np
import pyarrow as pa
import typer

from indexing_peer import peer_codes
from llmrec.data.dataset import Dataset
from llmrec.errors import RunError
from llmrec.indexing import build, collisions, rq_vae
from llmrec.indexing.catalogue import Catalogue
from llmrec.indexing.codebooks import residual_kmeans
from llmrec.indexing.codes import group_equal
from llmrec.indexing.new_items import FittedIndex
from llmrec.items import read_vectors
from llmrec.recipe import Indexing, Recipe
from llmrec.results.record import write_result
from llmrec.run.execute import run
from llmrec.run.layout import RunFolder
from llmrec.seed import stream
from shared import RESULTS, alone, command_line, peak_gib, tell

Part = Literal["million", "beauty", "rq-vae", "new", "peer"]
BEAUTY = {
    "data": {"source": "amazon-beauty-2014"},
    "items": {"text": ["title", "brand", "category"], "missing_text": "item-id"},
    "indexing": {"levels": 3, "width": 256},
}


def main(
    part: Part = typer.Argument(help="which figures"),
    out: Path = typer.Option(RESULTS, help="folder for the JSON file"),
    items: int = typer.Option(1_000_000, help="million: generated vectors, of 384 numbers"),
    epochs: int = typer.Option(2000, help="rq-vae, peer: passes at most"),
    peer: Path = typer.Option(None, help="peer: a checkout of MiniOneRec, to train its RQ-VAE beside ours"),
    work: Path = typer.Option(Path("runs/.bench-indexing"), help="folder of the run, kept for the next time"),
) -> None:
    """Indexing: a million vectors, Amazon Beauty by residual k-means and RQ-VAE, new items, MiniOneRec's RQ-VAE."""
    if part == "peer" and peer is None:
        raise RunError("this is measured beside MiniOneRec: give --peer DIR, a checkout of AkaliKong/MiniOneRec")
    settings = Indexing.model_validate(BEAUTY["indexing"] | {"reserved_tokens": 64, "epochs": epochs})
    measure: dict[Part, Callable[[], dict[str, Any]]] = {
        "million": lambda: alone(million, items, settings),
        "beauty": lambda: whole(settings, *beauty(work)),
        "rq-vae": lambda: whole(settings.model_copy(update={"method": "rq-vae"}), *beauty(work)),
        "new": lambda: new(settings, *beauty(work)),
        "peer": lambda: beside(settings, beauty(work)[1], peer),
    }
    figures = {part: measure[part]()}
    tell(json.dumps(figures))
    path = out / f"bench-indexing-{part}.json"
    command = f"python scripts/speed/indexing.py {part} --items {items} --epochs {epochs}"
    about = {"settings": settings.model_dump(mode="json"), "vectors": "generated" if part == "million" else BEAUTY}
    command += " --peer MINIONEREC" if peer else ""
    write_result(path, command, figures, seed=0, threads=faiss.omp_get_max_threads(), **about)
    print(path)


def million(items: int, settings: Indexing) -> dict[str, Any]:
    """Seconds of residual k-means of generated vectors of 384 numbers, and the peak of memory, vectors included."""
    vectors = drawn(items, 384)
    begin = perf_counter()
    codes = residual_kmeans(vectors, settings.levels, settings.width, 0)[1]
    return {"items": len(codes), "seconds": round(perf_counter() - begin, 1), "peak GiB": round(peak_gib(), 2)}


def whole(settings: Indexing, table: pa.Table, text: np.ndarray) -> dict[str, Any]:
    """Seconds from vectors to a whole catalogue folder, health report included, and what its codes are like."""
    with tempfile.TemporaryDirectory() as folder:
        begin = perf_counter()
        facts = build.make(settings, table, text, 0, Path(folder))
        seconds = perf_counter() - begin
        report = json.loads((Path(folder) / "health.json").read_text())
    return {
        "seconds": round(seconds, 2),
        "items": len(text),
        "levels used": [level["used"] for level in report["levels"][:-1]],
        "shared a code before": report["collisions_before"],
        **{name: value for name, value in facts.items() if name != "verdict"},
    }


def new(settings: Indexing, table: pa.Table, text: np.ndarray) -> dict[str, Any]:
    """New items a second by a frozen catalogue, their vectors given: half of the items are old, the others new."""
    half = len(text) // 2
    settings = settings.model_copy(update={"reserved_tokens": len(text)})
    with tempfile.TemporaryDirectory() as folder:
        build.make(settings, table.slice(0, half), text[:half], 0, Path(folder))
        held, fitted = Catalogue.load(Path(folder)), FittedIndex.load(Path(folder))
        seconds = []
        for _ in range(3):
            begin = perf_counter()
            fitted.encode_new(held, table.slice(half), text[half:])
            seconds.append(perf_counter() - begin)
    count = len(text) - half
    return {
        "new items": count,
        "seconds": [round(s, 4) for s in seconds],
        "a second": round(count / np.median(seconds)),
    }


def beside(settings: Indexing, text: np.ndarray, peer: Path) -> dict[str, Any]:
    """MiniOneRec's RQ-VAE and ours, as many epochs: time, collisions before and after, use, error of reconstruction."""
    begin = perf_counter()
    encoder, facts = rq_vae.fit(text, settings.levels, settings.width, 0, settings.epochs)
    codes, left = encoder.encode(text)
    middle = perf_counter()
    apart = collisions.sinkhorn(codes, np.linalg.norm(left, axis=1), text, encoder)
    ours = _like(codes, apart, (middle - begin, perf_counter() - middle))
    theirs = peer_codes(peer, text, settings.levels, settings.width, facts["epochs"])
    return {
        "epochs": facts["epochs"],
        "llmrec": ours | {"error": facts["error"]},
        "MiniOneRec": _like(theirs.codes, theirs.apart, theirs.seconds) | {"error": round(theirs.error, 6)},
    }


def drawn(items: int, dim: int) -> np.ndarray:
    """(items, dim) float32 unit vectors about a thousand centres, as those of text are."""
    draw = stream(0, "bench", "indexing")
    rows = draw.standard_normal((1000, dim), np.float32)[draw.integers(0, 1000, items)]
    rows += draw.standard_normal((items, dim), np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def _like(codes: np.ndarray, apart: np.ndarray, seconds: tuple[float, float]) -> dict[str, Any]:
    return {
        "seconds": round(seconds[0], 1),
        "seconds to tell twins apart": round(seconds[1], 1),
        "shared a code": _sharing(codes),
        "share one after twins were told apart": _sharing(apart),
        "levels used": [len(np.unique(column)) for column in codes.T],
    }


def _sharing(codes: np.ndarray) -> int:
    group, size = group_equal(codes)
    return int((size[group] > 1).sum())


def beauty(work: Path) -> tuple[pa.Table, np.ndarray]:
    """Items of Amazon Beauty, and the vectors of their texts."""
    made = RunFolder(run(Recipe.model_validate(BEAUTY), work / "beauty", until="items"))
    return Dataset.load(made.data, texts=False).items, read_vectors(made.items)


if __name__ == "__main__":
    command_line(main)
