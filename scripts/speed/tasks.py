"""Examples of LC-Rec's mixture on Amazon Beauty, rendered and tokenized, beside LC-Rec's own construction of them.

python scripts/speed/tasks.py LCREC         → results/bench-tasks.json

LCREC is a checkout of zhengbw0324/LC-Rec.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import typer
from transformers import PreTrainedTokenizerBase

from llmrec.contracts import Sequences
from llmrec.data.dataset import Dataset
from llmrec.files import hash_json
from llmrec.indexing.catalogue import Catalogue
from llmrec.items import read_texts
from llmrec.model.base import load_base_tokenizer
from llmrec.model.vocabulary import add_tokens
from llmrec.recipe import Oracle, Recipe, Tasks
from llmrec.results.record import write_result
from llmrec.run.execute import run
from llmrec.run.layout import RunFolder
from llmrec.tasks import examples
from llmrec.tasks.inputs import TaskInputs
from llmrec.tasks.llm_annotations import add_annotations
from llmrec.train.encode import encode
from shared import RESULTS, command_line, ratio, take_turns, tell
from tasks_peer import peer_of

BASE = "embedded:smollm2-135m-instruct"
HISTORY = 20
BEAUTY = {
    "data": {"source": "amazon-beauty-2014"},
    "items": {"text": ["title", "brand", "category"], "encoder": "hashing", "missing_text": "item-id"},
    "indexing": {"levels": 3, "width": 256},
}


def main(
    peer: Path = typer.Argument(help="a checkout of LC-Rec"),
    users: int = typer.Option(2000, help="the first so many; each side also has every item of the catalogue, twice"),
    rounds: int = typer.Option(3, help="of taking turns"),
    out: Path = typer.Option(RESULTS, help="folder for the JSON file"),
    work: Path = typer.Option(Path("runs/.bench-tasks"), help="folder for the prepared run, kept for the next time"),
) -> None:
    """Seconds an example, rendered and tokenized: ours and LC-Rec's take turns over the same users and items."""
    made = RunFolder(run(Recipe.model_validate(BEAUTY), work / "beauty", until="catalogue"))
    source, held_out, tasks = _subject(made, users)
    tokenizer = load_base_tokenizer(BASE)
    tokenizer.chat_template = None  # LC-Rec has a plain frame of its own
    tokenizer.model_max_length = 2048  # its default
    add_tokens(tokenizer, Catalogue.load(made.catalogue).tokens)
    sizes: dict[str, tuple[int, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        other = peer_of(peer, source, held_out, Path(folder), HISTORY, tasks.max_examples["fused"])

        def note(name: str, call: Callable[[], tuple[int, int]]) -> None:
            sizes[name] = call()
            tell(f"{name}: {sizes[name][0]} examples, {sizes[name][1]} tokens")

        contenders = {
            "LC-Rec": lambda: note("LC-Rec", lambda: other.construct(tokenizer)),
            "llmrec": lambda: note("llmrec", lambda: construct(tasks, source, tokenizer)),
        }
        seconds = take_turns(contenders, rounds, warm_up=0)
    each = {name: [second / sizes[name][0] for second in found] for name, found in seconds.items()}
    figures = {
        "times as fast per example": ratio(each["LC-Rec"], each["llmrec"]),
        "times as fast per token": ratio(
            [second / sizes["LC-Rec"][1] for second in seconds["LC-Rec"]],
            [second / sizes["llmrec"][1] for second in seconds["llmrec"]],
        ),
        "microseconds per example": {n: [round(1e6 * second, 1) for second in found] for n, found in each.items()},
        "examples": {name: size[0] for name, size in sizes.items()},
        "tokens": {name: size[1] for name, size in sizes.items()},
    }
    path = out / "bench-tasks.json"
    about = {"users": users, "items": source.n_items, "tokenizer": BASE, "tasks": tasks.model_dump(mode="json")}
    command = f"python scripts/speed/tasks.py LCREC --users {users} --rounds {rounds}"
    write_result(path, command, figures, recipe=hash_json(BEAUTY), seed=0, **about)
    print(path)


def construct(tasks: Tasks, source: TaskInputs, tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    """Every example of a mixture, written, read back and encoded as for training.

    Returns:
        Examples, and tokens.
    """
    with tempfile.TemporaryDirectory() as folder:
        examples.make(tasks, source, 0, Path(folder))
        sizes = [
            (len(block), len(block.tokens)) for block in encode(examples.stream_batches(Path(folder)), tokenizer, 2048)
        ]
    return sum(count for count, _ in sizes), sum(tokens for _, tokens in sizes)


def _subject(run: RunFolder, users: int) -> tuple[TaskInputs, np.ndarray, Tasks]:
    """Source of the first users, their last two items, and the mixture as LC-Rec counts it."""
    dataset, catalogue = Dataset.load(run.data), Catalogue.load(run.catalogue)
    whole = TaskInputs.load(dataset, catalogue, read_texts(run.items, dataset.n_items))
    kept = [row for row, length in enumerate(whole.train.lengths[: 2 * users].tolist()) if length >= 2][:users]
    train = Sequences.of([whole.train[row] for row in kept])
    source = replace(whole, train=train, users=whole.users.take(pa.array(kept)))
    positions = int((train.lengths - 1).sum())
    tasks = Tasks(
        mixture="lc-rec",
        history=HISTORY,
        loss_on="target",
        positions="all",
        max_examples={"fused": min(20_000, positions), "item_search": len(kept)},  # LC-Rec: 20,000 sampled; one a user
        oracle=Oracle(),
    )
    held_out = np.array([dataset.histories[row][-2:] for row in kept])
    return add_annotations(source, catalogue.items, tasks), held_out, tasks


if __name__ == "__main__":
    command_line(main)
