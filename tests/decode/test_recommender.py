"""Recommender: real and distinct items, best first, whatever is asked; and a message where it cannot be answered."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import llmrec
from llmrec.contracts import Request
from llmrec.data.dataset import Dataset
from llmrec.decode.generative import Generative, GenerativeModel, parse_engine, transformers_engine_factory
from llmrec.decode.load import LoadedRecommender
from llmrec.errors import ModelError, RequestError, RunError
from llmrec.export import export
from llmrec.indexing.catalogue import Catalogue
from llmrec.run.layout import RunFolder

HISTORY = ["i3", "i4", "i5", "i6"]


@pytest.fixture(scope="module")
def recommender(tiny_run: Path) -> LoadedRecommender:
    found = llmrec.load(tiny_run, beams=50)
    found.exclude_seen = True
    return found


@pytest.fixture(scope="module")
def generative(recommender: LoadedRecommender) -> Generative:
    assert isinstance(recommender.recommender, Generative)
    return recommender.recommender


def test_lists_are_made_as_they_are_judged_where_nobody_says_otherwise(tiny_run: Path, tmp_path: Path) -> None:
    """The recipe of the run says so: 10 beams, and items of the history may come again."""
    judged = pq.read_table(RunFolder(tiny_run).evaluation("test") / "recommendations.parquet").to_pylist()
    data = Dataset.load(tiny_run / "data")
    for folder in (tiny_run, export(tiny_run, tmp_path / "export")):
        opened = llmrec.load(folder)
        for user in (0, 7, 33):
            cases = data.cases("test")
            history = [data.item_ids[item] for item in cases.histories[user]]
            given = [row["item_id"] for row in judged if row["user_id"] == data.user_ids[cases.users[user]]]
            assert [item for item, _ in opened.recommend(history, 10)] == given
    assert any(row["item_id"] in history for row in judged)


@pytest.mark.parametrize("k", [1, 7, 36])
def test_k_distinct_real_items_best_first(recommender: LoadedRecommender, k: int) -> None:
    found = recommender.recommend(HISTORY, k)
    items, scores = zip(*found, strict=True)
    assert len(items) == len(set(items)) == k
    assert set(items) <= set(recommender.catalogue.item_ids) - set(HISTORY)
    assert list(scores) == sorted(scores, reverse=True)


def test_seen_items_are_left_out_only_on_demand(recommender: LoadedRecommender) -> None:
    everything = recommender.recommend(HISTORY, 40, exclude_seen=False)
    assert sorted(item for item, _ in everything) == sorted(recommender.catalogue.item_ids)
    rest = recommender.recommend(HISTORY, 40)
    assert [item for item, _ in rest] == [item for item, _ in everything if item not in HISTORY]


def test_beams_that_are_wide_enough_rank_as_the_exact_scores_do(
    recommender: LoadedRecommender, generative: Generative
) -> None:
    exact = generative.score([Request(recommender.history_numbers(HISTORY))])[0]
    order = [recommender.catalogue.item_ids[item] for item in np.argsort(-exact, kind="stable")]
    found = recommender.recommend(HISTORY, 10, exclude_seen=False)
    assert [item for item, _ in found] == order[:10]
    np.testing.assert_allclose([score for _, score in found], np.sort(exact)[::-1][:10], rtol=1e-3, atol=1e-4)


def test_ids_may_be_numbers_and_one_text_is_no_list_of_ids(recommender: LoadedRecommender) -> None:
    for asked in ({"history": "i3"}, {"history": ["i3"], "allow": "i4"}, {"history": ["i3"], "deny": "i4"}):
        with pytest.raises(RequestError, match=r"is a list of item ids, not the text 'i\d': \['i\d'\]"):
            recommender.recommend(**asked)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="k is a whole number, not '3'"):
        recommender.recommend(HISTORY, "3")  # type: ignore[arg-type]
    items = recommender.catalogue.items
    named = items.set_column(items.column_names.index("item_id"), "item_id", pa.array(map(str, range(40))))
    twin = LoadedRecommender("twin", recommender.recommender, replace(recommender.catalogue, items=named), True)
    assert twin.recommend([3, np.int64(4)], np.int64(5)) == twin.recommend(["3", "4"], 5)  # type: ignore[list-item]


def test_allow_and_deny_are_held_to(recommender: LoadedRecommender) -> None:
    allowed = ["i1", "i9", "i20", "i33"]
    with pytest.warns(UserWarning, match="leave 3 items, fewer than the 10 asked for"):
        found = [item for item, _ in recommender.recommend(HISTORY, 10, allow=allowed, deny=["i9"])]
    assert sorted(found) == ["i1", "i20", "i33"]


def test_a_longer_history_than_the_window_is_its_newest_part(
    recommender: LoadedRecommender, generative: Generative
) -> None:
    window = generative.meta.history
    long = [f"i{number % 40}" for number in range(3 * window)]
    whole, newest = (recommender.recommend(history, 5, exclude_seen=False) for history in (long, long[-window:]))
    assert whole == newest


def test_all_of_a_long_history_counts_as_seen(recommender: LoadedRecommender) -> None:
    long = [f"i{number}" for number in range(30)]
    assert {item for item, _ in recommender.recommend(long, 10)} == {f"i{number}" for number in range(30, 40)}


def test_an_empty_history_still_gets_recommendations(recommender: LoadedRecommender) -> None:
    assert len(recommender.recommend([], 5)) == 5


def test_unknown_items_are_left_out_with_a_note(recommender: LoadedRecommender) -> None:
    with pytest.warns(UserWarning, match="left out of the history, since the catalogue lacks them: 'i999'"):
        found = recommender.recommend([*HISTORY, "i999"], 5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert found == recommender.recommend(HISTORY, 5)


def test_a_history_of_unknown_items_is_refused_with_the_nearest_name(recommender: LoadedRecommender) -> None:
    with pytest.raises(
        RequestError, match=r"no item of the history is in the catalogue: 'i399', 'zz'\. Did you mean 'i39'"
    ):
        recommender.recommend(["i399", "zz"], 5)


@pytest.mark.parametrize("what", ["allow", "deny"])
def test_filters_of_unknown_items_are_refused(recommender: LoadedRecommender, what: str) -> None:
    with pytest.raises(RequestError, match=f"`{what}` names items that the catalogue lacks: 'zz'"):
        recommender.recommend(HISTORY, 5, **{what: ["i1", "zz"]})


@pytest.mark.parametrize("k", [0, -1, 41])
def test_k_out_of_range_is_refused_with_the_range(recommender: LoadedRecommender, k: int) -> None:
    with pytest.raises(RequestError, match=f"k must be between 1 and the catalogue's 40 items, not {k}"):
        recommender.recommend(HISTORY, k)


def test_the_held_out_prompt_is_another_one_of_which_training_saw_nothing(
    tiny_run: Path, generative: Generative
) -> None:
    other = llmrec.load(tiny_run, held_out_prompt=True).recommender
    assert isinstance(other, Generative)
    assert other.meta.prompt == generative.meta.held_out_prompt != generative.meta.prompt
    assert other.prompt(Request([1, 2])) != generative.prompt(Request([1, 2]))


def test_a_prompt_at_decoding_is_a_prompt_of_training_to_the_token(tiny_run: Path, generative: Generative) -> None:
    from llmrec.tasks import examples
    from llmrec.train.encode import encode_examples

    table = examples.load(tiny_run / "tasks")
    rows = table.to_pylist()
    start = generative.meta.prompt.split("{")[0]
    own = [row for row in rows if row["task"] == "next_item" and row["prompt"].startswith(start)]
    assert own
    encoded = encode_examples(type(table).from_pylist(own, schema=table.schema), generative.tokenizer, 512)
    answer = generative.catalogue.codes.shape[1] + 1  # and the end
    for row, example in zip(own, encoded, strict=True):
        history = [generative.catalogue.item_number[slot["item_id"]] for slot in row["slots"]]
        assert generative.prompt(Request(history)) == example.tokens[:-answer].tolist()


def test_a_model_of_another_catalogue_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    one = Catalogue.load(tiny_run / "catalogue")
    last = one.codes.max(axis=0)
    starts = [0, int(last[0]) + 1, int(last[1]) + 1]
    widths = [*np.diff(starts).tolist(), len(one.tokens) - starts[-1]]
    swapped = (one.codes - np.array(starts))[np.r_[1, 0, 2:40]]
    other = Catalogue.of(one.items, swapped.astype(np.int32), widths)
    model = tiny_run / "train-1-sft" / "model"
    with pytest.raises(ModelError, match=r"was trained on the catalogue [0-9a-f]{12}…, not on [0-9a-f]{12}…"):
        GenerativeModel(model, transformers_engine_factory(model)).for_catalogue(other, tmp_path)


def test_an_engine_that_there_is_not_is_refused() -> None:
    with pytest.raises(RequestError, match="'tpu': use transformers or vllm"):
        parse_engine("tpu")


def test_a_folder_without_a_trained_model_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunError, match="there is no folder"):
        llmrec.load(tmp_path / "nothing")
    with pytest.raises(RunError, match="is not a run folder"):
        llmrec.load(tmp_path)
    shutil.copy(tiny_run / "recipe.yaml", tmp_path)
    with pytest.raises(RunError, match="has no trained model"):
        llmrec.load(tmp_path)
