"""Prompt templates: YAML files with named slots, checked when they are loaded."""

from __future__ import annotations

import string
from dataclasses import dataclass
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from llmrec import shipped
from llmrec.errors import PromptError

# Slots that each kind of need can fill; {item} is always the item that the example is about.
SLOTS = {"history": {"history", "item"}, "item_text": {"item", "text"}}


class Wording(BaseModel):
    """One way to ask, and the answer to it."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    prompt: str
    answer: str
    held_out: bool = False


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    task: str
    needs: list[str]
    wordings: list[Wording]


@dataclass(frozen=True)
class Template:
    """The wordings of one task.

    Attributes:
        task: its name, as in a recipe's `tasks:`.
        train: wordings to learn from.
        held_out: wordings kept for evaluation; never trained on.
    """

    task: str
    train: list[Wording]
    held_out: list[Wording]


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
        PromptError: no such file, malformed, an unknown slot, or a slot that the task needs is never used.
    """
    root = root or shipped.folder("prompts")
    found = sorted(root.glob(f"*/{task}.yaml"))
    if len(found) != 1:
        raise PromptError(f"there are {len(found)} templates for the task '{task}' below {root}; there must be one.")
    try:
        content = _File.model_validate(yaml.safe_load(found[0].read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError) as error:
        raise PromptError(f"{found[0]}: {error}") from None
    unknown = [need for need in content.needs if need not in SLOTS]
    if unknown:
        raise PromptError(f"{found[0].name}: unknown need '{unknown[0]}'; there are: {', '.join(SLOTS)}.")
    if content.task != task:
        raise PromptError(f"{found[0].name}: its task is called '{content.task}'. Name the file after its task.")
    for number, wording in enumerate(content.wordings):
        _check(wording, content.needs, f"{found[0].name}, wording {number + 1}")
    train = [w for w in content.wordings if not w.held_out]
    if not train:
        raise PromptError(f"{found[0].name}: every wording is held out, so there is nothing to train on.")
    return Template(content.task, train, [w for w in content.wordings if w.held_out])


def fill(text: str, pieces: dict[str, list[Piece]]) -> tuple[str, list[Slot]]:
    """Put pieces into slots; texts are put in as they are, never read as templates themselves.

    Args:
        text: a wording's prompt or answer.
        pieces: slot name → pieces that are joined without anything between them.

    Returns:
        The text, and where each piece stands in it.
    """
    out, slots, length = [], [], 0
    for literal, name, _, _ in string.Formatter().parse(text):
        out.append(literal)
        length += len(literal)
        for piece, kind, item_id in pieces[name] if name else []:
            slots.append(Slot(length, length + len(piece), kind, item_id))
            out.append(piece)
            length += len(piece)
    return "".join(out), slots


def neutral(text: str) -> str:
    """Free text that cannot be read as a code or a control token: angle brackets become typographic ones."""
    return text.replace("<", "‹").replace(">", "›")


def _check(wording: Wording, needs: list[str], where: str) -> None:
    known = set().union(*(SLOTS[need] for need in needs))
    try:
        prompt, answer = (_slots(part, where) for part in (wording.prompt, wording.answer))
    except ValueError as error:
        raise PromptError(f"{where}: {error}. Write a literal brace twice: {{{{ or }}}}") from None
    used = prompt + answer
    for name in used:
        if name not in known:
            raise PromptError(f"{where}: unknown slot {{{name}}}; this task has: {', '.join(sorted(known))}.")
    for name in sorted(known):
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
