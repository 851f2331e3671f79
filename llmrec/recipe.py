"""Recipes: one YAML file says what a run does. Closed names, defaults filled in, errors with line and remedy.

A recipe is read into the models below. `key=value` overrides reach lists by number: `train.0.epochs=2`.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from llmrec.errors import RecipeError

Positive = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Baseline = Literal["popularity", "ease", "ease-recent", "markov"]
Metric = Annotated[str, Field(pattern=r"^(hr|ndcg|mrr)@[1-9]\d*$")]


class Part(BaseModel):
    """A part of a recipe: unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=False)


class Columns(Part):
    """How the columns of somebody's own files are called: our name → theirs."""

    user_id: str = "user_id"
    item_id: str = "item_id"
    timestamp: str | None = "timestamp"
    rating: str | None = None
    item_key: str | None = Field(None, description="the item file's id column, where it differs from item_id")
    title: str | None = Field(None, description="the item file's column to be called title")


class Data(Part):
    """Where interactions and items come from, how they are cleaned and split."""

    source: Literal["ml-100k", "ml-latest-small", "amazon-beauty-2014", "amazon-games-2018", "files"] = "ml-100k"
    interactions: str | None = Field(None, description="source: files — a CSV, TSV, JSONL or Parquet file")
    items: str | None = Field(None, description="source: files — a CSV, TSV, JSONL or Parquet file")
    columns: Columns = Columns()
    delimiter: Annotated[str, Field(min_length=1, max_length=1)] | None = Field(
        None, description="CSV: what stands between columns; seen in the header otherwise"
    )
    encoding: str | None = Field(None, description="of files that are not UTF-8; Windows-1252 otherwise")
    day_first: bool | None = Field(None, description="whether 3/4/2021 is in April; seen in the column otherwise")
    core: Annotated[int, Field(ge=0)] = Field(0, description="drop users and items with fewer events, repeatedly")
    max_users: Positive | None = Field(None, description="keep a seeded sample of the users")
    max_bad_rows: Annotated[int, Field(ge=0)] = Field(0, description="malformed rows to drop before giving up")
    split: Literal["leave-one-out"] = "leave-one-out"

    @model_validator(mode="after")
    def _files_are_named(self) -> Data:
        if self.source == "files" and not (self.interactions and self.items):
            raise ValueError("source: files needs both `interactions` and `items`, each the path of a file")
        return self


class Items(Part):
    """What text stands for an item, and which encoder turns it into a vector."""

    text: Annotated[list[str], Field(min_length=1)] = ["title"]
    encoder: Literal["minilm-l6", "hashing"] = "minilm-l6"
    missing_text: Literal["refuse", "item-id"] = Field("refuse", description="what to do with items that have no text")


class Indexing(Part):
    """How an item becomes a short code of tokens."""

    method: Literal["rq-kmeans"] = "rq-kmeans"
    levels: Annotated[int, Field(ge=1, le=8)] = 3
    width: Annotated[int, Field(ge=2, le=65536)] = 256
    separate: Literal["last-level"] = "last-level"
    spares: Annotated[int, Field(ge=0)] = Field(
        8, description="unused tokens kept on the separating level for new items"
    )


class Tasks(Part):
    """Which prompts the model learns from."""

    next_item: Annotated[float, Field(ge=0)] = Field(
        1.0, description="weight: histories, once per window and epoch at 1"
    )
    item_to_text: Annotated[float, Field(ge=0)] = Field(1.0, description="weight: code → text, once per item at 1")
    text_to_item: Annotated[float, Field(ge=0)] = Field(1.0, description="weight: text → code, once per item at 1")
    history: Annotated[int, Field(ge=1)] = Field(20, description="items of a history that a prompt holds, newest kept")
    supervise: Literal["history", "answer"] = "history"
    windows: Positive = Field(1, description="how often each event is seen per pass, from windows cut elsewhere")


class Model(Part):
    """The language model that is trained."""

    base: str = Field("nano", description="nano (from scratch), embedded:NAME, a folder, or a hub name")
    vocabulary: Annotated[int, Field(ge=300)] = Field(2000, description="nano: pieces of its own tokenizer")
    width: Positive = Field(128, description="nano: hidden size")
    layers: Positive = Field(4, description="nano: decoder layers")
    heads: Positive = Field(4, description="nano: attention heads; width / heads is 32 or 64")
    dropout: Share = Field(0.1, description="nano: dropout while training")
    adapt: Literal["full", "lora"] = "full"
    rank: Positive = Field(16, description="lora: rank of the adapters")
    start: str | None = Field(
        default=None, alias="from", description="a run folder: go on from its model, keeping its codes (weekly refresh)"
    )
    tiny: bool = Field(False, description="two layers of the base's family with random weights, no hub (set by --tiny)")

    @property
    def name(self) -> str:
        """What to call the model in tables."""
        return self.base.rsplit("/", 1)[-1].removeprefix("embedded:")

    @model_validator(mode="after")
    def _head_size(self) -> Model:
        if self.base == "nano" and (self.width % self.heads or self.width // self.heads not in (32, 64)):
            raise ValueError(
                f"width / heads must be 32 or 64 so that vLLM can serve the model, not {self.width} / {self.heads}"
            )
        if self.base == "nano" and self.adapt != "full":
            raise ValueError("adapt: lora needs a pretrained base; nano is trained from scratch (adapt: full)")
        return self


class Sft(Part):
    """Supervised fine-tuning."""

    method: Literal["sft"] = "sft"
    epochs: Annotated[float, Field(gt=0)] = 1.0
    batch: Positive = Field(32, description="packed rows per step")
    row_tokens: Annotated[int, Field(ge=16)] | None = Field(
        None, description="tokens of a packed row; the window otherwise"
    )
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 0.1
    warmup: Share = 0.05
    precision: Literal["fp32", "bf16"] = "fp32"
    save_every: Positive = Field(200, description="steps between checkpoints")


class Evaluate(Part):
    """How recommendations are judged: whole catalogue, every test user, item level."""

    ranking: Annotated[list[Metric], Field(min_length=1)] = ["hr@5", "ndcg@5", "hr@10", "ndcg@10", "hr@20", "ndcg@20"]
    beams: Positive = 50
    batch: Positive = 32
    exclude_seen: bool = True
    wording: Literal["trained", "held-out"] = Field(
        "held-out", description="prompt with a wording seen in training, or not"
    )
    baselines: list[Baseline] = ["popularity", "ease", "ease-recent", "markov"]

    @model_validator(mode="after")
    def _beams_reach(self) -> Evaluate:
        deepest = max(int(metric.split("@")[1]) for metric in self.ranking)
        if self.beams < deepest:
            raise ValueError(f"beams: {self.beams} cannot rank the {deepest} items that `ranking` asks for")
        return self


class Recipe(Part):
    """Everything a run does."""

    seed: Annotated[int, Field(ge=0)] = 42
    data: Data = Data()
    items: Items = Items()
    indexing: Indexing = Indexing()
    tasks: Tasks = Tasks()
    model: Model = Model()
    train: Annotated[list[Sft], Field(min_length=1)] = [Sft()]
    evaluate: Evaluate = Evaluate()


def load(path: Path, overrides: tuple[str, ...] | list[str] = (), tiny: bool = False) -> Recipe:
    """Read a recipe, apply overrides, fill in defaults.

    Args:
        path: the YAML file.
        overrides: `key=value` texts; keys are dotted, lists are reached by number, values are YAML.
        tiny: shrink to the same shape with a very small model and at most 200 users.

    Raises:
        RecipeError: what is wrong, with file, line and the nearest right name.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read the recipe {path}: {error}") from error
    values = _parse(text, path)
    for override in overrides:
        _override(values, override)
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        raise RecipeError(_explain(error, text, path)) from None
    recipe = _anchor_files(recipe, path)
    return shrink(recipe) if tiny else recipe


def dump(recipe: Recipe) -> str:
    """The recipe as YAML, every default written out."""
    return yaml.safe_dump(recipe.model_dump(mode="json", by_alias=True), sort_keys=False, allow_unicode=True, width=110)


def shrink(recipe: Recipe) -> Recipe:
    """The same recipe at a size that proves the path and not the numbers (`--tiny`)."""

    def change(part: Any, **values: Any) -> Any:
        return type(part).model_validate({**part.model_dump(by_alias=True), **values})

    nano = {"width": 64, "heads": 2, "layers": 2, "vocabulary": min(recipe.model.vocabulary, 600)}
    adapted = {"rank": min(recipe.model.rank, 4), "tiny": True}
    return change(
        recipe,
        data=change(recipe.data, max_users=min(recipe.data.max_users or 200, 200)),
        indexing=change(recipe.indexing, width=min(recipe.indexing.width, 16)),
        tasks=change(recipe.tasks, history=min(recipe.tasks.history, 10)),
        model=change(recipe.model, **(nano if recipe.model.base == "nano" else adapted)),
        train=[
            change(stage, epochs=min(stage.epochs, 1.0), batch=8, save_every=min(stage.save_every, 10))
            for stage in recipe.train
        ],
    )


def _anchor_files(recipe: Recipe, path: Path) -> Recipe:
    """File names in a recipe are relative to the recipe, not to where the command is typed."""

    def absolute(name: str | None) -> str | None:
        return None if name is None else str((path.parent / Path(name).expanduser()).resolve())

    files = {"interactions": absolute(recipe.data.interactions), "items": absolute(recipe.data.items)}
    return recipe.model_copy(update={"data": recipe.data.model_copy(update=files)})


def _parse(text: str, path: Path) -> dict[str, Any]:
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RecipeError(f"{path} is not valid YAML: {error}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise RecipeError(f"{path} must be a mapping of keys such as `seed: 42`, not a {type(values).__name__}.")
    return values


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals:
        raise RecipeError(f"the override '{override}' has no '='. Write it as key=value, such as train.0.epochs=2")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise RecipeError(f"the override '{override}': '{text}' is not valid YAML. Write it as in a recipe.") from None
    steps = key.strip().split(".")
    here: Any = values
    for number in range(len(steps)):
        place = _place(here, steps[: number + 1], override)
        if number + 1 == len(steps):
            here[place] = value
        elif isinstance(here, dict) and here.get(place) is None:
            here[place] = [{}] if steps[number + 1].isdigit() else {}
        here = here[place]


def _place(here: Any, steps: list[str], override: str) -> str | int:
    """The key or list position that the last of some steps means."""
    step = steps[-1]
    if isinstance(here, dict):
        return step
    if not isinstance(here, list):
        raise RecipeError(f"the override '{override}': there is nothing below '{'.'.join(steps[:-1])}' to set.")
    if not step.isdigit() or int(step) >= len(here):
        raise RecipeError(f"the override '{override}': '{step}' must be a number below {len(here)} there.")
    return int(step)


def _explain(error: ValidationError, text: str, path: Path) -> str:
    lines = []
    for problem in error.errors():
        keys = [key for key in problem["loc"] if not _is_union_branch(key)]
        line = _line_of(text, keys)
        where = f"{path.name}, line {line}" if line else f"{path.name} or an override"
        name = ".".join(map(str, keys)) or "the recipe"
        if problem["type"] == "extra_forbidden":
            lines.append(f"{where}: unknown key '{name}'.{_nearest(keys)}")
        else:
            given = problem.get("input")
            shown = f" (given: {given!r})" if isinstance(given, str | int | float | bool) else ""
            lines.append(f"{where}: {name}: {problem['msg'].removeprefix('Value error, ')}{shown}.{_hint(problem)}")
    return "\n".join(lines)


def _is_union_branch(key: Any) -> bool:
    return isinstance(key, str) and key.startswith("function-")


def _hint(problem: Any) -> str:
    given = problem.get("input")
    expected = problem.get("ctx", {}).get("expected")
    if expected and isinstance(given, str):
        near = difflib.get_close_matches(
            given, [word.strip("' ") for word in expected.replace(" or ", ", ").split(",")], 1, 0.4
        )
        return f" Did you mean '{near[0]}'?" if near else ""
    if problem["type"] == "float_parsing":
        return " Write numbers such as 3.0e-4: YAML reads 3e-4 as text."
    return ""


def _nearest(keys: list[Any]) -> str:
    """The known key nearest to an unknown one, looked for at its own place first and then everywhere."""
    here: Any = Recipe
    for key in keys[:-1]:
        here = _part_below(here, key)
    siblings = [field.alias or name for name, field in here.model_fields.items()] if here is not None else []
    near = difflib.get_close_matches(str(keys[-1]), siblings, 1, 0.5)
    if near:
        return f" Did you mean '{'.'.join(map(str, [*keys[:-1], near[0]]))}'?"
    return f" Known there: {', '.join(siblings)}." if siblings else ""


def _part_below(part: Any, key: Any) -> Any:
    if part is None:
        return None
    if isinstance(key, int):
        return Sft
    annotation = part.model_fields[key].annotation if key in part.model_fields else None
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return part if key == "train" else None


def _line_of(text: str, keys: list[Any]) -> int | None:
    """The line (from 1) where a key stands, or of the deepest of its parents that the file has."""
    try:
        node = yaml.compose(text)
    except yaml.YAMLError:
        return None
    line = None
    for key in keys:
        if isinstance(node, yaml.MappingNode):
            found = [(name, value) for name, value in node.value if name.value == str(key)]
            if not found:
                return line
            line, node = found[0][0].start_mark.line + 1, found[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(key, int) and key < len(node.value):
            node = node.value[key]
            line = node.start_mark.line + 1
    return line
