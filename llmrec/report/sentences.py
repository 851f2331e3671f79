"""Sentences, names and number formats of the report: claims only what the intervals support."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

NAMES = {
    "popularity": "popularity",
    "ease": "EASE",
    "ease-recent": "EASE on recent items",
    "markov": "Markov",
    "markov-ease": "Markov and EASE on recent items",
    "item-knn": "ItemKNN",
    "bpr": "BPR",
    "lightgcn": "LightGCN",
    "sasrec": "SASRec",
}
CHOICES_ONLY = (
    "This model was trained to judge candidates, not to recommend, so it has no metrics over the whole catalogue."
)
PROTOCOL = {
    "split": "Split",
    "target": "Held out",
    "candidates": "Candidates",
    "users": "Users",
    "exclude_seen": "Seen items left out",
    "beams": "Beams",
    "ties": "Ties",
}


def system_name(system: str) -> str:
    """Display name of a system."""
    return NAMES.get(system, system)


def metric_name(metric: str) -> str:
    """Display name of a metric: `NDCG@10`."""
    return metric.upper()


def join_names(names: Sequence[str]) -> str:
    """Join names as in prose: `a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def compare_interval(low: float, high: float) -> str:
    """Compare model and baseline by the interval of their difference; `not significant` if it contains 0."""
    return "better" if low > 0 else "worse" if high < 0 else "not significant"


def headline_metric(metrics: dict[str, Any]) -> str | None:
    """Metric of the headline: HR@10 if it was measured, else the first with paired differences; None without any."""
    compared = [name for against in metrics.get("paired", {}).values() for name in against]
    return "hr@10" if "hr@10" in compared else next(iter(compared), None)


def comparison(metrics: dict[str, Any], metric: str) -> str:
    """One sentence that compares the model with each baseline on one metric, by paired differences."""
    groups: dict[str, list[str]] = {"better": [], "not significant": [], "worse": []}
    for system, against in metrics["paired"].items():
        if metric in against:
            groups[compare_interval(against[metric]["low"], against[metric]["high"])].append(system_name(system))
    openings = {
        "better": "is better than",
        "not significant": "does not differ significantly from",
        "worse": "is worse than",
    }
    clauses = [f"{openings[kind]} {join_names(names)}" for kind, names in groups.items() if names]
    if not clauses:
        return f"On {metric_name(metric)}, {metrics['model']} was not compared with any baseline."
    return f"On {metric_name(metric)}, {metrics['model']} {join_names(clauses)}."


def headline(metrics: dict[str, Any] | None) -> str:
    """Sentence at the top of the page."""
    if metrics is None:
        return "This run has not been evaluated yet, so the quality of its recommendations is unknown."
    metric = headline_metric(metrics)
    if metric is None:
        return f"{metrics['model']} was evaluated, but not compared with a baseline on the same users."
    return comparison(metrics, metric)


def second_metric(metrics: dict[str, Any]) -> str | None:
    """Sentence whether NDCG@10 agrees with the headline; None if it is the headline metric or was not measured."""
    first, metric = headline_metric(metrics), "ndcg@10"
    if first in (None, metric) or not any(metric in against for against in metrics["paired"].values()):
        return None
    same = all(
        compare_interval(a[first]["low"], a[first]["high"]) == compare_interval(a[metric]["low"], a[metric]["high"])
        for a in metrics["paired"].values()
        if first in a and metric in a
    )
    return f"{metric_name(metric)} says the same." if same else comparison(metrics, metric)


def held_out_template(result: dict[str, Any]) -> str:
    """One sentence: metrics with the held-out template, and their difference to the trained template."""
    metric = "hr@10" if "hr@10" in result["figures"] else next(iter(result["figures"]))
    mean, change = result["figures"][metric]["mean"], result["difference"][metric]
    return (
        f"With a prompt template kept out of training: {metric_name(metric)} {mean:.3f} on {result['cases']} cases, "
        f"{signed(change['mean'], 3)} ({signed(change['low'], 3)} to {signed(change['high'], 3)}) compared with the "
        "trained template."
    )


def decimals(users: int) -> int:
    """Digits to print: the last one shows about one user more or less."""
    return 3 if users < 10_000 else 4


def signed(value: float, digits: int) -> str:
    """Format a difference with its sign and a typographic minus."""
    return f"{value:+.{digits}f}".replace("-", "−")


def format_value(value: Any) -> str:
    """Format a JSON value for a reader: thousands separated, booleans as yes and no, lists with commas."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(format_value(v) for v in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {format_value(v)}" for key, v in value.items())
    return "–" if value is None else str(value)


def format_key(key: str) -> str:
    """Format a JSON key for a reader."""
    return PROTOCOL.get(key) or key.replace("_", " ").capitalize()


def format_duration(seconds: float) -> str:
    """Format seconds: `8.2 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def training_summary(log: list[dict[str, Any]]) -> str:
    """Summarize a training log: first and last loss, best validation, and divergence."""
    losses = [line for line in log if "loss" in line]
    if not losses:
        return "The log has no loss."
    first, last = losses[0], losses[-1]
    if not math.isfinite(last["loss"]):
        return f"The loss is not a number at step {last['step']}: this training diverged."
    length = f"{format_value(last['step'])} steps" + (f" ({last['epoch']:.3g} epochs)" if "epoch" in last else "")
    text = f"In {length} the loss went from {first['loss']:.2f} to {last['loss']:.2f}."
    for key in validation_keys(log):
        best = max((line for line in log if key in line), key=lambda line: line[key])
        text += (
            f" {metric_name(key.removeprefix('valid_'))} on validation was best at step {format_value(best['step'])}"
        )
        text += f", {best[key]:.3f}."
    return text


def validation_keys(log: list[dict[str, Any]]) -> list[str]:
    """Names of the validation metrics in a log, in order of appearance."""
    return list(dict.fromkeys(key for line in log for key in line if key.startswith("valid_")))
