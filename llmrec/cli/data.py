"""`llmrec data` (data sets that there are, files checked, counts) and `llmrec init` (a recipe for files)."""

from __future__ import annotations

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.text import Text

from llmrec import resources
from llmrec.cli.arguments import AS_JSON, current_run, parsed_path
from llmrec.cli.screen import console, plain, say, screen, stages
from llmrec.errors import RecipeError
from llmrec.files import explain_disk, write_text

if TYPE_CHECKING:
    from llmrec.data.validate import ValidationReport

app = typer.Typer(no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})
_FACTS = ("about", "size", "licence", "page")


@app.command("list")
def list_sources(as_json: bool = AS_JSON) -> None:
    """Data sets that `data.source` can name: whether they are here, how large, on what terms, from where."""
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
    name: str = typer.Argument(help="a set that `llmrec data list` names"),
    category: str = typer.Option(None, help="Amazon: a category as its files name it, such as Beauty"),
    mirror: str = typer.Option(None, help="an address below which the same files lie"),
) -> None:
    """Fetch a data set from its makers into the cache; a fetch that was cut goes on where it was."""
    from llmrec.data.fetch import REGISTRY, fetch

    if name in REGISTRY:
        console.print(f"{REGISTRY[name].about}. {REGISTRY[name].size}.", soft_wrap=True)
        console.print(f"Terms: {REGISTRY[name].licence}. See {REGISTRY[name].page}", soft_wrap=True)
    with stages() as tell:
        folder = fetch(name, category, mirror, tell)
    screen.print(str(folder), soft_wrap=True)


@app.command("check")
def check_files(
    files: list[Path] = typer.Argument(help="the interactions and the items, or a recipe that names them"),
    as_json: bool = AS_JSON,
) -> None:
    """Look for problems in files, each with file and line. Exit code 1 where there are any."""
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
                f"{files[0].name} reads {recipe.data.source}, not files of yours. See: llmrec data show {files[0]}"
            )
        return check(recipe.data, recipe.items.text)
    found = infer_schema(files)
    with tempfile.TemporaryDirectory() as folder:
        derived = Path(folder) / "items.csv" if found.one_file else None
        if derived:
            recipe_generator.derive_items(found, derived)
        checked = check(recipe_generator.data_config(found, derived), recipe_generator.text_columns(found))
    checked.notes[:0] = found.why
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
    """Counts, density, lengths of histories, time and text of a run's data, or of what a recipe reads."""
    from llmrec.data import validate
    from llmrec.data.dataset import Dataset
    from llmrec.recipe_file import load
    from llmrec.run.layout import RunFolder

    if RunFolder(Path(run)).is_run():
        folder, recipe = current_run(Path(run), "data")
        dataset = Dataset.load(folder.data, texts=False)
        unit = str(dataset.facts.get("timestamp unit", "unknown"))
    else:
        recipe = load(resources.recipe_path(run))
        dataset, unit = validate.load_cleaned(recipe.data, recipe.seed)
    found, tail = validate.statistics(dataset, recipe.items.text, unit), validate.long_tail(dataset)
    if as_json:
        say(found | {"interactions by tenth of the items": tail})
        return
    for name, value in found.items():
        typer.echo(f"{name:<26} {plain(value)}")
    typer.echo("\nInteractions by tenth of the items, most popular first:")
    for place, share in enumerate(tail, 1):
        typer.echo(f"{place * 10:>4} %  {'█' * round(60 * share) or '▏'} {share:.1%}")


def init(
    files: list[Path] = typer.Argument(help="the interactions and the items: CSV, TSV, JSONL or Parquet, also .gz"),
    out: Path = typer.Option("recipe.yaml", parser=parsed_path, metavar="PATH", help="where the recipe goes"),
    yes: bool = typer.Option(False, "--yes", "-y", help="ask nothing, take the likeliest answer"),
    force: bool = typer.Option(False, "--force", help="write over a recipe and items that are there"),
    as_json: bool = typer.Option(False, "--json", help="print what was decided as JSON; asks nothing"),
) -> None:
    """Look at your files and write a recipe for them, with the reason for every choice."""
    from llmrec.data import recipe_generator
    from llmrec.data.schema_inference import infer_schema
    from llmrec.recipe_file import load

    quiet = yes or as_json
    _check_out(out, files, force, quiet)
    found = infer_schema(files, (lambda question, best, answers: best) if quiet else _ask)
    derived = out.parent / f"{found.log.path.name.split('.')[0]}-items.csv" if found.one_file else None
    if derived:
        recipe_generator.derive_items(found, derived, force)
        found.why.append(f"items: {derived.name} is written, one row an item ({', '.join(found.text)})")
    data, text = recipe_generator.data_config(found, derived), recipe_generator.text_columns(found)
    size = recipe_generator.measure_size(data, text)
    typed = "llmrec init " + " ".join(path.name for path in files)
    write_text(out, recipe_generator.recipe_text(data, text, size, out, typed))
    load(out)  # what is written must be accepted
    if as_json:
        say({"recipe": str(out), "why": found.why, "bad_rows": len(size.bad)})
        return
    for line in found.why:
        typer.echo(f"  {plain(line)}")
    typer.echo(
        f"  {size.users} users, {size.items} items, {size.events} interactions; "
        f"{len(size.bad)} row(s) do not parse, {size.textless} item(s) have no text"
    )
    if size.bad or size.textless:
        typer.echo(f"  The rows, one by one: llmrec data check {plain(' '.join(map(str, files)))}")
    typer.echo(f"\nWritten: {plain(out)}. Read it; then:  llmrec run {plain(out)} --tiny")


def _check_out(out: Path, files: list[Path], force: bool, quiet: bool) -> None:
    """Refuse to write over a recipe without consent, and over the files that it is about in any case."""
    with explain_disk(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.exists() and not out.is_file():
            raise RecipeError(f"{out} is no regular file. Write elsewhere with --out FILE.")
        if not out.exists():
            return
    if any(file.exists() and file.samefile(out) for file in files):
        raise RecipeError(f"{out} is one of the files that the recipe is about. Write elsewhere with --out FILE.")
    if not force and (quiet or not typer.confirm(f"{plain(out)} is there already. Write over it?", err=True)):
        raise RecipeError(f"{out} is there already. Write elsewhere with --out FILE, or over it with --force.")


def _ask(question: str, best: str, answers: list[str]) -> str:
    typer.echo(plain(question), err=True)
    for number, answer in enumerate(answers, 1):
        typer.echo(f"  {number}  {plain(answer)}", err=True)
    chosen = 0
    while not 1 <= chosen <= len(answers):
        chosen = typer.prompt("Number", default=answers.index(best) + 1, type=int, err=True)
    return answers[chosen - 1]
