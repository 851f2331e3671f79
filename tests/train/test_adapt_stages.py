"""Stages of a run that train less, then more; and the ways of training through the whole pipeline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_bases import WORDS
from transformers import AutoModelForCausalLM

from llmrec import load, resources
from llmrec.files import read_json
from llmrec.model.base import tiny_base
from llmrec.recipe_file import load as read
from llmrec.run.execute import run
from llmrec.seed import seed_everything


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untied tiny base as a folder."""
    folder = tmp_path_factory.mktemp("base")
    seed_everything(0)
    model, tokenizer = tiny_base("Qwen/Qwen3-0.6B", WORDS, folder / "tokenizer", tied=False)
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    return folder / "model"


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict()


def facts(stage: Path) -> dict[str, Any]:
    return read_json(stage / "made.json")["facts"]


def test_rows_first_then_four_bits_and_adapters(world: Path, base: Path, tmp_path: Path) -> None:
    """Stage 1 changes rows of item tokens alone; stage 2 goes on from it and tells what its merge costs."""
    stages = "train=[{adapt: embeddings-only, epochs: 1, batch: 8}, {adapt: qlora, epochs: 1, batch: 8}]"
    recipe = read(world, [f"model.base={base}", "model.init_tokens=centroids", "model.rank=4", stages])
    out = run(recipe, tmp_path / "run", until="train")
    first, second, start = (weights(folder) for folder in [*(out / f"train-{n}-sft" / "model" for n in (1, 2)), base])
    rows = {"model.embed_tokens.weight", "lm_head.weight"}
    for key, value in start.items():
        for stage in (first, second):
            if key in rows:
                assert torch.equal(stage[key][: len(value) - 64], value[: len(value) - 64])
        assert key in rows or torch.equal(first[key], value)
    assert any(not torch.equal(second[key], first[key]) for key in start if key not in rows)
    for number in (1, 2):
        told = facts(out / f"train-{number}-sft")
        assert set(told["new rows"]) == {"input", "output"}
        assert all(side["unmoved"] == 0 for side in told["new rows"].values())
    assert 0 < facts(out / "train-2-sft")["merge"]["mean logit difference"] < 1
    assert "merge" not in facts(out / "train-1-sft")
    assert len({item for item, _ in load(out).recommend(history=["i1", "i2"], k=10)}) == 10


@pytest.mark.slow("a base of 135 million weights, 11 s")
@pytest.mark.skipif(not resources.is_downloaded("smollm2-135m-instruct"), reason="`llmrec setup` fetches SmolLM2")
def test_smollm2_for_real_by_adapters_in_few_steps(world: Path, tmp_path: Path) -> None:
    """The real embedded base and its own chat template: new rows move, the rest of the vocabulary stays."""
    base = ["model.base=embedded:smollm2-135m-instruct", "model.adapt=lora", "model.init_tokens=text"]
    small = ["data.max_users=8", "indexing.width=4", "tasks.history=3", "tasks.item_to_text=0", "tasks.text_to_item=0"]
    stage = "train=[{epochs: 0.1, batch: 2, pack_length: 64, precision: bf16, warmup: 0}]"
    out = run(read(world, [*base, *small, stage]), tmp_path / "run", until="train")
    told = facts(out / "train-1-sft")
    assert 2 <= told["steps"] <= 5
    assert told["new rows"]["input"]["unmoved"] == 0 and told["new rows"]["input"]["mean distance"] > 0
    assert told["trained parameters"] < told["parameters"] / 20
