"""Parts of the leaderboard page beside the board itself: ablations, what beams lose, how cost grows."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmrec.files import read_json

STAGES = ("data", "items", "catalogue", "tasks", "train-1-sft", "train-1-sft/eval", "evaluate-valid")
# An evaluation was in the folder of the training until runs had the layout 2.


def digits(value: float | None, sign: str = "") -> str:
    """Four digits behind the point, no nought before it."""
    return "" if value is None else f"{value:{sign}.4f}".replace("0.", ".", 1)


def all_parts(results: Path, source: str) -> list[str]:
    """Markdown of all parts that results of a data set give."""
    return [
        *(_ablations(path, told) for path, told in _of(results, "*-ablations.json", source)),
        *(_beams(path, told) for path, told in _of(results, "*-beams.json", source)),
        *(_growth(path, told) for path, told in _of(results, "growth-*.json", source)),
    ]


def _of(results: Path, pattern: str, source: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    for path in sorted(results.glob(pattern)):
        told = read_json(path)
        if told.get("source") == source and told["figures"]:
            yield path, told


def _ablations(path: Path, told: dict[str, Any]) -> str:
    name, figures = path.stem.removesuffix("-ablations"), told["figures"]
    best = sorted(figures["factors"].values(), key=lambda one: -one["difference"]["ndcg@10"]["mean"])
    rows = [f"| **{name}** | {_both(figures['base'])} | | | {figures['seconds']:.0f} |"]
    for one in best:
        mean, low, high = (digits(one["difference"]["ndcg@10"][name], "+") for name in ("mean", "low", "high"))
        rows.append(f"| {one['says']} | {_both(one['metrics'])} | {mean} | {low} to {high} | {one['seconds']:.0f} |")
    return (
        f"### One change at a time: {name}\n\n"
        f"[{path.name}](../results/{path.name}), {told['protocol']['users']} users of the validation part, seed "
        f"{told['seed']}; Δ is paired over users, change minus recipe, 95 %. `{told['command']}`\n\n"
        "| change | R@10 | N@10 | Δ N@10 | 95 % | seconds of training |\n|---|---|---|---|---|---|\n"
        + "\n".join(rows)
        + f"\n\n![Differences to the recipe](../results/{path.stem}.svg)\n"
    )


def _both(metrics: dict[str, Any]) -> str:
    return f"{digits(metrics['hr@10']['mean'])} | {digits(metrics['ndcg@10']['mean'])}"


def _beams(path: Path, told: dict[str, Any]) -> str:
    rows = [
        f"| {name} | {digits(one['hr@10'])} | {digits(one['ndcg@10'])} | {one['of the exact ten']:.3f} | "
        f"{one['seconds'] / told['users'] * 1000:.0f} |"
        for name, one in told["figures"].items()
    ]
    return (
        f"### What beams lose: {path.stem.removesuffix('-beams')}\n\n"
        f"[{path.name}](../results/{path.name}), {told['users']} users of the validation part.\n\n"
        "| beams | R@10 | N@10 | share of the exact ten | ms a user |\n|---|---|---|---|---|\n" + "\n".join(rows) + "\n"
    )


def _growth(path: Path, told: dict[str, Any]) -> str:
    stages = [stage for stage in STAGES if any(stage in one["seconds"] for one in told["figures"].values())]
    rows = [
        f"| {one['users']} | {one['interactions']} | " + " | ".join(_cost(one, stage) for stage in stages) + " |"
        for one in told["figures"].values()
    ]
    return (
        f"### How cost grows: {path.stem.removeprefix('growth-')}\n\n"
        f"[{path.name}](../results/{path.name}), {told['machine']['device']}: seconds, and peak MiB of the process.\n\n"
        f"| users | events | {' | '.join(stages)} |\n" + "|---" * (2 + len(stages)) + "|\n" + "\n".join(rows) + "\n\n"
        f"![Seconds by users](../results/{path.stem}.svg)\n"
    )


def _cost(one: dict[str, Any], stage: str) -> str:
    if stage not in one["seconds"]:
        return ""
    peak = one["peak MiB"].get(stage, {}).get("memory")
    return f"{one['seconds'][stage]:.0f} s" + (f", {peak}" if peak else "")
