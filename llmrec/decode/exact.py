"""Exact scores: the log-probability of every item of a catalogue, or of each of a few possible answers to a prompt.

The whole trie continues the prompt as one tree of query positions, in chunks that fit a memory budget. Within a chunk a
node attends to the prompt and to its own ancestors, so each prefix is computed once, not once per item. Of possible
answers, the tokens that all begin with are part of the prompt, and the rest of each is a path of a trie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmrec.decode.filters import BatchFilters, FilterList
from llmrec.decode.scorer import BranchState, Logits, Scorer
from llmrec.decode.search import NormalizeOver, check_normalize_over, segment_logsumexp
from llmrec.errors import ModelError
from llmrec.indexing.trie import ROOT, Trie
from llmrec.model.prompting import format_prompt
from llmrec.tasks.tokens import ExampleRow, SegmentTokenizer, fit_history

BATCH = 16  # prompts per batch of `answer_scores`
WIDEST = 512  # nodes per pass; beyond, attention between unrelated nodes costs more than a bigger pass saves


def score_all(
    scorer: Scorer,
    trie: Trie,
    token_ids: np.ndarray,
    prompts: Sequence[Sequence[int]],
    normalize_over: NormalizeOver = "catalogue",
    filters: FilterList = None,
    memory: int = 2**30,
) -> np.ndarray:
    """Log-probability of every item after every prompt; other arguments and errors as in `beam_search`.

    Args:
        memory: approximate bytes that one pass may take beside the model; the tree is cut into chunks to fit.

    Returns:
        (rows, items) float32 in nats, by item number; -inf where a filter denies the item.
    """
    check_normalize_over(normalize_over)
    batch_filters = BatchFilters(trie, filters, len(prompts))
    state = scorer.prefill(prompts, token_ids, trie.depth, normalize_over == "vocabulary")
    renormalizing = batch_filters if normalize_over == "allowed" else None
    scores = score_nodes(scorer, trie, state, normalize_over, renormalizing, memory)[:, trie.leaf[trie.position]]
    if batch_filters.any:
        rows, position = np.repeat(np.arange(len(prompts)), len(trie)), np.tile(trie.position, len(prompts))
        denied = batch_filters.count_allowed(rows, position, position + 1) == 0
        scores[denied.reshape(scores.shape)] = -np.inf
    return scores


def score_nodes(
    scorer: Scorer,
    trie: Trie,
    state: BranchState,
    normalize_over: NormalizeOver,
    filters: BatchFilters | None = None,
    memory: int = 2**30,
) -> np.ndarray:
    """Log-probability of every prefix of a code after every prompt; other arguments and errors as in `score_all`.

    Args:
        state: fresh from `prefill`, with `full_vocabulary` where probabilities are normalized over it; not changed.
        filters: those that probabilities are normalized over; None for none.

    Returns:
        (rows, nodes) float32 in nats, 0 at the root.
    """
    rows = len(state.lengths)
    filters = filters or BatchFilters(trie, None, rows)
    scores = np.zeros((rows, len(trie.start)), np.float32)
    _score_children(trie, filters, np.array([ROOT]), state.logits, scores)
    keys = state.attention_mask.shape[2] + WIDEST
    width = min(WIDEST, memory // max(1, rows * scorer.bytes_per_query(keys, len(state.token_ids))))
    for nodes in _chunks(trie, _nodes_to_run(trie, normalize_over), max(1, width)):
        logits = scorer.score_tree(state, trie.symbol[nodes], trie.depth_of(nodes), _ancestors(trie, nodes))
        _score_children(trie, filters, nodes, logits, scores)
    return sum_paths(trie, scores)


def sum_paths(trie: Trie, scores: np.ndarray) -> np.ndarray:
    """Log-probability of every node, from those given the parent; changes `scores` (rows, nodes) in place."""
    for first, last in zip(trie.level[1:-1], trie.level[2:], strict=True):
        scores[:, first:last] += scores[:, trie.parent[first:last]]
    return scores


def _nodes_to_run(trie: Trie, normalize_over: NormalizeOver) -> np.ndarray:
    """(n,) nodes below the root whose children need a forward pass, depth first."""
    inner = ~trie.is_leaf(np.arange(len(trie.start)))
    if normalize_over != "vocabulary":  # after a prefix of one item the rest has probability 1
        inner &= trie.stop - trie.start > 1
    inner[ROOT] = False
    nodes = np.flatnonzero(inner)
    return nodes[np.lexsort((nodes, trie.start[nodes]))]


def _chunks(trie: Trie, nodes: np.ndarray, width: int) -> Iterator[np.ndarray]:
    """Cut nodes into chunks of about `width`, each with the ancestors that an earlier chunk contained."""
    for begin in range(0, len(nodes), width):
        chunk, ancestors = nodes[begin : begin + width], []
        node = trie.parent[chunk[0]]
        while node != ROOT:
            ancestors.append(node)
            node = trie.parent[node]
        yield np.concatenate([np.array(ancestors[::-1], np.int64), chunk])


def _ancestors(trie: Trie, nodes: np.ndarray) -> np.ndarray:
    """(n, n) bool, whether the second node is the first or an ancestor of it."""
    start, stop = trie.start[nodes], trie.stop[nodes]
    inside = (start[None] <= start[:, None]) & (stop[:, None] <= stop[None])
    return inside & (nodes[None] <= nodes[:, None])  # a chain of only children has one range; numbers grow with depth


def _score_children(trie: Trie, filters: BatchFilters, nodes: np.ndarray, logits: Logits, scores: np.ndarray) -> None:
    """Write into `scores` (rows, nodes) the log-probability of each child of some nodes, given its parent."""
    rows = len(scores)
    source, symbol, child = trie.children(nodes)
    values = logits.grid(source, symbol)
    if filters.any:
        row, start, stop = np.repeat(np.arange(rows), len(child)), trie.start[child], trie.stop[child]
        count = filters.count_allowed(row, np.tile(start, rows), np.tile(stop, rows))
        values[count.reshape(rows, -1) == 0] = -np.inf
    total = segment_logsumexp(values, source) if logits.total is None else logits.totals()
    total[np.isneginf(total)] = 0  # no child is allowed
    scores[:, child] = values - total[:, source]


def answer_scores(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[ExampleRow],
    answers: Sequence[Sequence[str]],
    progress: Callable[[float], None] = lambda done: None,
) -> list[np.ndarray]:
    """Log-probability of each possible answer to each prompt, normalized over the possible answers of that prompt.

    Prompt, answer and end are tokenized as one text, as in training.

    Args:
        rows: examples with `prompt`, `slots` and `task`, as in `tasks.maker.SCHEMA`; from one that is longer than the
            model's window the oldest items of its history are dropped, as in training.
        answers: the possible answers to each, at least one, all different.
        progress: called with the fraction that is done, 0 to 1.

    Returns:
        For each example (answers,) float64 log-probabilities in nats; their exponentials sum to 1.

    Raises:
        ModelError: an example does not fit into the window even with one item of its history; or see `Scorer`.
        CodeError: two answers have the same tokens, or one begins with another and the tokenizer has no end token.
    """
    scorer, tokenize = Scorer(model), SegmentTokenizer(tokenizer, special=not tokenizer.chat_template)
    encoded = [_tokens(row, possible, tokenize, scorer.max_length) for row, possible in zip(rows, answers, strict=True)]
    groups: dict[tuple[tuple[int, ...], ...], list[int]] = {}  # answers → examples that have them
    for number, (_, endings) in enumerate(encoded):
        groups.setdefault(endings, []).append(number)
    scores, done = [np.zeros(0)] * len(encoded), 0
    for endings, numbers in groups.items():
        symbols = np.unique(np.concatenate(endings))
        trie = Trie.build([np.searchsorted(symbols, ending).tolist() for ending in endings], len(symbols))
        numbers.sort(key=lambda number: len(encoded[number][0]))
        for start in range(0, len(numbers), BATCH):
            batch = numbers[start : start + BATCH]
            prompts = [encoded[number][0] for number in batch]
            logprobs = score_all(scorer, trie, symbols, prompts, "vocabulary").astype(np.float64)
            logprobs -= np.logaddexp.reduce(logprobs, axis=1, keepdims=True)
            for number, row in zip(batch, logprobs, strict=True):
                scores[number] = row
            done += len(batch)
            progress(done / len(encoded))
    return scores


def _tokens(
    row: ExampleRow, answers: Sequence[str], tokenize: SegmentTokenizer, window: int
) -> tuple[list[int], tuple[tuple[int, ...], ...]]:
    """Tokens that all answers to a prompt share from the beginning, and the rest of each, at least one token."""
    tokenizer: Any = tokenize.tokenizer

    def encode(prompt: str) -> list[list[int]]:
        text, _ = format_prompt(tokenizer, prompt)
        encoded = tokenize(pa.array([f"{text}{answer}{tokenizer.eos_token or ''}" for answer in answers]))
        return [encoded.text(number)[0].tolist() for number in range(len(answers))]

    texts = encode(row["prompt"])
    if max(map(len, texts)) > window:
        texts = encode(fit_history(row, window, lambda prompt: max(map(len, encode(prompt))))["prompt"])
        if (longest := max(map(len, texts))) > window:
            raise ModelError(
                f"an example of '{row['task']}' has {longest} tokens but the model holds {window}. Lower "
                "tasks.history or tasks.candidates."
            )
    first, last = min(texts), max(texts)  # all texts share what these two share
    most = min(map(len, texts)) - 1
    shared = next((position for position in range(most) if first[position] != last[position]), most)
    return texts[0][:shared], tuple(tuple(text[shared:]) for text in texts)
