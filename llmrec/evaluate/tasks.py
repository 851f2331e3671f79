"""Evaluation of tasks other than ranking: a choice among few possible answers, and free text.

Choices (letters, codes on offer, yes or no, stars) are judged by how likely each answer is. Figures are over the
candidates of an example, so they say nothing about the whole catalogue. Beside the model stands what a random choice
would reach, or for ratings the mean rating of the training part.

P5's text tasks (explanations, summaries, headlines, ratings) are about events of the test part, in a wording that the
task was trained with; an answer is generated freely and greedily. Beside it stands the commonest answer of the training
part (for a rating, the mean): a model that has read nothing of the prompt can do as well as that.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from llmrec.data.dataset import Dataset
from llmrec.decode.exact import answer_scores
from llmrec.evaluate.files import CHOICES
from llmrec.files import write_json
from llmrec.indexing.catalogue import Catalogue
from llmrec.metrics.predictions import auc, bleu, mae, rmse, rouge
from llmrec.metrics.ranking import Places, hit, mrr, ndcg
from llmrec.metrics.significance import Interval, bootstrap, bootstrap_of
from llmrec.model.prompting import encode
from llmrec.recipe import Evaluate, Tasks
from llmrec.tasks import templates
from llmrec.tasks.builder import ExampleBuilder
from llmrec.tasks.choices import ChoiceExamples, TrainStats, choice_examples, held_out_inputs
from llmrec.tasks.inputs import TaskInputs

Figures = dict[str, Interval]
MODEL, RANDOM, MEAN = "model", "random choice", "mean rating"
HELD_OUT = "model, asked in a wording that training never saw"
ROOM = 64  # tokens that a written answer may have
_NUMBER = re.compile(r"\d+(?:[.,]\d+)?")


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
        data: split data set with its ratings, catalogue, and the items' texts.
        tasks: that the model was trained on.
        seed: of the sample of events, wrong candidates and intervals.

    Returns:
        What choices.json holds.

    Raises:
        DataError: nothing is held out.
    """
    source = held_out_inputs(*data, settings.split, settings.generation_cases, seed)
    known, tables = TrainStats.of(data[0]), []
    result: dict[str, Any] = {"protocol": _protocol(data[0], settings, seed), "tasks": {}}
    for number, task in enumerate(tasks.choices):
        found = choice_examples(task, source, known, tasks, settings.template, seed)
        result["tasks"][task] = _described(found, tasks)
        if found.rows.num_rows:

            def tell(done: float, number: int = number) -> None:
                progress((number + done) / len(tasks.choices))

            scores = answer_scores(model, tokenizer, found.rows.to_pylist(), found.answers, tell)
            systems = figures(found, scores, known.ratings, seed)
            if settings.template == "trained" and templates.load(task).held_out:
                other = choice_examples(task, source, known, tasks, "held-out", seed)
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


def figures(found: ChoiceExamples, scores: Sequence[np.ndarray], trained: np.ndarray, seed: int) -> dict[str, Figures]:
    """System → figures, of the model and of one that has not read the prompt.

    Args:
        scores: of each example, (answers,) log-probability in nats of each possible answer among these.
        trained: (events,) ratings of the training part.
    """
    if found.slot == "rating":
        steps, stars = np.array(found.values[0], np.float64), found.rows["label"].to_numpy().astype(np.float64)
        shares, mean = np.exp(np.stack(scores)), np.full(len(stars), trained.mean())
        nearest = np.full(len(stars), np.abs(steps - mean[0]).argmin())
        return {
            MODEL: _rating_errors(shares @ steps - stars, shares.argmax(axis=1) == found.target, seed),
            MEAN: _rating_errors(mean - stars, nearest == found.target, seed),
        }
    judge = _verdicts if found.slot == "verdict" else _ranks
    even = [np.full(len(row), -np.log(len(row))) for row in scores]
    return {MODEL: judge(scores, found.target, seed), RANDOM: judge(even, found.target, seed)}


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


def _rating_errors(errors: np.ndarray, correct: np.ndarray, seed: int) -> Figures:
    """Errors of expected ratings, in stars, and how often the likeliest rating is the right one."""
    squared = bootstrap(errors**2, seed)
    return {
        "rmse": Interval(*np.sqrt([squared.mean, squared.low, squared.high]).tolist()),
        "mae": bootstrap(np.abs(errors), seed),
        "accuracy": bootstrap(correct.astype(np.float64), seed),
    }


def _protocol(dataset: Dataset, settings: Evaluate, seed: int) -> dict[str, Any]:
    """What moves the figures of all tasks beside the model."""
    return {
        "split": dataset.facts.get("split", "leave-one-out"),
        "target": settings.split,
        "template": settings.template,
        "cases at most": settings.generation_cases,
        "answers": "probability of each possible answer and its end, divided by their sum",
        "intervals": "95 %, bootstrap over cases",
        "seed": seed,
    }


def _described(found: ChoiceExamples, tasks: Tasks) -> dict[str, Any]:
    """How many cases a task has, what is chosen from, and how wrong candidates are drawn."""
    counts = sorted(map(len, found.values))
    number = " to ".join(dict.fromkeys(str(count) for count in (*counts[:1], *counts[-1:])))
    of_items = {"letter": f"{number} items behind letters", "item": f"{number} items by their codes"}
    possible = " or ".join(found.values[0]) if found.values else ""
    drawn = f"{tasks.negatives}, of items that the user has not had"
    return {
        "cases": found.rows.num_rows,
        "candidates": of_items.get(found.slot, possible) if found.values else "none",
        "wrong candidates": "none" if found.slot == "rating" else drawn,
    }


def _table(found: ChoiceExamples, scores: Sequence[np.ndarray]) -> pa.Table:
    """A row for each case: the example, its possible answers, and their log-probabilities in nats."""
    kept = found.rows.select(["task", "user_id", "item_id", "prompt", "answer", "candidates", "label"])
    kept = kept.append_column("possible answers", pa.array(found.answers, pa.list_(pa.string())))
    return kept.append_column("log-probabilities", pa.array([row.tolist() for row in scores], pa.list_(pa.float64())))


def evaluate_writing(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    sources: tuple[TaskInputs, TaskInputs],
    data: str,
    tasks: Tasks,
    settings: Evaluate,
    seed: int,
    folder: Path,
    progress: Callable[[float], None] = lambda done: None,
) -> dict[str, Any]:
    """Generate answers about held-out events for each task and measure them; writes `writing.json`, `writing.parquet`.

    Args:
        sources: the training part, and the test part with its own events.
        data: name of the source, for the protocol.
        tasks: that the model was trained on; of them `settings.generation` are asked.
        seed: of the sample of events.

    Returns:
        What writing.json holds; a task that no held-out event has words for has 0 cases.
    """
    caveat = ": its words are made up, so the figures say that the path works and no more"
    protocol = {
        "data": data + (caveat if data == "synthetic data" else ""),
        "target": settings.split,
        "cases at most": settings.generation_cases,
        "template": settings.template,
        "decoding": f"greedy, {ROOM} tokens at most",
        "seed": seed,
    }
    result: dict[str, Any] = {"protocol": protocol, "tasks": {}}
    rows: list[pa.Table] = []
    shared = {"mixture": "none", "templates": "shortest" if tasks.templates == "shortest" else 1}
    held_out_template = settings.template == "held-out"
    for number, task in enumerate(settings.generation):
        before, cases = (
            _examples(
                Tasks.model_validate({**shared, task: 1.0, "max_examples": most}), source, seed, held_out_template
            )
            for source, most in zip(sources, ({}, {task: settings.generation_cases}), strict=True)
        )
        result["tasks"][task] = {"cases": 0}
        if cases.num_rows:
            wrote = _write(model, tokenizer, cases["prompt"].to_pylist())
            result["tasks"][task] = _measured(task, wrote, cases, before)
            kept = cases.select(["task", "user_id", "item_id", "prompt", "answer"])
            rows.append(kept.append_column("wrote", pa.array(wrote, pa.string())))
        progress((number + 1) / len(settings.generation))
    if rows:
        pq.write_table(pa.concat_tables(rows), folder / "writing.parquet")
    write_json(folder / "writing.json", result)
    return result


def _examples(tasks: Tasks, source: TaskInputs, seed: int, held_out_template: bool) -> pa.Table:
    """Examples of a task in one wording, one an event, a sample of them where the task is capped."""
    maker = ExampleBuilder(tasks, source, seed, held_out=held_out_template)
    return pa.concat_tables([maker.table(shard)[0] for shard in maker.shards()])


def _write(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[str], batch: int = 32
) -> list[str]:
    """The model's greedy continuation of each prompt, until it ends."""
    encoded = [encode(tokenizer, prompt) for prompt in prompts]
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    wrote = [""] * len(prompts)
    order = np.argsort([len(ids) for ids in encoded], kind="stable").tolist()
    for rows in (order[start : start + batch] for start in range(0, len(order), batch)):
        width = max(len(encoded[row]) for row in rows)
        ids = torch.tensor([[pad] * (width - len(encoded[row])) + encoded[row] for row in rows], device=model.device)
        mask = torch.tensor([[0] * (width - len(encoded[row])) + [1] * len(encoded[row]) for row in rows])
        with torch.inference_mode():
            out = model.generate(  # type: ignore[operator]  # transformers wraps it so that mypy sees a tensor
                ids,
                attention_mask=mask.to(model.device),
                max_new_tokens=ROOM,
                do_sample=False,
                pad_token_id=pad,
                eos_token_id=tokenizer.eos_token_id,
            )
        for row, text in zip(rows, tokenizer.batch_decode(out[:, width:], skip_special_tokens=True), strict=True):
            wrote[row] = text.strip()
    return wrote


def _measured(task: str, wrote: list[str], asked: pa.Table, before: pa.Table) -> dict[str, Any]:
    """Figures of the model and of one answer for all."""
    meant = [answer.strip() for answer in asked["answer"].to_pylist()]
    known = [answer.strip() for answer in before["answer"].to_pylist()]
    if task in ("rating", "review_rating"):
        stars, mean = np.array([float(answer) for answer in meant]), float(np.mean([float(answer) for answer in known]))
        said = [read_number(text) for text in wrote]
        read = np.array([mean if number is None else number for number in said])
        pairs = (("model", read), ("mean", np.full(len(read), mean)))
        systems = {name: {"rmse": rmse(values, stars), "mae": mae(values, stars)} for name, values in pairs}
        return {"cases": len(meant), "read as a number": sum(number is not None for number in said), "systems": systems}
    commonest = Counter(known).most_common(1)[0][0] if known else ""
    systems = {"model": _likeness(wrote, meant), "commonest": _likeness([commonest] * len(meant), meant)}
    return {"cases": len(meant), "systems": systems}


def read_number(text: str) -> float | None:
    """The first number in an answer; None without one."""
    found = _NUMBER.search(text)
    return float(found.group().replace(",", ".")) if found else None


def _likeness(texts: list[str], meant: list[str]) -> dict[str, float]:
    same = np.mean([text == reference for text, reference in zip(texts, meant, strict=True)])
    rouges = {name: float(values.mean()) for name, values in rouge(texts, meant).items()}
    return {"bleu": bleu(texts, meant), **rouges, "the very words": float(same)}
