"""What every collaborative model promises; a new one inherits these tests by a class that names its parameters.

class TestMine(Laws):
    spec = MineSpec(epochs=2)        # briefly trained: promises do not depend on how long
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from leaks import assert_no_future
from measuring import in_new_process, resident, traced

from llmrec.collaborative import TOP_K, ArrayModel, build, fit_one, load, peak_memory, topk_probabilities
from llmrec.contracts import Items, Sequences, Sizes
from llmrec.data.clean import clean
from llmrec.data.dataset import Dataset
from llmrec.data.synthetic import read_synthetic
from llmrec.errors import ModelError
from llmrec.files import read_json, write_json
from llmrec.recipe import Data, SyntheticConfig
from llmrec.recipe.collaborative import ModelSpec, TrainedSpec

ITEMS = Items.numbered(17)
# Memory of a process whose heap is fragmented, as a multiple of what a model uses. Measured: 1.4 to 2.1 for the first
# fit of a process and up to 2.5 for later ones, so what is announced may be passed where a process fits often.
FRAGMENTED = 1.8


def histories(seed: int, rows: int = 90) -> Sequences:
    """Random histories over all but the last two items, with empty rows, single events and repeats."""
    rng = np.random.default_rng(seed)
    return Sequences.of(rng.integers(0, len(ITEMS) - 2, rng.integers(0, 9)) for _ in range(rows))


def damages(folder: Path) -> Iterator[Callable[[Path], object]]:
    """Ways to damage a saved model: each file emptied or taken away, arrays of another length, other parameters."""
    for path in sorted(folder.iterdir()):
        yield lambda copy, name=path.name: (copy / name).write_bytes(b"")
        yield lambda copy, name=path.name: (copy / name).unlink()
        if path.suffix == ".npy":
            array = np.load(path)
            yield lambda copy, name=path.name, array=array: np.save(copy / name, array[:-1])
            yield lambda copy, name=path.name, array=array: np.save(copy / name, np.full_like(array, -1)[..., None])
    about = read_json(folder / "collaborative.json")
    for change in ({"model": "eaze"}, {"format": 99}, {"parameters": {"colour": 3}}, {"items": "many"}, {"more": 1}):
        yield lambda copy, change=change: write_json(copy / "collaborative.json", about | change)


def even_histories(sizes: Sizes) -> Sequences:
    """Random histories of one length."""
    each = sizes.events // sizes.users
    events = np.random.default_rng(0).integers(0, sizes.items, each * sizes.users)
    return Sequences(np.arange(sizes.users + 1, dtype=np.int64) * each, events.astype(np.int32))


def save(model: ArrayModel, root: Path) -> None:
    """Save a model and its parts, each in a folder of its slug."""
    model.save(root / model.spec.slug)
    for part in model.parts.values():
        assert isinstance(part, ArrayModel)
        save(part, root)


class Laws:
    """The tests. A member names its `spec`, and where needed a size at which memory is measured."""

    spec: ModelSpec
    large = Sizes(2000, 1500, 20000), {}  # sizes, parameters

    def fit(self, train: Sequences, items: Items = ITEMS, **parameters: Any) -> ArrayModel:
        """Fitted anew, with some parameters changed."""
        return fit_one(self.spec.model_copy(update=parameters), train, items)

    @pytest.fixture(scope="class")
    def fitted(self) -> ArrayModel:
        """Fitted on `histories(0)`."""
        return self.fit(histories(0))

    @pytest.fixture()
    def folder(self, fitted: ArrayModel, tmp_path: Path) -> Path:
        """The folder of the saved model, with its parts beside it."""
        save(fitted, tmp_path / "models")
        return tmp_path / "models" / self.spec.slug

    @pytest.mark.parametrize("rows", [0, 1, 5, 70])
    def test_scores_are_one_finite_float32_for_each_row_and_item(self, fitted: ArrayModel, rows: int) -> None:
        scores = fitted.score(histories(1, rows))
        assert scores.shape == (rows, len(ITEMS)) and scores.dtype == np.float32 and np.isfinite(scores).all()

    def test_a_batch_scores_as_its_rows_do_alone(self, fitted: ArrayModel) -> None:
        batch = histories(1, rows=70)
        alone = np.concatenate([fitted.score(Sequences.of([row])) for row in batch])
        np.testing.assert_allclose(fitted.score(batch), alone, rtol=1e-5, atol=1e-6)

    def test_empty_histories_and_items_without_events_score_finitely(self, fitted: ArrayModel) -> None:
        last = len(ITEMS) - 1
        assert np.isfinite(fitted.score(Sequences.of([[], [last], [last - 1, 0]]))).all()

    def test_callers_may_write_into_the_scores(self, fitted: ArrayModel) -> None:
        scores = fitted.score(histories(1, rows=3))
        before = scores.copy()
        scores[:] = -np.inf
        assert np.array_equal(fitted.score(histories(1, rows=3)), before)

    def test_scoring_teaches_nothing(self, fitted: ArrayModel) -> None:
        """New users are scored without fitting; neither their own later events nor those of others change a score."""
        early, late = [3, 1, 4], [3, 1, 4, 9, 2]
        alone = fitted.score(Sequences.of([early]))
        fitted.score(histories(2))
        beside = fitted.score(Sequences.of([early, late]))
        assert np.array_equal(fitted.score(Sequences.of([early])), alone)
        np.testing.assert_allclose(beside[:1], alone, rtol=1e-5, atol=1e-6)

    @pytest.mark.parametrize("allow_seen", [False, True])
    def test_probabilities_sum_to_one_and_follow_the_scores(self, fitted: ArrayModel, allow_seen: bool) -> None:
        batch = histories(1)
        items, probabilities = topk_probabilities(fitted, batch, allow_seen)
        assert items.shape == probabilities.shape == (len(batch), min(TOP_K, len(ITEMS)))
        totals, scores = probabilities.sum(1), fitted.score(batch)
        assert ((np.abs(totals - 1) < 1e-9) | (totals == 0)).all() and (totals > 0).any()
        for row, history in enumerate(batch):
            seen = np.isin(items[row], history) & (not allow_seen)
            assert not probabilities[row][seen].any()
            order = np.argsort(scores[row, items[row]], kind="stable")
            assert (np.diff(probabilities[row, order[~seen[order]]]) >= 0).all()

    def test_fit_returns_the_model_itself_and_it_knows_its_items(self, fitted: ArrayModel) -> None:
        model = build(self.spec, fitted.parts)
        assert model.fit(histories(0), ITEMS) is model and model.items is ITEMS

    def test_two_fits_agree_to_the_bit(self, fitted: ArrayModel) -> None:
        assert np.array_equal(fitted.score(histories(1)), self.fit(histories(0)).score(histories(1)))

    def test_another_seed_gives_another_model(self, fitted: ArrayModel) -> None:
        if "seed" not in self.spec.parameters:
            pytest.skip("it draws nothing")
        other = self.fit(histories(0), seed=7).score(histories(1))
        assert not np.array_equal(fitted.score(histories(1)), other)

    def test_the_order_of_users_changes_nothing(self, fitted: ArrayModel) -> None:
        train = histories(0)
        shuffled = Sequences.of([train[row] for row in np.random.default_rng(5).permutation(len(train))])
        scores = self.fit(shuffled).score(histories(1))
        np.testing.assert_allclose(fitted.score(histories(1)), scores, rtol=1e-6, atol=1e-7)

    @pytest.mark.parametrize(
        "rows", [[], [[], []], [[3, 1, 4, 1]], [[5]]], ids=["no user", "no event", "one user", "one event"]
    )
    def test_little_training_still_scores(self, rows: list[list[int]]) -> None:
        scores = self.fit(Sequences.of(rows)).score(histories(1, rows=3))
        assert np.isfinite(scores).all() and scores.shape == (3, len(ITEMS))

    @pytest.mark.parametrize("count", [1, 2, 3])
    def test_fewer_items_than_are_asked_for_are_still_ranked(self, count: int) -> None:
        train = Sequences.of([list(range(count)), [0], []])
        items, probabilities = topk_probabilities(self.fit(train, Items.numbered(count)), train, True)
        assert items.shape == (3, count) and np.isfinite(probabilities).all()

    def test_no_score_depends_on_a_held_out_event(self) -> None:
        world = read_synthetic(SyntheticConfig(users=40, items=len(ITEMS), groups=3, events=8))
        cleaned = clean(world, Data.model_validate({"source": "synthetic"}), 1)
        dataset = Dataset(cleaned.interactions, cleaned.items)
        known = dataset.before("valid")
        assert_no_future(lambda data: self.fit(data.before("valid"), Items(data.item_ids)).score(known), dataset)

    def test_a_loaded_model_scores_the_same_to_the_bit(self, fitted: ArrayModel, folder: Path) -> None:
        model = load(folder, ITEMS)
        assert np.array_equal(model.score(histories(1)), fitted.score(histories(1)))
        assert model.spec == self.spec and type(model) is type(fitted)

    def test_nothing_that_is_saved_is_a_pickle(self, folder: Path) -> None:
        files = [path for path in folder.parent.rglob("*") if path.is_file()]
        assert {path.suffix for path in files} <= {".npy", ".json"}
        for path in files:
            assert path.suffix == ".json" or np.load(path, allow_pickle=False).dtype.kind in "if"

    @pytest.mark.parametrize(
        "others", [Items.numbered(16), Items([str(number) for number in range(17)][::-1])], ids=["fewer", "other order"]
    )
    def test_a_model_of_another_catalogue_is_refused(self, others: Items, folder: Path) -> None:
        with pytest.raises(ModelError, match="fitted on 17 items of another catalogue"):
            load(folder, others)

    def test_a_damaged_model_is_refused_in_words(self, folder: Path) -> None:
        for number, damage in enumerate(damages(folder)):
            copy = folder.parents[1] / str(number) / folder.name
            shutil.copytree(folder.parent, copy.parent)
            damage(copy)
            with pytest.raises(ModelError):
                load(copy, ITEMS)

    def test_the_memory_that_it_announces_bounds_what_it_takes(self) -> None:
        """It takes no more, and not so much less that models are refused which a machine could hold."""
        (sizes, parameters), trained = self.large, isinstance(self.spec, TrainedSpec)
        spec = self.spec.model_copy(update=parameters)
        announced, held = peak_memory([spec], sizes, 256), peak_memory([spec], sizes, 0).score
        fitting, scoring, arrays = in_new_process(self.memory_taken) if trained else self.memory_taken()
        assert fitting * (FRAGMENTED if trained else 1) <= announced.fit <= 2.5 * fitting
        assert scoring <= announced.score
        assert arrays <= held

    def memory_taken(self) -> tuple[int, int, int]:
        """Bytes that fitting takes, and scoring, at the size `large`; and bytes of the fitted arrays."""
        (sizes, parameters), measure = self.large, resident if isinstance(self.spec, TrainedSpec) else traced
        items, train = Items.numbered(sizes.items), even_histories(sizes)
        batch = even_histories(Sizes(256, sizes.items, 2560))
        self.fit(histories(0)).score(histories(1))  # so that libraries hold what they hold for ever
        model, fitting = measure(lambda: self.fit(train, items, **parameters))
        scoring = measure(lambda: model.score(batch))[1]
        arrays = sum(array.nbytes for part in (model, *model.parts.values()) for array in part._state().values())
        return fitting, scoring, arrays

    def test_a_gpu_gives_the_scores_of_a_cpu(self, folder: Path) -> None:
        if not isinstance(self.spec, TrainedSpec):
            pytest.skip("it computes with numpy")
        if not torch.cuda.is_available():
            pytest.skip("there is no GPU here")
        on_cpu, on_gpu = (load(folder, ITEMS, device).score(histories(1)) for device in ("cpu", "cuda"))
        np.testing.assert_allclose(on_gpu, on_cpu, rtol=1e-3, atol=1e-4)
        assert np.isfinite(self.fit(histories(0), device="cuda").score(histories(1))).all()
