"""Answers of language models to rating prompts: stored once, parsed strictly, and as probabilities of each rating.

A rating is one or more tokens. Ratings that begin with the same tokens share a path in a trie, so a model is called
only at the nodes of that trie: once for whole stars, a few times more for half stars. A rating that another one begins
with (3 and 3.5) has the probability of its path that no longer rating takes.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol

import numpy as np
from transformers import PreTrainedTokenizerBase

from llmrec.decode.exact import sum_paths
from llmrec.errors import ModelError, TextError
from llmrec.indexing.trie import ROOT, Trie
from llmrec.model.prompting import format_prompt
from llmrec.rate.ratings import RatingScale
from llmrec.text.oracle import AnswerCache

MAX_ANSWER_TOKENS = 16
"""Enough for a number and a few words around it."""
LABEL = "\nRating:"
"""End of a prompt to a base without a chat template, see `model/prompting`."""


@dataclass(frozen=True)
class RatingAnswer:
    """The answer to one prompt.

    Attributes:
        text: the greedy answer.
        shares: (steps,) probability of every rating of the scale, summing to 1; None where the model gives none.
        mass: total probability of all ratings among all possible answers, 0 to 1; None as `shares`.
        prompt_tokens, answer_tokens: as the engine counts them.
        seconds: of computation; for an answer of a batch, its part.
        tries: requests that were needed.
    """

    text: str
    shares: list[float] | None
    mass: float | None
    prompt_tokens: int
    answer_tokens: int
    seconds: float
    tries: int = 1


class RatingEngine(Protocol):
    """Runs a language model.

    Attributes:
        name: everything that an answer depends on beside the prompt; the key of stored answers.
    """

    name: str

    def answer(self, prompts: Sequence[str]) -> Iterator[tuple[int, RatingAnswer]]:
        """Yield the number of each prompt and its answer, in any order, as soon as it is known."""
        ...


def answer_all(
    engine: RatingEngine, prompts: Sequence[str], path: Path, progress: Callable[[float], None] = lambda done: None
) -> list[RatingAnswer]:
    """Answer each prompt: from stored answers, otherwise by the engine.

    Args:
        path: JSONL file of stored answers; each new one is added as soon as it is known.
        progress: called with the share of answered prompts.

    Raises:
        TextError: the file is damaged, or an endpoint gives no answer; earlier answers are kept.
    """
    cache, distinct = AnswerCache(path, engine.name), list(dict.fromkeys(prompts))
    missing = [prompt for prompt in distinct if cache.get(prompt) is None]
    done = len(distinct) - len(missing)
    for number, answer in engine.answer(missing) if missing else ():
        cache.add(missing[number], json.dumps(asdict(answer)))
        done += 1
        progress(done / len(distinct))
    try:
        return [RatingAnswer(**json.loads(cache.get(prompt) or "")) for prompt in prompts]
    except (ValueError, TypeError):
        raise TextError(f"{cache.path} holds an answer that this version cannot read. Delete it.") from None


@dataclass(frozen=True)
class RatingTokens:
    """The ratings of a scale as paths of a trie of tokens.

    Attributes:
        paths: tokens of each rating.
        trie: of the ratings that no other rating begins with; its symbols are tokens.
    """

    paths: tuple[tuple[int, ...], ...]
    trie: Trie

    @classmethod
    def build(cls, paths: Sequence[Sequence[int]]) -> RatingTokens:
        """Build the trie of some token sequences.

        Raises:
            ModelError: two ratings have the same tokens, or one has none.
        """
        whole = tuple(tuple(path) for path in paths)
        if len(set(whole)) != len(whole) or not all(whole):
            raise ModelError("the model's tokenizer writes two ratings of the scale with the same tokens.")
        prefixes = {path[:length] for path in whole for length in range(len(path))}
        longest = [path for path in whole if path not in prefixes]
        return cls(whole, Trie.build(longest, 1 + max(token for path in whole for token in path)))

    @classmethod
    def after(cls, tokenizer: PreTrainedTokenizerBase, prompt: str, scale: RatingScale) -> RatingTokens:
        """The ratings as a tokenizer writes them behind a prompt, which may differ from how it writes them alone."""
        before, _ = format_prompt(tokenizer, prompt, LABEL)
        base = list(tokenizer(before, add_special_tokens=False)["input_ids"])
        paths = []
        for label in scale.labels:
            text = label if tokenizer.chat_template else f" {label}"  # behind LABEL there is a space
            tokens = list(tokenizer(before + text, add_special_tokens=False)["input_ids"])
            same_start = tokens[: len(base)] == base
            paths.append(
                tokens[len(base) :] if same_start else list(tokenizer(text, add_special_tokens=False)["input_ids"])
            )
        return cls.build(paths)

    @cached_property
    def prefixes(self) -> tuple[tuple[int, ...], ...]:
        """Beginnings of ratings, shortest first; the first is the empty one."""
        prefixes = {path[:length] for path in self.paths for length in range(len(path))}
        return tuple(sorted(prefixes, key=lambda path: (len(path), path)))

    def next_tokens(self, prefix: tuple[int, ...]) -> list[int]:
        """Tokens that may follow a prefix, lowest first."""
        return self.trie.children(self.nodes([prefix]))[1].tolist()

    def probabilities(self, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probability of each rating.

        Args:
            scores: (rows, nodes) log-probability of every node of the trie, in nats.

        Returns:
            (rows, steps) probability of each rating among the ratings, and (rows,) total probability of the ratings
            among all answers. Where no rating is possible, all are equally probable.
        """
        nodes, of_nodes = self.nodes(self.paths), np.exp(scores.astype(np.float64))
        likelihoods = of_nodes[:, nodes]
        source, _, child = self.trie.children(nodes)
        np.subtract.at(likelihoods.T, source, of_nodes[:, child].T)  # longer ratings
        likelihoods = np.maximum(likelihoods, 0.0)
        mass = likelihoods.sum(axis=1)
        uniform = np.full_like(likelihoods, 1 / len(self.paths))
        shares = np.divide(likelihoods, mass[:, None], out=uniform, where=mass[:, None] > 0)
        return shares, np.minimum(mass, 1.0)

    def probabilities_of_steps(self, logprobs: Sequence[dict[int, float]]) -> tuple[list[float], float]:
        """Probability of each rating, as `probabilities`, for one prompt.

        Args:
            logprobs: for each of `prefixes`, token → log-probability in nats; a missing token is impossible, and
                tokens that begin no rating are not read.
        """
        source, tokens, child = self.trie.children(self.nodes(self.prefixes))
        scores = np.zeros((1, len(self.trie.start)))
        pairs = zip(source.tolist(), tokens.tolist(), strict=True)
        scores[0, child] = [logprobs[prefix].get(token, -np.inf) for prefix, token in pairs]
        shares, mass = self.probabilities(sum_paths(self.trie, scores))
        return shares[0].tolist(), float(mass[0])

    def nodes(self, paths: Sequence[tuple[int, ...]]) -> np.ndarray:
        """(paths,) int64 node of the trie that each path leads to."""
        nodes = np.full(len(paths), ROOT)
        for depth in range(max(map(len, paths))):
            longer = [number for number, path in enumerate(paths) if len(path) > depth]
            nodes[longer] = self.trie.child(nodes[longer], np.array([paths[number][depth] for number in longer]))
        return nodes


_DIGITS = {
    name: str(number)
    for number, name in enumerate(
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
    )
    if name != "one"
}
_ONE = re.compile(r"^\W*one\W*$|\bone(?=[\s-]*(?:stars?\b|out of|and a half))", re.I)  # not "no one can say"
_NUMBER = r"(?<![\w.,\-−+/])(\d+(?:[.,]\d{1,2})?)(?![\w%+°]|[.,]\d)"  # 1,000 is a thousand, not one
_NUMBER_ALONE = re.compile(r"\W*" + _NUMBER + r"\W*")
_FRACTION = re.compile(_NUMBER + r"\s*(?:/|out of|of|von|sur|de)\s*" + r"(\d+(?:[.,]0+)?)(?![\w%]|[.,]\d)")
_RANGE = re.compile(r"\d\s*(?:-|–|—|~|to|or|and|through|bis|…|\.\.+)\s*\d|\bbetween\b|\beither\b", re.I)
_NEGATIVE = re.compile(r"(?:^|[\s:(])[-−]\s*\d")
_MARKED = re.compile(
    r"\b(?:rating|score|answer|rate|verdict)\b\W*(?:(?:is|of|would be|will be|it|a|an|at|as|be|s)\b\W*)*" + _NUMBER,
    re.I,
)
_STARS = re.compile(_NUMBER + r"[\s-]*(?:stars?|sterne?|★|⭐)", re.I)
_STAR_SIGN = re.compile(r"[★⭐]\ufe0f?")
_HALF = re.compile(r"(\d)\s*(?:½|1/2|and a half\b)")
_THINKING = re.compile(r"<think>.*?(?:</think>|$)", re.S)


def parse_rating(answer: str, scale: RatingScale) -> float | None:
    """The rating that an answer states unambiguously, otherwise None.

    None for several different numbers, a range, a refusal or a number off the scale: it counts against the parse rate
    and is not guessed. A number between two steps is taken as it is (4.5 on a scale of whole stars), a fraction where
    it is of the highest rating (4/5), a row of star signs where their number is on the scale.
    """
    text = _normalise(answer)
    lines = [line for line in text.splitlines() if line.strip()]
    if [bool(_NUMBER_ALONE.fullmatch(line)) for line in lines][:2] == [True, False]:
        text = lines[0]  # the answer, and then an explanation
    if _NEGATIVE.search(text):
        return None
    fractions = [(_float(value), _float(whole)) for value, whole in _FRACTION.findall(text)]
    if fractions:
        values = {value for value, whole in fractions if whole == scale.high}
        return _single(values, scale) if len(values) == len(set(fractions)) else None
    if _RANGE.search(text):
        return None
    for pattern in (_STARS, _MARKED):
        if matches := pattern.findall(text):
            return _single({_float(value) for value in matches}, scale)
    if not re.search(r"\d", text):
        signs = len(_STAR_SIGN.findall(text))
        return _single({float(signs)}, scale) if signs else None
    numbers = re.findall(_NUMBER, text)
    digits = re.findall(r"\d+(?:[.,]\d+)*", text)
    return _single({_float(number) for number in numbers}, scale) if len(numbers) == len(digits) else None


def _normalise(answer: str) -> str:
    """Remove thinking and emphasis; write wide digits, number words and halves as plain decimals."""
    text = _THINKING.sub(" ", answer).replace("½", " 1/2")
    text = unicodedata.normalize("NFKC", text).replace("⁄", "/")
    text = re.sub(r"[*_`\"'“”]+", "", text)
    text = _ONE.sub("1", text)
    text = re.sub(r"\b(" + "|".join(_DIGITS) + r")\b", lambda word: _DIGITS[word[1].lower()], text, flags=re.I)
    return _HALF.sub(lambda half: f"{half[1]}.5", text)


def _single(values: set[float], scale: RatingScale) -> float | None:
    """The only value, where it is on the scale."""
    return next((value for value in values if scale.low <= value <= scale.high), None) if len(values) == 1 else None


def _float(text: str) -> float:
    return float(text.replace(",", "."))
