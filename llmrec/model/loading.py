"""Load models, configurations and tokenizers by transformers: data only, never code or pickles.

Errors of transformers, tokenizers and safetensors about damaged files have many types; here they become `ModelError`.
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
    """Load the configuration of a model folder or hub name.

    Raises:
        ModelError: it cannot be read, has no layers, or needs foreign code.
    """
    _check_files(Path(name))
    with as_model_error(name):
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
    """Load the tokenizer of a model folder or hub name; `options` are of `AutoTokenizer.from_pretrained`.

    Raises:
        ModelError: it cannot be read, or cannot encode a text.
    """
    _check_files(Path(name))
    with as_model_error(name):
        tokenizer = AutoTokenizer.from_pretrained(name, trust_remote_code=False, **options)
        tokenizer("a")  # some damage shows only here
    return tokenizer


def model_from(name: Path | str, dtype: torch.dtype | str, strict: bool = False) -> PreTrainedModel:
    """Load the language model of a folder or hub name, from safetensors; `strict` refuses unexpected weights, too.

    Raises:
        ModelError: it cannot be loaded, lacks weights, or has weights that are not finite.
    """
    _check_folder(Path(name), config_from(name))
    auto: Any = AutoModelForCausalLM  # its types lack the loading report
    with as_model_error(name):
        model, report = auto.from_pretrained(
            name, dtype=dtype, trust_remote_code=False, use_safetensors=True, output_loading_info=True
        )
    problems = {"lacks": report["missing_keys"], "has no place for": report["unexpected_keys"] if strict else ()}
    for problem, keys in problems.items():
        if keys:
            raise ModelError(
                f"{name} cannot be loaded: the model of its config.json {problem} {len(keys)} weight(s), such as "
                f"'{min(keys)}', so config.json or weights are damaged or of another model."
            )
    broken = next((key for key, weight in model.named_parameters() if not _is_finite(weight)), None)
    if broken is not None:
        raise ModelError(f"{name} cannot be loaded: its weight '{broken}' has values that are not finite.")
    return model


@contextlib.contextmanager
def as_model_error(name: Path | str) -> Iterator[None]:
    """Turn any error of a library that loads a model into a `ModelError` with one message."""
    try:
        yield
    except LlmrecError:
        raise
    except BaseException as error:
        # tokenizers is written in Rust, whose panics are not an `Exception`
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = NO_CODE if "trust_remote_code" in str(error) else _reason(error)
        raise ModelError(f"{name} cannot be loaded: {reason}") from error


def _reason(error: BaseException) -> str:
    """The message of an error on one line; with its type, unless the message is a sentence for users."""
    text = " ".join(str(error).split()).rstrip(".")
    text = text if len(text) <= 300 else f"{text[:300]}…"
    return f"{text}." if isinstance(error, OSError | ValueError | ImportError) else f"{type(error).__name__}: {text}."


def _check_files(folder: Path) -> None:
    """Raise ModelError for a folder with a pipe, a device or a dangling link: reading it could block forever."""
    for path in folder.iterdir() if folder.is_dir() else ():
        if not path.is_file() and not path.is_dir():
            raise ModelError(f"{folder} cannot be loaded: {path.name} in it is not a regular file.")


def _check_folder(folder: Path, config: PreTrainedConfig) -> None:
    """Raise ModelError for a folder of adapters, or with more layers than weights (building them takes hours)."""
    if not folder.is_dir():
        return
    if (folder / "adapter_config.json").is_file():
        raise ModelError(
            f"{folder} cannot be loaded: it holds adapters (adapter_config.json) and not a whole model. Merge them "
            "into their base first, with peft's merge_and_unload."
        )
    tensors, layers = 0, getattr(config.get_text_config(), "num_hidden_layers", 1)
    with as_model_error(folder):
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
