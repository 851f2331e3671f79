"""Telling twins apart, and the health of codes, against loops and dictionaries."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.indexing.codes import to_symbols
from llmrec.indexing.collisions import add_level
from llmrec.indexing.health import count_duplicates, diagnose, measure_health
from llmrec.recipe import Indexing


def health(codes: np.ndarray, widths: list[int], vectors: np.ndarray, seed: int) -> dict:
    return measure_health(to_symbols(codes, range(codes.shape[1]), widths), widths, vectors, seed)


CODES = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=40)


@given(CODES, st.randoms(use_true_random=False))
def test_twins_are_numbered_in_the_order_of_their_rank_then_of_their_item(codes, random) -> None:
    rank = [random.choice([0.0, 0.5, 1.0]) for _ in codes]
    separated = add_level(np.array(codes, np.int32), np.array(rank))
    groups = defaultdict(list)
    for item, code in enumerate(codes):
        groups[code].append((rank[item], item))
    expected = {item: place for group in groups.values() for place, (_, item) in enumerate(sorted(group))}
    assert separated.tolist() == [[*code, expected[item]] for item, code in enumerate(codes)]
    assert len({*map(tuple, separated.tolist())}) == len(codes)


@settings(deadline=None)
@given(CODES)
def test_health_counts_what_a_loop_counts(codes) -> None:
    table = add_level(np.array(codes, np.int32), np.zeros(len(codes)))
    widths = [4, 3, int(table[:, -1].max()) + 2]
    vectors = np.random.default_rng(0).standard_normal((len(codes), 5)).astype(np.float32)
    found = health(table, widths, vectors, seed=0)
    groups = Counter(codes)
    assert found["collisions_before"] == sum(size for size in groups.values() if size > 1)
    assert found["largest_group"] == max(groups.values())
    assert found["moved"] == sum(size - 1 for size in groups.values())
    assert found["unique"]
    for number, width in enumerate(widths):
        counts = Counter(row[number] for row in table.tolist())
        entropy = -sum(n / len(codes) * math.log2(n / len(codes)) for n in counts.values())
        level = found["levels"][number]
        assert level["counts"] == [counts[symbol] for symbol in range(width)]
        assert level["used"] == len(counts)
        assert level["entropy_bits"] == pytest.approx(entropy, abs=1e-4)


def test_neighbours_kept_is_the_share_of_nearest_items_with_the_same_first_token() -> None:
    draw = np.random.default_rng(1)
    vectors = draw.standard_normal((60, 4)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    codes = np.stack([draw.integers(3, size=60), np.arange(60)], axis=1).astype(np.int32)
    kept = []
    for item in range(60):
        others = sorted((j for j in range(60) if j != item), key=lambda j: -float(vectors[item] @ vectors[j]))
        kept += [codes[j, 0] == codes[item, 0] for j in others[:10]]
    assert health(codes, [3, 60], vectors, seed=0)["neighbours_kept"] == pytest.approx(np.mean(kept), abs=1e-4)


def test_items_alike_are_those_that_a_loop_over_pairs_finds() -> None:
    draw = np.random.default_rng(2)
    vectors = draw.standard_normal((300, 16)).astype(np.float32)[draw.integers(0, 300, 5000)]
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[:40] = draw.standard_normal((40, 16))  # alone
    vectors[5] = vectors[4] + 1e-6
    names = Counter(row.tobytes() for row in vectors)
    expected = sum(times for times in names.values() if times > 1) + 2
    assert count_duplicates(vectors) == expected
    assert count_duplicates(vectors[:1]) == 0


def verdict_of(codes: list[list[int]], widths: list[int], vectors: np.ndarray) -> str:
    return " ".join(health(np.array(codes, np.int32), widths, vectors, seed=0)["verdict"])


def test_what_is_wrong_is_said_with_a_remedy() -> None:
    line = np.stack([np.cos(np.linspace(0, 3, 20)), np.sin(np.linspace(0, 3, 20))], axis=1).astype(np.float32)
    assert verdict_of([[i // 5, 0, i % 5] for i in range(20)], [4, 1, 5], line).count("add a level or widen") == 1
    assert "uses 2 of 64 codes: set indexing.width nearer to 2" in verdict_of(
        [[i // 10, i, 0] for i in range(20)], [64, 20, 1], line
    )
    assert "Level 2 uses 1 of 8 codes, so it distinguishes nothing: set indexing.levels lower" in verdict_of(
        [[i, 0, 0] for i in range(20)], [20, 8, 1], line
    )
    assert verdict_of([[i // 10, i % 10, 0] for i in range(20)], [2, 10, 1], line).startswith("Healthy. 20 items")


def test_figures_and_words_of_codes_that_were_moved_tell_of_the_same_twins() -> None:
    table = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.int32)
    before = np.array([[0, 0], [0, 0], [1, 0], [1, 1]], np.int32)
    args = to_symbols(table, range(2), [2, 2]), [2, 2], None, 0
    found = measure_health(*args, before=to_symbols(before, range(2), [2, 2]), suffix="reassigned")
    assert (found["collisions_before"], found["moved"], found["collisions_after"]) == (2, 1, 0)
    assert "2 shared one before collisions were reassigned, at most 2 together" in found["verdict"][0]


@pytest.mark.parametrize(
    ("how", "suffix", "changed", "said"),
    [
        (
            {},
            "dedup",
            {"levels": [10, 64]},
            "Level 1 uses 10 of 64 codes: set indexing.width nearer to 10, or try",
        ),
        ({"method": "kmeans-tree"}, "dedup", {"levels": [10, 64]}, "set indexing.width nearer to 10."),
        ({}, "dedup", {"bits": 2.0}, "Level 1 is uneven, 2.0 of 6.0 bits: 70 items have one of its codes."),
        ({"method": "category"}, "dedup", {"bits": 2.0}, "Healthy."),
        ({}, "dedup", {"same_vector": 6}, "6 items have the vector of another"),
        (
            {"bpe_vocab": 900},
            "dedup",
            {"levels": [100]},
            "Codes use 100 of 1000 pieces: set indexing.bpe_vocab lower.",
        ),
        (
            {"method": "category"},
            "dedup",
            {"collisions_before": 90},
            "90% of items shared a code before collisions",
        ),
        (
            {"method": "category", "append": ["item"]},
            "per-item",
            {"collisions_before": 90},
            "Healthy. 100 items have unique",
        ),
        ({"method": "category", "append": ["collaborative"]}, "dedup", {"collisions_before": 90}, "a smaller"),
        ({"method": "item"}, "per-item", {"collisions_before": 100}, "only rows that start from vectors"),
        ({"method": "number"}, "none", {"levels": [1, 9]}, "nothing else in common: a baseline."),
        ({"fusion": "ppmi"}, "dedup", {"neighbours_kept": 0.01}, "Healthy."),
        ({}, "dedup", {"neighbours_kept": 0.01}, "Only 1% of nearest items share a first token"),
        ({"fusion": "concat"}, "dedup", {"dominance": 0.5}, "fusion=weighted or aligned gives weight to both"),
        ({"fusion": "weighted"}, "dedup", {"dominance": -0.5}, "co-occurrence far more than text (dominance -0.50)"),
        ({"fusion": "aligned"}, "dedup", {"dominance": 0.5}, "widen the first level"),
    ],
)
def test_a_verdict_advises_what_its_method_has(how: dict, suffix: str, changed: dict, said: str) -> None:
    levels = [
        {"level": number, "used": used, "width": 1000 if how.get("bpe_vocab") else 64, "counts": [70, 30]}
        | {"entropy_bits": changed.get("bits", 5.0)}
        for number, used in enumerate([*changed.get("levels", [64]), 3], 1)
    ]
    found = {"items": 100, "levels": levels, "suffix": suffix, "unique": True, "largest_group": 2} | {
        "same_vector": changed.get("same_vector", 0),
        "collisions_before": changed.get("collisions_before", 2),
        "neighbours_kept": changed.get("neighbours_kept", 0.5),
        "dominance": changed.get("dominance", 0.0),
    }
    assert said in " ".join(diagnose(found, Indexing.model_validate(how)))


def test_one_item_alone_is_healthy() -> None:
    assert verdict_of([[0, 0]], [1, 1], np.ones((1, 2), np.float32)).startswith("Healthy.")
