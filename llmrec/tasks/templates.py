"""Prompt templates: YAML files with named slots, checked when they are loaded."""

from __future__ import annotations

import difflib
import string
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator

from llmrec import resources
from llmrec.errors import PromptError
from llmrec.recipe import Tasks, TemplateChoice

# Everything that a wording can ask for: slot → what stands there.
SLOTS = {
    "history": "codes of the items before, oldest first",
    "titles": "titles of the items before, oldest first",
    "item": "code of the item that the example is about",
    "title": "its title",
    "text": "its text (items.text)",
    "user": "the user's id",
    "rating": "stars that the user gave the item",
    "review": "what the user wrote about it",
    "summary": "that in one sentence",
    "headline": "the title of the review",
    "explanation": "why the user liked it or not",
    "hint": "a word that the explanation turns on",
    "intention": "what somebody wants who would be glad of the item",
    "preference": "what the user likes, in words",
    "candidates": "codes on offer, the right one among them",
    "options": "codes on offer behind letters",
    "letter": "letter of the right one",
    "verdict": "yes or no",
    "rated": "what a person rated: title, kinds and rating of each, a line each, oldest first",
    "candidate": "title and kinds of what they have not rated yet",
    "scale": "the scale of ratings, such as 1 (worst) to 5 (best)",
}
RATING = frozenset({"rated", "candidate", "scale"})  # slots that `llmrec rate` fills, and no training example has
# Brackets that control tokens are written with, in any base, and their wide forms; what a reader sees instead.
_NEUTRAL = str.maketrans("<>＜＞﹤﹥[]［］", "‹›‹›‹›()()")


class Wording(BaseModel):
    """One way to ask, and the answer to it.

    Attributes:
        prompt, answer: with slots in braces.
        needs: slots beyond those that every wording of the task has; an example that lacks one gets another wording.
        held_out: kept for evaluation, never trained on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    prompt: str
    answer: str
    needs: list[str] = []
    held_out: bool = False


class _Loose(BaseModel):
    """A wording as it stands in a file: the answer may be the file's."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    prompt: str
    answer: str | None = None
    needs: list[str] = []
    held_out: bool = False


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    task: str
    needs: list[str]
    answer: str | None = None
    templates: list[_Loose]

    @field_validator("templates", mode="before")
    @classmethod
    def _plain_texts_are_prompts(cls, wordings: object) -> object:
        if not isinstance(wordings, list):
            return wordings
        return [{"prompt": wording} if isinstance(wording, str) else wording for wording in wordings]


@dataclass(frozen=True)
class Template:
    """The wordings of one task.

    Attributes:
        task: its name, as in a recipe's `tasks:`.
        needs: slots that every wording of it has.
        train: wordings to learn from.
        held_out: wordings kept for evaluation; never trained on.
    """

    task: str
    needs: tuple[str, ...]
    train: list[Wording]
    held_out: list[Wording]

    def chosen(self, which: TemplateChoice) -> Template:
        """With some of the wordings to train on: the first so many, the shortest one, or all of them for None."""
        if which == "shortest":
            return replace(self, train=[min(self.train, key=lambda wording: len(wording.prompt))])
        return replace(self, train=self.train[:which])

    def kept(self) -> Template:
        """With the wording that is kept for evaluation, or a trained one where none is."""
        return replace(self, train=(self.held_out or self.train)[:1])


@dataclass(frozen=True)
class Slot:
    """Where a piece of a filled prompt came from: characters start to stop hold `kind` (of `item_id`, where one)."""

    start: int
    stop: int
    kind: str
    item_id: str


Piece = tuple[str, str, str]  # text, kind, item id ("" where none)


def load(task: str, root: Path | None = None) -> Template:
    """Read the template of a task from prompts/<family>/<task>.yaml.

    Raises:
        PromptError: no such file, malformed, an unknown slot, or a slot that is needed and not used just once.
    """
    path = file_of(task, root)
    return _read(path, path.stat().st_mtime_ns)


def file_of(task: str, root: Path | None = None) -> Path:
    """The file with the template of a task, prompts/<family>/<task>.yaml.

    Raises:
        PromptError: there is none, or more than one.
    """
    root = root or resources.folder("prompts")
    found = sorted(root.glob(f"*/{task}.yaml"))
    if len(found) != 1:
        raise PromptError(f"there are {len(found)} templates for the task '{task}' below {root}; there must be one.")
    return found[0]


def files_of(tasks: Tasks) -> list[Path]:
    """The files that examples of a mixture are written from: templates of its tasks, and questions to its oracle."""
    return [*map(file_of, tasks.weights), *([resources.folder("prompts") / "oracle.yaml"] if tasks.oracle else [])]


@cache
def _read(path: Path, changed: int) -> Template:
    try:
        content = _File.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError) as error:
        raise PromptError(f"{path}: {error}") from None
    if content.task != path.stem:
        raise PromptError(f"{path.name}: its task is called '{content.task}'. Name the file after its task.")
    wordings = [_whole(loose, content, f"{path.name}, wording {at}") for at, loose in enumerate(content.templates, 1)]
    train = [wording for wording in wordings if not wording.held_out]
    if not train:
        raise PromptError(f"{path.name}: every wording is held out, so there is nothing to train on.")
    return Template(content.task, tuple(content.needs), train, [wording for wording in wordings if wording.held_out])


def _whole(loose: _Loose, content: _File, where: str) -> Wording:
    """A wording with its answer, checked."""
    answer = loose.answer if loose.answer is not None else content.answer
    if answer is None:
        raise PromptError(f"{where}: it has no answer. Write `answer:` beside its prompt, or once for the file.")
    needs = [*content.needs, *loose.needs]
    for need in needs:
        if need not in SLOTS:
            near = difflib.get_close_matches(need, SLOTS, 1, 0.5)
            hint = f" Did you mean '{near[0]}'?" if near else ""
            raise PromptError(f"{where}: unknown need '{need}'; there are: {', '.join(SLOTS)}.{hint}")
    wording = Wording(prompt=loose.prompt, answer=answer, needs=loose.needs, held_out=loose.held_out)
    _check(wording, needs, where)
    return wording


def fill(text: str, pieces: dict[str, list[Piece]]) -> tuple[str, list[Slot]]:
    """Put pieces into slots; texts are put in as they are, never read as templates themselves.

    Args:
        text: a wording's prompt or answer.
        pieces: slot name → pieces that are joined without anything between them.

    Returns:
        The text, and where each piece stands in it.
    """
    out, slots, length = [], [], 0
    for literal, name in parts(text):
        out.append(literal)
        length += len(literal)
        for piece, kind, item_id in pieces[name] if name else []:
            slots.append(Slot(length, length + len(piece), kind, item_id))
            out.append(piece)
            length += len(piece)
    return "".join(out), slots


def parts(text: str) -> list[tuple[str, str | None]]:
    """A wording's prompt or answer as (plain text, slot after it) in order; the last slot may be None."""
    return [(literal, name) for literal, name, _, _ in string.Formatter().parse(text)]


def neutral(text: str) -> str:
    """Free text that cannot be read as a code or a control token: brackets become typographic or round ones.

    `<…>`, `<|…|>` and `[…]` are what bases write control tokens with; every other character stays as it is.
    """
    return text.translate(_NEUTRAL)


def _check(wording: Wording, needs: list[str], where: str) -> None:
    try:
        prompt, answer = (_slots(part, where) for part in (wording.prompt, wording.answer))
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
