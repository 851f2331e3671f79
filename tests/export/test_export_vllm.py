"""vLLM serves an export as the card says, and gives the items that transformers gives; most of it vLLM starting."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: pip install 'llmrec[serve]', or [serve-cpu] without a GPU")
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # else vLLM compiles a helper for 20 s at the first request

from snippets import blocks

import llmrec
from llmrec.contracts import Request
from llmrec.decode.load import LoadedRecommender

REQUESTS = [Request(history) for history in ([3], [4, 5, 6], list(range(20, 32)), [39, 0, 1, 7])]


@pytest.fixture(scope="module")
def served(adapted: Path) -> Iterator[LoadedRecommender]:
    """What the card's snippet leaves, run in the folder."""
    names: dict[str, Any] = {}
    before = Path.cwd()
    os.chdir(adapted)
    try:
        exec(blocks(adapted)["vllm"], names)
        yield names["rec"]
    finally:
        os.chdir(before)
        if "rec" in names:
            names["rec"].recommender.engine.llm.llm_engine.engine_core.shutdown()


def test_vllm_gives_the_items_of_an_export_that_transformers_gives(served: LoadedRecommender, adapted: Path) -> None:
    ours, theirs = (one.recommender.rank(REQUESTS, 10) for one in (llmrec.load(adapted), served))
    assert (ours.items == theirs.items).all()
    np.testing.assert_allclose(theirs.scores, ours.scores, rtol=0, atol=1e-4)
