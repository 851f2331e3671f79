"""The rating that a model expects: the mean over the scale, weighed by how likely the model would say each rating.

Ratings are words of one or more tokens. Those that begin alike share a path in a trie, so the model is asked only at
the nodes of that trie: the prompt alone for whole stars, a few places more for half stars. Where a rating is the
beginning of another (3 and 3.5), it has the probability of its path that no longer one takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from transformers import PreTrainedTokenizerBase

from llmrec.decode.exact import sum_paths
from llmrec.errors import ModelError
from llmrec.indexing.trie import ROOT, Trie


@dataclass(frozen=True)
class Words:
    """The ratings of a scale as paths of a trie, in one tokenizer.

    Attributes:
        paths: tokens of each rating.
        trie: of the ratings that are not the beginning of another; its symbols are tokens.
    """

    paths: tuple[tuple[int, ...], ...]
    trie: Trie

    @classmethod
    def of(cls, paths: Sequence[Sequence[int]]) -> Words:
        """The trie of some token sequences.

        Raises:
            ModelError: two ratings have the same tokens, or one has none.
        """
        whole = tuple(tuple(path) for path in paths)
        if len(set(whole)) != len(whole) or not all(whole):
            raise ModelError("the model's tokenizer writes two ratings of the scale with the same tokens.")
        beginnings = {path[:place] for path in whole for place in range(len(path))}
        longest = [path for path in whole if path not in beginnings]
        return cls(whole, Trie.build(longest, 1 + max(token for path in whole for token in path)))

    @classmethod
    def read(cls, tokenizer: PreTrainedTokenizerBase, before: str, words: Sequence[str]) -> Words:
        """Tokens of ratings as they stand after a text, where a tokenizer may write them in another way than alone."""
        special = {"add_special_tokens": False}
        base = list(tokenizer(before, **special)["input_ids"])
        paths = []
        for word in words:
            whole = list(tokenizer(before + word, **special)["input_ids"])
            kept = whole[: len(base)] == base
            paths.append(whole[len(base) :] if kept else list(tokenizer(word, **special)["input_ids"]))
        return cls.of(paths)

    @cached_property
    def inner(self) -> tuple[tuple[int, ...], ...]:
        """Paths that ratings go on from, shortest first; the first is the empty one."""
        found = {path[:place] for path in self.paths for place in range(len(path))}
        return tuple(sorted(found, key=lambda path: (len(path), path)))

    def children(self, path: tuple[int, ...]) -> list[int]:
        """Tokens that may follow a path, lowest first."""
        return self.trie.children(self.nodes([path]))[1].tolist()

    def shares(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """How likely each rating is.

        Args:
            scores: (rows, nodes) log-probability of every node of the trie, in nats.

        Returns:
            (rows, steps) probability of each rating among the ratings, and (rows,) that of any of them among all
            answers. Where no rating is possible, all are equally likely.
        """
        nodes, likely = self.nodes(self.paths), np.exp(scores.astype(np.float64))
        found = likely[:, nodes]
        source, _, child = self.trie.children(nodes)
        np.subtract.at(found.T, source, likely[:, child].T)  # longer ratings
        found = np.maximum(found, 0.0)
        mass = found.sum(axis=1)
        even = np.full_like(found, 1 / len(self.paths))
        return np.divide(found, mass[:, None], out=even, where=mass[:, None] > 0), np.minimum(mass, 1.0)

    def nodes(self, paths: Sequence[tuple[int, ...]]) -> np.ndarray:
        """(paths,) int64, the node of the trie that each path leads to."""
        nodes = np.full(len(paths), ROOT)
        for place in range(max(map(len, paths))):
            on = [number for number, path in enumerate(paths) if len(path) > place]
            nodes[on] = self.trie.child(nodes[on], np.array([paths[number][place] for number in on]))
        return nodes


def shares(words: Words, logprobs: Sequence[dict[int, float]]) -> tuple[list[float], float]:
    """How likely each rating is; see `Words.shares`.

    Args:
        words: the ratings.
        logprobs: at each inner path, the log-probability in nats of each of its children; a missing one counts as
            impossible, other tokens as none of ours.

    Returns:
        The probability of each rating among the ratings, and that of any of them among all answers.
    """
    trie = words.trie
    source, tokens, child = trie.children(words.nodes(words.inner))
    scores = np.zeros((1, len(trie.start)))
    pairs = zip(source.tolist(), tokens.tolist(), strict=True)
    scores[0, child] = [logprobs[at].get(token, -np.inf) for at, token in pairs]
    found, mass = words.shares(sum_paths(trie, scores))
    return found[0].tolist(), float(mass[0])


def expected(shares_: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(cases,) mean rating of (cases, steps) shares over (steps,) values."""
    return shares_ @ values
