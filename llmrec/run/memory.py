"""Collaborative models that would not fit into memory, refused before anything is trained."""

from __future__ import annotations

from collections.abc import Sequence

from llmrec import collaborative
from llmrec.contracts import Sizes
from llmrec.made import read_made
from llmrec.run.layout import RunFolder
from llmrec.run.plan import StageSpec


def refuse_too_large(run: RunFolder, specs: Sequence[StageSpec]) -> None:
    """See that every collaborative model of a plan fits into this machine's memory, by the sizes of the data.

    Args:
        run: the run folder, its data made.
        specs: the plan.

    Raises:
        ModelError: one does not fit; how many GiB it takes, how many there are, and what to write instead.
    """
    facts = read_made(run.data)["facts"]
    sizes = Sizes(facts["users"], facts["items"], facts["interactions"])
    collaborative.refuse_too_large([spec.config["model"] for spec in specs if spec.kind == "collaborative"], sizes)
