"""The trainer's feed: the disk holds what was encoded, lengths plan the rows, words are a fair sample."""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from llmrec.tasks.examples import load, stream_batches
from llmrec.train import initial_model
from llmrec.train.encode import Block, Encoded, TokenFile, encode, encode_examples, longest
from llmrec.train.packing import PackedRows, pack


def rows_of_the_loop(lengths: list[int], pack_length: int) -> list[list[int]]:
    """First fit over the newest 64 rows, as a plain loop."""
    rows: list[list[int]] = []
    room: list[int] = []
    for example, need in enumerate(lengths):
        fits = [row for row in range(max(0, len(rows) - 64), len(rows)) if room[row] >= need]
        if not fits:
            rows.append([])
            room.append(max(pack_length, need))
        place = fits[0] if fits else len(rows) - 1
        rows[place].append(example)
        room[place] -= need
    return rows


@settings(deadline=None)
@given(st.lists(st.integers(1, 50), min_size=1, max_size=300), st.integers(1, 60))
def test_rows_are_those_of_the_loop(lengths: list[int], pack_length: int) -> None:
    packed = pack(np.array(lengths), pack_length, np.arange(len(lengths)))
    assert [row.tolist() for row in packed] == rows_of_the_loop(lengths, pack_length)


@pytest.mark.parametrize("seed", range(5))
def test_a_row_of_examples_reads_the_same_from_the_disk(seed: int, tmp_path: Path) -> None:
    draw = np.random.default_rng(seed)
    examples = [Encoded(draw.integers(0, 100_000, n), draw.random(n) < 0.5) for n in draw.integers(1, 30, 40)]
    TokenFile.write([Block.of(examples[:7]), Block.of(examples[7:8]), Block.of(examples[8:])], tmp_path)
    held, ours = (PackedRows(some, 40, np.random.default_rng(1)) for some in (examples, TokenFile(tmp_path)))
    assert len(held) == len(ours) and (held.tokens, held.supervised) == (ours.tokens, ours.supervised)
    assert ours.tokens == sum(len(example.tokens) for example in examples)
    assert ours.supervised == sum(int(example.supervised[1:].sum()) for example in examples)
    for number in range(len(held)):
        assert all(np.array_equal(held[number][name], value) for name, value in ours[number].items())
    for number, example in enumerate(TokenFile(tmp_path)):
        assert np.array_equal(example.tokens, examples[number].tokens)
        assert np.array_equal(example.supervised, examples[number].supervised)


def test_examples_in_pieces_are_those_of_the_whole_table(tiny_run: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_run / "train-1-sft" / "model")
    table = load(tiny_run / "tasks")
    TokenFile.write(encode(stream_batches(tiny_run / "tasks"), tokenizer, 512), tmp_path)
    whole, single = encode_examples(table, tokenizer, 512), TokenFile(tmp_path)
    alone = [encode_examples(table.slice(number, 1), tokenizer, 512)[0] for number in (0, 5, table.num_rows - 1)]
    assert len(single) == len(whole) == table.num_rows
    for one, other in zip([*single, *alone], [*whole, whole[0], whole[5], whole[-1]], strict=True):
        assert np.array_equal(one.tokens, other.tokens) and np.array_equal(one.supervised, other.supervised)
    assert longest(table.to_batches(), tokenizer) == max(len(example.tokens) for example in whole)


def test_a_vocabulary_is_learnt_from_all_words_or_from_those_of_small_hash(tiny_run: Path) -> None:
    table = load(tiny_run / "tasks")
    plain = {text.split("<a_")[0] for name in ("prompt", "answer") for text in table[name].to_pylist()}
    every = initial_model.vocabulary_texts(tiny_run / "tasks")
    assert plain & set(every) and not any("<a_" in text or "<b_" in text for text in every)
    assert sorted(set(every)) == every
    some = initial_model.vocabulary_texts(tiny_run / "tasks", 1000)
    edge = max(zlib.crc32(text.encode()) for text in some)
    assert 0 < sum(map(len, some)) <= 1000
    assert some == [text for text in every if zlib.crc32(text.encode()) <= edge]
