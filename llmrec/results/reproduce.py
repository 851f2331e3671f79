"""Reproduce a result: run its recipe again and compare the figures with the recorded intervals."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmrec.data.dataset import content_hash
from llmrec.errors import RecipeError, RunError
from llmrec.evaluate.files import read_metrics
from llmrec.files import read_json
from llmrec.recipe import Recipe
from llmrec.recipe_file import read
from llmrec.results.ledger import LEDGER, evaluate_test
from llmrec.run import execute
from llmrec.run.execute import Progress
from llmrec.run.layout import RunFolder
from llmrec.stage_record import read_record


@dataclass(frozen=True)
class RecordedResult:
    """One seed of a result: its recipe, the hash of its data, and metric → mean, low, high."""

    name: str
    recipe: Recipe
    data: str
    metrics: dict[str, dict[str, float]]
    commit: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Reproduced:
    """One metric of a result and of its reproduction.

    Attributes:
        was, low, high: recorded mean and its interval over users.
        now: mean of the reproduction.
    """

    was: float
    low: float
    high: float
    now: float

    @property
    def holds(self) -> bool:
        """Whether the reproduced mean lies in the interval."""
        return self.low <= self.now <= self.high


def read_result(path: Path, seed: int | None = None) -> RecordedResult:
    """Read one seed of a result.

    Args:
        path: results/NAME.json, as scripts/experiments/seeds.py writes it.
        seed: one of the result's seeds; the first if None.

    Raises:
        RunError: there is no such result or seed, it has no recipe, or the recipe no longer loads.
    """
    if not path.is_file():
        raise RunError(
            f"there is no result {path}. Name a file that scripts/experiments/seeds.py wrote, such as results/NAME.json"
        )
    result = read_json(path)
    if not isinstance(result.get("recipe"), dict) or "hash" not in result.get("data", {}):
        raise RunError(
            f"{path} pins no recipe and data, so it cannot be run again. Write it with: scripts/experiments/seeds.py"
        )
    by_seed = {entry["seed"]: entry for entry in result["figures"]["seeds"]}
    chosen = seed if seed is not None else result["seeds"][0]
    if chosen not in by_seed:
        raise RunError(f"{path} has no seed {chosen}. It has: {', '.join(map(str, by_seed))}")
    entry = by_seed[chosen]
    try:
        recipe = read(result["recipe"]["yaml"], Path(f"{path.name}: recipe"), [f"seed={chosen}"])
    except RecipeError as error:
        raise RunError(
            f"the recipe of {path} loads no more:\n{error}\nIt was run at commit {entry['commit']}: check that out."
        ) from None
    return RecordedResult(path.stem, recipe, entry["data hash"], entry["metrics"], entry["commit"], result["versions"])


def reproduce(
    result: RecordedResult, out: Path, ledger: Path = LEDGER, progress: Progress = lambda *done: None
) -> dict[str, Reproduced]:
    """Run the recipe of a result in a folder, resuming an earlier run, and evaluate it on the test part.

    Args:
        ledger: records the test evaluation if the recipe keeps its test part closed.

    Returns:
        Metric → recorded and reproduced figure.

    Raises:
        RunError: the data differ from those of the result.
    """
    run = RunFolder(out)
    execute.run(result.recipe, out, "data", progress)
    found = content_hash(run.data)
    if found != result.data:
        facts = read_record(run.data)["facts"]
        raise RunError(
            f"the data here differ from those of {result.name}: {facts['users']} users, {facts['items']} items, "
            f"{facts['interactions']} interactions; hash {found[:16]} and not {result.data[:16]}. Point LLMREC_DATA to "
            "the data that it was measured on."
        )
    closed = result.recipe.evaluate.split != "test"
    execute.run(result.recipe, out, "train" if closed else "evaluate", progress)
    if closed:
        evaluate_test(out, ledger, f"llmrec reproduce {result.name}", progress)
    metrics = read_metrics(run.evaluation("test"))
    now = metrics["systems"][metrics["model"]]
    return {
        metric: Reproduced(was["mean"], was["low"], was["high"], now[metric]["mean"])
        for metric, was in result.metrics.items()
    }
