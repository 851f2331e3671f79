"""Look at your files and write a recipe for them, with the reason for every choice."""

from __future__ import annotations

from pathlib import Path

import typer

from llmrec.cli.paths import named
from llmrec.cli.screen import plain, say


def command(
    files: list[Path] = typer.Argument(help="the interactions and the items: CSV, TSV, JSONL or Parquet, also .gz"),
    out: Path = typer.Option("recipe.yaml", parser=named, metavar="PATH", help="where the recipe goes"),
    yes: bool = typer.Option(False, "--yes", "-y", help="ask nothing, take the likeliest answer"),
    force: bool = typer.Option(False, "--force", help="write over a recipe and items that are there"),
    as_json: bool = typer.Option(False, "--json", help="print what was decided as JSON; asks nothing"),
) -> None:
    from llmrec.data import starter
    from llmrec.data.look import look
    from llmrec.files import write_text
    from llmrec.recipe_file import load

    quiet = yes or as_json
    _spare(out, files, force, quiet)
    found = look(files, _first if quiet else _ask)
    derived = _derived(found.log.path, out) if found.one_file else None
    if derived:
        starter.derive_items(found, derived, force)
        found.why.append(f"items: {derived.name} is written, one row an item ({', '.join(found.text)})")
    data = starter.data_part(found, derived)
    text = starter.text_as_read(found)
    size = starter.measure(data, text)
    typed = "llmrec init " + " ".join(path.name for path in files)
    write_text(out, starter.recipe_text(data, text, size, out, typed))
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
        names = " ".join(str(path) for path in files)
        typer.echo(f"  The rows, one by one: llmrec data check {plain(names)}")
    typer.echo(f"\nWritten: {plain(out)}. Read it; then:  llmrec run {plain(out)} --tiny")


def _spare(out: Path, files: list[Path], force: bool, quiet: bool) -> None:
    """Refuse to write over a recipe without consent, and over the files that it is about in any case."""
    from llmrec.errors import RecipeError
    from llmrec.files import explain_disk

    with explain_disk(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        if out.exists() and not out.is_file():
            raise RecipeError(f"{out} is no regular file. Write elsewhere with --out FILE.")
        if not out.exists():
            return
    if any(file.exists() and file.samefile(out) for file in files):
        raise RecipeError(f"{out} is one of the files that the recipe is about. Write elsewhere with --out FILE.")
    if force:
        return
    if quiet or not typer.confirm(f"{plain(out)} is there already. Write over it?", err=True):
        raise RecipeError(f"{out} is there already. Write elsewhere with --out FILE, or over it with --force.")


def _derived(log: Path, out: Path) -> Path:
    """Where the items go that a log carries: beside the recipe."""
    return out.parent / f"{log.name.split('.')[0]}-items.csv"


def _first(question: str, best: str, answers: list[str]) -> str:
    return best


def _ask(question: str, best: str, answers: list[str]) -> str:
    typer.echo(plain(question), err=True)
    for number, answer in enumerate(answers, 1):
        typer.echo(f"  {number}  {plain(answer)}", err=True)
    chosen = 0
    while not 1 <= chosen <= len(answers):
        chosen = typer.prompt("Number", default=answers.index(best) + 1, type=int, err=True)
    return answers[chosen - 1]
