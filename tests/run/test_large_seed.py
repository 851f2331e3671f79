"""The largest seed that a recipe takes runs through every kind of stage."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmrec.recipe_file import load
from llmrec.run import execute
from llmrec.run.layout import RunFolder

LARGEST = [f"seed={2**63 - 1}", "evaluate.ranking=[hr@1]", "evaluate.beams=2", "items.encoder=hashing"]


@pytest.mark.parametrize("method", ["rq-kmeans", "balanced-rq-kmeans", "kmeans-tree", "pq", "opq", "rq-vae"])
def test_every_quantizer_takes_the_largest_seed(method: str, world: Path, tmp_path: Path) -> None:
    changes = [*LARGEST, f"indexing={{method: {method}, levels: 2, width: 8, epochs: 2}}"]
    assert (execute.run(load(world, changes), tmp_path / "run", "catalogue") / "catalogue" / "codes.npy").is_file()


def test_a_world_and_a_training_take_the_largest_seed(world: Path, tmp_path: Path) -> None:
    changes = [
        f"data={{source: synthetic, synthetic: {{seed: {2**63 - 1}, users: 30, items: 30}}}}",
        "items.text=[title]",
        "indexing={levels: 2, width: 4, fusion: ppmi}",
        "train=[{epochs: 1, batch: 8, learning_rate: 1.0e-2}]",
    ]
    assert RunFolder(execute.run(load(world, [*LARGEST, *changes]), tmp_path / "run", "train")).last_trained
