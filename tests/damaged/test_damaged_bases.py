"""Bases that recipes name and adapters end in one message where they are damaged; nothing runs their code."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from damage import (
    Damage,
    adapters,
    both,
    changed,
    code_of_model,
    code_of_tokenizer,
    content,
    copied,
    fifo,
    part,
    pickled,
    special,
    weights,
    without,
)

import llmrec
from llmrec.errors import ModelError
from llmrec.model.base import load_base
from llmrec.model.folder import load
from llmrec.model.merge import load_adapter, save_adapter

BASES: dict[str, Damage] = {
    "code": code_of_model,
    "code of a tokenizer": code_of_tokenizer,
    "pickled weights": pickled,
    "adapters": adapters,
    "a weight missing": weights(lambda old: old.pop("model.layers.1.mlp.up_proj.weight")),
    "weights cut": part("model.safetensors", 0.5),
    "a weight that is no number": weights(lambda old: old["model.norm.weight"].fill_(torch.nan)),
    "a million million layers": changed("config.json", num_hidden_layers=10**12),
    "no configuration": without("config.json"),
    "a tokenizer that is none": content("tokenizer.json", b"{}"),
    "a pipe": special("config.json", fifo),
}
"""Damage to a base that a recipe names."""

ADAPTERS: dict[str, Damage] = {
    "no weights": without("adapter_model.safetensors"),
    "pickled weights": both(without("adapter_model.safetensors"), content("adapter_model.bin", b"x")),
    "weights cut": part("adapter_model.safetensors", 0.5),
    "no configuration": without("adapter_config.json"),
    "configuration cut": part("adapter_config.json", 0.5),
    "no known kind": changed("adapter_config.json", peft_type="magic"),
    "no vocabulary": without("vocabulary.json"),
    "a vocabulary of words": changed("vocabulary.json", rows="many"),
    "another vocabulary": changed("vocabulary.json", hash="0" * 64),
}
"""Damage to adapters that training left."""


@pytest.mark.parametrize("damage", BASES)
def test_a_damaged_base_of_a_recipe_ends_in_one_message(
    damage: str, whole: Path, tmp_path: Path, asked: list[str]
) -> None:
    folder = copied(whole, tmp_path / "base", BASES[damage])
    with pytest.raises(ModelError, match=r"^model\.base: .*/base cannot be loaded: .*\nGive nano, "):
        load_base(str(folder), torch.float32)
    assert not asked and not (folder / "ran").exists()


@pytest.mark.parametrize("damage", ADAPTERS)
def test_damaged_adapters_end_in_one_message(damage: str, whole: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model, tokenizer, _ = load(whole)
    small = LoraConfig(r=1, target_modules=["q_proj"])
    save_adapter(get_peft_model(cast(Any, model), small), tokenizer, tmp_path / "adapter")
    ADAPTERS[damage](tmp_path / "adapter")
    with pytest.raises(ModelError, match="/adapter"):
        load_adapter(load(whole)[0], tokenizer, tmp_path / "adapter")


def calls() -> Iterator[tuple[str, str, dict[str, object]]]:
    """Every call in llmrec: where, what is called, and arguments with names, those that are constants by value."""
    root = Path(llmrec.__file__).parent
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                named = {word.arg or "": getattr(word.value, "value", ...) for word in node.keywords}
                yield f"{path.relative_to(root)}:{node.lineno}", ast.unparse(node.func), named


def test_nothing_loads_code_or_pickles_from_a_folder() -> None:
    for where, name, named in calls():
        if name.endswith("from_pretrained") and not name.startswith("PeftModel"):
            assert named.get("trust_remote_code") is False, f"{where}: {name} without trust_remote_code=False"
        assert named.get("allow_pickle", False) is False, f"{where}: {name} unpickles"
        assert name != "torch.load" or named.get("weights_only") is True, f"{where}: torch.load unpickles"
        assert name.split(".")[0] not in ("pickle", "cloudpickle", "dill", "joblib"), f"{where}: {name}"
