"""A collaborative model mixed in: the order of both probabilities' mixture, filters held to, nothing nobody expects."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import llmrec
from llmrec.collaborative import POWER, ArrayModel, Markov
from llmrec.contracts import Items, Request, Sequences
from llmrec.data.dataset import Dataset
from llmrec.decode.generative import Generative
from llmrec.decode.recommenders import Collaborative, Ensemble, Member
from llmrec.evaluate.files import read_metrics
from llmrec.evaluate.ranking import ALONE
from llmrec.run.execute import run
from llmrec.run.layout import RunFolder, recipe_of

SHARE, BEAMS, ITEMS = 0.3, 12, 40
IDS = [f"i{number}" for number in range(ITEMS)]
HISTORIES = [[3, 4, 5, 6], [7], [30, 31, 2], []]


class Alone:
    """Expects one item, whatever came before."""

    score_kind = "shares"

    def __init__(self, item: int) -> None:
        self.scores, self.items = np.eye(ITEMS, dtype=np.float32)[item], Items(IDS)

    def score(self, histories: Sequences) -> np.ndarray:
        return np.tile(self.scores, (len(histories), 1))


@pytest.fixture(scope="module")
def model(tiny_run: Path) -> Generative:
    found = llmrec.load(tiny_run, beams=BEAMS).recommender
    assert isinstance(found, Generative)
    return found


@pytest.fixture(scope="module")
def markov(tiny_run: Path) -> Markov:
    dataset = Dataset.load(tiny_run / "data")
    return Markov().fit(dataset.before("valid"), Items(dataset.item_ids))


def mixed(model: object, teacher: object, share: float = SHARE, beams: int = BEAMS, depth: int = ITEMS) -> Ensemble:
    """A language model and a collaborative one over the catalogue of the small world."""
    other = Collaborative(teacher, IDS)  # type: ignore[arg-type]
    return Ensemble([Member(model, 1 - share, beams), Member(other, share, depth)])  # type: ignore[arg-type]


def unseen(history: list[int], **more: object) -> Request:
    return Request(history, denied=np.array(history, np.int64), **more)  # type: ignore[arg-type]


@pytest.mark.parametrize("k", [1, 5, 12])
@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("seen", [False, True])
def test_the_order_is_that_of_the_mixture(
    model: Generative, markov: Markov, k: int, filtered: bool, seen: bool
) -> None:
    allowed = np.arange(ITEMS) % 3 > 0
    more = {"allowed": np.flatnonzero(allowed)} if filtered else {}
    requests = [Request(row, **more) if seen else unseen(row, **more) for row in HISTORIES]  # type: ignore[arg-type]
    alone = model.rank(requests, BEAMS)
    found = mixed(model, markov).rank(requests, k)
    for row, history in enumerate(HISTORIES):
        own, teacher = np.zeros(ITEMS), markov.score(Sequences.of([history]))[0].astype(np.float64).clip(0)
        given = alone.items[row] >= 0
        own[alone.items[row][given]] = np.exp(alone.scores[row][given])
        if not seen:
            teacher[history] = 0
        chances = teacher**POWER / max((teacher**POWER).sum(), 1e-300)
        chances = np.where(allowed | (not filtered), chances, 0)
        share = SHARE if chances.any() else 0  # where nothing is expected, the model alone
        truth = (1 - share) * own + share * chances
        if not seen:
            truth[history] = 0
        best = np.sort(truth)[::-1][:k]
        np.testing.assert_allclose(np.exp(found.scores[row]), best, rtol=1e-5, atol=1e-12)
        real = found.items[row][found.items[row] >= 0]
        np.testing.assert_allclose(truth[real], best[best > 0], rtol=1e-5)
        assert len(set(real.tolist())) == len(real)


def test_without_a_share_the_list_is_the_models(model: Generative, markov: Markov) -> None:
    requests = [unseen(history) for history in HISTORIES]
    alone, same = model.rank(requests, 10), mixed(model, markov, share=0.0).rank(requests, 10)
    np.testing.assert_array_equal(same.items, alone.items)
    np.testing.assert_allclose(same.scores, alone.scores, rtol=1e-6)


def test_where_the_teacher_expects_nothing_the_model_is_alone_whatever_the_share(model: Generative) -> None:
    """It expects what is in the history, which may not come again."""
    alone, found = model.rank([unseen([3, 4])], 10), mixed(model, Alone(3), share=1.0).rank([unseen([3, 4])], 10)
    np.testing.assert_array_equal(found.items, alone.items)
    np.testing.assert_allclose(found.scores, alone.scores, rtol=1e-6)


def test_words_are_left_to_the_members_that_read_them(model: Generative) -> None:
    worded = Collaborative(Alone(21), IDS)  # type: ignore[arg-type]
    worded.reads = frozenset({"history", "words"})  # type: ignore[misc]
    both = Ensemble([Member(model, 0.7, BEAMS), Member(worded, 0.3, ITEMS)])
    assert both.rank([Request([3], words="sad")], 5).items[0].tolist() == [21, -1, -1, -1, -1]
    assert (both.rank([Request([3])], 5).items >= 0).all()


def test_what_no_beam_reached_comes_in_by_the_teacher_and_filters_keep_it_out(model: Generative) -> None:
    narrow = Generative(model.tokenizer, model.meta, model.catalogue, model.engine, 2)
    alone = narrow.rank([Request([3, 4])], 2)
    missed = next(item for item in range(20, 40) if item not in alone.items[0])
    both = mixed(narrow, Alone(missed), beams=2)
    assert missed in both.rank([Request([3, 4])], 2).items[0]
    np.testing.assert_array_equal(both.rank([Request([3, 4], denied=np.array([missed]))], 2).items, alone.items)


def test_what_is_in_the_history_is_expected_where_the_request_lets_it_come_again(model: Generative) -> None:
    both = mixed(model, Alone(4))
    again, new = (both.rank([request], ITEMS) for request in (Request([3, 4]), unseen([3, 4])))
    assert again.items[0, 0] == 4 and again.scores[0, 0] > np.log(SHARE) - 1e-6
    assert not {3, 4} & set(new.items[0].tolist())


def test_a_teacher_that_numbers_items_otherwise_means_the_same_items(model: Generative, markov: Markov) -> None:
    """It knows an item that the catalogue lacks, and lacks one that the catalogue has."""
    ids = ["unknown", *IDS[:0:-1]]
    order = np.array([IDS.index(item_id) if item_id in IDS else 0 for item_id in ids])

    class Straight(Alone):
        def score(self, histories: Sequences) -> np.ndarray:
            return markov.score(histories) * (np.arange(ITEMS) > 0)

    class Turned(Alone):
        def score(self, histories: Sequences) -> np.ndarray:
            return Straight(0).score(Sequences.of([order[row] for row in histories]))[:, order]

    other = Turned(0)
    other.items = Items(ids)
    requests = [unseen(history) for history in HISTORIES]
    turned, straight = (mixed(model, teacher).rank(requests, 12) for teacher in (other, Straight(0)))
    np.testing.assert_allclose(turned.scores, straight.scores, rtol=1e-6)
    np.testing.assert_array_equal(turned.items[:, :3], straight.items[:, :3])


@pytest.mark.parametrize("k", [1, 3])
def test_of_a_member_as_many_items_are_mixed_as_its_depth_says(markov: Markov, k: int) -> None:
    one, other = Collaborative(markov, IDS), Collaborative(Alone(8), IDS)  # type: ignore[arg-type]
    both, request = Ensemble([Member(one, 0.5, 3), Member(other, 0.5, 5)]), Request([3, 4])
    best = np.exp(one.rank([request], 3).scores[0].astype(np.float64))
    at = dict(zip(one.rank([request], 3).items[0].tolist(), best / 2, strict=True))
    at[8] = at.get(8, 0) + 0.5
    truth = sorted(at.values(), reverse=True)[:k]
    np.testing.assert_allclose(np.exp(both.rank([request], k).scores[0]), truth, rtol=1e-5)


def test_lists_come_mixed_wherever_a_run_is_opened_whose_recipe_says_so(tiny_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(tiny_run, folder)
    run(recipe_of(folder, ["evaluate.ensemble={model: markov, weight: 0.3}"]), folder, "evaluate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ArrayModel, "fit", lambda *_: pytest.fail("a model was fitted to open a run"))
        mixed, alone = llmrec.load(folder), llmrec.load(tiny_run)
    assert isinstance(mixed.recommender, Ensemble) and isinstance(alone.recommender, Generative)
    judged, before = (read_metrics(RunFolder(one).evaluation("test")) for one in (folder, tiny_run))
    assert judged["model"] == "nano+markov" and "nano+markov" in judged["systems"]
    assert judged["systems"][ALONE] == before["systems"]["nano"] != judged["systems"]["nano+markov"]
    assert set(judged["paired"]) >= {ALONE, "markov"}
    lists = pq.read_table(RunFolder(folder).evaluation("test") / "recommendations.parquet").to_pylist()
    history = [mixed.catalogue.item_ids[item] for item in Dataset.load(folder / "data").cases("test").histories[0]]
    mine = [(one["item_id"], one["score"]) for one in lists if one["user_id"] == lists[0]["user_id"]]
    found = mixed.recommend(history, len(mine))
    assert [item for item, _ in found] == [item for item, _ in mine]
    np.testing.assert_allclose([score for _, score in found], [score for _, score in mine], rtol=1e-3)
