"""Codes from words: the title's, the path of categories, a random number, one token an item.

Every word is one token of the catalogue, `<a_17>`; what it stands for is kept beside the codes (`words.json`). So a
code never depends on a tokenizer, and decoding is the same for every method.
"""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa

from llmrec.errors import CodeError
from llmrec.indexing.behaviour import numbered
from llmrec.indexing.codes import Drawn
from llmrec.items.text import plain, titles
from llmrec.seed import stream

LONGEST = 12  # words of a title; twins beyond are told apart by the separating level
NOTHING = "(none)"
_PARTS = re.compile(r"\s*[>|,;]\s*")


def title(items: pa.Table) -> Drawn:
    """The words of the title, as many as it has, at most twelve. Source: TID of Hua et al. 2023, arXiv 2305.06569."""
    spelled = [re.findall(r"\w+|[^\w\s]", name)[:LONGEST] or [name] for name in titles(items)]
    words = sorted({word for row in spelled for word in row})
    number = {word: place for place, word in enumerate(words)}
    codes = np.full((len(spelled), max(map(len, spelled))), -1, np.int32)
    for row, name in enumerate(spelled):
        codes[row, : len(name)] = [number[word] for word in name]
    return Drawn(codes, [0] * codes.shape[1], [len(words)], np.zeros(len(codes)), words={0: words})


def category(items: pa.Table, column: str, levels: int) -> Drawn:
    """The path of categories, from the widest to the narrowest.

    Args:
        items: the items table.
        column: a list, or a text whose parts are parted by > | , or ;.
        levels: of the path, at most; the rest of a longer one is left out.

    Raises:
        CodeError: there is no such column.

    Source: SemID of Hua et al. 2023, arXiv 2305.06569.
    """
    if column not in items.column_names:
        raise CodeError(
            f"indexing.category names the column '{column}', but items have: {', '.join(items.column_names)}."
        )
    paths = [category_path(cell)[:levels] for cell in items[column].to_pylist()]
    codes, words = np.full((len(paths), max(map(len, paths))), -1, np.int32), {}
    for level in range(codes.shape[1]):
        words[level] = sorted({path[level] for path in paths if len(path) > level})
        number = {name: place for place, name in enumerate(words[level])}
        codes[:, level] = [number[path[level]] if len(path) > level else -1 for path in paths]
    return Drawn.levels(codes, [len(names) for names in words.values()], np.zeros(len(codes)), words=words)


def category_path(cell: object) -> list[str]:
    """The parts of a cell of categories; `(none)` for an empty one."""
    parts = [plain(part) for part in cell] if isinstance(cell, list) else _PARTS.split(plain(cell))
    return [part for part in parts if part] or [NOTHING]


def number(n_items: int, width: int, spares: int, seed: int) -> Drawn:
    """Random numbers as digits to base `width`. Source: RID of Hua et al. 2023, arXiv 2305.06569."""
    return numbered(stream(seed, "indexing", "number").permutation(n_items), width, n_items + spares)


def item(n_items: int) -> Drawn:
    """One token of its own for each item. Source: IID of Hua et al. 2023, arXiv 2305.06569."""
    rows = np.arange(n_items, dtype=np.int32)
    return Drawn(rows[:, None], [0], [n_items], rows.astype(np.float64), unique="own")
