"""`llmrec bench decode`: the figures of constrained decoding, part by part, each into one JSON file under results/."""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmrec.bench.decode_engines import measure, open_engines, open_model, ours, prefill
from llmrec.bench.decode_http import measure_http
from llmrec.bench.decode_loss import measure_loss
from llmrec.bench.decode_peers import dictionary_generate
from llmrec.bench.decode_step import measure_steps
from llmrec.bench.decode_subject import LENGTHS, WIDTHS, catalogue_of, prepare, trie_of
from llmrec.errors import RequestError
from llmrec.indexing.catalogue import Catalogue
from llmrec.report.curves import draw
from llmrec.results import write_result

WORDS = 49_000  # prompts are of tokens below this, which every base has


@dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        base: the language model.
        items: of the catalogue that engines are compared on.
        beams: widths that engines are compared at.
        batches: timed batches of each.
        curve_beams, curve_items, curve_batches: points of the curves.
        step_items: catalogues whose trie step is measured.
        repeats: of a trie step.
    """

    base: str = "embedded:smollm2-135m-instruct"
    items: int = 12_000
    beams: tuple[int, ...] = (10, 20, 50)
    batches: int = 3
    curve_beams: tuple[int, ...] = (1, 2, 5, 10, 20, 50, 100, 256)
    curve_items: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000)
    curve_batches: tuple[int, ...] = (1, 2, 4, 8, 16, 32)
    step_items: tuple[int, ...] = (10_000, 100_000, 1_000_000, 10_000_000)
    repeats: int = 200


TINY = Size(items=200, beams=(2,), batches=1, curve_beams=(1, 2), curve_items=(200, 500), curve_batches=(1, 2),
            step_items=(10_000, 20_000), repeats=3)  # fmt: skip


def bench(part: str, out: Path, size: Size, dtype: str, static: Path | None, run: Path | None) -> list[Path]:
    """Measure one part, or all that can be.

    Args:
        part: engines, http, curves, step, loss or all.
        out: folder for the results.
        dtype: of weights, float32 or bfloat16.
        static: a checkout of youtube/static-constraint-decoding to time beside ours.
        run: a run folder, for what beam search loses.

    Returns:
        The files written.

    Raises:
        RequestError: an unknown part, `loss` without a run, or `http` without vLLM.
    """
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "engines": lambda: _engines(size, dtype),
        "curves": lambda: _curves(size, dtype),
        "step": lambda: measure_steps(list(size.step_items), size.repeats, static),
    }
    if importlib.util.find_spec("vllm") is not None:
        parts["http"] = lambda: _http(size, dtype)
    if run is not None:
        parts["loss"] = lambda: measure_loss(run, [10, 20, 50], None)
    if part != "all" and part not in parts:
        raise RequestError(
            f"there is no part '{part}' to measure (loss needs --run, http needs vLLM): say {', '.join(parts)} or all."
        )
    made = {name: parts[name]() for name in ([*parts] if part == "all" else [part])}
    if "curves" in made:
        _draw(made["curves"], out)
    return [_write(out, name, figures, dtype) for name, figures in made.items()]


def _engines(size: Size, dtype: str) -> dict[str, Any]:
    """Every engine at a few beam widths."""
    with_vllm = importlib.util.find_spec("vllm") is not None
    with _subject(size, dtype, catalogue_of(size.items)) as (folder, catalogue_folder):
        engines = open_engines(folder, catalogue_folder, dtype, with_vllm)
        found = [measure(engines, beams, size.batches, WORDS) for beams in size.beams]
    return {
        "items": size.items,
        "prompt_tokens": LENGTHS,
        "peer": inspect.getsource(dictionary_generate),
        "by_beams": found,
    }


def _http(size: Size, dtype: str) -> dict[str, Any]:
    """The server on vLLM, at the narrowest width."""
    with _subject(size, dtype, catalogue_of(size.items)) as (folder, catalogue_folder):
        found = measure_http(folder, catalogue_folder, dtype, size.beams[0], size.batches)
    return {"items": size.items, "peer": inspect.getsource(dictionary_generate), **found}


def _curves(size: Size, dtype: str) -> dict[str, Any]:
    """Our transformers engine and the bare prompt by beams, by catalogue, by batch."""
    by_items, by_beams, by_batch = {}, [], []
    with _subject(size, dtype, catalogue_of(200)) as (folder, catalogue_folder):
        model, tokens = open_model(folder, catalogue_folder, dtype)
    for items in size.curve_items:
        engines = {"transformers": ours(model, trie_of(items), tokens), "prefill": prefill(model)}
        by_items[str(items)] = measure(engines, 10, size.batches, WORDS)
        if items == size.curve_items[0]:
            by_beams = [measure(engines, beams, size.batches, WORDS) for beams in size.curve_beams]
            by_batch = [measure(engines, 10, size.batches, WORDS, batch) for batch in size.curve_batches]
    return {"prompt_tokens": LENGTHS, "by_items": by_items, "by_beams": by_beams, "by_batch": by_batch}


@contextlib.contextmanager
def _subject(size: Size, dtype: str, catalogue: Catalogue) -> Iterator[tuple[Path, Path]]:
    """A model and a catalogue in temporary folders."""
    with tempfile.TemporaryDirectory() as folder:
        yield prepare(Path(folder), catalogue, size.base, getattr(torch, dtype))


def _draw(figures: dict[str, Any], out: Path) -> None:
    """Three plots of the curves: milliseconds a batch against beams, catalogue and batch, beside the bare prompt's."""
    curves = {
        "beams": [(one["beams"], one) for one in figures["by_beams"]],
        "catalogue": [(int(items), one) for items, one in figures["by_items"].items()],
        "batch": [(one["batch"], one) for one in figures["by_batch"]],
    }
    across = {"beams": "Beams", "catalogue": "Items in the catalogue", "batch": "Users in a batch"}
    for name, points in curves.items():
        lines = {
            said: [(at, 1e3 * float(np.median(one["seconds_a_batch"][engine]))) for at, one in points]
            for said, engine in (("beam search", "transformers"), ("the prompt alone", "prefill"))
        }
        draw(lines, across[name], "Milliseconds a batch", out / f"decode-curves-{name}.svg", log=True)


def _write(out: Path, part: str, figures: dict[str, Any], dtype: str) -> Path:
    path = out / f"decode-{part}.json"
    about = {"dtype": dtype, "threads": torch.get_num_threads(), "new_tokens": sum(WIDTHS)}
    write_result(path, f"llmrec bench decode {part} --dtype {dtype}", figures, **about)
    return path
