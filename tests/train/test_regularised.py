"""Label smoothing, history dropout, a teacher's help and averaged weights: against closed forms, and after a kill."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from test_loop import model, packed, weights
from transformers import LlamaForCausalLM

from llmrec.collaborative import POWER
from llmrec.contracts import Sequences
from llmrec.errors import ModelError, RecipeError
from llmrec.indexing.catalogue import Catalogue
from llmrec.model import folder as model_folder
from llmrec.model.vocabulary import new_token_ids
from llmrec.recipe import Sft
from llmrec.recipe_file import load
from llmrec.train import sft
from llmrec.train.augment import CodeSpans, HistoryDropout, TeacherReplacement, find_candidates
from llmrec.train.encode import Encoded
from llmrec.train.loss import LabelSmoothing, target_logprobs
from llmrec.train.packing import IGNORE, PackedRows

LEVELS = (torch.tensor([5, 6, 7]), torch.tensor([9, 10]))  # of 13 tokens; 8 is a spare of the first level


def smoothing(share: float) -> LabelSmoothing:
    level = torch.full((11,), -1)
    for number, tokens in enumerate(LEVELS):
        level[tokens] = number
    return LabelSmoothing(share, level, LEVELS)


@pytest.mark.parametrize("chunk", [1, 30, 4096])
def test_smoothing_is_cross_entropy_to_a_share_of_each_level(chunk: int) -> None:
    torch.manual_seed(0)
    hidden, head = torch.randn(4, 12, 8, requires_grad=True), torch.nn.Linear(8, 13)
    labels = torch.randint(13, (4, 12))
    labels[torch.rand(4, 12) < 0.3] = IGNORE
    wanted = labels[:, 1:] != IGNORE
    targets = labels[:, 1:][wanted]
    ours = target_logprobs(hidden[:, :-1][wanted], targets, head, chunk, smoothing=smoothing(0.2))
    soft = torch.nn.functional.one_hot(targets, 13).float()
    for row, target in enumerate(targets.tolist()):
        for tokens in LEVELS:
            if target in tokens.tolist():
                soft[row] *= 0.8
                soft[row, tokens] += 0.2 / len(tokens)
    truth = torch.nn.functional.cross_entropy(head(hidden[:, :-1][wanted]), soft, reduction="none")
    torch.testing.assert_close(-ours, truth)
    for one, other in zip(*(torch.autograd.grad(x.sum(), [hidden, head.weight]) for x in (-ours, truth)), strict=True):
        torch.testing.assert_close(one, other)


def test_levels_are_those_of_the_catalogue_without_tokens_that_no_item_has(tiny_run: Path) -> None:
    catalogue = Catalogue.load(tiny_run / "catalogue")
    _, tokenizer, _ = model_folder.load(tiny_run / "train-1-sft" / "model", torch.float32)
    found = LabelSmoothing.of(catalogue, new_token_ids(tokenizer, catalogue.tokens), 0.1)
    for number, column in enumerate(catalogue.codes.T):
        names = tokenizer.convert_ids_to_tokens(found.tokens[number].tolist())
        assert set(names) == {catalogue.tokens[symbol] for symbol in column}
        assert (found.level[found.tokens[number]] == number).all()
    assert int((found.level >= 0).sum()) == sum(map(len, found.tokens))


def example(items: int, words: int = 4) -> Encoded:
    """Words 1, 2, … and then items of three tokens: 100 + i, 200 + i, 300 + i; all of the items are supervised."""
    codes = [level + item for item in range(items) for level in (100, 200, 300)]
    return Encoded(np.array([*range(1, words + 1), *codes, 0]), np.arange(words + 3 * items + 1) >= words)


CODED = CodeSpans(np.arange(300, 400), np.arange(100, 300), 3)
DROP = HistoryDropout(0.4, CODED, 7, 1)


def test_items_are_left_out_whole_as_often_as_said_and_never_the_last() -> None:
    whole, gone = example(8), np.zeros(8)
    for epoch in range(400):
        thin = DROP(whole, 5, epoch)
        kept = [token - 300 for token in thin.tokens.tolist() if token >= 300]
        assert kept == sorted(kept) and kept[-1] == 7 and len(kept) >= 2
        truth = [1, 2, 3, 4, *(level + item for item in kept for level in (100, 200, 300)), 0]
        assert thin.tokens.tolist() == truth
        assert thin.supervised.tolist() == [False] * 4 + [True] * (len(truth) - 4)
        gone += [item not in kept for item in range(8)]
    assert np.abs(gone[:6] / 400 - 0.4).max() < 4 * np.sqrt(0.24 / 400)
    assert 0 < gone[6] < gone[:6].min() + 60 and not gone[7]


def test_what_is_left_out_hangs_on_example_and_epoch_alone() -> None:
    one, again, epoch, other = (DROP(example(20), *at).tokens.tolist() for at in ((3, 0), (3, 0), (3, 1), (4, 0)))
    assert one == again
    assert one != epoch and one != other and epoch != other
    short = example(2)
    assert DROP(short, 0, 0) is short


def test_rows_change_with_the_epoch_and_labels_go_with_their_tokens() -> None:
    rows = PackedRows([example(9), example(6)], 80, np.random.default_rng(0), [DROP])
    seen = []
    for epoch in range(4):
        rows.set_epoch(epoch)
        row = rows[0]
        seen.append(row["input_ids"].tolist())
        predicted = row["labels"] != IGNORE
        assert (row["labels"][predicted] == row["input_ids"][predicted]).all()
        assert (row["input_ids"][~predicted] < 5).all()
    assert len({tuple(one) for one in seen}) == 4


CODES = np.array([[100 + item, 200 + item, 300 + item] for item in range(30)])


class After:
    """Expects the item whose number is one more than the last one's three times as much as the one two more."""

    score_kind = "shares"

    def score(self, histories: Sequences) -> np.ndarray:
        scores = np.full((len(histories), len(CODES)), -1.0, np.float32)
        last = histories.items[histories.offsets[1:] - 1]
        scores[np.arange(len(last)), last + 1], scores[np.arange(len(last)), last + 2] = 3, 1
        return scores


def test_items_give_way_to_what_a_teacher_expects_as_often_as_said() -> None:
    """Item 7 stands after 3 and 5, so its place goes to 6 and (never, being seen: 5, nor itself: two more) 7."""
    items = [3, 5, 7, 20]
    whole = Encoded(np.array([1, *CODES[items].ravel(), 0]), np.arange(14) >= 1)
    places = find_candidates([example(1), whole], CODED, CODES, After(), False, "train.0.teacher_replace_prob")
    assert places.offsets.tolist() == [0, 0, 3] and places.begins.tolist() == [4, 7, 10]
    taught, seen = TeacherReplacement(0.5, places, CODES, 7, 1), []
    for epoch in range(2000):
        changed = taught(whole, 1, epoch)
        assert changed.supervised is whole.supervised
        assert changed.tokens[:4].tolist() == whole.tokens[:4].tolist() and changed.tokens[-1] == 0
        found = changed.tokens[1:-1].reshape(4, 3)
        assert (found - [100, 200, 300] == found[:, :1] - 100).all()  # whole codes
        seen.append(found[:, 0] - 100)
    sharp = 3**POWER / (3**POWER + 1)
    # where it stands, an item that is expected stays more often: 5 is the second of 3, 7 the second of 5
    truth = [
        {5: 1 - 0.5 * sharp, 4: 0.5 * sharp},
        {7: 1 - 0.5 * sharp, 6: 0.5 * sharp},
        {20: 0.5, 8: 0.5 * sharp, 9: 0.5 * (1 - sharp)},
    ]
    for column, chances in zip(np.array(seen).T[1:], truth, strict=True):
        assert set(column.tolist()) == set(chances)
        for item, chance in chances.items():
            assert abs((column == item).mean() - chance) < 4 * np.sqrt(chance * (1 - chance) / 2000)
    assert taught(whole, 1, 3).tokens.tolist() == taught(whole, 1, 3).tokens.tolist()
    alone = example(1)
    assert taught(alone, 0, 0) is alone


def test_a_teacher_helps_in_histories_alone_and_never_with_what_is_in_them() -> None:
    """An offer that is not supervised ends the search; an item with a spare token is in no history; twins keep out."""
    offered = example(6)
    offered.supervised[4:7] = False
    spare = example(3)
    spare.tokens[9] = 399  # of the second item
    places = find_candidates([offered, spare], CODED, CODES, After(), False, "train.0.teacher_replace_prob")
    assert places.offsets.tolist() == [0, 0, 2]
    assert places.items[1, np.diff(places.probs[1], prepend=0).argmax()] == 1  # after item 0 alone
    again = find_candidates([example(4)], CODED, CODES, After(), True, "train.0.teacher_replace_prob")
    assert (again.probs[:, -1] == 1).all()
    longer = np.full((30, 4), -1)
    longer[:, :3] = CODES
    longer[5:, 3] = 350
    taught = TeacherReplacement(1.0, again, longer, 7, 1)
    assert all(np.isin(taught(example(4), 0, epoch).tokens, example(6).tokens).all() for epoch in range(50))
    with pytest.raises(ModelError, match=r"train.0.teacher_replace_prob: no example holds a supervised history"):
        find_candidates([offered], CODED, CODES, After(), False, "train.0.teacher_replace_prob")


AT_REST = ("weight_average", "label_smoothing", "item_dropout", "loss", "teacher_replace_prob", "teacher")


class Killed(Exception):
    """What stands for a kill."""


def averaged(work: Path, kill_at: int = 0, share: float = 0.5) -> dict[str, torch.Tensor]:
    """10 steps, a checkpoint after each second one; the mean of the last half."""

    def progress(done: float) -> None:
        if kill_at and round(done * 10) == kill_at:
            raise Killed

    llama, settings = model(), Sft(epochs=1, batch=3, learning_rate=1e-2, save_every=2, weight_average=share)
    done = sft.train(llama, packed(), settings, 0, work, 0.1, progress)
    assert done.facts["steps averaged"] == 5
    return weights(llama)


def test_the_weights_are_the_mean_of_the_last_steps(tmp_path: Path) -> None:
    """Those of each step are looked at from outside, in a training that averages nothing."""
    found = averaged(tmp_path / "mean")
    llama, seen = model(), []

    def progress(done: float) -> None:
        seen.append(weights(llama))

    settings = Sft(epochs=1, batch=3, learning_rate=1e-2, save_every=2)
    sft.train(llama, packed(), settings, 0, tmp_path / "plain", 0.1, progress)
    assert len(seen) == 10
    for name, value in found.items():
        torch.testing.assert_close(value, torch.stack([one[name] for one in seen[5:]]).mean(0))


@pytest.mark.parametrize("kill_at", [4, 7, 9])
def test_a_killed_training_ends_with_the_same_mean(kill_at: int, tmp_path: Path) -> None:
    whole = averaged(tmp_path / "whole")
    with pytest.raises(Killed):
        averaged(tmp_path / "killed", kill_at)
    assert not (tmp_path / "killed" / "checkpoint-10").exists()
    found = averaged(tmp_path / "killed")
    assert all(torch.equal(found[name], value) for name, value in whole.items())
    again = averaged(tmp_path / "killed")  # the last checkpoint is there: nothing is trained, the mean is the same
    assert all(torch.equal(again[name], value) for name, value in whole.items())


def test_a_run_trains_with_all_of_them_and_says_so(world: Path, tmp_path: Path) -> None:
    from llmrec.files import read_json
    from llmrec.run import execute

    changes = [
        "train.0.epochs=1",
        "train.0.weight_average=0.3",
        "train.0.label_smoothing=0.1",
        "train.0.item_dropout=0.3",
    ]
    changes += [
        "train.0.teacher_replace_prob=0.4",
        "train.0.teacher=markov",
        "tasks.templates=shortest",
        "train.0.loss=trie",
    ]
    run = execute.run(load(world, changes), tmp_path / "run", "train")
    made = read_json(run / "train-1-sft" / "made.json")
    assert made["facts"]["steps averaged"] >= 1
    assert {name: made["config"]["train"][name] for name in AT_REST} == {
        "weight_average": 0.3,
        "label_smoothing": 0.1,
        "item_dropout": 0.3,
        "loss": "trie",
        "teacher_replace_prob": 0.4,
        "teacher": {"markov": {"max_gap": 3, "fade": 0.5}},
    }
    LlamaForCausalLM.from_pretrained(run / "train-1-sft" / "model")


def test_what_cannot_be_is_refused(world: Path) -> None:
    for changes, words in [
        (
            ["train.0.weight_average=0.1", "train.0.validation.every=5"],
            "weight_average ends with the mean of the last weights",
        ),
        (["train.0.weight_average=0.1", "launch.strategy=fsdp"], "weight_average adds up whole weights"),
        (["train.0.loss=trie", "launch.strategy=fsdp"], "which fsdp cuts up"),
        (["train.0.loss=trie", "model.base=x", "model.adapt=lora"], "which adapt: lora holds in parts"),
        (["train.0.item_dropout=0.1", "tasks.direct_pick=1.0"], "also those on offer in direct_pick"),
    ]:
        with pytest.raises(RecipeError, match=words):
            load(world, changes)
