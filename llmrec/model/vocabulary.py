"""Item tokens in a tokenizer: appended once, offline, and looked up when the model is used."""

from __future__ import annotations

import numpy as np
from transformers import PreTrainedTokenizerBase

from llmrec.errors import ModelError

MENTION = "<|item|>"  # in free text: an item's code follows
MULTIPLE = 64  # embedding rows are padded to a multiple of this: other sizes are slow on every accelerator


def add_tokens(tokenizer: PreTrainedTokenizerBase, tokens: list[str]) -> int:
    """Append item tokens and MENTION to a tokenizer.

    Returns:
        Embedding rows that the model needs, padding included.

    Raises:
        ModelError: the tokenizer has such a token already.
    """
    from tokenizers import AddedToken

    known = tokenizer.get_vocab()
    taken = [token for token in tokens if token in known]
    if taken:
        raise ModelError(
            f"the base's tokenizer already holds {len(taken)} code-like token(s), such as '{taken[0]}'. "
            "Choose another base."
        )
    tokenizer.add_tokens([AddedToken(token, normalized=False, special=False) for token in [*tokens, MENTION]])
    return -(-len(tokenizer) // MULTIPLE) * MULTIPLE


def token_ids(tokenizer: PreTrainedTokenizerBase, tokens: list[str]) -> np.ndarray:
    """(tokens,) int64 token id of each catalogue token.

    Raises:
        ModelError: the tokenizer lacks some: it belongs to another catalogue.
    """
    known = tokenizer.get_vocab()
    missing = [token for token in tokens if token not in known]
    if missing:
        raise ModelError(
            f"the tokenizer of {tokenizer.name_or_path or 'the model'} lacks {len(missing)} of the catalogue's "
            f"{len(tokens)} item tokens, such as '{missing[0]}': it is damaged, or of a model of another catalogue."
        )
    return np.array([known[token] for token in tokens], np.int64)


def code_tokens(codes: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """(…, longest) int64 token ids of codes, (…, longest) symbols; both padded at the end by -1.

    `tokens` is (n_symbols,), from `token_ids`.
    """
    return np.where(codes >= 0, tokens[codes], -1)


def new_token_ids(tokenizer: PreTrainedTokenizerBase, tokens: list[str]) -> np.ndarray:
    """(tokens + 1,) int64 ids of all appended tokens, MENTION last (older models lack it)."""
    return token_ids(tokenizer, [*tokens, *([MENTION] if MENTION in tokenizer.get_vocab() else [])])
