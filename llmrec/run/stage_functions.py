"""Functions that make stages: fit collaborative models, train, evaluate."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmrec import collaborative
from llmrec.contracts import CollaborativeModel, Items
from llmrec.data.dataset import Dataset
from llmrec.indexing.catalogue import Catalogue
from llmrec.items import read_texts, read_vectors
from llmrec.recipe import Alignment, Evaluate, Model, ModelSpec, Tasks, Training
from llmrec.run.layout import RunFolder, collaborative_name, model_of
from llmrec.run.stage import Context
from llmrec.train.job import TrainJob, Validate

if TYPE_CHECKING:
    from llmrec.decode.recommender_spec import RecommenderSpec


def fit(context: Context, model: ModelSpec) -> dict[str, Any]:
    """Fit a collaborative model on the training part of the data and save it."""
    dataset = Dataset.load(context.run.data, texts=False)
    parts = {role: load_collaborative(context.run, part, dataset) for role, part in model.parts.items()}
    fitted = collaborative.build(model, parts)
    fitted.fit(dataset.before("valid"), Items(dataset.item_ids), progress=context.progress).save(context.folder)
    return {"model": model.name, "items": dataset.n_items}


def load_collaborative(run: RunFolder, model: ModelSpec, dataset: Dataset) -> CollaborativeModel:
    """Load a fitted collaborative model of the run with its parts; ModelError if it is damaged."""
    return collaborative.load(run.stage(collaborative_name(model.slug)), Items(dataset.item_ids))


def train(
    context: Context,
    stage: Training,
    number: int,
    model: Model,
    tasks: Tasks,
    evaluate: Evaluate,
    start: Path | None,
) -> dict[str, Any]:
    """Make a training stage.

    Args:
        number: of the training stage, from 1.
        start: folder of the training stage to start from; None: the base model of the recipe.
    """
    run, teacher = context.run, stage.needed_teacher
    job = TrainJob(
        stage=stage,
        number=number,
        model=model,
        tasks=tasks,
        seed=context.seed,
        exclude_seen=evaluate.exclude_seen,
        data=run.data,
        items=run.items,
        catalogue=run.catalogue,
        tasks_folder=run.tasks,
        previous=model_of(start) if start else None,
        key=context.key,
        work=context.work,
        teacher=(lambda: load_collaborative(run, teacher, Dataset.load(run.data, texts=False))) if teacher else None,
        validate=_validator(context, stage, evaluate),
        logs=run.logs(context.work.name),
        report_to=context.report_to,
    )
    if isinstance(stage, Alignment):
        from llmrec.align import stage as aligning

        return aligning.make(job, context.folder, context.progress)
    from llmrec.train import sft

    return sft.make(job, context.folder, context.progress)


def _validator(context: Context, stage: Training, evaluate: Evaluate) -> Validate | None:
    """Return the validation function of a stage; None if it does not validate."""
    from llmrec.evaluate.ranking import validator

    if not stage.validation.every:
        return None
    dataset, catalogue = Dataset.load(context.run.data, texts=False), Catalogue.load(context.run.catalogue)
    return validator(stage.validation, evaluate, dataset, catalogue, context.seed, isinstance(stage, Alignment))


def evaluate(context: Context, settings: Evaluate, tasks: Tasks, description: RecommenderSpec) -> dict[str, Any]:
    """Evaluate a model on `settings.split`: ranking, tasks with few possible answers, and generated text.

    Args:
        description: of the recommender, from `plan.description_of`.
    """
    from llmrec.decode.recommender_spec import iter_nodes

    facts = _ranking(context, settings, description) if tasks.recommending else {}
    folder = next(node["folder"] for node in iter_nodes(description["recommender"]) if node["kind"] == "generative")
    if tasks.choices or settings.generation:
        facts |= _evaluate_tasks(context, settings, tasks, context.run.stage(folder))
    return facts


def _ranking(context: Context, settings: Evaluate, description: RecommenderSpec) -> dict[str, Any]:
    """Rank the held-out items in the whole catalogue, by the model and the baselines."""
    from llmrec.decode.generative import engine_factory
    from llmrec.decode.load import LoadOptions, RecommenderFolder
    from llmrec.evaluate.ranking import evaluate as rank

    run = context.run
    dataset, catalogue = Dataset.load(run.data, texts=False), Catalogue.load(run.catalogue)
    dataset.check_catalogue(catalogue.item_ids)
    baselines = {model.name: load_collaborative(run, model, dataset) for model in settings.baselines}
    options = LoadOptions(partial(engine_factory, context.engine), held_out_prompt=settings.template == "held-out")
    judged = RecommenderFolder(run.path, description, options)
    result = rank(
        judged.for_catalogue(catalogue=catalogue).recommender,
        description["name"] + (f"+{settings.ensemble.model.name}" if settings.ensemble else ""),
        dataset,
        settings,
        baselines,
        context.seed,
        context.folder,
        context.progress,
        read_vectors(run.items, dataset.n_items),
    )
    return {"users": result["protocol"]["users"]}


def _evaluate_tasks(context: Context, settings: Evaluate, tasks: Tasks, model_folder: Path) -> dict[str, Any]:
    """Evaluate choices among few possible answers, and generated text, on held-out events."""
    import torch

    from llmrec.evaluate.task_evaluator import TaskEvaluator
    from llmrec.model import folder
    from llmrec.tasks.inputs import TaskInputs

    run = context.run
    dataset = Dataset.load(run.data, texts="rating" in tasks.choices or bool(settings.generation))
    catalogue, texts = Catalogue.load(run.catalogue), read_texts(run.items, dataset.n_items)
    model, tokenizer, _ = folder.load(model_folder, torch.float32)
    evaluator = TaskEvaluator(model, tokenizer, tasks, settings, context.seed, context.folder, context.progress)
    facts = {}
    if tasks.choices:
        result = evaluator.choices(dataset, catalogue, texts)
        facts["cases"] = {task: figures["cases"] for task, figures in result["tasks"].items()}
    if settings.generation:
        train, held_out = (TaskInputs.load(dataset, catalogue, texts, split) for split in ("train", settings.split))
        evaluator.generation(train, held_out, str(dataset.facts.get("source")))
    return facts
