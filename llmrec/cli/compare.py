"""Two runs side by side: every metric with its interval, the paired difference and its p-value."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from llmrec.cli.paths import current_run
from llmrec.cli.screen import say, screen

if TYPE_CHECKING:
    from llmrec.evaluate.files import Judged


def command(
    first: Path = typer.Argument(help="a run folder"),
    second: Path = typer.Argument(help="another, judged the same way"),
    as_json: bool = typer.Option(False, "--json", help="print JSON"),
) -> None:
    from rich import box
    from rich.table import Table

    from llmrec.evaluate.files import compare

    a, b = _judged(first), _judged(second)
    found = compare(a, b)
    if as_json:
        say(found)
        return
    names = [f"{one.name} ({one.metrics['model']})" for one in (a, b)]
    table = Table(
        box=box.SIMPLE,
        caption=f"{len(a.cases)} cases; 95 % intervals over cases; Δ: first minus second, paired; "
        "p: permutation test, two-sided",
    )
    for title in ("", *names, "Δ", "95 %", "p"):
        table.add_column(title, justify="right" if title else "left")
    for metric, figures in found.items():
        delta = figures["difference"]
        sides = [
            f"{side['mean']:.4f}  {side['low']:.4f} to {side['high']:.4f}"
            for side in (figures["first"], figures["second"])
        ]
        table.add_row(
            metric, *sides, f"{delta['mean']:+.4f}", f"{delta['low']:+.4f} to {delta['high']:+.4f}", f"{delta['p']:.4f}"
        )
    screen.print(table)


def _judged(path: Path) -> Judged:
    """The figures of a run, if all of its stages are those of its recipe."""
    from llmrec.evaluate.files import read

    run, recipe = current_run(path, "evaluate")
    return read(run.evaluation(recipe.evaluate.target), path.resolve().name)
