"""`llmrec tasks show`: what is shown is what training reads, to the token."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer
from typer.testing import CliRunner

from llmrec.cli.main import app
from llmrec.errors import RequestError
from llmrec.tasks.examples import load
from llmrec.train.encode import encode_examples


def shown(*arguments: object) -> list[dict]:
    done = CliRunner().invoke(app, ["tasks", "show", *map(str, arguments), "--json"], catch_exceptions=False)
    assert done.exit_code == 0
    return [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]


def test_tokens_and_mask_are_those_of_training(tiny_run: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_run / "train-1-sft" / "model")
    table = load(tiny_run / "tasks")
    for example in shown(tiny_run, "--task", "next_item", "--user", "u7", "--count", 3):
        assert (example["task"], example["user_id"]) == ("next_item", "u7")
        at = (
            table.select(["user_id", "prompt"])
            .to_pylist()
            .index({name: example[name] for name in ("user_id", "prompt")})
        )
        encoded = encode_examples(table.slice(at, 1), tokenizer, 512)[0]
        assert [token["id"] for token in example["tokens"]] == encoded.tokens.tolist()
        assert [token["supervised"] for token in example["tokens"]] == encoded.supervised.tolist()
        assert example["text"][example["answers"] :].startswith(example["answer"])
        assert "".join(token["text"] for token in example["tokens"]) == "<s> " + example["text"]


def test_without_a_task_there_is_one_example_of_each(tiny_run: Path) -> None:
    assert {one["task"] for one in shown(tiny_run)} == {"next_item", "item_to_text", "text_to_item"}


def test_a_recipe_that_was_never_run_is_shown_too(world: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = shown(world, "tasks.mixture=judge", "tasks.options=3", "--user", "u3")
    assert {one["task"] for one in found} == {"rerank", "pairwise", "pointwise"}
    reranked = next(one for one in found if one["task"] == "rerank")
    assert len(reranked["candidates"]) == 3
    assert reranked["candidates"][int(reranked["label"])] == reranked["item_id"]
    assert not (tmp_path / "runs" / "recipe").exists()  # somebody's run of that name is left alone


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--task", "next_items"], r"no example whose task is 'next_items'. Did you mean 'next_item'\?"),
        (["--user", "u777"], r"no example whose user_id is 'u777'. There are 60 others, such as u7"),
        (["--item", "i99"], r"no example whose item_id is 'i99'"),
    ],
)
def test_what_is_not_there_is_told_with_the_nearest(tiny_run: Path, arguments: list[str], words: str) -> None:
    with pytest.raises(RequestError, match=words):
        CliRunner().invoke(app, ["tasks", "show", str(tiny_run), *arguments], catch_exceptions=False)


def test_colours_say_what_is_what(tiny_run: Path, monkeypatch, capsys) -> None:
    from rich.console import Console

    from llmrec.cli import tasks

    monkeypatch.setattr(
        tasks, "screen", console := Console(record=True, force_terminal=True, width=200, color_system="standard")
    )
    CliRunner().invoke(app, ["tasks", "show", str(tiny_run), "--task", "next_item"], catch_exceptions=False)
    told = console.export_text(styles=True)
    assert "\x1b[36m<a_" in told and "\x1b[1;32m<a_" in told  # a history in cyan, an answer in green
    assert "to predict" in told
