"""Tasks with few possible answers (letters, codes on offer, yes or no, stars), judged by how likely each answer is.

Figures are over the candidates of an example, so they say nothing about the whole catalogue. Beside the model stands
what a random choice would reach, or for ratings the mean rating of the training part.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmrec.data.dataset import Dataset
from llmrec.decode.exact import answer_scores
from llmrec.evaluate.files import CHOICES
from llmrec.files import write_json
from llmrec.indexing.catalogue import Catalogue
from llmrec.metrics.predictions import auc
from llmrec.metrics.ranking import Places, hit, mrr, ndcg
from llmrec.metrics.significance import Interval, bootstrap, bootstrap_of
from llmrec.recipe import Evaluate, Tasks
from llmrec.tasks import templates
from llmrec.tasks.choices import Examples, Known, examples, held_out

Figures = dict[str, Interval]
MODEL, RANDOM, MEAN = "model", "random choice", "mean rating"
HELD_OUT = "model, asked in a wording that training never saw"


def evaluate_choices(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    data: tuple[Dataset, Catalogue, list[str]],
    tasks: Tasks,
    settings: Evaluate,
    seed: int,
    folder: Path,
    progress: Callable[[float], None] = lambda done: None,
) -> dict[str, Any]:
    """Judge a model by each task of `tasks.choices`; writes `choices.json`, and every case into `choices.parquet`.

    Args:
        model: trained.
        tokenizer: with its item tokens.
        data: split data set with its ratings, catalogue, and the items' texts.
        tasks: that the model was trained on.
        settings: `target` is the split, `wording` that of the prompts, `writing_cases` the cases of a task at most.
        seed: of the sample of events, wrong candidates and intervals.
        folder: to write into.
        progress: called with the share done, 0 to 1.

    Returns:
        protocol; task → cases, candidates, how wrong ones are drawn, and system → figures, where there are cases.

    Raises:
        DataError: nothing is held out.
        PromptError: see `tasks.choices.examples`.
    """
    source = held_out(*data, settings.target, settings.writing_cases, seed)
    known, tables = Known.of(data[0]), []
    result: dict[str, Any] = {"protocol": _protocol(data[0], settings, seed), "tasks": {}}
    for number, task in enumerate(tasks.choices):
        found = examples(task, source, known, tasks, settings.wording, seed)
        result["tasks"][task] = _described(found, tasks)
        if found.rows.num_rows:

            def tell(done: float, number: int = number) -> None:
                progress((number + done) / len(tasks.choices))

            scores = answer_scores(model, tokenizer, found.rows.to_pylist(), found.answers, tell)
            systems = figures(found, scores, known.ratings, seed)
            if settings.wording == "trained" and templates.load(task).held_out:
                other = examples(task, source, known, tasks, "held-out", seed)
                again = answer_scores(model, tokenizer, other.rows.to_pylist(), other.answers, lambda done: None)
                systems[HELD_OUT] = figures(other, again, known.ratings, seed)[MODEL]
            result["tasks"][task]["systems"] = {
                system: {name: asdict(value) for name, value in values.items()} for system, values in systems.items()
            }
            tables.append(_table(found, scores))
    if tables:
        pq.write_table(pa.concat_tables(tables), folder / "choices.parquet")
    write_json(folder / CHOICES, result)
    return result


def figures(found: Examples, scores: Sequence[np.ndarray], trained: np.ndarray, seed: int) -> dict[str, Figures]:
    """System → figures, of the model and of one that has not read the prompt.

    Args:
        found: the examples, at least one.
        scores: of each example, (answers,) log-probability in nats of each possible answer among these.
        trained: (events,) ratings of the training part.
        seed: of the intervals.
    """
    if found.slot == "rating":
        steps, stars = np.array(found.pieces[0], np.float64), found.rows["label"].to_numpy().astype(np.float64)
        shares, mean = np.exp(np.stack(scores)), np.full(len(stars), trained.mean())
        nearest = np.full(len(stars), np.abs(steps - mean[0]).argmin())
        return {
            MODEL: _errors(shares @ steps - stars, shares.argmax(axis=1) == found.right, seed),
            MEAN: _errors(mean - stars, nearest == found.right, seed),
        }
    judge = _verdicts if found.slot == "verdict" else _ranks
    even = [np.full(len(row), -np.log(len(row))) for row in scores]
    return {MODEL: judge(scores, found.right, seed), RANDOM: judge(even, found.right, seed)}


def _ranks(scores: Sequence[np.ndarray], right: np.ndarray, seed: int) -> Figures:
    """Where the right candidate stands among those of its example; ties count in expectation."""
    pairs = [(row, row[place]) for row, place in zip(scores, right, strict=True)]
    higher, level = (np.array([compare(row, own).sum() for row, own in pairs]) for compare in (np.greater, np.equal))
    places = Places(higher, level - 1)
    values = {"hr@1": hit(places, 1), "ndcg@5": ndcg(places, 5), "mrr": mrr(places)}
    return {name: bootstrap(value, seed) for name, value in values.items()}


def _verdicts(scores: Sequence[np.ndarray], right: np.ndarray, seed: int) -> Figures:
    """How well the probability of yes tells right from wrong; equal ones count half, and one kind alone has no AUC."""
    table, liked = np.stack(scores), right == 1
    margin = table[:, 1] - table[:, 0]
    found = {}
    if 0 < liked.sum() < len(liked):
        found["auc"] = bootstrap_of(lambda rows: auc(margin[rows], liked[rows]), len(liked), seed)
    found["accuracy"] = bootstrap(np.where(margin == 0, 0.5, (margin > 0) == liked), seed)
    found["log-loss"] = bootstrap(-table[np.arange(len(right)), right], seed)
    return found


def _errors(errors: np.ndarray, correct: np.ndarray, seed: int) -> Figures:
    """Errors of expected ratings, in stars, and how often the likeliest rating is the right one."""
    squared = bootstrap(errors**2, seed)
    rmse = np.sqrt([squared.mean, squared.low, squared.high]).tolist()
    return {
        "rmse": Interval(*rmse),
        "mae": bootstrap(np.abs(errors), seed),
        "accuracy": bootstrap(correct.astype(np.float64), seed),
    }


def _protocol(dataset: Dataset, settings: Evaluate, seed: int) -> dict[str, Any]:
    """What moves the figures of all tasks beside the model."""
    return {
        "split": dataset.facts.get("split", "leave-one-out"),
        "target": settings.target,
        "wording": settings.wording,
        "cases at most": settings.writing_cases,
        "answers": "probability of each possible answer and its end, divided by their sum",
        "intervals": "95 %, bootstrap over cases",
        "seed": seed,
    }


def _described(found: Examples, tasks: Tasks) -> dict[str, Any]:
    """How many cases a task has, what is chosen from, and how wrong candidates are drawn."""
    counts = sorted(map(len, found.pieces))
    number = " to ".join(dict.fromkeys(str(count) for count in (*counts[:1], *counts[-1:])))
    of_items = {"letter": f"{number} items behind letters", "item": f"{number} items by their codes"}
    possible = " or ".join(found.pieces[0]) if found.pieces else ""
    drawn = f"{tasks.negatives}, of items that the user has not had"
    return {
        "cases": found.rows.num_rows,
        "candidates": of_items.get(found.slot, possible) if found.pieces else "none",
        "wrong candidates": "none" if found.slot == "rating" else drawn,
    }


def _table(found: Examples, scores: Sequence[np.ndarray]) -> pa.Table:
    """A row for each case: the example, its possible answers, and their log-probabilities in nats."""
    kept = found.rows.select(["task", "user_id", "item_id", "prompt", "answer", "candidates", "label"])
    kept = kept.append_column("possible answers", pa.array(found.answers, pa.list_(pa.string())))
    return kept.append_column("log-probabilities", pa.array([row.tolist() for row in scores], pa.list_(pa.float64())))
