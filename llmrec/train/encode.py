"""Examples to tokens, with the positions that are supervised."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from llmrec.errors import ModelError
from llmrec.model.prompting import wrap
from llmrec.tasks.shorten import shorten
from llmrec.tasks.tokens import CodedTexts
from llmrec.train.spares import Spares


@dataclass(frozen=True)
class Encoded:
    """One example as tokens.

    Attributes:
        tokens: (length,) int64.
        supervised: (length,) bool, the tokens that the model must predict.
    """

    tokens: np.ndarray
    supervised: np.ndarray


def encode_examples(
    examples: pa.Table, tokenizer: PreTrainedTokenizerBase, window: int, spares: Spares | None = None
) -> list[Encoded]:
    """Tokenize prompt and answer together; answers always count, history items where the example says so.

    Args:
        examples: the table that `tasks.examples.make` wrote.
        tokenizer: with the item tokens, and character offsets.
        window: tokens that the model can hold; a longer example loses the oldest items of its history.
        spares: lends spare tokens to a share of the items; None for no loans.

    Raises:
        ModelError: an example is longer than the window even with one item of its history.
    """
    eos = tokenizer.eos_token or ""
    tokenize = CodedTexts(tokenizer, special=not tokenizer.chat_template)
    out: list[Encoded] = []
    for batch in examples.to_batches(max_chunksize=1024):
        rows = batch.select(["prompt", "answer", "task", "supervise"]).to_pylist()
        slots = batch["slots"].to_pylist() if any(row["supervise"] == "history" for row in rows) else None
        wrapped = [wrap(tokenizer, row["prompt"]) for row in rows]
        texts = [text + row["answer"] + eos for (text, _), row in zip(wrapped, rows, strict=True)]
        for number, (ids, offsets) in enumerate(tokenize(texts)):
            row, (text, shift) = rows[number], wrapped[number]
            pieces = slots[number] if slots else []
            if len(ids) > window:
                whole = row | {"slots": batch["slots"][number].as_py()}
                text, shift, pieces, ids, offsets = _shortened(whole, tokenizer, window)
            supervised = (offsets[:, 0] >= len(text)) & (offsets[:, 1] > offsets[:, 0])  # the answer and its end
            if row["supervise"] == "history":
                spans = [(shift + s["start"], shift + s["stop"]) for s in pieces if s["kind"] == "history"]
                supervised |= _inside(offsets, spans)
            worn = spares.lend(ids, len(out)) if spares else ids
            out.append(Encoded(worn, supervised))
    return out


def _shortened(
    row: dict[str, Any], tokenizer: PreTrainedTokenizerBase, window: int
) -> tuple[str, int, list[dict[str, Any]], np.ndarray, np.ndarray]:
    """Text, place of the prompt in it, slots, ids and offsets of an example with as much history as fits."""

    def encode(prompt: str) -> Any:
        whole = wrap(tokenizer, prompt)[0] + row["answer"] + (tokenizer.eos_token or "")
        return tokenizer(whole, add_special_tokens=not tokenizer.chat_template, return_offsets_mapping=True)

    kept = shorten(row, window, lambda prompt: len(encode(prompt)["input_ids"]))
    encoded = encode(kept["prompt"])
    if len(encoded["input_ids"]) > window:
        raise ModelError(
            f"an example of '{row['task']}' has {len(encoded['input_ids'])} tokens but the model holds {window}. "
            f"Lower tasks.history (or shorten items.text)."
        )
    text, shift = wrap(tokenizer, kept["prompt"])
    ids, offsets = np.array(encoded["input_ids"], np.int64), np.array(encoded["offset_mapping"], np.int64)
    return text, shift, kept["slots"], ids, offsets


def used(examples: Iterable[Encoded], new: np.ndarray) -> dict[str, np.ndarray]:
    """Which new tokens examples give a gradient to.

    Args:
        examples: those that training saw.
        new: (tokens,) ids of the new tokens.

    Returns:
        `input` → (tokens,) bool, those before a supervised token of their example; `output` → supervised ones.
    """
    seen = {side: np.zeros(int(new.max()) + 1, bool) for side in ("input", "output")}
    for example in examples:
        places = np.flatnonzero(example.supervised[1:]) + 1
        parts = {"input": example.tokens[: places.max(initial=0)], "output": example.tokens[places]}
        for side, tokens in parts.items():
            seen[side][tokens[tokens < len(seen[side])]] = True
    return {side: found[new] for side, found in seen.items()}


def _inside(offsets: np.ndarray, spans: list[tuple[int, int]]) -> np.ndarray:
    """Tokens whose characters begin inside one of the spans; tokens without characters (added markers) are outside."""
    begins = np.zeros(int(offsets.max(initial=0)) + 2, np.int32)
    for start, stop in spans:
        begins[start] += 1
        begins[min(stop, len(begins) - 1)] -= 1
    covered = np.cumsum(begins) > 0
    return covered[offsets[:, 0]] & (offsets[:, 1] > offsets[:, 0])
