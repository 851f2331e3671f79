"""Evaluate a run on its held-out items, beside the baselines, and show the table.

`--test` opens the test part of a run that is judged on validation: the figures stay in the run, and a line about the
look is added to the ledger (`results/ledger.jsonl`), which belongs into version control.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from llmrec.cli.screen import metrics_table, say, screen, stages


def command(
    run: Path = typer.Argument(help="a run folder"),
    target: str = typer.Option(None, help="test or valid; what the recipe is judged on otherwise"),
    test: bool = typer.Option(False, "--test", help="judge on test as the recipe says, and write it into the ledger"),
    ledger: Path = typer.Option("results/ledger.jsonl", help="--test: the ledger of looks at test parts"),
    why: str = typer.Option("", help="--test: what the look is for"),
    beams: int = typer.Option(None, help="another beam width than the recipe's"),
    engine: str = typer.Option("transformers", help="what runs the model: transformers or vllm"),
    as_json: bool = typer.Option(False, "--json", help="print JSON"),
) -> None:
    from llmrec.errors import RunError

    if target not in (None, "test", "valid"):
        raise RunError(f"--target is test or valid, not '{target}'.")
    if test and (target == "valid" or beams is not None or engine != "transformers"):
        raise RunError("--test judges as the recipe says: leave out --target, --beams and --engine.")
    result = _look(run, ledger, why) if test else _evaluated(run, target, beams, engine)
    if as_json:
        say(result)
    else:
        screen.print(metrics_table(result))


def _look(run: Path, ledger: Path, why: str) -> Any:
    from llmrec import judging, pipeline
    from llmrec.evaluate.files import read_metrics
    from llmrec.recipe_file import check_run

    check_run(run)
    with stages() as tell:
        folder = judging.look(run, pipeline.trained_folder(run), ledger, why, lambda done: tell("evaluate", done))
    return read_metrics(folder)


def _evaluated(run: Path, target: str | None, beams: int | None, engine: str) -> Any:
    """Figures that are shown and not kept."""
    import tempfile

    import llmrec
    from llmrec import judging
    from llmrec.data.dataset import Dataset
    from llmrec.decode.recommender import engine_named
    from llmrec.errors import RunError
    from llmrec.evaluate.ranking import evaluate
    from llmrec.items.folder import read_vectors
    from llmrec.recipe_file import recipe_of
    from llmrec.stale import refuse_stale

    recipe = recipe_of(run, [] if beams is None else [f"evaluate.beams={beams}"])
    if target == "test" and recipe.evaluate.target == "valid":
        raise RunError(
            f"{run} is judged on validation (evaluate.target: valid) and keeps its test part shut. Open it with "
            f"`llmrec evaluate {run} --test`, which is written into the ledger."
        )
    refuse_stale(recipe, run)
    dataset = Dataset.load(run / "data")
    recommender = llmrec.load(run, recipe.evaluate.wording == "held-out", engine_named(engine))
    with stages() as tell, tempfile.TemporaryDirectory() as folder:
        return evaluate(
            recommender,
            judging.system(recipe),
            dataset,
            recipe.evaluate,
            "valid" if (target or recipe.evaluate.target) == "valid" else "test",
            recipe.seed,
            Path(folder),
            lambda done: tell("evaluate", done),
            read_vectors(run, recipe.items.encoder, dataset.n_items),
        )
