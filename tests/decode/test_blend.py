"""A teacher mixed in: the order of both probabilities' mixture, filters held to, and nothing that neither expects."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import llmrec
from llmrec import pipeline
from llmrec.card import measured
from llmrec.collaborative import Markov
from llmrec.collaborative.probabilities import POWER
from llmrec.contracts import Items, Sequences
from llmrec.data.dataset import Dataset
from llmrec.decode.blend import Blend
from llmrec.decode.filters import Filter
from llmrec.decode.recommender import Recommender
from llmrec.decode.search import Ranked
from llmrec.evaluate.ranking import ALONE
from llmrec.files import read_json
from llmrec.recipe_file import recipe_of

SHARE, BEAMS = 0.3, 12
HISTORIES = [[3, 4, 5, 6], [7], [30, 31, 2], []]


class Alone:
    """Expects one item, whatever came before."""

    score_kind = "shares"

    def __init__(self, item: int, items: int) -> None:
        self.scores = np.eye(items, dtype=np.float32)[item]

    def score(self, histories: Sequences) -> np.ndarray:
        return np.tile(self.scores, (len(histories), 1))


@pytest.fixture(scope="module")
def recommender(tiny_run: Path) -> Recommender:
    return llmrec.load(tiny_run)


@pytest.fixture(scope="module")
def markov(tiny_run: Path) -> Markov:
    dataset = Dataset.load(tiny_run / "data")
    return Markov().fit(dataset.before("valid"), Items(dataset.item_ids))


def blend_of(teacher: object, recommender: Recommender, again: bool = False) -> Blend:
    catalogue = recommender.catalogue
    return Blend.of(teacher, SHARE, again, catalogue.item_ids, catalogue)  # type: ignore[arg-type]


@pytest.mark.parametrize("k", [1, 5, 12])
@pytest.mark.parametrize("filtered", [False, True])
def test_the_order_is_that_of_the_mixture(recommender: Recommender, markov: Markov, k: int, filtered: bool) -> None:
    trie, items = recommender.catalogue.trie, len(recommender.catalogue.item_ids)
    allowed = np.arange(items) % 3 > 0
    filters = [Filter.of(trie, row, allowed if filtered else None) for row in HISTORIES]
    alone = recommender.engine.rank(recommender.prompts(HISTORIES), BEAMS, filters, BEAMS)
    found = blend_of(markov, recommender)(alone, HISTORIES, filters, k)
    for row, history in enumerate(HISTORIES):
        model, teacher = np.zeros(items), markov.score(Sequences.of([history]))[0].astype(np.float64).clip(0)
        given = alone.items[row] >= 0
        model[alone.items[row][given]] = np.exp(alone.scores[row][given])
        teacher[history] = 0
        chances = teacher**POWER / max((teacher**POWER).sum(), 1e-300)
        chances = np.where(allowed | (not filtered), chances, 0)
        share = SHARE if chances.any() else 0  # where nothing is expected, the model alone
        truth = (1 - share) * model + share * chances
        truth[history] = 0
        best = np.sort(truth)[::-1][:k]
        np.testing.assert_allclose(np.exp(found.scores[row]), best, rtol=1e-5, atol=1e-12)
        real = found.items[row][found.items[row] >= 0]
        np.testing.assert_allclose(truth[real], best[best > 0], rtol=1e-5)
        assert len(set(real.tolist())) == len(real)


def test_without_a_share_the_list_is_the_models(recommender: Recommender, markov: Markov) -> None:
    catalogue = recommender.catalogue
    alone = recommender.rank(HISTORIES, 10, None, 10)
    same = Blend.of(markov, 0.0, False, catalogue.item_ids, catalogue)(alone, HISTORIES, None, 10)
    np.testing.assert_array_equal(same.items, alone.items)
    np.testing.assert_allclose(same.scores, alone.scores, rtol=1e-6)


def test_where_the_teacher_expects_nothing_the_model_is_alone_whatever_the_share(recommender: Recommender) -> None:
    """It expects what is in the history, which may not come again."""
    catalogue, alone = recommender.catalogue, recommender.rank([[3, 4]], 10, None, 10)
    found = Blend.of(Alone(3, 40), 1.0, False, catalogue.item_ids, catalogue)(alone, [[3, 4]], None, 10)
    np.testing.assert_array_equal(found.items, alone.items)
    np.testing.assert_allclose(found.scores, alone.scores, rtol=1e-6)


def test_what_no_beam_reached_comes_in_by_the_teacher_and_filters_keep_it_out(recommender: Recommender) -> None:
    alone = recommender.rank([[3, 4]], 2, None, 2)
    missed = next(item for item in range(20, 40) if item not in alone.items[0])
    blend = blend_of(Alone(missed, 40), recommender)
    assert missed in blend(alone, [[3, 4]], None, 2).items[0]
    denied = [Filter.of(recommender.catalogue.trie, [missed])]
    np.testing.assert_array_equal(blend(alone, [[3, 4]], denied, 2).items, alone.items)


def test_what_is_in_the_history_is_expected_only_where_it_may_come_again(recommender: Recommender) -> None:
    nothing = Ranked(np.full((1, 1), -1, np.int32), np.full((1, 1), -np.inf, np.float32))
    found = {again: blend_of(Alone(4, 40), recommender, again)(nothing, [[3, 4]], None, 1) for again in (False, True)}
    assert found[False].items.tolist() == [[-1]] and np.isneginf(found[False].scores).all()
    assert found[True].items.tolist() == [[4]]
    np.testing.assert_allclose(found[True].scores, np.log(SHARE), rtol=1e-6)


def test_a_teacher_that_numbers_items_otherwise_means_the_same_items(recommender: Recommender, markov: Markov) -> None:
    """It knows an item that the catalogue lacks, and lacks one that the catalogue has."""
    catalogue = recommender.catalogue
    ids = ["unknown", *catalogue.item_ids[:0:-1]]
    order = np.array([catalogue.item_number.get(item_id, 0) for item_id in ids])

    class Straight(Alone):
        def score(self, histories: Sequences) -> np.ndarray:
            return markov.score(histories) * (np.arange(40) > 0)

    class Turned(Alone):
        def score(self, histories: Sequences) -> np.ndarray:
            return Straight(0, 40).score(Sequences.of([order[row] for row in histories]))[:, order]

    alone = recommender.rank(HISTORIES, 12, None, 12)
    turned = Blend.of(Turned(0, 40), SHARE, False, ids, catalogue)(alone, HISTORIES, None, 12)
    straight = blend_of(Straight(0, 40), recommender)(alone, HISTORIES, None, 12)
    np.testing.assert_allclose(turned.scores, straight.scores, rtol=1e-6)
    np.testing.assert_array_equal(turned.items[:, :3], straight.items[:, :3])


def test_lists_come_blended_wherever_a_run_is_opened_whose_recipe_says_so(tiny_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder)
    pipeline.run(recipe_of(folder, ["evaluate.blend={teacher: markov, share: 0.3}"]), folder, "evaluate")
    mixed, alone = llmrec.load(folder, held_out_wording=True), llmrec.load(tiny_run)
    assert mixed.blend is not None and alone.blend is None
    told = read_json(folder / "train-1-sft" / "eval" / "metrics.json")
    assert told["model"] == "nano+markov" and "nano+markov" in told["systems"]
    before = read_json(tiny_run / "train-1-sft" / "eval" / "metrics.json")["systems"]["nano"]
    assert told["systems"][ALONE] == before != told["systems"]["nano+markov"]
    assert set(told["paired"]) >= {ALONE, "markov"}
    lists = pq.read_table(folder / "train-1-sft" / "eval" / "recommendations.parquet").to_pylist()
    cases = Dataset.load(folder / "data").cases("test")
    history = [mixed.catalogue.item_ids[item] for item in cases.histories[0]]
    mine = [(one["item_id"], one["score"]) for one in lists if one["user_id"] == lists[0]["user_id"]]
    found = mixed.recommend(history, len(mine), exclude_seen=False, beams=10)
    assert [item for item, _ in found] == [item for item, _ in mine]
    np.testing.assert_allclose([score for _, score in found], [score for _, score in mine], rtol=1e-3)
    assert measured(folder / "train-1-sft") is None, "figures of the mixture are not an export's"
