"""Write a run's report.html again."""

from __future__ import annotations

from pathlib import Path

import typer

from llmrec.cli.screen import say, screen


def command(
    run: Path = typer.Argument(help="a run folder"), as_json: bool = typer.Option(False, "--json", help="print JSON")
) -> None:
    from llmrec.report import write_report
    from llmrec.run.layout import RunFolder

    path = write_report(RunFolder(run))
    say({"report": str(path)}) if as_json else screen.print(str(path), highlight=False)
