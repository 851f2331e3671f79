"""Validation NDCG over wall time for two ways of feeding the same histories to the same model.

Ours: a history is one example, every item of it is supervised, examples are packed into rows. The field's (LC-Rec,
MiniOneRec): every prefix of every history is an example with its own prompt, its answer alone is supervised, and a
batch is padded to its longest. Both are trained by one bare loop with one loss that scores supervised positions only,
so neither pays for logits that it does not need; they take turns, so a busy machine slows both alike.

Part `feeding` of train.py.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

import train_bare as bare
import train_setting as setting
from llmrec import resources
from llmrec.data.dataset import Dataset
from llmrec.decode.filters import Filter
from llmrec.decode.scorer import Scorer
from llmrec.decode.search import beam_search
from llmrec.files import hash_json
from llmrec.metrics.ranking import RANKING, rank_in_lists
from llmrec.model.prompting import encode_prompt
from llmrec.recipe_file import load
from llmrec.seed import seed_everything, stream
from llmrec.tasks import templates
from llmrec.train.packing import IGNORE, PackedRows, collate
from shared import tell

AIM = 1 / 3
BUDGET = 330.0  # seconds that each way trains
USERS = 1000  # of validation, to measure on
# When to measure, as shares of the time that each way trains: close together at first, where curves are steep.
MARKS = (0.02, 0.04, 0.06, 0.09, 0.12, 0.16, 0.2, 0.25, 0.3, 0.36, 0.43, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)
WARM_STEPS = 100
OVERRIDES = [
    "data.source=amazon-beauty-2014",
    "items.text=[title, brand, category]",
    "items.missing_text=item-id",
    "indexing.width=256",
    "tasks.history=20",
    "tasks.passes=1",
    "tasks.mixture=none",
    "tasks.next_item=1",
    "tasks.item_to_text=0",
    "tasks.text_to_item=0",
    "tasks.templates=1",
    "tasks.loss_on=all-items",
    "model.dropout=0",
    "train.0.batch=64",
]


class Feed(Protocol):
    """Batches, one after another, without end."""

    def batch(self, step: int) -> bare.Batch:
        """The batch of a step, counted from 0."""
        ...


class Packed:
    """Ours: the run's own examples, packed; a new shuffle of rows every pass."""

    def __init__(self, ready: setting.Setting) -> None:
        longest = max(len(example.tokens) for example in ready.encoded)
        self.rows = PackedRows(ready.encoded, longest, stream(ready.recipe.seed, "pack", 1))
        self.size, self.seed = ready.recipe.train[0].batch, ready.recipe.seed

    def batch(self, step: int) -> bare.Batch:
        """As `Feed.batch`."""
        return collate([self.rows[row] for row in _taken(len(self.rows), self.size, step, self.seed)])


class Prefixes:
    """The field's: the items before each item of a history as a prompt, padded on the right."""

    def __init__(self, ready: setting.Setting, histories: Sequence[np.ndarray], prompts: Prompts) -> None:
        self.prompts, self.histories = prompts, histories
        self.size, self.seed = ready.recipe.train[0].batch, ready.recipe.seed
        self.end = ready.tokenizer.eos_token_id
        self.pairs = [(row, place) for row, history in enumerate(histories) for place in range(1, len(history))]

    def batch(self, step: int) -> bare.Batch:
        """As `Feed.batch`."""
        taken = [self.pairs[pair] for pair in _taken(len(self.pairs), self.size, step, self.seed)]
        return padded([self.example(self.histories[row], place) for row, place in taken], self.end)

    def example(self, history: np.ndarray, place: int) -> tuple[list[int], int]:
        """Tokens of one example, and how many of them at its end are the answer."""
        answer = [*self.prompts.codes[history[place]].tolist(), self.end]
        return self.prompts(history[:place].tolist()) + answer, len(answer)


class Prompts:
    """Tokens of the next-item prompt after a history of item numbers, put together from parts, which is quick."""

    def __init__(self, ready: setting.Setting) -> None:
        wording = templates.load("next_item").train[0].prompt
        self.head = encode_prompt(ready.tokenizer, wording.replace("{history}", ""))
        self.codes: np.ndarray = ready.tokens[ready.catalogue.codes]  # (items, levels)
        self.history = ready.recipe.tasks.history

    def __call__(self, history: Sequence[int]) -> list[int]:
        """Tokens after which an answer follows."""
        return self.head + self.codes[list(history[-self.history :])].ravel().tolist()


@dataclass
class Way:
    """One way of feeding at work: its model, how long it has trained, and what was measured.

    Attributes:
        seconds: of training, measuring left out.
        tokens: that the model has read, padding included.
        curve: seconds, steps and NDCG@10 of each measurement.
    """

    feed: Feed
    model: Any
    stage: Any
    steps: int = 0
    seconds: float = 0.0
    tokens: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)

    @cached_property
    def adam(self) -> torch.optim.AdamW:
        """The optimizer."""
        return bare.optimizer(self.model, self.stage)

    def advance(self, until: float) -> None:
        """Train until the clock of this way shows so many seconds; collating counts, as in any training."""
        self.model.train()
        while self.seconds < until:
            begin = time.perf_counter()
            batch = self.feed.batch(self.steps)
            rate = self.stage.learning_rate * min(1.0, (self.steps + 1) / WARM_STEPS)  # no schedule knows the end
            bare.step(self.model, batch, self.adam, rate, self.stage.precision)
            self.seconds += time.perf_counter() - begin
            self.steps += 1
            self.tokens += batch["input_ids"].numel()

    def save(self, path: Path) -> None:
        """Everything that going on needs."""
        about = {name: getattr(self, name) for name in ("steps", "seconds", "tokens", "curve")}
        state = {"model": self.model.state_dict(), "adam": self.adam.state_dict(), "about": about}
        torch.save(state, path.with_suffix(".partial"))
        path.with_suffix(".partial").replace(path)

    def load(self, path: Path) -> None:
        """Go on from what `save` wrote, where it wrote anything."""
        if path.is_file():
            state = torch.load(path, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.adam.load_state_dict(state["adam"])
            for name, value in state["about"].items():
                setattr(self, name, value)


def measure(work: Path) -> dict[str, Any]:
    """Train both ways for the same time, in turn, and read off when each first reaches the other's level.

    Args:
        work: folder for the prepared run and for going on after an interruption.
    """
    tell("data, codes, examples")
    ready = setting.prepare(load(resources.recipe_path("quickstart-text"), OVERRIDES), work / "beauty")
    return race(ready, work / f"feeding-{hash_json([OVERRIDES, BUDGET, MARKS])[:8]}", BUDGET, USERS)


def race(ready: setting.Setting, state: Path, budget: float, users: int) -> dict[str, Any]:
    """Both ways from the same weights, each `budget` seconds; an interrupted race goes on from its last measurement.

    Args:
        ready: a prepared run of nano.
        state: folder for what going on needs.
        budget: seconds that each way trains.
        users: of validation, to measure on.
    """
    judge, ways = Judge(ready, users), _ways(ready)
    state.mkdir(parents=True, exist_ok=True)
    for name, way in ways.items():
        way.load(state / f"{name}.pt")
    for mark in MARKS:
        for name, way in ways.items():
            if way.seconds < mark * budget:
                way.advance(mark * budget)
                figure = judge(way.model)
                way.curve.append({"seconds": round(way.seconds, 2), "steps": way.steps, "ndcg@10": round(figure, 5)})
                way.save(state / f"{name}.pt")
                tell(f"{name}, {way.seconds:.0f} s of {budget:.0f}: NDCG@10 {figure:.4f}")
    return _figures(ready, judge, ways, budget)


class Judge:
    """NDCG@10 on validation, over the whole catalogue, for a fixed sample of users; items of the history excluded."""

    def __init__(self, ready: setting.Setting, users: int) -> None:
        cases = Dataset.load(ready.run.data).cases("valid")
        chosen = np.sort(stream(0, "judge").permutation(len(cases.users))[:users])
        self.histories = [cases.histories[int(row)].tolist() for row in chosen]
        self.targets, self.ready, self.prompts = cases.targets[chosen], ready, Prompts(ready)

    def __call__(self, model: Any, batch: int = 100, beams: int = 20) -> float:
        """The mean over users."""
        model.eval()
        trie, found, scorer = self.ready.catalogue.trie, [], Scorer(model)
        for start in range(0, len(self.histories), batch):
            seen = self.histories[start : start + batch]
            filters = [Filter.of(trie, history) for history in seen]
            prompts = [self.prompts(history) for history in seen]
            found.append(beam_search(scorer, trie, self.ready.tokens, prompts, 10, beams, filters).items)
        return float(RANKING["ndcg"](rank_in_lists(np.concatenate(found), self.targets), 10).mean())


def _ways(ready: setting.Setting) -> dict[str, Way]:
    stage, device = ready.recipe.train[0], "cuda" if torch.cuda.is_available() else "cpu"
    histories = list(Dataset.load(ready.run.data).before("valid"))
    feeds: dict[str, Feed] = {"packed": Packed(ready), "prefixes": Prefixes(ready, histories, Prompts(ready))}
    ways = {}
    for name, feed in feeds.items():
        seed_everything(ready.recipe.seed)
        model = type(ready.model)(ready.model.config)
        model.load_state_dict(ready.model.state_dict())
        ways[name] = Way(feed, model.to(device), stage)
    return ways


def reached(curve: Sequence[dict[str, float]], level: float) -> float | None:
    """Seconds at the first measurement that is at the level or above; None where none is."""
    return next((point["seconds"] for point in curve if point["ndcg@10"] >= level), None)


def _figures(ready: setting.Setting, judge: Judge, ways: dict[str, Way], budget: float) -> dict[str, Any]:
    best = {name: max(point["ndcg@10"] for point in way.curve) for name, way in ways.items()}
    levels = {}
    for share in (0.5, 0.75, 0.9, 1.0):
        level = share * best["prefixes"]
        times = {name: reached(way.curve, level) for name, way in ways.items()}
        ours, theirs = times["packed"], times["prefixes"]
        levels[f"{share:.0%} of the best of prefixes"] = {
            "ndcg@10": round(level, 5),
            "seconds": times,
            "packed over prefixes": round(ours / theirs, 4) if ours and theirs else None,
        }
    return {
        "time to a level": levels,
        "aim": round(AIM, 4),
        "best ndcg@10": best,
        "validation users": len(judge.targets),
        "seconds of training each": budget,
        "steps": {name: way.steps for name, way in ways.items()},
        "tokens with padding": {name: way.tokens for name, way in ways.items()},
        "rows a step": ready.recipe.train[0].batch,
        "learning rate": ready.recipe.train[0].learning_rate,
        "parameters": sum(p.numel() for p in ready.model.parameters()),
        "curves": {name: way.curve for name, way in ways.items()},
    }


def padded(examples: Sequence[tuple[list[int], int]], fill: int) -> bare.Batch:
    """A batch padded on the right to its longest, answers supervised alone.

    Args:
        examples: tokens of each, and how many at the end are its answer.
        fill: token that fills up; never seen, since no position looks ahead.

    Returns:
        (rows, longest) input_ids and labels.
    """
    width = max(len(tokens) for tokens, _ in examples)
    ids = np.full((len(examples), width), fill, np.int64)
    labels = np.full((len(examples), width), IGNORE, np.int64)
    for row, (tokens, answer) in enumerate(examples):
        ids[row, : len(tokens)] = tokens
        labels[row, len(tokens) - answer : len(tokens)] = tokens[-answer:]
    return {"input_ids": torch.from_numpy(ids), "labels": torch.from_numpy(labels)}


def _taken(count: int, size: int, step: int, seed: int) -> list[int]:
    """What a step takes of a shuffled pass; the last step of a pass is short."""
    turn, place = divmod(step, -(-count // size))
    return _shuffled(count, seed, turn)[place * size : (place + 1) * size].tolist()


@lru_cache(maxsize=4)
def _shuffled(count: int, seed: int, turn: int) -> np.ndarray:
    return np.random.default_rng([seed, turn]).permutation(count)
