"""Pretrained bases: by hub name, from a local folder, or embedded (a GGUF file, dequantized)."""

from __future__ import annotations

import os
import shutil
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from llmrec import resources
from llmrec.checked import read_checked
from llmrec.errors import ModelError, RunError
from llmrec.files import atomic_folder, hash_file, hash_folder, write_json
from llmrec.model import nano
from llmrec.model.loading import model_from, tokenizer_from

COPY_META = "copy.json"  # in a plain copy: the hash of its GGUF file, and of itself
# part of a base's name → its architecture in transformers, for `tiny_base`
FAMILIES = {
    "qwen3": "qwen3",
    "qwen": "qwen2",
    "gemma": "gemma2",
    "mistral": "mistral",
    "phi-1": "phi",
    "phi-2": "phi",
    "phi": "phi3",
}
TINY_CHAT = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)


def load_base(name: str, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a base model and its tokenizer.

    Args:
        name: `embedded:NAME`, a folder, or a hub name.
        dtype: of the weights.

    Raises:
        ModelError: there is no such base, it cannot be loaded, or its tokenizer has no character offsets or no
            end-of-text token.
        LlmrecError: an embedded base that was not downloaded yet.
    """
    model, tokenizer = _embedded(name, dtype) if name.startswith("embedded:") else _pretrained(name, dtype)
    if not tokenizer.is_fast:
        raise ModelError(
            f"model.base: the tokenizer of '{name}' gives no character offsets. Choose a base with a tokenizer.json."
        )
    if tokenizer.eos_token is None:
        raise ModelError(
            f"model.base: the tokenizer of '{name}' has no token that ends a text, so no answer could end. "
            "Name one in a copy of its folder: `eos_token` in tokenizer_config.json, an entry of its vocabulary."
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if not tokenizer.chat_template:
        warnings.warn(f"the base '{name}' has no chat template: prompts are given to it as they are", stacklevel=2)
    return model, tokenizer


def load_base_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a base, named as in `load_base`, without its weights.

    Raises:
        ModelError: there is no such base.
    """
    if not name.startswith("embedded:"):
        return tokenizer_from(name)
    file = _gguf_file(name)
    return tokenizer_from(file.parent, gguf_file=file.name)


def _pretrained(name: str, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    try:
        return model_from(name, dtype), tokenizer_from(name)
    except ModelError as error:
        raise ModelError(
            f"model.base: {error}\n"
            "Give nano, embedded:smollm2-135m-instruct, the path of a model folder, or a hub name that this machine "
            "reaches."
        ) from error


def _embedded(name: str, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    file = _gguf_file(name)
    copy = plain_copy(file, file.parent.with_name(f"{file.parent.name}-plain"))
    return _pretrained(str(copy), dtype) if copy else load_gguf(file, dtype)


def _gguf_file(name: str) -> Path:
    """The GGUF file of `embedded:NAME`."""
    files = sorted(resources.asset_path(name.removeprefix("embedded:")).glob("*.gguf"))
    if not files:
        raise ModelError(f"model.base: '{name}' is not a language model.")
    return files[0]


def plain_copy(file: Path, target: Path) -> Path | None:
    """Convert a GGUF file to a plain model folder, unless an intact copy is there already.

    Returns:
        `target`; None if it cannot be written, or is something else than a copy.
    """
    source = hash_file(file)
    if _is_copy(target, source):
        return target
    if os.path.lexists(target) and (target.is_symlink() or not (target / COPY_META).is_file()):
        return None  # not our copy, so it is not replaced
    try:
        shutil.rmtree(target, ignore_errors=True)
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as work:
            folder = Path(work) / "model"
            for part in load_gguf(file, torch.float32):
                part.save_pretrained(folder)
            write_json(folder / COPY_META, {"of": source, "is": hash_folder(folder)})
            folder.replace(target)
    except OSError:  # a full or read-only cache, or another process was first
        return target if _is_copy(target, source) else None
    return target


def load_gguf(file: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the dequantized model of a GGUF file, and its tokenizer; float32 holds the weights exactly."""
    from transformers import GgufConfig

    folder, options = file.parent, {"gguf_file": file.name}
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=GgufConfig(dequantize=True), dtype=dtype, trust_remote_code=False, **options
    )
    for owner, leftover in ((model.config, "quantization_config"), (model, "hf_quantizer")):
        if hasattr(owner, leftover):  # the weights are plain now; this would break the saved folder
            delattr(owner, leftover)
    model.is_quantized = False
    return model, tokenizer_from(folder, **options)


def _is_copy(folder: Path, source: str) -> bool:
    """Whether a folder is the intact copy of a file with this hash."""
    try:
        meta = read_checked(folder / COPY_META, dict[str, str])
    except RunError:  # missing or damaged: the copy is made again
        return False
    return meta.get("of") == source and meta.get("is") == hash_folder(folder, (COPY_META,))


def tiny_base(
    name: str, words: list[str], folder: Path, tied: bool = True
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Make a random two-layer model of a base's family, and a tokenizer trained on some texts; no download.

    Args:
        name: as in `load_base`; the family is read from it, Llama if it names none.
        words: texts to train the tokenizer on.
        folder: keeps the tokenizer.
        tied: whether the output head is the embedding.
    """
    if not (folder / "tokenizer_config.json").is_file():
        with atomic_folder(folder) as temporary:
            nano.train_tokenizer(words, 600, temporary)
    tokenizer = tokenizer_from(folder)
    tokenizer.chat_template = TINY_CHAT
    family = next((config for part, config in FAMILIES.items() if part in name.lower()), "llama")
    config = AutoConfig.for_model(
        family,
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=tied,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return AutoModelForCausalLM.from_config(config), tokenizer
