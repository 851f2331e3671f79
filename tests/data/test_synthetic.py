"""Worlds: what is drawn follows the stated chances, and nobody beats the best score but by luck."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from llmrec.collaborative import Ease, Markov, Popularity
from llmrec.contracts import Items, Sequences
from llmrec.data import dataset as data
from llmrec.data.dataset import Dataset
from llmrec.data.synthetic import GroundTruth, events, read_synthetic, vocabularies
from llmrec.metrics.ranking import hit, ndcg, rank_targets
from llmrec.recipe import Data, SyntheticConfig

SMALL = SyntheticConfig(users=30, items=12, groups=3, events=5, order=0.4, taste=0.4, seed=1)
MIDDLE = SyntheticConfig(users=1500, items=80, groups=5, events=9, order=0.45, taste=0.35, seed=2)


def plainly(truth: GroundTruth, history: list[int], group: int) -> np.ndarray:
    """The chances of the next item, written item by item from the module's formula."""
    inside = sum(truth.popular[truth.group_of_item == group])
    chances = []
    for item in range(len(truth.popular)):
        own = truth.popular[item] / inside if truth.group_of_item[item] == group else 0
        planted = bool(history) and truth.successor[history[-1]] == item
        rest = 1 - truth.order - truth.taste
        chances.append(truth.order * planted + truth.taste * own + rest * truth.popular[item])
    return np.where(np.isin(np.arange(len(chances)), history), 0, chances)


def test_the_chances_are_the_formula_and_the_belief_is_bayes_rule() -> None:
    truth = GroundTruth.of(SMALL)
    for history in ([], [3], [0, truth.successor[0], 5], [7, 2, 1, 9]):
        joint = []
        for group in range(3):
            likelihood = 1 / 3
            for place_, item in enumerate(history):
                chances = plainly(truth, history[:place_], group)
                likelihood *= chances[item] / chances.sum()
            joint.append(likelihood)
        belief = np.array(joint) / sum(joint)
        found = truth.belief(np.array(history, dtype=int))
        # The first event is drawn without a last one, so the planted share is simply not there.
        np.testing.assert_allclose(found, belief, rtol=1e-9)
        mixed = sum(b * plainly(truth, history, g) / plainly(truth, history, g).sum() for g, b in enumerate(belief))
        np.testing.assert_allclose(truth.probabilities([np.array(history, dtype=int)])[0], mixed, rtol=1e-9)


def test_successors_make_one_circle_and_nobody_meets_an_item_twice() -> None:
    truth = GroundTruth.of(SMALL)
    item, met = 0, set()
    while item not in met:
        met.add(item)
        item = int(truth.successor[item])
    assert len(met) == 12
    assert all(len(set(row.tolist())) == len(row) for row in events(SMALL, truth))


def test_events_come_as_often_as_their_chances_say() -> None:
    truth, happened = GroundTruth.of(MIDDLE), events(MIDDLE, GroundTruth.of(MIDDLE))
    expected = observed = spread = 0.0
    for row, group in zip(happened, truth.group_of_user, strict=True):
        for step in range(1, len(row)):
            chance = truth.given_group([row[:step]], np.array([group]))[0, truth.successor[row[step - 1]]]
            expected, spread = expected + chance, spread + chance * (1 - chance)
            observed += row[step] == truth.successor[row[step - 1]]
    assert abs(observed - expected) < 4 * spread**0.5  # four deviations of a sum of coins


def test_the_truth_scores_what_is_called_best_and_no_model_exceeds_it_but_by_luck() -> None:
    truth, happened = GroundTruth.of(MIDDLE), events(MIDDLE, GroundTruth.of(MIDDLE))
    known = Sequences.of(row[:-1] for row in happened)
    targets = np.array([row[-1] for row in happened])
    best = truth.best(known, ["hr@5", "ndcg@5"])
    luck = 4 * np.sqrt(best["hr@5"] * (1 - best["hr@5"]) / len(targets))
    places = rank_targets(truth.probabilities(list(known)), targets, known)
    assert hit(places, 5).mean() == pytest.approx(best["hr@5"], abs=luck)
    assert ndcg(places, 5).mean() == pytest.approx(best["ndcg@5"], abs=luck)
    train = Sequences.of(row[:-1] for row in known)
    models = {"popularity": Popularity(), "markov": Markov(max_gap=1, fade=0.0), "ease": Ease(l2=10.0)}
    scores = {
        name: hit(rank_targets(model.fit(train, Items.numbered(80)).score(known), targets, known), 5).mean()
        for name, model in models.items()
    }
    assert scores["popularity"] + luck < scores["markov"] <= best["hr@5"] + luck
    assert scores["ease"] <= best["hr@5"] + luck


def test_a_world_with_little_noise_is_solved_by_transitions_alone() -> None:
    world = SyntheticConfig(users=300, items=40, groups=4, events=9, order=0.99, taste=0.0, popularity=0.0)
    truth = GroundTruth.of(world)
    best = truth.best(Sequences.of(row[:-1] for row in events(world, truth)), ["hr@1"])
    # The planted successor has .99 and its share of the even rest, unless it was met before, which is rare.
    assert 0.98 < best["hr@1"] < 1


def test_words_tell_the_group_and_no_group_shares_one() -> None:
    raw, truth, vocabulary = read_synthetic(SMALL), GroundTruth.of(SMALL), vocabularies(SMALL)
    assert len({word for own in vocabulary for word in own}) == sum(map(len, vocabulary))
    for row, group in zip(raw.items.to_pylist(), truth.group_of_item, strict=True):
        assert set(row["title"].split()[:2]) <= set(vocabulary[group])
        assert row["category"] == vocabulary[group][0]
    assert len(set(raw.items["title"].to_pylist())) == 12


def test_ratings_follow_taste_and_reasons_say_so() -> None:
    raw, truth = read_synthetic(MIDDLE), GroundTruth.of(MIDDLE)
    assert isinstance(raw.interactions, pa.Table)
    by_taste: dict[bool, list[float]] = {True: [], False: []}
    for row in raw.interactions.slice(0, 2000).to_pylist():
        like = truth.group_of_user[int(row["user_id"][1:])] == truth.group_of_item[int(row["item_id"][1:])]
        by_taste[bool(like)].append(row["rating"])
        assert ("which is what they like" in row["explanation"]) == like
        assert ("disappoints" in row["review"]) == (row["rating"] <= 2)
    assert min(by_taste[True]) == 4 and np.mean(by_taste[False]) < 3


@pytest.mark.parametrize("split", ["leave-one-out", "temporal", "cold-items", "cold-users"])
def test_a_recipe_may_name_a_world_and_split_it_as_it_likes(split: str, tmp_path: Path) -> None:
    recipe = Data.model_validate({"source": "synthetic", "synthetic": MIDDLE.model_dump(), "split": split})
    facts = data.make(recipe, 7, tmp_path)
    dataset = Dataset.load(tmp_path)
    assert facts["users"] == len(dataset.histories)
    assert {"rating", "review", "summary", "explanation"} <= set(dataset.interactions.column_names)
    assert 0 < facts["best achievable"]["hr@1"] < facts["best achievable"]["hr@10"] < 1  # type: ignore[index]
