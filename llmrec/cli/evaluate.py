"""Evaluate a run on its held-out items, beside the baselines, and show the table."""

from __future__ import annotations

from pathlib import Path

import typer

from llmrec.cli.screen import metrics_table, say, screen, stages


def command(
    run: Path = typer.Argument(help="a run folder"),
    target: str = typer.Option("test", help="test or valid"),
    beams: int = typer.Option(None, help="another beam width than the recipe's"),
    engine: str = typer.Option("transformers", help="what runs the model: transformers or vllm"),
    as_json: bool = typer.Option(False, "--json", help="print JSON"),
) -> None:
    import tempfile

    import numpy as np

    import llmrec
    from llmrec.data.dataset import Dataset
    from llmrec.decode.recommender import engine_named
    from llmrec.errors import RunError
    from llmrec.evaluate.ranking import evaluate
    from llmrec.recipe_file import load

    if target not in ("test", "valid"):
        raise RunError(f"--target is test or valid, not '{target}'.")
    if not (run / "recipe.yaml").is_file():
        raise RunError(f"{run} is not a run folder: it has no recipe.yaml.")
    recipe = load(run / "recipe.yaml", [f"evaluate.beams={beams}"] if beams else [])
    recommender = llmrec.load(run, recipe.evaluate.wording == "held-out", engine_named(engine))
    with stages(("evaluate",)) as tell, tempfile.TemporaryDirectory() as folder:
        result = evaluate(
            recommender,
            recipe.model.name,
            Dataset.load(run / "data"),
            recipe.evaluate,
            "valid" if target == "valid" else "test",
            recipe.seed,
            Path(folder),
            lambda done: tell("evaluate", done),
            np.load(run / "items" / "vectors" / f"{recipe.items.encoder}.npy"),
        )
    if as_json:
        say(result)
    else:
        screen.print(metrics_table(result))
