"""Words that few data sets have: what somebody wants who would be glad of an item, and what a user likes.

Both are written by the text oracle, from the catalogue and from training parts alone.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import yaml

from llmrec import resources, trusted_urls
from llmrec.items.text import plain
from llmrec.recipe import Oracle, Tasks
from llmrec.tasks import templates
from llmrec.tasks.inputs import TaskInputs
from llmrec.tasks.templates import sanitize
from llmrec.text.oracle import Ask, Replay, Server, TemplateOracle, TextOracle

RECENT = 10  # titles of a history that a preference is written from
_NAMES = {"item_id", "title", "description"}  # columns that say too much, or nothing, about what is wanted
_SHORT = 80  # characters of a value that can stand in a wish
_FORMS = ("I am looking for {}.", "Something with {}, please.", "Do you have {}?", "I would like {} this time.")


def worded(source: TaskInputs, items: pa.Table, tasks: Tasks) -> TaskInputs:
    """Add the intentions and preferences that the tasks of a recipe ask for.

    Args:
        source: the training part.
        items: the catalogue; a column `intention` of it is taken as it is.
        tasks: says which tasks have a weight, and which oracle writes.

    Returns:
        The source with `intentions` and `preferences`, each only where it is asked for and somebody writes it.

    Raises:
        TextError: the oracle has no answer.
    """
    wanted = _wanted(tasks)
    if "intention" in wanted:
        source = replace(source, intentions=_intentions(source, items, tasks.oracle))
    if "preference" in wanted and tasks.oracle is not None:
        source = replace(source, preferences=_preferences(source, items, tasks.oracle))
    return source


def oracle_of(oracle: Oracle) -> TextOracle:
    """The oracle that a recipe names.

    Raises:
        TextError: it replays a cache that is not there, or names a server that the user did not.
    """
    if oracle.by == "template":
        return TemplateOracle()
    cache = Path(oracle.cache or "")
    if oracle.by == "replay":
        return Replay(cache, oracle.model)
    trusted_urls.require_trusted(oracle.url or "", "tasks.oracle.url")
    return Server(oracle.url or "", oracle.model or "", cache)


def _wanted(tasks: Tasks) -> set[str]:
    found = [templates.load(task) for task in tasks.weights]
    return {need for template in found for need in template.needs} | {
        need for template in found for wording in template.train for need in wording.needs
    }


def _intentions(source: TaskInputs, items: pa.Table, oracle: Oracle | None) -> pa.Array | None:
    if "intention" in items.column_names:
        return pa.array([sanitize(plain(wish)) or None for wish in items["intention"].to_pylist()], pa.string())
    if oracle is None:
        return None
    question, known = _questions()["intention"], traits(items)
    asks = [
        Ask(question.format(text=text), _FORMS[number % len(_FORMS)].format(" and ".join(some[:3]) or text))
        for number, (text, some) in enumerate(zip(source.texts.to_pylist(), known, strict=True))
    ]
    return _written(oracle, asks)


def _preferences(source: TaskInputs, items: pa.Table, oracle: Oracle) -> pa.Array:
    question, known, titles = _questions()["preference"], traits(items), source.titles.to_pylist()
    asks = []
    for history in source.train:
        recent = [titles[item] for item in history[-RECENT:].tolist()]
        common = Counter(trait for item in history.tolist() for trait in known[item])
        liked = " and ".join(trait for trait, _ in common.most_common(3)) or "all kinds of things"
        lately = f"; lately {recent[-1]}" if recent else ""
        asks.append(Ask(question.format(titles="; ".join(recent)), f"Mostly {liked}{lately}."))
    return _written(oracle, asks)


def _written(oracle: Oracle, asks: list[Ask]) -> pa.Array:
    return pa.array([sanitize(plain(text)) for text in oracle_of(oracle).complete(asks)], pa.string())


def traits(items: pa.Table) -> list[list[str]]:
    """What each item is, in short words of its columns: genres, the last step of a category path, a brand, a year."""
    columns = [items[name].to_pylist() for name in items.column_names if name not in _NAMES]
    return [[trait for value in row for trait in _parts(value)] for row in zip(*columns, strict=True)] or [
        [] for _ in range(items.num_rows)
    ]


def _parts(value: object) -> list[str]:
    if isinstance(value, list):
        return [part for one in value for part in _parts(one)]
    if value is None or isinstance(value, float):  # nobody asks for 14.99
        return []
    words = sanitize(plain(str(value).rsplit(" > ", 1)[-1]))
    return [part for part in re.split(r"\s*[,;|]\s*", words) if part] if len(words) <= _SHORT else []


def _questions() -> dict[str, str]:
    found: dict[str, str] = yaml.safe_load((resources.folder("prompts") / "oracle.yaml").read_text(encoding="utf-8"))
    return found
