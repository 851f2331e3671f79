"""The item processor's requests: what a request to a vLLM server may ask of it, and how its answer is read and masked.

A request asks through `SamplingParams.extra_args`, over HTTP `vllm_xargs`:

    {"items": "item"}                                the answer is one item's code and then the end
    {"items": "items"}                               codes of different items with commas between, and then the end
    {"items": "chat"}                                free words; after <|item|> a real item's code, then words again
    {"items": "item", "deny": ["50", "181"]}         and not one of these items
    {"items": "item", "allow": ["12", "13"]}         and only one of these
    {"items": "item", "answer_start": 96}            the answer began at token 96 of the prompt, and goes on
    {"items": "item", "catalogue": "df07f922…"}      by this known catalogue (the whole hash), not the first

Requests without `items` are left alone, so one server answers both. Environment variables name the server's first
catalogue and the folders of others: vLLM checks requests in one process and masks logits in another, and only those
reach both.
"""

from __future__ import annotations

import difflib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np
from torch import Tensor

from llmrec.decode import shelf
from llmrec.decode.answers import Answers, Mode, mask, separator_tokens
from llmrec.decode.filters import Filter, Filters
from llmrec.errors import CodeError, LlmrecError, ModelError, RequestError
from llmrec.indexing.catalogue import Catalogue
from llmrec.model.folder import read_note
from llmrec.model.loading import tokenizer_from
from llmrec.model.vocabulary import MENTION, token_ids

if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import VllmConfig

log = logging.getLogger("vllm.llmrec")  # below vLLM's own logger, which a server has set up
_KEPT = 4  # readers beside the first; rows in flight hold their own
_NOWHERE = 2**40  # an answer that begins past any prompt: it may only end
VARIABLE = "LLMREC_CATALOGUE"
KEYS = ("items", "deny", "allow", "answer_start", "catalogue")
# what could leave a row nothing to say, or a code cut short: option of vLLM -> its harmless values
HARMLESS: dict[str, tuple[Any, ...]] = {
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
WORDS = ("min_tokens", "ignore_eos", "logit_bias", "stop")  # harmless among free words


@dataclass(frozen=True)
class Asked:
    """What one request asks.

    Attributes:
        start: where in the prompt its answer began; None at the end of the prompt.
        filter: what it may be given; None for every item.
    """

    start: int | None
    filter: Filter | None
    mode: Mode = "item"


def served_catalogue() -> Catalogue:
    """The catalogue that this server was started for; a CodeError where LLMREC_CATALOGUE names no intact one."""
    folder = os.environ.get(VARIABLE)
    if not folder:
        raise CodeError(
            f"The item processor was not told its catalogue: set {VARIABLE} to the run's catalogue folder before "
            f"starting vLLM, e.g. {VARIABLE}=runs/NAME/catalogue."
        )
    return _load(folder)


def named_catalogue(extra_args: Mapping[str, Any] | None) -> Catalogue:
    """The catalogue that a request names, the first where it names none; errors as in `shelf.by_hash`."""
    first, wanted = served_catalogue(), (extra_args or {}).get("catalogue")
    return first if wanted is None or wanted == first.hash else shelf.by_hash(str(wanted))[1]


@lru_cache(maxsize=2)
def _load(folder: str) -> Catalogue:
    return Catalogue.load(Path(folder))


def asked(extra_args: Mapping[str, Any] | None, catalogue: Catalogue) -> Asked | None:
    """Read what a request asks; None where it asks for no items.

    Raises:
        RequestError: an unknown mode, a value of the wrong type, an unknown item, or a filter that leaves no item.
    """
    args = extra_args or {}
    if "items" not in args:
        stray = [key for key in KEYS if key in args]
        if stray:
            raise RequestError(f'`{stray[0]}` says which items, but no items were asked for: add "items": "item".')
        return None
    if args["items"] not in get_args(Mode):
        raise RequestError(f"items={args['items']!r} is not known: say one of {', '.join(get_args(Mode))}.")
    return Asked(_start(args.get("answer_start")), _filter(args, catalogue), args["items"])


def check(params: SamplingParams) -> None:
    """Refuse by a ValueError, of which vLLM makes HTTP 400, a request that could not be answered with a real item."""
    try:
        wanted = asked(params.extra_args, catalogue := named_catalogue(params.extra_args))
    except LlmrecError as error:
        raise ValueError(str(error)) from error
    if wanted is None:
        return
    for option, harmless in HARMLESS.items():
        if wanted.mode == "chat" and option in WORDS:
            continue
        if getattr(params, option, harmless[0]) not in harmless:
            raise ValueError(
                f"`{option}` cannot be used with items, since it could leave no token to go on with or cut a code "
                "short: leave it out."
            )
    depth = catalogue.trie.depth if wanted.mode != "chat" else 0
    if wanted.start is None and params.max_tokens is not None and params.max_tokens < depth:
        raise ValueError(
            f"max_tokens={params.max_tokens} would cut codes of {depth} tokens short: ask for {depth + 1}."
        )


def _start(value: Any) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
        raise RequestError(f"answer_start={value!r} is no place in the prompt: give the number of tokens before it.")
    return value


def _filter(args: Mapping[str, Any], catalogue: Catalogue) -> Filter | None:
    deny = _numbers(args.get("deny") or [], "deny", catalogue)
    allow = None if args.get("allow") is None else _numbers(args["allow"], "allow", catalogue)
    if not deny and allow is None:
        return None
    wanted = Filter.of(catalogue.trie, deny, allow)
    if len(wanted.deny) == len(catalogue.trie) or (wanted.allow is not None and not len(wanted.allow)):
        raise RequestError("`deny` and `allow` leave no item at all: allow more, or deny less.")
    return wanted


def _numbers(ids: Any, what: str, catalogue: Catalogue) -> list[int]:
    """Item numbers of item ids; whole numbers are refused, since an id that looks like one would name another item."""
    if not isinstance(ids, list | tuple) or not all(isinstance(one, str) for one in ids):
        raise RequestError(f'`{what}` must list item ids as strings, such as ["50", "181"].')
    known = catalogue.item_number
    unknown = [one for one in ids if one not in known]
    if unknown:
        near = difflib.get_close_matches(unknown[0], catalogue.item_ids[:100_000], 1, 0.7)
        hint = f" Did you mean '{near[0]}'?" if near else ""
        others = f" and {len(unknown) - 1} others" if len(unknown) > 1 else ""
        raise RequestError(f"`{what}` names items that the catalogue lacks: '{unknown[0]}'{others}.{hint}")
    return [known[one] for one in ids]


class Served:
    """Readers of the answers of vLLM's model, by any catalogue that a request names; `first` by the server's own."""

    def __init__(self, config: VllmConfig) -> None:
        """Check the model and its catalogue.

        Raises:
            CodeError: no catalogue was named, or it is not intact.
            ModelError: the model is no folder of llmrec, was trained on another catalogue, has no end token, or drafts
                several tokens at once (speculative decoding).
        """
        catalogue, folder = served_catalogue(), Path(config.model_config.model)
        trained_on = read_note(folder).catalogue
        if trained_on != catalogue.hash:
            raise ModelError(
                f"{folder} was trained on the catalogue {trained_on[:12]}…, but {VARIABLE} names "
                f"{catalogue.hash[:12]}…: name the catalogue folder of the model's own run."
            )
        if config.speculative_config is not None:
            raise ModelError("The item processor cannot check drafted tokens: start vLLM without speculative decoding.")
        self._tokenizer = tokenizer_from(config.model_config.tokenizer)
        if self._tokenizer.eos_token_id is None:
            raise ModelError(f"The tokenizer of {folder} has no end token, so an answer could not end: give it one.")
        self._separator = separator_tokens(self._tokenizer, catalogue.tokens[0])
        self.first = self._new(catalogue)
        self._readers = {catalogue.hash: self.first}

    def asked(self, extra_args: Mapping[str, Any] | None) -> tuple[Asked, Answers] | None:
        """What an admitted request asks, and the reader of its answer; None where it asks for no items.

        A catalogue that was taken away since is logged and its answer ended, since raising would end the server.
        """
        if "items" not in (extra_args or {}):
            return None
        try:
            catalogue = named_catalogue(extra_args)
            wanted = asked(extra_args, catalogue)
            return None if wanted is None else (wanted, self._reader(catalogue))
        except LlmrecError as error:
            log.error("an admitted request is ended without an item: %s", error)
            return Asked(_NOWHERE, None), self.first

    def _reader(self, catalogue: Catalogue) -> Answers:
        if catalogue.hash not in self._readers:
            self._readers[catalogue.hash] = self._new(catalogue)
            for stale in list(self._readers)[1:-_KEPT]:
                del self._readers[stale]
        return self._readers[catalogue.hash]

    def _new(self, catalogue: Catalogue) -> Answers:
        known = self._tokenizer.get_vocab()
        tokens = token_ids(self._tokenizer, catalogue.tokens)
        end, words = self._tokenizer.eos_token_id, max(known.values()) + 1
        return Answers(catalogue.trie, tokens, end, self._separator, known.get(MENTION), words)


def mask_and_log(
    logits: Tensor,
    rows: np.ndarray,
    answers: np.ndarray,
    filters: Filters,
    reader: Answers,
    mode: Mode,
    room: np.ndarray,
) -> None:
    """As `mask.mask`; answers that begin no allowed item are ended, and logged."""
    lost = mask(logits, rows, answers, filters, reader, mode, room)
    if lost.any():
        log.warning(
            "%d answers begin no allowed item and are ended; the first is %s. Is answer_start right?",
            int(lost.sum()),
            answers[np.argmax(lost)].tolist(),
        )
