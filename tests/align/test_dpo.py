"""Training on preferences: what it starts from, passes, processes, kills, adapters, and a stage of a run."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from aligned_models import family, gradients
from jobs import job_of
from shared_dpo import STAGE, in_two_processes, main, pair_batches, train
from torch import Tensor

from llmrec import resources
from llmrec.align.context import AlignmentContext, PositionRows
from llmrec.align.dpo import PairBatches, objective, reference_logprobs
from llmrec.align.shared_prefix import answer_logprobs
from llmrec.data.dataset import Dataset
from llmrec.errors import ModelError
from llmrec.files import hash_folder, read_json
from llmrec.indexing.catalogue import Catalogue
from llmrec.model import folder as model_folder
from llmrec.model.adapt import adapt
from llmrec.recipe import Model, Recipe
from llmrec.recipe_file import load
from llmrec.run.execute import run
from llmrec.train import loop
from llmrec.train.packing import IGNORE


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    return train(tmp_path_factory.mktemp("whole"))


def assert_close(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    for name, value in one.items():
        torch.testing.assert_close(value, other[name], rtol=1e-3, atol=1e-5)


def test_passes_of_one_take_the_step_of_four(whole: dict[str, Tensor], tmp_path: Path) -> None:
    assert_close(whole, train(tmp_path, gradient_accumulation=4))
    assert not torch.equal(whole["lm_head.weight"], family("llama").state_dict()["lm_head.weight"])


def test_a_killed_training_ends_with_the_weights_of_a_whole_one(whole: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, stop_at=7)
    after = train(tmp_path)
    assert all(torch.equal(value, after[name]) for name, value in whole.items())


def test_two_processes_take_the_steps_of_one(whole: dict[str, Tensor], tmp_path: Path) -> None:
    in_two_processes(main, tmp_path)
    assert_close(whole, torch.load(tmp_path / "weights.pt"))


@pytest.mark.parametrize("method", ["full", "lora", "qlora", "embeddings-only"])
def test_every_way_to_adapt_begins_at_the_reference_and_learns_to_prefer(method: str, tmp_path: Path) -> None:
    """At the first step the loss is the logarithm of the number of answers: the reference is the model itself."""
    plain, new = family("llama", hidden_size=64, head_dim=32), np.arange(20, 60)
    found, settings = pair_batches(plain), Model.model_validate({"base": "x/llama", "rank": 4})
    found = PairBatches(found.prompts[:8], np.where(found.codes >= 0, found.codes % 40 + 20, -1), found.items[:8])
    model = adapt(plain, settings, method, new)  # type: ignore[arg-type]
    found.reference = reference_logprobs(model, found)
    stage = STAGE.model_copy(update={"batch": 8, "epochs": 10, "sft": 0.0, "learning_rate": 2e-2})
    loop.train(model, PositionRows(8), stage, objective(stage, found), 0, tmp_path, 0.0, lambda done: None)
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["accuracy"] > 0.8 and lines[-1]["margin"] > 1
    first = family("llama", hidden_size=64, head_dim=32)
    again = adapt(first, settings, method, new)  # type: ignore[arg-type]
    again.train()
    loop._disable_dropout(again)
    with torch.no_grad():
        batch = found.batch(np.arange(8)) | {"labels": torch.tensor([[IGNORE, 0]] * 8)}
        output = objective(stage, found).forward(again, **batch)
    assert output.loss is not None and output.loss.item() == pytest.approx(math.log(4), abs=1e-4)


def test_a_look_in_evaluation_mode_leaves_the_gradients_of_a_quantized_model_as_they_were() -> None:
    plain, new = family("llama", hidden_size=64, head_dim=32), np.arange(20, 60)
    model = adapt(plain, Model.model_validate({"base": "x/llama", "rank": 4}), "qlora", new)
    loop._disable_dropout(model)
    ids, found = torch.arange(1, 12)[None], []
    for _ in range(2):
        found.append(gradients(model.train(), model(input_ids=ids).logits[..., 30].sum()))
        with torch.no_grad():
            model.eval()(input_ids=ids)
    assert found[0] and all(torch.equal(value, found[1][name]) for name, value in found[0].items())


def test_the_reference_of_rows_does_not_depend_on_who_shares_a_batch() -> None:
    model = family("qwen3")
    found = pair_batches(model)
    for row in range(0, 14, 5):
        alone = answer_logprobs(model, found.batch(np.array([row]))).sum(2)
        torch.testing.assert_close(torch.from_numpy(found.reference[row : row + 1]), alone, rtol=1e-5, atol=1e-5)


PREFER = "{method: s-dpo, batch: 16, learning_rate: 1.0e-3, epochs: 0.4, save_every: 5, max_positions: 5, KEYS}"
REJECTED = "negatives: {random: 1, popular: 1, teacher: 1, beams: 2}, validation: {every: 6, users: 20}"


def recipe(tiny_run: Path, keys: str = REJECTED) -> Recipe:
    first = "{method: sft, epochs: 8, batch: 8, learning_rate: 3.0e-3, save_every: 20}"
    return load(tiny_run / "recipe.yaml", [f"train=[{first}, {PREFER.replace('KEYS', keys)}]"])


@pytest.fixture(scope="module")
def aligned(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run with a stage of S-DPO behind its training."""
    out = tmp_path_factory.mktemp("aligned") / "run"
    shutil.copytree(tiny_run, out)
    return run(recipe(tiny_run), out)


def test_a_stage_keeps_its_pairs_and_is_evaluated(aligned: Path) -> None:
    folder = aligned / "train-2-s-dpo"
    assert (aligned / "train-1-sft" / "model").is_dir() and (aligned / "evaluate-test" / "metrics.json").is_file()
    pairs, dataset = pq.read_table(folder / "pairs.parquet").to_pylist(), Dataset.load(aligned / "data")
    train = {user: row.tolist() for user, row in zip(dataset.user_ids, dataset.before("valid"), strict=True)}
    for pair in pairs:
        history = train[pair["user_id"]]
        rejected = [dataset.item_ids.index(item) for item in pair["rejected"]]
        assert history[pair["place"]] == dataset.item_ids.index(pair["chosen"])
        assert len(set(rejected)) == 5 and not set(rejected) & set(history[pair["place"] :])
        assert len(pair["reference"]) == 6 and max(pair["reference"]) < 0
        assert sorted(set(pair["kinds"])) <= ["beams", "popular", "random", "teacher"]
    facts = read_json(folder / "made.json")["facts"]
    assert facts["positions"] == len(pairs) and facts["pairs"] == 5 * len(pairs)
    assert facts["left out"]["taken later by the same user"] > 0
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert {"valid_ndcg@10", "valid_hr@50", "valid_coverage@10"} <= set(lines[0]) and lines[0]["step"] == 0
    assert "margin" in lines[-1] or "margin" in lines[-2]


def test_the_reference_is_the_model_before_the_stage(aligned: Path) -> None:
    pairs = pq.read_table(aligned / "train-2-s-dpo" / "pairs.parquet")
    previous = aligned / "train-1-sft" / "model"
    catalogue = Catalogue.load(aligned / "catalogue")
    number = {item: row for row, item in enumerate(Dataset.load(aligned / "data").item_ids)}
    job = job_of(recipe(aligned), aligned, aligned, stage=recipe(aligned).train[1], previous=previous)
    context = AlignmentContext.load(job, catalogue)
    items = [
        [number[item] for item in (chosen, *rejected)]
        for chosen, rejected in zip(pairs["chosen"].to_pylist(), pairs["rejected"].to_pylist(), strict=True)
    ]
    again = PairBatches(context.prompts, context.item_tokens, np.array(items))
    values = reference_logprobs(model_folder.load_model(previous), again)
    np.testing.assert_allclose(np.array(pairs["reference"].to_pylist()), values, atol=1e-4)


def test_a_killed_stage_ends_with_the_same_files(tiny_run: Path, aligned: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_run, tmp_path / "run")

    def tell(stage: str, done: float) -> None:
        if stage == "train" and done > 0.86:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(recipe(tiny_run), tmp_path / "run", "train", tell)
    assert list((tmp_path / "run" / ".work").glob("*/checkpoint-*/whole"))
    run(recipe(tiny_run), tmp_path / "run", "train")
    one, other = (hash_folder(out / "train-2-s-dpo" / "model") for out in (aligned, tmp_path / "run"))
    assert one == other


@pytest.mark.slow("a base of 135 million weights, half a minute")
@pytest.mark.skipif(not resources.is_downloaded("smollm2-135m-instruct"), reason="`llmrec setup` fetches SmolLM2")
def test_smollm2_in_four_bits_learns_to_prefer_in_few_steps(world: Path, tmp_path: Path) -> None:
    """The real embedded base: rows of item tokens first, then S-DPO on adapters over a base held in 4 bits."""
    base = ["model.base=embedded:smollm2-135m-instruct", "model.rank=4", "model.init_tokens=text"]
    small = ["data.max_users=6", "indexing.width=4", "tasks.history=3", "tasks.item_to_text=0", "tasks.text_to_item=0"]
    first = "{adapt: embeddings-only, epochs: 0.05, batch: 2, pack_length: 64, warmup: 0}"
    more = "method: s-dpo, adapt: qlora, learning_rate: 1.0e-3, warmup: 0, max_positions: 1, batch: 2, epochs: 2"
    stages = f"train=[{first}, {{{more}, negatives: {{random: 2, beams: 1}}}}]"
    folder = run(load(world, [*base, *small, stages]), tmp_path / "run", "train") / "train-2-s-dpo"
    facts = read_json(folder / "made.json")["facts"]
    assert facts["positions"] == 6 and facts["pairs"] == 18 and facts["steps"] == 6
    assert facts["trained parameters"] < 3_000_000
    assert (folder / "adapter").is_dir() and (folder / "model" / "config.json").is_file()
    line = json.loads((folder / "log.jsonl").read_text().splitlines()[-1])
    assert line["loss"] < math.log(4) and line["chosen gain"] != 0


def test_a_model_of_another_catalogue_is_no_reference(tiny_run: Path) -> None:
    catalogue = Catalogue.load(tiny_run / "catalogue")
    other = Catalogue.of(catalogue.items, catalogue.codes[::-1] % 8, [8] * catalogue.codes.shape[1])
    stage, previous = recipe(tiny_run).train[1], tiny_run / "train-1-sft" / "model"
    job = job_of(recipe(tiny_run), tiny_run, tiny_run, stage=stage, previous=previous)
    with pytest.raises(
        ModelError,
        match=r"reference model of this stage, was trained on the catalogue .*its vocabulary names other items",
    ):
        AlignmentContext.load(job, other)
