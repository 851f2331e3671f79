"""How a run's lists are made where it is judged, so that nobody is given others than those that were measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from llmrec.model.folder import NOTE, Note
from llmrec.recipe_file import recipe_of


def as_judged(note: Note, run: Path) -> Note:
    """A model's note with the beams, and the rule for items of the history, that its run is judged by.

    Args:
        note: of the model.
        run: its run folder, or an export, whose note has them.

    Raises:
        RunError: it is no run folder.
    """
    if (run / NOTE).is_file():
        return note
    judged = recipe_of(run).evaluate
    return replace(note, beams=judged.beams, exclude_seen=judged.exclude_seen)
