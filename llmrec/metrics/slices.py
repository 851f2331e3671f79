"""Groups of test cases that a mean hides: popular and rare targets, items never seen in training, short histories."""

from __future__ import annotations

import numpy as np

from llmrec.contracts import Sequences

HEAD = 0.8
"""The head of a catalogue is its most popular items that together have this share of the training events."""


def slices(targets: np.ndarray, histories: Sequences, events_of_item: np.ndarray) -> dict[str, np.ndarray]:
    """Name → (cases,) bool. Head, tail and cold share out the cases among them; so do short and long.

    Args:
        targets: (cases,) held-out item of each case.
        histories: what was known before each case.
        events_of_item: (n_items,) training events of each item.
    """
    cold = events_of_item[targets] == 0
    head = is_head(events_of_item)[targets] & ~cold
    long = histories.lengths > np.median(histories.lengths) if len(histories) else np.zeros(0, bool)
    return {
        "head items": head,
        "tail items": ~head & ~cold,
        "cold items": cold,
        "short histories": ~long,
        "long histories": long,
    }


def is_head(events_of_item: np.ndarray) -> np.ndarray:
    """(n_items,) bool: the fewest most popular items with the share `HEAD` of events; equal counts stay together."""
    ordered = np.sort(events_of_item)[::-1]
    reached = np.searchsorted(np.cumsum(ordered), HEAD * ordered.sum())
    return (events_of_item >= max(ordered[min(reached, len(ordered) - 1)], 1)) if len(ordered) else np.zeros(0, bool)
