"""Requests to the item processors of a vLLM server: their parameters, validation and masking.

Parameters are in `SamplingParams.extra_args`, over HTTP `vllm_xargs`:

    {"items": "item"}                                the answer is the code of one item, then the end
    {"items": "items"}                               codes of different items with commas between, then the end
    {"items": "chat"}                                free text; after <|item|> the code of a real item, then text again
    {"items": "item", "deny": ["50", "181"]}         none of these items
    {"items": "item", "allow": ["12", "13"]}         only these items
    {"items": "item", "answer_start": 96}            the answer starts at token 96 of the prompt and is continued
    {"items": "item", "catalogue": "df07f922…"}      codes of this known catalogue (the whole hash), not the default

Requests without `items` are not changed, so one server answers both. vLLM validates requests in one process and masks
logits in another; environment variables reach both, so they name the default catalogue and the folders of others.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from torch import Tensor

from llmrec.decode.catalogue_registry import load_by_hash
from llmrec.decode.filters import BatchFilters, Filter, item_numbers, list_unknown
from llmrec.decode.grammar import Mode, OutputGrammar, mask_logits, separator_tokens
from llmrec.errors import CodeError, LlmrecError, ModelError, RequestError
from llmrec.indexing.catalogue import Catalogue
from llmrec.model.folder import read_meta
from llmrec.model.loading import tokenizer_from
from llmrec.model.vocabulary import MENTION, token_ids

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig

log = logging.getLogger("vllm.llmrec")  # below vLLM's own logger, which a server has set up
_KEPT = 4  # grammars beside the default one; rows in flight keep theirs
_BEYOND = 2**40  # an answer that starts after any prompt: it may only end
CATALOGUE_VARIABLE = "LLMREC_CATALOGUE"
KEYS = ("items", "deny", "allow", "answer_start", "catalogue")
# vLLM options that could leave no allowed token, or cut a code short, and the values that do not
ALLOWED_VALUES: dict[str, tuple[Any, ...]] = {
    "min_tokens": (0,),
    "ignore_eos": (False,),
    "allowed_token_ids": (None, []),
    "bad_words": (None, []),
    "structured_outputs": (None,),
    "thinking_token_budget": (None,),
    "logit_bias": (None, {}),
    "stop": (None, [], ""),
    "stop_token_ids": (None, []),
}
ANY_VALUE_IN_CHAT = ("min_tokens", "ignore_eos", "logit_bias", "stop")


@dataclass(frozen=True)
class ItemRequest:
    """Parameters of one request.

    Attributes:
        start: token of the prompt at which the answer starts; None at the end of the prompt.
        filter: allowed items; None for every item.
    """

    start: int | None
    filter: Filter | None
    mode: Mode = "item"


def default_catalogue() -> Catalogue:
    """Load the catalogue that LLMREC_CATALOGUE names; a CodeError if it names no intact one."""
    folder = os.environ.get(CATALOGUE_VARIABLE)
    if not folder:
        raise CodeError(
            f"The item processor has no catalogue: set {CATALOGUE_VARIABLE} to the run's catalogue folder "
            f"before starting vLLM, e.g. {CATALOGUE_VARIABLE}=runs/NAME/catalogue."
        )
    return _load(folder)


def requested_catalogue(extra_args: Mapping[str, Any] | None) -> Catalogue:
    """Load the catalogue that a request names, by default that of the server; errors as in `load_by_hash`."""
    default, digest = default_catalogue(), (extra_args or {}).get("catalogue")
    return default if digest is None or digest == default.hash else load_by_hash(str(digest))[1]


@lru_cache(maxsize=2)
def _load(folder: str) -> Catalogue:
    return Catalogue.load(Path(folder))


def parse_request(extra_args: Mapping[str, Any] | None, catalogue: Catalogue) -> ItemRequest | None:
    """Parse the parameters of a request; None if it asks for no items.

    Raises:
        RequestError: an unknown mode, a value of the wrong type, an unknown item, or a filter that leaves no item.
    """
    args = extra_args or {}
    if "items" not in args:
        stray = [key for key in KEYS if key in args]
        if stray:
            raise RequestError(f'`{stray[0]}` needs a request for items: add "items": "item".')
        return None
    if args["items"] not in get_args(Mode):
        raise RequestError(f"items={args['items']!r} is not known: use one of {', '.join(get_args(Mode))}.")
    return ItemRequest(_start(args.get("answer_start")), _filter(args, catalogue), args["items"])


def validate_params(params: SamplingParams) -> None:
    """Raise a ValueError, which vLLM turns into HTTP 400, for a request that cannot be answered with a real item."""
    try:
        request = parse_request(params.extra_args, catalogue := requested_catalogue(params.extra_args))
    except LlmrecError as error:
        raise ValueError(str(error)) from error
    if request is None:
        return
    for option, values in ALLOWED_VALUES.items():
        if request.mode == "chat" and option in ANY_VALUE_IN_CHAT:
            continue
        if getattr(params, option, values[0]) not in values:
            raise ValueError(
                f"`{option}` cannot be used with items, since it could leave no allowed token or cut a code short: "
                "leave it out."
            )
    depth = catalogue.trie.depth if request.mode != "chat" else 0
    if request.start is None and params.max_tokens is not None and params.max_tokens < depth:
        raise ValueError(
            f"max_tokens={params.max_tokens} would cut codes of {depth} tokens short: ask for {depth + 1}."
        )


def _start(value: Any) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise RequestError(f"answer_start={value!r} is no place in the prompt: pass the number of tokens before it.")
    return value


def _filter(args: Mapping[str, Any], catalogue: Catalogue) -> Filter | None:
    deny = _numbers(args.get("deny") or [], "deny", catalogue)
    allow = None if args.get("allow") is None else _numbers(args["allow"], "allow", catalogue)
    if not deny and allow is None:
        return None
    result = Filter.of(catalogue.trie, deny, allow)
    if len(result.deny) == len(catalogue.trie) or (result.allow is not None and not len(result.allow)):
        raise RequestError("`deny` and `allow` leave no item at all: allow more, or deny less.")
    return result


def _numbers(ids: Any, field: str, catalogue: Catalogue) -> list[int]:
    """Item numbers of item ids; integers are refused, since they could be taken for item numbers."""
    if not isinstance(ids, list | tuple) or not all(isinstance(item_id, str) for item_id in ids):
        raise RequestError(f'`{field}` must list item ids as strings, such as ["50", "181"].')
    numbers, unknown = item_numbers(catalogue, ids)
    if unknown:
        raise RequestError(f"`{field}` names items that the catalogue lacks: {list_unknown(catalogue, unknown)}")
    return numbers


class ProcessorContext:
    """Grammars of answers of vLLM's model, one per catalogue in use.

    Attributes:
        default: of the server's own catalogue.
    """

    def __init__(self, config: VllmConfig) -> None:
        """Check the model and its catalogue.

        Raises:
            CodeError: no catalogue is named, or it is not intact.
            ModelError: the model is not a folder of llmrec, was trained on another catalogue, has no end token, or uses
                speculative decoding.
        """
        catalogue, folder = default_catalogue(), Path(config.model_config.model)
        trained_on = read_meta(folder).catalogue
        if trained_on != catalogue.hash:
            raise ModelError(
                f"{folder} was trained on the catalogue {trained_on[:12]}…, but {CATALOGUE_VARIABLE} names "
                f"{catalogue.hash[:12]}…: name the catalogue folder of the model's own run."
            )
        if config.speculative_config is not None:
            raise ModelError("The item processor cannot check drafted tokens: start vLLM without speculative decoding.")
        self._tokenizer = tokenizer_from(config.model_config.tokenizer)
        if self._tokenizer.eos_token_id is None:
            raise ModelError(f"The tokenizer of {folder} has no end token, so an answer could not end: give it one.")
        self._separator = separator_tokens(self._tokenizer, catalogue.tokens[0])
        self.default = self._grammar_of(catalogue)
        self._grammars = {catalogue.hash: self.default}

    def parse_request(self, extra_args: Mapping[str, Any] | None) -> tuple[ItemRequest, OutputGrammar] | None:
        """Parameters of a validated request and the grammar of its answer; None if it asks for no items.

        If its catalogue was removed meanwhile, this is logged and the answer ended, since an error would stop the
        server.
        """
        if "items" not in (extra_args or {}):
            return None
        try:
            catalogue = requested_catalogue(extra_args)
            request = parse_request(extra_args, catalogue)
            return None if request is None else (request, self._grammar(catalogue))
        except LlmrecError as error:
            log.error("a validated request is ended without an item: %s", error)
            return ItemRequest(_BEYOND, None), self.default

    def _grammar(self, catalogue: Catalogue) -> OutputGrammar:
        if catalogue.hash not in self._grammars:
            self._grammars[catalogue.hash] = self._grammar_of(catalogue)
            for stale in list(self._grammars)[1:-_KEPT]:
                del self._grammars[stale]
        return self._grammars[catalogue.hash]

    def _grammar_of(self, catalogue: Catalogue) -> OutputGrammar:
        vocabulary = self._tokenizer.get_vocab()
        tokens = token_ids(self._tokenizer, catalogue.tokens)
        end_token, vocab_size = self._tokenizer.eos_token_id, max(vocabulary.values()) + 1
        mention_token = vocabulary.get(MENTION)
        return OutputGrammar(catalogue.trie, tokens, end_token, self._separator, mention_token, vocab_size)


def mask_and_log(
    logits: Tensor,
    rows: np.ndarray,
    answers: np.ndarray,
    filters: BatchFilters,
    grammar: OutputGrammar,
    mode: Mode,
    tokens_left: np.ndarray,
) -> None:
    """Call `mask_logits` and log the answers that begin no allowed item, which it ends."""
    stuck = mask_logits(logits, rows, answers, filters, grammar, mode, tokens_left)
    if stuck.any():
        log.warning(
            "%d answers begin no allowed item and are ended; the first is %s. Is answer_start right?",
            int(stuck.sum()),
            answers[np.argmax(stuck)].tolist(),
        )
