"""The command line `llmrec`: commands, and how errors end it."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import NoReturn

import typer
from rich.text import Text

from llmrec import __version__
from llmrec.cli import data, index, interrupt, tasks
from llmrec.cli.arguments import AS_JSON, RUN, parsed_path
from llmrec.cli.chat import chat
from llmrec.cli.judge import compare, evaluate, report, reproduce
from llmrec.cli.machine import doctor, recipe_schema, setup
from llmrec.cli.rate import rate
from llmrec.cli.recommend import recommend
from llmrec.cli.run import run, train
from llmrec.cli.screen import console, say, screen
from llmrec.cli.serve import serve
from llmrec.errors import LlmrecError
from llmrec.files import unusable

INTERRUPTED = 130  # exit code of typer after Ctrl-C

app = typer.Typer(
    help="Fine-tune language models for recommendation; every recommended item is from your catalogue.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def export(
    run: Path = RUN,
    folder: Path = typer.Argument(parser=parsed_path, metavar="FOLDER", help="a new or empty folder"),
    as_json: bool = AS_JSON,
) -> None:
    """Export the recommender of a run as one folder to share: Hugging Face model, catalogue, model card."""
    from llmrec.export import export as write_export

    written = write_export(run, folder)
    if as_json:
        say({"export": str(written)})
    else:
        screen.print(f"{written}\nRead its README.md before you share it: it lists the licences.")


JUDGING = (evaluate, compare, reproduce, rate, report)
for verb in (data.init, run, train, setup, recommend, serve, chat, *JUDGING, export, doctor, recipe_schema):
    app.command()(verb)
app.add_typer(data.app, name="data", help="List and download data sets, check your own files, describe data.")
app.add_typer(index.app, name="index", help="Inspect the item codes of a run, assign codes to new items.")
app.add_typer(tasks.app, name="tasks", help="Show training examples: prompts, answers, tokens.")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    """Options of all commands."""


def _end(kind: str, message: str) -> NoReturn:
    """Print a known error and exit with code 2."""
    console.print(Text(f"{kind}:", "bold red"), message)
    sys.exit(2)


def main() -> None:
    """Run a command. A known error prints its message and exits with code 2, Ctrl-C with 130."""
    # Idle OpenMP threads that spin make small models many times slower; must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    # Progress bars and notes of other packages would break ours; set before transformers is imported.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers' Loading weights, Writing model shards
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # suggests a CPU kernel that llmrec does not use
    interrupt.watch()
    warnings.showwarning = lambda message, *rest, **more: console.print(Text("note:", "yellow"), str(message))
    try:
        app()
    except LlmrecError as error:
        _end(type(error).__name__, str(error))
    except OSError as error:
        if (message := unusable(error)) is None:
            raise
        _end("RunError", message)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            console.print("\nStopped. Repeat the command to resume.")
        raise


if __name__ == "__main__":
    main()
