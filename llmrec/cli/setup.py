"""Fetch the embedded defaults: a data set, a text encoder, a language model. Checked by hash."""

from __future__ import annotations

import typer

from llmrec.cli.screen import console, say


def command(
    names: list[str] = typer.Argument(None, help="which; all by default", metavar="[NAME]..."),
    as_json: bool = typer.Option(False, "--json", help="print what there is as JSON"),
) -> None:
    from llmrec import embedded

    places = {}
    for name in names or list(embedded.ARCHIVES):
        what = embedded.about(name).what
        console.print(f"{what}: {'there' if embedded.is_fetched(name) else 'fetching …'}", highlight=False)
        places[name] = str(embedded.fetch(name))
    if as_json:
        say(places)
