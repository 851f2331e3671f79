"""Models that memory cannot hold are refused before anything is fitted, with what fits."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmrec import collaborative
from llmrec.collaborative import fit, peak_memory, refuse_too_large, with_parts
from llmrec.contracts import Items, Sequences, Sizes
from llmrec.errors import ModelError
from llmrec.recipe import Evaluate
from llmrec.recipe.collaborative import EaseRecentSpec, EaseSpec, ItemKnnSpec, MarkovEaseSpec, MarkovSpec

ML_32M = Sizes(users=200_948, items=87_585, events=32_000_204)
GIB = 2**30


def test_the_default_baselines_of_a_large_catalogue_are_refused_with_figures_and_a_remedy() -> None:
    with pytest.raises(ModelError) as caught:
        refuse_too_large(Evaluate().baselines, ML_32M, 16 * GIB, "evaluate.baselines")
    message = str(caught.value)
    assert message.startswith("evaluate.baselines: ease needs ")
    assert "one matrix of items × items takes 28.6 GiB" in message
    assert "this machine has 16.0 GiB free" in message
    assert "these fit: popularity, markov" in message and "data.k_core" in message
    refuse_too_large([MarkovSpec()], ML_32M, 16 * GIB)
    refuse_too_large(Evaluate().baselines, ML_32M, 64 * GIB)


def test_models_that_fit_alone_and_not_together_are_refused_together() -> None:
    sizes, specs = Sizes(1000, 20_000, 10_000), [EaseSpec(), ItemKnnSpec()]
    alone = max(max(peak_memory([spec], sizes)) for spec in specs)
    assert alone < max(peak_memory(specs, sizes))
    with pytest.raises(ModelError, match="the recipe: ease, item-knn together need"):
        refuse_too_large(specs, sizes, alone)


def test_a_shared_part_is_counted_once() -> None:
    sizes = Sizes(1000, 20_000, 10_000)
    assert [spec.slug for spec in with_parts([MarkovEaseSpec(), EaseSpec()])] == [
        "markov",
        "ease",
        "ease-recent",
        "markov-ease",
    ]
    assert peak_memory([EaseSpec(), EaseRecentSpec()], sizes).fit == peak_memory([EaseSpec()], sizes).fit


def test_where_nothing_fits_none_is_named() -> None:
    with pytest.raises(ModelError, match=r"0\.0 GiB free\. Take it out"):
        refuse_too_large([EaseSpec()], ML_32M, 1000)


def test_fitting_refuses_what_does_not_fit_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collaborative, "available_memory", lambda: 1000)
    with pytest.raises(ModelError, match="ease needs"):
        fit([EaseSpec()], Sequences.of([[0, 1]]), Items.numbered(3000))


def test_the_tighter_of_machine_and_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine, container = tmp_path / "meminfo", tmp_path / "cgroup"
    container.mkdir()
    monkeypatch.setattr(collaborative, "_MACHINE", machine)
    monkeypatch.setattr(collaborative, "_CONTAINER", container)
    assert collaborative.available_memory() is None
    refuse_too_large([EaseSpec()], ML_32M)  # nothing is known, so nothing is refused
    machine.write_text("MemTotal: 900 kB\nMemAvailable:   800 kB\n")
    for name, text in {"max": "max\n", "current": "500000\n", "stat": "anon 1\nfile 100000\n"}.items():
        (container / f"memory.{name}").write_text(text)
    assert collaborative.available_memory() == 800 * 1024
    (container / "memory.max").write_text("600000\n")
    assert collaborative.available_memory() == 200_000  # what caches hold may be had, too
