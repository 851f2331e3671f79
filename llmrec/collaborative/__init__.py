"""Collaborative models: they score every item after a history from what other users did.

They are baselines in every table, teachers, members of ensembles, and sources of negatives and of codes. On Amazon
Beauty EASE on recent items and Markov beat most published generative recommenders, so every evaluation has them unless
a recipe names others. All but `bpr`, `lightgcn` and `sasrec` are fitted in seconds.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from llmrec.collaborative.array_model import ArrayModel, SavedModel
from llmrec.collaborative.counts import Markov, MarkovEase, Popularity
from llmrec.collaborative.factors import Bpr, LightGcn
from llmrec.collaborative.linear import Ease, EaseRecent, ItemKnn
from llmrec.collaborative.sasrec import SasRec
from llmrec.contracts import CollaborativeModel, Items, Memory, Sequences, Sizes
from llmrec.errors import ModelError
from llmrec.recipe.collaborative import Device, ModelSpec

__all__ = ["ArrayModel", "Bpr", "Ease", "ItemKnn", "LightGcn", "Markov", "MarkovEase", "Popularity", "SasRec"]

MODELS: dict[str, type[ArrayModel]] = {
    model.Spec.kind: model
    for model in (Popularity, ItemKnn, Ease, EaseRecent, Markov, MarkovEase, Bpr, LightGcn, SasRec)
}
TOP_K = 50  # items with a probability, see `topk_probabilities`
POWER = 2.0  # power of a share that makes it a probability; chosen on validation items of Beauty
_MACHINE = Path("/proc/meminfo")
_CONTAINER = Path("/sys/fs/cgroup")


def with_parts(specs: Iterable[ModelSpec]) -> list[ModelSpec]:
    """Models and their parts, each once, parts before the models that use them."""
    ordered: dict[str, ModelSpec] = {}
    for spec in specs:
        for part in (*with_parts(spec.parts.values()), spec):
            ordered.setdefault(part.slug, part)
    return list(ordered.values())


def build(spec: ModelSpec, parts: Mapping[str, CollaborativeModel] | None = None) -> ArrayModel:
    """A model with the parameters of a recipe, not fitted yet; `parts` are its fitted parts by role."""
    model = MODELS[spec.kind](parts)
    model.spec = spec
    return model


def fit(
    specs: Sequence[ModelSpec],
    train: Sequences,
    items: Items,
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, ArrayModel]:
    """Fit models on the training part of every history; a part that several models use is fitted once.

    Args:
        train, items: as in `CollaborativeModel.fit`.
        progress: called with the share done, 0 to 1.

    Returns:
        The models of `specs` by `ModelSpec.name`, in their order.

    Raises:
        ModelError: one does not fit into this machine's memory, or see `CollaborativeModel.fit`.
    """
    fitted: dict[str, ArrayModel] = {}
    refuse_too_large(specs, Sizes(len(train), len(items), len(train.items)))
    ordered = with_parts(specs)
    for number, spec in enumerate(ordered):

        def progress_of_all(share: float, done: int = number) -> None:
            progress((done + share) / len(ordered))

        model = build(spec, {role: fitted[part.slug] for role, part in spec.parts.items()})
        fitted[spec.slug] = model.fit(train, items, progress_of_all)
    return {spec.name: fitted[spec.slug] for spec in specs}


def fit_one(spec: ModelSpec, train: Sequences, items: Items) -> ArrayModel:
    """Fit one model; see `fit`."""
    return fit([spec], train, items)[spec.name]


def load(folder: Path, items: Items, device: Device = "auto") -> ArrayModel:
    """Load a saved model, and its parts from the folders beside it, which are named by their slugs.

    Args:
        folder: as `ArrayModel.save` wrote it.
        items: that will be scored; they must be those that the model was fitted on.
        device: where the model computes, if it can use a GPU.

    Raises:
        ModelError: damaged, of another version or an unknown kind, or fitted on other items.
    """
    saved = SavedModel.read(folder, items)
    if saved.model not in MODELS:
        raise ModelError(f"{folder} holds the model '{saved.model}', but these are known: {', '.join(MODELS)}.")
    spec = saved.spec(MODELS[saved.model].Spec, folder, device)
    parts = {role: load(folder.parent / part.slug, items, device) for role, part in spec.parts.items()}
    return build(spec, parts).restore(folder, items)


def topk_probabilities(
    model: CollaborativeModel, histories: Sequences, allow_seen: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The `TOP_K` most probable next items of some histories, and their probabilities, normalised over these items.

    Probabilities are proportional to shares to the power of `POWER`, or are the softmax of logits.

    Args:
        allow_seen: whether items of the history may have a probability.

    Returns:
        (rows, k) int32 items in no order; (rows, k) float64 probabilities that sum to 1, or all 0 where the model
        prefers no item to another.
    """
    scores = model.score(histories)
    shares = model.score_kind == "shares"
    if shares:
        np.maximum(scores, 0, out=scores)
    if not allow_seen:
        scores[histories.rows, histories.items] = 0 if shares else -np.inf
    count = min(TOP_K, scores.shape[1])
    items = np.argpartition(-scores, count - 1, axis=1)[:, :count].astype(np.int32)
    best = np.take_along_axis(scores, items, 1).astype(np.float64)
    weights = best**POWER if shares else _exponentials(best, scores)
    total = weights.sum(axis=1, keepdims=True)
    return items, weights / np.where(total > 0, total, 1)


def _exponentials(best: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """(rows, k) exponentials of the best logits, relative to the highest; 0 where all scores of a row are equal."""
    highest = best.max(axis=1, keepdims=True)
    lowest = np.where(np.isneginf(scores), np.inf, scores).min(axis=1, keepdims=True)
    return np.where(highest > lowest, np.exp(best - np.where(np.isfinite(highest), highest, 0)), 0)


def peak_memory(specs: Sequence[ModelSpec], sizes: Sizes, rows: int = 1024) -> Memory:
    """Peak bytes of fitting models one after another, and of scoring with one of them while all are in memory.

    Args:
        specs: models; their parts are counted too, each once.
        sizes: of the training part.
        rows: histories that are scored at once.
    """
    held, fit = 0, 0
    for spec in with_parts(specs):
        model = build(spec)
        fit = max(fit, held + model.memory(sizes, rows).fit)
        held += model.memory(sizes, 0).score
    scoring = (
        sum(model.memory(sizes, rows).score - model.memory(sizes, 0).score for model in map(build, with_parts([spec])))
        for spec in specs
    )
    return Memory(fit, held + max(scoring, default=0))


def refuse_too_large(
    specs: Sequence[ModelSpec], sizes: Sizes, available: int | None = None, where: str = "the recipe"
) -> None:
    """Refuse models that cannot be fitted, kept together, or score within a machine's memory.

    Args:
        specs: the models.
        sizes: of the training part.
        available: bytes; None for what this machine has free now.
        where: key of the recipe that names the models, for the message.

    Raises:
        ModelError: says how much is needed, how much there is, and which models fit.
    """
    available = available_memory() if available is None else available
    if available is None:  # unknown on this system
        return
    for count, spec in enumerate(specs, 1):
        for together in ([spec], specs[:count]):
            if max(peak_memory(together, sizes)) > available:
                raise ModelError(f"{where}: {_too_large(together, sizes, available)}")


def _too_large(specs: Sequence[ModelSpec], sizes: Sizes, available: int) -> str:
    names, verb = ", ".join(spec.name for spec in specs), "needs" if len(specs) == 1 else "together need"
    matrix = ""
    if any(("float32", "items", "items") in MODELS[spec.kind].ARRAYS.values() for spec in with_parts(specs)):
        matrix = f", as one matrix of items × items takes {_gib(4 * sizes.items**2)}"
    fitting = [kind for kind, model in MODELS.items() if max(peak_memory([model.Spec()], sizes)) <= available]
    remedy = f"Write others in its place; these fit: {', '.join(fitting)}" if fitting else "Take it out"
    return (
        f"{names} {verb} {_gib(max(peak_memory(specs, sizes)))} of memory for {sizes.items} items{matrix}, but this "
        f"machine has {_gib(available)} free. {remedy}. Or keep fewer items, by a larger data.k_core."
    )


def available_memory() -> int | None:
    """Bytes that this process may still allocate; None where the system does not report it (other than Linux)."""
    free = []
    with suppress(OSError):
        free += [1024 * int(size) for size in re.findall(r"^MemAvailable:\s+(\d+) kB", _MACHINE.read_text(), re.M)]
    with suppress(OSError, ValueError):  # "max" is no number: no limit
        limit, used = (int((_CONTAINER / f"memory.{name}").read_text()) for name in ("max", "current"))
        cache = re.search(r"^file (\d+)", (_CONTAINER / "memory.stat").read_text(), re.M)
        free.append(max(0, limit - used + (int(cache[1]) if cache else 0)))
    return min(free, default=None)


def _gib(size: float) -> str:
    return f"{size / 2**30:.1f} GiB"
