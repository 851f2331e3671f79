"""Run a result again, and say whether its figures fall inside their intervals (exit code 0) or not (1).

RESULT is a JSON file of scripts/experiments/seeds.py, which pins recipe, data and seed.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from llmrec.cli.paths import named
from llmrec.cli.screen import console, named_run, say, screen, stages

if TYPE_CHECKING:
    from llmrec.results.reproduce import Figure, Pinned

MISSED = 1


def command(
    result: Path = typer.Argument(help="such as results/beauty-nano.json"),
    seed: int = typer.Option(None, help="one of the result's seeds; its first otherwise"),
    out: Path = typer.Option(None, parser=named, metavar="PATH", help="run folder; runs/RESULT-again-SEED otherwise"),
    ledger: Path = typer.Option("results/ledger.jsonl", help="where a look at a shut test part is written down"),
    tiny: bool = typer.Option(False, help="the same path at a very small size, judged on nothing but that it ends"),
    dry_run: bool = typer.Option(False, "--dry-run", help="print the recipe that would be run, and stop"),
    as_json: bool = typer.Option(False, "--json", help="print JSON"),
) -> None:
    from llmrec.recipe import shrink
    from llmrec.recipe_file import dump
    from llmrec.results.reproduce import pinned, reproduce
    from llmrec.run import execute

    known = pinned(result, seed)
    recipe = shrink(known.recipe) if tiny else known.recipe
    if dry_run:
        typer.echo(dump(recipe), nl=False)
        return
    run = out or Path("runs") / f"{known.name}-{'tiny' if tiny else 'again'}-{recipe.seed}"
    console.print(named_run(known.name, run, f", seed {recipe.seed}"))
    with stages() as progress:
        if tiny:
            execute.run(recipe, run, "evaluate", progress)
        found = {} if tiny else reproduce(known, run, ledger, progress)
    if tiny:
        say({"run": str(run), "tiny": True}) if as_json else screen.print(
            "The path works; tiny figures are no figures."
        )
        return
    holds = all(figure.holds for figure in found.values())
    if as_json:
        figures = {metric: asdict(figure) | {"holds": figure.holds} for metric, figure in found.items()}
        say({"run": str(run), "holds": holds, "figures": figures})
    else:
        _show(known, found)
    if not holds:
        raise typer.Exit(MISSED)


def _show(known: Pinned, found: dict[str, Figure]) -> None:
    from rich import box
    from rich.table import Table

    from llmrec.provenance import versions

    table = Table(box=box.SIMPLE, caption="95 % intervals over users")
    for title in ("", "result", "interval", "now", ""):
        table.add_column(title, justify="right" if title else "left")
    for metric, one in found.items():
        words = "the same" if one.now == one.was else "inside" if one.holds else "OUTSIDE"
        table.add_row(metric, f"{one.was:.4f}", f"{one.low:.4f} to {one.high:.4f}", f"{one.now:.4f}", words)
    screen.print(table)
    here = versions()
    other = [f"{name} {was}, here {here.get(name)}" for name, was in known.versions.items() if here.get(name) != was]
    if other:
        screen.print(f"Versions that differ: {'; '.join(other)}", highlight=False)
