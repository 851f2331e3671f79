"""Run a result's recipe again, and see whether its figures fall where they did."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from llmrec.data.dataset import content_hash
from llmrec.errors import RecipeError, RunError
from llmrec.evaluate.files import read_metrics
from llmrec.files import read_json
from llmrec.recipe import Recipe
from llmrec.recipe_file import read
from llmrec.results import ledger
from llmrec.run import execute
from llmrec.run.execute import Progress
from llmrec.run.layout import RunFolder
from llmrec.stage_record import read_record


@dataclass(frozen=True)
class Pinned:
    """One seed of a result: its recipe, the hash of its data, and metric → mean, low, high."""

    name: str
    recipe: Recipe
    data: str
    metrics: dict[str, dict[str, float]]
    commit: str
    versions: dict[str, str]


@dataclass(frozen=True)
class Figure:
    """A metric of both runs.

    Attributes:
        was, low, high: the result's, with the interval over users.
        now: of the run that repeats it.
    """

    was: float
    low: float
    high: float
    now: float

    @property
    def holds(self) -> bool:
        """Whether the repetition lies in the interval."""
        return self.low <= self.now <= self.high


def pinned(path: Path, seed: int | None = None) -> Pinned:
    """Read one seed of a result.

    Args:
        path: results/NAME.json, as scripts/experiments/seeds.py writes it.
        seed: one of the result's; its first otherwise.

    Raises:
        RunError: there is no such result or seed, it pins no recipe, or the recipe does not load any more.
    """
    if not path.is_file():
        raise RunError(
            f"there is no result {path}. Name a file that scripts/experiments/seeds.py wrote, such as results/NAME.json"
        )
    result = read_json(path)
    whole = isinstance(result.get("recipe"), dict) and "hash" in result.get("data", {})
    if not whole:
        raise RunError(
            f"{path} pins no recipe and data, so it cannot be run again. Write it with: scripts/experiments/seeds.py"
        )
    of = {one["seed"]: one for one in result["figures"]["seeds"]}
    chosen = seed if seed is not None else result["seeds"][0]
    if chosen not in of:
        raise RunError(f"{path} has no seed {chosen}. It has: {', '.join(map(str, of))}")
    one = of[chosen]
    try:
        recipe = read(result["recipe"]["yaml"], Path(f"{path.name}: recipe"), [f"seed={chosen}"])
    except RecipeError as error:
        raise RunError(
            f"the recipe of {path} loads no more:\n{error}\nIt was run at commit {one['commit']}: check that out."
        ) from None
    return Pinned(path.stem, recipe, one["data hash"], one["metrics"], one["commit"], result["versions"])


def reproduce(
    result: Pinned, out: Path, book: Path = ledger.BOOK, progress: Progress = lambda *done: None
) -> dict[str, Figure]:
    """Run it again into a folder, going on where an earlier run stopped, and judge it on the test part.

    Args:
        book: the ledger, where the recipe keeps its test part shut.

    Returns:
        Metric → figure.

    Raises:
        RunError: the data are others than the result's.
    """
    run = RunFolder(out)
    execute.run(result.recipe, out, "data", progress)
    found = content_hash(run.data)
    if found != result.data:
        facts = read_record(run.data)["facts"]
        raise RunError(
            f"the data here are others than those of {result.name}: {facts['users']} users, {facts['items']} items, "
            f"{facts['interactions']} interactions; hash {found[:16]} and not {result.data[:16]}. Point LLMREC_DATA to "
            "the data that it was measured on."
        )
    shut = result.recipe.evaluate.split != "test"
    execute.run(result.recipe, out, "train" if shut else "evaluate", progress)
    if shut:
        ledger.look(out, book, f"llmrec reproduce {result.name}", progress)
    metrics = read_metrics(run.evaluation("test"))
    now = metrics["systems"][metrics["model"]]
    return {
        metric: Figure(was["mean"], was["low"], was["high"], now[metric]["mean"])
        for metric, was in result.metrics.items()
    }
