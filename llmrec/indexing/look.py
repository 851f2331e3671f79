"""Health of a run's codes, measured anew with all that the run knows: categories, training events, vectors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from llmrec.checked import read_checked
from llmrec.data.dataset import Dataset
from llmrec.indexing.add import chosen
from llmrec.indexing.catalogue import Catalogue
from llmrec.indexing.health import health
from llmrec.indexing.ids import flat
from llmrec.indexing.verdict import verdict
from llmrec.recipe_file import recipe_of
from llmrec.run_files import Health, read_vectors


def look(run: Path, catalogue: str | None = None) -> dict[str, Any]:
    """What `llmrec index show` prints.

    Args:
        run: a run folder with a catalogue.
        catalogue: the hash, or the beginning of it, of one of its catalogues; that of the model otherwise.

    Returns:
        The health report; method, hash and a few codes with their titles.

    Raises:
        RunError: no run folder.
        CodeError: there is no such catalogue.
    """
    recipe, folder = recipe_of(run), chosen(run, catalogue) if catalogue else run / "catalogue"
    held, data = Catalogue.load(folder), Dataset.load(run / "data", texts=False)
    vectors = read_vectors(run, recipe.items.encoder, data.n_items)
    # other catalogues hold more items than the run has vectors and events of
    same = held.ids.equals(flat(data.items["item_id"]))
    stored = read_checked(folder / "health.json", Health)
    report = health(
        held.codes,
        held.widths,
        vectors if same else None,
        recipe.seed,
        items=held.items,
        train=data.before("valid") if same else None,
        settings=recipe.indexing,
        ends=held.ends,
    )
    for name in ("collisions_before", "moved", "largest_group"):  # seen only while codes were made
        report[name] = stored.get(name, report[name])
    report["verdict"] = verdict(report, recipe.indexing)
    few = np.argsort(held.codes[:, 0], kind="stable")[:5]
    examples = [list(pair) for pair in zip(held.titles_of(few), held.codes_as_text(few).to_pylist(), strict=True)]
    return {"method": recipe.indexing.method, "hash": held.hash, "examples": examples, **report}
