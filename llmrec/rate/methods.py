"""The ways to get ratings from a language model: asked without examples or with some, or fine-tuned."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from llmrec.files import hash_json
from llmrec.rate.answers import Answer, Engine, answered
from llmrec.rate.cases import ORDERS, Cases
from llmrec.rate.expected import expected
from llmrec.rate.finetune import Training, fine_tune
from llmrec.rate.judge import Judge
from llmrec.rate.parse import parse
from llmrec.rate.prompts import render, wordings
from llmrec.rate.reader import FineTuned
from llmrec.rate.study import Study, slug

Progress = Callable[[str, float], None]
NONE_GIVEN = "the model gives no log-probabilities"


def asked(
    study: Study, model: str, engine: Engine, shots: int, wording: int, sensitivity: int, progress: Progress
) -> list[str]:
    """Ask a language model for every rating; keep what it said, and what it expected where probabilities can be had.

    Args:
        model: its name in the table.
        shots: solved examples before each question.
        wording: number of the wording, from 1.
        sensitivity: cases that are also asked in all other wordings and orders of the history; 0 for none.

    Returns:
        Names of the systems kept.

    Raises:
        TextError: an endpoint gives no answer.
    """
    ratings, cases = study.ratings, study.cases
    name = f"{model} {'zero-shot' if not shots else f'{shots}-shot'}" + (f" wording {wording}" if wording > 1 else "")
    file = study.out / "answers" / f"{slug(engine.name)}.jsonl"
    prompts = render(ratings, cases, wording, shots, study.seed)
    answers = answered(engine, prompts, file, lambda done: progress("asking", done))
    facts = _facts(answers, study) | {"wording": wording, "shots": shots, "engine": engine.name}
    predictions = _predictions(answers, study)
    if sensitivity:
        rows = np.unique(np.linspace(0, len(cases) - 1, min(sensitivity, len(cases))).astype(int))
        told = _sensitivity(study, engine, file, rows, wording, shots, predictions, progress)
    for way, predicted in predictions.items():
        more = {"sensitivity": told[way]} if sensitivity else {}
        study.keep(f"{name}, {way}", predicted, facts | more)
    return [f"{name}, {way}" for way in predictions]


def tuned(
    study: Study, model: str, base: str, training: Training, sensitivity: int, progress: Progress, loaded: Any = None
) -> list[str]:
    """Fine-tune a language model on a share of the training ratings, and let it predict.

    Returns:
        The name of the system kept.

    Raises:
        ModelError: see `fine_tune`.
    """
    over = "" if training.over == "mean" else f" over {training.over}"
    name = f"{model} {training.head}{over}, {100 * training.share:g} %"
    folder = study.out / "tuned" / f"{slug(name)}-{hash_json(asdict(training))[:8]}"  # other settings are other models
    predictor, note = fine_tune(
        base, study.ratings, training, study.seed, folder, lambda d: progress("training", d), loaded
    )
    begin = time.perf_counter()
    predicted = predictor.predict(study.cases)
    spent = (time.perf_counter() - begin) / len(study.cases)
    facts = {"training": note, "seconds each": round(spent, 5)}
    facts["prompt tokens each"] = round(predictor.prompt_tokens(study.cases), 1)
    if sensitivity:
        facts["sensitivity"] = _order_of(study, predictor, predicted, sensitivity)
    study.keep(name, predicted, facts)
    return [name]


def _predictions(answers: list[Answer], study: Study) -> dict[str, np.ndarray]:
    """What was said, the training mean where that was no rating; and what was expected, where all answers tell it."""
    said = [parse(answer.text, study.ratings.scale) for answer in answers]
    found = {"parsed": np.array([study.ratings.mean if one is None else one for one in said])}
    if all(answer.shares for answer in answers):
        found["expected"] = expected(np.array([answer.shares for answer in answers]), study.ratings.scale.values)
    return found


def _facts(answers: list[Answer], study: Study) -> dict[str, Any]:
    """Parse rate, what could not be read, figures over what could, cost."""
    scale = study.ratings.scale
    said = [parse(answer.text, scale) for answer in answers]
    read = np.array([one is not None for one in said])
    events = study.cases.events[read]
    over = {}
    if read.any():
        judge = Judge(study.ratings.given[events], study.ratings.users[events], scale.liked, study.seed, draws=1)
        figures = judge.figures(np.array([one for one in said if one is not None]))
        over = {metric: round(value, 4) for metric, value in figures.items() if np.isfinite(value)}
    masses = [answer.mass for answer in answers if answer.mass is not None]
    unread = [answer.text for answer, one in zip(answers, read, strict=True) if not one]
    return {
        "parse rate": round(float(read.mean()), 4),
        "over read answers alone": over,
        "not read, such as": unread[:5],
        "probability of ratings": round(float(np.mean(masses)), 4) if masses else NONE_GIVEN,
        "prompt tokens each": round(float(np.mean([answer.prompt_tokens for answer in answers])), 1),
        "answer tokens each": round(float(np.mean([answer.answer_tokens for answer in answers])), 2),
        "seconds each": round(float(np.mean([answer.seconds for answer in answers])), 5),
        "asked again": int(sum(answer.tries - 1 for answer in answers)),
    }


def _sensitivity(
    study: Study, engine: Engine, file: Path, rows: np.ndarray, wording: int, shots: int,
    before: dict[str, np.ndarray], progress: Progress,
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Way → variation → its error on some cases, and how far predictions move."""
    some = study.cases.take(rows)
    told = {f"wording {number}": (some, number) for number in range(1, len(wordings()) + 1)}
    told |= {order: (some.told(order, study.seed), wording) for order in ORDERS[1:]}
    found: dict[str, dict[str, Any]] = {way: {} for way in before}
    for place, (name, (cases, number)) in enumerate(told.items()):
        prompts = render(study.ratings, cases, number, shots, study.seed)
        answers = answered(engine, prompts, file)
        for way, predicted in _predictions(answers, study).items():
            if way in before:
                found[way][name] = _moved(study, some, predicted, before[way][rows])
                if way == "parsed":
                    read = [parse(answer.text, study.ratings.scale) is not None for answer in answers]
                    found[way][name]["parse rate"] = round(float(np.mean(read)), 4)
        progress("variations", (place + 1) / len(told))
    return found


def _order_of(study: Study, predictor: FineTuned, before: np.ndarray, count: int) -> dict[str, Any]:
    rows = np.unique(np.linspace(0, len(study.cases) - 1, min(count, len(study.cases))).astype(int))
    some = study.cases.take(rows)
    return {
        order: _moved(study, some, predictor.predict(some.told(order, study.seed)), before[rows]) for order in ORDERS
    }


def _moved(study: Study, cases: Cases, predicted: np.ndarray, before: np.ndarray) -> dict[str, Any]:
    error = predicted - study.ratings.given[cases.events]
    return {
        "cases": len(cases),
        "rmse": round(float(np.sqrt(np.mean(error**2))), 4),
        "moved by": round(float(np.mean(np.abs(predicted - before))), 4),
    }
