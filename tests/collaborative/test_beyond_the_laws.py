"""Probabilities, progress, and saved models beyond the laws that all members keep."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from llmrec.collaborative import Ease, Markov, MarkovEase, SasRec, fit, fit_one, load, topk_probabilities
from llmrec.contracts import Items, Sequences
from llmrec.errors import ModelError
from llmrec.recipe.collaborative import SPECS, BprSpec, EaseSpec, MarkovEaseSpec, MarkovSpec, SasRecSpec

ITEMS = Items.numbered(6)
TRAIN = Sequences.of([[0, 1, 2], [1, 2, 3], [2, 3, 4, 5]])


class Fixed:
    """Gives the same scores to every history."""

    def __init__(self, kind: str, scores: list[float]) -> None:
        self.score_kind, self.scores = kind, np.array(scores, np.float32)

    def score(self, histories: Sequences) -> np.ndarray:
        return np.tile(self.scores, (len(histories), 1))


def probabilities(kind: str, scores: list[float], history: list[int], allow_seen: bool) -> np.ndarray:
    """(items,) by item number."""
    items, values = topk_probabilities(Fixed(kind, scores), Sequences.of([history]), allow_seen)  # type: ignore[arg-type]
    return values[0][np.argsort(items[0])]


def test_shares_count_by_their_square_and_logits_by_the_softmax() -> None:
    np.testing.assert_allclose(probabilities("shares", [3, -2, 1], [], True), [0.9, 0, 0.1])
    np.testing.assert_allclose(probabilities("shares", [3, 0, 1], [0], False), [0, 0, 1])
    logits = [300.0, -2.0, 299.0]
    np.testing.assert_allclose(probabilities("logits", logits, [], True), torch.tensor(logits).softmax(0), atol=1e-6)
    np.testing.assert_allclose(
        probabilities("logits", logits, [0], False), [0, *torch.tensor(logits[1:]).softmax(0)], atol=1e-6
    )


@pytest.mark.parametrize(("kind", "scores"), [("shares", [0, -1, 0]), ("logits", [2.0, 2.0, 2.0])])
def test_a_model_that_prefers_nothing_gives_no_probability(kind: str, scores: list[float]) -> None:
    assert not probabilities(kind, scores, [], True).any()
    assert not probabilities(kind, [5, 1, 1], [0, 1, 2], False).any()


@pytest.mark.parametrize("model", [BprSpec(epochs=2), SasRecSpec(epochs=2, width=16)], ids=["bpr", "sasrec"])
def test_training_tells_its_progress_and_ends_at_one(model: BprSpec | SasRecSpec) -> None:
    shares: list[float] = []
    fit([MarkovSpec(), model], TRAIN, ITEMS, progress=shares.append)
    assert shares == [0.75, 1.0]


@pytest.fixture()
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("kind", ["bpr", "lightgcn"])
@pytest.mark.usefixtures("two_threads")
def test_large_batches_are_added_up_in_one_order(kind: str) -> None:
    """Gradients of `vectors[rows]` are added up by several threads in whatever order they come."""
    draw = np.random.default_rng(0)
    train = Sequences.of(draw.zipf(1.4, 15).clip(max=700) - 1 for _ in range(300))
    spec = SPECS[kind](epochs=8)
    first, second = (fit_one(spec, train, Items.numbered(700)).item_vectors() for _ in range(2))
    assert np.array_equal(first, second)


def test_numbers_that_are_not_finite_stop_the_fit_and_name_the_remedy() -> None:
    with pytest.raises(ModelError, match=r"sasrec .*not finite\. Lower its learning_rate"):
        SasRec(epochs=9, learning_rate=1e9, weight_decay=1e9).fit(TRAIN, ITEMS)
    twins = Sequences.of([[0, 1], [0, 1]])
    with pytest.raises(ModelError, match=r"ease \(l2 1e-30\) .*not finite\. Raise its l2"):
        Ease(l2=1e-30).fit(twins, Items.numbered(2))


def test_a_composed_model_is_loaded_with_the_parts_beside_it(tmp_path: Path) -> None:
    models = fit([MarkovEaseSpec(), EaseSpec()], TRAIN, ITEMS)
    both = models["markov-ease"]
    for model in (both, *both.parts.values(), models["ease"]):
        model.save(tmp_path / model.spec.slug)
    found = load(tmp_path / "markov-ease", ITEMS)
    assert isinstance(found, MarkovEase) and isinstance(found.parts["recent"].parts["ease"], Ease)
    (tmp_path / "ease" / "weights.npy").unlink()
    with pytest.raises(ModelError, match=r"ease/weights.npy is missing"):
        load(tmp_path / "markov-ease", ITEMS)


def test_a_matrix_stays_on_disk_where_it_is_only_read(tmp_path: Path) -> None:
    Ease().fit(TRAIN, ITEMS).save(tmp_path)
    assert not load(tmp_path, ITEMS).weights.flags.writeable


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("starts", lambda a: a[::-1]),
        ("starts", lambda a: a + 1),
        ("successors", lambda a: a + 6),
        ("successors", lambda a: a - 6),
        ("successors", lambda a: a.astype(np.float64)),
        ("strengths", lambda a: a / 0 * 0),
    ],
)
def test_transitions_to_items_that_there_are_not_are_refused(name: str, change: object, tmp_path: Path) -> None:
    Markov().fit(TRAIN, ITEMS).save(tmp_path)
    with np.errstate(all="ignore"):
        np.save(tmp_path / f"{name}.npy", change(np.load(tmp_path / f"{name}.npy")))  # type: ignore[operator]
    with pytest.raises(ModelError, match=str(tmp_path)):
        load(tmp_path, ITEMS)


def test_a_gpu_that_is_not_there_is_named(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(ModelError, match=r"sasrec.device: cuda needs a GPU.*device: auto or cpu"):
        SasRec(epochs=1, device="cuda").fit(TRAIN, ITEMS)


def test_catalogues_differ_where_ids_or_their_order_do() -> None:
    hashes = [Items(ids).hash for ids in (["a", "b"], ["b", "a"], ["ab"], ["a", "b", ""], ["a"], [])]
    assert len(set(hashes)) == len(hashes) and Items(["a", "b"]).hash == hashes[0]
    many = [str(number) for number in range(70_000)]
    assert Items(many).hash != Items([*many[:-1], "x"]).hash
