"""The data sets that come with llmrec, or lie in $LLMREC_DATA: what everybody knows of them holds."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from llmrec import resources
from llmrec.data import dataset as data
from llmrec.data.dataset import Dataset
from llmrec.items.item_text import item_texts
from llmrec.recipe import Data

fetched = pytest.mark.skipif(
    not resources.is_downloaded("ml-100k"), reason="MovieLens 100K is not in the cache; `llmrec setup` fetches it"
)


@pytest.fixture(scope="module")
def ml_100k(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    folder = tmp_path_factory.mktemp("ml-100k")
    data.make(Data(source="ml-100k"), 42, folder)
    return Dataset.load(folder)


@fetched
def test_ml_100k_has_the_numbers_that_its_readme_states(ml_100k: Dataset) -> None:
    assert (len(ml_100k.histories), ml_100k.n_items, ml_100k.interactions.num_rows) == (943, 1682, 100_000)
    assert ml_100k.histories.lengths.min() >= 20
    assert len(ml_100k.part("test").items) == len(ml_100k.part("valid").items) == 943
    ratings = ml_100k.interactions["rating"].to_numpy()
    assert set(np.unique(ratings)) == {1.0, 2.0, 3.0, 4.0, 5.0}


@fetched
def test_every_film_of_ml_100k_has_a_text(ml_100k: Dataset) -> None:
    texts = item_texts(ml_100k.items, ["title", "year", "genres"])
    assert texts[ml_100k.item_ids.index("1")].startswith("Toy Story; year: 1995; genres: Animation")


@fetched
def test_held_out_films_of_ml_100k_are_not_those_with_the_largest_ids(ml_100k: Dataset) -> None:
    """Half of its users end in a tie of time; sorting ties by id would put large ids last."""
    times = ml_100k.interactions["timestamp"].to_numpy()
    tied, larger = 0, 0
    for row in range(len(ml_100k.histories)):
        last = ml_100k.histories.offsets[row + 1] - 1
        if times[last] == times[last - 1]:
            tied += 1
            larger += ml_100k.histories.items[last] > ml_100k.histories.items[last - 1]
    assert tied > 300
    assert abs(larger / tied - 0.5) < 4 * 0.5 / tied**0.5  # a fair coin, to four deviations


@pytest.mark.parametrize("name", ["ml-latest-small", "amazon-beauty-2014", "amazon-games-2018"])
def test_a_prepared_set_reads_where_there_is_one(name: str, tmp_path: Path) -> None:
    if not (Path(os.environ.get("LLMREC_DATA") or "/nowhere") / name).is_dir():
        pytest.skip(f"$LLMREC_DATA holds no {name}")
    facts = data.make(Data.model_validate({"source": name}), 0, tmp_path)
    assert facts["test users"] == facts["users"]
    assert Dataset.load(tmp_path).histories.items.min() >= 0
