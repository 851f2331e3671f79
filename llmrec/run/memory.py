"""Collaborative models that would not fit into memory, refused before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence

from llmrec.collaborative.members import refuse_too_large as refuse
from llmrec.contracts import Sizes
from llmrec.made import read_made
from llmrec.recipe import Evaluate, Tasks, Training
from llmrec.run.layout import RunFolder
from llmrec.run.specs import teacher_of


def refuse_too_large(run: RunFolder, train: Sequence[Training], tasks: Tasks, judged: Evaluate) -> None:
    """See that the collaborative models of a recipe fit into this machine's memory, by the sizes of the data.

    Args:
        run: the run folder, its data made.
        train, tasks, judged: of the recipe.

    Raises:
        ModelError: one does not fit, or those that are held together do not; how many GiB, and what to write instead.
    """
    facts = read_made(run.data)["facts"]
    sizes = Sizes(facts["users"], facts["items"], facts["interactions"])
    for number, stage in enumerate(train):
        if teacher := teacher_of(stage):
            refuse([teacher], sizes, where=f"train.{number}.teacher")
    if not tasks.recommending:
        return  # no collaborative model is judged beside it
    refuse(judged.baselines, sizes, where="evaluate.baselines")
    if judged.blend:
        refuse([judged.blend.teacher], sizes, where="evaluate.blend.teacher")
