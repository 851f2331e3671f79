"""Fetch the embedded defaults: a data set, a text encoder, a language model. Checked by hash."""

from __future__ import annotations

import typer

from llmrec.cli.screen import console, say


def command(
    names: list[str] = typer.Argument(None, help="which; all by default", metavar="[NAME]..."),
    as_json: bool = typer.Option(False, "--json", help="print what there is as JSON"),
) -> None:
    from llmrec import embedded
    from llmrec.errors import LlmrecError

    unknown = [name for name in names or [] if name not in embedded.ARCHIVES]
    if unknown:
        raise LlmrecError(f"there is no embedded default '{unknown[0]}'; there are: {', '.join(embedded.ARCHIVES)}")
    places = {}
    for name in names or list(embedded.ARCHIVES):
        there = embedded.is_fetched(name)
        console.print(f"{embedded.ARCHIVES[name].what}: {'there' if there else 'fetching …'}", highlight=False)
        places[name] = str(embedded.fetch(name))
    if as_json:
        say(places)
