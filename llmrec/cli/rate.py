"""`llmrec rate`: rating prediction with a language model, compared with baselines."""

from __future__ import annotations

import difflib
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich import box
from rich.table import Table

from llmrec import resources, trusted_urls
from llmrec.cli.arguments import AS_JSON, parsed_path
from llmrec.cli.screen import console, interval, say, screen, stages
from llmrec.errors import DataError, RunError

if TYPE_CHECKING:
    from llmrec.rate.answers import RatingEngine
    from llmrec.rate.ratings import Ratings
    from llmrec.recipe import Data

METHODS = ("zero-shot", "few-shot", "classification", "regression", "baselines")


def rate(
    model: str = typer.Option(
        "embedded:smollm2-135m-instruct",
        help="embedded:NAME, a folder, a hub name; with --url its name there",
    ),
    data: str = typer.Option("ml-100k", help="a source (llmrec data list), or a recipe, whose data: part is used"),
    category: str = typer.Option(None, help="amazon-reviews-…: such as Beauty"),
    method: str = typer.Option("zero-shot", help=", ".join(METHODS)),
    shots: int = typer.Option(3, min=1, help="few-shot: solved examples before the question"),
    share: float = typer.Option(0.05, min=0.0001, max=1.0, help="fine-tuning: share of the training ratings"),
    epochs: int = typer.Option(2, min=1, help="fine-tuning: passes over them"),
    learning_rate: float = typer.Option(1e-4, min=1e-8, max=1.0, help="fine-tuning"),
    layers: int = typer.Option(0, min=0, help="fine-tuning: trained layers, counted from the last; 0 for all"),
    over: str = typer.Option("mean", help="regression adds to: mean, or bias, the user + item bias"),
    split: str = typer.Option("random", help="random, or temporal: one time for all users"),
    part: str = typer.Option("test", help="test, or valid: where learning rates and the like are chosen"),
    cases: int = typer.Option(2000, min=0, help="test cases, drawn at random; 0 for all"),
    history: int = typer.Option(10, min=1, help="ratings of the user in a prompt"),
    template: int = typer.Option(1, help="number of the template in prompts/rate/rate.yaml, from 1"),
    engine: str = typer.Option("transformers", help="transformers or vllm"),
    url: str = typer.Option(
        None, help="a server with OpenAI's API in place of --engine, such as http://localhost:8000/v1"
    ),
    patience: float = typer.Option(60.0, min=0.1, help="--url: seconds to wait for an answer"),
    tries: int = typer.Option(5, min=1, help="--url: requests for one answer at most"),
    dtype: str = typer.Option("bfloat16", help="of the weights without fine-tuning: bfloat16 or float32"),
    scale: str = typer.Option(None, help="LOW:HIGH or LOW:HIGH:STEP; default: inferred from the ratings"),
    sensitivity: int = typer.Option(
        0, min=0, help="cases that are repeated with all templates and orders of the history"
    ),
    seed: int = typer.Option(42, min=0, max=2**63 - 1, help="of split, cases, examples and training"),
    out: Path = typer.Option(
        None, parser=parsed_path, metavar="PATH", help="folder; systems of one protocol share it (runs/rate-DATA-SPLIT)"
    ),
    tiny: bool = typer.Option(False, help="two layers with random weights, to try the command without a download"),
    as_json: bool = AS_JSON,
) -> None:
    """Predict ratings with a language model, zero-shot to fine-tuned, beside baselines."""
    from llmrec.rate import systems
    from llmrec.rate.experiment import Experiment
    from llmrec.rate.finetune import FineTuning
    from llmrec.rate.ratings import TEST, VALID, load_ratings

    _check_choices(method=method, split=split, part=part, over=over, engine=engine, dtype=dtype)
    with stages() as progress, tempfile.TemporaryDirectory() as work:
        ratings = load_ratings(_data(data, category), split, seed, scale)  # type: ignore[arg-type]  # checked above
        folder = out or Path("runs") / f"rate-{Path(data).stem}-{split}{'' if part == 'test' else '-valid'}"
        experiment = Experiment.open(ratings, cases or None, history, seed, folder, TEST if part == "test" else VALID)
        experiment.run_baselines(progress)
        name = Path(model.removeprefix("embedded:")).name + (" (tiny)" if tiny else "")
        if method in ("classification", "regression"):
            tuning = FineTuning(method, over, share, epochs, layers, learning_rate)  # type: ignore[arg-type]  # both checked
            loaded = _tiny(model, ratings, work) if tiny else None
            systems.run_fine_tuned(experiment, name, model, tuning, sensitivity, progress, loaded)
        elif method != "baselines":
            shown = shots if method == "few-shot" else 0
            if url:
                rater = _endpoint(url, model, patience, tries, ratings)
            else:
                rater = _local(engine, name, model, dtype, ratings, work, tiny)
            systems.run_prompted(experiment, name, rater, shown, template, sensitivity, progress)
        figures = experiment.write_table()
    if as_json:
        say(figures)
    else:
        screen.print(_table(figures))
        console.print(f"figures and predictions: {folder}")


def _check_choices(**chosen: str) -> None:
    """Refuse a value that its option does not have."""
    from llmrec.rate.rating_model import STARTS
    from llmrec.rate.ratings import SPLITS

    choices = {"method": METHODS, "split": SPLITS, "part": ("test", "valid"), "over": tuple(STARTS)}
    choices |= {"engine": ("transformers", "vllm"), "dtype": ("bfloat16", "float32")}
    for name, value in chosen.items():
        *first, last = choices[name]
        if value not in choices[name]:
            raise RunError(f"--{name} is {', '.join(first)} or {last}, not '{value}'.")
    if chosen["over"] != "mean" and chosen["method"] != "regression":
        raise RunError(
            f"--over {chosen['over']} is what regression adds to; {chosen['method']} has no use for it. Leave it out."
        )


def _data(source: str, category: str | None) -> Data:
    from llmrec.data.sources import SOURCES
    from llmrec.recipe import Data
    from llmrec.recipe_file import load

    if source.endswith((".yaml", ".yml")):
        return load(Path(source)).data
    known = [name for name in SOURCES if name not in ("files", "synthetic")]
    if source not in known:
        close = difflib.get_close_matches(source, known, 1, 0.5)
        hint = f" Did you mean '{close[0]}'?" if close else ""
        raise DataError(
            f"there is no source '{source}'; there are: {', '.join(known)}.{hint} For files of your own give a recipe, "
            "which `llmrec init FILES` writes."
        )
    return Data(source=source, category=category)  # type: ignore[arg-type]  # checked above


def _endpoint(url: str, model: str, patience: float, tries: int, ratings: Ratings) -> RatingEngine:
    from llmrec.rate.engines import EndpointRatingEngine
    from llmrec.text.client import OpenAIClient

    trusted_urls.trust(url)
    return EndpointRatingEngine(OpenAIClient(url, model, patience, tries), ratings.scale)


def _local(engine: str, name: str, model: str, dtype: str, ratings: Ratings, work: str, tiny: bool) -> RatingEngine:
    """An engine on this machine."""
    import torch

    from llmrec.model.base import load_base

    if engine == "vllm":
        resources.require_extras("serve")
        from llmrec.rate.vllm_ratings import VllmRatingEngine

        folder = model
        if tiny or model.startswith("embedded:"):  # vLLM reads only folders and hub names
            language, tokenizer = _tiny(model, ratings, work) if tiny else load_base(model, getattr(torch, dtype))
            folder = f"{work}/model"
            language.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
        return VllmRatingEngine.open(name, folder, ratings.scale, dtype=dtype)
    from llmrec.rate.engines import TransformersRatingEngine

    language, tokenizer = _tiny(model, ratings, work) if tiny else load_base(model, getattr(torch, dtype))
    language.to("cuda" if torch.cuda.is_available() else "cpu")  # type: ignore[arg-type]  # torch's .to, typed as another
    return TransformersRatingEngine(name, language, tokenizer, ratings.scale)


def _tiny(model: str, ratings: Ratings, work: str) -> Any:
    """A model with random weights, and a tokenizer of the data's words."""
    import torch

    from llmrec.model.base import tiny_base

    torch.manual_seed(0)
    words = [*ratings.titles, *ratings.genres, "rating ratings person number candidate 0 1 2 3 4 5 6 7 8 9"]
    return tiny_base(model, words, Path(work) / "tokenizer")


def _table(figures: dict[str, Any]) -> Table:
    protocol = figures["protocol"]
    table = Table(
        title=f"{protocol['data']}: {protocol['cases']} cases of the {protocol['split']} split, "
        f"scale {protocol['scale']}, liked from {protocol['liked from']:g}",
        caption="95 % intervals over users; Δ: minus the user + item bias, paired",
        box=box.SIMPLE,
    )
    intervals = ["95 %"] if screen.width >= 100 else []  # in a narrow terminal names need the room
    for title in ("", "RMSE", *intervals, "MAE", "AUC", *intervals, "Δ RMSE 95 %"):
        table.add_column(title, justify="right" if title else "left", no_wrap=True)
    for name, system in figures["systems"].items():
        cells = []
        for metric in ("rmse", "mae", "auc"):
            mean = system[metric]["mean"]
            cells.append("–" if mean is None else f"{mean:.3f}")
            if intervals and metric != "mae":
                cells.append(interval(system[metric], ".3f") if system[metric]["low"] is not None else "– to –")
        difference = system["minus"].get("user + item bias", {}).get("rmse")
        table.add_row(name, *cells, interval(difference, "+.3f"))
    return table
