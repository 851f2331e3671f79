"""The plan of a run: the stages of a recipe, their settings, inputs and functions.

The `config` of a stage has the settings that change its result, and no others: processes, gradient accumulation,
checkpointing, save_every, evaluation batches and paths are left out (`Part.hashed_fields`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmrec.collaborative import TOP_K
from llmrec.errors import DataError
from llmrec.recipe import Alignment, Data, Evaluate, Indexing, ItemText, Model, ModelSpec, Recipe, Tasks, Training
from llmrec.run import layout
from llmrec.run.layout import CATALOGUE, DATA, ITEMS, TASKS, RunFolder, collaborative_name
from llmrec.run.stage import Context, Kind, Outside, Split, StageSpec, require_current

if TYPE_CHECKING:
    from llmrec.decode.recommender_spec import RecommenderSpec

UNTIL = ("data", "items", "catalogue", "tasks", "train", "evaluate")
ITEM_TABLE = f"{DATA}/items.parquet"
READ_BY_CHOICES = ("history", "history_tokens", "templates", "candidates", "options", "negatives")
"""Settings of `tasks` that change the evaluation of tasks with few possible answers."""


def open_run(path: Path, until: Kind) -> tuple[RunFolder, Recipe]:
    """Open a run folder and its recipe, and check that all stages up to a kind are current.

    Raises:
        RunError: not a run folder, or a stage is missing, made from another recipe, or changed.
    """
    run, recipe = RunFolder(path), layout.recipe_of(path)
    require_current(run, up_to(plan(recipe), until), recipe.seed)
    return run, recipe


def add_items(path: Path, items: Path, catalogue: str | None) -> tuple[Path, dict[str, Any]]:
    """Assign codes to new items of a run; `catalogue`: first digits of the hash of the catalogue to extend."""
    from llmrec.indexing.catalogue import find_catalogue
    from llmrec.indexing.new_items import add

    run, recipe = open_run(path, "catalogue")
    old = find_catalogue(run.catalogue, run.catalogues, catalogue)
    return add(items, old, recipe.items, recipe.seed, run.catalogues)


def up_to(specs: Sequence[StageSpec], kind: str) -> Sequence[StageSpec]:
    """Return the stages of a plan up to the last one of a kind."""
    return specs[: 1 + max(place for place, spec in enumerate(specs) if spec.kind == kind)]


def plan(recipe: Recipe, split: Split | None = None) -> list[StageSpec]:
    """Return the stages of a recipe in order; the last one is the evaluation of its last model.

    A collaborative model is fitted right before the first stage that reads it.

    Args:
        split: the split of the evaluation; `evaluate.split` if None.
    """
    train, tasks = recipe.train, recipe.tasks
    settings = recipe.evaluate.model_copy(update={"split": split or recipe.evaluate.split})
    stages = [
        _data(recipe.data),
        _items(recipe.items),
        _catalogue(recipe.indexing, recipe.model),
        _tasks(tasks),
        *(
            _training(number, stage, recipe.model, tasks, recipe.evaluate, train[number - 2 : number - 1])
            for number, stage in enumerate(train, 1)
        ),
        _evaluation(settings, train, tasks, recipe.model.name),
    ]
    blended = [settings.ensemble.model] if settings.ensemble else []
    teachers = [teacher for stage in train if (teacher := stage.needed_teacher)]
    fitted = {spec.name: spec for spec in _collaborative([*teachers, *blended, *settings.baselines])}
    ordered: dict[str, StageSpec] = {}

    def place(stage: StageSpec) -> None:
        for read in stage.reads:
            if isinstance(read, str) and read in fitted:
                place(fitted[read])
        ordered.setdefault(stage.name, stage)

    for stage in stages:
        place(stage)
    return list(ordered.values())


def _file(label: str, path: Path) -> Outside:
    return Outside(label, lambda: path)


def _prompt(task: str) -> Outside:
    from llmrec.tasks import templates

    file = templates.file_of(task)
    return _file(f"prompt {file.name}", file)


def _data(settings: Data) -> StageSpec:
    from llmrec.data import sources

    def make(context: Context) -> dict[str, Any]:
        from llmrec.data import dataset

        return dataset.make(settings, context.seed, context.folder)

    files: dict[str, Outside] = {}
    with contextlib.suppress(DataError):  # runs can be read without their source; `make` reports what is missing
        for name, path in sources.source_files(settings):
            if path.is_file():
                label, same = f"{name} {path.name}", 1
                while label in files:  # number files with the same name
                    label, same = f"{name} {path.name} {same + 1}", same + 1
                files[label] = _file(label, path)
    return StageSpec(DATA, "data", 3, settings.hashed_fields(), tuple(files.values()), make)


def _items(settings: ItemText) -> StageSpec:
    def make(context: Context) -> dict[str, Any]:
        from llmrec.data.dataset import Dataset
        from llmrec.items import write_items

        items = Dataset.load(context.run.data, texts=False).items
        return write_items(settings, items, context.folder, context.progress)

    return StageSpec(ITEMS, "items", 2, settings.hashed_fields(), (ITEM_TABLE,), make)


def _catalogue(settings: Indexing, model: Model) -> StageSpec:
    earlier = RunFolder(Path(model.init_from)).catalogue if model.init_from else None

    def make(context: Context) -> dict[str, Any]:
        from llmrec.data.dataset import Dataset
        from llmrec.indexing import build, new_items
        from llmrec.items import read_vectors

        dataset = Dataset.load(context.run.data, texts=False)
        vectors = read_vectors(context.run.items, dataset.n_items)
        if earlier:
            return new_items.extend(earlier, dataset.items, vectors, context.seed, context.folder)
        train = dataset.before("valid") if settings.behaves else None
        return build.make(settings, dataset.items, vectors, context.seed, context.folder, train)

    reads: list[str | Outside] = [ITEM_TABLE, ITEMS, *([DATA] if settings.behaves else [])]
    reads += [_file("the catalogue of model.init_from", earlier)] if earlier else []
    return StageSpec(CATALOGUE, "catalogue", 2, settings.hashed_fields(), tuple(reads), make)


def _tasks(settings: Tasks) -> StageSpec:
    from llmrec.tasks import templates

    def make(context: Context) -> dict[str, Any]:
        from llmrec.data.dataset import Dataset
        from llmrec.indexing.catalogue import Catalogue
        from llmrec.items import read_texts
        from llmrec.tasks import examples
        from llmrec.tasks.inputs import TaskInputs
        from llmrec.tasks.llm_annotations import add_annotations

        dataset, catalogue = Dataset.load(context.run.data), Catalogue.load(context.run.catalogue)
        dataset.check_catalogue(catalogue.item_ids)
        source = TaskInputs.load(dataset, catalogue, read_texts(context.run.items, dataset.n_items))
        return examples.make(settings, add_annotations(source, catalogue.items, settings), context.seed, context.folder)

    reads: list[str | Outside] = [DATA, ITEMS, CATALOGUE]
    reads += [_file(f"prompt {file.name}", file) for file in templates.files_of(settings)]
    oracle = settings.oracle
    if oracle and oracle.by == "replay" and oracle.cache:
        reads.append(_file("tasks.oracle.cache", Path(oracle.cache)))
    return StageSpec(TASKS, "tasks", 3, settings.hashed_fields(), tuple(reads), make)


def _training(
    number: int, stage: Training, model: Model, tasks: Tasks, evaluate: Evaluate, before: Sequence[Training]
) -> StageSpec:
    """Return a training stage; `before` has the stage that it starts from, if any."""
    previous = layout.training_name(number - 1, before[0].method) if before else None
    warm = RunFolder(Path(model.init_from)) if model.init_from and not before else None
    aligns = isinstance(stage, Alignment)
    prompts = [tasks.recommending] if tasks.recommending else []  # kept beside the model
    prompts += [] if aligns or not tasks.item_search else ["item_search"]
    config: dict[str, Any] = {"model": model.hashed_fields(), "train": stage.hashed_fields()}
    config |= {"tasks": {key: getattr(tasks, key) for key in ("history", "history_tokens", "templates")}}
    reads: list[str | Outside] = [DATA if aligns else TASKS, CATALOGUE, *map(_prompt, prompts)]
    if not aligns and model.init_tokens in ("text", "centroids", "vectors"):
        reads.append(ITEMS)
    if aligns or stage.needed_teacher:
        config["exclude_seen"] = evaluate.exclude_seen
    if stage.needed_teacher:
        reads.append(collaborative_name(stage.needed_teacher.slug))
    if stage.validation.every:
        config["evaluate"] = {key: evaluate.hashed_fields()[key] for key in ("beams", "exclude_seen", "template")}
        reads += [] if aligns else [DATA]
    if previous:
        reads.append(previous)
    elif warm:
        reads.append(Outside("the model of model.init_from", lambda: warm.last_trained))
    elif Path(model.base).is_absolute() or Path(model.base).is_dir():
        reads.append(_file("model.base", Path(model.base)))

    def make(context: Context) -> dict[str, Any]:
        from llmrec.run.stage_functions import train

        start = context.run.stage(previous) if previous else warm.last_trained if warm else None
        return train(context, stage, number, model, tasks, evaluate, start)

    return StageSpec(layout.training_name(number, stage.method), "train", 3, config, tuple(reads), make)


def _collaborative(models: Iterable[ModelSpec]) -> list[StageSpec]:
    """Return a stage for each model and for each of its parts."""
    found: dict[str, StageSpec] = {}
    for model in models:
        parts = model.parts.values()
        found |= {spec.name: spec for spec in _collaborative(parts)}
        reads = (DATA, *(collaborative_name(part.slug) for part in parts))

        def make(context: Context, model: ModelSpec = model) -> dict[str, Any]:
            from llmrec.run.stage_functions import fit

            return fit(context, model)

        name, config = collaborative_name(model.slug), {"model": model.kind, "parameters": model.parameters}
        found[name] = StageSpec(name, "collaborative", 1, config, reads, make)
    return list(found.values())


def _evaluation(settings: Evaluate, train: Sequence[Training], tasks: Tasks, name: str) -> StageSpec:
    """Return the evaluation of the last model; without baselines if no task trains it to recommend."""

    def make(context: Context) -> dict[str, Any]:
        from llmrec.run.stage_functions import evaluate

        return evaluate(context, settings, tasks, description_of(settings, train, name))

    models = [*settings.baselines, *([settings.ensemble.model] if settings.ensemble else [])]
    config = settings.hashed_fields()
    if not tasks.recommending:
        models, config = [], {key: config[key] for key in ("split", "template", "generation", "generation_cases")}
    if tasks.choices:
        config["choices"] = {"tasks": tasks.choices} | {key: getattr(tasks, key) for key in READ_BY_CHOICES}
    trained = layout.training_name(len(train), train[-1].method)
    fitted = dict.fromkeys(collaborative_name(model.slug) for model in models)
    prompts = map(_prompt, dict.fromkeys([*settings.generation, *tasks.choices]))
    reads: tuple[str | Outside, ...] = (DATA, ITEMS, CATALOGUE, trained, *fitted, *prompts)
    return StageSpec(layout.evaluation_name(settings.split), "evaluate", 4, config, reads, make)


def description_of(settings: Evaluate, train: Sequence[Training], name: str) -> RecommenderSpec:
    """Return the specification of the recommender of a recipe; folders are relative to the run."""
    model = layout.model_of(Path(layout.training_name(len(train), train[-1].method))).as_posix()
    node: dict[str, Any] = {"kind": "generative", "folder": model, "beams": settings.beams}
    if settings.ensemble:
        folder = collaborative_name(settings.ensemble.model.slug)
        teacher = {"kind": "collaborative", "folder": folder, "items": CATALOGUE}
        members = [
            {"weight": 1 - settings.ensemble.weight, "depth": settings.beams, "recommender": node},
            {"weight": settings.ensemble.weight, "depth": TOP_K, "recommender": teacher},
        ]
        node = {"kind": "ensemble", "members": members}
    return {
        "format": 1,
        "name": name,
        "exclude_seen": settings.exclude_seen,
        "catalogue": CATALOGUE,
        "recommender": node,
    }
