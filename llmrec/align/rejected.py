"""Where rejected items come from: anywhere, what is popular, what a teacher holds likeliest, the model's own beams."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmrec.align.moments import Moments
from llmrec.align.pairs import Candidates
from llmrec.contracts import CollaborativeModel
from llmrec.decode.scorer import Scorer
from llmrec.decode.search import beam_search
from llmrec.indexing.trie import Trie

BATCH = 32  # prompts that are searched together


def at_random(moments: Moments, draw: np.random.Generator) -> Candidates:
    """Any items, all alike."""
    return lambda rows, count: draw.integers(moments.n_items, size=(len(rows), count))


def popular(moments: Moments, draw: np.random.Generator) -> Candidates:
    """Items as often as training histories have them, and each once more."""
    counts = np.bincount(moments.train.items, minlength=moments.n_items) + 1.0
    upto = np.cumsum(counts) / counts.sum()

    def candidates(rows: np.ndarray, count: int) -> np.ndarray:
        found = np.searchsorted(upto, draw.random((len(rows), count)), side="right")
        return found.clip(max=moments.n_items - 1)

    return candidates


def taught(moments: Moments, teacher: CollaborativeModel) -> Candidates:
    """The likeliest items of a teacher that was fitted on the training part, after the history of each moment."""

    def candidates(rows: np.ndarray, count: int) -> np.ndarray:
        scores = np.array(teacher.score(moments.histories(rows)), np.float32)
        if not moments.again:
            for row, moment in enumerate(rows):
                scores[row, moments.history(int(moment))] = -np.inf
        return np.argsort(-scores, axis=1, kind="stable")[:, : min(count + _later(moments, rows), moments.n_items)]

    return candidates


def own_beams(
    moments: Moments, scorer: Scorer, trie: Trie, tokens: np.ndarray, prompts: Sequence[np.ndarray]
) -> Candidates:
    """The items that a model ranks first, searched as in serving, after the prompt of each moment."""

    def candidates(rows: np.ndarray, count: int) -> np.ndarray:
        width = min(count + _later(moments, rows), len(trie))
        found = np.full((len(rows), width), -1, np.int32)
        order = np.argsort([len(prompts[moment]) for moment in rows], kind="stable")  # like lengths share a batch
        for start in range(0, len(rows), BATCH):
            some = order[start : start + BATCH]
            asked = [prompts[moment].tolist() for moment in rows[some]]
            filters = moments.filters(rows[some], trie)
            found[some] = beam_search(scorer, trie, tokens, asked, width, filters=filters).items
        return found

    return candidates


def _later(moments: Moments, rows: np.ndarray) -> int:
    """The most items that any user of some moments still takes, which will be dropped."""
    return int((moments.train.lengths[moments.users[rows]] - moments.places[rows]).max())
