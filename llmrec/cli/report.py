"""Write a run's report.html again."""

from __future__ import annotations

from pathlib import Path

import typer

from llmrec.cli.screen import say, screen


def command(
    run: Path = typer.Argument(help="a run folder"), as_json: bool = typer.Option(False, "--json", help="print JSON")
) -> None:
    from llmrec.errors import RunError
    from llmrec.report import write_report

    if not (run / "recipe.yaml").is_file():
        raise RunError(f"{run} is not a run folder: it has no recipe.yaml. Make one with: llmrec run quickstart")
    path = write_report(run)
    say({"report": str(path)}) if as_json else screen.print(str(path), highlight=False)
