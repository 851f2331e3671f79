"""Constrained decoding, side by side with what the field does.

python scripts/speed/decode.py engines      → results/decode-engines.json: whole searches beside `generate` and vLLM's
python scripts/speed/decode.py http         → results/decode-http.json: `llmrec serve` on vLLM
python scripts/speed/decode.py curves       → results/decode-curves.json and -beams.svg, -catalogue.svg, -batch.svg
python scripts/speed/decode.py step         → results/decode-step.json: the trie's part of a step, by catalogue size
… step --static STATIC                      beside STATIC: a checkout of youtube/static-constraint-decoding
"""

from __future__ import annotations

import contextlib
import inspect
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import typer

from decode_engines import measure, open_engines, open_model, ours, prefill
from decode_http import measure_http
from decode_peers import dictionary_generate
from decode_step import measure_steps
from decode_subject import LENGTHS, WIDTHS, catalogue_of, prepare, trie_of
from llmrec import resources
from llmrec.indexing.catalogue import Catalogue
from llmrec.report.result_charts import draw_lines as draw
from llmrec.results.record import write_result
from shared import RESULTS, command_line

Part = Literal["engines", "http", "curves", "step"]
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


def main(
    part: Part = typer.Argument(help="which figures"),
    out: Path = typer.Option(RESULTS, help="folder for the JSON file and plots"),
    dtype: str = typer.Option("bfloat16", help="of the weights: bfloat16 or float32"),
    static: Path = typer.Option(None, help="step: a checkout of STATIC to time beside ours"),
) -> None:
    """Constrained decoding: against `generate` with a dictionary, the bare prompt, vLLM's beam search, STATIC."""
    print(measure_part(part, Size(), dtype, out, static))


def measure_part(part: Part, size: Size, dtype: str, out: Path, static: Path | None = None) -> Path:
    """Measure one part, and write its JSON.

    Args:
        part: which figures.
        size: how much.
        dtype: of weights, float32 or bfloat16.
        out: folder for the results.
        static: a checkout of youtube/static-constraint-decoding to time beside ours.

    Returns:
        The file.

    Raises:
        LlmrecError: `http` without vLLM.
    """
    parts: dict[Part, Callable[[], dict[str, Any]]] = {
        "engines": lambda: _engines(size, dtype),
        "http": lambda: _http(size, dtype),
        "curves": lambda: _curves(size, dtype),
        "step": lambda: measure_steps(list(size.step_items), size.repeats, static),
    }
    figures, path = parts[part](), out / f"decode-{part}.json"
    if part == "curves":
        _draw(figures, out)
    about = {"dtype": dtype, "threads": torch.get_num_threads(), "new_tokens": sum(WIDTHS)}
    command = f"python scripts/speed/decode.py {part} --dtype {dtype}" + (" --static STATIC" if static else "")
    write_result(path, command, figures, **about)
    return path


def _engines(size: Size, dtype: str) -> dict[str, Any]:
    """Every engine at a few beam widths."""
    with _subject(size, dtype, catalogue_of(size.items)) as (folder, catalogue_folder):
        engines = open_engines(folder, catalogue_folder, dtype, with_vllm=resources.is_installed("vllm"))
        found = [measure(engines, beams, size.batches, WORDS) for beams in size.beams]
    return {
        "items": size.items,
        "prompt_tokens": LENGTHS,
        "peer": inspect.getsource(dictionary_generate),
        "by_beams": found,
    }


def _http(size: Size, dtype: str) -> dict[str, Any]:
    """The server on vLLM, at the narrowest width."""
    resources.require_extras("serve")
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


if __name__ == "__main__":
    command_line(main)
