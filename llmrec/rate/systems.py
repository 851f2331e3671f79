"""Systems of an experiment that use a language model: with prompts, zero-shot or few-shot, and fine-tuned."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np

from llmrec.files import hash_json
from llmrec.rate.answers import RatingAnswer, RatingEngine, answer_all, parse_rating
from llmrec.rate.cases import HISTORY_ORDERS, RatingCases, rating_templates, render_prompts
from llmrec.rate.experiment import Experiment, rating_metrics, slug
from llmrec.rate.finetune import FineTuning, fine_tune

Progress = Callable[[str, float], None]


def run_prompted(
    experiment: Experiment,
    model: str,
    engine: RatingEngine,
    shots: int,
    template_number: int,
    sensitivity: int,
    progress: Progress,
) -> list[str]:
    """Prompt a language model for every rating; save the parsed and, where it gives probabilities, the expected ones.

    Args:
        model: its name in the table.
        shots: solved examples before each question.
        template_number: number of the template, from 1.
        sensitivity: cases that are repeated with all templates and orders of the history; 0 for none.

    Returns:
        Names of the saved systems.

    Raises:
        TextError: an endpoint gives no answer.
    """
    ratings, cases = experiment.ratings, experiment.cases
    name = f"{model} {'zero-shot' if not shots else f'{shots}-shot'}"
    name += f" template {template_number}" if template_number > 1 else ""
    path = experiment.out / "answers" / f"{slug(engine.name)}.jsonl"

    def answers_to(cases: RatingCases, template_number: int, report: Callable[[float], None]) -> list[RatingAnswer]:
        prompts = render_prompts(ratings, cases, template_number, shots, experiment.seed)
        return answer_all(engine, prompts, path, report)

    answers = answers_to(cases, template_number, lambda done: progress("asking", done))
    facts = _answer_facts(answers, experiment) | {"template": template_number, "shots": shots, "engine": engine.name}
    predictions = _predictions(answers, experiment)
    changes: dict[str, dict[str, Any]] = {kind: {} for kind in predictions}
    if sensitivity:
        rows, some = _spread_cases(cases, sensitivity)
        variants = {f"template {number}": (some, number) for number in range(1, len(rating_templates()) + 1)}
        for order in HISTORY_ORDERS[1:]:
            variants[order] = some.with_history_order(order, experiment.seed), template_number
        for number, (variant, (varied, used)) in enumerate(variants.items()):
            varied_answers = answers_to(varied, used, lambda done: None)
            for kind, predicted in _predictions(varied_answers, experiment).items():
                if kind in predictions:
                    changes[kind][variant] = _change(experiment, varied, predicted, predictions[kind][rows])
            parsed = [parse_rating(answer.text, ratings.scale) is not None for answer in varied_answers]
            changes["parsed"][variant]["parse rate"] = round(float(np.mean(parsed)), 4)
            progress("variations", (number + 1) / len(variants))
    for kind, predicted in predictions.items():
        experiment.save(f"{name}, {kind}", predicted, facts | ({"sensitivity": changes[kind]} if sensitivity else {}))
    return [f"{name}, {kind}" for kind in predictions]


def run_fine_tuned(
    experiment: Experiment,
    model: str,
    base: str,
    tuning: FineTuning,
    sensitivity: int,
    progress: Progress,
    loaded: Any = None,
) -> list[str]:
    """Fine-tune a language model on a share of the training ratings; save its predictions.

    Returns:
        The name of the saved system.

    Raises:
        ModelError: see `fine_tune`.
    """
    over = "" if tuning.over == "mean" else f" over {tuning.over}"
    name, cases = f"{model} {tuning.head}{over}, {100 * tuning.share:g} %", experiment.cases
    # Other settings are other models, so the folder's name has a hash of them.
    folder = experiment.out / "tuned" / f"{slug(name)}-{hash_json(asdict(tuning))[:8]}"
    predictor, note = fine_tune(
        base, experiment.ratings, tuning, experiment.seed, folder, lambda done: progress("training", done), loaded
    )
    start = time.perf_counter()
    predicted = predictor.predict(cases)
    seconds = (time.perf_counter() - start) / len(cases)
    facts: dict[str, Any] = {"training": note, "seconds each": round(seconds, 5)}
    facts["prompt tokens each"] = round(predictor.prompt_tokens(cases), 1)
    if sensitivity:
        rows, some = _spread_cases(cases, sensitivity)
        facts["sensitivity"] = {}
        for order in HISTORY_ORDERS:
            varied = predictor.predict(some.with_history_order(order, experiment.seed))
            facts["sensitivity"][order] = _change(experiment, some, varied, predicted[rows])
    experiment.save(name, predicted, facts)
    return [name]


def _predictions(answers: list[RatingAnswer], experiment: Experiment) -> dict[str, np.ndarray]:
    """Parsed ratings, the training mean where there is none; and expected ones, if all answers have probabilities."""
    ratings = experiment.ratings
    parsed = [parse_rating(answer.text, ratings.scale) for answer in answers]
    predictions = {"parsed": np.array([ratings.mean if rating is None else rating for rating in parsed])}
    if all(answer.shares for answer in answers):
        predictions["expected"] = np.array([answer.shares for answer in answers]) @ ratings.scale.values
    return predictions


def _answer_facts(answers: list[RatingAnswer], experiment: Experiment) -> dict[str, Any]:
    """Parse rate, answers that could not be parsed, metrics of those that could, and cost."""
    scale = experiment.ratings.scale
    ratings = [parse_rating(answer.text, scale) for answer in answers]
    parsed = np.array([rating is not None for rating in ratings])
    metrics = {}
    if parsed.any():
        predicted = np.array([rating for rating in ratings if rating is not None])
        metrics = rating_metrics(predicted, experiment.truth[parsed], scale.liked_from)
    masses = [answer.mass for answer in answers if answer.mass is not None]
    unparsed = [answer.text for answer, rating in zip(answers, ratings, strict=True) if rating is None]
    return {
        "parse rate": round(float(parsed.mean()), 4),
        "over read answers alone": {name: round(value, 4) for name, value in metrics.items() if np.isfinite(value)},
        "not read, such as": unparsed[:5],
        "probability of ratings": round(float(np.mean(masses)), 4)
        if masses
        else "the model gives no log-probabilities",
        "prompt tokens each": round(float(np.mean([answer.prompt_tokens for answer in answers])), 1),
        "answer tokens each": round(float(np.mean([answer.answer_tokens for answer in answers])), 2),
        "seconds each": round(float(np.mean([answer.seconds for answer in answers])), 5),
        "asked again": int(sum(answer.tries - 1 for answer in answers)),
    }


def _spread_cases(cases: RatingCases, count: int) -> tuple[np.ndarray, RatingCases]:
    """Row numbers of at most `count` evenly spread cases, and these cases."""
    rows = np.unique(np.linspace(0, len(cases) - 1, min(count, len(cases))).astype(int))
    return rows, cases.take(rows)


def _change(experiment: Experiment, cases: RatingCases, predicted: np.ndarray, before: np.ndarray) -> dict[str, Any]:
    """Error of varied prompts, and how far they move predictions."""
    return {
        "cases": len(cases),
        "rmse": round(float(np.sqrt(np.mean((predicted - experiment.ratings.values[cases.events]) ** 2))), 4),
        "moved by": round(float(np.mean(np.abs(predicted - before))), 4),
    }
