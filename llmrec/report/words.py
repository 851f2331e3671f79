"""Figures in words: what the intervals allow one to say, and no more."""

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
JUDGES = "This model was trained to judge candidates, not to recommend, so it has no figures over the whole catalogue."
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
    """A system's name as a reader knows it."""
    return NAMES.get(system, system)


def metric_name(metric: str) -> str:
    """`ndcg@10` as `NDCG@10`."""
    return metric.upper()


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def standing(low: float, high: float) -> str:
    """What an interval of model − baseline says: `better`, `worse`, or `not told apart` if it holds 0."""
    return "better" if low > 0 else "worse" if high < 0 else "not told apart"


def headline_metric(metrics: dict[str, Any]) -> str | None:
    """The metric that the headline speaks of: HR@10 where it was measured, else the first with paired intervals."""
    compared = [name for against in metrics.get("paired", {}).values() for name in against]
    return "hr@10" if "hr@10" in compared else next(iter(compared), None)


def verdict(metrics: dict[str, Any], metric: str) -> str:
    """One sentence: where the model stands against each baseline on one metric, by the paired intervals."""
    groups: dict[str, list[str]] = {"better": [], "not told apart": [], "worse": []}
    for system, against in metrics["paired"].items():
        if metric in against:
            groups[standing(against[metric]["low"], against[metric]["high"])].append(system_name(system))
    openings = {"better": "is better than", "not told apart": "cannot be told apart from", "worse": "is worse than"}
    clauses = [f"{openings[kind]} {listed(names)}" for kind, names in groups.items() if names]
    if not clauses:
        return f"On {metric_name(metric)}, {metrics['model']} was compared with nothing."
    return f"On {metric_name(metric)}, {metrics['model']} {listed(clauses)}."


def headline(metrics: dict[str, Any] | None) -> str:
    """The sentence at the top of the page."""
    if metrics is None:
        return "This run has not been evaluated yet, so nothing can be said about its recommendations."
    metric = headline_metric(metrics)
    if metric is None:
        return f"{metrics['model']} was measured, but compared with no baseline on the same users."
    return verdict(metrics, metric)


def second_opinion(metrics: dict[str, Any]) -> str | None:
    """Whether NDCG@10 agrees with the headline; None where it is the headline, or was not measured."""
    first, metric = headline_metric(metrics), "ndcg@10"
    if first in (None, metric) or not any(metric in against for against in metrics["paired"].values()):
        return None
    same = all(
        standing(a[first]["low"], a[first]["high"]) == standing(a[metric]["low"], a[metric]["high"])
        for a in metrics["paired"].values()
        if first in a and metric in a
    )
    return f"{metric_name(metric)} says the same." if same else verdict(metrics, metric)


def held_out_template(found: dict[str, Any]) -> str:
    """One sentence: the figures with a prompt that training never saw, and how far they are from the trained one's."""
    metric = "hr@10" if "hr@10" in found["figures"] else next(iter(found["figures"]))
    mean, by = found["figures"][metric]["mean"], found["difference"][metric]
    return (
        f"Asked in a wording that training never saw: {metric_name(metric)} {mean:.3f} on {found['cases']} cases, "
        f"{signed(by['mean'], 3)} ({signed(by['low'], 3)} to {signed(by['high'], 3)}) to the trained wording."
    )


def decimals(users: int) -> int:
    """Digits worth printing: one user more or less shows in the last one, about."""
    return 3 if users < 10_000 else 4


def signed(value: float, digits: int) -> str:
    """A difference with its sign, minus as typographers write it."""
    return f"{value:+.{digits}f}".replace("-", "−")


def number(value: Any) -> str:
    """Any value of a JSON file for a reader: thousands apart, yes and no, lists with commas."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}".replace(",", "\u202f")
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return ", ".join(number(v) for v in value)
    if isinstance(value, dict):
        return ", ".join(f"{key} {number(v)}" for key, v in value.items())
    return "–" if value is None else str(value)


def label(key: str) -> str:
    """A key of a JSON file for a reader."""
    return PROTOCOL.get(key) or key.replace("_", " ").capitalize()


def duration(seconds: float) -> str:
    """`8.2 s`, `3 min 20 s`, `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def training_words(log: list[dict[str, Any]]) -> str:
    """How a training went, from its log: loss from where to where, the best validation, and a divergence if any."""
    losses = [line for line in log if "loss" in line]
    if not losses:
        return "The log holds no loss."
    first, last = losses[0], losses[-1]
    if not math.isfinite(last["loss"]):
        return f"The loss is no longer a number at step {last['step']}: this training diverged."
    length = f"{number(last['step'])} steps" + (f" ({last['epoch']:.3g} epochs)" if "epoch" in last else "")
    text = f"In {length} the loss went from {first['loss']:.2f} to {last['loss']:.2f}."
    for key in validation_keys(log):
        best = max((line for line in log if key in line), key=lambda line: line[key])
        text += f" {metric_name(key.removeprefix('valid_'))} on validation was best at step {number(best['step'])}"
        text += f", {best[key]:.3f}."
    return text


def validation_keys(log: list[dict[str, Any]]) -> list[str]:
    """Names of the validation figures in a log, in the order they appear."""
    return list(dict.fromkeys(key for line in log for key in line if key.startswith("valid_")))
