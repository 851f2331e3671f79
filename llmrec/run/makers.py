"""What makes the stages that read many others: fitting collaborative models, training, judging."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from llmrec import collaborative
from llmrec.contracts import CollaborativeModel
from llmrec.data.dataset import Dataset
from llmrec.indexing.catalogue import Catalogue
from llmrec.items.folder import read_texts, read_vectors
from llmrec.recipe import Aligning, Evaluate, Model, ModelSpec, Tasks, Training
from llmrec.run.layout import RunFolder, collaborative_name, model_of
from llmrec.run.plan import Context, teacher_of
from llmrec.train.job import TrainJob, Validate


def fit(context: Context, model: ModelSpec) -> dict[str, Any]:
    """Fit a collaborative model on the training part of the data and save it."""
    dataset = Dataset.load(context.run.data, texts=False)
    parts = {role: load_collaborative(context.run, part, dataset) for role, part in model.parts.items()}
    fitted = collaborative.fit_one(model, dataset.before("valid"), dataset.numbered, parts, context.progress)
    fitted.save(context.folder)
    return {"model": model.name, "items": dataset.n_items}


def load_collaborative(run: RunFolder, model: ModelSpec, dataset: Dataset) -> CollaborativeModel:
    """A model that a stage of the run fitted, with its parts.

    Raises:
        ModelError: its folder is damaged, or it was fitted on other items than those of the data.
    """
    parts = {role: load_collaborative(run, part, dataset) for role, part in model.parts.items()}
    return collaborative.load_one(model, run.stage(collaborative_name(model.slug)), dataset.numbered, parts)


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
        context: of the stage.
        stage: its settings.
        number: its place among the training stages, from 1.
        model, tasks, evaluate: of the recipe.
        start: the folder of the training stage to go on from; None for the recipe's base.
    """
    run, teacher = context.run, teacher_of(stage)
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
        teacher=partial(_teacher, run, teacher) if teacher else None,
        validate=_validator(context, stage, evaluate),
        logs=run.logs(context.work.name),
        report_to=context.report_to,
    )
    if isinstance(stage, Aligning):
        from llmrec.align import stage as aligning

        return aligning.make(job, context.folder, context.progress)
    from llmrec.train import stage as tuning

    return tuning.make(job, context.folder, context.progress)


def _teacher(run: RunFolder, model: ModelSpec) -> CollaborativeModel:
    return load_collaborative(run, model, Dataset.load(run.data, texts=False))


def _validator(context: Context, stage: Training, evaluate: Evaluate) -> Validate | None:
    """What early stopping measures; None where the stage has none."""
    from llmrec.evaluate.validation import validator

    if not stage.validation.every:
        return None
    dataset, catalogue = Dataset.load(context.run.data, texts=False), Catalogue.load(context.run.catalogue)
    return validator(stage.validation, evaluate, dataset, catalogue, context.seed, isinstance(stage, Aligning))


def evaluate(context: Context, settings: Evaluate, name: str, trained: str) -> dict[str, Any]:
    """Rank the held-out items of a split, compare with the baselines, and judge what the model writes.

    Args:
        context: of the stage.
        settings: how to judge; `target` is the split.
        name: what tables call the model.
        trained: the name of the training stage that is judged.
    """
    from llmrec.decode.blend import Blend
    from llmrec.decode.recommender import Recommender
    from llmrec.evaluate.ranking import evaluate as rank

    run = context.run
    dataset = Dataset.load(run.data, texts=False)
    models = {model.name: load_collaborative(run, model, dataset) for model in settings.baselines}
    recommender = Recommender.open(model_of(run.stage(trained)), run.catalogue, settings.wording == "held-out")
    if settings.blend:
        teacher = load_collaborative(run, settings.blend.teacher, dataset)
        recommender.blend = Blend.of(teacher, settings.blend.share, not settings.exclude_seen, dataset.item_ids, recommender.catalogue)
    vectors = read_vectors(run.items, dataset.n_items)
    result = rank(recommender, system(name, settings), dataset, settings, models, context.seed, context.folder, context.progress, vectors)
    if settings.writing:
        _writing(context, settings, model_of(run.stage(trained)))
    return {"users": result["protocol"]["users"]}


def system(name: str, settings: Evaluate) -> str:
    """What tables call a run's model: its base, and the collaborative model that is mixed in."""
    return f"{name}+{settings.blend.teacher.name}" if settings.blend else name


def _writing(context: Context, settings: Evaluate, model_folder: Path) -> None:
    """What the model writes about held-out reviews."""
    import torch

    from llmrec.evaluate.writing import Asked, evaluate_writing
    from llmrec.model import folder
    from llmrec.tasks.source import Source

    run, dataset = context.run, Dataset.load(context.run.data)
    catalogue, texts = Catalogue.load(run.catalogue), read_texts(run.items, dataset.n_items)
    sources = (Source.load(dataset, catalogue, texts), Source.load(dataset, catalogue, texts, settings.target))
    model, tokenizer, _ = folder.load(model_folder, torch.float32)
    data = str(dataset.facts.get("source"))
    asked = Asked(settings.writing, settings.writing_cases, data, context.seed, settings.target)
    evaluate_writing(model, tokenizer, sources, asked, context.folder, context.progress)
