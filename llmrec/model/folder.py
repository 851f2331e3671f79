"""The model folder: a plain Hugging Face folder, and beside it a note of the catalogue and prompt it was trained on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from llmrec.errors import ModelError
from llmrec.files import read_json, write_json

NOTE = "llmrec.json"


@dataclass(frozen=True)
class Note:
    """What a model must be used with.

    Attributes:
        catalogue: hash of the catalogue it was trained on.
        history: items of a history that its prompts hold, newest kept.
        prompt: the wording of its next-item prompt, with the slot {history}.
        held_out_prompt: a wording it never saw in training, for evaluation.
        search: the wording of its prompt for a wish in words, with the slot {intention}; "" where it learned none.
        search_history: the same after a history, with both slots.
        beams: prefixes that a search keeps at each level where nobody says otherwise; narrow beams lose items.
        exclude_seen: whether lists leave out items of the history where nobody says otherwise.
    """

    catalogue: str
    history: int
    prompt: str
    held_out_prompt: str
    search: str = ""
    search_history: str = ""
    beams: int = 50
    exclude_seen: bool = True


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, note: Note, folder: Path) -> None:
    """Write weights, tokenizer, a generation config of our own (nothing inherited that drops beams), and the note."""
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / NOTE, {name: value for name, value in asdict(note).items() if value != ""})


def load(folder: Path, dtype: torch.dtype | str = "auto") -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Note]:
    """Read a model folder, in evaluation mode, on the GPU where there is one.

    Raises:
        ModelError: not such a folder.
    """
    tokenizer, note = load_words(folder)
    return load_model(folder, dtype), tokenizer, note


def load_words(folder: Path) -> tuple[PreTrainedTokenizerBase, Note]:
    """The tokenizer and the note of a model folder, without its weights.

    Raises:
        ModelError: not such a folder.
    """
    if not (folder / NOTE).is_file():
        raise ModelError(f"{folder} is not a model folder of llmrec: it has no {NOTE}. `llmrec run` makes one.")
    with _explained(folder):
        return AutoTokenizer.from_pretrained(folder), Note(**read_json(folder / NOTE))


def load_model(folder: Path, dtype: torch.dtype | str = "auto") -> PreTrainedModel:
    """The weights of a model folder, in evaluation mode, on the GPU where there is one.

    Raises:
        ModelError: they cannot be loaded.
    """
    with _explained(folder):
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


@contextlib.contextmanager
def _explained(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder} cannot be loaded: {str(error).splitlines()[0]}") from error


def window(folder: Path) -> int:
    """Tokens that the model of a folder can hold."""
    with _explained(folder):
        return int(AutoConfig.from_pretrained(folder).get_text_config().max_position_embeddings)
