"""Ratings against scikit-learn, text against hand-counted words, slices against loops."""

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, roc_auc_score, root_mean_squared_error

from llmrec.contracts import Sequences
from llmrec.metrics.predictions import auc, bleu, mae, rmse, rouge
from llmrec.metrics.ranking import is_head, slices

RNG = np.random.default_rng(0)
GIVEN, PREDICTED = RNG.integers(1, 6, 80).astype(float), RNG.normal(3, 1, 80)


def test_errors_are_those_of_scikit_learn():
    assert rmse(PREDICTED, GIVEN) == pytest.approx(root_mean_squared_error(GIVEN, PREDICTED))
    assert mae(PREDICTED, GIVEN) == pytest.approx(mean_absolute_error(GIVEN, PREDICTED))


@pytest.mark.parametrize("levels", [3, 1000])
def test_auc_is_scikit_learn_s_with_and_without_ties_and_nothing_where_all_are_alike(levels):
    scores, liked = RNG.integers(0, levels, 80).astype(float), GIVEN >= 4
    assert auc(scores, liked) == pytest.approx(roc_auc_score(liked, scores))
    assert np.isnan([auc(scores, np.full(80, True)), auc(scores, np.full(80, False)), auc(scores[:0], liked[:0])]).all()


def test_an_answer_that_could_not_be_read_is_not_averaged_away():
    with pytest.raises(ValueError, match="Leave out, and report"):
        rmse(np.array([np.nan, 3.0]), np.array([1.0, 3.0]))
    with pytest.raises(ValueError, match="one finite score"):
        auc(np.array([np.nan, 3.0]), np.array([True, False]))


def test_text_that_repeats_its_reference_is_perfect_and_text_without_a_word_of_it_is_nothing():
    said = ["the acting is great and the story moves", "a dull film about a dull man in a town"]
    assert bleu(said, said) == pytest.approx(100)
    assert rouge(said, said)["rougeL"].tolist() == [1, 1]
    assert rouge(["nothing alike"], [said[0]])["rouge1"][0] == 0


def test_rouge_counts_words_pairs_and_the_longest_common_run():
    found = rouge(["the cat sat down"], ["the cat lay down"])
    assert found["rouge1"][0] == pytest.approx(3 / 4)
    assert found["rouge2"][0] == pytest.approx(1 / 3)
    assert found["rougeL"][0] == pytest.approx(3 / 4)


def test_bleu_is_the_geometric_mean_of_the_shares_of_runs_times_the_penalty_for_brevity():
    # Runs of 1 to 4 words found: 5/5, 4/4, 3/3, 2/2; five words where the reference has six: exp(1 - 6/5).
    assert bleu(["a b c d e"], ["a b c d e f"]) == pytest.approx(100 * np.exp(1 - 6 / 5))


def test_texts_without_references_are_refused():
    for measure in (bleu, rouge):
        with pytest.raises(ValueError, match="needs its reference"):
            measure(["a"], [])


def test_slices_share_out_the_cases():
    events = np.array([50, 30, 10, 6, 4, 0])  # 80 % of 100 events: the first two items
    assert is_head(events).tolist() == [True, True, False, False, False, False]
    targets, histories = np.array([0, 1, 2, 5]), Sequences.of([[1], [1, 2], [1, 2, 3], [0]])
    found = {name: mask.tolist() for name, mask in slices(targets, histories, events).items()}
    assert found["head items"] == [True, True, False, False]
    assert found["tail items"] == [False, False, True, False]
    assert found["cold items"] == [False, False, False, True]
    assert found["long histories"] == [False, True, True, False]  # the median is 1.5 items
    assert found["short histories"] == [not long for long in found["long histories"]]
