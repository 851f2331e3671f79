"""`llmrec`: the verbs, and what happens to an error that we know."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import NoReturn

import typer
from rich.text import Text

from llmrec import __version__
from llmrec.cli import (
    chat,
    compare,
    data,
    doctor,
    evaluate,
    export,
    index,
    init,
    interrupt,
    rate,
    recipe_schema,
    recommend,
    report,
    reproduce,
    run,
    serve,
    setup,
    tasks,
    train,
)
from llmrec.cli.screen import console
from llmrec.errors import LlmrecError
from llmrec.files import unusable

INTERRUPTED = 130  # what typer makes of Ctrl-C

app = typer.Typer(
    help="Fine-tune language models for recommendation: every recommended item is a real one.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_show_locals=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
JUDGING = (evaluate, compare, reproduce, rate, report)
for verb in (init, run, train, setup, recommend, serve, chat, *JUDGING, export, doctor, recipe_schema):
    app.command(name=verb.__name__.rsplit(".", 1)[-1].replace("_", "-"), help=verb.__doc__)(verb.command)
app.add_typer(data.app, name="data", help=data.__doc__)
app.add_typer(index.app, name="index", help=index.__doc__)
app.add_typer(tasks.app, name="tasks", help=tasks.__doc__)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Show the version."),
) -> None:
    """Options of every verb."""


def _end(kind: str, message: str) -> NoReturn:
    """End with a known error."""
    console.print(Text(f"{kind}:", "bold red"), message)
    sys.exit(2)


def _quieten() -> None:
    """Turn off bars and notes of other packages, which would tear ours apart; before transformers is imported."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers' Loading weights, Writing model shards
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # offers a kernel for CPUs that nothing of ours uses


def main() -> None:
    """Run a command; a known error ends in its message and exit code 2, Ctrl-C in 130."""
    # Idle OpenMP threads that spin make small models many times slower; must be set before torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    _quieten()
    interrupt.watch()
    warnings.showwarning = lambda message, *rest, **more: console.print(Text("note:", "yellow"), str(message))
    try:
        app()
    except LlmrecError as error:
        _end(type(error).__name__, str(error))
    except OSError as error:
        words = unusable(error)
        if words is None:
            raise
        _end("RunError", words)
    except SystemExit as stop:
        if stop.code == INTERRUPTED:
            console.print("\nStopped. Nothing is lost: the same command goes on where it was.")
        raise


if __name__ == "__main__":
    main()
