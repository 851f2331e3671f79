"""The model card of an export: description, use, metrics, training and licences.

All text from a user's files is in code spans, in which neither Markdown nor HTML is interpreted; the header is written
by a YAML library.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmrec import __version__, resources
from llmrec.evaluate.files import read_metrics
from llmrec.recipe import Model
from llmrec.report import sentences
from llmrec.run.layout import RunFolder
from llmrec.run.stage import StageSpec, resolve
from llmrec.stage_record import RECORD_FILE, StageRecord

UNKNOWN = "unknown: check before sharing"
PUBLIC = {"embedded:smollm2-135m-instruct": "HuggingFaceTB/SmolLM2-135M-Instruct"}  # names on the hub of bundled bases


@dataclass(frozen=True)
class Facts:
    """Contents of a card.

    Attributes:
        name: of the run.
        source: of the data, as in the recipe.
        data: facts of the data stage: counts, and name and licence of the source if known.
        model: of the recipe.
        trained: settings and made.json of all training stages, in order.
        metrics: metrics.json of this recommender, or None.
        members: weight and name of each member of an ensemble; [] without an ensemble.
        example: item id, title and code of one item.
        levels: tokens per code.
        chat: whether the tokenizer has a chat template.
        dtype: of the weights, such as float32.
        rows: of the embedding.
        adapter: whether the export contains the trained adapters.
    """

    name: str
    source: str
    data: dict[str, Any]
    model: Model
    trained: list[tuple[dict[str, Any], StageRecord]]
    metrics: dict[str, Any] | None
    members: list[tuple[float, str]]
    example: tuple[str, str, str]
    levels: int
    chat: bool
    dtype: str
    rows: int
    adapter: bool


def measured(run: RunFolder, evaluations: Sequence[StageSpec], seed: int) -> dict[str, Any] | None:
    """Metrics of the first evaluation that is current; None without one."""
    for spec in evaluations:
        if (run.stage(spec.name) / RECORD_FILE).is_file() and resolve(run, spec, seed).is_made():
            return read_metrics(run.stage(spec.name))
    return None


def card(facts: Facts) -> str:
    """The text of README.md, with its header."""
    parts = (_what, _use, _metrics, _training, _licences, _limits)
    return f"---\n{_header(facts)}\n---\n\n" + "\n\n".join(part(facts) for part in parts) + "\n"


def code(value: Any) -> str:
    """A value as a Markdown code span on one line, safe inside a table: nothing in it is interpreted."""
    text = re.sub(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", sentences.format_value(value)).strip()
    return f"`{text.replace('`', 'ˋ').replace('|', '¦') or '–'}`"


def base_name(model: Model) -> str | None:
    """Name of the base on the hub; None for nano, for random weights, and for a local folder."""
    if model.tiny or model.base == "nano":
        return None
    if model.base in PUBLIC:
        return PUBLIC[model.base]
    is_name = re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", model.base) and not Path(model.base).is_dir()
    return model.base if is_name else None


def base_licence(model: Model) -> str:
    """The licence of the base, if it is known on this machine."""
    if model.base == "nano" or model.tiny:
        return "none: trained from random weights"
    if model.base.startswith("embedded:"):
        return resources.asset(model.base.removeprefix("embedded:")).licence
    return _licence_of_folder(Path(model.base)) or UNKNOWN


def _licence_of_folder(folder: Path) -> str | None:
    """The licence in the model card of a local base."""
    from huggingface_hub import ModelCard

    if not (folder / "README.md").is_file():
        return None
    try:
        data = ModelCard.load(folder / "README.md", ignore_metadata_errors=True).data
    except Exception:  # a damaged card of the user's
        return None
    licence = data.get("license_name") if data.get("license") == "other" else data.get("license")
    return str(licence) if licence else None


def _header(facts: Facts) -> str:
    from huggingface_hub import ModelCardData

    known = UNKNOWN not in (base_licence(facts.model), _data_licence(facts))
    fields: dict[str, Any] = {"license": "other" if known else "unknown", "base_model": base_name(facts.model)}
    fields |= {"license_name": "licences-of-base-and-data", "license_link": "README.md"} if known else {}
    fields |= {"datasets": None if facts.source == "files" else [facts.source]}
    if facts.metrics:
        fields |= {"metrics": list(facts.metrics["systems"][facts.metrics["model"]])}
        fields |= {"model_name": facts.name, "eval_results": _results(facts, facts.metrics)}
    tags = ["recommendation", "semantic-ids", "llmrec"]
    data = ModelCardData(library_name="transformers", pipeline_tag="text-generation", tags=tags, **fields)
    return data.to_yaml()


def _results(facts: Facts, metrics: dict[str, Any]) -> list[Any]:
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="other",
            task_name="next-item recommendation",
            dataset_type=facts.source,
            dataset_name=str(facts.data.get("source", "files")),
            dataset_split=metrics["protocol"]["target"],
            metric_type=metric,
            metric_name=sentences.metric_name(metric),
            metric_value=round(value["mean"], 5),
        )
        for metric, value in metrics["systems"][metrics["model"]].items()
    ]


def _what(facts: Facts) -> str:
    item, title, text = facts.example
    counts = {key: facts.data[key] for key in ("users", "items", "interactions") if key in facts.data}
    lines = [
        f"# {code(facts.name)}, a language model that recommends",
        f"It reads a history of items and answers with the next one. Every item is a code of {facts.levels} tokens: "
        f"{code(text)} is {code(title)} (item {code(item)}). Trained with llmrec on "
        f"{code(facts.data.get('source', 'files'))} ({code(counts)}).",
        "This folder is a plain Hugging Face folder; `catalogue/` has the items and their codes, which "
        "restrict answers to real items, `llmrec.json` the prompt of training, and `recommender.json` what recommends.",
    ]
    if facts.members:
        mixed = sentences.join_names([f"{code(name)} (weight {code(weight)})" for weight, name in facts.members])
        lines.append(
            f"Lists are a mixture of the probabilities of {mixed}. `collaborative/` holds all but the language model; "
            "llmrec mixes them, and transformers alone does not."
        )
    if facts.model.tiny:
        lines.insert(1, "**Made with `--tiny`, which tests the pipeline: its recommendations mean nothing.**")
    return "\n\n".join(lines)


def _use(facts: Facts) -> str:
    words_to_tokens = (
        'tokenizer.apply_chat_template(\n    [{"role": "user", "content": prompt}], add_generation_prompt=True, '
        'return_dict=True, return_tensors="pt"\n)'
        if facts.chat
        else 'tokenizer(prompt, return_tensors="pt")'
    )
    return f"""## Use

In this folder, with llmrec (`pip install llmrec`); every answer is an item of the catalogue:

```python
import llmrec

rec = llmrec.load(".")
history = rec.catalogue.item_ids[:3]  # item ids, oldest first
print(rec.recommend(history, k=5))  # [(item id, log-probability), ...], best first
```

With vLLM (`pip install 'llmrec[serve]'`), for many requests; in a script, below `if __name__ == "__main__":`

```python
import llmrec

options = {{"dtype": "{facts.dtype}", "enforce_eager": True}}  # eager starts sooner; on a GPU, without it serves faster
rec = llmrec.load(".", engine="vllm", **options)
print(rec.recommend(rec.catalogue.item_ids[:3], k=5))
```

With transformers alone, without constraints, so an answer may be no item:

```python
import json
from pathlib import Path

import numpy as np
from transformers import AutoModelForCausalLM, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained("."), AutoModelForCausalLM.from_pretrained(".")
names = json.loads(Path("catalogue/catalogue.json").read_text())["tokens"]
codes = ["".join(names[n] for n in code if n >= 0) for code in np.load("catalogue/codes.npy").tolist()]
prompt = json.loads(Path("llmrec.json").read_text())["prompt"].format(history="".join(codes[:3]), user="")
tokens = {words_to_tokens}
answer = model.generate(**tokens, max_new_tokens={facts.levels}, do_sample=False)[0, tokens["input_ids"].shape[1] :]
print(tokenizer.decode(answer))
```{_adapter(facts) if facts.adapter else ""}"""


def _adapter(facts: Facts) -> str:
    return f"""

`adapter/` contains the trained adapters, which are merged into the weights above. To use them on the base, resize it:
`resize_token_embeddings({facts.rows}, mean_resizing=False)`, then `PeftModel.from_pretrained(base, "adapter")`."""


def _metrics(facts: Facts) -> str:
    if facts.metrics is None:
        return "## Metrics\n\nThis model was not evaluated."
    metrics = facts.metrics
    digits = sentences.decimals(metrics["protocol"]["users"])
    names = list(metrics["systems"][metrics["model"]])
    rows = ["| | " + " | ".join(sentences.metric_name(name) for name in names) + " |", "|---" * (len(names) + 1) + "|"]
    for system, values in metrics["systems"].items():
        cells = [_interval(values.get(name), digits) for name in names]
        name = f"**{code(system)}**" if system == metrics["model"] else code(sentences.system_name(system))
        rows.append(f"| {name} | " + " | ".join(cells) + " |")
    protocol = "; ".join(
        f"{sentences.format_key(key).lower()} {code(value)}" for key, value in metrics["protocol"].items()
    )
    verdict = sentences.headline(metrics | {"model": "the model"})  # its name comes from the user's files
    return "\n\n".join(["## Metrics", verdict, "\n".join(rows), f"Intervals in brackets. Protocol: {protocol}."])


def _interval(value: dict[str, float] | None, digits: int) -> str:
    return "–" if value is None else "{mean:.{0}f} ({low:.{0}f} to {high:.{0}f})".format(digits, **value)


def _training(facts: Facts) -> str:
    rows = []
    for number, (config, made) in enumerate(facts.trained, 1):
        rest = {key: value for key, value in config.items() if key not in ("train", "model")}
        shown = {**config["train"], **_shown_model(facts.model), **rest, "seed": made["seed"], **made["facts"]}
        rows += [
            f"**Stage {number}**, on {code(made['device'])} in {code(sentences.format_duration(made['seconds']))}:"
        ]
        rows += ["\n".join(f"- {key}: {code(value)}" for key, value in shown.items() if value is not None)]
    versions = ", ".join(f"{name} {version}" for name, version in facts.trained[-1][1]["versions"].items())
    return "\n\n".join(["## Training", *rows, f"Versions: {code(versions)}."])


def _shown_model(model: Model) -> dict[str, Any]:
    """The recipe's part `model` without paths of the machine: only the last part of folders."""
    start = {"init_from": Path(model.init_from).name} if model.init_from else {}
    return model.hashed_fields() | {"base": base_name(model) or Path(model.base).name} | start


def _data_licence(facts: Facts) -> str:
    return str(facts.data.get("licence") or UNKNOWN)


def _licences(facts: Facts) -> str:
    base = _shown_model(facts.model)["base"]
    return f"""## Licences

- base {code(base)}: {code(base_licence(facts.model))}
- data {code(facts.data.get("source", "files"))}: {code(_data_licence(facts))}

Both apply to this folder: the weights were trained from both, and `catalogue/` contains texts of the items."""


def _limits(facts: Facts) -> str:
    return f"""## Limits

It recommends only items of its catalogue, and reflects what was popular in its log. Metrics are on held-out events
of the same log, not on feedback of users. Exported by llmrec {__version__}."""
