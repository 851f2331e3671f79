"""Data sets that there are, your own files checked, and what a run or recipe reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.text import Text

from llmrec.cli.paths import current_run
from llmrec.cli.screen import console, plain, say, screen, stages

if TYPE_CHECKING:
    from llmrec.data.inspection import Checked
    from llmrec.recipe import Data

app = typer.Typer(no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})


@app.command("list")
def list_sources(as_json: bool = typer.Option(False, "--json", help="print JSON")) -> None:
    """Data sets that `data.source` can name: whether they are here, how large, on what terms, from where."""
    from llmrec.data.fetch import ORIGINS
    from llmrec.data.sources import where

    sources = [
        {"source": name, "here": here, "where": words}
        | (
            {key: getattr(ORIGINS[name], key) for key in ("about", "size", "licence", "page")}
            if name in ORIGINS
            else {}
        )
        for name, here, words in where()
    ]
    if as_json:
        say(sources)
        return
    for one in sources:
        mark = Text("here   ", "green") if one["here"] else Text("missing", "yellow")
        screen.print(mark, f"{one['source']:<20} {one['where']}", soft_wrap=True)
        for key in ("about", "size", "licence", "page"):
            if key in one:
                screen.print(f"{'':<29}{one[key]}", style="dim", highlight=False, soft_wrap=True, markup=False)


@app.command("fetch")
def fetch_set(
    name: str = typer.Argument(help="a set that `llmrec data list` names"),
    category: str = typer.Option(None, help="Amazon: a category as its files name it, such as Beauty"),
    mirror: str = typer.Option(None, help="an address below which the same files lie"),
) -> None:
    """Fetch a data set from its makers into the cache; a fetch that was cut goes on where it was."""
    from llmrec.data.fetch import ORIGINS, fetch

    if name in ORIGINS:
        console.print(f"{ORIGINS[name].about}. {ORIGINS[name].size}.", highlight=False, soft_wrap=True)
        console.print(f"Terms: {ORIGINS[name].licence}. See {ORIGINS[name].page}", highlight=False, soft_wrap=True)
    with stages() as tell:
        folder = fetch(name, category, mirror, tell)
    screen.print(str(folder), soft_wrap=True)


@app.command("check")
def check_files(
    files: list[Path] = typer.Argument(help="the interactions and the items, or a recipe that names them"),
    as_json: bool = typer.Option(False, "--json", help="print JSON"),
) -> None:
    """Look for problems in files, each with file and line. Exit code 1 where there are any."""
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
    from llmrec.data import inspection
    from llmrec.data.dataset import Dataset
    from llmrec.recipe_file import load
    from llmrec.run.layout import RunFolder

    if RunFolder(Path(run)).is_run():
        folder, recipe = current_run(Path(run), "data")
        dataset = Dataset.load(folder.data)
        unit = str(dataset.facts.get("timestamp unit", "unknown"))
    else:
        recipe = load(shipped.recipe(run))
        dataset, unit = inspection.cleaned(recipe.data, recipe.seed)
    found = inspection.facts(dataset, recipe.items.text, unit)
    if as_json:
        say(found | {"interactions by tenth of the items": inspection.long_tail(dataset)})
        return
    for name, value in found.items():
        typer.echo(f"{name:<26} {plain(value)}")
    typer.echo("\nInteractions by tenth of the items, most popular first:")
    for place, share in enumerate(inspection.long_tail(dataset), 1):
        typer.echo(f"{place * 10:>4} %  {'█' * round(60 * share) or '▏'} {share:.1%}")


def _check(files: list[Path]) -> Checked:
    import tempfile

    from llmrec.data import starter
    from llmrec.data.inspection import check
    from llmrec.data.look import look

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
        typer.echo(f"  {plain(note)}")
    for problem in checked.problems:
        typer.secho(f"\n{problem.count} {plain(problem.words)}", fg="yellow")
        for place in problem.places:
            typer.echo(f"  {plain(place)}")
        if problem.count > len(problem.places):
            typer.echo(f"  … and {problem.count - len(problem.places)} more")
    words = "No problems found." if not checked.problems else f"{len(checked.problems)} kind(s) of problem."
    typer.secho(f"\n{words}", bold=True)
