"""Quantizers against closed forms and libraries: shares, plans of transport, errors, what is planted."""

from __future__ import annotations

import faiss
import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from llmrec.contracts import Sequences
from llmrec.errors import CodeError
from llmrec.indexing import collisions, rq_vae
from llmrec.indexing.codebooks import kmeans_tree, product_quantizer, residual_kmeans
from llmrec.indexing.collisions import transport_plan
from llmrec.indexing.health import nmi
from llmrec.indexing.kmeans import balanced_kmeans
from llmrec.indexing.methods import collaborative
from llmrec.items.item_vectors import ppmi_pairs, ppmi_vectors

DRAW = np.random.default_rng(0)
GROUP = DRAW.permutation(np.repeat(np.arange(8), 50))
PLANTED = (4 * np.eye(16)[GROUP] + 0.1 * DRAW.standard_normal((400, 16))).astype(np.float32)


def test_planted_clusters_are_found() -> None:
    tree = kmeans_tree(PLANTED, 2, 8, 1)[1]
    level = balanced_kmeans(PLANTED, 8, 1)[1]
    vae = rq_vae.fit(PLANTED, 2, 8, 1, epochs=20)[0].encode(PLANTED)[0]
    for found in (tree[:, 0], level, vae[:, 0]):  # test_rq_kmeans.py has those of residual k-means
        assert adjusted_rand_score(GROUP, found) > 0.9


def test_no_cluster_has_more_than_its_share() -> None:
    vectors = DRAW.standard_normal((203, 5)).astype(np.float32) ** 3
    for width in (2, 7, 50, 203):
        assert np.bincount(balanced_kmeans(vectors, width, 0)[1], minlength=width).max() <= -(-203 // width)
    _, codes, residual = residual_kmeans(vectors, 2, 7, 0, balanced=True)
    assert max(np.bincount(column).max() for column in codes.T) <= 29
    assert np.unique(kmeans_tree(vectors, 2, 6, 0)[1], axis=0, return_counts=True)[1].max() <= 6  # 203 / 6 / 6
    assert np.square(residual).sum() < np.square(vectors).sum()


def test_every_method_of_levels_refuses_fewer_items_than_codes() -> None:
    few = Sequences.of([[0, 1, 2], [0, 1], [1, 2]])
    for fit in (
        lambda: residual_kmeans(PLANTED[:3], 2, 4, 0),
        lambda: residual_kmeans(PLANTED[:3], 2, 4, 0, balanced=True),
        lambda: rq_vae.fit(PLANTED[:3], 2, 4, 0, 1),
        lambda: kmeans_tree(PLANTED[:3], 2, 4, 0),
        lambda: product_quantizer(PLANTED[:3], 2, 4, 0, rotate=True),
        lambda: collaborative(few, 3, 2, 4, PLANTED, 0),
    ):
        with pytest.raises(CodeError, match=r"3 items cannot fill 4 codes a level\. Set indexing\.width to 2 or less"):
            fit()


def test_the_tree_codes_its_own_items_as_it_was_built_where_clusters_are_apart() -> None:
    tree, codes, residual = kmeans_tree(PLANTED, 1, 8, 1)
    again, left = tree.encode(PLANTED)
    assert np.array_equal(codes, again)
    np.testing.assert_allclose(residual, left, atol=1e-5)


def test_a_plan_of_transport_is_that_of_sixty_four_bits() -> None:
    distances = DRAW.random((30, 12))
    middle, spread = (distances.max() + distances.min()) / 2, (distances.max() - distances.min()) / 2 + 1e-5
    log = -(distances - middle) / spread / 0.05
    for _ in range(500):  # the same alternation, written with logarithms
        log = log - np.logaddexp.reduce(log, axis=0) + np.log(30 / 12)
        log = log - np.logaddexp.reduce(log, axis=1)[:, None]
    found = transport_plan(torch.from_numpy(distances).float(), epsilon=0.05, rounds=500)
    np.testing.assert_allclose(found.numpy(), np.exp(log), atol=1e-4)
    np.testing.assert_allclose(found.sum(1).numpy(), 1, atol=1e-9)
    np.testing.assert_allclose(found.sum(0).numpy(), 30 / 12, rtol=1e-3)
    assert torch.isfinite(transport_plan(torch.from_numpy(distances), epsilon=1e-4)).all()


def test_sinkhorn_and_nearest_free_leave_no_twins_and_move_no_more_than_they_must() -> None:
    vectors = DRAW.standard_normal((150, 6)).astype(np.float32)
    books = residual_kmeans(vectors, 2, 16, 0)[0]
    codes, residual = books.encode(vectors)
    rank = np.linalg.norm(residual, axis=1)
    for way in (collisions.sinkhorn, collisions.reassign):
        apart = way(codes, rank, vectors, books)
        assert len(np.unique(apart, axis=0)) == 150
    alone = np.unique(codes, axis=0, return_inverse=True, return_counts=True)
    single = alone[2][alone[1].ravel()] == 1
    kept = (collisions.reassign(codes, rank, vectors, books) == codes).all(1)
    assert kept.sum() == len(alone[2]) and kept[single].all()  # one item of each code stays
    for row in np.flatnonzero(~kept)[:20]:
        assert rank[kept & (codes == codes[row]).all(1)].max() <= rank[row]
    with pytest.raises(CodeError, match="find no free code"):
        collisions.reassign(np.zeros((5, 2), np.int32), np.zeros(5), vectors[:5], residual_kmeans(vectors, 2, 2, 0)[0])


def test_residual_k_means_explains_as_much_as_faiss_with_five_beams() -> None:
    draw = np.random.default_rng(1)
    vectors = (draw.standard_normal((100, 32))[draw.integers(0, 100, 2000)] + draw.standard_normal((2000, 32))).astype(
        "f"
    )
    other = faiss.ResidualQuantizer(32, 3, 4)
    other.train_type, other.max_beam_size = faiss.ResidualQuantizer.Train_default, 5
    other.train(vectors)
    theirs = np.square(vectors - other.decode(other.compute_codes(vectors))).sum()
    ours = np.square(residual_kmeans(vectors, 3, 16, 0)[2]).sum()
    assert ours < 1.02 * theirs  # greedy against five beams; scripts/experiments/codes.py compares at real size


def test_a_rotation_learnt_lets_parts_tell_more() -> None:
    turn = np.linalg.qr(DRAW.standard_normal((8, 8)))[0]
    vectors = (np.hstack([DRAW.standard_normal((300, 2)) * 5, DRAW.standard_normal((300, 6)) * 0.2]) @ turn).astype("f")
    plain, turned = (product_quantizer(vectors, 4, 8, 0, rotate=way) for way in (False, True))
    left = [np.square(parts.encode(vectors)[1]).sum() for parts in (plain, turned)]
    assert left[1] < left[0]
    np.testing.assert_allclose(turned.rotation @ turned.rotation.T, np.eye(8), atol=1e-4)
    codes, residual = product_quantizer(vectors[:, :7], 3, 4, 0, rotate=False).encode(
        vectors[:, :7]
    )  # three do not divide 7
    assert codes.shape == (300, 3) and residual.shape == (300, 9)


def test_rq_vae_learns_and_its_frozen_copy_codes_alike() -> None:
    encoder, facts = rq_vae.fit(PLANTED, 2, 8, 1, epochs=30)
    assert facts["held-out error"] < 0.5 * facts["variance"]
    again = rq_vae.RqVae.from_arrays(encoder.arrays())
    assert np.array_equal(again.encode(PLANTED)[0], encoder.encode(PLANTED)[0])
    assert np.unique(encoder.encode(PLANTED)[0][:, 0]).size == 8  # no dead code


def test_converged_means_a_held_out_error_that_fell_by_less_than_a_thousandth_in_fifty_epochs() -> None:
    falls = [1 - 0.0019 * epoch / 50 for epoch in range(101)]  # by .0019 in fifty epochs
    rests = [1 - 0.0009 * epoch / 50 for epoch in range(101)]
    assert not rq_vae._converged(falls) and rq_vae._converged(rests)
    assert not rq_vae._converged([1.0] * 50) and rq_vae._converged(
        [1.0] * 51
    )  # fifty epochs, and one to compare them with
    assert not rq_vae._converged([1.0, *[2.0] * 49, 0.5])  # the best counts, not the last
    alike = np.repeat(PLANTED[:20], 20, axis=0)  # nothing to learn after a while: training must end by itself
    facts = rq_vae.fit(alike, 1, 16, 1, epochs=2000)[1]
    assert facts["converged"] and 50 < facts["epochs"] < 2000
    assert not rq_vae.fit(PLANTED, 2, 8, 1, epochs=2)[1]["converged"]


def test_a_dead_code_comes_to_life_where_its_level_has_something_to_explain() -> None:
    torch.manual_seed(0)
    network, vectors = rq_vae.RqVaeModule(16, 2, 8), torch.from_numpy(PLANTED)
    rq_vae._init_books(network, vectors, 1)
    with torch.no_grad():
        network.books[0, 3], network.books[1, 5] = 1e3, -1e3  # so far away that nothing is ever near them
        before, latent = network.books.clone(), network.encoder(vectors)
        use = torch.stack([torch.bincount(c, minlength=8) for c in network.quantize(latent, False)[1].T])
        assert use[0, 3] == use[1, 5] == 0
        rq_vae._revive(network, use, vectors, np.random.default_rng(0))
        after = torch.stack([torch.bincount(c, minlength=8) for c in network.quantize(latent, False)[1].T])
        assert after[0, 3] > 0 and after[1, 5] > 0
        assert (latent == network.books[0, 3]).all(1).any()  # it is an item's own
    assert torch.equal(before[use > 0], network.books[use > 0])  # codes in use stay


def test_training_spreads_the_last_level_evenly_and_no_other() -> None:
    torch.manual_seed(0)
    crowd = torch.randn(256, 16) * 0.01  # all near one code
    network = rq_vae.RqVaeModule(16, 2, 8)
    with torch.no_grad():
        network.books.copy_(torch.randn(2, 8, 16))
        latent = network.encoder(crowd)
        even, greedy = (network.quantize(latent, way)[1] for way in (True, False))
        left = latent - network.books[0][greedy[:, 0]]
        wanted = transport_plan(torch.cdist(left, network.books[1]).square()).argmax(1)
    assert torch.equal(even[:, 0], greedy[:, 0]) and torch.equal(even[:, 1], wanted)
    shares = torch.bincount(even[:, 1], minlength=8)
    assert shares.max() < 2 * 256 / 8 < torch.bincount(greedy[:, 1], minlength=8).max()


def test_ppmi_is_what_a_dictionary_counts() -> None:
    train = Sequences.of([[0, 1, 2], [0, 1], [3, 4], [1, 0, 0]])
    pairs: dict[tuple[int, int], int] = {}
    for row in train:
        for place, one in enumerate(row):
            for other in row[place + 1 : place + 6]:
                if one != other:
                    for pair in ((int(one), int(other)), (int(other), int(one))):
                        pairs[pair] = pairs.get(pair, 0) + 1
    total = sum(pairs.values())
    marginal = [sum(count for (one, _), count in pairs.items() if one == item) for item in range(5)]
    expected = {pair: np.log(count * total / (marginal[pair[0]] * marginal[pair[1]])) for pair, count in pairs.items()}
    first, second, value = ppmi_pairs(train, 6)
    found = dict(zip(zip(first.tolist(), second.tolist(), strict=True), value.tolist(), strict=True))
    assert found == pytest.approx({pair: value for pair, value in expected.items() if value > 0})
    assert not ppmi_vectors(train, 6, 4, 0)[5].any()


def test_mutual_information_is_scikit_learn_s() -> None:
    one, other = DRAW.integers(0, 5, 200), DRAW.integers(0, 3, 200)
    assert nmi(one, other) == pytest.approx(normalized_mutual_info_score(one, other))
    assert nmi(one, one) == pytest.approx(1) and nmi(one * 0, one * 0) == 1
