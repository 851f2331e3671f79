"""The model folder: a plain Hugging Face folder, with the catalogue and the prompts of its training in llmrec.json."""

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
from llmrec.model.prompting import encode_prompt

META = "llmrec.json"
_REMEDY = "Copy the folder again, or make it again with `llmrec run` or `llmrec export`."
_MAX_PROMPT = 100_000  # characters of a prompt


def _with_slots(*slots: str, further: str = "", optional: bool = False) -> AfterValidator:
    """A validator of prompts: each slot once, in braces, and at most one `further` slot; `optional` allows ""."""
    names = " and ".join(f"{{{slot}}}" for slot in slots)

    def check(prompt: str) -> str:
        parts = list(string.Formatter().parse(prompt))
        found = sorted(name for _, name, _, _ in parts if name is not None)
        fitting = [sorted(slots), *([sorted([*slots, further])] if further else [])]
        if (prompt or not optional) and (found not in fitting or any(part[2] or part[3] for part in parts)):
            raise ValueError(f"it must have {names} once, and no other slot")
        return prompt

    return AfterValidator(check)


_Text = Annotated[str, Field(max_length=_MAX_PROMPT)]
_Count = Annotated[int, Field(ge=1, lt=2**31)]
_HistoryPrompt = Annotated[_Text, _with_slots("history", further="user", optional=True)]


@dataclass(frozen=True)
class ModelMeta:
    """What a model was trained with.

    Attributes:
        catalogue: hash of its catalogue.
        history: maximum items of a history in its prompts; the newest are kept.
        prompt: the first training template of a task from a history to an item, with the slot {history}, and {user} if
            it was trained with user ids; "" if no such task was trained.
        held_out_prompt: a template that was not in training, for evaluation.
        search: its template for a search text, with the slot {intention}; "" if that was not trained.
        search_history: the same after a history, with both slots.
    """

    __pydantic_config__ = ConfigDict(extra="forbid")
    catalogue: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    history: _Count
    prompt: _HistoryPrompt
    held_out_prompt: _HistoryPrompt
    search: Annotated[_Text, _with_slots("intention", optional=True)] = ""
    search_history: Annotated[_Text, _with_slots("history", "intention", optional=True)] = ""


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, meta: ModelMeta, folder: Path) -> None:
    """Write weights, tokenizer, a generation config with special tokens only (no inherited sampling), and the meta."""
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / META, {name: value for name, value in asdict(meta).items() if value or "prompt" in name})


def load(folder: Path, dtype: torch.dtype | str = "auto") -> tuple[PreTrainedModel, PreTrainedTokenizerBase, ModelMeta]:
    """Load a model folder, in evaluation mode, on the GPU if there is one.

    Raises:
        ModelError: not such a folder.
    """
    tokenizer, meta = load_tokenizer(folder)
    return load_model(folder, dtype), tokenizer, meta


def read_meta(folder: Path) -> ModelMeta:
    """Read llmrec.json of a model folder.

    Raises:
        ModelError: not such a folder, or the file is damaged.
    """
    if not (folder / META).is_file():
        raise ModelError(f"{folder} is not a model folder of llmrec: it has no {META}. `llmrec run` makes one.")
    meta: ModelMeta = read_checked(folder / META, ModelMeta, _REMEDY, ModelError)
    return meta


def load_tokenizer(folder: Path) -> tuple[PreTrainedTokenizerBase, ModelMeta]:
    """Load the tokenizer and the meta of a model folder, without its weights.

    Raises:
        ModelError: not such a folder, or a damaged one, such as a tokenizer with tokens that the model lacks.
    """
    meta = read_meta(folder)
    with _with_remedy():
        config, tokenizer = config_from(folder), tokenizer_from(folder)
        _check_tokens(folder, tokenizer, config)
        encode_prompt(tokenizer, meta.prompt)  # a damaged chat template shows only here
    return tokenizer, meta


def load_model(folder: Path, dtype: torch.dtype | str = "auto") -> PreTrainedModel:
    """Load the weights of a model folder, in evaluation mode, on the GPU if there is one.

    Raises:
        ModelError: they cannot be loaded.
    """
    with _with_remedy():
        model: Any = model_from(folder, dtype, strict=True)
    return model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def context_length(folder: Path) -> int:
    """Maximum positions of the model of a folder.

    Raises:
        ModelError: its configuration cannot be read.
    """
    with _with_remedy():
        limit = getattr(config_from(folder).get_text_config(), "max_position_embeddings", None)
        if not isinstance(limit, int) or limit < 1:
            raise ModelError(f"{folder} cannot be used: its config.json has no max_position_embeddings.")
    return limit


def _check_tokens(folder: Path, tokenizer: PreTrainedTokenizerBase, config: PreTrainedConfig) -> None:
    if not (folder / "tokenizer.json").is_file():  # transformers would make an empty tokenizer
        raise ModelError(f"{folder} cannot be loaded: it has no tokenizer.json.")
    highest, rows = max(tokenizer.get_vocab().values(), default=-1), config.get_text_config().vocab_size
    if highest >= rows:
        raise ModelError(
            f"{folder} cannot be loaded: its tokenizer has the token {highest}, but its model only {rows} tokens."
        )


@contextlib.contextmanager
def _with_remedy() -> Iterator[None]:
    """Add to an error what to do about a folder of llmrec."""
    try:
        yield
    except ModelError as error:
        raise ModelError(f"{error} {_REMEDY}") from error
