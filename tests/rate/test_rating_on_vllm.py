"""vLLM's ratings (its CPU build will do) beside transformers'; most of the time goes into vLLM starting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from rate_world import world

pytest.importorskip("vllm", reason="vLLM is not installed: pip install 'llmrec[serve]', or [serve-cpu] without a GPU")

from llmrec.model.base import tiny_base
from llmrec.rate.cases import render_prompts, sample_cases
from llmrec.rate.engines import TransformersRatingEngine
from llmrec.rate.ratings import TEST, RatingScale
from llmrec.rate.vllm_ratings import VllmRatingEngine

SMALL = {"dtype": "float32", "enforce_eager": True, "max_model_len": 512, "max_num_seqs": 16}


def test_vllm_has_the_probabilities_and_words_of_transformers_for_stars_and_halves(tmp_path: Path) -> None:
    torch.manual_seed(0)
    words = ["One person's ratings, oldest first: Film ab 1 2 3 4 5 6 7 8 9 0 0.5 drama comedy"] * 3
    model, tokenizer = tiny_base("llama", words, tmp_path / "base", tied=False)
    head = model.get_output_embeddings().weight.data
    head *= 20  # probabilities differ, and no layer makes rounding any larger
    pieces = tokenizer.convert_ids_to_tokens(range(len(head)))
    head[[place for place, piece in enumerate(pieces) if piece.startswith("<0x")]] = 0
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    log = world(tmp_path / "w")
    prompts = render_prompts(log, sample_cases(log, TEST, 6, 4, 0))
    fast = VllmRatingEngine.open("tiny", tmp_path / "base", log.scale, **SMALL)
    for scale in (log.scale, RatingScale(0.5, 5, 0.5)):
        found = dict(VllmRatingEngine("tiny", fast.llm, scale, max_tokens=5).answer(prompts))
        wanted = dict(TransformersRatingEngine("tiny", model, tokenizer, scale, max_tokens=5).answer(prompts))
        for number in wanted:
            np.testing.assert_allclose(found[number].shares, wanted[number].shares, rtol=1e-3, atol=1e-5)
            said = found[number].text.strip()  # engines differ in leading spaces, and in bytes that are no characters
            assert said and said == wanted[number].text.strip()
            assert found[number].mass == pytest.approx(wanted[number].mass, rel=1e-3)
    fast.llm.llm_engine.engine_core.shutdown()
