"""Exact scores: the log-probability of every item of a catalogue, or of each of a few possible answers to a prompt.

The whole trie hangs on the prompt as one tree of query positions, walked in chunks that fit a memory budget. Within a
chunk a node attends to the prompt and to its own ancestors, so each prefix is computed once, not once an item. Of
possible answers, what all of a prompt begin with counts as the prompt, and what is left of each is a path of a trie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmrec.decode.filters import FilterList, Filters
from llmrec.decode.scorer import Branches, Logits, Scorer
from llmrec.decode.search import Normalise, check_normalise
from llmrec.errors import ModelError
from llmrec.indexing.trie import ROOT, Trie
from llmrec.model.prompting import wrap
from llmrec.tasks.shorten import Row, shorten
from llmrec.tasks.tokens import CodedTexts

TOGETHER = 16  # prompts of a batch of possible answers
WIDEST = 512  # nodes a pass; past this, attention between unrelated nodes costs more than a bigger pass saves


def score_all(
    scorer: Scorer,
    trie: Trie,
    token_ids: np.ndarray,
    prompts: Sequence[Sequence[int]],
    normalise: Normalise = "catalogue",
    filters: FilterList = None,
    memory: int = 2**30,
) -> np.ndarray:
    """Log-probability of every item after every prompt; other arguments and errors are `beam_search`'s.

    Args:
        memory: bytes that one pass may take, roughly, beside the model; the walk is cut into chunks to fit.

    Returns:
        (rows, items) float32 in nats, by item number; -inf where a filter denies the item.
    """
    check_normalise(normalise)
    sieve = Filters(trie, filters, len(prompts))
    state = scorer.prefill(prompts, token_ids, trie.depth, normalise == "vocabulary")
    changing = sieve if normalise == "allowed" else None
    ranking = score_nodes(scorer, trie, state, normalise, changing, memory)[:, trie.leaf[trie.position]]
    if sieve.any:
        rows, at = np.repeat(np.arange(len(prompts)), len(trie)), np.tile(trie.position, len(prompts))
        ranking[(sieve.count(rows, at, at + 1) == 0).reshape(ranking.shape)] = -np.inf
    return ranking


def score_nodes(
    scorer: Scorer,
    trie: Trie,
    state: Branches,
    normalise: Normalise,
    filters: Filters | None = None,
    memory: int = 2**30,
) -> np.ndarray:
    """Log-probability of every prefix of a code after every prompt; other arguments and errors are `score_all`'s.

    Args:
        state: fresh from `prefill`, with the whole vocabulary where `normalise` asks for it; left as it was.
        filters: those that change probabilities; None for none.

    Returns:
        (rows, nodes) float32 in nats, 0 at the root.
    """
    rows = len(state.lengths)
    filters = filters or Filters(trie, None, rows)
    scores = np.zeros((rows, len(trie.start)), np.float32)
    _score_children(trie, filters, np.array([ROOT]), state.logits, scores)
    slots = state.sees.shape[2] + WIDEST
    width = min(WIDEST, memory // max(1, rows * scorer.bytes_per_query(slots, len(state.token_ids))))
    for nodes in _chunks(trie, _open(trie, normalise), max(1, width)):
        logits = scorer.tree(state, trie.symbol[nodes], trie.depth_of(nodes), _above(trie, nodes))
        _score_children(trie, filters, nodes, logits, scores)
    return sum_paths(trie, scores)


def sum_paths(trie: Trie, scores: np.ndarray) -> np.ndarray:
    """Log-probability of every node, from that of each given its parent; `scores` (rows, nodes) is changed in place."""
    for first, last in zip(trie.level[1:-1], trie.level[2:], strict=True):
        scores[:, first:last] += scores[:, trie.parent[first:last]]
    return scores


def _open(trie: Trie, normalise: Normalise) -> np.ndarray:
    """(n,) nodes below the root whose children need a forward pass, depth first."""
    inner = ~trie.is_leaf(np.arange(len(trie.start)))
    if normalise != "vocabulary":  # what follows a prefix of one item is certain
        inner &= trie.stop - trie.start > 1
    nodes = np.flatnonzero(inner)[1:] if inner[ROOT] else np.flatnonzero(inner)
    return nodes[np.lexsort((nodes, trie.start[nodes]))]


def _chunks(trie: Trie, nodes: np.ndarray, width: int) -> Iterator[np.ndarray]:
    """Cut the walk into chunks of about `width` nodes, each with the ancestors that an earlier chunk had."""
    for begin in range(0, len(nodes), width):
        chunk, ancestors = nodes[begin : begin + width], []
        node = trie.parent[chunk[0]]
        while node != ROOT:
            ancestors.append(node)
            node = trie.parent[node]
        yield np.concatenate([np.array(ancestors[::-1], np.int64), chunk])


def _above(trie: Trie, nodes: np.ndarray) -> np.ndarray:
    """(n, n) bool, whether the second node is the first or an ancestor of it."""
    start, stop = trie.start[nodes], trie.stop[nodes]
    inside = (start[None] <= start[:, None]) & (stop[:, None] <= stop[None])
    return inside & (nodes[None] <= nodes[:, None])  # a chain of only children has one range; numbers grow with depth


def _score_children(trie: Trie, sieve: Filters, nodes: np.ndarray, logits: Logits, scores: np.ndarray) -> None:
    """Write into `scores` (rows, nodes) the log-probability of each child of some nodes, given its parent."""
    rows = len(scores)
    source, symbol, child = trie.children(nodes)
    values = logits.grid(source, symbol)
    if sieve.any:
        count = sieve.count(
            np.repeat(np.arange(rows), len(child)), np.tile(trie.start[child], rows), np.tile(trie.stop[child], rows)
        )
        values[count.reshape(rows, -1) == 0] = -np.inf
    if logits.total is not None:
        scores[:, child] = values - logits.totals()[:, source]
        return
    first = np.flatnonzero(np.diff(source, prepend=-1))
    top = np.maximum.reduceat(values, first, axis=1)
    top[np.isneginf(top)] = 0
    with np.errstate(divide="ignore"):
        total = top + np.log(np.add.reduceat(np.exp(values - top[:, source]), first, axis=1))
    scores[:, child] = np.where(
        np.isneginf(values), -np.inf, values - np.where(np.isneginf(total), 0, total)[:, source]
    )


def answer_scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    answers: Sequence[Sequence[str]],
    progress: Callable[[float], None] = lambda done: None,
) -> list[np.ndarray]:
    """How likely each possible answer to each prompt is, among the possible answers of that prompt.

    Prompt, answer and end are tokenized as one text, as in training.

    Args:
        rows: examples with `prompt`, `slots` and `task`, as `tasks.maker.SCHEMA` has them; one that is longer than the
            model's window loses the oldest items of its history, as in training.
        answers: the possible answers to each, at least one, all different.
        progress: called with the share done, 0 to 1.

    Returns:
        For each example (answers,) float64 log-probabilities in nats; their exponentials sum to 1.

    Raises:
        ModelError: an example does not fit into the window even with one item of its history; or see `Scorer`.
        CodeError: two answers have the same tokens, or one begins with another and the tokenizer has no end token.
    """
    scorer, tokenize = Scorer(model), CodedTexts(tokenizer, special=not tokenizer.chat_template)
    read = [_tokens(row, possible, tokenize, scorer.limit) for row, possible in zip(rows, answers, strict=True)]
    alike: dict[tuple[tuple[int, ...], ...], list[int]] = {}  # answers → examples that have them
    for number, (_, endings) in enumerate(read):
        alike.setdefault(endings, []).append(number)
    scores, done = [np.zeros(0)] * len(read), 0
    for endings, numbers in alike.items():
        symbols = np.unique(np.concatenate(endings))
        trie = Trie.build([np.searchsorted(symbols, ending).tolist() for ending in endings], len(symbols))
        numbers.sort(key=lambda number: len(read[number][0]))
        for start in range(0, len(numbers), TOGETHER):
            batch = numbers[start : start + TOGETHER]
            prompts = [read[number][0] for number in batch]
            found = score_all(scorer, trie, symbols, prompts, "vocabulary").astype(np.float64)
            found -= np.logaddexp.reduce(found, axis=1, keepdims=True)
            for number, row in zip(batch, found, strict=True):
                scores[number] = row
            done += len(batch)
            progress(done / len(read))
    return scores


def _tokens(
    row: Row, answers: Sequence[str], tokenize: CodedTexts, window: int
) -> tuple[list[int], tuple[tuple[int, ...], ...]]:
    """Tokens that all answers to a prompt share from the beginning, and those that each goes on with, at least one."""
    tokenizer: Any = tokenize.tokenizer

    def whole(prompt: str) -> list[list[int]]:
        text, _ = wrap(tokenizer, prompt)
        found = tokenize(pa.array([f"{text}{answer}{tokenizer.eos_token or ''}" for answer in answers]))
        return [found.text(number)[0].tolist() for number in range(len(answers))]

    texts = whole(row["prompt"])
    if max(map(len, texts)) > window:
        texts = whole(shorten(row, window, lambda prompt: max(map(len, whole(prompt))))["prompt"])
        if (longest := max(map(len, texts))) > window:
            raise ModelError(
                f"an example of '{row['task']}' has {longest} tokens but the model holds {window}. Lower tasks.history "
                "or tasks.candidates."
            )
    first, last = min(texts), max(texts)  # what these two share, all share
    most = min(map(len, texts)) - 1
    shared = next((place for place in range(most) if first[place] != last[place]), most)
    return texts[0][:shared], tuple(tuple(text[shared:]) for text in texts)
