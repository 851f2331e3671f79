"""What item codes keep: error beside faiss's quantizer, and whether text or co-occurrence shapes them.

python scripts/experiments/codes.py error           → results/bench-indexing-error.json: on Amazon Beauty
python scripts/experiments/codes.py dominance       → results/bench-indexing-dominance.json: on MovieLens 100K
"""

from __future__ import annotations

import argparse
from pathlib import Path
from time import perf_counter
from typing import Any

import faiss
import numpy as np

from llmrec import resources
from llmrec.data.dataset import Dataset
from llmrec.indexing import vectors
from llmrec.indexing.codebooks import residual_kmeans
from llmrec.indexing.health import measure_agreement
from llmrec.items import read_vectors
from llmrec.recipe_file import load
from llmrec.results.record import write_result
from llmrec.run.execute import run
from llmrec.run.layout import RunFolder

LEVELS, WIDTH = 3, 256  # of codes whose error is measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=["error", "dominance"])
    parser.add_argument("--work", type=Path, default=Path("runs/.bench-indexing"), help="folder of the run, kept")
    parser.add_argument("--out", type=Path, default=Path("results"))
    given = parser.parse_args()
    figures = error(given.work) if given.part == "error" else dominance(given.work)
    path = given.out / f"bench-indexing-{given.part}.json"
    write_result(path, f"python scripts/experiments/codes.py {given.part}", {given.part: figures}, seed=0)
    print(figures, path, sep="\n")


def error(work: Path) -> dict[str, Any]:
    """What codes leave unexplained: ours beside faiss's ResidualQuantizer with five beams, of as many bits."""
    recipe = load(resources.recipe_path("beauty-nano-text"))
    text = read_vectors(RunFolder(run(recipe, work / "beauty-text", "items")).items)
    begin = perf_counter()
    left = float(np.square(residual_kmeans(text, LEVELS, WIDTH, 0)[2]).sum())
    ours = perf_counter() - begin
    other = faiss.ResidualQuantizer(text.shape[1], LEVELS, WIDTH.bit_length() - 1)
    other.max_beam_size = 5
    begin = perf_counter()
    other.train(text)
    theirs = float(np.square(text - other.decode(other.compute_codes(text))).sum())
    seconds = perf_counter() - begin
    return {"ours over faiss": round(left / theirs, 4), "seconds": [round(ours, 2), round(seconds, 2)]}


def dominance(work: Path) -> dict[str, Any]:
    """Dominance of text in codes of ML-100K's items, by what was quantized: text, co-occurrence, or both together."""
    recipe = load(resources.recipe_path("quickstart-text"))
    made, found = RunFolder(run(recipe, work / "ml-100k", until="items")), {}
    data = Dataset.load(made.data, texts=False)
    text, train = read_vectors(made.items), data.before("valid")
    for way in ("text", "ppmi", "concat", "weighted", "aligned"):
        settings = recipe.indexing.model_copy(update={"fusion": way, "collaborative_model": "ppmi"})
        source = vectors.fit_source(settings, text, train, recipe.seed)
        of = np.ascontiguousarray(source.combine(text, source.collaborative), np.float32)
        codes = residual_kmeans(of, settings.levels, settings.width, recipe.seed)[1]
        measured = measure_agreement(codes, text, recipe.seed, data.items, train)
        found[way] = {name: measured[name] for name in ("dominance", "cooccurrence_nmi", "category_nmi")}
    return found


if __name__ == "__main__":
    main()
