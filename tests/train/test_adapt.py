"""Every way of training, on every family, tied and untied: what trains, what stays, what is merged, what is decoded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_bases import FAMILIES, base, catalogue, examples, train
from transformers import PreTrainedModel

from llmrec.decode.generative import Generative, TransformersEngine
from llmrec.decode.load import LoadedRecommender
from llmrec.model import folder as model_folder
from llmrec.model.adapt import adapt, trains_base_rows
from llmrec.model.embeddings import Snapshot, check_embeddings, embedding_weights
from llmrec.model.merge import merge_adapters
from llmrec.model.vocabulary import MENTION, token_ids
from llmrec.recipe import Adapt, Model
from llmrec.train.encode import used

METHODS: list[Adapt] = ["full", "lora", "qlora", "embeddings-only"]
CASES = [(name, tied, "lora") for name in FAMILIES for tied in (True, False)]
CASES += [
    (name, tied, method) for name, tied in (("qwen3", True), ("phi", False)) for method in METHODS if method != "lora"
]
NOTE = model_folder.ModelMeta(catalogue().hash, 6, "What comes next? {history}", "And then? {history}")


def settings(method: Adapt, **given: Any) -> Model:
    return Model(base="somebody/base", adapt=method, rank=4, **given)


def facts_of(
    before: Snapshot, plain: PreTrainedModel, new: np.ndarray, tokenizer: Any, chosen: Model
) -> dict[str, Any]:
    spare = np.isin(np.arange(len(new)), catalogue().codes, invert=True)
    names = [*catalogue().tokens, MENTION]
    trained = trains_base_rows(chosen, None)
    return check_embeddings(before, plain, new, names, used(examples(tokenizer), new), spare, trained)


def weights(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


@pytest.mark.parametrize(("name", "tied", "method"), CASES)
def test_add_tokens_train_merge_decode(name: str, tied: bool, method: Adapt, tmp_path: Path) -> None:
    model, tokenizer, new = base(name, tied, tmp_path / "tokenizer")
    chosen, before, start = settings(method), Snapshot.of(model, new), weights(model)
    assert len(before.new) == 2 - tied
    trained = adapt(model, chosen, None, new)
    assert_only_what_should_train(trained, method)
    train(trained, tokenizer, tmp_path / "work")
    found = recommended(trained.eval(), tokenizer)
    plain = merge_adapters(trained, tokenizer, tmp_path, lambda: base(name, tied, tmp_path / "tokenizer")[0])
    assert type(plain) is type(base(name, tied, tmp_path / "tokenizer")[0])
    facts = facts_of(before, plain, new, tokenizer, chosen)
    assert list(facts) == list(before.new)
    assert all(side["unmoved"] == 0 and side["mean distance"] > 0 for side in facts.values())
    assert_old_rows_stayed(plain, start, new)
    if method == "embeddings-only":
        rest = {key for key in start if not key.endswith(("embed_tokens.weight", "lm_head.weight"))}
        assert all(torch.equal(plain.state_dict()[key], start[key]) for key in rest)
    model_folder.save(plain, tokenizer, NOTE, tmp_path / "model")
    again = recommended(*model_folder.load(tmp_path / "model", torch.float32)[:2])
    assert len({item for item, _ in again}) == 12
    if method != "qlora":  # its merge is another model: see below
        assert [item for item, _ in again] == [item for item, _ in found]
        np.testing.assert_allclose([score for _, score in again], [score for _, score in found], atol=1e-4)


def assert_only_what_should_train(trained: Any, method: Adapt) -> None:
    for key, parameter in trained.named_parameters():
        wanted = {"full": True, "embeddings-only": "trainable_tokens_delta" in key}
        adapter = "lora_" in key or "trainable_tokens_delta" in key
        assert parameter.requires_grad == wanted.get(method, adapter), key


def assert_old_rows_stayed(plain: PreTrainedModel, start: dict[str, torch.Tensor], new: np.ndarray) -> None:
    head: Any = plain.get_output_embeddings()
    for key, rows in (
        ("model.embed_tokens.weight", embedding_weights(plain)["input"]),
        ("lm_head.weight", head.weight),
    ):
        assert torch.equal(rows[: new.min()], start[key][: new.min()])
    if head.bias is not None:
        assert torch.equal(head.bias[: new.min()], start["lm_head.bias"][: new.min()])


def recommended(model: PreTrainedModel, tokenizer: Any) -> list[tuple[str, float]]:
    """The catalogue's order after two items."""
    engine = TransformersEngine(model, catalogue().trie, token_ids(tokenizer, catalogue().tokens))
    opened = LoadedRecommender("model", Generative(tokenizer, NOTE, catalogue(), engine), catalogue(), False)
    return opened.recommend(["i1", "i2"], k=12)
