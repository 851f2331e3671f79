"""Output of commands: messages and progress on standard error, results on standard output."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from llmrec.cli import interrupt

_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def plain(text: object) -> str:
    """Escape control and direction characters, line ends and invalid UTF-8 in a text (as \\x1b)."""
    return _CONTROL.sub(lambda found: found[0].encode("unicode_escape").decode(), str(text))


class PlainConsole(Console):
    """A rich console without markup and emoji codes that escapes control characters except line ends."""

    def __init__(self, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False)

    def render_str(self, text: str, **options: Any) -> Text:  # type: ignore[override]  # the options are passed on
        """Return the text as rich prints it."""
        return super().render_str("\n".join(plain(line) for line in text.split("\n")), **options)


console = PlainConsole(stderr=True)
screen = PlainConsole()


def say(value: Any) -> None:
    """Print one JSON value on standard output, with control characters escaped."""
    text = json.dumps(value, ensure_ascii=False)
    typer.echo(_CONTROL.sub(lambda found: json.dumps(found[0])[1:-1], text))


def named_run(name: str, run: Path, more: str = "") -> Text:
    """Return the line above the progress of a run: name and folder."""
    return Text.assemble((plain(name), "bold"), f"{more} → {plain(run)}")


@contextlib.contextmanager
def stages() -> Iterator[Callable[[str, float], None]]:
    """Show a progress bar for each stage; without a terminal, print a line for each tenth of a stage."""
    if not console.is_terminal:
        yield _lines()
        return
    columns = (
        TextColumn("{task.description:<13}", markup=False),
        BarColumn(30),
        TextColumn("{task.percentage:>4.0f} %"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as bars:
        tasks: dict[str, Any] = {}

        def tell(stage: str, done: float) -> None:
            interrupt.check()
            if stage not in tasks:
                tasks[stage] = bars.add_task(plain(stage), total=1.0)
            bars.update(tasks[stage], completed=done)

        yield tell


def _lines() -> Callable[[str, float], None]:
    """Return a progress function for log files, where bars would appear only at the end."""
    begun: dict[str, float] = {}
    shown: dict[str, int] = {}  # stage → tenths

    def tell(stage: str, done: float) -> None:
        interrupt.check()
        seconds = int(time.monotonic() - begun.setdefault(stage, time.monotonic()))
        if int(done * 10) > shown.get(stage, -1):
            shown[stage] = int(done * 10)
            console.print(f"{stage:<13} {done:>4.0%}  {seconds // 60}:{seconds % 60:02}")

    return tell


def show_figures(result: dict[str, Any]) -> None:
    """Print the tables of an evaluation, as read by `evaluate.files.read_evaluation`."""
    if "systems" in result:
        screen.print(metrics_table(result))
    if "held_out_template" in result:
        from llmrec.report import sentences

        screen.print(sentences.held_out_template(result["held_out_template"]) + "\n")
    if "choices" in result:
        protocol = result["choices"]["protocol"]
        screen.print(
            f"Tasks with few possible answers: {protocol['target']} split, {protocol['template']} template, over the "
            "candidates of each case, not the whole catalogue; 95 % intervals over cases"
        )
        for task, judged in result["choices"]["tasks"].items():
            screen.print(choice_table(task, judged))


def choice_table(task: str, judged: dict[str, Any]) -> Table:
    """Return the table of a task of choices.json: metrics of the model and of the baselines."""
    systems, wrong = judged.get("systems", {}), judged.get("wrong candidates", "none")
    negatives = "" if wrong == "none" else f", negatives {wrong}"
    table = Table(title=f"{task}: {judged['cases']} cases, {judged['candidates']}{negatives}", box=box.SIMPLE)
    metrics = list(systems.get("model", {}))
    for metric in ("", *map(str.upper, metrics)):
        table.add_column(metric, justify="right" if metric else "left")
    for system, values in systems.items():
        cells = [f"{_short(values[name]['mean'])}\n{_interval(values[name])}" for name in metrics if name in values]
        table.add_row(system, *cells, style="bold" if system == "model" else "")
    return table


def metrics_table(result: dict[str, Any]) -> Table:
    """Return the table of metrics.json: metrics by system, with interval and paired difference of one metric."""
    protocol, model = result["protocol"], result["model"]
    metrics = list(result["systems"][model])
    hits = [metric for metric in metrics if metric.startswith("hr@")]
    main = "hr@10" if "hr@10" in metrics else [*metrics[:1], *hits][-1]
    users, cases = protocol["users"], protocol.get("cases", protocol["users"])
    of = "" if cases == users else f"{cases} cases of "
    table = Table(
        title=f"{of}{users} {protocol['target']} users, {protocol['candidates']} of {protocol['items']} items, "
        f"{'seen items excluded' if protocol['exclude_seen'] else 'seen items allowed'}, beams {protocol['beams']}",
        caption=f"95 % intervals over {'users' if cases == users else 'cases'}; Δ: {model} minus baseline, paired",
        box=box.SIMPLE,
    )
    if screen.width < 100:  # narrow terminal: fewer columns, so that names fit
        metrics = [metric for metric in metrics if metric.endswith(main[2:])]
    for title in ("", *map(str.upper, metrics), f"{main.upper()} 95 %", f"Δ {main.upper()} 95 %"):
        table.add_column(title, justify="right" if title else "left", no_wrap=True)
    for system, values in result["systems"].items():
        cells = [_short(values[metric]["mean"]) if metric in values else "" for metric in metrics]
        behind = _interval(result.get("paired", {}).get(system, {}).get(main))
        table.add_row(system, *cells, _interval(values.get(main)), behind, style="bold" if system == model else "")
    return table


def interval(value: dict[str, float] | None, digits: str = ".4f") -> str:
    """Format an interval as `low to high`; "" if there is none."""
    return f"{value['low']:{digits}} to {value['high']:{digits}}" if value else ""


def _short(value: float) -> str:
    text = f"{value:.3f}"
    return text.removeprefix("0") if value >= 0 else text.replace("-0.", "-.")  # 10.5 keeps its zero


def _interval(value: dict[str, float] | None) -> str:
    return f"{_short(value['low'])} to {_short(value['high'])}" if value else ""


def show_example(folder: Path) -> None:
    """Print the history and ten recommendations of one user, as titles."""
    from llmrec.checked import read_checked
    from llmrec.evaluate.files import ExampleUser

    examples = read_checked(folder / "examples.json", list[ExampleUser])
    if not examples:
        return
    chosen = next((e for e in examples if e.get("held_out_rank") in range(1, 11)), examples[0])
    screen.print(f"\nUser {plain(chosen['user_id'])}, history (newest last):", style="bold")
    for title in chosen["history"]:
        screen.print(f"   {plain(title)}")
    screen.print("Recommended:", style="bold")
    for place, title in enumerate(chosen["recommended"], 1):
        mark = "  ← held-out item" if place == chosen.get("held_out_rank") else ""
        screen.print(f"  {place:>2}  {plain(title)}{mark}")
