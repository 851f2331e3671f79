"""Evaluate tasks other than ranking: choices among few possible answers, and generated text.

Choices (letters, candidate codes, yes or no, ratings) are scored by the probability of each possible answer. Their
metrics are over the candidates of an example, not over the whole catalogue. The baseline is a random choice, or for
ratings the mean rating of the training part.

Generated text (explanations, summaries, headlines, ratings of P5) is about held-out events and decoded greedily. The
baseline is the most common answer of the training part, or the mean for ratings: what a model that ignores the prompt
could reach.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
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
from llmrec.metrics.ranking import Ranks, hit, mrr, ndcg
from llmrec.metrics.significance import Interval, bootstrap, bootstrap_of
from llmrec.model.prompting import encode_prompt
from llmrec.recipe import Evaluate, Tasks
from llmrec.tasks import templates
from llmrec.tasks.builder import ExampleBuilder
from llmrec.tasks.choices import ChoiceExamples, TrainStats, choice_examples, held_out_inputs
from llmrec.tasks.inputs import TaskInputs

Metrics = dict[str, Interval]
MODEL, RANDOM, MEAN = "model", "random choice", "mean rating"
HELD_OUT = "model, held-out template"
MAX_TOKENS = 64  # of a generated answer
_NUMBER = re.compile(r"\d+(?:[.,]\d+)?")


@dataclass(frozen=True)
class TaskEvaluator:
    """Evaluates a model on tasks other than ranking.

    Attributes:
        tasks: that the model was trained on.
        seed: of the sample of events, negatives and intervals.
        folder: where the files of the evaluation are written.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    tasks: Tasks
    settings: Evaluate
    seed: int
    folder: Path
    progress: Callable[[float], None] = lambda done: None

    def choices(self, dataset: Dataset, catalogue: Catalogue, texts: list[str]) -> dict[str, Any]:
        """Evaluate each task of `tasks.choices`; writes `choices.json` and, one row per case, `choices.parquet`.

        Args:
            dataset: split, with its ratings.
            texts: of the items.

        Returns:
            The content of choices.json.

        Raises:
            DataError: nothing is held out.
        """
        settings, names = self.settings, self.tasks.choices
        inputs = held_out_inputs(dataset, catalogue, texts, settings.split, settings.generation_cases, self.seed)
        stats, tables = TrainStats.of(dataset), []
        protocol = {
            "split": dataset.facts.get("split", "leave-one-out"),
            "target": settings.split,
            "template": settings.template,
            "cases at most": settings.generation_cases,
            "answers": "probability of each possible answer and its end, divided by their sum",
            "intervals": "95 %, bootstrap over cases",
            "seed": self.seed,
        }
        result: dict[str, Any] = {"protocol": protocol, "tasks": {}}
        for number, task in enumerate(names):
            examples = choice_examples(task, inputs, stats, self.tasks, settings.template, self.seed)
            result["tasks"][task] = _candidate_facts(examples, self.tasks)
            if not examples.rows.num_rows:
                continue
            scores = self._scores(examples, number / len(names), 1 / len(names))
            systems = choice_metrics(examples, scores, stats.ratings, self.seed)
            if settings.template == "trained" and templates.load(task).held_out:
                other = choice_examples(task, inputs, stats, self.tasks, "held-out", self.seed)
                other_scores = self._scores(other, (number + 1) / len(names), 0)
                systems[HELD_OUT] = choice_metrics(other, other_scores, stats.ratings, self.seed)[MODEL]
            result["tasks"][task]["systems"] = {
                system: {name: asdict(value) for name, value in values.items()} for system, values in systems.items()
            }
            tables.append(_case_table(examples, scores))
        if tables:
            pq.write_table(pa.concat_tables(tables), self.folder / "choices.parquet")
        write_json(self.folder / CHOICES, result)
        return result

    def _scores(self, examples: ChoiceExamples, start: float, share: float) -> list[np.ndarray]:
        """(answers,) log-probabilities of the possible answers of each example; progress is `start` + `share` of it."""
        rows = examples.rows.to_pylist()
        return answer_scores(
            self.model, self.tokenizer, rows, examples.answers, lambda done: self.progress(start + share * done)
        )

    def generation(self, train: TaskInputs, held_out: TaskInputs, source: str) -> dict[str, Any]:
        """Generate answers for each task of `evaluate.generation`; writes `writing.json` and `writing.parquet`.

        Args:
            held_out: the evaluated part with its own events.
            source: name of the data set, for the protocol.

        Returns:
            The content of writing.json; a task without held-out events has 0 cases.
        """
        settings = self.settings
        caveat = ": its words are made up, so the figures say that the path works and no more"
        protocol = {
            "data": source + (caveat if source == "synthetic data" else ""),
            "target": settings.split,
            "cases at most": settings.generation_cases,
            "template": settings.template,
            "decoding": f"greedy, {MAX_TOKENS} tokens at most",
            "seed": self.seed,
        }
        result: dict[str, Any] = {"protocol": protocol, "tasks": {}}
        tables: list[pa.Table] = []
        for number, task in enumerate(settings.generation, 1):
            examples = self._examples(task, held_out, {task: settings.generation_cases})
            result["tasks"][task] = {"cases": 0}
            if examples.num_rows:
                generated = self._generate(examples["prompt"].to_pylist())
                known = self._examples(task, train, {})["answer"].to_pylist()
                result["tasks"][task] = _text_metrics(task, generated, examples["answer"].to_pylist(), known)
                kept = examples.select(["task", "user_id", "item_id", "prompt", "answer"])
                tables.append(kept.append_column("wrote", pa.array(generated, pa.string())))
            self.progress(number / len(settings.generation))
        if tables:
            pq.write_table(pa.concat_tables(tables), self.folder / "writing.parquet")
        write_json(self.folder / "writing.json", result)
        return result

    def _examples(self, task: str, inputs: TaskInputs, most: dict[str, int]) -> pa.Table:
        """Examples of a task with one template, one per event, or a sample of them."""
        choice: Any = "shortest" if self.tasks.templates == "shortest" else 1
        single = {"mixture": "none", "templates": choice, task: 1.0, "max_examples": most}
        held_out = self.settings.template == "held-out"
        builder = ExampleBuilder(Tasks.model_validate(single), inputs, self.seed, held_out)
        return pa.concat_tables([builder.table(shard)[0] for shard in builder.shards()])

    def _generate(self, prompts: list[str], batch: int = 32) -> list[str]:
        """Greedy continuation of each prompt, up to its end token."""
        encoded = [encode_prompt(self.tokenizer, prompt) for prompt in prompts]
        eos, device = self.tokenizer.eos_token_id, self.model.device
        pad = self.tokenizer.pad_token_id if self.tokenizer.pad_token_id is not None else eos
        texts = [""] * len(prompts)
        order = np.argsort([len(ids) for ids in encoded], kind="stable").tolist()
        for rows in (order[start : start + batch] for start in range(0, len(order), batch)):
            width = max(len(encoded[row]) for row in rows)
            ids = torch.tensor([[pad] * (width - len(encoded[row])) + encoded[row] for row in rows], device=device)
            mask = torch.tensor([[0] * (width - len(encoded[row])) + [1] * len(encoded[row]) for row in rows])
            with torch.inference_mode():
                out = self.model.generate(  # type: ignore[operator]  # transformers wraps it so that mypy sees a tensor
                    ids,
                    attention_mask=mask.to(device),
                    max_new_tokens=MAX_TOKENS,
                    do_sample=False,
                    pad_token_id=pad,
                    eos_token_id=eos,
                )
            decoded = self.tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
            for row, text in zip(rows, decoded, strict=True):
                texts[row] = text.strip()
        return texts


def choice_metrics(
    examples: ChoiceExamples, scores: Sequence[np.ndarray], trained: np.ndarray, seed: int
) -> dict[str, Metrics]:
    """System → metrics, of the model and of a baseline that does not read the prompt.

    Args:
        scores: for each example, (answers,) log-probability in nats of each possible answer.
        trained: (events,) ratings of the training part.
    """
    if examples.slot == "rating":
        values, ratings = np.array(examples.values[0], np.float64), examples.rows["label"].to_numpy().astype(np.float64)
        probabilities, mean = np.exp(np.stack(scores)), np.full(len(ratings), trained.mean())
        nearest = np.full(len(ratings), np.abs(values - mean[0]).argmin())
        correct = probabilities.argmax(axis=1) == examples.target
        return {
            MODEL: _rating_metrics(probabilities @ values - ratings, correct, seed),
            MEAN: _rating_metrics(mean - ratings, nearest == examples.target, seed),
        }
    measure = _verdict_metrics if examples.slot == "verdict" else _rank_metrics
    uniform = [np.full(len(row), -np.log(len(row))) for row in scores]
    return {MODEL: measure(scores, examples.target, seed), RANDOM: measure(uniform, examples.target, seed)}


def _rank_metrics(scores: Sequence[np.ndarray], target: np.ndarray, seed: int) -> Metrics:
    """Rank of the right candidate among those of its example; ties count in expectation."""
    pairs = [(row, row[index]) for row, index in zip(scores, target, strict=True)]
    higher, equal = (np.array([compare(row, own).sum() for row, own in pairs]) for compare in (np.greater, np.equal))
    ranks = Ranks(higher, equal - 1)
    values = {"hr@1": hit(ranks, 1), "ndcg@5": ndcg(ranks, 5), "mrr": mrr(ranks)}
    return {name: bootstrap(value, seed) for name, value in values.items()}


def _verdict_metrics(scores: Sequence[np.ndarray], target: np.ndarray, seed: int) -> Metrics:
    """AUC, accuracy and log-loss of the probability of yes; ties count half, and one class alone has no AUC."""
    table, positive = np.stack(scores), target == 1
    margin = table[:, 1] - table[:, 0]
    metrics = {}
    if 0 < positive.sum() < len(positive):
        metrics["auc"] = bootstrap_of(lambda rows: auc(margin[rows], positive[rows]), len(positive), seed)
    metrics["accuracy"] = bootstrap(np.where(margin == 0, 0.5, (margin > 0) == positive), seed)
    metrics["log-loss"] = bootstrap(-table[np.arange(len(target)), target], seed)
    return metrics


def _rating_metrics(errors: np.ndarray, correct: np.ndarray, seed: int) -> Metrics:
    """RMSE and MAE of expected ratings, and how often the most likely rating is right."""
    squared = bootstrap(errors**2, seed)
    return {
        "rmse": Interval(*np.sqrt([squared.mean, squared.low, squared.high]).tolist()),
        "mae": bootstrap(np.abs(errors), seed),
        "accuracy": bootstrap(correct.astype(np.float64), seed),
    }


def _candidate_facts(examples: ChoiceExamples, tasks: Tasks) -> dict[str, Any]:
    """Number of cases, what the candidates are, and how the wrong ones are sampled."""
    counts = sorted(map(len, examples.values))
    number = " to ".join(dict.fromkeys(str(count) for count in (*counts[:1], *counts[-1:])))
    of_items = {"letter": f"{number} items behind letters", "item": f"{number} items by their codes"}
    possible = " or ".join(examples.values[0]) if examples.values else ""
    sampled = f"{tasks.negatives}, of items that the user has not had"
    return {
        "cases": examples.rows.num_rows,
        "candidates": of_items.get(examples.slot, possible) if examples.values else "none",
        "wrong candidates": "none" if examples.slot == "rating" else sampled,
    }


def _case_table(examples: ChoiceExamples, scores: Sequence[np.ndarray]) -> pa.Table:
    """One row per case: the example, its possible answers, and their log-probabilities in nats."""
    kept = examples.rows.select(["task", "user_id", "item_id", "prompt", "answer", "candidates", "label"])
    kept = kept.append_column("possible answers", pa.array(examples.answers, pa.list_(pa.string())))
    return kept.append_column("log-probabilities", pa.array([row.tolist() for row in scores], pa.list_(pa.float64())))


def _text_metrics(task: str, generated: list[str], answers: list[str], known: list[str]) -> dict[str, Any]:
    """Metrics of generated answers, and of the same constant answer for all, from `known` answers of training."""
    answers, known = [text.strip() for text in answers], [text.strip() for text in known]
    if task in ("rating", "review_rating"):
        ratings, mean = np.array([float(text) for text in answers]), float(np.mean([float(text) for text in known]))
        numbers = [read_number(text) for text in generated]
        predicted = np.array([mean if number is None else number for number in numbers])
        pairs = (("model", predicted), ("mean", np.full(len(predicted), mean)))
        return {
            "cases": len(answers),
            "read as a number": sum(number is not None for number in numbers),
            "systems": {name: {"rmse": rmse(values, ratings), "mae": mae(values, ratings)} for name, values in pairs},
        }
    most_common = Counter(known).most_common(1)[0][0] if known else ""
    systems = {"model": _overlap(generated, answers), "commonest": _overlap([most_common] * len(answers), answers)}
    return {"cases": len(answers), "systems": systems}


def read_number(text: str) -> float | None:
    """The first number in a text; None if there is none."""
    match = _NUMBER.search(text)
    return float(match.group().replace(",", ".")) if match else None


def _overlap(texts: list[str], references: list[str]) -> dict[str, float]:
    same = np.mean([text == reference for text, reference in zip(texts, references, strict=True)])
    rouges = {name: float(values.mean()) for name, values in rouge(texts, references).items()}
    return {"bleu": bleu(texts, references), **rouges, "the very words": float(same)}
