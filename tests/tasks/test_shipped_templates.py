"""The templates that are shipped: at least as many as the tasks they follow had, each unlike the others."""

from __future__ import annotations

import itertools
import re

import pytest

from llmrec.recipe import TASKS
from llmrec.tasks.templates import Template, load

# P5 (arXiv 2203.13366) by family, LC-Rec (arXiv 2311.09049, its prompts by task), OpenP5 (arXiv 2306.07134)
AT_LEAST = {
    ("rating",): 10,
    ("sequential",): 13,
    ("explanation",): 12,
    ("review_summary", "review_title", "review_rating"): 4,
    ("direct_pick", "direct_yes_no"): 8,
    ("next_item",): 17,
    ("text_to_item",): 19,
    ("item_to_text",): 17,
    ("fused",): 12,
    ("item_search",): 11,
    ("preference",): 11,
    ("straightforward",): 11,
    ("rerank",): 5,
    ("pairwise",): 5,
    ("pointwise",): 5,
    ("chat",): 5,
}


def templates_of(task: str) -> list[Template]:
    template = load(task)
    return [*template.train, *template.held_out]


def trigrams(text: str) -> set[str]:
    plain = re.sub(r"\W+", " ", re.sub(r"{\w+}", " ", text.lower())).strip()
    return {plain[at : at + 3] for at in range(len(plain) - 2)} or {plain}


def overlap(one: set[str], other: set[str]) -> float:
    """Shared trigrams over those of the shorter text: a wording inside another overlaps wholly."""
    return len(one & other) / max(1, min(len(one), len(other)))


@pytest.mark.parametrize("tasks", AT_LEAST, ids=lambda tasks: "+".join(tasks))
def test_there_are_as_many_templates_to_train_on_as_the_original_has(tasks: tuple[str, ...]) -> None:
    assert sum(len(load(task).train) for task in tasks) >= AT_LEAST[tasks]


def test_every_task_of_a_recipe_has_a_template() -> None:
    assert {task for tasks in AT_LEAST for task in tasks} == set(TASKS)


@pytest.mark.parametrize("task", TASKS)
def test_no_two_templates_of_a_task_are_much_alike(task: str) -> None:
    found = [(wording.prompt + wording.answer if task == "chat" else wording.prompt) for wording in templates_of(task)]
    for one, other in itertools.combinations(found, 2):
        assert overlap(trigrams(one), trigrams(other)) <= 0.7, (one, other)


@pytest.mark.parametrize("task", TASKS)
def test_templates_differ_in_length(task: str) -> None:
    lengths = [len(wording.prompt) for wording in templates_of(task)]
    assert max(lengths) >= 1.8 * min(lengths)


def test_explanations_are_asked_with_and_without_hint_and_stars() -> None:
    asked = {tuple(sorted(set(wording.needs) & {"hint", "rating"})) for wording in load("explanation").train}
    assert asked == {(), ("hint",), ("rating",), ("hint", "rating")}


def test_next_item_prompts_end_with_their_history() -> None:
    """So that every item of it stands where an answer stands: `tasks.loss_on: all-items` relies on it."""
    for wording in templates_of("next_item"):
        assert wording.prompt.endswith("{history}") and wording.answer == "{item}"


def test_chat_answers_hold_the_code_behind_its_mark_and_words_around_it() -> None:
    for wording in templates_of("chat"):
        before, after = wording.answer.split("<|item|>{item}")
        assert before.strip() and after.strip()
