"""Sampling over the trie against exact probabilities."""

import itertools
from functools import partial

import numpy as np
import pytest
from decode_truth import SYMBOLS, TOKENS, brute_force, random_codes, random_prompts, tiny

from llmrec.decode.filters import Filter
from llmrec.decode.sample import sample
from llmrec.decode.scorer import Scorer
from llmrec.errors import RequestError
from llmrec.indexing.trie import Trie


def world(items=8, rows=2, seed=0):
    random = np.random.default_rng(seed)
    codes = random_codes(random, items)
    return codes, Trie.build(codes, SYMBOLS), random_prompts(random, rows), Scorer(tiny("llama"))


@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_items_are_drawn_as_often_as_they_are_likely(temperature):
    codes, trie, prompts, scorer = world()
    n = 20_000
    filters = [None, Filter.of(trie, deny=[0, 3])]
    drawn = sample(scorer, trie, TOKENS, prompts, n, temperature, filters, seed=1)
    for row, allowed in enumerate([range(8), [1, 2, 4, 5, 6, 7]]):
        truth = brute_force(tiny("llama"), codes, prompts[row], "allowed", allowed, temperature)
        frequency = np.bincount(drawn.items[row], minlength=8) / n
        spread = np.sqrt(np.exp(truth) * (1 - np.exp(truth)) / n)
        assert (np.abs(frequency - np.exp(truth)) <= 4.5 * spread + 1e-9).all()
        np.testing.assert_allclose(drawn.log_probs[row], truth[drawn.items[row]], atol=5e-5)


def test_sets_without_replacement_are_drawn_as_often_as_draws_one_by_one_would():
    codes, trie, prompts, scorer = world(items=5, rows=1, seed=2)
    rounds = 6_000
    drawn = sample(scorer, trie, TOKENS, prompts * rounds, 2, temperature=3.0, seed=3, replacement=False)
    p = np.exp(brute_force(tiny("llama"), codes, prompts[0], "allowed", temperature=3.0))  # flat: no pair is rare
    for first, second in itertools.permutations(range(5), 2):
        truth = p[first] * p[second] / (1 - p[first])  # the second is drawn from what the first leaves
        frequency = ((drawn.items[:, 0] == first) & (drawn.items[:, 1] == second)).mean()
        assert abs(frequency - truth) <= 4.5 * np.sqrt(truth * (1 - truth) / rounds) + 1e-9
    # importance weights make sums over the drawn unbiased: here the number of items with a property, weighted by p
    inside = 1 - np.exp(-np.exp(drawn.log_probs - drawn.threshold[:, None]))
    estimate = (np.exp(drawn.log_probs) / inside * (drawn.items % 2 == 0)).sum(1)
    assert abs(estimate.mean() - p[::2].sum()) <= 4.5 * estimate.std() / np.sqrt(rounds)


def test_draws_without_replacement_are_distinct_allowed_and_end_when_nothing_is_left():
    codes, trie, prompts, scorer = world(items=12, rows=4, seed=4)
    filters = [None, Filter.of(trie, deny=[1, 2]), Filter.of(trie, allow=[5, 6, 7]), Filter.of(trie, allow=[])]
    drawn = sample(scorer, trie, TOKENS, prompts, 6, filters=filters, seed=5, replacement=False)
    for row, allowed in enumerate([set(range(12)), set(range(12)) - {1, 2}, {5, 6, 7}, set()]):
        found = [item for item in drawn.items[row].tolist() if item >= 0]
        assert len(found) == len(set(found)) == min(6, len(allowed)) and set(found) <= allowed
        truth = brute_force(tiny("llama"), codes, prompts[row], "allowed", sorted(allowed))
        np.testing.assert_allclose(drawn.log_probs[row, : len(found)], truth[found], atol=5e-5)
        assert np.isneginf(drawn.log_probs[row, len(found) :]).all()
        assert np.isneginf(drawn.threshold[row]) == (len(allowed) <= 6)
    empty = sample(scorer, trie, TOKENS, prompts, 3, filters=filters, seed=5)
    assert (empty.items[3] == -1).all() and np.isneginf(empty.log_probs[3]).all()


def test_the_same_seed_draws_the_same_items():
    _, trie, prompts, scorer = world()
    for draw in (sample, partial(sample, replacement=False)):
        one, two, other = (draw(scorer, trie, TOKENS, prompts, 5, seed=seed) for seed in (1, 1, 2))
        assert (one.items == two.items).all() and not (one.items == other.items).all()
        with pytest.raises(RequestError, match="at least 1"):
            draw(scorer, trie, TOKENS, prompts, 0)
        with pytest.raises(RequestError, match="temperature"):
            draw(scorer, trie, TOKENS, prompts, 2, temperature=0.0)
