"""Every way to index items, by the name that `indexing.method` gives it.

Methods beside those of vectors stand here: numbers, clusters of co-occurrence, words of titles, categories, one token
an item. A word is one token of the catalogue, `<a_17>`; what it stands for is kept beside the codes (`words.json`). So
a code never depends on a tokenizer, and decoding is the same for every method.
"""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from llmrec import resources
from llmrec.contracts import Sequences
from llmrec.errors import CodeError
from llmrec.indexing import quantizers
from llmrec.indexing.codes import RawCodes
from llmrec.indexing.kmeans import check_count
from llmrec.items.text import item_titles, plain_text
from llmrec.recipe import Indexing
from llmrec.seed import stream

LONGEST = 12  # words of a title; items that agree in all of them are told apart by the separating level
NOTHING = "(none)"
_PARTS = re.compile(r"\s*[>|,;]\s*")


@dataclass(frozen=True)
class IndexInputs:
    """What codes may be made from. Nothing held out.

    Attributes:
        items: the items table.
        text: (items, dim) float32 unit vectors of the items' text.
        vectors: (items, dim) float32 what vector methods quantize.
        train: the training part of every history; empty where there is none.
        seed: of the run.
    """

    items: pa.Table
    text: np.ndarray
    vectors: np.ndarray
    train: Sequences
    seed: int


def assign_codes(settings: Indexing, inputs: IndexInputs) -> RawCodes:
    """Codes by the method of a recipe, those of further methods (`indexing.append`) behind them.

    Raises:
        CodeError: see the methods.
        LlmrecError: a package is missing.
    """
    raw = _by_method(settings.method, settings, inputs)
    for method in settings.append:
        raw = _append(raw, _by_method(method, settings, inputs))
    return raw


def _by_method(method: str, settings: Indexing, inputs: IndexInputs) -> RawCodes:
    train, n_items, width, spares = inputs.train, inputs.items.num_rows, settings.width, settings.reserved_tokens
    match method:
        case "sequential":
            return sequential(train, n_items, width, spares)
        case "number":  # RID of Hua et al. 2023, arXiv 2305.06569
            return _digits(stream(inputs.seed, "indexing", "number").permutation(n_items), width, n_items + spares)
        case "collaborative":
            return collaborative(train, n_items, settings.levels, width, inputs.text, inputs.seed)
        case "title":
            return title(inputs.items)
        case "category":
            return category(inputs.items, settings.category_column, settings.levels)
        case "item":  # a token of its own for each; IID of Hua et al. 2023
            rows = np.arange(n_items, dtype=np.int32)
            return RawCodes(rows[:, None], [0], [n_items], rows.astype(np.float64), ends="own")
        case _:
            return quantizers.fit(method, settings, inputs.vectors, inputs.seed)


def _append(first: RawCodes, second: RawCodes) -> RawCodes:
    """The codes of two methods, one behind the other, each with tokens of its own; they end as the second's do."""
    shift = len(first.widths)
    return replace(
        first,
        codes=np.hstack([first.codes, second.codes]),
        kinds=[*first.kinds, *(kind + shift for kind in second.kinds)],
        widths=[*first.widths, *second.widths],
        ends=second.ends,
        words=first.words | {kind + shift: words for kind, words in second.words.items()},
        facts=first.facts | second.facts,
    )


def sequential(train: Sequences, n_items: int, width: int, spares: int) -> RawCodes:
    """Number items as they first appear, user after user, those without events last; digits to base `width`.

    There are numbers for `spares` new items, at least.

    Source: OpenP5 (Xu et al. 2024, arXiv 2306.11134), sequential indexing; Hua et al. 2023, arXiv 2305.06569.
    """
    seen, first = np.unique(train.items, return_index=True)
    met = seen[np.argsort(first)]
    order = np.concatenate([met, np.setdiff1d(np.arange(n_items), met)])
    number = np.empty(n_items, np.int64)
    number[order] = np.arange(n_items)
    return _digits(number, width, n_items + spares)


def _digits(number: np.ndarray, width: int, room: int) -> RawCodes:
    """(items,) different numbers as digits to base `width`, as many as `room` numbers need; each column has its own
    tokens."""
    levels = 1
    while width**levels < room:
        levels += 1
    digits = number[:, None] // width ** np.arange(levels - 1, -1, -1) % width
    return RawCodes.levels(digits, [width] * levels, number.astype(np.float64), ends="numbers")


def title(items: pa.Table) -> RawCodes:
    """The words of the title, as many as it has, at most twelve. Source: TID of Hua et al. 2023, arXiv 2305.06569."""
    spelled = [re.findall(r"\w+|[^\w\s]", name)[:LONGEST] or [name] for name in item_titles(items)]
    words = sorted({word for row in spelled for word in row})
    number = {word: place for place, word in enumerate(words)}
    codes = np.full((len(spelled), max(map(len, spelled))), -1, np.int32)
    for row, name in enumerate(spelled):
        codes[row, : len(name)] = [number[word] for word in name]
    return RawCodes(codes, [0] * codes.shape[1], [len(words)], np.zeros(len(codes)), words={0: words})


def category(items: pa.Table, column: str, levels: int) -> RawCodes:
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
            f"indexing.category_column names the column '{column}', but items have: {', '.join(items.column_names)}."
        )
    paths = [category_path(cell)[:levels] for cell in items[column].to_pylist()]
    codes, words = np.full((len(paths), max(map(len, paths))), -1, np.int32), {}
    for level in range(codes.shape[1]):
        words[level] = sorted({path[level] for path in paths if len(path) > level})
        number = {name: place for place, name in enumerate(words[level])}
        codes[:, level] = [number[path[level]] if len(path) > level else -1 for path in paths]
    return RawCodes.levels(codes, [len(names) for names in words.values()], np.zeros(len(codes)), words=words)


def category_path(cell: object) -> list[str]:
    """The parts of a cell of categories; `(none)` for an empty one."""
    parts = [plain_text(part) for part in cell] if isinstance(cell, list) else _PARTS.split(plain_text(cell))
    return [part for part in parts if part] or [NOTHING]


def collaborative(train: Sequences, n_items: int, levels: int, width: int, text: np.ndarray, seed: int) -> RawCodes:
    """Spectral clusters of the graph of items that share histories, split again and again until they are small.

    Args:
        train: the training part of every history.
        n_items: of the catalogue.
        levels: splits at most.
        width: parts of a split; a cluster of no more items is not split.
        text: (items, dim) vectors; an item without company shares the clusters of the nearest item that has some.
        seed: of the eigenvectors' start.

    Raises:
        CodeError: there are no training events, or fewer items in them than codes of a level.

    Source: Hua et al. 2023, arXiv 2305.06569, collaborative indexing, and OpenP5's code for it (`cluster_qr`). There a
    code's tokens belong to a node of the tree; here they belong to its level.
    """
    resources.require_extras("indexing")
    graph = _cooccurrence(train, n_items)
    known = np.flatnonzero(np.asarray(graph.sum(axis=1)).ravel() > 0)
    if not len(known):
        raise CodeError("no two items share a training history, so there is nothing to cluster. Choose another method.")
    check_count(len(known), width)
    codes = np.full((n_items, levels), -1, np.int32)
    _split(graph, known, codes, 0, width, seed)
    unmet = np.setdiff1d(np.arange(n_items), known)
    if len(unmet):
        codes[unmet] = codes[known[(text[unmet] @ text[known].T).argmax(axis=1)]]
    codes = codes[:, (codes >= 0).any(axis=0)]  # levels at which some cluster was still to split
    return RawCodes.levels(codes, [max(width, int(codes.max()) + 1)] * codes.shape[1], np.zeros(n_items))


def _cooccurrence(train: Sequences, n_items: int) -> Any:
    """(items, items) scipy sparse, in how many histories two items stand together; the diagonal is empty."""
    import scipy.sparse

    pairs = np.unique(np.stack([train.rows, train.items.astype(np.int64)]), axis=1)
    shape = (len(train), n_items)
    held = scipy.sparse.csr_matrix((np.ones(pairs.shape[1], np.float64), (pairs[0], pairs[1])), shape=shape)
    graph = (held.T @ held).tocsr()
    graph.setdiag(0)
    graph.eliminate_zeros()
    return graph


def _split(graph: Any, rows: np.ndarray, codes: np.ndarray, level: int, width: int, seed: int) -> None:
    """Cluster some items and write their numbers into a level, then each cluster into the next."""
    if level == codes.shape[1] or (len(rows) <= width and level):
        return
    labels = _spectral(graph[rows][:, rows], min(width, len(rows) - 1), seed) if len(rows) > 2 else np.zeros(len(rows))
    codes[rows, level] = labels
    for label in np.unique(labels):
        _split(graph, rows[labels == label], codes, level + 1, width, seed)


def _spectral(graph: Any, parts: int, seed: int) -> np.ndarray:
    """(items,) cluster of each item, in the order of each cluster's first item; one cluster where there is no edge."""
    from sklearn.cluster import SpectralClustering

    if graph.nnz == 0 or parts < 2:
        return np.zeros(graph.shape[0], np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that the graph is not connected: parts of it are clusters too
        model = SpectralClustering(parts, affinity="precomputed", assign_labels="cluster_qr", random_state=seed % 2**31)
        labels = model.fit_predict(graph)
    _, first, label = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[label]
