"""Every collaborative model keeps the laws; so does one that is written here and needs a feature."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import ClassVar

import numpy as np
import pytest
from laws import Laws

from llmrec.collaborative import MODELS, ArrayModel
from llmrec.collaborative.array_model import Shape
from llmrec.contracts import Features, Items, Memory, Sequences, Sizes
from llmrec.recipe.collaborative import (
    SPECS,
    BprSpec,
    EaseRecentSpec,
    EaseSpec,
    ItemKnnSpec,
    LightGcnSpec,
    MarkovEaseSpec,
    MarkovSpec,
    PopularitySpec,
    SasRecSpec,
)
from llmrec.recipe.model_spec import ModelSpec


class TestPopularity(Laws):
    spec = PopularitySpec()


class TestItemKnn(Laws):
    spec = ItemKnnSpec(neighbours=4)


class TestEase(Laws):
    spec = EaseSpec()


class TestEaseRecent(Laws):
    spec = EaseRecentSpec(decay=0.5, window=3)


class TestMarkov(Laws):
    spec = MarkovSpec()


class TestMarkovEase(Laws):
    spec = MarkovEaseSpec(l2=100)


class TestBpr(Laws):
    spec = BprSpec(epochs=3, width=8)
    large = Sizes(20000, 20000, 60000), {"width": 128, "epochs": 1, "batch": 20000}


class TestLightGcn(Laws):
    spec = LightGcnSpec(epochs=3, width=8)
    large = Sizes(20000, 20000, 60000), {"width": 64, "epochs": 1, "batch": 30000}


class TestSasRec(Laws):
    spec = SasRecSpec(epochs=3, width=16, window=6, batch=32)
    large = Sizes(256, 2000, 256 * 60), {"width": 128, "epochs": 1, "window": 50, "batch": 256}


class NearestSpec(ModelSpec):
    """Cosines of texts."""

    kind = "nearest"


class Nearest(ArrayModel):
    """Scores an item by how near its text is to those of the history's items."""

    Spec = NearestSpec
    ARRAYS: ClassVar[Mapping[str, Shape]] = {"text": ("float32", "items", "dim")}
    needs = ("text",)
    text: np.ndarray

    def _fit(self, train: Sequences, features: Features, progress: Callable[[float], None]) -> None:
        assert features.text is not None
        self.text = features.text.astype(np.float32)

    def score(self, histories: Sequences) -> np.ndarray:
        users = np.zeros((len(histories), self.text.shape[1]), np.float32)
        np.add.at(users, histories.rows, self.text[histories.items])
        return users @ self.text.T

    def memory(self, sizes: Sizes, rows: int = 1024) -> Memory:
        return Memory(160 * sizes.items, 32 * sizes.items + 4 * rows * sizes.items + 300 * rows)


class TestNearest(Laws):
    spec = NearestSpec()

    @pytest.fixture(scope="class", autouse=True)
    def known(self) -> Iterator[None]:
        MODELS["nearest"] = Nearest
        yield
        del MODELS["nearest"]

    def features(self, items: Items) -> Features:
        return Features(text=np.random.default_rng(0).normal(size=(len(items), 8)).astype(np.float32))


def test_every_model_is_a_member_of_the_laws() -> None:
    assert {member.spec.kind for member in Laws.__subclasses__()} - {"nearest"} == set(MODELS) == set(SPECS)
