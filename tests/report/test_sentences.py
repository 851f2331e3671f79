"""Sentences say what the intervals say, and no more."""

import math

import pytest

from llmrec.report import sentences


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.01, 0.02, "better"), (-0.02, -0.01, "worse"), (-0.01, 0.01, "not significant"), (0.0, 0.02, "not significant")],
)
def test_only_an_interval_that_leaves_out_zero_takes_a_side(low, high, said):
    assert sentences.compare_interval(low, high) == said


def against(low, high):
    return {"mean": (low + high) / 2, "low": low, "high": high, "p": 0.5}


def test_a_metric_that_disagrees_is_spelled_out():
    paired = {"markov": {"hr@10": against(0.1, 0.2), "ndcg@10": against(-0.1, 0.2)}}
    metrics = {"model": "nano", "paired": paired}
    assert sentences.headline(metrics) == "On HR@10, nano is better than Markov."
    assert sentences.second_metric(metrics) == "On NDCG@10, nano does not differ significantly from Markov."


def test_without_hr_at_10_the_headline_says_which_metric_it_means():
    metrics = {"model": "nano", "paired": {"ease": {"ndcg@10": against(-2, -1)}}}
    assert sentences.headline(metrics) == "On NDCG@10, nano is worse than EASE."
    assert sentences.second_metric(metrics) is None


def test_an_unknown_baseline_keeps_its_own_name():
    assert "than mine." in sentences.headline({"model": "nano", "paired": {"mine": {"hr@10": against(1, 2)}}})


def test_a_diverged_training_is_called_one():
    assert "diverged" in sentences.training_summary([{"step": 1, "loss": 2.0}, {"step": 7, "loss": math.nan}])
    assert sentences.training_summary([{"step": 1}]) == "The log has no loss."


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (True, "yes"),
        (1234567, "1\u202f234\u202f567"),
        (0.30999, "0.31"),
        ([1, "a"], "1, a"),
        (None, "–"),
        ({"k": 5}, "k 5"),
    ],
)
def test_values_of_files_read_well(value, said):
    assert sentences.format_value(value) == said


@pytest.mark.parametrize(("seconds", "said"), [(8.21, "8.2 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")])
def test_durations_read_well(seconds, said):
    assert sentences.format_duration(seconds) == said


def test_names_are_listed_as_in_prose():
    assert [sentences.join_names(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == [
        "a",
        "a and b",
        "a, b and c",
    ]
