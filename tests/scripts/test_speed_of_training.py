"""The speed of training: same weights from both loops, every prefix once, counts by formula."""

from __future__ import annotations

import copy
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import train_bare as bare
import train_feeding
import train_memory
import train_setting as setting
import train_speed
from llmrec.data.dataset import Dataset
from llmrec.model.prompting import encode_prompt
from llmrec.recipe_file import load
from llmrec.tasks import templates
from llmrec.tasks.examples import next_item_prompt
from llmrec.train.packing import IGNORE, collate


@pytest.fixture(scope="module")
def ready(world: Path, tmp_path_factory: pytest.TempPathFactory) -> setting.Setting:
    """The small world, ready to be trained by nano."""
    return setting.prepare(load(world), tmp_path_factory.mktemp("bench") / "run")


@pytest.fixture(scope="module")
def histories(ready: setting.Setting) -> list[np.ndarray]:
    return list(Dataset.load(ready.run.data).before("valid"))


def test_our_trainer_and_the_bare_loop_make_the_same_weights(ready: setting.Setting) -> None:
    stage = ready.recipe.train[0].model_copy(update={"epochs": 1.0, "batch": 4, "warmup": 0.3})
    rows = train_speed._rows(ready, 7 * 4)
    models = {name: copy.deepcopy(ready.model) for name in train_speed.TRAINERS}
    for name, trainer in train_speed.TRAINERS.items():
        assert len(trainer(models[name], rows, stage)) == 7
    for (name, ours), theirs in zip(models["ours"].named_parameters(), models["bare"].parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-5, msg=name)
    start = ready.model.get_input_embeddings().weight
    assert (models["ours"].get_input_embeddings().weight - start).abs().max() > 1e-3


def test_speed_tells_a_ratio_of_the_same_tokens(ready: setting.Setting) -> None:
    found = train_speed.compare(ready, steps=4, rounds=2)
    rows = train_speed._rows(ready, 4 * ready.recipe.train[0].batch)
    labels = [rows[row]["labels"] for row in range(len(rows))]
    assert found["supervised tokens"] == sum(int((row != IGNORE).sum()) for row in labels)
    assert found["tokens"] == sum(len(row) for row in labels)
    assert 0 < found["ours over bare"]["least"] <= found["ours over bare"]["median"] <= found["ours over bare"]["most"]


def test_operations_a_token_are_those_that_torch_counts(ready: setting.Setting) -> None:
    """Eager attention looks at all pairs of positions; ours is counted without those ahead, so at twice the length."""
    length = 24
    model = copy.deepcopy(ready.model).train()
    model.set_attn_implementation("eager")  # torch's counter does not know the CPU's fused attention
    ids = torch.arange(length)[None]
    with FlopCounterMode(display=False) as counter:
        hidden = model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
        model.get_output_embeddings()(hidden).logsumexp(-1).sum().backward()
    wanted = counter.get_total_flops() / length
    assert train_speed.per_token(model, 1.0, 2 * length) == pytest.approx(wanted, rel=1e-6)


def test_prompts_from_parts_are_the_prompts_of_the_library(ready: setting.Setting, histories: list[np.ndarray]) -> None:
    prompts, wording = train_feeding.Prompts(ready), templates.load("next_item").train[0]
    for history in [histories[0][:1], histories[3], np.arange(30)]:
        text = next_item_prompt(wording, history[-ready.recipe.tasks.history :], ready.catalogue)[0]
        assert prompts(history.tolist()) == encode_prompt(ready.tokenizer, text)


def test_every_prefix_of_every_history_is_an_example_once_a_pass(
    ready: setting.Setting, histories: list[np.ndarray]
) -> None:
    prompts = train_feeding.Prompts(ready)
    feed, end = train_feeding.Prefixes(ready, histories, prompts), ready.tokenizer.eos_token_id
    steps = -(-sum(len(history) - 1 for history in histories) // ready.recipe.train[0].batch)
    seen: Counter[tuple[int, ...]] = Counter()
    for batch in map(feed.batch, range(steps, 2 * steps)):  # the second pass
        for ids, labels in zip(batch["input_ids"].tolist(), batch["labels"].tolist(), strict=True):
            kept = [token for token, label in zip(ids, labels, strict=True) if label != IGNORE]
            whole = ids[: max(place for place, label in enumerate(labels) if label != IGNORE) + 1]
            assert whole[-len(kept) :] == kept and kept[-1] == end
            seen[tuple(whole)] += 1
    wanted = Counter(
        (*prompts(history[:place].tolist()), *prompts.codes[history[place]].tolist(), end)
        for history in histories
        for place in range(1, len(history))
    )
    assert seen == wanted


def test_the_loss_of_a_padded_batch_is_that_of_its_examples_alone(ready: setting.Setting) -> None:
    prompts = train_feeding.Prompts(ready)
    parts = [([*prompts([1, 2, 3]), 7, 8], 2), ([*prompts([4]), 9, 10], 2)]
    with torch.no_grad():
        alone = [bare._loss(ready.model, *split(train_feeding.padded([part], 0))) for part in parts]
        together = bare._loss(ready.model, *split(train_feeding.padded(parts, 0)))
    torch.testing.assert_close(together, torch.stack(alone).mean())


def split(batch: bare.Batch) -> tuple[bare.Batch, torch.Tensor]:
    return {name: value for name, value in batch.items() if name != "labels"}, batch["labels"]


def test_a_race_that_is_over_is_not_run_again_and_one_that_was_stopped_goes_on(
    ready: setting.Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped: list[str] = []

    def stop(line: str) -> None:
        stopped.append(line)
        if len(stopped) == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(train_feeding, "tell", stop)
    with pytest.raises(KeyboardInterrupt):
        train_feeding.race(ready, tmp_path, 1.0, 20)
    lines: list[str] = []
    monkeypatch.setattr(train_feeding, "tell", lines.append)
    found = train_feeding.race(ready, tmp_path, 1.0, 20)
    points = [point for curve in found["curves"].values() for point in curve]
    assert len(lines) + 5 == len(points)
    for curve in found["curves"].values():
        assert [point["seconds"] for point in curve] == sorted(point["seconds"] for point in curve)
        assert curve[-1]["seconds"] >= 1.0
    count = len(lines)
    again = train_feeding.race(ready, tmp_path, 1.0, 20)
    assert again["curves"] == found["curves"] and len(lines) == count, "nothing is trained again"


def test_a_level_is_reached_at_the_first_measurement_that_is_not_below_it() -> None:
    curve = [{"seconds": float(s), "ndcg@10": v} for s, v in enumerate([0.1, 0.3, 0.2, 0.4])]
    assert [train_feeding.reached(curve, level) for level in (0.05, 0.1, 0.2, 0.35, 0.5)] == [0, 0, 1, 3, None]


def test_counts_of_new_tokens_are_those_of_the_formula(world: Path, tmp_path: Path) -> None:
    recipe = load(world, ["model.base=embedded:smollm2-135m-instruct", "model.tiny=true", "model.rank=4"])
    ready = setting.prepare(recipe, tmp_path / "run")
    found = train_memory.compare(ready)
    rows, width = ready.model.get_input_embeddings().weight.shape
    matrices = {"ours": len(ready.tokens), "whole matrices": 2 * rows, "whole matrices, kept tied": rows}
    for name, count in matrices.items():
        assert found[name]["trained parameters for tokens"] == count * width
        both = 2 * 4 * count * width  # two float32 moments of AdamW; it counts steps in a number of its own
        assert both < found[name]["optimizer bytes for tokens"] <= both + 16
    share = found["ours over whole matrices"]["trained parameters for tokens"]
    assert share == pytest.approx(len(ready.tokens) / (2 * rows), abs=1e-4)


def test_packed_rows_go_round_in_passes(ready: setting.Setting) -> None:
    feed = train_feeding.Packed(ready)
    steps = -(-len(feed.rows) // feed.size)
    batches = [feed.batch(step) for step in range(steps)]
    assert sum(len(batch["labels"]) for batch in batches) == len(feed.rows)
    everything = collate([feed.rows[row] for row in range(len(feed.rows))])
    found = Counter(tuple(row[row != 0].tolist()) for batch in batches for row in batch["input_ids"])
    assert found == Counter(tuple(row[row != 0].tolist()) for row in everything["input_ids"])
