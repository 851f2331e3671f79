"""A run folder as the stages leave it, small, with titles that would break a careless page."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmrec.indexing.catalogue import Catalogue
from llmrec.run.layout import RunFolder, recipe_of
from llmrec.run.plan import plan
from llmrec.run.stage import resolve as stage

HOSTILE = "<script>alert('x')</script> & \"friends\" (1999)"
TITLES = [
    "Fargo (1996)",
    "Heat (1995)",
    HOSTILE,
    "Shine (1996)",
    "Alien (1979)",
    "Ran (1985)",
    "M (1931)",
    "Babe (1995)",
]
IDS = [f"i{n}" for n in range(len(TITLES))]
RECIPE = """\
# <b>quick</b>
seed: 42
data: {source: synthetic}
indexing: {method: rq-kmeans, levels: 3}
evaluate: {baselines: [popularity]}
"""
SYSTEMS = {"popularity": 0.06, "ease": 0.17, "ease-recent": 0.185, "markov": 0.163, "nano": 0.181}
PAIRED = {"popularity": (0.09, 0.15), "ease": (-0.008, 0.03), "ease-recent": (-0.03, -0.001), "markov": (0.001, 0.04)}


def dump(path: Path, value: object) -> None:
    """Write JSON, making folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def metrics() -> dict:
    """metrics.json: each system's HR@10 is SYSTEMS, everything else in proportion."""
    share = {"hr@5": 0.6, "ndcg@5": 0.4, "hr@10": 1.0, "ndcg@10": 0.5, "hr@20": 1.6, "ndcg@20": 0.7}
    systems = {
        name: {m: {"mean": hr * s, "low": hr * s - 0.02, "high": hr * s + 0.02} for m, s in share.items()}
        for name, hr in SYSTEMS.items()
    }
    paired = {
        name: {m: {"mean": (low + high) / 2, "low": low, "high": high, "p": 0.04} for m in ("hr@10", "ndcg@10")}
        for name, (low, high) in PAIRED.items()
    }
    protocol = {"split": "leave-one-out", "target": "test", "candidates": "whole catalogue", "users": 943}
    protocol |= {"items": 1682, "exclude_seen": True, "beams": 50, "ties": "expectation", "unforeseen_knob": [1, 2]}
    return {"protocol": protocol, "systems": systems, "model": "nano", "paired": paired}


def _data(folder: Path) -> dict:
    pq.write_table(pa.table({"item_id": IDS}), folder / "items.parquet")
    return {"users": 943, "items": 1682, "interactions": 100000, "note": "ties broken by seed"}


def _catalogue(folder: Path) -> dict:
    codes = np.array([[n // 4, n // 2, n, 0] for n in range(len(TITLES))], np.int32)
    Catalogue.of(pa.table({"item_id": IDS, "title": TITLES}), codes, [2, 4, 8, 1]).save(folder)
    levels = [
        {"level": n, "width": 64, "used": 61, "entropy_bits": 5.6, "counts": [max(0, 61 - i) for i in range(64)]}
        for n in (1, 2, 3, 4)
    ]
    health = {"items": 1682, "levels": levels, "collisions_before": 37, "moved": 37, "unique": True}
    health |= {"neighbours_kept": 0.31, "verdict": ["Every item has a code of its own.", "Tokens are used evenly."]}
    dump(folder / "health.json", health)
    return {}


def _train(folder: Path) -> dict:
    log = [
        {"step": s, "epoch": s / 100, "loss": 3 + 400 / (s + 99), "learning_rate": 1e-3, "seconds": s / 9}
        for s in range(1, 1001, 10)
    ]
    log += [{"step": s, "valid_ndcg@10": 0.09 - (s - 700) ** 2 / 1e7} for s in range(100, 1001, 100)]
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    return {}


def _evaluate(folder: Path) -> dict:
    dump(folder / "metrics.json", metrics())
    users = {
        "user_id": ["u1", "u1", "u2"],
        "item_id": ["i0", "i1", "i0"],
        "rank": pa.array([1, 2, 1], pa.int32()),
        "score": [-1.0, -2.0, -1.0],
    }
    pq.write_table(pa.table(users), folder / "recommendations.parquet")
    hit = {"user_id": "u1", "history": TITLES * 2, "recommended": TITLES, "held_out": "Alien (1979)"}
    miss = {"user_id": "<u2>", "history": [None, HOSTILE], "recommended": TITLES[:3], "held_out": "Ran (1985)"}
    dump(folder / "examples.json", [hit, miss])
    return {}


FILL = {"data": _data, "catalogue": _catalogue, "train": _train, "evaluate": _evaluate}


def build(folder: Path, trainings: int = 1, until: str = "evaluate") -> Path:
    """Write the stages of a run, as its plan names them, up to one of a kind; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "recipe.yaml").write_text(RECIPE + "train:\n" + "- {method: sft}\n" * trainings)
    run, recipe = RunFolder(folder), recipe_of(folder)
    for spec in plan(recipe):
        made = stage(run, spec, recipe.seed)
        made.make(FILL.get(spec.kind, lambda folder: {}))
        noted = json.loads((made.folder / "made.json").read_text())
        noted |= {"seconds": 61.5, "versions": {"numpy": "2.4.6", "torch": "2.13"}, "device": "cpu"}
        dump(made.folder / "made.json", noted)
        if spec.kind == until:
            break
    return folder
