"""Data sets there are, somebody's own files checked, and what a run or recipe reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from llmrec.cli.screen import say, screen

if TYPE_CHECKING:
    from llmrec.data.problems import Checked
    from llmrec.recipe import Data

app = typer.Typer(no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})


@app.command("list")
def list_sources(as_json: bool = typer.Option(False, "--json", help="print JSON")) -> None:
    """Data sets that `data.source` can name, and whether they are here."""
    from llmrec.data.sources import where

    places = where()
    if as_json:
        say([{"source": name, "here": here, "where": words} for name, here, words in places])
        return
    for name, here, words in places:
        mark = "[green]here[/]   " if here else "[yellow]missing[/]"
        screen.print(f"{mark} {name:<20} {words}", highlight=False, soft_wrap=True)


@app.command("check")
def check_files(
    files: list[Path] = typer.Argument(help="the interactions and the items, or a recipe that names them"),
    as_json: bool = typer.Option(False, "--json", help="print JSON"),
) -> None:
    """Look for problems in files, told with file and line. Exit code 1 where there are any."""
    checked = _check(files)
    if as_json:
        say({"problems": [problem.__dict__ for problem in checked.problems], "notes": checked.notes})
    else:
        _show(checked)
    if checked.problems:
        raise typer.Exit(1)


@app.command("show")
def show(
    run: str = typer.Argument(help="a run folder, or a recipe", metavar="RUN_OR_RECIPE"),
    as_json: bool = typer.Option(False, "--json", help="print JSON"),
) -> None:
    """Counts, density, lengths of histories, time and text of a run's data, or of what a recipe reads."""
    from llmrec import shipped
    from llmrec.data import facts
    from llmrec.data.dataset import Dataset
    from llmrec.files import read_json
    from llmrec.recipe_file import load

    folder = Path(run)
    if (folder / "recipe.yaml").is_file():
        recipe, dataset = load(folder / "recipe.yaml"), Dataset.load(folder / "data")
        unit = read_json(folder / "data" / "made.json")["facts"]["timestamp unit"]
    else:
        recipe = load(shipped.recipe(run))
        dataset, unit = facts.of_recipe(recipe)
    found = facts.facts(dataset, recipe.items.text, unit)
    if as_json:
        say(found)
        return
    for name, value in found.items():
        typer.echo(f"{name:<26} {value}")


def _check(files: list[Path]) -> Checked:
    import tempfile

    from llmrec.data import starter
    from llmrec.data.look import look
    from llmrec.data.problems import check

    if len(files) == 1 and files[0].suffix in (".yaml", ".yml"):
        data, text = _of_recipe(files[0])
        return check(data, text)
    found = look(files)
    with tempfile.TemporaryDirectory() as folder:
        derived = Path(folder) / "items.csv" if found.one_file else None
        if derived:
            starter.derive_items(found, derived)
        checked = check(starter.data_part(found, derived), starter.text_as_read(found))
    checked.notes[:0] = found.why
    return checked


def _of_recipe(path: Path) -> tuple[Data, list[str]]:
    from llmrec.errors import RecipeError
    from llmrec.recipe_file import load

    recipe = load(path)
    if recipe.data.source != "files":
        raise RecipeError(f"{path.name} reads {recipe.data.source}, not files of yours. See: llmrec data show {path}")
    return recipe.data, recipe.items.text


def _show(checked: Checked) -> None:
    for note in checked.notes:
        typer.echo(f"  {note}")
    for problem in checked.problems:
        typer.secho(f"\n{problem.count} {problem.words}", fg="yellow")
        for place in problem.places:
            typer.echo(f"  {place}")
        if problem.count > len(problem.places):
            typer.echo(f"  … and {problem.count - len(problem.places)} more")
    words = "No problems found." if not checked.problems else f"{len(checked.problems)} kind(s) of problem."
    typer.secho(f"\n{words}", bold=True)
