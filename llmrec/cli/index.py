"""`llmrec index`: quality of a run's item codes, comparison of two runs, codes for new items."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import typer
from rich import box
from rich.table import Table

from llmrec.cli.arguments import AS_JSON, RUN
from llmrec.cli.screen import console, plain, say, screen

app = typer.Typer(no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})


@app.command()
def show(
    run: Path = typer.Argument(help="a run folder with a catalogue"),
    catalogue: str = typer.Option(None, help="first digits of the hash of another catalogue of the run"),
    as_json: bool = AS_JSON,
) -> None:
    """Show the quality of item codes: use and entropy per level, agreement with categories and co-occurrence."""
    health = _health(run, catalogue)
    if as_json:
        say(health)
        return
    for sentence in health["verdict"]:
        screen.print(sentence)
    table = Table("level", "used", "of", "bits", "at most", "busiest token", box=box.SIMPLE)
    for level in health["levels"]:
        row = (level["level"], level["used"], level["width"], level["entropy_bits"], math.log2(level["width"]))
        cells = (f"{value:.2f}" if isinstance(value, float) else str(value) for value in row)
        table.add_row(*cells, f"{max(level['counts'], default=0)} items")
    screen.print(table)
    for name, value in _figures(health).items():
        screen.print(f"{name:<34}{value}")
    for title, code in health["examples"]:
        screen.print(f"{plain(code)}  {plain(title)}", soft_wrap=True)


@app.command()
def compare(
    first: Path = RUN, second: Path = typer.Argument(help="another run folder"), as_json: bool = AS_JSON
) -> None:
    """Compare the quality of the item codes of two runs."""
    sides = {str(run): _health(run) for run in (first, second)}
    if as_json:
        say(sides)
        return
    columns = [_figures(sides[str(run)]) for run in (first, second)]
    table = Table("", str(first), str(second), box=box.SIMPLE)
    for name in columns[0] | columns[1]:
        table.add_row(name, *(column.get(name, "–") for column in columns))
    screen.print(table)
    for run, side in sides.items():
        screen.print(f"{run}: {' '.join(side['verdict'])}")


@app.command("add")
def add_items(
    run: Path = RUN,
    items: Path = typer.Argument(help="Parquet or CSV file with item_id and the columns of the run's items"),
    catalogue: str = typer.Option(
        None, help="first digits of the hash of the catalogue to extend; default: the newest"
    ),
    as_json: bool = AS_JSON,
) -> None:
    """Assign codes to new items with the fitted quantizer; the model then recommends them without training."""
    from llmrec.run import plan

    folder, facts = plan.add_items(run, items, catalogue)
    if as_json:
        say({"folder": str(folder), **facts})
        return
    screen.print(str(folder), soft_wrap=True)
    console.print(
        f"{facts['new codes']} items added; the codes of the other {facts['codes kept']} are unchanged. "
        "A running server of this run switches to it with POST /v1/catalogue."
    )
    if cold := facts["placed by text"]:
        console.print(
            f"{len(cold)} of them have words or categories without a token, and took the code prefix of the nearest "
            f"item by text: {', '.join(cold[:5])}{'…' if len(cold) > 5 else ''}"
        )


def _health(path: Path, digits: str | None = None) -> dict[str, Any]:
    """Compute the quality of the codes of a run, or of its catalogue whose hash starts with `digits`."""
    from llmrec.indexing.catalogue import find_catalogue
    from llmrec.indexing.health import inspect
    from llmrec.run.plan import open_run

    run, recipe = open_run(path, "catalogue")
    folder = find_catalogue(run.catalogue, run.catalogues, digits) if digits else run.catalogue
    return inspect(folder, run.data, run.items, recipe.indexing, recipe.seed)


def _figures(health: dict[str, Any]) -> dict[str, str]:
    """Format the figures of a comparison."""
    tokens = health["tokens"]
    figures: dict[str, Any] = {
        "method": health["method"],
        "items": health["items"],
        "levels used": ", ".join(f"{level['used']}/{level['width']}" for level in health["levels"]),
        "bits": ", ".join(f"{level['entropy_bits']:.2f}" for level in health["levels"]),
        "shared codes before resolution": health["collisions_before"],
        "shared codes now": health["collisions_after"],
        "items reassigned": health["moved"],
        "items with identical vectors": health["same_vector"],
        "neighbours with the same first token": health["neighbours_kept"],
        "tokens per code": f"{tokens['mean']:g} ({tokens['least']} to {tokens['most']})",
    }
    for name, key in (("NMI with categories", "category_nmi"), ("NMI with co-occurrence", "cooccurrence_nmi")):
        if key in health:
            figures[name] = ", ".join(f"{value:.3f}" for value in health[key])
    if "dominance" in health:
        figures["dominance of text (-1 to 1)"] = f"{health['dominance']:+.3f}"
    return {name: str(value) for name, value in figures.items() if value is not None}
