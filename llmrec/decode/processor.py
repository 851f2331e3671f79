"""The item trie as a transformers `LogitsProcessor`, for any call of `generate`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from torch import Tensor
from transformers import LogitsProcessor

from llmrec.decode.answers import Answers, Mode, mask
from llmrec.decode.filters import Filter, Filters
from llmrec.errors import CodeError, RequestError
from llmrec.indexing.trie import Trie


class ItemProcessor(LogitsProcessor):
    """Lets only the codes of allowed items be generated, then only the end token; or lists of items, or a chat.

    No state is kept between calls: what is allowed follows from the tokens since `prompt_length`, so beams may be
    reordered. Use it as `generate(logits_processor=[ItemProcessor(...)])`.
    """

    def __init__(
        self,
        trie: Trie,
        token_ids: np.ndarray,
        prompt_length: int,
        eos_token_id: int | None,
        filters: Sequence[Filter | None] | None = None,
        outside: Literal["raise", "end"] = "raise",
        mode: Mode = "item",
        separator: Sequence[int] = (),
        mention: int | None = None,
        max_new_tokens: int | None = None,
        words: int | None = None,
    ) -> None:
        """Say where answers begin, and what may be in them.

        Args:
            token_ids: (n_symbols,) the model's token of each symbol.
            prompt_length: column of `input_ids` where the answer begins (prompts padded on the left).
            eos_token_id: the one token allowed after an item; None if generation always stops at the item's last token.
            filters: one a prompt; `generate`'s beams or return sequences of a prompt share its filter.
            outside: what to do with a row whose answer begins no code: 'raise', or 'end' it. Say 'end' when num_beams
                exceeds the prefixes there are: `generate` then fills up with beams of probability 0.
            mode: one item, several (with `separator` between), or free words that mention items (after `mention`).
            max_new_tokens: as given to `generate`: lists and chats then begin no item that would be cut short.
            words: size of the tokenizer, where the model has more rows: a chat then uses none of the others.
        """
        self.reader = Answers(trie, token_ids, eos_token_id, separator, mention, words)
        self.prompt_length, self.outside, self.mode = prompt_length, outside, mode
        self.filters, self.limit = filters, max_new_tokens

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores (rows, vocabulary) of the next token after `input_ids` (rows, length), -inf for what may not come.

        Raises:
            CodeError: an answer that begins no allowed code, or is finished though no end token was given.
            RequestError: rows that are not a multiple of the filters.
        """
        answers, rows = input_ids[:, self.prompt_length :].cpu().numpy(), np.arange(len(input_ids))
        room = None if self.limit is None else np.full(len(rows), self.limit - answers.shape[1])
        masked = scores.clone()
        lost = mask(masked, rows, answers, self._filters(len(rows)), self.reader, self.mode, room)
        if self.outside == "raise" and lost.any():
            row = int(np.argmax(lost))
            raise CodeError(
                f"The answer of row {row} begins no allowed item: {answers[row].tolist()}. Set prompt_length to the "
                "column where answers begin, let the filter allow an item, or say outside='end' if there are more "
                "beams than prefixes."
            )
        if self.reader.end is None and (ended := self.reader.read(answers, self.mode).end).any():
            raise CodeError(
                f"Row {int(np.argmax(ended))} has its whole item and generation goes on: give eos_token_id, or set "
                "max_new_tokens to the length of the codes."
            )
        return masked

    def _filters(self, rows: int) -> Filters:
        filters = self.filters
        if filters is not None and (not len(filters) or rows % len(filters)):
            raise RequestError(f"{len(filters)} filters for {rows} rows: pass one a prompt, None where all is allowed.")
        repeated = filters and [one for one in filters for _ in range(rows // len(filters))]
        return Filters(self.reader.trie, repeated, rows)
