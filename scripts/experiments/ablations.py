"""Change one thing at a time in a recipe, judge each on validation, and compare in pairs over users with the recipe.

python scripts/experiments/ablations.py beauty-nano     all factors, one seed; goes on where it stopped
… beauty-nano --only sequential random
… beauty-nano --collect                         write what is there, run nothing
… beauty-nano --set train.0.epochs=5            the same change in the recipe and in every factor
… beauty-nano --name beauty-nano-short          another name than the recipe's, of folder and result

Writes results/NAME-ablations.json and a figure beside it, anew after every factor. Each factor has a folder of its own,
runs/NAME-ablations/FACTOR, which begins with those stages of the recipe's own run that the factor leaves alone. The
test part is never looked at.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from commands import call_llmrec, finished
from llmrec import resources
from llmrec.errors import LlmrecError
from llmrec.evaluate.files import EvaluatedRun, read_run
from llmrec.metrics.significance import bootstrap, paired
from llmrec.recipe_file import fingerprint, load
from llmrec.report.result_charts import draw_dots as dots
from llmrec.results.record import write_result
from llmrec.run.layout import RunFolder, recipe_of
from llmrec.stage_record import read_record

BASE = "the recipe"
# What is never part of a factor: judged on validation, and without teachers, which no factor changes.
ALWAYS = ("evaluate.split=valid", "evaluate.baselines=[]")
CODES = ["indexing.method=rq-kmeans", "train.0.loss=trie"]  # of three levels, where nothing else is said
BOTH = ["indexing.fusion=weighted", "indexing.collaborative_model=ppmi"]
OWN = ["indexing.levels=2", "indexing.append=[item]"]
LAST = ["tasks.loss_on=target", "train.0.teacher_replace_prob=0"]  # a teacher helps in histories that are supervised
APPEND = "train+="  # a stage more behind those of the recipe
FACTORS: dict[str, tuple[str, list[str]]] = {
    "text": ("codes of text alone", [*CODES, "indexing.fusion=text"]),
    "behaviour": ("codes of co-occurrence alone", [*CODES, "indexing.fusion=ppmi"]),
    "fused": ("codes of text and co-occurrence", [*CODES, *BOTH]),
    "fused-item": ("two levels of these, and a token of the item's own", [*CODES, *BOTH, *OWN]),
    "rq-vae": ("RQ-VAE of these", ["indexing.method=rq-vae", *CODES[1:], *BOTH, "indexing.epochs=300"]),
    "collaborative": ("clusters of co-occurrence (CID)", ["indexing.method=collaborative"]),
    "sequential": ("numbers in order of appearance (SID)", ["indexing.method=sequential"]),
    "random": ("random numbers (RID)", ["indexing.method=number"]),
    "title": ("text: title alone", ["items.text=[title]", "items.missing_text=item-id"]),
    "title-brand-category": ("text: title, brand, category", ["items.text=[title, brand, category]"]),
    "last-item": ("no teacher, the last item of a window supervised alone", LAST),
    "every-position": ("no teacher, the last item alone, at every position", [*LAST, "tasks.positions=all"]),
    "no-alignment": ("no alignment tasks", ["tasks.item_to_text=0", "tasks.text_to_item=0"]),
    "alignment": ("item ↔ text, a quarter of the items each", ["tasks.item_to_text=0.25", "tasks.text_to_item=0.25"]),
    "rows-mean": ("rows of tokens start alike, but for noise", ["model.init_tokens=mean"]),
    "rows-vectors": ("rows of tokens start from vectors", ["model.init_tokens=vectors"]),
    "vocabulary": ("softmax over the whole vocabulary", ["train.0.loss=full"]),
    "catalogue": ("softmax over what the catalogue allows", ["train.0.loss=trie"]),
    "no-teacher": ("no teacher's help", ["train.0.teacher_replace_prob=0"]),
    "twice-taught": ("four of ten items give way to the teacher's", ["train.0.teacher_replace_prob=0.4"]),
    "more-teaching": ("seven of ten items give way to the teacher's", ["train.0.teacher_replace_prob=0.7"]),
    "markov-teaches": ("Markov alone teaches", ["train.0.teacher=markov"]),
    "ease-teaches": ("EASE on recent items alone teaches", ["train.0.teacher=ease-recent"]),
    "wide": ("twice as wide", ["model.width=256", "model.heads=4"]),
    "less-dropout": ("dropout .15", ["model.dropout=0.15"]),
    "more-dropout": ("dropout .4", ["model.dropout=0.4"]),
    "wordings": ("six wordings, none of them short", ["tasks.templates=6"]),
    "separating-level": ("twins told apart by a token more", ["indexing.collisions=extra-level"]),
    "drop-history": ("a fifth of the history left out", ["train.0.item_dropout=0.2"]),
    "one-window": ("each event seen once an epoch", ["tasks.passes=1"]),
    "four-windows": ("four windows: sub-sequences", ["tasks.passes=4"]),
    "smoothing": ("label smoothing within a level, .1", ["train.0.label_smoothing=0.1"]),
    "no-smoothing": ("no label smoothing", ["train.0.label_smoothing=0"]),
    "average": ("mean of the last quarter's weights", ["train.0.weight_average=0.25"]),
    "no-average": ("weights of the last step", ["train.0.weight_average=0"]),
    "s-dpo": (
        "S-DPO after it",
        [APPEND + "{method: s-dpo, epochs: 1, max_positions: 4, learning_rate: 1.0e-4, sft: 0.1, precision: bf16}"],
    ),
    "no-blend": ("no teacher beside the model", ["evaluate.ensemble=null"]),
    "blend": ("a tenth of the teacher's chances mixed in", ["evaluate.ensemble={weight: 0.1}"]),
    "blend-more": ("a fifth of the teacher's chances mixed in", ["evaluate.ensemble={weight: 0.2}"]),
    "beams-20": ("20 beams", ["evaluate.beams=20"]),
    "beams-100": ("100 beams", ["evaluate.beams=100"]),
    "seen-allowed": ("items of the history allowed", ["evaluate.exclude_seen=false"]),
}


def overrides(recipe: Path, common: Sequence[str], changes: Sequence[str]) -> list[str]:
    """`key=value` texts for the command line; what is appended to `train` becomes the whole list."""
    plain = [*common, *(change for change in changes if not change.startswith(APPEND))]
    more = [yaml.safe_load(change.removeprefix(APPEND)) for change in changes if change.startswith(APPEND)]
    if not more:
        return plain
    stages = [stage.model_dump(mode="json") for stage in load(recipe, plain).train]
    return [*plain, "train=" + yaml.safe_dump([*stages, *more], default_flow_style=True, width=10_000).strip()]


def begin(base: Path, run: Path) -> None:
    """Let a run begin with the finished stages of another: hard links, which no stage writes through.

    Figures are left out: those that lie in a factor's folder are its own, whatever stopped it.
    """
    if run.exists() or not base.is_dir():
        return
    half = run.with_name(f".{run.name}.partial")
    shutil.rmtree(half, ignore_errors=True)
    evaluations = [RunFolder(base).evaluation(split) for split in ("valid", "test")]
    for stage in RunFolder(base).stages:
        if stage not in evaluations:
            shutil.copytree(stage, half / stage.relative_to(base), copy_function=os.link)
    if half.is_dir():
        half.rename(run)


def judged(run: Path) -> EvaluatedRun:
    """A run's evaluation on the split that its recipe names."""
    return read_run(RunFolder(run).evaluation(recipe_of(run).evaluate.split), run.name)


def against(factor: EvaluatedRun, base: EvaluatedRun) -> dict[str, Any]:
    """Metric → mean with interval, and the paired difference to the recipe, over the same cases.

    Unlike `llmrec compare` this allows another beam width and another rule for seen items: they are factors here.
    """
    order, other = np.argsort(factor.cases), np.argsort(base.cases)
    if not np.array_equal(factor.cases[order], base.cases[other]):
        raise SystemExit(f"{factor.name} was judged on other cases than {base.name}: is `data` a factor?")
    pairs = {m: (values[order], base.values[m][other]) for m, values in factor.values.items()}
    return {
        "metrics": {metric: asdict(bootstrap(a, 0)) for metric, (a, _) in pairs.items()},
        "difference": {metric: asdict(paired(a, b, 0)) for metric, (a, b) in pairs.items()},
    }


def collect(folder: Path, factors: Mapping[str, tuple[str, list[str]]]) -> dict[str, Any]:
    """Figures of all factors that are finished; `same` names those that change nothing in the recipe."""
    base, own = judged(folder / "base"), fingerprint(recipe_of(folder / "base"))
    found: dict[str, Any] = {"base": against(base, base)["metrics"], "factors": {}, "same": []}
    found["seconds"] = _trained_for(folder / "base")
    for name, (says, changes) in factors.items():
        run = folder / name
        if not finished(run):
            continue
        if fingerprint(recipe_of(run)) == own:
            found["same"].append(name)
            continue
        told = {"says": says, "changes": changes, "recipe hash": fingerprint(recipe_of(run))}
        found["factors"][name] = told | against(judged(run), base) | {"seconds": _trained_for(run)}
    return found


def _trained_for(run: Path) -> float:
    return float(sum(read_record(stage)["seconds"] for stage in RunFolder(run).trained))


def write(recipe: str, folder: Path, out: Path, changed: Sequence[str]) -> None:
    """The JSON and its figure, named as the folder is; the command leaves out where files lie."""
    figures, base = collect(folder, FACTORS), recipe_of(folder / "base")
    path, name = out / f"{folder.name}.json", folder.name.removesuffix("-ablations")
    only = [factor for factor in FACTORS if factor in figures["factors"]]
    others = [*(["--set", *changed] if changed else []), *(["--name", name] if name != recipe else [])]
    command = " ".join(["python scripts/experiments/ablations.py", recipe, "--only", *only, *others])
    protocol = judged(folder / "base").metrics["protocol"]
    about = {"recipe hash": fingerprint(base), "seed": base.seed, "source": base.data.source, "protocol": protocol}
    write_result(path, command, figures, **about)
    drawn = {told["says"]: told["difference"] for told in figures["factors"].values()}
    if drawn:
        order = dict(sorted(drawn.items(), key=lambda row: -row[1]["ndcg@10"]["mean"]))
        better = [name for name, one in drawn.items() if one["ndcg@10"]["low"] > 0]
        dots(order, {"hr@10": "Δ HR@10", "ndcg@10": "Δ NDCG@10"}, better, path.with_suffix(".svg"), beside="")
    print(f"written: {path}, {len(drawn)} factors")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="a shipped recipe's name, or a path")
    parser.add_argument("--only", nargs="+", choices=list(FACTORS), metavar="FACTOR", help=", ".join(FACTORS))
    parser.add_argument("--collect", action="store_true", help="run nothing")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    parser.add_argument("--name", help="of folder and result; the recipe's otherwise")
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--out", type=Path, default=Path("results"))
    options = parser.parse_args()
    recipe = resources.recipe_path(options.recipe)
    folder, common = options.runs / f"{options.name or recipe.stem}-ablations", [*ALWAYS, *options.set]
    if not options.collect:
        call_llmrec("run", recipe, *common, "--until", "evaluate", "--out", folder / "base")
    for name in [] if options.collect else options.only or FACTORS:
        try:
            given = overrides(recipe, common, FACTORS[name][1])
            if fingerprint(load(recipe, given)) == fingerprint(load(recipe, common)):
                print(f"{name}: as in the recipe")
                continue
        except LlmrecError as error:
            print(f"{name}: left out, the recipe does not allow it: {error}", file=sys.stderr)
            continue
        begin(folder / "base", folder / name)
        call_llmrec("run", recipe, *given, "--until", "evaluate", "--out", folder / name)
        write(recipe.stem, folder, options.out, options.set)
    write(recipe.stem, folder, options.out, options.set)


if __name__ == "__main__":
    main()
