"""Write what a run recommends by as one folder to share: Hugging Face files, catalogue, model card."""

from __future__ import annotations

from pathlib import Path

import typer

from llmrec.cli.paths import named
from llmrec.cli.screen import say, screen


def command(
    run: Path = typer.Argument(help="a run folder"),
    folder: Path = typer.Argument(parser=named, metavar="FOLDER", help="where to; absent or empty"),
    as_json: bool = typer.Option(False, "--json", help="print JSON"),
) -> None:
    from llmrec.export import export

    written = export(run, folder)
    if as_json:
        say({"export": str(written)})
        return
    screen.print(f"{written}\nRead its README.md before you share it: licences are named there.", highlight=False)
