"""Models that are trained, and ItemKNN: their formulas against dense ones, and that they find what is planted."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from llmrec.collaborative import Bpr, ItemKnn, LightGcn, Popularity, SasRec, sasrec
from llmrec.collaborative.factors import triple_batches
from llmrec.collaborative.sasrec import IGNORED
from llmrec.contracts import Items, Sequences
from llmrec.data.synthetic import GroundTruth, events
from llmrec.metrics.ranking import hit, rank_targets
from llmrec.recipe import SyntheticConfig
from llmrec.seed import stream

RNG = np.random.default_rng(0)
TRAIN = Sequences.of([RNG.integers(0, 14, RNG.integers(1, 9)) for _ in range(40)])
CATALOGUE, CPU = Items.numbered(15), torch.device("cpu")
BINARY = np.zeros((40, 15))
BINARY[TRAIN.rows, TRAIN.items] = 1  # item 14 is never seen


@pytest.mark.parametrize(("neighbours", "shrink"), [(100, 0.0), (100, 5.0), (4, 2.0)])
def test_item_knn_sums_shrunk_cosines_of_the_nearest(neighbours, shrink):
    counts = BINARY.T @ BINARY
    lengths = np.sqrt(np.diag(counts))
    cosine = counts / np.maximum(np.outer(lengths, lengths) + shrink, 1e-12)
    np.fill_diagonal(cosine, 0)
    for row in cosine:
        row[row < np.sort(row)[::-1][min(neighbours, 15) - 1]] = 0
    asked = Sequences.of([[0, 3, 3], [], [14], [5, 9, 1]])
    truth = np.zeros((4, 15))
    for row, history in enumerate(asked):
        for item in set(history.tolist()):
            truth[row] += cosine[item]
    scores = ItemKnn(neighbours=neighbours, shrink=shrink).fit(TRAIN, CATALOGUE).score(asked)
    np.testing.assert_allclose(scores, truth, rtol=1e-5, atol=1e-7)


def test_triples_hold_every_event_once_and_a_negative_that_its_row_lacks():
    rows, positives, negatives = (
        np.concatenate(part) for part in zip(*triple_batches(TRAIN, 15, 7, stream(0), CPU), strict=True)
    )
    assert sorted(zip(rows, positives, strict=True)) == sorted(zip(TRAIN.rows, TRAIN.items, strict=True))
    assert not BINARY[rows, negatives].any()


def test_a_user_of_bpr_is_the_mean_of_the_history_s_items():
    model = Bpr(epochs=2, width=6).fit(TRAIN, CATALOGUE)
    users = np.stack([model.vectors[[2, 5, 11]].mean(axis=0), np.zeros(6)])
    np.testing.assert_allclose(model.score(Sequences.of([[2, 5, 11, 5], []])), users @ model.vectors.T, atol=1e-6)


def test_lightgcn_walks_the_normalised_graph():
    model = LightGcn(epochs=1, width=5, layers=2).fit(TRAIN, CATALOGUE)
    degrees = BINARY.sum(0)
    # A known user's layers above the first, from the dense normalised matrix and the items one step below.
    for row in range(4):
        own = BINARY[row] / np.sqrt(BINARY[row].sum() * np.maximum(degrees, 1))
        user = own @ model.steps[0] + own @ model.steps[1]
        truth = np.mean(model.steps, axis=0) @ user
        np.testing.assert_allclose(model.score(Sequences.of([TRAIN[row]]))[0], truth, rtol=1e-4, atol=1e-6)


def test_sasrec_s_loss_is_the_mean_surprise_over_every_item_of_every_row():
    model = SasRec(epochs=0, width=16, window=5, dropout=0.0).fit(TRAIN, CATALOGUE)
    inputs, targets = model._padded([TRAIN[row] for row in range(6)])
    assert (targets != IGNORED).sum() == sum(min(len(TRAIN[row]), 6) for row in range(6))
    surprise = []
    for row in range(6):
        kept = TRAIN[row][-6:]
        for place_, item in enumerate(kept):
            logits = torch.from_numpy(model.score(Sequences.of([kept[:place_]]))[0])
            surprise.append(-functional.log_softmax(logits, dim=0)[item].item())
    # Training reads in bfloat16, hence the tolerance: three digits.
    assert model.network.loss(inputs, targets).item() == pytest.approx(np.mean(surprise), rel=5e-3)


@pytest.mark.parametrize(
    ("precision", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)], ids=["fp32", "bf16"]
)
def test_the_softmax_loss_in_pieces_is_the_ordinary_one_with_its_gradients(precision, tolerance, monkeypatch):
    monkeypatch.setattr(sasrec, "ROWS", 4)
    torch.manual_seed(0)
    given = [torch.randn(shape, requires_grad=True) for shape in ((11, 6), (9, 6), (9,))]
    targets = torch.randint(9, (11,))
    states, weight, bias = given
    ordinary = functional.cross_entropy(states @ weight.T + bias, targets)
    pieces = sasrec.softmax_loss(states, weight, bias, targets, precision)
    assert pieces.item() == pytest.approx(ordinary.item(), rel=tolerance)
    for one, other in zip(
        torch.autograd.grad(3 * pieces, given), torch.autograd.grad(3 * ordinary, given), strict=True
    ):
        torch.testing.assert_close(one, other, atol=tolerance, rtol=tolerance)


def test_sasrec_reads_its_window_and_no_more():
    model = SasRec(epochs=1, width=16, window=4).fit(TRAIN, CATALOGUE)
    long, short = model.score(Sequences.of([[9, 9, 1, 2, 3, 4], [1, 2, 3, 4]]))
    assert np.array_equal(long, short)


@pytest.mark.parametrize(
    ("model", "world", "share"),
    [
        (SasRec(width=32, epochs=25, batch=64, dropout=0.2, learning_rate=5e-3), {"order": 0.7, "taste": 0.1}, 0.7),
        (Bpr(width=16, epochs=25, learning_rate=0.02), {"order": 0.0, "taste": 0.8}, 0.6),
        (LightGcn(width=16, epochs=25, layers=2, learning_rate=0.02), {"order": 0.0, "taste": 0.8}, 0.6),
        (ItemKnn(), {"order": 0.0, "taste": 0.8}, 0.6),
    ],
    ids=["sasrec", "bpr", "lightgcn", "item-knn"],
)
def test_what_is_planted_is_found(model, world, share):
    """Each reaches a share of the way from popularity to the best score that there can be."""
    made = SyntheticConfig(users=400, items=60, groups=4, events=10, popularity=0.5, seed=3, **world)
    truth = GroundTruth.of(made)
    happened = events(made, truth)
    known, targets = Sequences.of(row[:-1] for row in happened), np.array([row[-1] for row in happened])
    train = Sequences.of(row[:-1] for row in known)
    best = truth.best(known, ["hr@5"])["hr@5"]
    found, floor = (
        hit(rank_targets(one.fit(train, Items.numbered(60)).score(known), targets, known), 5).mean()
        for one in (model, Popularity())
    )
    assert floor + share * (best - floor) < found
