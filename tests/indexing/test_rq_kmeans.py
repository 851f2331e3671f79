"""Residual k-means: what was planted is found, what is left over shrinks, and a seed says everything."""

from __future__ import annotations

import numpy as np
import pytest

from llmrec.errors import CodeError
from llmrec.indexing.codebooks import residual_kmeans


def planted(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(320, 16) vectors: one of four far centres, one of four near offsets, a little noise; and both numbers."""
    draw = np.random.default_rng(seed)
    far, near = 10 * np.eye(16)[:4], np.eye(16)[4:8]
    which = np.stack([draw.permutation(np.repeat(np.arange(4), 80)), draw.integers(4, size=320)], axis=1)
    vectors = far[which[:, 0]] + near[which[:, 1]] + 0.01 * draw.standard_normal((320, 16))
    return vectors.astype(np.float32), which


def same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    pairs = {*zip(one.tolist(), other.tolist(), strict=True)}
    return len(pairs) == len(set(one.tolist())) == len(set(other.tolist()))


def test_each_level_finds_the_clusters_planted_at_its_scale() -> None:
    vectors, which = planted()
    codes, residual = residual_kmeans(vectors, 2, 4, seed=1)[0].encode(vectors)
    assert same_partition(codes[:, 0], which[:, 0])
    assert same_partition(codes[:, 1], which[:, 1])
    assert np.linalg.norm(residual, axis=1).max() < 0.2


def test_codes_are_the_nearest_centroid_level_by_level() -> None:
    vectors, _ = planted()
    books = residual_kmeans(vectors, 3, 6, seed=2)[0]
    codes, residual = books.encode(vectors)
    for row in range(0, len(vectors), 17):
        left = vectors[row].astype(np.float64)
        for level, centroids in enumerate(books.centroids):
            chosen = codes[row, level]
            distance = ((left - centroids) ** 2).sum(axis=1)
            assert distance[chosen] <= distance.min() + 1e-4
            left = left - centroids[chosen]
        np.testing.assert_allclose(residual[row], left, atol=1e-4)


def test_every_level_leaves_less_unexplained() -> None:
    vectors = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
    left = [np.square(residual_kmeans(vectors, levels, 8, seed=0)[2]).sum() for levels in (1, 2, 3, 4)]
    assert left == sorted(left, reverse=True)


def test_the_same_seed_gives_the_same_codebooks_and_another_gives_others() -> None:
    vectors = np.random.default_rng(0).standard_normal((300, 8)).astype(np.float32)
    one, again, other = (residual_kmeans(vectors, 3, 8, seed=seed)[0].centroids for seed in (5, 5, 6))
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)


def test_items_that_are_all_alike_still_get_codes() -> None:
    codes, _ = residual_kmeans(np.ones((20, 4), np.float32), 2, 4, seed=0)[0].encode(np.ones((20, 4), np.float32))
    assert len(np.unique(codes, axis=0)) == 1


def test_fewer_items_than_centroids_are_refused_with_a_width_that_would_do() -> None:
    with pytest.raises(CodeError, match=r"12 items cannot fill 64 codes a level. Set indexing.width to 3 or less"):
        residual_kmeans(np.ones((12, 4), np.float32), 2, 64, seed=0)


def test_vectors_of_another_encoder_are_refused() -> None:
    books = residual_kmeans(np.random.default_rng(0).standard_normal((9, 4)).astype(np.float32), 1, 2, seed=0)[0]
    with pytest.raises(CodeError, match="vectors have 5 numbers but the codebooks 4"):
        books.encode(np.ones((1, 5), np.float32))


def test_training_says_nothing_on_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    residual_kmeans(np.random.default_rng(0).standard_normal((10, 4)).astype(np.float32), 2, 8, seed=0)
    assert capfd.readouterr().err == ""
