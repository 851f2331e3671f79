"""Assign codes by `indexing.method`; methods without a quantizer are defined here.

Words of titles and categories become tokens of the catalogue, such as `<a_17>`; words.json says which word each token
stands for. So a code never depends on a tokenizer, and decoding is the same for every method.
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
from llmrec.items.item_text import item_titles, plain_text
from llmrec.recipe import Indexing
from llmrec.seed import stream

MAX_WORDS = 12  # of a title; items with the same first words are told apart by the deduplication level
NO_CATEGORY = "(none)"
_SEPARATOR = re.compile(r"\s*[>|,;]\s*")


@dataclass(frozen=True)
class IndexInputs:
    """Data that codes are assigned from; nothing held out.

    Attributes:
        items: the items table.
        text: (items, dim) float32 unit text vectors.
        vectors: (items, dim) float32 vectors to quantize.
        train: training histories; empty if there are none.
        seed: of the run.
    """

    items: pa.Table
    text: np.ndarray
    vectors: np.ndarray
    train: Sequences
    seed: int


def assign_codes(settings: Indexing, inputs: IndexInputs) -> RawCodes:
    """Assign codes by `indexing.method`, followed by those of `indexing.append`.

    Raises:
        CodeError: see the methods.
        LlmrecError: a package is missing.
    """
    raw = _by_method(settings.method, settings, inputs)
    for method in settings.append:
        raw = _append(raw, _by_method(method, settings, inputs))
    return raw


def _by_method(method: str, settings: Indexing, inputs: IndexInputs) -> RawCodes:
    train, n_items, width, reserved = inputs.train, inputs.items.num_rows, settings.width, settings.reserved_tokens
    match method:
        case "sequential":
            return sequential(train, n_items, width, reserved)
        case "number":  # RID of Hua et al. 2023, arXiv 2305.06569
            return _digits(stream(inputs.seed, "indexing", "number").permutation(n_items), width, n_items + reserved)
        case "collaborative":
            return collaborative(train, n_items, settings.levels, width, inputs.text, inputs.seed)
        case "title":
            return title(inputs.items)
        case "category":
            return category(inputs.items, settings.category_column, settings.levels)
        case "item":  # one token per item; IID of Hua et al. 2023
            rows = np.arange(n_items, dtype=np.int32)
            return RawCodes(rows[:, None], [0], [n_items], rows.astype(np.float64), suffix="per-item")
        case _:
            return quantizers.fit(method, settings, inputs.vectors, inputs.seed)


def _append(first: RawCodes, second: RawCodes) -> RawCodes:
    """Concatenate the codes of two methods, each with its own tokens; the suffix is the second's."""
    shift = len(first.widths)
    return replace(
        first,
        codes=np.hstack([first.codes, second.codes]),
        token_groups=[*first.token_groups, *(group + shift for group in second.token_groups)],
        widths=[*first.widths, *second.widths],
        suffix=second.suffix,
        words=first.words | {group + shift: words for group, words in second.words.items()},
        facts=first.facts | second.facts,
    )


def sequential(train: Sequences, n_items: int, width: int, reserved: int) -> RawCodes:
    """Number items in order of first appearance, items without events last; write the numbers in base `width`.

    There are enough digits for `reserved` new items.

    Source: OpenP5 (Xu et al. 2024, arXiv 2306.11134), sequential indexing; Hua et al. 2023, arXiv 2305.06569.
    """
    seen, first = np.unique(train.items, return_index=True)
    seen = seen[np.argsort(first)]
    order = np.concatenate([seen, np.setdiff1d(np.arange(n_items), seen)])
    number = np.empty(n_items, np.int64)
    number[order] = np.arange(n_items)
    return _digits(number, width, n_items + reserved)


def _digits(number: np.ndarray, width: int, count: int) -> RawCodes:
    """Different (items,) numbers as digits in base `width`, enough digits for `count` numbers."""
    levels = 1
    while width**levels < count:
        levels += 1
    digits = number[:, None] // width ** np.arange(levels - 1, -1, -1) % width
    return RawCodes.per_level(digits, [width] * levels, number.astype(np.float64), suffix="none")


def title(items: pa.Table) -> RawCodes:
    """The first twelve words of the title. Source: TID of Hua et al. 2023, arXiv 2305.06569."""
    names = [re.findall(r"\w+|[^\w\s]", name)[:MAX_WORDS] or [name] for name in item_titles(items)]
    words = sorted({word for row in names for word in row})
    number = {word: index for index, word in enumerate(words)}
    codes = np.full((len(names), max(map(len, names))), -1, np.int32)
    for row, name in enumerate(names):
        codes[row, : len(name)] = [number[word] for word in name]
    return RawCodes(codes, [0] * codes.shape[1], [len(words)], np.zeros(len(codes)), words={0: words})


def category(items: pa.Table, column: str, levels: int) -> RawCodes:
    """The path of categories, from the most general to the most specific.

    Cells are lists, or texts whose parts are separated by > | , or ;. Paths are cut after `levels` parts.

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
        number = {name: index for index, name in enumerate(words[level])}
        codes[:, level] = [number[path[level]] if len(path) > level else -1 for path in paths]
    return RawCodes.per_level(codes, [len(names) for names in words.values()], np.zeros(len(codes)), words=words)


def category_path(cell: object) -> list[str]:
    """The parts of a cell of categories; `(none)` for an empty one."""
    parts = [plain_text(part) for part in cell] if isinstance(cell, list) else _SEPARATOR.split(plain_text(cell))
    return [part for part in parts if part] or [NO_CATEGORY]


def collaborative(train: Sequences, n_items: int, levels: int, width: int, text: np.ndarray, seed: int) -> RawCodes:
    """Hierarchical spectral clustering of the co-occurrence graph of items.

    Args:
        levels: maximum depth.
        width: clusters of a split; a cluster of at most this many items is not split.
        text: (items, dim) vectors; an item without co-occurrences gets the clusters of its nearest item by text.

    Raises:
        CodeError: there are no training events, or fewer items in them than codes of a level.

    Source: Hua et al. 2023, arXiv 2305.06569, collaborative indexing, and OpenP5's code for it (`cluster_qr`). There a
    code's tokens belong to a node of the tree; here they belong to its level.
    """
    resources.require_extras("indexing")
    graph = _cooccurrence(train, n_items)
    connected = np.flatnonzero(np.asarray(graph.sum(axis=1)).ravel() > 0)
    if not len(connected):
        raise CodeError("no two items share a training history, so there is nothing to cluster. Choose another method.")
    check_count(len(connected), width)
    codes = np.full((n_items, levels), -1, np.int32)
    _split(graph, connected, codes, 0, width, seed)
    cold = np.setdiff1d(np.arange(n_items), connected)
    if len(cold):
        codes[cold] = codes[connected[(text[cold] @ text[connected].T).argmax(axis=1)]]
    codes = codes[:, (codes >= 0).any(axis=0)]  # levels at which a cluster was still split
    return RawCodes.per_level(codes, [max(width, int(codes.max()) + 1)] * codes.shape[1], np.zeros(n_items))


def _cooccurrence(train: Sequences, n_items: int) -> Any:
    """(items, items) scipy sparse number of histories that contain both items; the diagonal is empty."""
    import scipy.sparse

    pairs = np.unique(np.stack([train.rows, train.items.astype(np.int64)]), axis=1)
    shape = (len(train), n_items)
    incidence = scipy.sparse.csr_matrix((np.ones(pairs.shape[1], np.float64), (pairs[0], pairs[1])), shape=shape)
    graph = (incidence.T @ incidence).tocsr()
    graph.setdiag(0)
    graph.eliminate_zeros()
    return graph


def _split(graph: Any, rows: np.ndarray, codes: np.ndarray, level: int, width: int, seed: int) -> None:
    """Cluster some items, write their labels into a level of `codes`, and split each cluster further."""
    if level == codes.shape[1] or (len(rows) <= width and level):
        return
    labels = _spectral(graph[rows][:, rows], min(width, len(rows) - 1), seed) if len(rows) > 2 else np.zeros(len(rows))
    codes[rows, level] = labels
    for label in np.unique(labels):
        _split(graph, rows[labels == label], codes, level + 1, width, seed)


def _spectral(graph: Any, clusters: int, seed: int) -> np.ndarray:
    """(items,) cluster of each item, numbered by first item; one cluster if there is no edge."""
    from sklearn.cluster import SpectralClustering

    if graph.nnz == 0 or clusters < 2:
        return np.zeros(graph.shape[0], np.int64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # the graph is not connected: its components are clusters too
        model = SpectralClustering(
            clusters, affinity="precomputed", assign_labels="cluster_qr", random_state=seed % 2**31
        )
        labels = model.fit_predict(graph)
    _, first, label = np.unique(labels, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first))[label]
