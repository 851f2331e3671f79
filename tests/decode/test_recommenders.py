"""Every kind of recommender keeps the laws, and so does one that is written in the tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from dot_product import DotProduct
from recommender_laws import ITEMS, RecommenderLaws

from llmrec.collaborative import Markov
from llmrec.contracts import CollaborativeModel, Items, Recommender, Request, Sequences
from llmrec.data.dataset import Dataset
from llmrec.decode.generative import Generative, GenerativeModel, transformers_engine_factory
from llmrec.decode.recommenders import Collaborative, Ensemble, Member
from llmrec.indexing.catalogue import Catalogue

UNKNOWN = [f"unknown {number}" for number in range(30)]  # to the catalogue, not to a collaborative model


def generative(run: Path) -> Generative:
    """The language model of a run, with as many beams as there are items."""
    folder = run / "train-1-sft" / "model"
    model = GenerativeModel(folder, transformers_engine_factory(folder), beams=ITEMS)
    return model.for_catalogue(Catalogue.load(run / "catalogue"), run / "catalogue")


def markov(run: Path) -> Collaborative:
    """Fitted on all items but the first, which it numbers otherwise, and on one that the catalogue lacks."""
    dataset = Dataset.load(run / "data")
    own = ["unknown", *dataset.item_ids[:0:-1]]
    number = {item_id: place for place, item_id in enumerate(own)}
    rows = [[number[dataset.item_ids[item]] for item in row if item] for row in dataset.before("valid")]
    return Collaborative(Markov().fit(Sequences.of(rows), Items(own)), dataset.item_ids)


def chances(model: CollaborativeModel, item_ids: Sequence[str], request: Request) -> np.ndarray:
    """(items,) log-probabilities of a collaborative model by their definition, item by item."""
    own = {item_id: place for place, item_id in enumerate(model.items.ids)}
    history = [own[item_ids[item]] for item in request.history if item_ids[item] in own]
    seen = {own.get(item_ids[item]) for item in request.history if item in request.denied}
    scores = dict(enumerate(model.score(Sequences.of([history]))[0].astype(np.float64).tolist()))
    scores = {item: score for item, score in scores.items() if item not in seen}
    if model.score_kind == "shares":
        weights = {item: max(score, 0) ** 2 for item, score in scores.items()}
    else:
        high, low = max(scores.values()), min(scores.values())
        weights = {item: float(np.exp(score - high)) if high > low else 0 for item, score in scores.items()}
    total = sum(sorted(weights.values())[-50:])
    logs = [np.log(w / total) if (w := weights.get(own.get(item_id, -1), 0)) else -np.inf for item_id in item_ids]
    return np.array(logs)


@lru_cache
def exact(recommender: Generative, history: tuple[int, ...]) -> np.ndarray:
    """(items,) log-probabilities by forward passes over the whole trie."""
    return recommender.score([Request(history)])[0]


class TestGenerative(RecommenderLaws):
    @pytest.fixture(scope="class")
    def recommender(self, tiny_run: Path) -> Recommender:
        return generative(tiny_run)

    def scores(self, recommender: Recommender, request: Request) -> np.ndarray:
        assert isinstance(recommender, Generative)
        return exact(recommender, tuple(map(int, request.history)))


class TestGenerativeThatReadsWords(TestGenerative):
    """With a prompt for words alone."""

    noted = Request([3], words="something sad")
    refused = Request(words="something sad " * 5000)

    @pytest.fixture(scope="class")
    def recommender(self, tiny_run: Path) -> Recommender:
        found = generative(tiny_run)
        found.meta = replace(found.meta, search="Item: {intention} Film ")
        return found


class TestShares(RecommenderLaws):
    """Of a collaborative model."""

    @pytest.fixture(scope="class")
    def recommender(self, tiny_run: Path) -> Recommender:
        return markov(tiny_run)

    def scores(self, recommender: Recommender, request: Request) -> np.ndarray:
        assert isinstance(recommender, Collaborative)
        return chances(recommender.model, [f"i{item}" for item in range(ITEMS)], request)


class Logits:
    """A collaborative model of random vectors, whose scores are logits; it has no preference without a history."""

    score_kind = "logits"

    def __init__(self, ids: list[str]) -> None:
        self.items = Items(ids)
        self.vectors = np.random.default_rng(0).normal(size=(len(ids), 6)).astype(np.float32)

    def score(self, histories: Sequences) -> np.ndarray:
        return np.stack([self.vectors @ self.vectors[row].sum(0) for row in histories])


class TestLogits(TestShares):
    """Over more items than have a probability, of which the catalogue lacks some."""

    @pytest.fixture(scope="class")
    def recommender(self, catalogue: Catalogue) -> Recommender:
        return Collaborative(Logits([*UNKNOWN, *catalogue.item_ids]), catalogue.item_ids)  # type: ignore[arg-type]


class TestEnsemble(RecommenderLaws):
    weighs_anew = True
    shares = (0.7, 0.3)

    @pytest.fixture(scope="class")
    def recommender(self, tiny_run: Path) -> Recommender:
        members = (generative(tiny_run), markov(tiny_run))
        return Ensemble([Member(one, share, ITEMS) for one, share in zip(members, self.shares, strict=True)])

    def scores(self, recommender: Recommender, request: Request) -> np.ndarray:
        assert isinstance(recommender, Ensemble)
        laws = (TestGenerative(), TestShares())
        members = [member.recommender for member in recommender.members]
        logs = [law.filtered(member, request) for law, member in zip(laws, members, strict=True)]
        shares = [share * np.isfinite(one).any() for share, one in zip(self.shares, logs, strict=True)]
        total = sum(share * np.exp(one) for share, one in zip(shares, logs, strict=True)) / max(sum(shares), 1e-9)
        return np.where(total > 0, np.log(np.maximum(total, 1e-300)), -np.inf)


class TestDotProduct(RecommenderLaws):
    """Without codes, and known to nothing in llmrec."""

    noted = Request([3], words="something sad")

    @pytest.fixture(scope="class")
    def recommender(self) -> Recommender:
        return DotProduct(np.random.default_rng(0).normal(size=(ITEMS, 5)))

    def scores(self, recommender: Recommender, request: Request) -> np.ndarray:
        assert isinstance(recommender, DotProduct)
        newest = [recommender.vectors[item] for item in list(request.history)[-4:]]
        logits = [sum(float(one @ vector) for one in newest) for vector in recommender.vectors]
        return np.array(logits) - np.log(np.sum(np.exp(logits)))
