"""What commands show: messages and progress on standard error, results on standard output."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

console = Console(stderr=True)
screen = Console()


def say(value: Any) -> None:
    """Print one JSON value on standard output."""
    typer.echo(json.dumps(value, ensure_ascii=False))


@contextlib.contextmanager
def stages(names: tuple[str, ...]) -> Iterator[Callable[[str, float], None]]:
    """Bars for the stages of a run, with the time left of the one at work."""
    columns = (
        TextColumn("{task.description:<10}"),
        BarColumn(30),
        TextColumn("{task.percentage:>4.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, Any] = {}

        def tell(stage: str, done: float) -> None:
            if stage not in tasks:
                tasks[stage] = bars.add_task(stage, total=1.0)
            bars.update(tasks[stage], completed=done)

        yield tell


def metrics_table(result: dict[str, Any]) -> Table:
    """The table of metrics.json: systems by metrics, means with their 95 % intervals for the first of each kind."""
    protocol = result["protocol"]
    table = Table(
        title=f"{protocol['users']} {protocol['target']} users, {protocol['candidates']} of {protocol['items']} items, "
        f"{'seen items excluded' if protocol['exclude_seen'] else 'seen items allowed'}, beams {protocol['beams']}"
    )
    metrics = list(next(iter(result["systems"].values())))
    table.add_column("")
    for metric in metrics:
        table.add_column(metric.upper(), justify="right")
    for system, values in result["systems"].items():
        cells = [f"{values[m]['mean']:.4f}\n[dim]{values[m]['low']:.3f}–{values[m]['high']:.3f}[/]" for m in metrics]
        table.add_row(f"[bold]{system}[/]" if system == result["model"] else system, *cells)
    return table


def show_example(folder: Path) -> None:
    """One user's history and ten recommendations, as titles."""
    examples = json.loads((folder / "examples.json").read_text(encoding="utf-8"))
    if not examples:
        return
    chosen = next((e for e in examples if e["held_out_rank"] in range(1, 11)), examples[0])
    screen.print(f"\nUser {chosen['user_id']} last watched or bought (newest last):", style="bold", highlight=False)
    for title in chosen["history"]:
        screen.print(f"   {title}", markup=False, highlight=False)
    screen.print("Recommended next:", style="bold")
    for place, title in enumerate(chosen["recommended"], 1):
        mark = "  ← what they took next" if place == chosen["held_out_rank"] else ""
        screen.print(f"  {place:>2}  {title}{mark}", markup=False, highlight=False)
