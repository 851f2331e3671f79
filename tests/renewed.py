"""Runs whose files a test changed, with records that fit them: as if the stages had written these files."""

from __future__ import annotations

from pathlib import Path

from llmrec.files import write_json
from llmrec.made import MADE, output_hash, read_made, records
from llmrec.run.layout import RunFolder, recipe_of
from llmrec.run.plan import plan
from llmrec.run.stage import resolve


def renew(run: Path) -> None:
    """Write the made.json of every stage anew, for its files and inputs as they are now."""
    recipe = recipe_of(run)
    for spec in plan(recipe):
        stage = resolve(RunFolder(run), spec, recipe.seed)
        files = records(stage.folder)
        new = {"key": stage.key, "inputs": stage.inputs, "files": files, "output": output_hash(files)}
        write_json(stage.folder / MADE, read_made(stage.folder) | new)
