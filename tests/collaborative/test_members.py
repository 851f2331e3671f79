"""Every collaborative model keeps the laws."""

from __future__ import annotations

from laws import Laws

from llmrec.collaborative import MODELS
from llmrec.contracts import Sizes
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


def test_every_model_is_a_member_of_the_laws() -> None:
    assert {member.spec.kind for member in Laws.__subclasses__()} == set(MODELS) == set(SPECS)
