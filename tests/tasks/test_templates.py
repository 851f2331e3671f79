"""Prompt templates: slots are filled exactly, and a template that could not work is refused when it is read."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from llmrec.errors import PromptError
from llmrec.tasks.templates import fill, load, sanitize


def template(folder: Path, entries: list[object], needs: list[str] | None = None, **more: object) -> Path:
    (folder / "family").mkdir()
    content = {"task": "mine", "needs": ["item", "text"] if needs is None else needs, "templates": entries} | more
    (folder / "family" / "mine.yaml").write_text(yaml.safe_dump(content))
    return folder


BRACKETS = "<>[]"
GOOD = {"prompt": "What is {item}?", "answer": " {text}"}


@given(st.lists(st.text(max_size=8), max_size=5), st.text(max_size=8))
def test_slots_say_where_each_piece_stands(history: list[str], text: str) -> None:
    pieces = {
        "history": [(piece, "history", f"i{place}") for place, piece in enumerate(history)],
        "text": [(text, "text", "t")],
    }
    filled, slots = fill("{{before}} {history}, {text}.", pieces)
    assert filled == "{before} " + "".join(history) + ", " + text + "."
    assert [(filled[s.start : s.stop], s.kind, s.item_id) for s in slots] == [*pieces["history"], *pieces["text"]]


def test_a_piece_is_never_read_as_a_template_itself() -> None:
    assert fill("{text}", {"text": [("{item} {{", "text", "")]})[0] == "{item} {{"


@given(st.text() | st.text("<>[]＜＞﹤﹥［］ab", max_size=8))
def test_neutral_text_holds_no_brackets_of_control_tokens_and_changes_nothing_else(text: str) -> None:
    free = sanitize(text)
    assert not set(BRACKETS) & set(unicodedata.normalize("NFKC", free))
    assert len(free) == len(text)
    assert all(a == b or set(BRACKETS) & set(unicodedata.normalize("NFKC", a)) for a, b in zip(text, free, strict=True))


def test_some_templates_are_chosen_to_train_on(tmp_path: Path) -> None:
    prompts = ["Of {item} say now: ", "{item}", "One {item} more"]
    found = load("mine", template(tmp_path, prompts, answer=" {text}"))
    for which, wanted in ((None, prompts), (2, prompts[:2]), ("shortest", [prompts[1]])):
        assert [wording.prompt for wording in found.select(which).train] == wanted


def test_held_out_templates_are_kept_apart(tmp_path: Path) -> None:
    found = load("mine", template(tmp_path, [GOOD, GOOD | {"prompt": "Name {item}.", "held_out": True}]))
    assert [w.prompt for w in found.train] == ["What is {item}?"]
    assert [w.prompt for w in found.held_out] == ["Name {item}."]


@pytest.mark.parametrize(
    ("wording", "words"),
    [
        (
            {"prompt": "What is {thing}? {item}", "answer": "{text}"},
            r"template 2: unknown slot {thing}.* needs are: item, text",
        ),
        ({"prompt": "What is it?", "answer": "{text}"}, r"slot {item} must be used once, not 0 times"),
        ({"prompt": "{item} or {item}?", "answer": "{text}"}, r"slot {item} must be used once, not 2 times"),
        ({"prompt": "{item}? {text}", "answer": "yes"}, r"an answer must hold one slot, not 0"),
        ({"prompt": "What?", "answer": "{item}{text}"}, r"an answer must hold one slot, not 2"),
        ({"prompt": "{item} {", "answer": "{text}"}, r"template 2: .*Write a literal brace twice: {{ or }}"),
        ({"prompt": "{} {item}", "answer": "{text}"}, r"unknown slot {}"),
        ({"prompt": "{item!r}", "answer": "{text}"}, r"template 2: write the slot as {item}, with nothing else in it"),
        ({"prompt": "{item:>9}", "answer": "{text}"}, r"template 2: write the slot as {item}, with nothing else in it"),
        ({"prompt": "{item}"}, r"template 2: it has no answer\. Write `answer:` beside its prompt"),
        ({"prompt": "{item} {title}", "answer": "{text}"}, r"unknown slot {title}; its needs are: item, text"),
        ({"prompt": "{item}", "answer": "{text}", "needs": ["title"]}, r"slot {title} must be used once, not 0 times"),
        ({"prompt": "{item}", "answer": "{text}", "heldout": True}, r"heldout"),
    ],
)
def test_a_template_that_could_not_work_is_refused(wording: dict[str, object], words: str, tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=rf"(?s)mine\.yaml.*{words}"):
        load("mine", template(tmp_path, [GOOD, wording]))


def test_a_task_without_a_template_to_train_on_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="every template is held out"):
        load("mine", template(tmp_path, [GOOD | {"held_out": True}]))


def test_an_unknown_need_is_told_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"unknown need 'itm'; there are: history, .*Did you mean 'item'\?"):
        load("mine", template(tmp_path, [GOOD], needs=["itm", "text"]))


def test_a_plain_text_is_a_template_with_the_answer_of_the_file(tmp_path: Path) -> None:
    found = load("mine", template(tmp_path, ["What is {item}?", GOOD | {"held_out": True}], answer=" {text}!"))
    assert [(w.prompt, w.answer) for w in found.train] == [("What is {item}?", " {text}!")]
    assert found.held_out[0].answer == " {text}"


def test_a_template_may_need_more_than_the_others(tmp_path: Path) -> None:
    more = {"prompt": "What is {item}, called {title}?", "answer": "{text}", "needs": ["title"]}
    assert load("mine", template(tmp_path, [GOOD, more])).train[1].needs == ["title"]


def test_a_file_must_hold_the_task_that_it_is_named_for(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"mine\.yaml: its task is called 'other'"):
        load("mine", template(tmp_path, [GOOD], task="other"))


def test_a_task_without_template_says_where_it_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="there are 0 templates for the task 'mine' below"):
        load("mine", tmp_path)
