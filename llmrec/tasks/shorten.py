"""A prompt that is too long loses the oldest items of its history, one after another, whole ones only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

_HISTORY = ("history", "title")

Row = dict[str, Any]  # prompt and slots of an example, as `to_pylist` gives them


def shorten(row: Row, window: int, tokens: Callable[[str], int]) -> Row:
    """Drop the oldest items of a history until an example fits, keeping one.

    Args:
        row: an example; its `slots` say where the items of its history stand.
        window: tokens that there is room for.
        tokens: how many tokens the example has with a given prompt.

    Returns:
        The example with as many items as fit; with one, or as it was where it has no history, even if that is too long.
    """
    pieces = [slot for slot in row["slots"] if slot["kind"] in _HISTORY]
    low, high = 0, max(0, len(pieces) - 1)  # fewer items never need more tokens: look for the least to drop by halves
    while low < high:
        middle = (low + high) // 2
        fits = tokens(without_oldest(row, middle)["prompt"]) <= window
        low, high = (low, middle) if fits else (middle + 1, high)
    return without_oldest(row, low)


def without_oldest(row: Row, count: int) -> Row:
    """An example whose history lacks its `count` oldest items, and what stood between them.

    Returns:
        A new row; its slots stand where they are now.
    """
    pieces = [slot for slot in row["slots"] if slot["kind"] in _HISTORY]
    if not count:
        return row
    start, stop = pieces[0]["start"], pieces[count]["start"]
    slots = []
    for slot in row["slots"]:
        if slot["start"] >= stop:
            slots.append(slot | {"start": slot["start"] - stop + start, "stop": slot["stop"] - stop + start})
        elif slot["start"] < start:
            slots.append(slot)
    return row | {"prompt": row["prompt"][:start] + row["prompt"][stop:], "slots": slots}
