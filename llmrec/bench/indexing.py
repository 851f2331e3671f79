"""Figures of indexing: a million vectors, Amazon Beauty, RQ-VAE, new items, who dominates, and MiniOneRec's RQ-VAE."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

import faiss
import numpy as np
import pyarrow as pa

from llmrec import pipeline, shipped
from llmrec.bench.indexing_cold import cold
from llmrec.bench.indexing_peer import peer_codes
from llmrec.data.dataset import Dataset
from llmrec.errors import RunError
from llmrec.indexing import agreement, build, rq_kmeans, rq_vae, separate, vectors
from llmrec.indexing.catalogue import Catalogue
from llmrec.indexing.codes import groups
from llmrec.indexing.frozen import Frozen
from llmrec.recipe import Indexing, Recipe
from llmrec.recipe_file import load
from llmrec.results import write_result
from llmrec.seed import stream

Tell = Callable[[str], None]
PARTS = ("million", "beauty", "rq-vae", "new", "error", "dominance", "cold", "peer")
OWN = ("million", "cold", "dominance")  # parts that need no vectors of Beauty
LEVELS, WIDTH = 3, 256
BEAUTY = {
    "data": {"source": "amazon-beauty-2014"},
    "items": {"text": ["title", "brand", "category"], "missing_text": "item-id"},
    "indexing": {"levels": LEVELS, "width": WIDTH},
}


def bench(part: str, out: Path, items: int, epochs: int, peer: Path | None, work: Path, tiny: bool, tell: Tell) -> Path:
    """Measure one part, or all.

    Args:
        part: one of `PARTS`, or all.
        out: folder of results.
        items: million: generated vectors.
        epochs: rq-vae, peer: at most.
        peer: a checkout of MiniOneRec.
        work: where runs are kept.
        tiny: generated vectors in place of Beauty's, and few of them.
        tell: told each figure.

    Returns:
        The result's file.

    Raises:
        RunError: an unknown part, or the peer is wanted and not given.
    """
    if part not in (*PARTS, "all"):
        raise RunError(f"there is no part '{part}'. Parts: {', '.join(PARTS)}, all")
    if part == "peer" and peer is None:
        raise RunError("this is measured beside MiniOneRec: give --peer DIR, a checkout of AkaliKong/MiniOneRec")
    wanted = [name for name in PARTS if part in (name, "all") and (name != "peer" or peer)]
    text, table = (drawn(600, 32), _named(600)) if tiny or set(wanted) <= set(OWN) else _beauty(work)
    levels = {"levels": LEVELS, "width": 16} if tiny else {"levels": LEVELS, "width": WIDTH}
    settings = Indexing.model_validate(levels | {"spares": 64, "epochs": epochs})
    measure: dict[str, Callable[[], dict[str, Any]]] = {
        "million": lambda: million(2000 if tiny else items, settings),
        "beauty": lambda: whole(settings, table, text),
        "rq-vae": lambda: whole(settings.model_copy(update={"method": "rq-vae"}), table, text),
        "new": lambda: new(settings, table, text),
        "error": lambda: error(settings, text),
        "dominance": lambda: dominance(work, tiny),
        "cold": lambda: cold(work, tiny),
        "peer": lambda: beside(settings, text, Path(peer or "")),
    }
    figures = {}
    for name in wanted:
        figures[name] = measure[name]()
        tell(f"{name}: {json.dumps(figures[name])}")
    path = out / f"bench-indexing{'' if part == 'all' else '-' + part}.json"
    about = {"settings": settings.model_dump(mode="json"), "vectors": "generated" if tiny else BEAUTY}
    about = {} if set(wanted) <= set(OWN) - {"million"} else about
    command = f"llmrec bench indexing {part} --items {items} --epochs {epochs}{' --tiny' if tiny else ''}"
    write_result(path, command + (" --peer DIR" if peer else ""), figures, seed=0, threads=_threads(), **about)
    return path


def million(items: int, settings: Indexing) -> dict[str, Any]:
    """Residual k-means of generated vectors of 384 numbers, in a process of its own.

    Raises:
        RunError: the process failed.
    """
    command = [sys.executable, "-m", "llmrec.bench.indexing_worker"]
    numbers = [str(number) for number in (items, 384, settings.levels, settings.width)]
    done = subprocess.run([*command, *numbers], capture_output=True, text=True)
    if done.returncode:
        raise RunError(f"coding {items} vectors failed: {done.stderr.strip()[-500:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


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
    settings = settings.model_copy(update={"spares": len(text)})
    with tempfile.TemporaryDirectory() as folder:
        build.make(settings, table.slice(0, half), text[:half], 0, Path(folder))
        held, frozen = Catalogue.load(Path(folder)), Frozen.load(Path(folder))
        seconds = []
        for _ in range(3):
            begin = perf_counter()
            frozen.place(held, table.slice(half), text[half:])
            seconds.append(perf_counter() - begin)
    count = len(text) - half
    return {
        "new items": count,
        "seconds": [round(s, 4) for s in seconds],
        "a second": round(count / np.median(seconds)),
    }


def error(settings: Indexing, text: np.ndarray) -> dict[str, Any]:
    """What codes leave unexplained: ours beside faiss's ResidualQuantizer with five beams, of as many bits."""
    begin = perf_counter()
    left = float(np.square(rq_kmeans.fit(text, settings.levels, settings.width, 0).encode(text)[1]).sum())
    ours = perf_counter() - begin
    other = faiss.ResidualQuantizer(text.shape[1], settings.levels, settings.width.bit_length() - 1)
    other.max_beam_size = 5
    begin = perf_counter()
    other.train(text)
    theirs = float(np.square(text - other.decode(other.compute_codes(text))).sum())
    seconds = perf_counter() - begin
    return {"ours over faiss": round(left / theirs, 4), "seconds": [round(ours, 2), round(seconds, 2)]}


def beside(settings: Indexing, text: np.ndarray, peer: Path) -> dict[str, Any]:
    """MiniOneRec's RQ-VAE and ours, as many epochs: time, collisions before and after, use, error of reconstruction."""
    begin = perf_counter()
    encoder, facts = rq_vae.fit(text, settings.levels, settings.width, 0, settings.epochs)
    codes, left = encoder.encode(text)
    middle = perf_counter()
    apart = separate.sinkhorn(codes, np.linalg.norm(left, axis=1), text, encoder)
    ours = _like(codes, apart, (middle - begin, perf_counter() - middle))
    theirs = peer_codes(peer, text, settings.levels, settings.width, facts["epochs"])
    return {
        "epochs": facts["epochs"],
        "llmrec": ours | {"error": facts["error"]},
        "MiniOneRec": _like(theirs.codes, theirs.apart, theirs.seconds) | {"error": round(theirs.error, 6)},
    }


def dominance(work: Path, tiny: bool) -> dict[str, Any]:
    """Dominance of text in codes of ML-100K's items, by what was quantized: text, co-occurrence, or both together."""
    how = ["items={text: [title, year, genres], encoder: hashing}"] if tiny else []
    recipe = load(shipped.recipe("quickstart-text"), how)
    run, found = pipeline.run(recipe, work / "ml-100k", until="items"), {}
    data = Dataset.load(run / "data", texts=False)
    text, train = np.load(run / "items" / "vectors" / f"{recipe.items.encoder}.npy"), data.before("valid")
    for way in ("text", "ppmi", "concat", "weighted", "aligned"):
        settings = recipe.indexing.model_copy(update={"vectors": way, "teacher": "ppmi"})
        where = vectors.source(settings, text, train, recipe.seed)
        of = np.ascontiguousarray(where.of(text, where.behaviour), np.float32)
        codes = rq_kmeans.fit(of, settings.levels, settings.width, recipe.seed).encode(of)[0]
        measured = agreement.measure(codes, text, recipe.seed, data.items, train)
        found[way] = {name: measured[name] for name in ("dominance", "company_nmi", "category_nmi")}
    return found


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
    group, size = groups(codes)
    return int((size[group] > 1).sum())


def _named(items: int) -> pa.Table:
    names = [f"i{number}" for number in range(items)]
    return pa.table({"item_id": names, "title": names})


def _beauty(work: Path) -> tuple[np.ndarray, pa.Table]:
    run = pipeline.run(Recipe.model_validate(BEAUTY), work / "beauty", until="items")
    return np.load(run / "items" / "vectors" / "minilm-l6.npy"), Dataset.load(run / "data", texts=False).items


def _threads() -> int:
    return int(faiss.omp_get_max_threads())
