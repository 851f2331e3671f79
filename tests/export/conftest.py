"""Runs to export: trained from scratch (`tiny_run`), adapters on a base folder of somebody's own, and an ensemble."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from llmrec.export import export
from llmrec.model.base import tiny_base
from llmrec.recipe_file import load
from llmrec.run.execute import run

CARD = "---\nlicense: other\nlicense_name: '<img src=x> | free `of` charge'\n---\n# A base\n"


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two random layers with an output head of their own, and generation settings that no recommender wants."""
    folder = tmp_path_factory.mktemp("bases") / "some-base"
    words = ["Somebody picked these films, oldest first.", "What comes next? Go on with the list, please."] * 3
    torch.manual_seed(0)
    model, tokenizer = tiny_base("Qwen/Qwen3-0.6B", words, folder.parent / "tokenizer")
    model.config.tie_word_embeddings = False
    model = type(model)(model.config)
    model.generation_config.update(do_sample=True, top_k=2, top_p=0.1, temperature=0.7, repetition_penalty=1.3)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text(CARD)
    return folder


@pytest.fixture(scope="session")
def learnt(world: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Way of training → the small world learnt on that base, in that way. Tests must not change it."""

    @cache
    def by(method: str) -> Path:
        recipe = load(world, [f"model.base={base}", f"model.adapt={method}", "model.rank=4"])
        return run(recipe, tmp_path_factory.mktemp("runs") / method)

    return by


@pytest.fixture(scope="session")
def adapted_run(learnt: Callable[[str], Path]) -> Path:
    """The small world learnt by low-rank adapters and new rows."""
    return learnt("lora")


@pytest.fixture(scope="session")
def adapted(adapted_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of `adapted_run`. Tests must not change it."""
    return export(adapted_run, tmp_path_factory.mktemp("exports") / "adapted")


@pytest.fixture(scope="session")
def scratch(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of `tiny_run`. Tests must not change it."""
    return export(tiny_run, tmp_path_factory.mktemp("exports") / "scratch")


@pytest.fixture(scope="session")
def mixed(mixed_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of `mixed_run`. Tests must not change it."""
    return export(mixed_run, tmp_path_factory.mktemp("exports") / "mixed")
