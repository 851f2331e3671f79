"""The map of codes: every item in one cell, areas as large as counts, titles that cannot break the page."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from llmrec.report.charts import FIRST, HEIGHT, SECOND, WIDTH, cells, tree_map

DRAW = np.random.default_rng(0)
CODES = [(f"<a_{a}>", f"<b_{b}>", "<c_0>") for a, b in DRAW.integers(0, [40, 12], (500, 2))]


def test_every_item_is_counted_once_and_the_largest_groups_come_first() -> None:
    found = cells(CODES, ["x"] * 500)
    sizes = Counter(first for first, _, _ in CODES)
    assert [size for _, size, _ in found[:FIRST]] == [size for _, size in sizes.most_common(FIRST)]
    assert sum(size for _, size, _ in found) == 500
    for _, size, groups in found:
        assert sum(count for _, count, _ in groups) == size and len(groups) <= SECOND + 1
    assert cells([("<a_0>",), ("<a_1>",)], ["one", "two"])[0] == ("<a_0>", 1, [("", 1, ["one"])])


def test_areas_are_in_proportion_and_titles_are_text() -> None:
    svg = tree_map([*CODES, *[("<a_99>", "<b_0>")] * 500], ["x"] * 500 + ['</svg><script>"'] * 500)
    assert "<script" not in svg and "&lt;script" in svg
    boxes = [tuple(map(float, box)) for box in re.findall(r'width="([\d.]+)" height="([\d.]+)" fill', svg)]
    assert sum((w + 1) * (h + 1) for w, h in boxes) == pytest.approx(WIDTH * HEIGHT, rel=0.06)  # less the frames
    assert max((w + 1) * (h + 1) for w, h in boxes) == pytest.approx(WIDTH * HEIGHT / 2, rel=0.02)
