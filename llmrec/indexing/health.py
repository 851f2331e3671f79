"""Health of codes, before training: measurements, and a diagnosis in words with remedies."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from math import log2
from pathlib import Path
from typing import Annotated, Any, NotRequired

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field
from typing_extensions import TypedDict

from llmrec.checked import read_checked
from llmrec.contracts import Sequences
from llmrec.data.dataset import Dataset
from llmrec.indexing.catalogue import Catalogue
from llmrec.indexing.codes import Suffix, group_equal, without_suffix
from llmrec.indexing.ids import flat
from llmrec.indexing.kmeans import kmeans, nearest
from llmrec.indexing.methods import category_path
from llmrec.indexing.quantizers import VECTOR_METHODS
from llmrec.items import read_vectors
from llmrec.items.item_vectors import ppmi_vectors
from llmrec.recipe import Indexing

DEFAULT = Indexing()
CLUSTERS, WIDTH = 32, 32  # clusters that codes are compared with; dimension of co-occurrence vectors
_MAX_CLUSTERED = 200_000  # items beyond which co-occurrence is not clustered
_EXTRA_KEYS = ConfigDict(extra="allow")  # further keys are only shown
# Thresholds of the diagnosis: shares, and for _DOMINATED a difference of two NMI.
_UNEVEN, _SHARED, _DUPLICATES, _FEW_KEPT, _DOMINATED = 0.5, 0.5, 0.05, 0.1, 0.3
_WIDEN = "add a level or widen them (indexing.levels, indexing.width)"
_REMEDIES = {
    "collaborative": "a smaller indexing.width splits clusters further",
    "category": "set indexing.append=[collaborative], or [item]",
    "title": "set indexing.append=[item]",
}
_Number = Annotated[float, Field(allow_inf_nan=False)]


class _Level(TypedDict):
    __pydantic_config__ = _EXTRA_KEYS  # type: ignore[misc]
    level: int
    width: Annotated[int, Field(ge=1)]
    used: int
    entropy_bits: _Number
    counts: NotRequired[list[int]]


class Health(TypedDict, total=False):
    """health.json of a catalogue: use of each level, agreement with categories and co-occurrence, a verdict."""

    __pydantic_config__ = _EXTRA_KEYS  # type: ignore[misc]
    levels: list[_Level]
    tokens: dict[str, int | _Number]
    category_nmi: list[_Number]
    cooccurrence_nmi: list[_Number]
    verdict: list[str]
    collisions_before: int
    moved: int
    largest_group: int


def read_health(catalogue: Path) -> Health:
    """Read health.json of a catalogue folder; RunError if it is missing or damaged."""
    report: Health = read_checked(catalogue / "health.json", Health)
    return report


def measure_health(
    codes: np.ndarray,
    widths: list[int],
    vectors: np.ndarray | None,
    seed: int,
    before: np.ndarray | None = None,
    items: pa.Table | None = None,
    train: Sequences | None = None,
    settings: Indexing = DEFAULT,
    suffix: Suffix = "dedup",
) -> dict[str, Any]:
    """Measure the health of codes.

    Args:
        codes: (items, longest) int32 symbols, padded at the end by -1; unique rows.
        widths: tokens of each token group; the symbols of a group follow those of the group before.
        vectors: (items, dim) float32 unit text vectors; None: neighbours are not compared.
        seed: of the sample of items whose neighbours are compared, and of the clusters.
        before: (items, longest) int32 symbols before collisions were resolved; None: without the suffix.
        items, train: the items table and training histories, for agreement with categories and co-occurrence.
        settings, suffix: of the codes, see `Catalogue`.

    Returns:
        For JSON: levels (use, entropy in bits, counts), items that collided before and after, moved items, items with
        duplicate vectors, the share of neighbours with the same first token, code lengths in tokens, agreement (NMI)
        of prefixes with categories and co-occurrence, dominance of text, and the verdict.
    """
    starts = np.concatenate([[0], np.cumsum(widths)])
    if before is None:
        before = without_suffix(codes, widths, suffix)
    group, size = group_equal(before)
    lengths = (codes >= 0).sum(axis=1)
    last = codes[np.arange(len(codes)), lengths - 1] - starts[-2]
    width = min(before.shape[1], codes.shape[1])
    moved = last > 0 if suffix == "dedup" else (codes[:, :width] != before[:, :width]).any(axis=1)
    distinct = len(np.unique(codes, axis=0))
    result: dict[str, Any] = {
        "items": len(codes),
        "levels": [
            _level(number + 1, codes[(codes >= first) & (codes < stop)] - first, int(stop - first))
            for number, (first, stop) in enumerate(pairwise(starts))
        ],
        "collisions_before": int((size[group] > 1).sum()),
        "collisions_after": len(codes) - distinct,
        "moved": int(moved.sum()),
        "largest_group": int(size.max()),
        "unique": distinct == len(codes),
        "same_vector": None if vectors is None else count_duplicates(vectors),
        "neighbours_kept": None if vectors is None else _neighbours_kept(codes, vectors, seed),
        "tokens": {"least": int(lengths.min()), "mean": round(float(lengths.mean()), 3), "most": int(lengths.max())},
        "suffix": suffix,
    }
    result |= measure_agreement(codes, vectors, seed, items, train, settings.category_column)
    return result | {"verdict": diagnose(result, settings)}


def _level(number: int, column: np.ndarray, width: int) -> dict[str, Any]:
    """Use of the tokens of one level."""
    counts = np.bincount(column, minlength=width)
    share = counts[counts > 0] / max(counts.sum(), 1)
    return {
        "level": number,
        "width": width,
        "used": int((counts > 0).sum()),
        "entropy_bits": round(abs(float((share * np.log2(share)).sum())), 4),
        "counts": counts.tolist(),
    }


def _neighbours_kept(codes: np.ndarray, vectors: np.ndarray, seed: int) -> float:
    """Share of the ten nearest items (cosine) of each of 1,000 items that have its first token."""
    rows = np.random.default_rng(seed).permutation(len(codes))[:1000]
    similarity = vectors[rows] @ vectors.T
    similarity[np.arange(len(rows)), rows] = -np.inf
    k = min(10, len(codes) - 1)
    if k < 1:
        return 1.0
    near = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
    return round(float((codes[near, 0] == codes[rows, 0][:, None]).mean()), 4)


def count_duplicates(vectors: np.ndarray) -> int:
    """Number of (items, dim) float32 unit vectors within 1e-4 of another one: mostly items with the same text."""
    # sorted along a random direction, duplicates are neighbours
    direction = np.random.default_rng(0).standard_normal((vectors.shape[1],), np.float32)
    order = np.argsort(vectors @ direction)
    same = np.zeros(len(vectors) + 1, bool)
    for start in range(0, len(vectors) - 1, 4096):
        rows = vectors[order[start : start + 4097]]
        same[start + 1 : start + len(rows)] = np.square(np.diff(rows, axis=0)).sum(axis=1) < 1e-8
    return int((same[1:] | same[:-1]).sum())


def measure_agreement(
    codes: np.ndarray,
    text: np.ndarray | None,
    seed: int,
    items: pa.Table | None = None,
    train: Sequences | None = None,
    category_column: str = "category",
) -> dict[str, Any]:
    """Agreement of code prefixes with categories and co-occurrence: normalized mutual information, 0 to 1.

    Arguments as for `measure_health`; items without events are left out of co-occurrence.

    Returns:
        What can be measured: `category_nmi` and `cooccurrence_nmi`, a value for each prefix of one, two, … tokens;
        `dominance`, NMI of first tokens with clusters of text minus NMI with clusters of co-occurrence.
    """
    result: dict[str, Any] = {}
    prefixes = [group_equal(codes[:, : length + 1])[0] for length in range(min(codes.shape[1] - 1, 4) or 1)]
    column = next((name for name in (category_column, "genres", "kind") if items and name in items.column_names), None)
    if items is not None and column:
        names = [category_path(cell)[0] for cell in items[column].to_pylist()]
        labels = np.unique(names, return_inverse=True)[1]
        result["category_nmi"] = [round(nmi(prefix, labels), 4) for prefix in prefixes]
    if train is None or not len(train.items) or len(codes) > _MAX_CLUSTERED:
        return result
    vectors = ppmi_vectors(train, len(codes), WIDTH, seed)
    seen = np.flatnonzero(np.square(vectors).sum(axis=1) > 0)
    if len(seen) < 4:
        return result
    cooccurrence = _clusters(vectors[seen] / np.linalg.norm(vectors[seen], axis=1, keepdims=True), seed)
    result["cooccurrence_nmi"] = [round(nmi(prefix[seen], cooccurrence), 4) for prefix in prefixes]
    if text is not None:
        with_text = nmi(prefixes[0][seen], _clusters(text[seen], seed))
        result["dominance"] = round(with_text - result["cooccurrence_nmi"][0], 4)
    return result


def nmi(one: np.ndarray, other: np.ndarray) -> float:
    """Mutual information of two (items,) int labellings over the mean of their entropies; 1 if both are constant."""
    table = np.unique(np.stack([one, other]), axis=1, return_counts=True)
    joint = table[1] / len(one)
    p, q = np.bincount(one) / len(one), np.bincount(other) / len(other)
    shared = float((joint * np.log(joint / (p[table[0][0]] * q[table[0][1]]))).sum())
    mean = (_entropy(p) + _entropy(q)) / 2
    return max(0.0, shared / mean) if mean > 0 else 1.0


def _entropy(share: np.ndarray) -> float:
    """Entropy in nats."""
    share = share[share > 0]
    return float(-(share * np.log(share)).sum())


def _clusters(vectors: np.ndarray, seed: int) -> np.ndarray:
    vectors = np.ascontiguousarray(vectors, np.float32)
    return nearest(vectors, kmeans(vectors, min(CLUSTERS, len(vectors) // 2), seed % 2**31))


def inspect(folder: Path, data: Path, items: Path, settings: Indexing, seed: int) -> dict[str, Any]:
    """Measure the health of a catalogue of a run again, for `llmrec index show`.

    Returns:
        The health report, with method, hash and a few codes with their titles.

    Raises:
        RunError: data, vectors or the report of the catalogue are damaged.
        CodeError: it is not a catalogue folder, or damaged.
    """
    catalogue, dataset = Catalogue.load(folder), Dataset.load(data, texts=False)
    # the run has no vectors and events of items that were added later
    same = catalogue.ids.equals(flat(dataset.items["item_id"]))
    stored = read_health(folder)
    report = measure_health(
        catalogue.codes,
        catalogue.widths,
        read_vectors(items, dataset.n_items) if same else None,
        seed,
        items=catalogue.items,
        train=dataset.before("valid") if same else None,
        settings=settings,
        suffix=catalogue.suffix,
    )
    for name in ("collisions_before", "moved", "largest_group"):  # known only when codes were assigned
        report[name] = stored.get(name, report[name])
    report["verdict"] = diagnose(report, settings)
    sample = np.argsort(catalogue.codes[:, 0], kind="stable")[:5]
    codes = catalogue.codes_as_text(sample).to_pylist()
    examples = [list(pair) for pair in zip(catalogue.titles_of(sample), codes, strict=True)]
    return {"method": settings.method, "hash": catalogue.hash, "examples": examples, **report}


def diagnose(result: dict[str, Any], settings: Indexing) -> list[str]:
    """A summary sentence for the measurements of `measure_health`, and a sentence for each problem."""
    problems = [*_level_problems(result, settings), *_collision_problems(result, settings)]
    problems += _information_problems(result, settings)
    return [("" if problems else "Healthy. ") + _summary(result), *problems]


def _summary(result: dict[str, Any]) -> str:
    kept, shared, most = result["neighbours_kept"], result["collisions_before"], result["largest_group"]
    ending = {
        "per-item": "each ends with a token of its own",
        "none": "each is a number of its own",
        "reassigned": f"{shared} shared one before collisions were reassigned, at most {most} together",
        "dedup": f"{shared} shared one before the deduplication level, at most {most} together",
    }[result["suffix"]]
    neighbours = f"; {kept:.0%} of nearest items share their first token" if kept is not None else ""
    return f"{result['items']} items have unique codes; {ending}{neighbours}."


def _level_problems(result: dict[str, Any], settings: Indexing) -> Iterator[str]:
    """Levels with tokens that few codes use; codes that are words or numbers have no such levels."""
    if result["suffix"] == "none":
        return
    for level in result["levels"][: None if result["suffix"] == "reassigned" else -1]:
        number, used, width, bits = level["level"], level["used"], level["width"], level["entropy_bits"]
        uneven = _main_method(settings) in ("rq-kmeans", "rq-vae", "pq", "opq")
        if settings.bpe_vocab and used < _UNEVEN * width:
            yield f"Codes use {used} of {width} pieces: set indexing.bpe_vocab lower."
        elif used == 1 < width:
            yield f"Level {number} uses 1 of {width} codes, so it distinguishes nothing: set indexing.levels lower."
        elif used < _UNEVEN * width:
            other = ", or try indexing.method=balanced-rq-kmeans" if uneven else ""
            yield f"Level {number} uses {used} of {width} codes: set indexing.width nearer to {used}{other}."
        elif uneven and bits < _UNEVEN * log2(width):
            yield (
                f"Level {number} is uneven, {bits:.1f} of {log2(width):.1f} bits: {max(level['counts'])} items have "
                "one of its codes. Try indexing.method=balanced-rq-kmeans."
            )


def _collision_problems(result: dict[str, Any], settings: Indexing) -> Iterator[str]:
    share = result["collisions_before"] / result["items"]
    if share > _SHARED and result["suffix"] in ("dedup", "reassigned"):
        remedy = _REMEDIES.get(_main_method(settings), _WIDEN)
        yield f"{share:.0%} of items shared a code before collisions were resolved: {remedy}."
    duplicates = result.get("same_vector") or 0
    if duplicates > _DUPLICATES * result["items"]:
        yield f"{duplicates} items have the vector of another, so their codes say no more than that: add to items.text."
    if not result["unique"]:
        yield "Codes are not unique: this is a bug."


def _information_problems(result: dict[str, Any], settings: Indexing) -> Iterator[str]:
    """Codes whose first tokens do not follow the text or the co-occurrence that they were made from."""
    if settings.method == "item":
        yield "Codes share no token: only rows that start from vectors (model.init_tokens) tell what items share."
    elif settings.method == "number":
        yield "Numbers are random, so items that share a token have nothing else in common: a baseline."
    kept, quantized = result["neighbours_kept"], settings.method in VECTOR_METHODS
    from_text = quantized and settings.fusion not in ("collaborative", "ppmi")
    if from_text and kept is not None and kept < _FEW_KEPT:
        yield f"Only {kept:.0%} of nearest items share a first token: codes carry little of the text."
    dominance = result.get("dominance")
    if quantized and dominance is not None and abs(dominance) > _DOMINATED:
        strong, weak = ("text", "co-occurrence") if dominance > 0 else ("co-occurrence", "text")
        remedy = {
            "aligned": "widen the first level (indexing.width)",
            "weighted": "see whether indexing.fusion=aligned is better on validation",
        }.get(settings.fusion, "indexing.fusion=weighted or aligned gives weight to both")
        yield f"First tokens follow {strong} far more than {weak} (dominance {dominance:+.2f}): {remedy}."


def _main_method(settings: Indexing) -> str:
    """The last method that distinguishes items, except by per-item tokens."""
    return [name for name in (settings.method, *settings.append) if name != "item" or not settings.append][-1]
