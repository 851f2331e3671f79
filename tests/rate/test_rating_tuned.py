"""Fine-tuned rating prediction: rows, heads, what is learnt, and a training that is killed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rate_world import world

from llmrec.errors import ModelError
from llmrec.model.base import tiny_base
from llmrec.rate.baselines import GlobalMean, UserItemBias
from llmrec.rate.cases import build_cases, sample_cases
from llmrec.rate.experiment import RatingEvaluator
from llmrec.rate.finetune import FineTuning, fine_tune
from llmrec.rate.rating_model import (
    STARTS,
    FineTunedPredictor,
    Head,
    HistoryTokenizer,
    PackedHistories,
    RatingModel,
    training_windows,
)
from llmrec.rate.ratings import TEST, Ratings
from llmrec.train.packing import collate

TRAINING = FineTuning(share=1.0, epochs=6, learning_rate=3e-3, pack_length=256, batch=4, save_every=3)


def base(folder: Path, log: Ratings) -> tuple[Any, Any]:
    torch.manual_seed(0)
    return tiny_base("llama", [*log.titles, "One person's ratings, oldest first: 1 2 3 4 5 drama comedy"] * 3, folder)


def reader(log: Ratings, folder: Path, head: Head) -> tuple[RatingModel, HistoryTokenizer, Any]:
    model, tokenizer = base(folder, log)
    rows = HistoryTokenizer(log, tokenizer)
    return RatingModel(model, head, rows.labels, 1.0), rows, model


def test_a_row_tells_every_item_and_rating_but_the_last_and_reads_before_each(tmp_path: Path) -> None:
    log = world(tmp_path / "w")
    _, tokenizer = base(tmp_path / "base", log)
    rows = HistoryTokenizer(log, tokenizer)
    events = log.train[:5]
    row = rows.tokenize(events)
    text = "".join(tokenizer.decode(row.tokens).split())  # tokenizers differ in spaces between pieces
    told = [f"{log.titles[log.items[e]]} ({log.genres[log.items[e]]}): {log.values[e]:g}" for e in events]
    assert text.endswith("".join("".join(told).split())[:-1])
    assert [tokenizer.decode(row.tokens[: place + 1])[-1] for place in row.positions] == [":"] * 5
    assert row.events.tolist() == events.tolist()
    alone = rows.tokenize(events, last_only=True)
    assert alone.tokens.tolist() == row.tokens.tolist()
    assert (alone.positions.tolist(), alone.events.tolist()) == (row.positions[-1:].tolist(), events[-1:].tolist())


@pytest.mark.parametrize("head", ["classification", "regression"])
@torch.no_grad()
def test_packed_histories_have_the_loss_of_histories_alone(tmp_path: Path, head: Head) -> None:
    log = world(tmp_path / "w")
    model, rows, _ = reader(log, tmp_path / "base", head)
    torch.nn.init.normal_(model.head.weight)
    made = [rows.tokenize(events) for events in training_windows(log, 6, 0.1, 0)]
    targets = torch.from_numpy(log.scale.steps(log.values)).float()
    packed = PackedHistories(made, TRAINING.pack_length, 0)
    assert len(packed) < len(made)
    together = model.loss(**collate([packed[number] for number in range(len(packed))]), targets=targets)["loss"]
    alone = [PackedHistories([row], TRAINING.pack_length, 0)[0] for row in made]
    losses = [
        float(model.loss(**collate([one]), targets=targets)["loss"]) * int((one["labels"] >= 0).sum()) for one in alone
    ]
    assert float(together) == pytest.approx(sum(losses) / sum(len(row.events) for row in made), rel=1e-4)


@torch.no_grad()
def test_classes_start_as_the_language_models_own_words_and_regression_at_what_it_adds_to(tmp_path: Path) -> None:
    log = world(tmp_path / "w")
    classes, rows, language = reader(log, tmp_path / "base", "classification")
    cases = sample_cases(log, TEST, 6, 4, 0)
    own = torch.tensor([token for (token,) in rows.labels])
    for row, predicted in zip(
        rows.tokenize_cases(cases), FineTunedPredictor(classes, rows, GlobalMean(log)).predict(cases), strict=True
    ):
        logits = language(torch.tensor([row.tokens])).logits[0, -1]
        assert predicted == pytest.approx(
            float(logits[own].softmax(0) @ torch.tensor(log.scale.values).float()), abs=0.02
        )
    start, rows, _ = reader(log, tmp_path / "base", "regression")
    for begin in STARTS.values():
        np.testing.assert_allclose(
            FineTunedPredictor(start, rows, begin(log)).predict(cases), begin(log).predict(cases)
        )


@pytest.mark.parametrize("head", ["classification", "regression"])
def test_what_is_planted_is_learnt(tmp_path: Path, head: Head) -> None:
    """Better than the global mean where ratings are leanings of users and items; a case's own rating is not read."""
    log = world(tmp_path / "w", users=80)
    training = replace(TRAINING, head=head, epochs=8)
    predictor, note = fine_tune(
        "tiny", log, training, 0, tmp_path / "out", lambda d: None, base(tmp_path / "base", log)
    )
    cases = sample_cases(log, TEST, None, 10, 0)
    judge = RatingEvaluator(log.values[cases.events], log.users[cases.events], log.scale.liked_from, 0)
    found = judge.compare({"tuned": predictor.predict(cases), "mean": np.full(len(cases), log.mean)}, ["mean"])["tuned"]
    assert found["minus"]["mean"]["rmse"]["high"] < 0
    assert found["auc"]["low"] > 0.55
    assert note["ratings"] == len(log.train)
    other = log.values.copy()
    other[cases.events] = 1
    spoilt = Ratings(**{**vars(log), "values": other})
    changed = FineTunedPredictor(
        predictor.model, HistoryTokenizer(spoilt, base(tmp_path / "base", log)[1]), GlobalMean(spoilt)
    )
    np.testing.assert_array_equal(changed.predict(cases), predictor.predict(cases))


def test_a_killed_training_ends_as_an_uninterrupted_one_and_is_read_back(tmp_path: Path) -> None:
    log = world(tmp_path / "w")
    training = replace(TRAINING, epochs=2, share=0.5)
    cases = build_cases(log, np.flatnonzero(log.parts == TEST)[:20], 5)

    def trained(name: str, progress: Any) -> np.ndarray:
        given = (log, training, 0, tmp_path / name, progress, base(tmp_path / "base", log))
        return fine_tune("tiny", *given)[0].predict(cases)

    def kill(done: float) -> None:
        if done > 0.6:
            raise KeyboardInterrupt

    whole = trained("whole", lambda done: None)
    with pytest.raises(KeyboardInterrupt):
        trained("killed", kill)
    assert list((tmp_path / "killed" / ".training").glob("checkpoint-*/whole"))
    np.testing.assert_allclose(trained("killed", lambda done: None), whole, atol=1e-5)
    assert not (tmp_path / "killed" / ".training").exists()

    def never(done: float) -> None:
        raise AssertionError("trained again")

    np.testing.assert_array_equal(trained("whole", never), whole)


def test_a_diverging_training_names_the_option_of_this_command(tmp_path: Path) -> None:
    log = world(tmp_path / "w")
    training = replace(TRAINING, learning_rate=1e9)
    with pytest.raises(
        ModelError, match=r"not finite.*packed rows.*\. Lower --learning-rate \(now 1000000000\.0\)\. "
    ) as error:
        fine_tune("tiny", log, training, 0, tmp_path / "out", lambda d: None, base(tmp_path / "base", log))
    assert "--method" not in str(error.value) and "warmup" not in str(error.value)


def test_memory_that_does_not_suffice_is_told_with_the_options_of_this_command(tmp_path: Path) -> None:
    log = world(tmp_path / "w")
    model, tokenizer = base(tmp_path / "base", log)

    def no_memory(module: Any, inputs: Any) -> None:
        raise torch.OutOfMemoryError("no more memory")

    model.get_decoder().layers[0].register_forward_pre_hook(no_memory)
    with pytest.raises(ModelError, match=r"no more memory.*--layers") as error:
        fine_tune("tiny", log, TRAINING, 0, tmp_path / "out", lambda done: None, (model, tokenizer))
    assert "recipe" not in str(error.value)


def test_over_the_bias_it_learns_what_the_bias_cannot_say(tmp_path: Path) -> None:
    """Of four ratings a film, diluted by five, a bias sees less than half of what comedies lack; their name is told."""
    log = world(tmp_path / "w", users=100, items=500)
    log = Ratings(**{**vars(log), "values": np.clip(log.values + np.where(log.items % 2, -1, 1), 1, 5)})
    training = replace(TRAINING, over="bias", epochs=8)
    given = (log, training, 0, tmp_path / "out", lambda done: None, base(tmp_path / "base", log))
    cases = sample_cases(log, TEST, None, 4, 0)
    found = {"bias": UserItemBias(log).predict(cases), "tuned": fine_tune("tiny", *given)[0].predict(cases)}
    judge = RatingEvaluator(log.values[cases.events], log.users[cases.events], log.scale.liked_from, 0)
    assert judge.compare(found, ["bias"])["tuned"]["minus"]["bias"]["rmse"]["high"] < 0
