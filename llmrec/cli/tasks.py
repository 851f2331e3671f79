"""`llmrec tasks show`: prompts, answers and tokens of training examples, exactly as the model gets them."""

from __future__ import annotations

import difflib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.rule import Rule
from rich.text import Text

from llmrec import resources
from llmrec.cli.arguments import AS_JSON
from llmrec.cli.screen import plain, say, screen
from llmrec.errors import RequestError

if TYPE_CHECKING:
    import pyarrow as pa
    from transformers import PreTrainedTokenizerBase

    from llmrec.indexing.catalogue import Catalogue
    from llmrec.recipe import Model, Recipe
    from llmrec.run.layout import RunFolder

app = typer.Typer(no_args_is_help=True, context_settings={"help_option_names": ["-h", "--help"]})
_COLOURS = {"history": "cyan", "title": "cyan", "item": "magenta", "candidate": "yellow"}


@app.command()
def show(
    run: str = typer.Argument(help="a recipe, or a run folder", metavar="RECIPE_OR_RUN"),
    overrides: list[str] = typer.Argument(
        None, help="changes to the recipe, such as `tasks.mixture=lc-rec`", metavar="[KEY=VALUE]..."
    ),
    task: str = typer.Option(None, help="only this task; default: all tasks"),
    user: str = typer.Option(None, help="only examples of this user"),
    item: str = typer.Option(None, help="only examples of this item"),
    count: int = typer.Option(1, min=1, help="number of examples per task"),
    tiny: bool = typer.Option(False, "--tiny", help="at most 200 users and a very small model"),
    as_json: bool = AS_JSON,
) -> None:
    """Show training examples. Green: tokens to predict; cyan: history; dim: chat template of the base model."""
    from llmrec.indexing.catalogue import Catalogue
    from llmrec.tasks import examples

    recipe, folder = _prepared(run, overrides or [], tiny)
    table, catalogue = examples.load(folder.tasks), Catalogue.load(folder.catalogue)
    chosen = _chosen(table, {"task": task, "user_id": user, "item_id": item}, count)
    for example in _explained(chosen, _tokenizer(recipe.model, catalogue, folder)):
        say(example) if as_json else _print(example)


def _prepared(name: str, overrides: list[str], tiny: bool) -> tuple[Recipe, RunFolder]:
    """Return the recipe and a run folder with its examples; those of a recipe are made below runs/.tasks."""
    from llmrec.recipe_file import load
    from llmrec.run import execute
    from llmrec.run.layout import RunFolder
    from llmrec.run.plan import open_run
    from llmrec.stage_record import is_stage

    run = RunFolder(Path(name))
    if is_stage(run.tasks) and not overrides and not tiny:
        run, recipe = open_run(run.path, "tasks")
        return recipe, run
    path = run.recipe if run.is_run() else resources.recipe_path(name)
    recipe = load(path, overrides, tiny)
    kept = (run.path.name if run.is_run() else path.stem) + ("-tiny" if tiny else "")
    return recipe, RunFolder(execute.run(recipe, Path("runs") / ".tasks" / kept, until="tasks"))


def _chosen(table: pa.Table, filters: dict[str, str | None], count: int) -> pa.Table:
    """Select the first examples of each task that match; RequestError if there are none."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for name, value in filters.items():
        if value is not None:
            matching = table.filter(pc.equal(table[name], value))
            if not matching.num_rows:
                raise RequestError(f"there is no example whose {name} is '{value}'. {_near(table, name, value)}")
            table = matching
    tasks = table["task"].unique().to_pylist()
    return pa.concat_tables([table.filter(pc.equal(table["task"], task)).slice(0, count) for task in tasks])


def _near(table: pa.Table, name: str, value: str) -> str:
    from llmrec.recipe.tasks import TASKS

    known = [value for value in table[name].unique().to_pylist() if value]
    if name == "task":
        close = difflib.get_close_matches(value, TASKS, 1, 0.5)
        hint = f"Did you mean '{close[0]}'? " if close else ""
        return f"{hint}There are: {', '.join(known)}. Others need a weight, such as tasks.rerank=1"
    near = difflib.get_close_matches(value, known[:100_000], 3, 0.5) or known[:3]
    return f"There are {len(known)} others, such as {', '.join(near)}."


def _tokenizer(model: Model, catalogue: Catalogue, run: RunFolder) -> PreTrainedTokenizerBase:
    """Return the tokenizer of training: that of the trained model, or that of the base with the item tokens."""
    from llmrec.model.base import load_base_tokenizer, tiny_base
    from llmrec.model.loading import tokenizer_from
    from llmrec.model.nano import train_tokenizer
    from llmrec.model.vocabulary import add_tokens
    from llmrec.run.layout import RunFolder, model_of
    from llmrec.train.initial_model import vocabulary_texts

    before = run.trained or ([RunFolder(Path(model.init_from)).last_trained] if model.init_from else [])
    if before:
        return tokenizer_from(model_of(before[-1]))
    with tempfile.TemporaryDirectory() as work:
        if model.base == "nano":
            train_tokenizer(vocabulary_texts(run.tasks), model.vocabulary, Path(work))
            tokenizer = tokenizer_from(Path(work))
        elif model.tiny:
            tokenizer = tiny_base(model.base, vocabulary_texts(run.tasks), Path(work) / "tokenizer")[1]
        else:
            tokenizer = load_base_tokenizer(model.base)
    add_tokens(tokenizer, catalogue.tokens)
    return tokenizer


def _explained(table: pa.Table, tokenizer: PreTrainedTokenizerBase) -> list[dict[str, Any]]:
    """Add to each example the text that the model reads and its tokens, as training encodes them."""
    from llmrec.model.prompting import format_prompt
    from llmrec.train.encode import encode_examples

    explained = []
    for row, encoded in zip(table.to_pylist(), encode_examples(table, tokenizer, 1 << 20), strict=True):
        text, start = format_prompt(tokenizer, row["prompt"])
        pairs = zip(encoded.tokens.tolist(), encoded.supervised.tolist(), strict=True)
        tokens = [{"id": token, "text": _text(tokenizer, token), "supervised": mark} for token, mark in pairs]
        whole = text + row["answer"] + (tokenizer.eos_token or "")
        explained.append(row | {"text": whole, "starts": start, "answers": len(text), "tokens": tokens})
    return explained


def _text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """Decode one token; keep the leading space, which a SentencePiece tokenizer would remove."""
    piece = str(tokenizer.convert_ids_to_tokens(token))
    return piece.replace("\u2581", " ") if "\u2581" in piece else str(tokenizer.decode([token]))


def _shown(text: str) -> str:
    """Replace control characters except line ends, one by one, so that positions stay the same."""
    return "".join(char if char == "\n" or plain(char) == char else "\ufffd" for char in text)


def _print(example: dict[str, Any]) -> None:
    about = [f"{name} {example[name]}" for name in ("user_id", "item_id", "label") if example[name] not in ("", None)]
    screen.print(Rule(plain(f"{example['task']}   {'   '.join(about)}"), align="left"))
    text, start = Text(_shown(example["text"]), style="dim"), example["starts"]
    text.stylize("not dim", start, start + len(example["prompt"]))
    for slot in example["slots"]:
        text.stylize(_COLOURS.get(slot["kind"], "blue"), start + slot["start"], start + slot["stop"])
    text.stylize("not dim bold green", example["answers"])
    screen.print(text, soft_wrap=True)
    tokens = Text()
    for token in example["tokens"]:
        visible = plain(token["text"].replace("\n", "⏎").replace(" ", "␣")) or f"#{token['id']}"
        tokens.append(visible, "bold green" if token["supervised"] else "dim").append("│", "dim")
    screen.print(tokens, soft_wrap=True)
    predicted = sum(token["supervised"] for token in example["tokens"])
    screen.print(f"{len(example['tokens'])} tokens, {predicted} to predict; weight {example['weight']:g}", style="dim")
    if example["candidates"]:
        screen.print(f"candidates: {', '.join(example['candidates'])}", style="dim", soft_wrap=True)
