"""Generated vectors through residual k-means: `python -m llmrec.bench.indexing_worker ITEMS DIM LEVELS WIDTH`."""

from __future__ import annotations

import json
import resource
import sys
from time import perf_counter

from llmrec.bench.indexing import drawn
from llmrec.indexing import rq_kmeans


def main(items: int, dim: int, levels: int, width: int) -> None:
    """Fit and encode; print seconds and the peak of memory, vectors included, as JSON."""
    vectors = drawn(items, dim)
    begin = perf_counter()
    codes, _ = rq_kmeans.fit(vectors, levels, width, 0).encode(vectors)
    seconds = perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(json.dumps({"items": len(codes), "seconds": round(seconds, 1), "peak GiB": round(peak, 2)}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
