"""Carry recorded results over to the recipe keys of November 2026, once: keys are renamed, values and figures stay.

python scripts/experiments/rename_recipe_keys.py OLD_CHECKOUT           # → results/*.json and results/ledger.jsonl
python scripts/experiments/rename_recipe_keys.py OLD_CHECKOUT --prove   # a tiny run twice → results/renamed-keys.json

OLD_CHECKOUT is a checkout of the commit before the renaming. A fingerprint is rewritten only if the old code computes
the recorded one from the recipe; the others stay and are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]
Values = dict[str, dict[str, str]]

# Section → old key → new key.
ALIGN = {
    "events": "max_positions",
    "rejected": "negatives",
    "group": "group_size",
    "draw": "sampling",
    "pass_at": "pass_at_k",
    "drop_flat": "skip_constant_groups",
}
KEYS: Values = {
    "data": {"core": "k_core", "held_out": "holdout_fraction", "world": "synthetic"},
    "indexing": {
        "spares": "reserved_tokens",
        "separate": "collisions",
        "hybrid": "append",
        "pieces": "bpe_vocab",
        "vectors": "fusion",
        "teacher": "collaborative_model",
        "weight": "fusion_weight",
        "category": "category_column",
    },
    "tasks": {
        "wordings": "templates",
        "windows": "passes",
        "supervise": "loss_on",
        "letters": "options",
        "caps": "max_examples",
    },
    "model": {"from": "init_from", "old_rows": "base_embeddings"},
    "launch": {"machines": "nodes", "rank": "node_rank", "address": "master_addr", "port": "master_port"},
    "train": ALIGN
    | {
        "accumulate": "gradient_accumulation",
        "average": "weight_average",
        "row_tokens": "pack_length",
        "spare_share": "reserved_token_prob",
        "smoothing": "label_smoothing",
        "drop_history": "item_dropout",
        "softmax": "loss",
        "taught": "teacher_replace_prob",
    },
    "evaluate": {
        "blend": "ensemble",
        "worth": "weight_column",
        "writing": "generation",
        "writing_cases": "generation_cases",
        "target": "split",
        "category": "category_column",
        "wording": "template",
    },
}
# Old key of a section → old value → new value.
VALUES: Values = {
    "data.source": {"world": "synthetic"},
    "indexing.vectors": {"teacher": "collaborative"},
    "indexing.separate": {"last-level": "extra-level", "nearest-free": "reassign"},
    "tasks.supervise": {"history": "all-items", "answer": "target"},
    "train.softmax": {"vocabulary": "full", "catalogue": "trie"},
}
MIXTURE = {"teacher": "model", "share": "weight"}  # below evaluate.ensemble


def section(name: str, old: Any) -> Any:
    """One section of a recipe, or one stage of `train`, in new spelling."""
    if not isinstance(old, dict):
        return old
    new = {}
    for key, value in old.items():
        if name == "evaluate" and key == "blend" and isinstance(value, dict):
            value = {MIXTURE.get(inner, inner): each for inner, each in value.items()}
        values = VALUES.get(f"{name}.{key}", {})
        new[KEYS.get(name, {}).get(key, key)] = values.get(value, value) if isinstance(value, str) else value
    return new


def recipe(old: dict[str, Any]) -> dict[str, Any]:
    """A whole recipe in new spelling."""
    stages = [section("train", stage) for stage in old.get("train", [])]
    return {key: stages if key == "train" else section(key, value) for key, value in old.items()}


def override(old: str) -> str:
    """A `key=value` override in new spelling."""
    key, sign, value = old.partition("=")
    parts = key.rstrip("+").split(".")
    plus = "+" if key.endswith("+") else ""
    if parts[0] not in KEYS or not sign:
        return old
    place = 2 if parts[0] == "train" and len(parts) > 2 else 1
    if len(parts) <= place:  # a whole section or stage
        new = section(parts[0], yaml.safe_load(value))
        return f"{key}={_flow(new)}" if isinstance(new, dict) else old
    name = f"{parts[0]}.{parts[place]}"
    if name == "evaluate.blend" and len(parts) > place + 1:
        parts[place + 1] = MIXTURE.get(parts[place + 1], parts[place + 1])
    elif name == "evaluate.blend" and value.startswith("{"):
        value = _flow({MIXTURE[inner]: each for inner, each in yaml.safe_load(value).items()})
    parts[place] = KEYS[parts[0]].get(parts[place], parts[place])
    return f"{'.'.join(parts)}{plus}={VALUES.get(name, {}).get(value, value)}"


def _flow(values: dict[str, Any]) -> str:
    return yaml.safe_dump(values, default_flow_style=True, sort_keys=False, width=1000).strip()


FINGERPRINTS = """
import json, sys, tempfile
from pathlib import Path
from llmrec.errors import LlmrecError
from llmrec.recipe_file import fingerprint, load
def of(text, overrides):
    path = Path(tempfile.mkdtemp()) / "recipe.yaml"
    path.write_text(text)
    try:
        return fingerprint(load(path, overrides))
    except LlmrecError:
        return None
print(json.dumps([of(*recipe) for recipe in json.load(sys.stdin)]))
"""


def fingerprints(checkout: Path, recipes: list[tuple[str, list[str]]]) -> list[str | None]:
    """The fingerprint of (recipe as YAML, overrides) by the code of a checkout; None for a recipe that it refuses."""
    call = [sys.executable, "-P", "-c", FINGERPRINTS]
    environment = os.environ | {"PYTHONPATH": str(checkout)}
    done = subprocess.run(call, input=json.dumps(recipes), env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def recipes_of(result: dict[str, Any], shipped: Callable[[str], str | None]) -> Iterator[tuple[str, list[str]]]:
    """The recipes that a result was made by, in old spelling: its own, or those that its command and changes name."""
    if isinstance(result.get("recipe"), dict) and "yaml" in result["recipe"]:
        yield result["recipe"]["yaml"], []
    words = shlex.split(result["command"])
    base = next((text for word in words if (text := shipped(word))), None)
    if base is None:
        return
    always = ["evaluate.baselines=[]"] if "ablations" in words[1] else []
    common = ["evaluate.target=valid", *always, *(word for word in words if "=" in word)]
    yield base, common
    figures = result.get("figures", {})
    for factor in figures.get("factors", {}).values():
        stages = [change.removeprefix("train+=") for change in factor["changes"] if change.startswith("train+=")]
        values = yaml.safe_load(base)
        values["train"] += map(yaml.safe_load, stages)
        yield yaml.safe_dump(values), [*common, *(change for change in factor["changes"] if "train+=" not in change)]
    for share in result.get("recipe_hashes", {}):
        users = round(float(share) * figures["1"]["users"])
        yield base, [*common, f"data.max_users={users}"] if share != "1" else common


def renamed(value: Any, hashes: dict[str, str]) -> Any:
    """A result with recipes, stages, overrides and fingerprints in new spelling."""
    if isinstance(value, str):
        if re.fullmatch(r"[0-9a-f]{16}", value):
            return hashes.get(value, value)
        return re.sub(r"(?<![\w.])(?:[a-z]+)\.[\w.]+\+?=\S+", lambda match: override(match[0]), value)
    if isinstance(value, list):
        return [override(item) if isinstance(item, str) else renamed(item, hashes) for item in value]
    if not isinstance(value, dict):
        return value
    if {"data", "indexing", "train"} <= value.keys():
        return recipe(value)
    new = {}
    for key, each in value.items():
        if key == "yaml":
            each = yaml.safe_dump(recipe(yaml.safe_load(each)), sort_keys=False, allow_unicode=True, width=110)
        elif key == "arms":
            each = {arm: section("train", settings) for arm, settings in each.items()}
        elif key == "settings" and isinstance(each, dict) and "levels" in each:
            each = section("indexing", each)
        elif key == "tasks" and isinstance(each, dict):
            each = section("tasks", each)
        elif key == "protocol" and isinstance(each, dict):
            each = {"template" if name == "wording" else name: text for name, text in each.items()}
        else:
            each = renamed(each, hashes)
        new["pack_length" if key == "row_tokens" else key] = each
    return new


def carry(old: Path) -> None:
    """Rewrite results and ledger in new spelling."""
    results = {path: json.loads(path.read_text()) for path in sorted((ROOT / "results").glob("*.json"))}

    def shipped(name: str) -> str | None:
        path = old / "recipes" / f"{name}.yaml"
        return path.read_text() if re.fullmatch(r"[\w-]+", name) and path.is_file() else None

    old_recipes = [each for result in results.values() if "command" in result for each in recipes_of(result, shipped)]
    old_recipes += [(path.read_text(), []) for path in sorted((old / "recipes").glob("*.yaml"))]
    new_recipes = [
        (yaml.safe_dump(recipe(yaml.safe_load(text)), sort_keys=False), [override(each) for each in overrides])
        for text, overrides in old_recipes
    ]
    hashes = {
        before: after
        for before, after in zip(fingerprints(old, old_recipes), fingerprints(ROOT, new_recipes), strict=True)
        if before and after
    }
    recorded: set[str] = set()
    for path, result in results.items():
        recorded |= set(re.findall(r'"(?:recipe hash|hash)": "([0-9a-f]{16})"', json.dumps(result)))
        path.write_text(json.dumps(renamed(result, hashes), indent=1, ensure_ascii=False) + "\n")
    ledger = ROOT / "results" / "ledger.jsonl"
    text = ledger.read_text()
    recorded |= set(re.findall(r'"recipe hash": "([0-9a-f]{16})"', text))
    ledger.write_text(re.sub(r'(?<="recipe hash": ")[0-9a-f]{16}', lambda match: hashes.get(match[0], match[0]), text))
    kept = sorted(recorded - set(hashes))
    print(f"{len(recorded & set(hashes))} fingerprints carried over; {len(kept)} stay: {', '.join(kept)}")


def main() -> None:
    """Carry results over, or prove that both spellings make the same."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path)
    parser.add_argument("--prove", action="store_true")
    options = parser.parse_args()
    (prove if options.prove else carry)(options.old.resolve())


TINY = """
data: {source: world, world: {users: 60, items: 40, events: 8}, core: 2}
items: {encoder: hashing}
indexing: {levels: 2, width: 8, vectors: weighted, teacher: ppmi, weight: 0.4, spares: 3, separate: last-level}
tasks: {windows: 2, wordings: 3, supervise: history, caps: {item_to_text: 20}, letters: 5, history: 8}
model: {width: 64, layers: 2, heads: 2, vocabulary: 400}
train:
  - {method: sft, epochs: 2, batch: 8, learning_rate: 3.0e-3, accumulate: 2, average: 0.3, row_tokens: 512,
     spare_share: 0.02, smoothing: 0.05, drop_history: 0.1, taught: 0.2, softmax: catalogue}
  - {method: s-dpo, epochs: 0.5, batch: 8, events: 2, rejected: {random: 2, beams: 2}}
  - {method: grpo, epochs: 0.5, batch: 8, events: 2, group: 4, draw: without-replacement, pass_at: 2, drop_flat: true}
evaluate: {beams: 20, blend: {teacher: markov-ease, share: 0.2}, wording: trained, target: test}
"""


def prove(old: Path) -> None:
    """Make a tiny run in both spellings, each with its own code, and compare the files that decide results."""
    import hashlib

    from llmrec.files import write_json

    digests = {}
    with tempfile.TemporaryDirectory() as folder:
        new = yaml.safe_dump(recipe(yaml.safe_load(TINY)), sort_keys=False)
        for name, checkout, text in (("old", old, TINY), ("new", ROOT, new)):
            path = Path(folder) / name / "recipe.yaml"
            path.parent.mkdir()
            path.write_text(text)
            environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
            out = path.parent / "run"
            command = [sys.executable, "-m", "llmrec", "run", path, "--out", out]
            subprocess.run(command, env=environment, check=True, cwd=path.parent)
            files = [
                file
                for pattern in ("catalogue/codes.npy", "train-*/model/model.safetensors", "evaluate-test/*.parquet")
                for file in sorted(out.glob(pattern))
            ]
            digests[name] = {
                file.relative_to(out).as_posix(): hashlib.sha256(file.read_bytes()).hexdigest() for file in files
            }
    same = digests["old"] == digests["new"]
    typed = "python scripts/experiments/rename_recipe_keys.py OLD_CHECKOUT --prove"
    write_json(ROOT / "results" / "renamed-keys.json", {"command": typed, "same": same, "files": digests["new"]})
    print(f"the same {len(digests['new'])} files: {same}", *digests["new"], sep="\n")
    sys.exit(not same)


if __name__ == "__main__":
    main()
