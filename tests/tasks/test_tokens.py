"""Tokens: the short way gives what each kind of tokenizer gives; a history is cut at an item."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from task_world import source
from tokenizers import AddedToken

from llmrec.errors import ModelError
from llmrec.model import nano
from llmrec.recipe import TASKS, Tasks
from llmrec.tasks import templates
from llmrec.tasks.examples import load, make
from llmrec.tasks.tokens import SegmentTokenizer, drop_oldest, fit_history
from llmrec.train.encode import encode_examples

CODES = [f"<a_{number}>" for number in range(30)] + ["<b_0>"]
WORDS = [template.prompt for task in TASKS for template in templates.load(task).train]
SEGMENT = (
    st.text(max_size=12)
    | st.sampled_from(WORDS)
    | st.sampled_from(CODES)
    | st.sampled_from(["<|item|>", "<", "</s>", " ", "  ", " a", "b ", "\u00a0", "\n "])
)


@pytest.mark.parametrize("kind", ["sentencepiece", "byte-level"])
@pytest.mark.parametrize("special", [True, False])
@settings(deadline=None)
@given(texts=st.lists(st.lists(SEGMENT, max_size=8).map("".join), max_size=5))
def test_the_short_way_gives_the_same_tokens_at_the_same_characters(every, kind: str, special: bool, texts) -> None:
    short = SegmentTokenizer(every[kind], special)
    for _ in range(2):  # unknown, then known pieces
        found = short(pa.array(texts, pa.string()))
        assert len(found.offsets) == len(texts) + 1
        for number, text in enumerate(texts):
            whole = every[kind](text, add_special_tokens=special, return_offsets_mapping=True)
            ids, begins, ends = found.text(number)
            assert ids.tolist() == whole["input_ids"]
            assert list(zip(begins.tolist(), ends.tolist(), strict=True)) == whole["offset_mapping"]
    assert short.by_segment


@pytest.mark.parametrize("kind", ["sentencepiece", "byte-level"])
def test_every_word_and_code_is_tokenized_once(every, kind: str) -> None:
    short = SegmentTokenizer(every[kind], True)
    texts = [f"Go on with {CODES[i]}<b_0>{CODES[i + 1]}<b_0> and then go on" for i in range(29)]
    short(pa.array(texts))
    own = ["Go", " on", " with ", " and", " then", " go", *(f"{code}<b_0>" for code in CODES[:30])]
    assert sorted(piece for pieces in short._known.values() for piece in pieces) == sorted(own)


def test_a_tokenizer_that_reaches_across_its_added_tokens_is_not_trusted(tmp_path: Path) -> None:
    greedy = nano.train_tokenizer(WORDS, 500, tmp_path)
    greedy.add_tokens([AddedToken(code, normalized=False, rstrip=code == "<a_1>") for code in CODES])
    short = SegmentTokenizer(greedy, True)
    texts = [f"x {one} y {other}  z" for one in CODES for other in CODES]
    found = short(pa.array(texts))
    for number, text in enumerate(texts):
        assert found.text(number)[0].tolist() == greedy(text)["input_ids"]


def row(history: list[int]) -> dict:
    one = source([history])
    pieces = [(one.codes[item].as_py(), "history", one.item_ids[item].as_py()) for item in history]
    user = [("u0", "user", "")]
    prompt, slots = templates.fill(
        "For {user}: {history} and {after}", {"user": user, "history": pieces, "after": user}
    )
    return {"prompt": prompt, "slots": [vars(slot) for slot in slots]}


@given(st.lists(st.integers(0, 29), min_size=1, max_size=9), st.integers(1, 60))
def test_too_long_a_history_loses_its_oldest_items_and_no_part_of_one(history: list[int], window: int) -> None:
    def tokens(prompt: str) -> int:
        return prompt.count("<") + 4

    kept = fit_history(row(history), window, tokens)
    left = next(n for n in range(len(history), 0, -1) if n == 1 or 2 * n + 4 <= window)
    assert kept == row(history[-left:])


def test_nothing_dropped_is_nothing_changed() -> None:
    assert drop_oldest(row([1, 2]), 0) == row([1, 2])
    assert drop_oldest(row([1, 2, 3]), 2) == row([3])


def test_training_cuts_a_history_that_the_window_cannot_hold(every, tmp_path: Path) -> None:
    draw = random.Random(0)
    make(
        Tasks(mixture="none", next_item=1.0, history=60), source([[draw.randrange(30) for _ in range(50)]]), 0, tmp_path
    )
    tokenizer, table = every["sentencepiece"], load(tmp_path)
    whole = encode_examples(table, tokenizer, 1000)[0]
    cut = encode_examples(table, tokenizer, 60)[0]
    assert len(whole.tokens) > 110 and 58 < len(cut.tokens) <= 60
    kept = int(cut.supervised.sum())
    assert (kept - 1) % 2 == 0  # whole items, and the end
    assert np.array_equal(cut.tokens[cut.supervised], whole.tokens[whole.supervised][-kept:])
    with pytest.raises(ModelError, match=r"but the model holds 8\. Lower tasks.history"):
        encode_examples(table, tokenizer, 8)
