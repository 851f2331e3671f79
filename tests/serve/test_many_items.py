"""A recommender that llmrec does not know, over more items than a request lists: wishes are constraints of columns."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from dot_product import DotProduct
from fastapi.testclient import TestClient
from serving import CLIENT, KEY

import llmrec
from llmrec.decode import load, recommender_spec
from llmrec.indexing.catalogue import Catalogue
from llmrec.serve.access import Keys
from llmrec.serve.app import build
from llmrec.serve.settings import Settings

COUNT = 25_000
KINDS = ("drama", "comedy", "horror", "western")


def dot_product(node, root, options):
    """Vectors in a file: {kind: dot-product, folder}."""
    vectors = np.load(root / node["folder"] / "vectors.npy")
    return lambda catalogue, folder: DotProduct(vectors)


@pytest.fixture(scope="module")
def rows():
    draw = np.random.default_rng(0)
    return [
        {
            "item_id": f"i{number}",
            "title": f"Film {number}",
            "year": int(draw.integers(1950, 2020)),
            "price": None if draw.random() < 0.1 else float(draw.integers(1, 50)),
            "kind": ", ".join(sorted({KINDS[draw.integers(4)], KINDS[draw.integers(4)]})),
        }
        for number in range(COUNT)
    ]


@pytest.fixture(scope="module")
def folder(rows, tmp_path_factory):
    """What an export holds."""
    root: Path = tmp_path_factory.mktemp("many") / "films"
    (root / "catalogue").mkdir(parents=True)
    (root / "vectors").mkdir()
    codes = np.stack(np.unravel_index(np.arange(COUNT), (30, 30, 30)), axis=1).astype(np.int32)
    Catalogue.of(pa.Table.from_pylist(rows), codes, [30, 30, 30]).save(root / "catalogue", {})
    np.save(root / "vectors" / "vectors.npy", np.random.default_rng(1).normal(size=(COUNT, 8)))
    about = {"format": 1, "name": "films", "exclude_seen": True, "catalogue": "catalogue"}
    node = {"kind": "dot-product", "folder": "vectors"}
    recommender_spec.write_spec(root, about | {"recommender": node})
    return root


@pytest.fixture(scope="module")
def client(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(load.KINDS, "dot-product", dot_product)
        patch.setitem(recommender_spec.NODES, "dot-product", dict[str, str])
        client = TestClient(build(Settings(run=folder), Keys(KEY, None)), headers=CLIENT)
        client.recommender = llmrec.load(folder)
    with client:
        yield client


WISHES = {
    "years": ({"year": {"min": 1990, "max": 1999}}, lambda row: 1990 <= row["year"] <= 1999),
    "a price": ({"price": {"max": 3}}, lambda row: row["price"] is not None and row["price"] <= 3),
    "a denial": ({"kind": {"none": ["Horror"]}}, lambda row: "horror" not in row["kind"].split(", ")),
    "several": (
        {"year": {"min": 2010}, "kind": {"any": ["drama", "comedy"], "none": ["western"]}, "price": {"min": 45}},
        lambda row: (
            row["year"] >= 2010
            and {"drama", "comedy"} & set(row["kind"].split(", "))
            and "western" not in row["kind"]
            and (row["price"] or 0) >= 45
        ),
    ),
}


def ask(client, **body):
    response = client.post("/v1/recommendations", json=body)
    assert response.status_code == 200, response.text
    return response.json()


@pytest.mark.parametrize(("where", "fits"), WISHES.values(), ids=WISHES)
def test_a_wish_that_is_no_single_value_gives_the_best_items_that_fulfil_it(client, folder, rows, where, fits):
    history = [7, 11, 23_456]
    vectors = np.load(folder / "vectors" / "vectors.npy")
    scores = vectors @ vectors[history].sum(0)
    fitting = sorted((n for n, row in enumerate(rows) if fits(row) and n not in history), key=lambda n: -scores[n])
    assert 20 < len(fitting) < COUNT - 3
    answer = ask(client, history=[f"i{item}" for item in history], k=20, where=where)
    assert [item["item_id"] for item in answer["items"]] == [f"i{item}" for item in fitting[:20]]
    assert answer["ranked_by"] == "model" and not answer["notes"] and not answer["unknown"]


def test_constraints_lists_and_a_category_hold_together(client, rows):
    listed = [f"i{number}" for number in range(0, COUNT, 50)]
    body = {"history": ["i7"], "k": 100, "category": {"kind": "Comedy"}, "where": {"year": {"min": 2000}}}
    fitting = {
        row["item_id"]
        for row in rows[::50]
        if "comedy" in row["kind"].split(", ") and row["year"] >= 2000 and row["item_id"] != "i0"
    }
    answer = ask(client, **body, allow=listed, deny=["i0"])
    assert {item["item_id"] for item in answer["items"]} == fitting and 10 < len(fitting) < 100


def test_it_recommends_without_a_server_what_it_does_with_one(client):
    answer = ask(client, history=["i7", "i9"], k=10, deny=["i3"])
    found = client.recommender.recommend(["i7", "i9"], 10, deny=["i3"])
    assert [item["item_id"] for item in answer["items"]] == [item for item, _ in found]
    np.testing.assert_allclose([item["score"] for item in answer["items"]], [s for _, s in found], rtol=1e-5)


@pytest.mark.parametrize(
    ("where", "says"),
    [
        ({"colour": {"any": ["red"]}}, "no such column; there are 'year', 'price', 'kind'"),
        ({"kind": {"min": 3}}, "holds no numbers"),
        ({"kind": {"any": ["musical"]}}, "no item has this value"),
        ({"kind": {}}, "give `any`, `none`, `min` or `max`"),
    ],
)
def test_a_constraint_that_cannot_be_met_is_refused_with_its_place(client, where, says):
    response = client.post("/v1/recommendations", json={"history": ["i7"], "where": where})
    assert response.status_code == 422 and says in response.json()["error"]["message"]
    assert response.json()["error"]["param"].startswith("where")
