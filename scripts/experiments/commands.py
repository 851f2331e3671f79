"""What the scripts of this folder share: calls of `llmrec`, the command line of a script, finished runs, models."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from llmrec.errors import RunError
from llmrec.run.layout import RunFolder, recipe_of
from llmrec.run.plan import plan
from llmrec.run.stage import require_current
from llmrec.stage_record import StageRecord, read_record

if TYPE_CHECKING:
    from llmrec.decode.generative import Generative


def call_llmrec(*arguments: object) -> None:
    """Call `llmrec` in a process of its own, quietly.

    Raises:
        CalledProcessError: it failed; why stands on standard error.
    """
    command = [sys.executable, "-m", "llmrec", *map(str, arguments), "--json"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"OMP_WAIT_POLICY": "passive"})


def typed() -> str:
    """The command line of this script, as it is typed in a checkout."""
    return " ".join(["python scripts/experiments/" + Path(sys.argv[0]).name, *sys.argv[1:]])


def finished(run: Path) -> dict[str, StageRecord]:
    """Stage → made.json of a run that is made to its evaluation, all of its recipe; empty for any other folder."""
    try:
        recipe = recipe_of(run)
        return {name: read_record(run / name) for name in require_current(RunFolder(run), plan(recipe), recipe.seed)}
    except RunError:
        return {}


def language_model(run: Path, catalogue: Path | None = None) -> Generative:
    """The language model of a run as a recommender, without what the recipe mixes in.

    Args:
        run: the run folder.
        catalogue: a catalogue that extends the run's own, which is taken otherwise.
    """
    from llmrec.decode.generative import GenerativeModel, engine_factory
    from llmrec.indexing.catalogue import Catalogue
    from llmrec.run import recommender

    folder, given = recommender.language_model(run), catalogue or RunFolder(run).catalogue
    held_out = recipe_of(run).evaluate.template == "held-out"
    found = GenerativeModel(folder, engine_factory("transformers", folder)).for_catalogue(Catalogue.load(given), given)
    return (found.with_held_out_prompt() or found) if held_out else found
