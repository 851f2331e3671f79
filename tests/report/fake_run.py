"""A run folder as the stages leave it, small, with titles that would break a careless page."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmrec.indexing.catalogue import Catalogue

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


def build(run: Path) -> Path:
    """Write the whole folder; returns it."""
    made = {"recipe": {}, "inputs": {}, "output": "0" * 64, "facts": {}}
    made |= {"seconds": 61.5, "versions": {"numpy": "2.4.6", "torch": "2.13"}, "device": "cpu", "seed": 42}
    for stage in ("items", "catalogue", "tasks", "train-1-sft", "train-1-sft/eval"):
        dump(run / stage / "made.json", made)
    facts = {"users": 943, "items": 1682, "interactions": 100000, "note": "ties broken by seed"}
    dump(run / "data" / "made.json", made | {"facts": facts})
    (run / "recipe.yaml").write_text("# <b>quick</b>\nseed: 42\nindexing: {method: rq-kmeans, levels: 3}\n")
    ids = [f"i{n}" for n in range(len(TITLES))]
    codes = np.array([[n // 4, n // 2, n, 0] for n in range(len(TITLES))], np.int32)
    Catalogue.of(pa.table({"item_id": ids, "title": TITLES}), codes, [2, 4, 8, 1]).save(run / "catalogue")
    levels = [
        {"level": n, "width": 64, "used": 61, "entropy_bits": 5.6, "counts": [max(0, 61 - i) for i in range(64)]}
        for n in (1, 2, 3, 4)
    ]
    health = {"items": 1682, "levels": levels, "collisions_before": 37, "moved": 37, "unique": True}
    health |= {"neighbours_kept": 0.31, "verdict": ["Every item has a code of its own.", "Tokens are used evenly."]}
    dump(run / "catalogue" / "health.json", health)
    log = [
        {"step": s, "epoch": s / 100, "loss": 3 + 400 / (s + 99), "learning_rate": 1e-3, "seconds": s / 9}
        for s in range(1, 1001, 10)
    ]
    log += [{"step": s, "valid_ndcg@10": 0.09 - (s - 700) ** 2 / 1e7} for s in range(100, 1001, 100)]
    (run / "train-1-sft" / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in log))
    evaluation = run / "train-1-sft" / "eval"
    dump(evaluation / "metrics.json", metrics())
    users = {
        "user_id": ["u1", "u1", "u2"],
        "item_id": ["i0", "i1", "i0"],
        "rank": pa.array([1, 2, 1], pa.int32()),
        "score": [-1.0, -2.0, -1.0],
    }
    pq.write_table(pa.table(users), evaluation / "recommendations.parquet")
    hit = {"user_id": "u1", "history": TITLES * 2, "recommended": TITLES, "held_out": "Alien (1979)"}
    miss = {"user_id": "<u2>", "history": [None, HOSTILE], "recommended": TITLES[:3], "held_out": "Ran (1985)"}
    dump(evaluation / "examples.json", [hit, miss])
    return run
