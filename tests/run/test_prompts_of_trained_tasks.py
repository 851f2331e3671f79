"""A model is judged and served with a prompt that it was trained on."""

from __future__ import annotations

from pathlib import Path

import pytest

import llmrec
from llmrec.contracts import Request
from llmrec.data.dataset import Dataset
from llmrec.errors import RunError
from llmrec.recipe_file import load
from llmrec.run.execute import run
from llmrec.run.layout import RunFolder
from llmrec.tasks import examples

SHORT = ["train.0.epochs=0.2", "tasks.next_item=0", "tasks.item_to_text=0", "tasks.text_to_item=0"]


def test_a_mixture_of_p5_prompts_is_judged_with_one_that_training_held(world: Path, tmp_path: Path) -> None:
    folder = RunFolder(run(load(world, [*SHORT, "tasks.sequential=1"]), tmp_path / "run", "train"))
    held, opened = examples.load(folder.tasks).to_pylist(), llmrec.load(folder.path)
    recommender, dataset = opened.recommender, Dataset.load(folder.data)
    assert recommender.reads == {"history", "user"}
    trained = {row["prompt"] for row in held}
    train = dataset.before("valid")
    prompts = {
        recommender.tokenizer.decode(recommender.prompt(Request(train[row][start:end], user=dataset.user_ids[row])))
        for row in range(len(train))
        for end in range(1, len(train[row]))
        for start in range(end)
    }
    assert {prompt.removeprefix("<s>").strip() for prompt in prompts} & {prompt.strip() for prompt in trained}
    assert recommender.notes(Request([1], user="u1")) == []
    assert "trained with user ids" in recommender.notes(Request([1]))[0]


@pytest.mark.parametrize("tasks", [["tasks.item_to_text=1"], ["tasks.mixture=none", "tasks.straightforward=1"]])
def test_tasks_that_neither_recommend_nor_judge_candidates_are_refused_before_anything_is_made(
    tasks: list[str], world: Path, tmp_path: Path
) -> None:
    with pytest.raises(RunError, match=r"a prompt that it never saw.*tasks\.next_item=1"):
        run(load(world, [*SHORT, *tasks]), tmp_path / "run", "train")
    assert not (tmp_path / "run").exists()
