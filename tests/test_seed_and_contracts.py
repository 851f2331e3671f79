"""Streams of random numbers that never meet, and sequences as flat arrays."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from llmrec.contracts import Sequences
from llmrec.seed import stream


def test_a_stream_is_its_seed_and_its_name() -> None:
    draws = {
        (seed, names): tuple(stream(seed, *names).integers(1 << 60, size=4).tolist())
        for seed in (0, 1, 2**40)
        for names in (("pack", 1), ("pack", 2), ("next_item",), ())
    }
    assert len(set(draws.values())) == len(draws)
    assert tuple(stream(1, "pack", 2).integers(1 << 60, size=4).tolist()) == draws[1, ("pack", 2)]


@given(st.lists(st.lists(st.integers(0, 9), max_size=5), max_size=6))
def test_sequences_give_back_the_rows_that_they_were_made_of(rows: list[list[int]]) -> None:
    packed = Sequences.of(rows)
    assert [row.tolist() for row in packed] == rows
    assert len(packed) == len(rows)
    assert packed.lengths.tolist() == [len(row) for row in rows]
    pairs = [(number, item) for number, row in enumerate(rows) for item in row]
    assert list(zip(packed.rows.tolist(), packed.items.tolist(), strict=True)) == pairs
    assert packed.items.dtype == np.int32 and packed.offsets.dtype == np.int64
