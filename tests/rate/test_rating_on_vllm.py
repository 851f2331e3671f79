"""vLLM's ratings (its CPU build will do) beside transformers'; most of the time goes into vLLM starting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from rate_world import world

pytest.importorskip("vllm", reason="vLLM is not installed: pip install 'llmrec[serve]', or [serve-cpu] without a GPU")

from llmrec.model.base import tiny_base
from llmrec.rate.cases import sample
from llmrec.rate.on_transformers import OnTransformers
from llmrec.rate.on_vllm import OnVllm
from llmrec.rate.prompts import render
from llmrec.rate.ratings import TEST
from llmrec.rate.scale import Scale

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
    prompts = render(log, sample(log, TEST, 6, 4, 0))
    fast = OnVllm.open("tiny", tmp_path / "base", log.scale, **SMALL)
    for scale in (log.scale, Scale(0.5, 5, 0.5)):
        found = dict(OnVllm("tiny", fast.llm, scale, longest=5).ask(prompts))
        wanted = dict(OnTransformers("tiny", model, tokenizer, scale, longest=5).ask(prompts))
        for number in wanted:
            np.testing.assert_allclose(found[number].shares, wanted[number].shares, rtol=1e-3, atol=1e-5)
            said = found[number].text.strip()  # engines differ in leading spaces, and in bytes that are no characters
            assert said and said == wanted[number].text.strip()
            assert found[number].mass == pytest.approx(wanted[number].mass, rel=1e-3)
    fast.llm.llm_engine.engine_core.shutdown()
