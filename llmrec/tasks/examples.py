"""Examples of every task, from the training part of the log and the catalogue: plain text, ready to read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather

from llmrec.contracts import Sequences
from llmrec.errors import DataError
from llmrec.indexing.catalogue import Catalogue
from llmrec.recipe import Tasks
from llmrec.seed import stream
from llmrec.tasks import templates
from llmrec.tasks.templates import Piece, Slot, Template, Wording, fill, neutral


@dataclass(frozen=True)
class Example:
    """One prompt and its answer.

    Attributes:
        prompt, answer: text; the answer follows the prompt with nothing between.
        task: name of the task.
        user_id, item_id: whom and what it is about; user_id is empty where nobody is concerned.
        weight: of its loss.
        supervise: "answer", or "history" to supervise the items in the prompt's history as well.
        slots: where the pieces of the prompt came from.
    """

    prompt: str
    answer: str
    task: str
    user_id: str
    item_id: str
    weight: float
    supervise: str
    slots: list[Slot]


_SLOT = pa.struct([("start", pa.int32()), ("stop", pa.int32()), ("kind", pa.string()), ("item_id", pa.string())])
SCHEMA = pa.schema(
    [(name, pa.string()) for name in ("prompt", "answer", "task", "user_id", "item_id")]
    + [("weight", pa.float32()), ("supervise", pa.string()), ("slots", pa.list_(_SLOT))]
)


def make(
    tasks: Tasks, train: Sequences, user_ids: list[str], catalogue: Catalogue, texts: list[str], seed: int, folder: Path
) -> dict[str, int]:
    """The stage `tasks`: write every example to `examples.arrow`.

    Args:
        tasks: weights and window of the recipe.
        train: the training part of each history; held-out events must not be in it.
        user_ids: (rows of train,) their names.
        catalogue: items and codes.
        texts: (items,) the text of each item.
        seed: of wordings and samples.
        folder: to write into.

    Returns:
        Task → number of examples.

    Raises:
        DataError: no examples at all.
    """
    examples = [
        *next_items(tasks, train, user_ids, catalogue, seed),
        *alignment("item_to_text", tasks.item_to_text, catalogue, texts, seed),
        *alignment("text_to_item", tasks.text_to_item, catalogue, texts, seed),
    ]
    if not examples:
        raise DataError(
            "no training examples: every task has weight 0, or no history has two training events. See `tasks:`."
        )
    table = pa.Table.from_pylist([asdict(example) for example in examples], schema=SCHEMA)
    feather.write_feather(table, str(folder / "examples.arrow"), compression="lz4")
    names, counts = np.unique(table["task"].to_numpy(zero_copy_only=False), return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))


def load(folder: Path) -> pa.Table:
    """The examples of a run's folder `tasks/`, memory-mapped."""
    return feather.read_table(str(folder / "examples.arrow"))


def next_items(
    tasks: Tasks, train: Sequences, user_ids: list[str], catalogue: Catalogue, seed: int
) -> Iterator[Example]:
    """Histories cut into windows; the last item of a window is the answer, the items before it the history."""
    if not tasks.next_item:
        return
    template, draw = templates.load("next_item"), stream(seed, "next_item")
    copies = _copies(len(train), tasks.next_item, draw)
    for row, history in enumerate(train):
        for copy in range(int(copies[row])):
            for window in windows(history, tasks.history, tasks.windows):
                wording = (
                    template.train[int(draw.integers(len(template.train)))]
                    if copy or len(template.train) > 1
                    else template.train[0]
                )
                prompt, slots = next_item_prompt(wording, window[:-1], catalogue)
                item = int(window[-1])
                yield _example(template, wording, prompt, slots, user_ids[row], item, catalogue, "", tasks.supervise)


def next_item_prompt(wording: Wording, history: np.ndarray | list[int], catalogue: Catalogue) -> tuple[str, list[Slot]]:
    """The prompt for what comes after a history of item numbers, oldest first."""
    pieces: list[Piece] = [
        (catalogue.code_texts[int(item)], "history", catalogue.item_ids[int(item)]) for item in history
    ]
    return fill(wording.prompt, {"history": pieces})


def alignment(task: str, weight: float, catalogue: Catalogue, texts: list[str], seed: int) -> Iterator[Example]:
    """Code → text or text → code, `weight` times for every item of the catalogue, wordings in turn."""
    if not weight:
        return
    template, draw = templates.load(task), stream(seed, task)
    copies = _copies(len(texts), weight, draw)
    for item in np.repeat(np.arange(len(texts)), copies).tolist():
        wording = template.train[int(draw.integers(len(template.train)))]
        pieces = _item_pieces(item, catalogue, texts[item])
        prompt, slots = fill(wording.prompt, pieces)
        yield _example(template, wording, prompt, slots, "", item, catalogue, texts[item], "answer")


def windows(history: np.ndarray, size: int, times: int) -> Iterator[np.ndarray]:
    """Cut a history from its end into windows of at most size + 1 events, `times` over with other cuts.

    Every event stands in `times` windows (fewer at the very ends); windows of one event teach nothing and are left out.
    """
    for turn in range(times):
        stop = len(history) - turn * (size + 1) // times
        while stop >= 2:
            yield history[max(0, stop - size - 1) : stop]
            stop -= size + 1


def _item_pieces(item: int, catalogue: Catalogue, text: str) -> dict[str, list[Piece]]:
    item_id = catalogue.item_ids[item]
    return {"item": [(catalogue.code_texts[item], "item", item_id)], "text": [(neutral(text), "text", item_id)]}


def _example(
    template: Template,
    wording: Wording,
    prompt: str,
    slots: list[Slot],
    user_id: str,
    item: int,
    catalogue: Catalogue,
    text: str,
    supervise: str,
) -> Example:
    answer, _ = fill(wording.answer, _item_pieces(item, catalogue, text))
    return Example(prompt, answer, template.task, user_id, catalogue.item_ids[item], 1.0, supervise, slots)


def _copies(rows: int, weight: float, draw: np.random.Generator) -> np.ndarray:
    """How often each row appears: the whole part of the weight, and once more with its fraction as the chance."""
    return int(weight) + (draw.random(rows) < weight - int(weight)).astype(np.int64)
