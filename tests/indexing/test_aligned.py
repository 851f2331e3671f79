"""Text and behaviour together: which of the two decides the codes, in a world where their groups cross."""

from __future__ import annotations

import numpy as np
import pytest

from llmrec.contracts import Sequences
from llmrec.indexing import vectors
from llmrec.indexing.codebooks import residual_kmeans
from llmrec.indexing.health import nmi
from llmrec.indexing.vectors import aligned, fit_alignment
from llmrec.recipe import Indexing

GROUPS, ITEMS = 8, 480
ABOUT, COMPANY = np.arange(ITEMS) % GROUPS, np.arange(ITEMS) // GROUPS % GROUPS  # every pair of groups alike often
CROSSED = 64  # as many codes as pairs of groups


@pytest.fixture(scope="module", params=[0.3, 1.5])  # noise of text: weak, so that its groups are clear, or strong
def agreements(request) -> dict[str, tuple[float, float]]:
    """NMI of codes with groups of text and with groups of company, by what was quantized; codes are level one's."""
    draw = np.random.default_rng(0)
    text = draw.standard_normal((GROUPS, 384))[ABOUT] + request.param * draw.standard_normal((ITEMS, 384))
    text = vectors.normalize(text).astype(np.float32)
    train = Sequences.of(
        [draw.choice(np.flatnonzero(user % GROUPS == COMPANY), 12, replace=False) for user in range(600)]
    )
    found = {}
    for way in ("text", "ppmi", "concat", "weighted", "aligned"):
        source = vectors.fit_source(Indexing(fusion=way, collaborative_model="ppmi"), text, train, 0)
        of = np.ascontiguousarray(source.combine(text, source.collaborative), np.float32)
        for width in (GROUPS, CROSSED):
            codes = residual_kmeans(of, 1, width, 0)[1][:, 0]
            found[f"{way} {width}"] = nmi(codes, ABOUT), nmi(codes, COMPANY)
    return found


def dominance(pair: tuple[float, float]) -> float:
    return pair[0] - pair[1]


def test_plain_concatenation_is_decided_by_the_text(agreements) -> None:
    assert dominance(agreements[f"concat {GROUPS}"]) > 0.6  # as many codes as groups: they are the text's
    assert dominance(agreements[f"concat {CROSSED}"]) > 0.1


def test_aligned_vectors_are_decided_by_neither_side(agreements) -> None:
    plain, weighted, even = (
        abs(dominance(agreements[f"{way} {CROSSED}"])) for way in ("concat", "weighted", "aligned")
    )
    assert even < weighted < plain
    assert even < 0.1
    ceilings = agreements[f"text {CROSSED}"][0], agreements[f"ppmi {CROSSED}"][1]
    assert all(one > ceiling / 2 for one, ceiling in zip(agreements[f"aligned {CROSSED}"], ceilings, strict=True))


def test_the_two_sides_of_an_item_that_the_maps_never_saw_lie_near_each_other() -> None:
    draw = np.random.default_rng(0)
    shared = draw.standard_normal((600, 8))  # what both sides tell of an item, each in its own way
    text, behaviour = (
        (shared @ draw.standard_normal((8, dim)) + 0.3 * draw.standard_normal((600, dim))).astype(np.float32)
        for dim in (48, 16)
    )
    learnt = fit_alignment(text[:400], behaviour[:400], np.ones(400, bool), seed=1)
    both = aligned(text[400:], behaviour[400:], learnt)
    one, other = (vectors.normalize(side) for side in np.split(both, 2, axis=1))
    found = (one @ other.T).argmax(axis=1) == np.arange(200)
    assert found.mean() > 0.5  # by chance, one in two hundred
