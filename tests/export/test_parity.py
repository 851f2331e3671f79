"""What was trained and what is exported are one model: base + adapters = merged weights, run = export."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

import llmrec
from llmrec.contracts import Request
from llmrec.decode.generative import TransformersEngine
from llmrec.export import export
from llmrec.model.vocabulary import token_ids

REQUESTS = [Request(history) for history in ([3], [4, 5, 6], list(range(20, 32)), [39, 0, 1, 7])]


@pytest.fixture(scope="module", params=["lora", "qlora", "embeddings-only"])
def exported(request: pytest.FixtureRequest, learnt: Callable[[str], Path], tmp_path_factory: Any) -> Path:
    """An export of what each way of training that keeps adapters has made."""
    return export(learnt(request.param), tmp_path_factory.mktemp("exports") / request.param)


@pytest.fixture(scope="module")
def with_adapters(base: Path, exported: Path) -> Any:
    """The base, grown as the card says, with the exported adapters on it; plain weights, as the merge went into."""
    from peft import PeftModel

    rows = AutoModelForCausalLM.from_pretrained(exported).config.vocab_size
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.resize_token_embeddings(rows, mean_resizing=False)
    return PeftModel.from_pretrained(model, exported / "adapter").eval()


def test_base_with_adapters_and_merged_weights_give_the_same_logits(with_adapters: Any, exported: Path) -> None:
    merged, recommender = AutoModelForCausalLM.from_pretrained(exported).eval(), llmrec.load(exported).recommender
    known = len(recommender.tokenizer)  # rows beyond it are padding, random in both
    with torch.no_grad():
        for request in REQUESTS:
            tokens = torch.tensor([recommender.prompt(request)])
            found, wanted = merged(tokens).logits[..., :known], with_adapters(tokens).logits[..., :known]
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)
            with with_adapters.disable_adapter():  # else the base alone would do as well, and this would test nothing
                assert (with_adapters(tokens).logits[..., :known] - found).abs().max() > 0.1


def test_base_with_adapters_and_merged_weights_recommend_the_same_items(with_adapters: Any, exported: Path) -> None:
    recommender = llmrec.load(exported).recommender
    catalogue, wanted = recommender.catalogue, recommender.rank(REQUESTS, 10)
    tokens = token_ids(recommender.tokenizer, catalogue.tokens)
    recommender.engine = TransformersEngine(with_adapters, catalogue.trie, tokens)
    found = recommender.rank(REQUESTS, 10)
    assert (found.items == wanted.items).all()
    np.testing.assert_allclose(found.scores, wanted.scores, rtol=0, atol=1e-4)
    with with_adapters.disable_adapter():
        assert (recommender.rank(REQUESTS, 10).items != wanted.items).any()


def test_the_card_tells_what_merging_into_the_plain_base_cost(exported: Path) -> None:
    told = "loss merged" in (exported / "README.md").read_text()
    assert told == (exported.name == "qlora")


@pytest.mark.parametrize("kind", ["adapted", "scratch", "mixed"])
def test_a_run_and_its_export_recommend_the_same_to_the_last_bit(kind: str, request: pytest.FixtureRequest) -> None:
    run = request.getfixturevalue({"adapted": "adapted_run", "scratch": "tiny_run", "mixed": "mixed_run"}[kind])
    exported = request.getfixturevalue(kind)
    ours, theirs = (llmrec.load(folder).recommender.rank(REQUESTS, 10) for folder in (run, exported))
    assert (ours.items == theirs.items).all()
    assert (ours.scores == theirs.scores).all()
    assert llmrec.load(run).recommend(["i3", "i4"]) == llmrec.load(exported).recommend(["i3", "i4"])


def test_an_export_of_an_ensemble_is_not_its_language_model_alone(scratch: Path, mixed: Path) -> None:
    alone, together = (llmrec.load(folder).recommend(["i3", "i4"]) for folder in (scratch, mixed))
    assert alone != together
