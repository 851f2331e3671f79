"""Runs whose files a test changed, with records that fit them: as if the stages had written these files."""

from __future__ import annotations

from pathlib import Path

from llmrec.files import write_json
from llmrec.run.layout import RunFolder, recipe_of
from llmrec.run.plan import plan
from llmrec.run.stage import resolve
from llmrec.stage_record import RECORD_FILE, file_records, output_hash, read_record


def renew(run: Path) -> None:
    """Write the made.json of every stage anew, for its files and inputs as they are now."""
    recipe = recipe_of(run)
    for spec in plan(recipe):
        stage = resolve(RunFolder(run), spec, recipe.seed)
        files = file_records(stage.folder)
        new = {"key": stage.key, "inputs": stage.inputs, "files": files, "output": output_hash(files)}
        write_json(stage.folder / RECORD_FILE, read_record(stage.folder) | new)
