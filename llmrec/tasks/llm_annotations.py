"""Texts that most data sets lack, written by a language model or from item columns: user intentions and preferences.

Both are written from the catalogue and the training part alone.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import yaml

from llmrec import resources, trusted_urls
from llmrec.items.item_text import plain_text
from llmrec.recipe import Oracle, Tasks
from llmrec.tasks import templates
from llmrec.tasks.inputs import TaskInputs
from llmrec.tasks.templates import sanitize
from llmrec.text.oracle import ReplayOracle, ServerOracle, TemplateOracle, TextOracle, TextRequest

RECENT = 10  # titles of a history that a preference is written from
_NAMES = {"item_id", "title", "description"}  # columns that give the item away, or say nothing about an intention
_SHORT = 80  # characters of a value that fits into an intention
_FORMS = ("I am looking for {}.", "Something with {}, please.", "Do you have {}?", "I would like {} this time.")


def add_annotations(inputs: TaskInputs, items: pa.Table, tasks: Tasks) -> TaskInputs:
    """Add the intentions and preferences that the tasks of a recipe need.

    Args:
        items: the item table; its column `intention`, if there is one, is used instead of the oracle.

    Returns:
        The inputs with `intentions` and `preferences`, each only if a task needs it and there is a source for it.

    Raises:
        TextError: the oracle has no answer.
    """
    needs = _needs(tasks)
    if "intention" in needs:
        inputs = replace(inputs, intentions=_intentions(inputs, items, tasks.oracle))
    if "preference" in needs and tasks.oracle is not None:
        inputs = replace(inputs, preferences=_preferences(inputs, items, tasks.oracle))
    return inputs


def oracle_of(oracle: Oracle) -> TextOracle:
    """Build the oracle of a recipe.

    Raises:
        TextError: it replays a missing cache, or uses a server that the user has not allowed.
    """
    if oracle.by == "template":
        return TemplateOracle()
    cache = Path(oracle.cache or "")
    if oracle.by == "replay":
        return ReplayOracle(cache, oracle.model)
    trusted_urls.require_trusted(oracle.url or "", "tasks.oracle.url")
    return ServerOracle(oracle.url or "", oracle.model or "", cache)


def _needs(tasks: Tasks) -> set[str]:
    loaded = [templates.load(task) for task in tasks.weights]
    return {need for task in loaded for needs in (task.needs, *(t.needs for t in task.train)) for need in needs}


def _intentions(inputs: TaskInputs, items: pa.Table, oracle: Oracle | None) -> pa.Array | None:
    if "intention" in items.column_names:
        texts = [sanitize(plain_text(text)) or None for text in items["intention"].to_pylist()]
        return pa.array(texts, pa.string())
    if oracle is None:
        return None
    question, traits = _questions()["intention"], item_traits(items)
    asks = [
        TextRequest(question.format(text=text), _FORMS[number % len(_FORMS)].format(" and ".join(of_item[:3]) or text))
        for number, (text, of_item) in enumerate(zip(inputs.texts.to_pylist(), traits, strict=True))
    ]
    return _complete(oracle, asks)


def _preferences(inputs: TaskInputs, items: pa.Table, oracle: Oracle) -> pa.Array:
    question, traits, titles = _questions()["preference"], item_traits(items), inputs.titles.to_pylist()
    asks = []
    for history in inputs.train:
        recent = [titles[item] for item in history[-RECENT:].tolist()]
        counts = Counter(trait for item in history.tolist() for trait in traits[item])
        liked = " and ".join(trait for trait, _ in counts.most_common(3)) or "all kinds of things"
        lately = f"; lately {recent[-1]}" if recent else ""
        asks.append(TextRequest(question.format(titles="; ".join(recent)), f"Mostly {liked}{lately}."))
    return _complete(oracle, asks)


def _complete(oracle: Oracle, asks: list[TextRequest]) -> pa.Array:
    return pa.array([sanitize(plain_text(text)) for text in oracle_of(oracle).complete(asks)], pa.string())


def item_traits(items: pa.Table) -> list[list[str]]:
    """Short values of each item's columns: genres, the last step of a category path, brand, year."""
    columns = [items[name].to_pylist() for name in items.column_names if name not in _NAMES]
    return [[trait for value in row for trait in _parts(value)] for row in zip(*columns, strict=True)] or [
        [] for _ in range(items.num_rows)
    ]


def _parts(value: object) -> list[str]:
    if isinstance(value, list):
        return [part for entry in value for part in _parts(entry)]
    if value is None or isinstance(value, float):  # a price such as 14.99 is not an intention
        return []
    words = sanitize(plain_text(str(value).rsplit(" > ", 1)[-1]))
    return [part for part in re.split(r"\s*[,;|]\s*", words) if part] if len(words) <= _SHORT else []


def _questions() -> dict[str, str]:
    questions: dict[str, str] = yaml.safe_load(
        (resources.folder("prompts") / "oracle.yaml").read_text(encoding="utf-8")
    )
    return questions
