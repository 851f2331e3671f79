"""Item codes of a run: how healthy they are, two ways side by side, codes for new items."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import typer

from llmrec.cli.paths import current_run
from llmrec.cli.screen import console, plain, say, screen

app = typer.Typer(no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})


@app.callback()
def _options() -> None:
    """Item codes."""


@app.command()
def show(
    run: Path = typer.Argument(help="a run folder, trained or only up to its catalogue"),
    catalogue: str = typer.Option(None, help="the beginning of the hash of another of its catalogues"),
    as_json: bool = typer.Option(False, "--json", help="print JSON"),
) -> None:
    """Health of the codes: a verdict, use and entropy of each level, agreement with categories and behaviour."""
    found = _health(run, catalogue)
    if as_json:
        say(found)
        return
    for sentence in found["verdict"]:
        screen.print(sentence, highlight=False, markup=False)
    _levels(found)
    for name, value in _figures(found).items():
        screen.print(f"{name:<34}{value}", highlight=False, markup=False)
    for title, code in found["examples"]:
        screen.print(f"{plain(code)}  {plain(title)}", soft_wrap=True)


@app.command()
def compare(
    first: Path = typer.Argument(help="a run folder"),
    second: Path = typer.Argument(help="another"),
    as_json: bool = typer.Option(False, "--json", help="print JSON"),
) -> None:
    """Health of two runs' codes side by side."""
    from rich import box
    from rich.table import Table

    sides = [_health(run) for run in (first, second)]
    if as_json:
        say({str(run): side for run, side in zip((first, second), sides, strict=True)})
        return
    columns = [_figures(side) for side in sides]
    table = Table("", str(first), str(second), box=box.SIMPLE)
    for name in dict.fromkeys([*columns[0], *columns[1]]):
        table.add_row(name, *(column.get(name, "–") for column in columns))
    screen.print(table)
    for run, side in zip((first, second), sides, strict=True):
        screen.print(f"{run}: {' '.join(side['verdict'])}", highlight=False, markup=False)


@app.command()
def add(
    run: Path = typer.Argument(help="a run folder"),
    items: Path = typer.Argument(help="Parquet or CSV: item_id, and the columns of the run's items"),
    catalogue: str = typer.Option(
        None, help="the beginning of the hash of the catalogue to add to; the newest if none"
    ),
    as_json: bool = typer.Option(False, "--json", help="print JSON"),
) -> None:
    """Codes for new items, by the frozen quantizer; the run's model recommends them without training."""
    from llmrec.indexing import add as adding

    whole, recipe = current_run(run, "catalogue")
    old = adding.chosen(whole.catalogue, whole.catalogues, catalogue)
    folder, facts = adding.add(items, old, recipe.items, recipe.seed, whole.catalogues)
    if as_json:
        say({"folder": str(folder), **facts})
        return
    screen.print(str(folder), highlight=False, markup=False, soft_wrap=True)
    console.print(
        f"{facts['new codes']} new items beside {facts['codes kept']} old ones, whose codes are as they were. "
        "A server of this run takes it up on POST /v1/catalogue.",
        highlight=False,
        markup=False,
    )
    if cold := facts["placed by text"]:
        shown = ", ".join(cold[:5]) + ("…" if len(cold) > 5 else "")
        console.print(
            f"{len(cold)} of them have words or categories that no token stands for, and went where the nearest "
            f"item by text is: {shown}",
            highlight=False,
            markup=False,
        )


def _health(path: Path, beginning: str | None = None) -> dict[str, Any]:
    """Health of the codes of a run, or of the one of its catalogues whose hash begins so."""
    from llmrec.indexing.add import chosen
    from llmrec.indexing.health import inspect

    run, recipe = current_run(path, "catalogue")
    folder = chosen(run.catalogue, run.catalogues, beginning) if beginning else run.catalogue
    return inspect(folder, run.data, run.items, recipe.indexing, recipe.seed)


def _levels(found: dict[str, Any]) -> None:
    import math

    from rich import box
    from rich.table import Table

    table = Table("level", "used", "of", "bits", "at most", "busiest token", box=box.SIMPLE)
    for level in found["levels"]:
        row = (level["level"], level["used"], level["width"], level["entropy_bits"], math.log2(level["width"]))
        table.add_row(*(f"{value:.2f}" if isinstance(value, float) else str(value) for value in row), _busiest(level))
    screen.print(table)


def _busiest(level: dict[str, Any]) -> str:
    return f"{max(level['counts'], default=0)} items"


def _figures(found: dict[str, Any]) -> dict[str, str]:
    """What is compared, as words."""
    tokens = found["tokens"]
    figures: dict[str, Any] = {
        "method": found["method"],
        "items": found["items"],
        "levels used": ", ".join(f"{level['used']}/{level['width']}" for level in found["levels"]),
        "bits": ", ".join(f"{level['entropy_bits']:.2f}" for level in found["levels"]),
        "shared a code before": found["collisions_before"],
        "share one now": found["collisions_after"],
        "moved to tell twins apart": found["moved"],
        "items with another's vector": found["same_vector"],
        "neighbours with its first token": found["neighbours_kept"],
        "tokens of a code": f"{tokens['mean']:g} ({tokens['least']} to {tokens['most']})",
    }
    for name, key in (("NMI with categories", "category_nmi"), ("NMI with co-occurrence", "company_nmi")):
        if key in found:
            figures[name] = ", ".join(f"{value:.3f}" for value in found[key])
    if "dominance" in found:
        figures["dominance of text (-1 to 1)"] = f"{found['dominance']:+.3f}"
    return {name: str(value) for name, value in figures.items() if value is not None}
