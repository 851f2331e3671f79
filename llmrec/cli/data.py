"""`llmrec data` (list, fetch, check and describe data) and `llmrec init` (write a recipe for your files)."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.text import Text

from llmrec import resources
from llmrec.cli.arguments import AS_JSON, parsed_path
from llmrec.cli.screen import console, plain, say, screen, stages
from llmrec.errors import RecipeError
from llmrec.files import explain_disk, write_text

if TYPE_CHECKING:
    from llmrec.data.validate import ValidationReport

app = typer.Typer(no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})
_FACTS = ("about", "size", "licence", "page")


@app.command("list")
def list_sources(as_json: bool = AS_JSON) -> None:
    """List the data sets for `data.source`: on this machine or not, size, licence, origin."""
    from llmrec.data.fetch import REGISTRY
    from llmrec.data.sources import availability

    sources = [
        {"source": name, "here": here, "where": place}
        | ({key: getattr(REGISTRY[name], key) for key in _FACTS} if name in REGISTRY else {})
        for name, here, place in availability()
    ]
    if as_json:
        say(sources)
        return
    for source in sources:
        mark = Text("here   ", "green") if source["here"] else Text("missing", "yellow")
        screen.print(mark, f"{source['source']:<20} {source['where']}", soft_wrap=True)
        for key in _FACTS:
            if key in source:
                screen.print(f"{'':<29}{source[key]}", style="dim", soft_wrap=True)


@app.command("fetch")
def fetch_set(
    name: str = typer.Argument(help="a data set of `llmrec data list`"),
    category: str = typer.Option(None, help="Amazon: the category as in the file names, such as Beauty"),
    mirror: str = typer.Option(None, help="base URL of a mirror with the same files"),
) -> None:
    """Download a data set from its publisher into the cache; an interrupted download is resumed."""
    from llmrec.data.fetch import REGISTRY, fetch

    if name in REGISTRY:
        console.print(f"{REGISTRY[name].about}. {REGISTRY[name].size}.", soft_wrap=True)
        console.print(f"Terms: {REGISTRY[name].licence}. See {REGISTRY[name].page}", soft_wrap=True)
    with stages() as tell:
        folder = fetch(name, category, mirror, tell)
    screen.print(str(folder), soft_wrap=True)


@app.command("check")
def check_files(
    files: list[Path] = typer.Argument(help="the interactions and the items, or a recipe with both"),
    as_json: bool = AS_JSON,
) -> None:
    """Check your files for problems, and print file and line of each. Exit code 1 if there are any."""
    checked = _check(files)
    if as_json:
        say({"problems": [asdict(problem) for problem in checked.problems], "notes": checked.notes})
    else:
        _show(checked)
    if checked.problems:
        raise typer.Exit(1)


def _check(files: list[Path]) -> ValidationReport:
    from llmrec.data import recipe_generator
    from llmrec.data.schema_inference import infer_schema
    from llmrec.data.validate import check
    from llmrec.recipe_file import load

    if len(files) == 1 and files[0].suffix in (".yaml", ".yml"):
        recipe = load(files[0])
        if recipe.data.source != "files":
            raise RecipeError(
                f"{files[0].name} uses {recipe.data.source}, not your own files. See: llmrec data show {files[0]}"
            )
        return check(recipe.data, recipe.items.text)
    schema = infer_schema(files)
    with tempfile.TemporaryDirectory() as folder:
        derived = Path(folder) / "items.csv" if schema.one_file else None
        if derived:
            recipe_generator.derive_items(schema, derived)
        checked = check(recipe_generator.data_config(schema, derived), recipe_generator.text_columns(schema))
    checked.notes[:0] = schema.why
    return checked


def _show(checked: ValidationReport) -> None:
    for note in checked.notes:
        typer.echo(f"  {plain(note)}")
    for problem in checked.problems:
        typer.secho(f"\n{problem.count} {plain(problem.message)}", fg="yellow")
        for place in problem.places:
            typer.echo(f"  {plain(place)}")
        if problem.count > len(problem.places):
            typer.echo(f"  … and {problem.count - len(problem.places)} more")
    verdict = "No problems found." if not checked.problems else f"{len(checked.problems)} kind(s) of problem."
    typer.secho(f"\n{verdict}", bold=True)


@app.command("show")
def show(
    run: str = typer.Argument(help="a run folder, or a recipe", metavar="RUN_OR_RECIPE"),
    as_json: bool = AS_JSON,
) -> None:
    """Describe the data of a run or recipe: counts, density, history lengths, time span, text."""
    from llmrec.data import validate
    from llmrec.data.dataset import Dataset
    from llmrec.recipe_file import load
    from llmrec.run.layout import RunFolder
    from llmrec.run.plan import open_run

    if RunFolder(Path(run)).is_run():
        folder, recipe = open_run(Path(run), "data")
        dataset = Dataset.load(folder.data, texts=False)
        unit = str(dataset.facts.get("timestamp unit", "unknown"))
    else:
        recipe = load(resources.recipe_path(run))
        dataset, unit = validate.load_cleaned(recipe.data, recipe.seed)
    figures, tail = validate.statistics(dataset, recipe.items.text, unit), validate.long_tail(dataset)
    if as_json:
        say(figures | {"interactions by tenth of the items": tail})
        return
    for name, value in figures.items():
        typer.echo(f"{name:<26} {plain(value)}")
    typer.echo("\nInteractions by tenth of the items, most popular first:")
    for place, share in enumerate(tail, 1):
        typer.echo(f"{place * 10:>4} %  {'█' * round(60 * share) or '▏'} {share:.1%}")


def init(
    files: list[Path] = typer.Argument(help="interactions and items: CSV, TSV, JSONL or Parquet, also .gz"),
    out: Path = typer.Option("recipe.yaml", parser=parsed_path, metavar="PATH", help="path of the recipe to write"),
    yes: bool = typer.Option(False, "--yes", "-y", help="ask no questions, use the defaults"),
    force: bool = typer.Option(False, "--force", help="overwrite an existing recipe and items file"),
    as_json: bool = typer.Option(False, "--json", help="print the decisions as JSON; asks no questions"),
) -> None:
    """Write a recipe for your files, with a comment for every choice."""
    from llmrec.data import recipe_generator
    from llmrec.data.schema_inference import infer_schema
    from llmrec.recipe_file import load

    quiet = yes or as_json
    _check_out(out, files, force, quiet)
    schema = infer_schema(files, (lambda question, default, choices: default) if quiet else _ask)
    derived = out.parent / f"{schema.log.path.name.split('.')[0]}-items.csv" if schema.one_file else None
    if derived:
        recipe_generator.derive_items(schema, derived, force)
        schema.why.append(f"items: written to {derived.name}, one row per item ({', '.join(schema.text)})")
    data, text = recipe_generator.data_config(schema, derived), recipe_generator.text_columns(schema)
    size = recipe_generator.measure_size(data, text)
    typed = "llmrec init " + " ".join(path.name for path in files)
    write_text(out, recipe_generator.recipe_text(data, text, size, out, typed))
    load(out)  # the written recipe must be valid
    if as_json:
        say({"recipe": str(out), "why": schema.why, "bad_rows": len(size.bad)})
        return
    for line in schema.why:
        typer.echo(f"  {plain(line)}")
    typer.echo(
        f"  {size.users} users, {size.items} items, {size.events} interactions; "
        f"{len(size.bad)} row(s) do not parse, {size.textless} item(s) have no text"
    )
    if size.bad or size.textless:
        typer.echo(f"  See each of them: llmrec data check {plain(' '.join(map(str, files)))}")
    typer.echo(f"\nWritten: {plain(out)}. Check it, then type:  llmrec run {plain(out)} --tiny")


def _check_out(out: Path, files: list[Path], force: bool, quiet: bool) -> None:
    """Refuse to overwrite a recipe without consent, or to overwrite one of the data files."""
    with explain_disk(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.exists() and not out.is_file():
            raise RecipeError(f"{out} is not a regular file. Choose another path with --out FILE.")
        if not out.exists():
            return
    if any(file.exists() and file.samefile(out) for file in files):
        raise RecipeError(f"{out} is one of the data files. Choose another path with --out FILE.")
    if not force and (quiet or not typer.confirm(f"{plain(out)} exists. Overwrite it?", err=True)):
        raise RecipeError(f"{out} exists. Choose another path with --out FILE, or overwrite it with --force.")


def _ask(question: str, default: str, choices: list[str]) -> str:
    typer.echo(plain(question), err=True)
    for number, answer in enumerate(choices, 1):
        typer.echo(f"  {number}  {plain(answer)}", err=True)
    chosen = 0
    while not 1 <= chosen <= len(choices):
        chosen = typer.prompt("Number", default=choices.index(default) + 1, type=int, err=True)
    return choices[chosen - 1]
