"""Examples: what they say is what the log and the catalogue say, and no text can pass for a code."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmrec.contracts import Sequences
from llmrec.data.dataset import Dataset
from llmrec.errors import DataError
from llmrec.indexing.catalogue import Catalogue
from llmrec.recipe import Tasks
from llmrec.tasks import examples, templates
from llmrec.tasks.examples import alignment, load, make, windows

CODE = re.compile(r"<[a-z]_\d+>")


def catalogue(texts: list[str]) -> Catalogue:
    items = pa.table({"item_id": [f"i{number}" for number in range(len(texts))], "title": texts})
    return Catalogue.of(items, np.stack([np.arange(len(texts)), np.zeros(len(texts))], 1).astype(np.int32), [99, 1])


@given(st.integers(0, 40), st.integers(1, 12), st.integers(1, 4))
def test_windows_are_pieces_of_the_history_and_cover_each_event_as_often_as_said(
    events: int, size: int, times: int
) -> None:
    history = np.arange(events)
    cut = [window.tolist() for window in windows(history, size, times)]
    for window in cut:
        assert 2 <= len(window) <= size + 1
        assert window == list(range(window[0], window[0] + len(window)))
    seen = Counter(event for window in cut for event in window)
    # each turn begins below one window from the end, and leaves out at most a single first event
    for event in range(1, max(1, events - (times - 1) * (size + 1) // times)):
        assert seen[event] == times
    assert all(seen[event] <= times for event in range(events))
    if events >= 2:
        assert seen[events - 1] >= 1


def test_each_turn_cuts_elsewhere() -> None:
    ends = [window[-1] for window in windows(np.arange(100), 9, 2)]
    assert set(ends[:10]).isdisjoint(ends[10:])


def test_every_prompt_shows_the_codes_of_its_history_in_order(tiny_run: Path) -> None:
    dataset, codes = Dataset.load(tiny_run / "data"), Catalogue.load(tiny_run / "catalogue")
    train = dict(zip(dataset.user_ids, dataset.before("valid"), strict=True))
    held_out = {w.prompt.split("{")[0] for w in templates.load("next_item").held_out}
    for row in load(tiny_run / "tasks").to_pylist():
        for slot in row["slots"]:
            text = row["prompt"][slot["start"] : slot["stop"]]
            if slot["kind"] in ("history", "item"):
                assert text == codes.code_texts[codes.item_number[slot["item_id"]]]
        if row["task"] != "next_item":
            continue
        shown = [slot["item_id"] for slot in row["slots"]] + [row["item_id"]]
        own = [dataset.item_ids[item] for item in train[row["user_id"]]]
        assert any(own[start : start + len(shown)] == shown for start in range(len(own)))
        assert row["answer"] == codes.code_texts[codes.item_number[row["item_id"]]]
        assert not any(row["prompt"].startswith(wording) for wording in held_out)


def test_alignment_asks_both_ways_about_every_item(tiny_run: Path) -> None:
    codes = Catalogue.load(tiny_run / "catalogue")
    table = load(tiny_run / "tasks").to_pylist()
    for task in ("item_to_text", "text_to_item"):
        about = Counter(row["item_id"] for row in table if row["task"] == task)
        assert about == dict.fromkeys(codes.item_ids, 1)
    for row in table:
        if row["task"] == "item_to_text":
            assert codes.code_texts[codes.item_number[row["item_id"]]] in row["prompt"]
            assert codes.titles[codes.item_number[row["item_id"]]] in row["answer"]


@given(
    st.lists(st.text(min_size=1, max_size=30) | st.sampled_from(["<a_3><b_0>", "</s>", "<s>", "{item}"]), min_size=1)
)
def test_a_hostile_title_never_becomes_a_code(texts: list[str]) -> None:
    one = catalogue(texts)
    for task in ("item_to_text", "text_to_item"):
        for example in alignment(task, 1.0, one, texts, seed=0):
            whole = example.prompt + example.answer
            assert CODE.findall(whole) == CODE.findall(one.code_texts[one.item_number[example.item_id]])
            assert "</s>" not in whole and "<s>" not in whole


def test_weights_are_how_often_an_item_is_asked_about() -> None:
    texts = [f"text {number}" for number in range(90)]
    for weight, low, high in ((0.0, 0, 0), (1.0, 90, 90), (2.0, 180, 180), (0.5, 25, 65), (1.5, 115, 155)):
        assert low <= len(list(alignment("item_to_text", weight, catalogue(texts), texts, seed=1))) <= high


def test_the_same_seed_gives_the_same_file_and_another_gives_another(tmp_path: Path) -> None:
    texts = [f"text {number}" for number in range(9)]
    train = Sequences.of([[0, 1, 2, 3], [4, 5], [6]])
    tables = []
    for place, seed in enumerate((1, 1, 2)):
        (tmp_path / str(place)).mkdir()
        make(Tasks(), train, ["a", "b", "c"], catalogue(texts), texts, seed, tmp_path / str(place))
        tables.append((tmp_path / str(place) / "examples.arrow").read_bytes())
    assert tables[0] == tables[1] != tables[2]


def test_no_examples_at_all_is_an_error_in_words(tmp_path: Path) -> None:
    nothing = Tasks(next_item=1, item_to_text=0, text_to_item=0)
    with pytest.raises(DataError, match="no training examples"):
        make(nothing, Sequences.of([[0], []]), ["a", "b"], catalogue(["x"]), ["x"], 0, tmp_path)
    assert examples.SCHEMA.names[0] == "prompt"
