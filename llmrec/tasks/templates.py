"""Prompt templates: YAML files with named slots, checked when they are loaded."""

from __future__ import annotations

import difflib
import string
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from llmrec import resources
from llmrec.errors import PromptError
from llmrec.recipe import Tasks, TemplateChoice

# Slots that a template may use, and what fills them.
SLOTS = {
    "history": "codes of the history, oldest first",
    "titles": "titles of the history, oldest first",
    "item": "code of the item",
    "title": "title of the item",
    "text": "text of the item (items.text)",
    "user": "user id",
    "rating": "rating that the user gave the item",
    "review": "the user's review of the item",
    "summary": "summary of the review in one sentence",
    "headline": "title of the review",
    "explanation": "why the user liked or disliked the item",
    "hint": "a word that the explanation shares with the item's text",
    "intention": "what a user who would like the item is looking for",
    "preference": "what the user likes, as text",
    "candidates": "codes of the candidates, one of them right",
    "options": "codes of the candidates, each after a letter",
    "letter": "letter of the right candidate",
    "verdict": "yes or no",
    "rated": "rated items, one per line, oldest first: title, categories and rating",
    "candidate": "title and categories of the item to rate",
    "scale": "rating scale, such as 1 (worst) to 5 (best)",
}
RATING = frozenset({"rated", "candidate", "scale"})  # slots that only `llmrec rate` fills, never training examples
# Brackets of control tokens, in any base model, and their full-width forms → what replaces them.
_BRACKETS = str.maketrans("<>＜＞﹤﹥[]［］", "‹›‹›‹›()()")


class Template(BaseModel):
    """One prompt template and its answer.

    Attributes:
        prompt, answer: texts with slots in braces.
        needs: slots beyond those of all templates of the task; examples without values for them get another template.
        held_out: kept out of training, for evaluation.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    prompt: str
    answer: str = ""
    needs: list[str] = []
    held_out: bool = False


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    task: str
    needs: list[str]
    answer: str | None = None
    templates: list[Template]

    @model_validator(mode="before")
    @classmethod
    def _complete_templates(cls, content: Any) -> Any:
        """A template may be its prompt alone; one without an answer has the file's."""
        if not isinstance(content, dict) or not isinstance(content.get("templates"), list):
            return content
        shared = {"answer": content["answer"]} if content.get("answer") else {}
        entries = [{"prompt": entry} if isinstance(entry, str) else entry for entry in content["templates"]]
        return content | {"templates": [shared | entry if isinstance(entry, dict) else entry for entry in entries]}


@dataclass(frozen=True)
class TaskTemplates:
    """The prompt templates of one task.

    Attributes:
        task: name of the task, as in a recipe's `tasks:`.
        needs: slots of every template.
        train: templates for training.
        held_out: templates for evaluation, never used in training.
    """

    task: str
    needs: tuple[str, ...]
    train: list[Template]
    held_out: list[Template]

    def select(self, choice: TemplateChoice) -> TaskTemplates:
        """Keep only some training templates: the first N, the shortest, or all of them for None."""
        if choice == "shortest":
            return replace(self, train=[min(self.train, key=lambda template: len(template.prompt))])
        return replace(self, train=self.train[:choice])

    def for_evaluation(self) -> TaskTemplates:
        """Replace the training templates by the first held-out one, or by the first of training if none is held out."""
        return replace(self, train=(self.held_out or self.train)[:1])


@dataclass(frozen=True)
class SlotSpan:
    """Characters `start` to `stop` of a filled template, which hold a value of a kind, and its item id, "" if none."""

    start: int
    stop: int
    kind: str
    item_id: str


SlotValue = tuple[str, str, str]  # text, kind, item id ("" if none)


def load(task: str, root: Path | None = None) -> TaskTemplates:
    """Read the templates of a task from prompts/<family>/<task>.yaml.

    Raises:
        PromptError: no such file, malformed, an unknown slot, or a needed slot that is not used exactly once.
    """
    path = file_of(task, root)
    return _read(path, path.stat().st_mtime_ns)


def file_of(task: str, root: Path | None = None) -> Path:
    """Path of the template file of a task, prompts/<family>/<task>.yaml.

    Raises:
        PromptError: there is none, or more than one.
    """
    root = root or resources.folder("prompts")
    paths = sorted(root.glob(f"*/{task}.yaml"))
    if len(paths) != 1:
        raise PromptError(f"there are {len(paths)} templates for the task '{task}' below {root}; there must be one.")
    return paths[0]


def files_of(tasks: Tasks) -> list[Path]:
    """The files that examples of a mixture are written from: templates of its tasks, and questions to its oracle."""
    return [*map(file_of, tasks.weights), *([resources.folder("prompts") / "oracle.yaml"] if tasks.oracle else [])]


@cache
def _read(path: Path, changed: int) -> TaskTemplates:
    try:
        content = _File.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError) as error:
        raise PromptError(f"{path}: {error}") from None
    if content.task != path.stem:
        raise PromptError(f"{path.name}: its task is called '{content.task}'. Name the file after its task.")
    for number, template in enumerate(content.templates, 1):
        _check(template, [*content.needs, *template.needs], f"{path.name}, template {number}")
    train = [template for template in content.templates if not template.held_out]
    if not train:
        raise PromptError(f"{path.name}: every template is held out, so none is left for training.")
    held_out = [template for template in content.templates if template.held_out]
    return TaskTemplates(content.task, tuple(content.needs), train, held_out)


def fill(text: str, values: dict[str, list[SlotValue]]) -> tuple[str, list[SlotSpan]]:
    """Fill the slots of a template; values are inserted as they are, and braces in them mean nothing.

    Args:
        text: prompt or answer of a template.
        values: slot → values, joined without a separator.

    Returns:
        The text, and the position of each value in it.
    """
    out, spans, length = [], [], 0
    for literal, name in parts(text):
        out.append(literal)
        length += len(literal)
        for value, kind, item_id in values[name] if name else []:
            spans.append(SlotSpan(length, length + len(value), kind, item_id))
            out.append(value)
            length += len(value)
    return "".join(out), spans


def parts(text: str) -> list[tuple[str, str | None]]:
    """Split a prompt or answer into (literal text, slot after it) pairs; the last slot may be None."""
    return [(literal, name) for literal, name, _, _ in string.Formatter().parse(text)]


def sanitize(text: str) -> str:
    """Replace the brackets of item codes and control tokens (`<…>`, `<|…|>`, `[…]`) by typographic or round ones.

    Free text can then never be tokenized as a code or a control token; all other characters stay.
    """
    return text.translate(_BRACKETS)


def _check(template: Template, needs: list[str], where: str) -> None:
    if not template.answer:
        raise PromptError(f"{where}: it has no answer. Write `answer:` beside its prompt, or once for the file.")
    for need in needs:
        if need not in SLOTS:
            near = difflib.get_close_matches(need, SLOTS, 1, 0.5)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise PromptError(f"{where}: unknown need '{need}'; there are: {', '.join(SLOTS)}.{hint}")
    try:
        prompt, answer = (_slots(part, where) for part in (template.prompt, template.answer))
    except ValueError as error:
        raise PromptError(f"{where}: {error}. Write a literal brace twice: {{{{ or }}}}") from None
    used = prompt + answer
    for name in used:
        if name not in needs:
            raise PromptError(f"{where}: unknown slot {{{name}}}; its needs are: {', '.join(sorted(needs))}.")
    for name in sorted(needs):
        if used.count(name) != 1:
            raise PromptError(f"{where}: the slot {{{name}}} must be used once, not {used.count(name)} times.")
    if len(answer) != 1:
        raise PromptError(f"{where}: an answer must hold one slot, not {len(answer)}.")


def _slots(text: str, where: str) -> list[str]:
    """Names of the slots of a text, in order."""
    names = []
    for _, name, form, conversion in string.Formatter().parse(text):
        if form or conversion:
            raise PromptError(f"{where}: write the slot as {{{name}}}, with nothing else in it.")
        names += [] if name is None else [name]
    return names
