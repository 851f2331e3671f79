"""The loop: passes, order, validation and its early end, numbers that are none, memory, trackers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.data_loader import SeedableRandomSampler
from jobs import job_of
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from llmrec.errors import ModelError
from llmrec.files import hash_folder
from llmrec.recipe import Recipe, Sft
from llmrec.train import log, loop, sft
from llmrec.train.callbacks import Measure, newest_checkpoint
from llmrec.train.encode import Encoded
from llmrec.train.job import TrainContext
from llmrec.train.packing import Filled, Order, PackedRows

RARE = 49  # a token that one example alone holds


def model(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, max_position_embeddings=64, tie_word_embeddings=True, **shape))


def packed(count: int = 30, seed: int = 0) -> PackedRows:
    """Examples of unlike length, one a row."""
    draw = np.random.default_rng(seed)
    parts = [Encoded(draw.integers(1, RARE, n), draw.random(n) < 0.6) for n in draw.integers(3, 15, count)]
    return PackedRows([Encoded(p.tokens, np.append(p.supervised[:-1], True)) for p in parts], 2, draw)


def weights(llama: Any) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in llama.state_dict().items()}


def trained(folder: Path, rows: PackedRows, dropout: float = 0.0, **given: Any) -> dict[str, Tensor]:
    llama = model()
    settings = {"epochs": 1, "learning_rate": 1e-2, "warmup": 0.0} | given
    sft.train(llama, rows, Sft(**settings), 0, folder, dropout, lambda done: None)
    return weights(llama)


@pytest.mark.parametrize(
    "given", [{"gradient_accumulation": 8}, {"gradient_accumulation": 2, "gradient_checkpointing": True}]
)
def test_a_batch_of_eight_trains_like_eight_passes_of_one(given: dict[str, Any], tmp_path: Path) -> None:
    """Rows hold unlike numbers of supervised tokens, and 29 do not divide: the mean must be over tokens of the step."""
    rows = packed(29)
    whole = trained(tmp_path / "whole", rows, batch=8, epochs=2)
    cut = trained(tmp_path / "cut", rows, batch=8, epochs=2, **given)
    for name, weight in whole.items():
        torch.testing.assert_close(weight, cut[name], rtol=1e-3, atol=1e-5)
    assert any(not torch.equal(weight, model().state_dict()[name]) for name, weight in whole.items())


def test_checkpointed_activations_change_no_step_even_with_dropout(tmp_path: Path) -> None:
    one, other = (trained(tmp_path / str(on), packed(), 0.2, batch=5, gradient_checkpointing=on) for on in (0, 1))
    for name, weight in one.items():
        torch.testing.assert_close(weight, other[name], rtol=1e-5, atol=1e-6)


def test_plain_products_train_as_the_fused_kernel_does_and_are_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, found, plain = list[str](), [], loop._plain_attention
    for name, most in (("fused", 0), ("plain", 2**20)):
        monkeypatch.setattr(loop, "_plain_attention", partial(plain, most=most))
        llama = model()
        settings = Sft(epochs=1, learning_rate=1e-2, batch=5)
        told = partial(lambda llama, done: seen.append(llama.config._attn_implementation), llama)
        sft.train(llama, packed(), settings, 0, tmp_path / name, 0.0, told)
        assert llama.config._attn_implementation == "sdpa"
        found.append(weights(llama))
    assert set(seen[: len(seen) // 2]) == {"sdpa"} and set(seen[len(seen) // 2 :]) == {"eager"}
    for name, weight in found[0].items():
        torch.testing.assert_close(weight, found[1][name], rtol=1e-3, atol=1e-5)


def test_dropout_takes_the_share_it_is_told_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    values = torch.ones(200_000, requires_grad=True)
    found = loop._drop(values, 0.3)
    assert abs(float((found == 0).float().mean()) - 0.3) < 4 * (0.21 / 200_000) ** 0.5
    torch.testing.assert_close(found[found > 0], torch.full_like(found[found > 0], 1 / 0.7))
    [slope] = torch.autograd.grad(found.sum(), [values])
    torch.testing.assert_close(slope, found.detach())


@pytest.mark.parametrize("rows", [1, 12, 13])
def test_the_order_is_accelerates_shuffle_and_steps_are_full_where_they_are_cut(rows: int) -> None:
    whole, cut = Order(rows, 4, seed=5), Order(rows, 4, seed=5, parts=2)
    for epoch in range(3):
        truth = SeedableRandomSampler(range(rows), generator=torch.Generator(), data_seed=5)
        for sampler in (whole, cut, truth):
            sampler.set_epoch(epoch)
        assert list(whole) == list(truth)
        assert list(cut) == list(whole) + list(range(rows, len(cut)))
        assert len(cut) == 4 * whole.steps and len(list(cut)) == len(cut)
        steps = range(epoch * whole.steps + 1, (epoch + 1) * whole.steps + 1)
        assert [row for step in steps for row in whole.at(step)] == list(whole)


def test_past_the_last_row_stands_an_empty_one() -> None:
    rows = Filled(packed(3))
    assert len(rows) == 3
    assert {name: value.tolist() for name, value in rows[3].items()} == {
        "input_ids": [0],
        "position_ids": [0],
        "labels": [-100],
    }


def test_a_loss_that_is_no_number_is_told_with_its_rows_and_leaves_a_good_checkpoint(tmp_path: Path) -> None:
    llama, rows = model(), packed()
    bad = rows.rows[17][0]
    rows.examples[bad].tokens[0] = RARE
    order = Order(len(rows), 3, seed=0)
    step = next(step for step in range(1, 11) if 17 in order.at(step))
    llama.get_input_embeddings().register_forward_hook(
        lambda module, given, out: out.masked_fill((given[0] == RARE)[..., None], float("nan"))
    )
    settings = Sft(epochs=1, batch=3, learning_rate=1e-3, save_every=2)
    context = TrainContext("train.0", describe=lambda rows: f"rows {rows}")
    with pytest.raises(ModelError) as told:
        sft.train(llama, rows, settings, 0, tmp_path, 0.0, lambda done: None, context)
    assert f"the loss is not finite at step {step} of 10 (rows {order.at(step)})" in str(told.value)
    assert "Lower train.0.learning_rate (now 0.001) or raise train.0.warmup (now 0.05)" in str(told.value)
    kept = newest_checkpoint(tmp_path)
    assert kept is not None and kept.name == f"checkpoint-{(step - 1) // 2 * 2}"
    assert str(kept) in str(told.value)
    assert all(value.isfinite().all() for value in LlamaForCausalLM.from_pretrained(kept).state_dict().values())


def test_weights_that_are_no_numbers_are_never_saved(tmp_path: Path) -> None:
    """A gradient may break at a step whose own loss was still a number."""
    llama, calls = model(), []
    llama.model.norm.weight.register_hook(
        lambda gradient: calls.append(1) or (gradient * float("nan") if len(calls) == 4 else gradient)
    )
    settings = Sft(epochs=1, batch=3, save_every=2)
    with pytest.raises(ModelError, match=r"the weights are not finite after step 4 of 10 \(rows "):
        sft.train(llama, packed(), settings, 0, tmp_path, 0.0, lambda done: None)
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-2"]


def test_rows_are_described_by_their_users_and_tasks(tiny_run: Path) -> None:
    from llmrec.tasks import examples

    table = examples.load(tiny_run / "tasks")
    draw = np.random.default_rng(0)
    rows = PackedRows([Encoded(np.arange(3), np.ones(3, bool))] * table.num_rows, 9, draw)
    held = [table.slice(example, 1).to_pylist()[0] for row in (4, 2) for example in rows.rows[row]]
    said = sft._describe(rows, tiny_run / "tasks", [4, 2])
    assert said.startswith("rows 4, 2; users ")
    assert all(row["task"] in said and (row["user_id"] or "") in said for row in held)


def _no_memory_on_the_cpu(done: float) -> None:
    torch.empty(2**60, dtype=torch.uint8)


def _no_memory_on_the_gpu(done: float) -> None:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore lines.")


@pytest.mark.parametrize("progress", [_no_memory_on_the_cpu, _no_memory_on_the_gpu])
def test_out_of_memory_says_what_to_change_in_the_recipe(progress: Callable[[float], None], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"out of memory in train\.1 \(.*memory.*\)\. In the recipe") as told:
        sft.train(model(), packed(), Sft(batch=4), 0, tmp_path, 0.0, progress, TrainContext("train.1", "full"))
    for key in (
        "gradient_accumulation (now 1",
        "gradient_checkpointing: true",
        "precision: bf16",
        "pack_length",
        "batch (now 4)",
    ):
        assert f"train.1.{key}" in str(told.value)
    assert "tasks.history" in str(told.value) and "model.adapt: lora" in str(told.value)
    assert "\n" not in str(told.value)


def test_another_error_of_torch_stays_what_it_is(tmp_path: Path) -> None:
    def fail(done: float) -> None:
        torch.zeros(2) @ torch.zeros(3)

    with pytest.raises(RuntimeError, match="inconsistent tensor size"):
        sft.train(model(), packed(), Sft(batch=4), 0, tmp_path, 0.0, fail)


EVERY = {"batch": 3, "epochs": 3, "save_every": 7, "validation": {"every": 4, "patience": 2}}  # 30 steps
KEY = "valid_ndcg@10"


def near(target: dict[str, Tensor]) -> Measure:
    """A figure that is best at given weights; it draws random numbers, as a careless measure might."""

    def measure(llama: Any) -> dict[str, float]:
        torch.rand(100)
        assert not llama.training
        away = sum((value - target[name]).norm() for name, value in llama.state_dict().items())
        return {"ndcg@10": -float(away)}

    return measure


def run(work: Path, measure: Measure, stop_at: int = 0) -> tuple[loop.Trained, dict[str, Tensor]]:
    """Train with early stopping; Ctrl-C comes after the step `stop_at`."""
    llama = model()

    def progress(done: float) -> None:
        if stop_at and round(done * 30) == stop_at:
            raise KeyboardInterrupt

    context = TrainContext(measure=measure)
    done = sft.train(llama, packed(), Sft(**EVERY), 0, work, 0.1, progress, context)
    return done, weights(llama)


def logged(work: Path) -> list[dict[str, float]]:
    lines = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.fixture(scope="module")
def twelfth(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Tensor]:
    """The weights after step 12 of a training that nobody validates."""
    llama, found = model(), {}

    def progress(done: float) -> None:
        if round(done * 30) == 12:
            found.update(weights(llama))

    settings = Sft(**EVERY | {"validation": {"every": 0}})
    sft.train(llama, packed(), settings, 0, tmp_path_factory.mktemp("twelfth"), 0.1, progress)
    return found


def test_training_stops_when_patience_ends_and_gives_the_best_weights(
    twelfth: dict[str, Tensor], tmp_path: Path
) -> None:
    """Measuring changes no step: the weights of step 12 are those of a training without validation, bit for bit."""
    done, after = run(tmp_path, near(twelfth))
    assert done.facts == {"steps": 20, "processes": 1, "best step": 12, "valid ndcg@10": 0.0}
    assert all(torch.equal(value, twelfth[name]) for name, value in after.items())
    lines = logged(tmp_path)
    assert [line["step"] for line in lines if KEY in line] == [4, 8, 12, 16, 20]
    assert [line["step"] for line in lines if "loss" in line] == [10, 20]


@pytest.mark.parametrize("stop_at", [9, 13, 15, 19])
def test_an_interrupted_training_stops_where_an_uninterrupted_one_does(
    stop_at: int, twelfth: dict[str, Tensor], tmp_path: Path
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", near(twelfth), stop_at)
    done, after = run(tmp_path / "broken", near(twelfth))
    whole, _ = run(tmp_path / "whole", near(twelfth))
    assert done.facts == whole.facts
    assert all(torch.equal(value, twelfth[name]) for name, value in after.items())
    # a line's loss is the mean since the line before it, or since the training was gone on with
    lines = [[line | {"loss": "loss" in line} for line in logged(tmp_path / name)] for name in ("broken", "whole")]
    assert lines[0] == lines[1]


def test_a_training_that_had_stopped_takes_no_further_step(twelfth: dict[str, Tensor], tmp_path: Path) -> None:
    """Killed between its end and the writing of the model, with a checkpoint of the very last step."""
    llama = model()
    settings = Sft(**EVERY | {"save_every": 20})
    context = TrainContext(measure=near(twelfth))
    sft.train(llama, packed(), settings, 0, tmp_path, 0.1, lambda done: None, context)
    before, again = logged(tmp_path), model()
    sft.train(again, packed(), settings, 0, tmp_path, 0.1, lambda done: pytest.fail("a step"), context)
    assert all(torch.equal(value, twelfth[name]) for name, value in again.state_dict().items())
    assert logged(tmp_path) == before


@pytest.mark.parametrize("epochs", [0.5, 1.5])
def test_a_part_of_an_epoch_that_was_done_gets_no_further_step(epochs: float, tmp_path: Path) -> None:
    """Killed after the checkpoint of the last step, which lies within an epoch."""
    settings = Sft(epochs=epochs, batch=3, learning_rate=1e-2, save_every=50)
    first, again = model(), model()
    done = sft.train(first, packed(), settings, 0, tmp_path, 0.1, lambda done: None)
    before = logged(tmp_path)
    once_more = sft.train(again, packed(), settings, 0, tmp_path, 0.1, lambda done: pytest.fail("a step"))
    assert once_more.facts == done.facts
    assert logged(tmp_path) == before
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in first.state_dict().items())


def test_checkpoints_of_another_recipe_are_thrown_away(tmp_path: Path) -> None:
    job = job_of(Recipe(), tmp_path, tmp_path / "work", key="one")
    job.reset_workdir()
    (tmp_path / "work" / "checkpoint-20").mkdir()
    job.reset_workdir()
    assert (tmp_path / "work" / "checkpoint-20").is_dir()
    replace(job, key="other").reset_workdir()
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["key"]


def test_trackers_write_into_their_folder_and_change_nothing(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard comes with the extra `train`")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for name, names in (("with", None), ("without", [])):
        llama = model()
        context = TrainContext(logs=tmp_path / "logs" / name, report_to=names)
        sft.train(llama, packed(), Sft(batch=3), 0, tmp_path / name, 0.1, lambda done: None, context)
        llama.save_pretrained(tmp_path / f"model-{name}")
        found[name] = hash_folder(tmp_path / f"model-{name}")
    assert found["with"] == found["without"]
    assert not (tmp_path / "logs" / "without").exists()
    events = EventAccumulator(str(tmp_path / "logs" / "with")).Reload().Scalars("train/loss")
    assert [event.step for event in events] == [10]
    assert events[0].value == pytest.approx(logged(tmp_path / "with")[0]["loss"], rel=1e-6)


def test_a_tracker_that_is_not_installed_is_named_with_what_to_type() -> None:
    assert log.chosen_trackers([]) == []
    absent = [name for name in ("wandb", "trackio", "mlflow") if not log.resources.is_installed(name)]
    if not absent:
        pytest.skip("every tracker is installed here")
    with pytest.raises(ModelError, match=rf"launch\.report_to names {absent[0]}, .*pip install {absent[0]}"):
        log.chosen_trackers([absent[0]])


def test_a_training_of_three_steps_has_a_log(tmp_path: Path) -> None:
    told: list[float] = []
    sft.train(model(), packed(3), Sft(epochs=1, batch=1), 0, tmp_path, 0.0, told.append)
    assert [line["step"] for line in logged(tmp_path)] == [3]
    assert told == [pytest.approx(step / 3) for step in (1, 2, 3)]
