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
from llmrec.rate.baselines import Bias, GlobalMean
from llmrec.rate.cases import cases_of, sample
from llmrec.rate.finetune import Training, fine_tune
from llmrec.rate.judge import Judge
from llmrec.rate.ratings import TEST, Ratings
from llmrec.rate.reader import STARTS, FineTuned, Head, Reader
from llmrec.rate.rows import PackedHistories, Rows, windows
from llmrec.train.packing import collate

TRAINING = Training(share=1.0, epochs=6, learning_rate=3e-3, row_tokens=256, batch=4, save_every=3)


def base(folder: Path, log: Ratings) -> tuple[Any, Any]:
    torch.manual_seed(0)
    return tiny_base("llama", [*log.titles, "One person's ratings, oldest first: 1 2 3 4 5 drama comedy"] * 3, folder)


def reader(log: Ratings, folder: Path, head: Head) -> tuple[Reader, Rows, Any]:
    model, tokenizer = base(folder, log)
    rows = Rows(log, tokenizer)
    return Reader(model, head, rows.words, 1.0), rows, model


def test_a_row_tells_every_item_and_rating_but_the_last_and_reads_before_each(tmp_path: Path) -> None:
    log = world(tmp_path / "w")
    _, tokenizer = base(tmp_path / "base", log)
    rows = Rows(log, tokenizer)
    events = log.train[:5]
    row = rows.of(events)
    text = "".join(tokenizer.decode(row.tokens).split())  # tokenizers differ in spaces between pieces
    told = [f"{log.titles[log.items[e]]} ({log.kinds[log.items[e]]}): {log.given[e]:g}" for e in events]
    assert text.endswith("".join("".join(told).split())[:-1])
    assert [tokenizer.decode(row.tokens[: place + 1])[-1] for place in row.reads] == [":"] * 5
    assert row.events.tolist() == events.tolist()
    alone = rows.of(events, last_alone=True)
    assert alone.tokens.tolist() == row.tokens.tolist()
    assert (alone.reads.tolist(), alone.events.tolist()) == (row.reads[-1:].tolist(), events[-1:].tolist())


@pytest.mark.parametrize("head", ["classification", "regression"])
@torch.no_grad()
def test_packed_histories_have_the_loss_of_histories_alone(tmp_path: Path, head: Head) -> None:
    log = world(tmp_path / "w")
    model, rows, _ = reader(log, tmp_path / "base", head)
    torch.nn.init.normal_(model.head.weight)
    made = [rows.of(events) for events in windows(log, 6, 0.1, 0)]
    targets = torch.from_numpy(log.scale.numbers(log.given)).float()
    packed = PackedHistories(made, TRAINING.row_tokens, 0)
    assert len(packed) < len(made)
    together = model.loss(**collate([packed[number] for number in range(len(packed))]), targets=targets)["loss"]
    alone = [PackedHistories([row], TRAINING.row_tokens, 0)[0] for row in made]
    losses = [
        float(model.loss(**collate([one]), targets=targets)["loss"]) * int((one["labels"] >= 0).sum()) for one in alone
    ]
    assert float(together) == pytest.approx(sum(losses) / sum(len(row.events) for row in made), rel=1e-4)


@torch.no_grad()
def test_classes_start_as_the_language_models_own_words_and_regression_at_what_it_adds_to(tmp_path: Path) -> None:
    log = world(tmp_path / "w")
    classes, rows, language = reader(log, tmp_path / "base", "classification")
    cases = sample(log, TEST, 6, 4, 0)
    own = torch.tensor([token for (token,) in rows.words])
    for row, predicted in zip(rows.cases(cases), FineTuned(classes, rows, GlobalMean(log)).predict(cases), strict=True):
        logits = language(torch.tensor([row.tokens])).logits[0, -1]
        assert predicted == pytest.approx(
            float(logits[own].softmax(0) @ torch.tensor(log.scale.values).float()), abs=0.02
        )
    start, rows, _ = reader(log, tmp_path / "base", "regression")
    for begin in STARTS.values():
        np.testing.assert_allclose(FineTuned(start, rows, begin(log)).predict(cases), begin(log).predict(cases))


@pytest.mark.parametrize("head", ["classification", "regression"])
def test_what_is_planted_is_learnt(tmp_path: Path, head: Head) -> None:
    """Better than the global mean where ratings are leanings of users and items; a case's own rating is not read."""
    log = world(tmp_path / "w", users=80)
    training = replace(TRAINING, head=head, epochs=8)
    predictor, note = fine_tune(
        "tiny", log, training, 0, tmp_path / "out", lambda d: None, base(tmp_path / "base", log)
    )
    cases = sample(log, TEST, None, 10, 0)
    judge = Judge(log.given[cases.events], log.users[cases.events], log.scale.liked, 0)
    found = judge.table({"tuned": predictor.predict(cases), "mean": np.full(len(cases), log.mean)}, ["mean"])["tuned"]
    assert found["minus"]["mean"]["rmse"]["high"] < 0
    assert found["auc"]["low"] > 0.55
    assert note["ratings"] == len(log.train)
    other = log.given.copy()
    other[cases.events] = 1
    spoilt = Ratings(**{**vars(log), "given": other})
    changed = FineTuned(predictor.reader, Rows(spoilt, base(tmp_path / "base", log)[1]), GlobalMean(spoilt))
    np.testing.assert_array_equal(changed.predict(cases), predictor.predict(cases))


def test_a_killed_training_ends_as_an_uninterrupted_one_and_is_read_back(tmp_path: Path) -> None:
    log = world(tmp_path / "w")
    training = replace(TRAINING, epochs=2, share=0.5)
    cases = cases_of(log, np.flatnonzero(log.parts == TEST)[:20], 5)

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
    log = Ratings(**{**vars(log), "given": np.clip(log.given + np.where(log.items % 2, -1, 1), 1, 5)})
    training = replace(TRAINING, over="bias", epochs=8)
    given = (log, training, 0, tmp_path / "out", lambda done: None, base(tmp_path / "base", log))
    cases = sample(log, TEST, None, 4, 0)
    found = {"bias": Bias(log).predict(cases), "tuned": fine_tune("tiny", *given)[0].predict(cases)}
    judge = Judge(log.given[cases.events], log.users[cases.events], log.scale.liked, 0)
    assert judge.table(found, ["bias"])["tuned"]["minus"]["bias"]["rmse"]["high"] < 0
