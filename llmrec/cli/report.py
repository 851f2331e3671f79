"""Write a run's report.html again."""

from __future__ import annotations

from pathlib import Path

import typer

from llmrec.cli.screen import say, screen


def command(
    run: Path = typer.Argument(help="a run folder"), as_json: bool = typer.Option(False, "--json", help="print JSON")
) -> None:
    from llmrec.recipe_file import recipe_of
    from llmrec.report import write_report
    from llmrec.stale import refuse_stale

    refuse_stale(recipe_of(run), run)
    path = write_report(run)
    say({"report": str(path)}) if as_json else screen.print(str(path), highlight=False)
