"""Evaluate a run on its held-out items, beside the baselines, and show the table; nothing is trained.

The figures stay in the run, in a folder for each split; with `--beams` or `--engine vllm` they are shown only.
`--test` opens the test part of a run that is judged on validation: a line about the look is added to the ledger
(`results/ledger.jsonl`), which belongs into version control.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer

from llmrec.cli.screen import say, show_figures, stages

if TYPE_CHECKING:
    from llmrec.run.specs import Split


def command(
    run: Path = typer.Argument(help="a run folder"),
    target: str = typer.Option(None, help="test or valid; what the recipe is judged on otherwise"),
    test: bool = typer.Option(False, "--test", help="judge on test as the recipe says, and write it into the ledger"),
    ledger: Path = typer.Option("results/ledger.jsonl", help="--test: the ledger of looks at test parts"),
    why: str = typer.Option("", help="--test: what the look is for"),
    beams: int = typer.Option(None, help="another beam width than the recipe's; shown, not kept"),
    engine: str = typer.Option("transformers", help="what runs the model: transformers or vllm"),
    as_json: bool = typer.Option(False, "--json", help="print JSON"),
) -> None:
    from llmrec.errors import RunError

    if target not in (None, "test", "valid"):
        raise RunError(f"--target is test or valid, not '{target}'.")
    if test and (target == "valid" or beams is not None or engine != "transformers"):
        raise RunError("--test judges as the recipe says: leave out --target, --beams and --engine.")
    split = cast("Split | None", target)
    result = _opened(run, ledger, why) if test else _evaluated(run, split, beams, engine)
    if as_json:
        say(result)
    else:
        show_figures(result)


def _opened(run: Path, ledger: Path, why: str) -> dict[str, Any]:
    """Figures on the test part, written into the ledger."""
    from llmrec.evaluate.files import read_judged
    from llmrec.results.ledger import look

    with stages() as progress:
        return read_judged(look(run, ledger, why, progress))


def _evaluated(run: Path, target: Split | None, beams: int | None, engine: str) -> dict[str, Any]:
    """Figures on the recipe's split or on another one; kept where the recipe's own settings make them."""
    import tempfile

    from llmrec.decode.generative import engine_named
    from llmrec.errors import RunError
    from llmrec.evaluate.files import read_judged
    from llmrec.run import execute
    from llmrec.run.layout import recipe_of
    from llmrec.run.plan import plan

    own = recipe_of(run)
    if target == "test" and own.evaluate.target == "valid":
        raise RunError(
            f"{run} is judged on validation (evaluate.target: valid) and keeps its test part shut. Open it with "
            f"`llmrec evaluate {run} --test`, which is written into the ledger."
        )
    split = target or own.evaluate.target
    if beams is None and engine_named(engine) == "transformers":
        with stages() as progress:
            return read_judged(execute.judge(own, run, plan(own, split)[-1], progress))
    changes = [f"evaluate.target={split}", *([] if beams is None else [f"evaluate.beams={beams}"])]
    with stages() as progress, tempfile.TemporaryDirectory() as folder:
        other = recipe_of(run, changes)
        stage = plan(other)[-1]
        execute.judge(other, run, stage, progress, (Path(folder), engine_named(engine)))
        return read_judged(Path(folder))
