"""Every collaborative model by its name in recipes, the order in which they are fitted, and the memory they need."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from llmrec.collaborative.array_model import ArrayModel
from llmrec.collaborative.counts import Markov, MarkovEase, Popularity
from llmrec.collaborative.factors import Bpr, LightGcn
from llmrec.collaborative.linear import Ease, EaseRecent, ItemKnn
from llmrec.collaborative.sasrec import SasRec
from llmrec.contracts import CollaborativeModel, Memory, Sizes
from llmrec.errors import ModelError
from llmrec.recipe.collaborative import ModelSpec

MODELS: dict[str, type[ArrayModel]] = {
    model.Spec.kind: model
    for model in (Popularity, ItemKnn, Ease, EaseRecent, Markov, MarkovEase, Bpr, LightGcn, SasRec)
}
_MACHINE = Path("/proc/meminfo")
_CONTAINER = Path("/sys/fs/cgroup")


def with_parts(specs: Iterable[ModelSpec]) -> list[ModelSpec]:
    """Models and all that they are composed of, each once, parts before the models that they belong to."""
    ordered: dict[str, ModelSpec] = {}
    for spec in specs:
        for part in (*with_parts(spec.parts.values()), spec):
            ordered.setdefault(part.slug, part)
    return list(ordered.values())


def build(spec: ModelSpec, parts: Mapping[str, CollaborativeModel] | None = None) -> ArrayModel:
    """The model that a recipe asks for, not fitted yet, over fitted models that it is composed of, by their role."""
    model = MODELS[spec.kind](parts)
    model.spec = spec
    return model


def peak_memory(specs: Sequence[ModelSpec], sizes: Sizes, rows: int = 1024) -> Memory:
    """Bytes at the peak of fitting models one after another, and of scoring by one of them while all are held.

    Args:
        specs: models; parts that they are composed of are counted too, each once.
        sizes: of the training part.
        rows: histories that are scored at once.
    """
    held, fit = 0, 0
    for spec in with_parts(specs):
        model = build(spec)
        fit = max(fit, held + model.memory(sizes, rows).fit)
        held += model.memory(sizes, 0).score
    return Memory(fit, held + max((_scoring(spec, sizes, rows) for spec in specs), default=0))


def _scoring(spec: ModelSpec, sizes: Sizes, rows: int) -> int:
    """Bytes that scoring takes beside what is held."""
    models = map(build, with_parts([spec]))
    return sum(model.memory(sizes, rows).score - model.memory(sizes, 0).score for model in models)


def refuse_too_large(
    specs: Sequence[ModelSpec], sizes: Sizes, available: int | None = None, where: str = "the recipe"
) -> None:
    """Refuse models that cannot be fitted, held together, or score within a machine's memory.

    Args:
        specs: the models.
        sizes: of the training part.
        available: bytes; what this machine has free now where it is None.
        where: key of the recipe that names the models, for the message.

    Raises:
        ModelError: says how much is needed, how much there is, and which models fit.
    """
    available = available_memory() if available is None else available
    if available is None:  # the system does not say
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
    """Bytes that this process may still take; None where the system does not say (other than Linux)."""
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
