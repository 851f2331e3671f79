"""The model folder: a plain Hugging Face folder, and beside it a note of the catalogue and prompt it was trained on."""

from __future__ import annotations

import contextlib
import string
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, ConfigDict, Field
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from llmrec.checked import read_checked
from llmrec.errors import ModelError
from llmrec.files import write_json
from llmrec.model.loading import config_from, model_from, tokenizer_from
from llmrec.model.prompting import encode

NOTE = "llmrec.json"
_REMEDY = "Copy the folder again, or make it again with `llmrec run` or `llmrec export`."
_LONGEST = 100_000  # characters of a prompt


def _with_slots(*slots: str, further: str = "", optional: bool = False) -> AfterValidator:
    """A validator of prompts: each of some slots once, in braces, and no other but perhaps one further slot.

    `optional`: or no prompt, "".
    """
    words = " and ".join(f"{{{slot}}}" for slot in slots)

    def check(prompt: str) -> str:
        parts = list(string.Formatter().parse(prompt))
        found = sorted(name for _, name, _, _ in parts if name is not None)
        fitting = [sorted(slots), *([sorted([*slots, further])] if further else [])]
        if (prompt or not optional) and (found not in fitting or any(part[2] or part[3] for part in parts)):
            raise ValueError(f"it must have {words} once, and no other slot")
        return prompt

    return AfterValidator(check)


_Text = Annotated[str, Field(max_length=_LONGEST)]
_Count = Annotated[int, Field(ge=1, lt=2**31)]
_HistoryPrompt = Annotated[_Text, _with_slots("history", further="user", optional=True)]


@dataclass(frozen=True)
class Note:
    """What a model must be used with.

    Attributes:
        catalogue: hash of the catalogue it was trained on.
        history: items of a history that its prompts hold, newest kept.
        prompt: the first wording that it was trained with of a task that goes from a history to an item; with the slot
            {history}, and {user} where it was trained with ids of users; "" where no such task was trained.
        held_out_prompt: a wording it never saw in training, for evaluation.
        search: the wording of its prompt for a wish in words, with the slot {intention}; "" where it learned none.
        search_history: the same after a history, with both slots.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    catalogue: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    history: _Count
    prompt: _HistoryPrompt
    held_out_prompt: _HistoryPrompt
    search: Annotated[_Text, _with_slots("intention", optional=True)] = ""
    search_history: Annotated[_Text, _with_slots("history", "intention", optional=True)] = ""


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, note: Note, folder: Path) -> None:
    """Write weights, tokenizer, a generation config of our own (nothing inherited that drops beams), and the note."""
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / NOTE, {name: value for name, value in asdict(note).items() if value or "prompt" in name})


def load(folder: Path, dtype: torch.dtype | str = "auto") -> tuple[PreTrainedModel, PreTrainedTokenizerBase, Note]:
    """Read a model folder, in evaluation mode, on the GPU where there is one.

    Raises:
        ModelError: not such a folder.
    """
    tokenizer, note = load_words(folder)
    return load_model(folder, dtype), tokenizer, note


def read_note(folder: Path) -> Note:
    """The note of a model folder.

    Raises:
        ModelError: not such a folder, or a damaged note.
    """
    if not (folder / NOTE).is_file():
        raise ModelError(f"{folder} is not a model folder of llmrec: it has no {NOTE}. `llmrec run` makes one.")
    note: Note = read_checked(folder / NOTE, Note, _REMEDY, ModelError)
    return note


def load_words(folder: Path) -> tuple[PreTrainedTokenizerBase, Note]:
    """The tokenizer and the note of a model folder, without its weights.

    Raises:
        ModelError: not such a folder, or a damaged one; among them a tokenizer with tokens that the model lacks.
    """
    note = read_note(folder)
    with _with_remedy():
        config, tokenizer = config_from(folder), tokenizer_from(folder)
        _check_tokens(folder, tokenizer, config)
        encode(tokenizer, note.prompt)  # a damaged chat template shows only here
    return tokenizer, note


def load_model(folder: Path, dtype: torch.dtype | str = "auto") -> PreTrainedModel:
    """The weights of a model folder, in evaluation mode, on the GPU where there is one.

    Raises:
        ModelError: they cannot be loaded.
    """
    with _with_remedy():
        model: Any = model_from(folder, dtype, whole=True)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def window(folder: Path) -> int:
    """Tokens that the model of a folder can hold.

    Raises:
        ModelError: its configuration cannot be read.
    """
    with _with_remedy():
        limit = getattr(config_from(folder).get_text_config(), "max_position_embeddings", None)
        if not isinstance(limit, int) or limit < 1:
            raise ModelError(f"{folder} cannot be used: its config.json has no max_position_embeddings.")
    return limit


def _check_tokens(folder: Path, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> None:
    if not (folder / "tokenizer.json").is_file():  # transformers would make a tokenizer without words
        raise ModelError(f"{folder} cannot be loaded: it has no tokenizer.json.")
    highest, rows = max(tokenizer.get_vocab().values(), default=-1), config.get_text_config().vocab_size
    if highest >= rows:
        raise ModelError(
            f"{folder} cannot be loaded: its tokenizer has the token {highest}, but its model only {rows} tokens."
        )


@contextlib.contextmanager
def _with_remedy() -> Iterator[None]:
    """Say of an error what to do about a folder of llmrec's own."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{error} {_REMEDY}") from error
