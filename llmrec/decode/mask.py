"""One step of constrained decoding over a batch of anybody's decoder: which tokens each row may go on with."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from llmrec.decode.answers import Answers, Mode, Places
from llmrec.decode.filters import Filters


def mask(
    logits: Tensor,
    rows: np.ndarray,
    answers: np.ndarray,
    filters: Filters,
    reader: Answers,
    mode: Mode = "item",
    room: np.ndarray | None = None,
) -> np.ndarray:
    """Mask, in place, what may not come next.

    Args:
        logits: (batch, vocabulary), on any device.
        rows: (n,) the rows that these answers belong to; others are left alone.
        answers: (n, length) tokens since each answer began, padded by -1; see `Answers.reach`.
        filters: of these n rows.
        room: (n,) tokens that each row may still say; no item is begun that would be cut short. None: enough.

    Returns:
        (n,) bool, the rows that begin no allowed item; they may only end.
    """
    places = reader.read(answers, mode)
    filters = filters.without(places.row, places.position) if len(places.row) else filters
    row, token = _items(places, filters, reader)
    begin = _may_begin(len(rows), filters, reader, mode, room)
    parted = np.flatnonzero((places.fixed >= 0) & (begin | ~places.end))  # a separator once begun goes on
    ending = np.flatnonzero(places.end & ~places.free)
    said = np.bincount(np.concatenate([row, parted, ending]), minlength=len(rows))
    lost = (said == 0) & ~places.free
    ending = np.concatenate([ending, np.flatnonzero(lost)])
    if reader.end is None:
        ending = ending[:0]
    row = np.concatenate([row, parted, ending])
    token = np.concatenate([token, places.fixed[parted], np.full(len(ending), reader.end or 0)])
    _only(logits, rows[~places.free], rows[row], token)
    if places.free.any():
        _words(logits, rows, places.free, begin, reader)
    return lost


def _items(places: Places, filters: Filters, reader: Answers) -> tuple[np.ndarray, np.ndarray]:
    """(edges,) which answer, and (edges,) token, of every item token that may come."""
    going = np.flatnonzero(places.node >= 0)
    source, symbol, child = reader.trie.children(places.node[going])
    if filters.any:
        keep = filters.keep(going, places.node[going], source, child)
        source, symbol = source[keep], symbol[keep]
    return going[source], reader.tokens[symbol]


def _may_begin(n: int, filters: Filters, reader: Answers, mode: Mode, room: np.ndarray | None) -> np.ndarray:
    """(n,) bool, whether another item could be given, and said to its end."""
    need = reader.trie.depth + (1 if mode == "chat" else len(reader.separator))
    every = np.arange(n)
    left = filters.count(every, np.zeros(n, np.int64), np.full(n, len(reader.trie), np.int64)) > 0
    return left if room is None else left & (room >= need)


def _only(logits: Tensor, rows: np.ndarray, row: np.ndarray, token: np.ndarray) -> None:
    """Forbid all but some tokens in some rows."""
    place = (torch.from_numpy(row).to(logits.device), torch.from_numpy(token).to(logits.device))
    kept = logits[place]
    if len(rows) == len(logits):
        logits.fill_(-torch.inf)
    else:
        logits.index_fill_(0, torch.from_numpy(rows).to(logits.device), -torch.inf)
    logits[place] = kept


def _words(logits: Tensor, rows: np.ndarray, free: np.ndarray, begin: np.ndarray, reader: Answers) -> None:
    """Forbid item tokens among free words, ids that are no word, and a mention that no item could follow."""
    place = torch.from_numpy(rows[free]).to(logits.device)
    logits[place[:, None], torch.from_numpy(reader.tokens).to(logits.device)] = -torch.inf
    if reader.words is not None:
        logits[place, reader.words :] = -torch.inf
    if reader.mention is not None:
        logits[torch.from_numpy(rows[free & ~begin]).to(logits.device), reader.mention] = -torch.inf
