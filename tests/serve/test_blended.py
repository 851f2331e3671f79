"""A server of a run whose recipe mixes a teacher in gives the lists of `llmrec.load`, filters included."""

import asyncio
import shutil

import numpy as np
import pytest

import llmrec
from llmrec.recipe_file import dump, load
from llmrec.serve.batches import TransformersServing
from llmrec.serve.settings import Settings
from llmrec.serve.shapes import Ask
from llmrec.serve.shop import Shop


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("blended") / "run"
    shutil.copytree(tiny_run, folder)
    recipe = load(folder / "recipe.yaml", ["evaluate.blend={share: 0.5}"])
    (folder / "recipe.yaml").write_text(dump(recipe))
    return folder


@pytest.fixture(scope="module")
def desk(run):
    settings = Settings(run=run)
    return Shop(settings, TransformersServing.open(settings.model)).desk


@pytest.mark.parametrize("more", [{}, {"deny": ["i7", "i8"]}, {"allow": ["i1", "i9", "i20"]}, {"exclude_seen": False}])
def test_a_server_and_load_give_the_same_lists(run, desk, tiny_run, more):
    history = ["i3", "i4", "i5", "i6"]
    answer = asyncio.run(desk.answer(Ask(history=history, k=3, **more), "one"))
    found = llmrec.load(run).recommend(history, 3, **more)
    assert [item.item_id for item in answer.items] == [item for item, _ in found]
    np.testing.assert_allclose([item.score for item in answer.items], [score for _, score in found], rtol=1e-4)
    alone = llmrec.load(tiny_run).recommend(history, 3, **more)
    assert [score for _, score in alone] != pytest.approx([score for _, score in found], rel=1e-3)


def test_an_export_is_the_model_alone(run, tmp_path):
    from llmrec.export import export

    export(run, tmp_path / "out")
    assert llmrec.load(tmp_path / "out").blend is None
    assert "markov" not in (tmp_path / "out" / "README.md").read_text()
