"""Health of a catalogue's codes, measured anew with categories, training events and vectors of its run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from llmrec.data.dataset import Dataset
from llmrec.indexing.catalogue import Catalogue
from llmrec.indexing.health import health, read_health
from llmrec.indexing.ids import flat
from llmrec.indexing.verdict import verdict
from llmrec.items.folder import read_vectors
from llmrec.recipe import Indexing


def look(folder: Path, data: Path, items: Path, settings: Indexing, seed: int) -> dict[str, Any]:
    """What `llmrec index show` prints.

    Args:
        folder: of the catalogue.
        data: folder of the run's data.
        items: folder of the run's item vectors.
        settings: how the codes were made.
        seed: of the run.

    Returns:
        The health report; method, hash and a few codes with their titles.

    Raises:
        RunError: data, vectors or the report of the catalogue are damaged.
        CodeError: it is no catalogue folder, or damaged.
    """
    held, dataset = Catalogue.load(folder), Dataset.load(data, texts=False)
    # a catalogue with added items: the run has no vectors and events of these
    same = held.ids.equals(flat(dataset.items["item_id"]))
    stored = read_health(folder)
    report = health(
        held.codes,
        held.widths,
        read_vectors(items, dataset.n_items) if same else None,
        seed,
        items=held.items,
        train=dataset.before("valid") if same else None,
        settings=settings,
        ends=held.ends,
    )
    for name in ("collisions_before", "moved", "largest_group"):  # seen only while codes were made
        report[name] = stored.get(name, report[name])
    report["verdict"] = verdict(report, settings)
    few = np.argsort(held.codes[:, 0], kind="stable")[:5]
    examples = [list(pair) for pair in zip(held.titles_of(few), held.codes_as_text(few).to_pylist(), strict=True)]
    return {"method": settings.method, "hash": held.hash, "examples": examples, **report}
