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

HISTORIES = [[3], [4, 5, 6], list(range(20, 32)), [39, 0, 1, 7]]


@pytest.fixture(scope="module")
def said(adapted: Path) -> Iterator[dict[str, Any]]:
    """The names that the card's snippets leave, run in the folder: llmrec's, then vLLM's."""
    names: dict[str, Any] = {}
    parts, before = blocks(adapted), Path.cwd()
    os.chdir(adapted)
    try:
        exec(parts["llmrec"] + parts["vllm"], names)
        yield names
    finally:
        os.chdir(before)
        if "engine" in names:
            names["engine"].llm.llm_engine.engine_core.shutdown()


def test_vllm_gives_the_items_of_the_export_that_transformers_gives(said: dict[str, Any]) -> None:
    recommender, engine = said["rec"], said["engine"]
    ours = recommender.rank(HISTORIES, 10, beams=20)
    theirs = engine.rank(recommender.prompts(HISTORIES), 10, beams=20)
    assert (ours.items == theirs.items).all()
    np.testing.assert_allclose(theirs.scores, ours.scores, rtol=0, atol=1e-4)


def test_the_card_s_own_request_is_answered_alike_by_both(said: dict[str, Any]) -> None:
    expected = said["rec"].rank([[0, 1, 2]], 5)
    assert (said["found"].items == expected.items).all()
