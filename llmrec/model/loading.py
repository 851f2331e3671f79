"""Models, configurations and tokenizers of folders and hubs, read by transformers: data alone, never code or pickles.

What transformers, tokenizers and safetensors raise about a damaged file is of any kind; here it becomes a `ModelError`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from llmrec.errors import LlmrecError, ModelError

NO_CODE = (
    "it needs Python code that comes with it (auto_map), and llmrec never runs the code of a model folder. Use a model "
    "whose architecture transformers has itself, or one that was converted to such."
)


def config_from(name: Path | str) -> PreTrainedConfig:
    """The configuration of a model folder or hub name.

    Raises:
        ModelError: it cannot be read, has no layers, or asks for code from elsewhere.
    """
    _check_files(Path(name))
    with explained(name):
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
        layers = getattr(config.get_text_config(), "num_hidden_layers", 1)
        attention = str(getattr(config, "_attn_implementation", None))
    if layers < 1:
        raise ModelError(f"{name} cannot be loaded: its config.json has {layers} layers.")
    if "/" in attention:  # a kernel that transformers would fetch and run
        raise ModelError(
            f"{name} cannot be loaded: its config.json asks for the code of '{attention}', never run here."
        )
    return config


def tokenizer_from(name: Path | str, **options: Any) -> PreTrainedTokenizerBase:
    """The tokenizer of a model folder or hub name.

    Args:
        name: where from.
        options: of `AutoTokenizer.from_pretrained`.

    Raises:
        ModelError: it cannot be read, or encodes nothing.
    """
    _check_files(Path(name))
    with explained(name):
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **options)
        tokenizer("a")  # some damage shows only here
    return tokenizer


def model_from(name: Path | str, dtype: torch.dtype | str, whole: bool = False) -> PreTrainedModel:
    """The language model of a folder or hub name, from weights in safetensors.

    Args:
        name: where from.
        dtype: of the weights.
        whole: whether weights that the model has no place for are an error, too.

    Raises:
        ModelError: it cannot be loaded, lacks weights, or has some that are not finite.
    """
    _check_folder(Path(name), config_from(name))
    auto: Any = AutoModelForCausalLM  # transformers types what it returns without the report
    with explained(name):
        model, report = auto.from_pretrained(
            name, dtype=dtype, trust_remote_code=False, use_safetensors=True, output_loading_info=True
        )
    problems = {"lacks": report["missing_keys"], "has no place for": report["unexpected_keys"] if whole else ()}
    for what, keys in problems.items():
        if keys:
            raise ModelError(
                f"{name} cannot be loaded: the model of its config.json {what} {len(keys)} weight(s), such as "
                f"'{min(keys)}', so config.json or weights are damaged or of another model."
            )
    broken = next((key for key, weight in model.named_parameters() if not _is_finite(weight)), None)
    if broken is not None:
        raise ModelError(f"{name} cannot be loaded: its weight '{broken}' has values that are not finite.")
    return model


@contextlib.contextmanager
def explained(name: Path | str) -> Iterator[None]:
    """Turn whatever a library raises while it reads a model into a message.

    Raises:
        ModelError: anything was raised.
    """
    try:
        yield
    except LlmrecError:
        raise
    except BaseException as error:
        # tokenizers are written in Rust, whose panics are no `Exception`
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = NO_CODE if "trust_remote_code" in str(error) else _reason(error)
        raise ModelError(f"{name} cannot be loaded: {reason}") from error


def _reason(error: BaseException) -> str:
    """What a library says, on one line; with the kind of the error where that is no sentence for people."""
    words = " ".join(str(error).split()).rstrip(".")
    words = words if len(words) <= 300 else f"{words[:300]}…"
    return f"{words}." if isinstance(error, OSError | ValueError | ImportError) else f"{type(error).__name__}: {words}."


def _check_files(folder: Path) -> None:
    """Refuse a folder with a pipe, a device or a link to nothing in it: reading those would wait for ever, or be odd.

    Raises:
        ModelError: it has such.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        if not path.is_file() and not path.is_dir():
            raise ModelError(f"{folder} cannot be loaded: {path.name} in it is not a regular file.")


def _check_folder(folder: Path, config: PreTrainedConfig) -> None:
    """Refuse what would make transformers read elsewhere, or build layers for hours.

    Raises:
        ModelError: the folder holds adapters of another model, or the configuration has more layers than weights.
    """
    if not folder.is_dir():
        return
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{folder} cannot be loaded: it holds adapters (adapter_config.json) and not a whole model. Merge them "
            "into their base first, with peft's merge_and_unload."
        )
    tensors, layers = 0, getattr(config.get_text_config(), "num_hidden_layers", 1)
    with explained(folder):
        for file in folder.glob("*.safetensors"):
            with safe_open(file, "pt") as weights:
                tensors += len(weights.keys())
    if tensors < layers:
        raise ModelError(
            f"{folder} cannot be loaded: its config.json has {layers} layers, but its *.safetensors hold {tensors} "
            "weights (pickled weights, .bin and .pt, are never read)."
        )


def _is_finite(weight: torch.Tensor) -> bool:
    return not weight.is_floating_point() or bool(torch.isfinite(weight).all())
