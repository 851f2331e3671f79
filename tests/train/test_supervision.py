"""The supervised mask: exactly the answer and its end, and the items of the history where the task says so."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from llmrec.errors import ModelError
from llmrec.indexing.catalogue import Catalogue
from llmrec.model.vocabulary import token_ids
from llmrec.tasks import examples
from llmrec.train.encode import encode_examples


@pytest.fixture(scope="module")
def tokenizer(tiny_run: Path):
    return AutoTokenizer.from_pretrained(tiny_run / "train-1-sft" / "model")


def test_supervised_are_history_codes_answer_and_end_and_nothing_else(tiny_run: Path, tokenizer) -> None:
    catalogue, table = Catalogue.load(tiny_run / "catalogue"), examples.load(tiny_run / "tasks")
    item_tokens = set(token_ids(tokenizer, catalogue.tokens).tolist())
    for row, example in zip(table.to_pylist(), encode_examples(table, tokenizer, 512), strict=True):
        answer = tokenizer(row["answer"], add_special_tokens=False)["input_ids"]
        assert example.tokens[0] == tokenizer.bos_token_id
        assert example.tokens[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(example.tokens[1:-1]).strip() == (row["prompt"] + row["answer"]).strip()
        if row["task"] == "item_to_text":
            text = tokenizer.decode(example.tokens[example.supervised][:-1])
            assert text.strip() == row["answer"].strip()
        elif row["task"] == "text_to_item":
            assert example.tokens[example.supervised].tolist() == [*answer, tokenizer.eos_token_id]
        else:
            expected = np.array([token in item_tokens for token in example.tokens.tolist()])
            expected[-1] = True
            assert example.supervised.tolist() == expected.tolist()


def test_answers_alone_are_supervised_where_the_recipe_says_so(tiny_run: Path, tokenizer) -> None:
    table = examples.load(tiny_run / "tasks")
    rows = [row | {"loss_on": "target"} for row in table.to_pylist() if row["task"] == "next_item"][:20]
    answers = encode_examples(type(table).from_pylist(rows, schema=table.schema), tokenizer, 512)
    levels = Catalogue.load(tiny_run / "catalogue").codes.shape[1]
    for example in answers:
        assert example.supervised.tolist() == [False] * (len(example.tokens) - levels - 1) + [True] * (levels + 1)


def test_an_example_longer_than_the_window_is_refused_with_the_key_to_lower(tiny_run: Path, tokenizer) -> None:
    with pytest.raises(ModelError, match=r"tokens but the model holds 8\. Lower tasks\.history"):
        encode_examples(examples.load(tiny_run / "tasks"), tokenizer, 8)


def test_the_log_has_a_falling_loss_and_every_step_once(tiny_run: Path) -> None:
    lines = [json.loads(line) for line in (tiny_run / "train-1-sft" / "log.jsonl").read_text().splitlines()]
    steps = [line["step"] for line in lines]
    assert steps == sorted(set(steps))
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]


def test_the_model_learns_the_world(tiny_run: Path) -> None:
    """Nine times in ten the next item follows; popularity knows nothing of it."""
    systems = json.loads((tiny_run / "evaluate-test" / "metrics.json").read_text())["systems"]
    assert systems["nano"]["hr@1"]["mean"] > 0.25
    assert systems["nano"]["hr@5"]["mean"] > 0.6
    assert systems["popularity"]["hr@5"]["mean"] < 0.2
