"""Figures of tasks: LC-Rec's mixture on Amazon Beauty beside LC-Rec's own construction; memory of a large log."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedTokenizerBase

from llmrec import pipeline
from llmrec.bench.tasks_peer import peer_of
from llmrec.bench.timing import ratio, take_turns
from llmrec.contracts import Sequences
from llmrec.data.dataset import Dataset
from llmrec.errors import RunError
from llmrec.files import hash_json, read_json, write_json
from llmrec.indexing.catalogue import Catalogue
from llmrec.model.prompting import load_tokenizer
from llmrec.model.vocabulary import add_tokens
from llmrec.recipe import Oracle, Recipe, Tasks
from llmrec.results import write_result
from llmrec.seed import stream
from llmrec.tasks import examples
from llmrec.tasks.source import Source
from llmrec.tasks.wishes import worded
from llmrec.train.encode import encode

Tell = Callable[[str], None]
BASE = "embedded:smollm2-135m-instruct"
HISTORY = 20
BEAUTY = {
    "data": {"source": "amazon-beauty-2014"},
    "items": {"text": ["title", "brand", "category"], "encoder": "hashing", "missing_text": "item-id"},
    "indexing": {"levels": 3, "width": 256},
}


def speed(peer: Path, users: int, rounds: int, out: Path, work: Path, tell: Tell) -> Path:
    """Seconds an example, rendered and tokenized: ours and LC-Rec's take turns over the same users and items.

    Args:
        peer: a checkout of LC-Rec.
        users: the first so many; each side also has every item of the catalogue, twice.
        rounds: of taking turns.
        out: folder of results.
        work: where the run with data and codes is kept.
        tell: told what is going on.

    Returns:
        The result's file.
    """
    run = pipeline.run(Recipe.model_validate(BEAUTY), work / "beauty", until="catalogue")
    source, held_out, tasks = _shared(run, users)
    tokenizer = load_tokenizer(BASE)
    tokenizer.chat_template = None  # LC-Rec has a plain frame of its own
    tokenizer.model_max_length = 2048  # its default
    add_tokens(tokenizer, Catalogue.load(run / "catalogue").tokens)
    sizes: dict[str, tuple[int, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        other = peer_of(peer, source, held_out, Path(folder), HISTORY, tasks.caps["fused"])

        def note(name: str, call: Callable[[], tuple[int, int]]) -> None:
            sizes[name] = call()
            tell(f"{name}: {sizes[name][0]} examples, {sizes[name][1]} tokens")

        contenders = {
            "LC-Rec": lambda: note("LC-Rec", lambda: other.construct(tokenizer)),
            "llmrec": lambda: note("llmrec", lambda: construct(tasks, source, tokenizer)),
        }
        seconds = take_turns(contenders, rounds, warm_up=0)
    each = {name: [second / sizes[name][0] for second in found] for name, found in seconds.items()}
    figures: dict[str, Any] = {
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
    command = f"llmrec bench tasks speed --peer DIR --users {users} --rounds {rounds}"
    write_result(path, command, figures, recipe=hash_json(BEAUTY), seed=0, **about)
    tell(f"{figures['times as fast per example']['median']} times as fast per example")
    return path


def construct(tasks: Tasks, source: Source, tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
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


def _shared(run: Path, users: int) -> tuple[Source, np.ndarray, Tasks]:
    """Source of the first users, their last two items, and the mixture as LC-Rec counts it."""
    dataset, catalogue = Dataset.load(run / "data"), Catalogue.load(run / "catalogue")
    whole = Source.load(dataset, catalogue, read_json(run / "items" / "texts.json"))
    kept = [row for row, length in enumerate(whole.train.lengths[: 2 * users].tolist()) if length >= 2][:users]
    train = Sequences.of([whole.train[row] for row in kept])
    source = replace(whole, train=train, users=whole.users.take(pa.array(kept)))
    positions = int((train.lengths - 1).sum())
    tasks = Tasks(
        mixture="lc-rec",
        history=HISTORY,
        supervise="answer",
        positions="all",
        caps={"fused": min(20_000, positions), "item_search": len(kept)},  # LC-Rec: 20,000 sampled; one a user
        oracle=Oracle(),
    )
    held_out = np.array([dataset.histories[row][-2:] for row in kept])
    return worded(source, catalogue.items, tasks), held_out, tasks


def large(events: int, out: Path, tell: Tell) -> Path:
    """Memory and time of making and streaming the examples of a generated log, in a process of its own.

    Args:
        events: interactions; a tenth as many users, a hundredth as many items.
        out: folder of results.
        tell: told what is going on.

    Returns:
        The result's file.

    Raises:
        RunError: the process failed.
    """
    with tempfile.TemporaryDirectory() as folder:
        generate(events, Path(folder))
        tell(f"a log of {events} interactions is generated")
        command = [sys.executable, "-m", "llmrec.bench.tasks_worker", folder]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RunError(f"making the examples of {events} interactions failed: {done.stderr.strip()[-500:]}")
    figures: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    path = out / "bench-tasks-large.json"
    write_result(
        path, f"llmrec bench tasks large --events {events}", figures, seed=0, mixture="lc-rec, template oracle"
    )
    tell(f"{figures['examples']} examples, at most {figures['peak GiB']} GiB")
    return path


def generate(events: int, folder: Path) -> None:
    """Write data and catalogue of a log of popular and rare items, histories of five to fifteen events.

    Args:
        events: about so many interactions.
        folder: gets data/, catalogue/ and texts.json.
    """
    draw, items = stream(0, "bench", "tasks"), max(100, events // 100)
    lengths = draw.integers(5, 16, max(1, events // 10))
    numbers = (items * draw.random(lengths.sum()) ** 3).astype(np.int64)
    last = np.repeat(np.cumsum(lengths), lengths) - np.arange(lengths.sum())  # 1 for the last event of a user
    names = pa.array([f"item-{number}" for number in range(items)])
    words = ["red", "small", "old", "quick", "round", "blue", "loud", "soft"]
    titles = [f"{words[n % 8]} {words[n // 8 % 8]} thing number {n}" for n in range(items)]
    table = pa.table({"item_id": names, "title": titles, "category": [words[n % 8] for n in range(items)]})
    users = pa.array([f"user-{number}" for number in range(len(lengths))])
    log = {
        "user_id": users.take(pa.array(np.repeat(np.arange(len(lengths)), lengths))),
        "item_id": names.take(pa.array(numbers)),
        "timestamp": pa.array(np.arange(lengths.sum())),
        "split": pa.array(["test", "valid", "train"]).take(pa.array(np.clip(last - 1, 0, 2))),
    }
    for name in ("data", "catalogue"):
        (folder / name).mkdir()
    pq.write_table(pa.table(log), folder / "data" / "interactions.parquet")
    pq.write_table(table, folder / "data" / "items.parquet")
    codes = np.stack([np.arange(items) % 256, np.arange(items) // 256 % 256, np.arange(items) // 65536], 1)
    Catalogue.of(table, codes.astype(np.int32), [256, 256, max(1, items // 65536 + 1)]).save(folder / "catalogue", {})
    write_json(folder / "texts.json", titles)
