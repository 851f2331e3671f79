"""The layout of a run folder; no other module spells paths inside a run.

RUN/
  recipe.yaml                 the recipe, defaults filled in
  data/  items/  catalogue/   stages, each with a made.json that is written last
  collaborative/NAME/         a fitted collaborative model
  tasks/                      training examples
  train-N-METHOD/             a trained model (model/, log.jsonl, adapter/ …)
  evaluate-SPLIT/             figures of the last model on a held-out split
  catalogues/HASH/            catalogues with items added later
  logs/  report.html
  .lock  .work/               lock of the running process; files for resuming
"""

from __future__ import annotations

import re
from pathlib import Path

from llmrec.errors import RunError
from llmrec.recipe import Recipe
from llmrec.recipe_file import load
from llmrec.stage_record import RECORD_FILE

DATA, ITEMS, CATALOGUE, COLLABORATIVE, TASKS = "data", "items", "catalogue", "collaborative", "tasks"
TRAIN, EVALUATE = "train", "evaluate"
_TRAINING = re.compile(rf"{TRAIN}-([0-9]{{1,9}})-[a-z-]+")
_STAGE = re.compile(rf"{DATA}|{ITEMS}|{CATALOGUE}|{TASKS}|{EVALUATE}-(valid|test)|{_TRAINING.pattern}")


def training_name(number: int, method: str) -> str:
    """Return the name of a training stage; the first number is 1."""
    return f"{TRAIN}-{number}-{method}"


def evaluation_name(split: str) -> str:
    """Return the name of the evaluation on a split, valid or test."""
    return f"{EVALUATE}-{split}"


def collaborative_name(slug: str) -> str:
    """Return the name of the stage of a collaborative model."""
    return f"{COLLABORATIVE}/{slug}"


def model_of(trained: Path) -> Path:
    """Return the model folder of a training stage."""
    return trained / "model"


class RunFolder:
    """The paths of a run, which need not exist."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.recipe = path / "recipe.yaml"
        self.data = path / DATA  # interactions and items
        self.items = path / ITEMS  # texts of items and their vectors
        self.catalogue = path / CATALOGUE  # items and codes that the model is trained on
        self.catalogues = path / "catalogues"  # with items that were added later
        self.tasks = path / TASKS  # training examples
        self.report = path / "report.html"
        self.lock = path / ".lock"  # held by the process that makes the run
        self.work = path / ".work"  # checkpoints and other files of stages that are being made
        self.log = self.logs("launch.log")  # standard error of training processes that this machine started

    def stage(self, name: str) -> Path:
        """Return the folder of a stage, or a file in one (`data/items.parquet`)."""
        return self.path / name

    def logs(self, name: str) -> Path:
        """Return the path of logs of a stage."""
        return self.path / "logs" / name

    def evaluation(self, split: str) -> Path:
        """Return the evaluation folder of a split, valid or test."""
        return self.path / evaluation_name(split)

    @property
    def trained(self) -> list[Path]:
        """Folders of finished training stages, in order."""
        found = [path for path in self.path.glob(f"{TRAIN}-*") if _TRAINING.fullmatch(path.name)]
        whole = [path for path in found if (path / RECORD_FILE).is_file()]
        return sorted(whole, key=lambda path: int(path.name.split("-")[1]))

    @property
    def last_trained(self) -> Path:
        """Folder of the last finished training stage; RunError if there is none."""
        if not self.trained:
            raise RunError(f"{self.path} has no trained model. Make one with: llmrec run RECIPE --out {self.path}")
        return self.trained[-1]

    @property
    def stages(self) -> list[Path]:
        """Folders with the name of a stage, also if llmrec did not make them."""
        inside = sorted(self.path.iterdir()) if self.path.is_dir() else []
        fitted = self.path / COLLABORATIVE
        models = sorted(fitted.iterdir()) if fitted.is_dir() and not fitted.is_symlink() else []
        return [path for path in inside if _STAGE.fullmatch(path.name)] + models

    def is_run(self) -> bool:
        """Whether it has a recipe."""
        return self.recipe.is_file()

    def require_run(self) -> None:
        """Raise RunError if it has no recipe."""
        if not self.is_run():
            raise RunError(
                f"{self.path} is not a run folder: it has no recipe.yaml. Make one with: llmrec run quickstart"
            )


def default_run(recipe: Path, tiny: bool) -> Path:
    """Return the default run folder of a recipe file: `runs/NAME`, or `runs/NAME-tiny`."""
    return Path("runs") / (recipe.stem + ("-tiny" if tiny else ""))


def recipe_of(run: Path, overrides: tuple[str, ...] | list[str] = ()) -> Recipe:
    """Load the recipe of a run folder, with overrides.

    Raises:
        RunError: not a run folder.
        RecipeError: as `recipe_file.load`.
    """
    folder = RunFolder(run)
    folder.require_run()
    return load(folder.recipe, overrides)
