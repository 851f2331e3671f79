"""A small world with its items, vectors of their text and a training part, for tests of indexing."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np

from llmrec.data.clean import clean
from llmrec.data.dataset import Dataset
from llmrec.data.synthetic import read_synthetic
from llmrec.indexing import build
from llmrec.indexing.catalogue import Catalogue
from llmrec.items.item_text import item_texts
from llmrec.items.item_vectors import encode
from llmrec.recipe import Data, Indexing, SyntheticConfig

SMALL = {"levels": 2, "width": 8, "collaborative_model": "ppmi", "reserved_tokens": 6}
WAYS = {
    "rq-kmeans": {},
    "balanced": {"method": "balanced-rq-kmeans"},
    "rq-vae": {"method": "rq-vae", "epochs": 5},
    "kmeans-tree": {"method": "kmeans-tree"},
    "pq": {"method": "pq"},
    "opq": {"method": "opq"},
    "rq-vae, sinkhorn": {"method": "rq-vae", "epochs": 5, "width": 12, "collisions": "sinkhorn"},
    "reassign": {"width": 12, "collisions": "reassign"},
    "tree, reassign": {"method": "kmeans-tree", "width": 12, "collisions": "reassign"},
    "bpr": {"fusion": "collaborative", "collaborative_model": "bpr"},
    "ppmi": {"fusion": "ppmi"},
    "concat": {"fusion": "concat"},
    "weighted": {"fusion": "weighted"},
    "aligned": {"fusion": "aligned"},
    "sequential": {"method": "sequential"},
    "collaborative": {"method": "collaborative"},
    "title": {"method": "title"},
    "category": {"method": "category"},
    "number": {"method": "number"},
    "item": {"method": "item"},
    "CID+IID": {"method": "collaborative", "append": ["item"]},
    "SemID+CID": {"method": "category", "append": ["collaborative"]},
    "bpe": {"bpe_vocab": 60},
}


def settings(way: str) -> Indexing:
    """The recipe part of one way to index."""
    return Indexing.model_validate(SMALL | WAYS[way])


@cache
def world(split: str = "leave-one-out") -> tuple[Dataset, np.ndarray]:
    """A hundred items, and vectors of their text."""
    cleaned = clean(
        read_synthetic(SyntheticConfig(users=120, items=100, groups=4, events=8)),
        Data(source="synthetic", split=split),
        1,
    )
    data = Dataset(cleaned.interactions, cleaned.items)
    return data, encode(item_texts(data.items, ["title"]), "hashing")


def made(way: str, folder: Path, data: Dataset | None = None, seed: int = 1) -> Catalogue:
    """The catalogue of one way to index, from training events alone."""
    whole, text = world()
    folder.mkdir(parents=True)
    build.make(settings(way), whole.items, text, seed, folder, (data or whole).before("valid"))
    return Catalogue.load(folder)
