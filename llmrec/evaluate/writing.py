"""What a model writes: explanations, summaries, headlines and ratings of held-out reviews, beside one answer for all.

P5's text tasks. Prompts are about events of the test part, in a wording that the task was trained with; an answer is
generated freely and greedily. Beside it stands the commonest answer of the training part (for a rating, the mean): a
model that has read nothing of the prompt can do as well as that.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmrec.files import write_json
from llmrec.metrics.predictions import bleu, mae, rmse, rouge
from llmrec.model.prompting import encode
from llmrec.recipe import Tasks
from llmrec.recipe.tasks import Wordings
from llmrec.tasks.maker import Maker
from llmrec.tasks.source import Source

_NUMBER = re.compile(r"\d+(?:[.,]\d+)?")
ROOM = 64  # tokens that an answer may have


@dataclass(frozen=True)
class Asked:
    """What is asked of a model.

    Attributes:
        tasks: of P5's text tasks.
        most: events asked about for each, a seeded sample.
        data: name of the source, for the protocol.
        seed: of the sample.
        target: the part whose events are asked about.
        wording: "trained" or "held-out".
        wordings: for "trained": 1, or "shortest" where the model was trained with the shortest alone.
    """

    tasks: Sequence[str]
    most: int
    data: str
    seed: int
    target: str = "test"
    wording: str = "trained"
    wordings: Wordings = 1

    @property
    def protocol(self) -> dict[str, Any]:
        """What moves the figures beside the model."""
        caveat = ": its words are made up, so the figures say that the path works and no more"
        return {
            "data": self.data + (caveat if self.data == "generated world" else ""),
            "target": self.target,
            "cases at most": self.most,
            "wording": self.wording,
            "decoding": f"greedy, {ROOM} tokens at most",
            "seed": self.seed,
        }


def evaluate_writing(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sources: tuple[Source, Source],
    asked: Asked,
    folder: Path,
    progress: Callable[[float], None] = lambda done: None,
) -> dict[str, Any]:
    """Ask for each task about held-out events, and measure the answers; writes `writing.json` and `writing.parquet`.

    Args:
        model: trained.
        tokenizer: with its item tokens.
        sources: the training part, and the test part with its own events.
        asked: which tasks, and about how many events.
        folder: to write into.
        progress: told the share done, 0 to 1.

    Returns:
        protocol; task → cases, and system → figures. A task that no held-out event has words for has 0 cases.

    Raises:
        LlmrecError: a package that measures text is not installed.
    """
    result: dict[str, Any] = {"protocol": asked.protocol, "tasks": {}}
    rows: list[pa.Table] = []
    caps: tuple[dict[str, int], dict[str, int]] = ({}, dict.fromkeys(asked.tasks, asked.most))
    for number, task in enumerate(asked.tasks):
        before, cases = (_examples(task, source, cap, asked) for source, cap in zip(sources, caps, strict=True))
        result["tasks"][task] = {"cases": 0}
        if cases.num_rows:
            wrote = _write(model, tokenizer, cases["prompt"].to_pylist())
            result["tasks"][task] = _measured(task, wrote, cases, before)
            kept = cases.select(["task", "user_id", "item_id", "prompt", "answer"])
            rows.append(kept.append_column("wrote", pa.array(wrote, pa.string())))
        progress((number + 1) / len(asked.tasks))
    if rows:
        pq.write_table(pa.concat_tables(rows), folder / "writing.parquet")
    write_json(folder / "writing.json", result)
    return result


def _examples(task: str, source: Source, caps: dict[str, int], asked: Asked) -> pa.Table:
    """Examples of a task in one wording, one an event, a sample of them where the task is capped."""
    tasks = Tasks.model_validate({"mixture": "none", "caps": caps, task: 1.0, "wordings": asked.wordings})
    maker = Maker(tasks, source, asked.seed, held_out=asked.wording == "held-out")
    return pa.concat_tables([maker.table(shard)[0] for shard in maker.shards()])


def _write(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str], batch: int = 32
) -> list[str]:
    """What the model goes on with after each prompt, until it ends."""
    encoded = [encode(tokenizer, prompt) for prompt in prompts]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    wrote = [""] * len(prompts)
    order = np.argsort([len(ids) for ids in encoded], kind="stable").tolist()
    for rows in (order[start : start + batch] for start in range(0, len(order), batch)):
        width = max(len(encoded[row]) for row in rows)
        ids = torch.tensor([[pad] * (width - len(encoded[row])) + encoded[row] for row in rows], device=model.device)
        mask = torch.tensor([[0] * (width - len(encoded[row])) + [1] * len(encoded[row]) for row in rows])
        with torch.inference_mode():
            out = model.generate(  # type: ignore[operator]  # transformers wraps it so that mypy sees a tensor
                ids,
                attention_mask=mask.to(model.device),
                max_new_tokens=ROOM,
                do_sample=False,
                pad_token_id=pad,
                eos_token_id=tokenizer.eos_token_id,
            )
        for row, text in zip(rows, tokenizer.batch_decode(out[:, width:], skip_special_tokens=True), strict=True):
            wrote[row] = text.strip()
    return wrote


def _measured(task: str, wrote: list[str], asked: pa.Table, before: pa.Table) -> dict[str, Any]:
    """Figures of the model and of one answer for all."""
    meant = [answer.strip() for answer in asked["answer"].to_pylist()]
    known = [answer.strip() for answer in before["answer"].to_pylist()]
    if task in ("rating", "review_rating"):
        stars, mean = np.array([float(answer) for answer in meant]), float(np.mean([float(answer) for answer in known]))
        said = [read_number(text) for text in wrote]
        read = np.array([mean if number is None else number for number in said])
        systems = {
            name: _errors(values, stars) for name, values in (("model", read), ("mean", np.full(len(read), mean)))
        }
        return {"cases": len(meant), "read as a number": sum(number is not None for number in said), "systems": systems}
    commonest = Counter(known).most_common(1)[0][0] if known else ""
    systems = {
        name: _likeness(texts, meant) for name, texts in (("model", wrote), ("commonest", [commonest] * len(meant)))
    }
    return {"cases": len(meant), "systems": systems}


def read_number(text: str) -> float | None:
    """The first number in an answer; None without one."""
    found = _NUMBER.search(text)
    return float(found.group().replace(",", ".")) if found else None


def _errors(said: np.ndarray, stars: np.ndarray) -> dict[str, float]:
    return {"rmse": rmse(said, stars), "mae": mae(said, stars)}


def _likeness(texts: list[str], meant: list[str]) -> dict[str, float]:
    same = np.mean([text == reference for text, reference in zip(texts, meant, strict=True)])
    rouges = {name: float(values.mean()) for name, values in rouge(texts, meant).items()}
    return {"bleu": bleu(texts, meant), **rouges, "the very words": float(same)}
