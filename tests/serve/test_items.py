"""The catalogue over HTTP, page by page."""

import asyncio
import json
from dataclasses import replace
from datetime import datetime

import httpx
import pyarrow as pa
import pytest
from serving import ADMIN, CLIENT, KEY

from llmrec.indexing.catalogue import Catalogue
from llmrec.serve.access import Keys
from llmrec.serve.app import build
from llmrec.serve.lookup import items_page
from llmrec.serve.settings import Settings


@pytest.fixture(scope="module")
def get(served):
    app = build(Settings(run=served.run), Keys(KEY, ADMIN))

    def ask(path, **query):
        async def once():
            transport = httpx.ASGITransport(app)
            async with httpx.AsyncClient(transport=transport, base_url="http://here", headers=CLIENT) as client:
                return await client.get(path, params=query)

        return asyncio.run(once())

    return ask


def test_pages_put_together_are_the_catalogue(served, get):
    catalogue = Catalogue.load(served.run / "catalogue")
    pages = [get("/v1/items", start=start, limit=7).json() for start in range(0, len(catalogue.item_ids), 7)]
    items = [item for page in pages for item in page["items"]]
    assert [item["item_id"] for item in items] == catalogue.item_ids
    assert [item["code"] for item in items] == catalogue.code_texts
    assert [item["columns"]["kind"] for item in items] == catalogue.items["kind"].to_pylist()
    assert {(page["catalogue"], page["total"]) for page in pages} == {(catalogue.hash, len(catalogue.item_ids))}
    assert get("/v1/items", start=10**6).json()["items"] == []


def test_words_find_the_titles_that_hold_them_all(served, get):
    catalogue = Catalogue.load(served.run / "catalogue")
    wanted = [one for one in catalogue.titles if "3" in one and "film" in one.lower()]
    found = get("/v1/items", q="FILM 3").json()
    assert [item["title"] for item in found["items"]] == wanted and found["total"] == len(wanted) > 3


@pytest.mark.parametrize("query", [{"limit": 0}, {"limit": 10**6}, {"start": -1}, {"q": "x" * 1000}, {"limit": "many"}])
def test_what_is_no_page_is_refused_by_name(get, query):
    refused = get("/v1/items", **query)
    assert refused.status_code == 422 and refused.json()["error"]["param"].endswith(*query)


def test_a_server_says_whether_it_takes_queries(get):
    assert get("/version").json()["queries"] is False


def test_columns_of_any_type_can_be_shown(served):
    catalogue = Catalogue.load(served.run / "catalogue")
    count, values = catalogue.items.num_rows, [b"\xff\xfe", float("nan"), [{"a": b"\x80"}], datetime(2020, 1, 2), 2**60]
    for number, value in enumerate(values):
        items = catalogue.items.append_column(f"x{number}", pa.array([value] * count))
        shown = items_page(replace(catalogue, items=items), 0, 1).model_dump_json()
        assert f"x{number}" in json.loads(shown)["items"][0]["columns"]
