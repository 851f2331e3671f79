"""Pretrained bases: by hub name, as a local folder, or embedded (from its GGUF file, de-quantized)."""

from __future__ import annotations

import warnings
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from llmrec import resources
from llmrec.errors import ModelError
from llmrec.files import atomic_folder
from llmrec.model import gguf, nano
from llmrec.model.loading import model_from, tokenizer_from

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
        ModelError: there is none of that name, it cannot be loaded, or its tokenizer gives no character offsets or has
            no token that ends a text.
        LlmrecError: an embedded base that was not fetched yet.
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
    folder: Path = resources.asset_path(name.removeprefix("embedded:"))
    files = sorted(folder.glob("*.gguf"))
    if not files:
        raise ModelError(f"model.base: '{name}' is not a language model.")
    copy = gguf.plain_copy(files[0], folder.with_name(f"{folder.name}-plain"))
    return _pretrained(str(copy), dtype) if copy else gguf.load(files[0], dtype)


def tiny_base(
    name: str, words: list[str], folder: Path, tied: bool = True
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Two layers of a base's family with random weights, and a tokenizer made from some words: proves the path, no hub.

    Args:
        name: as in `load_base`; the family is read from it, Llama where it tells nothing.
        words: texts to learn the vocabulary from.
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
