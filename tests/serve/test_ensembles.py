"""A server of a run whose recipe mixes a collaborative model in gives the lists of `llmrec.load`, filters included."""

import asyncio
import shutil

import numpy as np
import pytest
from serving import opened

import llmrec
from llmrec.collaborative import ArrayModel
from llmrec.export import export
from llmrec.run.execute import run
from llmrec.run.layout import recipe_of
from llmrec.serve.schemas import RecommendRequest

HISTORY = ["i3", "i4", "i5", "i6"]
FILTERS = [{}, {"deny": ["i7", "i8"]}, {"allow": ["i1", "i9", "i20"]}, {"exclude_seen": False}, {"exclude_seen": True}]


@pytest.fixture(scope="module")
def mixed(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ensembles") / "run"
    shutil.copytree(tiny_run, folder)
    return run(recipe_of(folder, ["evaluate.ensemble={model: markov, weight: 0.5}"]), folder, "evaluate")


@pytest.fixture(scope="module")
def folders(mixed, tmp_path_factory):
    return {"run": mixed, "export": export(mixed, tmp_path_factory.mktemp("ensembles") / "export")}


@pytest.fixture(scope="module", params=["run", "export"])
def service(folders, request):
    """The service of a run and of its export; opening one fits nothing."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ArrayModel, "fit", lambda *_: pytest.fail("a model was fitted to open a server"))
        return opened(folders[request.param]).service


@pytest.mark.parametrize("more", FILTERS, ids=str)
def test_a_server_and_load_give_the_same_lists(mixed, service, tiny_run, more):
    answer = asyncio.run(service.answer(RecommendRequest(history=HISTORY, k=3, **more), "one"))
    found = llmrec.load(mixed).recommend(HISTORY, 3, **more)
    assert [item.item_id for item in answer.items] == [item for item, _ in found]
    np.testing.assert_allclose([item.score for item in answer.items], [score for _, score in found], rtol=1e-4)
    alone = llmrec.load(tiny_run).recommend(HISTORY, 3, **more)
    assert [score for _, score in alone] != pytest.approx([score for _, score in found], rel=1e-3)


def test_a_request_decides_whether_seen_items_come_whatever_the_recipe_of_the_ensemble_says(service):
    """The recipe lets them come again, and only the collaborative model could bring those that no beam reaches."""
    for exclude_seen in (True, False):
        answer = asyncio.run(service.answer(RecommendRequest(history=HISTORY, k=40, exclude_seen=exclude_seen), "one"))
        assert {item.item_id for item in answer.items}.isdisjoint(HISTORY) == exclude_seen
    assert service.take_invalid() == 0
