"""The rating that a model expects: the mean over the scale, weighed by how likely the model would say each rating.

Ratings are words of one or more tokens. Those that begin alike share a path in a trie, so the model is asked only at
the nodes of that trie: the prompt alone for whole stars, a few places more for half stars. Where a rating is the
beginning of another (3 and 3.5), it has the probability of its path that no longer one takes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from llmrec.errors import ModelError


@dataclass(frozen=True)
class Words:
    """The trie of a scale's ratings in one tokenizer.

    Attributes:
        paths: tokens of each rating.
        inner: paths that others go on from, shortest first; the first is the empty one.
    """

    paths: tuple[tuple[int, ...], ...]
    inner: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, paths: Sequence[Sequence[int]]) -> Words:
        """The trie of some token sequences.

        Raises:
            ModelError: two ratings have the same tokens, or one has none.
        """
        whole = tuple(tuple(path) for path in paths)
        if len(set(whole)) != len(whole) or not all(whole):
            raise ModelError("the model's tokenizer writes two ratings of the scale with the same tokens.")
        inner = {path[:place] for path in whole for place in range(len(path))}
        return cls(whole, tuple(sorted(inner, key=lambda path: (len(path), path))))

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

    def children(self, path: tuple[int, ...]) -> list[int]:
        """Tokens that may follow a path, lowest first."""
        place = len(path)
        return sorted({other[place] for other in self.paths if len(other) > place and other[:place] == path})


def shares(words: Words, logprobs: Sequence[dict[int, float]]) -> tuple[list[float], float]:
    """How likely each rating is.

    Args:
        logprobs: at each inner path, the log-probability in nats of each of its children; a missing one counts as
            impossible, other tokens as none of ours.

    Returns:
        The probability of each rating among the ratings, and that of any of them among all answers.
    """
    at = {
        path: {token: found[token] for token in words.children(path) if token in found}
        for path, found in zip(words.inner, logprobs, strict=True)
    }
    found = np.array([_likely(at, path) for path in words.paths])
    mass = float(found.sum())
    if mass <= 0:
        return [1 / len(found)] * len(found), 0.0
    return (found / mass).tolist(), min(mass, 1.0)


def _likely(at: dict[tuple[int, ...], dict[int, float]], path: tuple[int, ...]) -> float:
    steps = [at[path[:place]].get(path[place], -np.inf) for place in range(len(path))]
    longer = sum(np.exp(value) for value in at[path].values()) if path in at else 0.0
    return float(np.exp(sum(steps)) * max(0.0, 1 - longer))


def expected(shares_: np.ndarray, values: np.ndarray) -> np.ndarray:
    """(cases,) mean rating of (cases, steps) shares over (steps,) values."""
    return shares_ @ values
