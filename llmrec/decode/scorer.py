"""A small scorer over a causal language model of transformers: the prompt once, then many branches that share it.

The branches of a row are query positions of that one row. Which keys a branch sees is a 4D mask: its
parent's row of the mask, plus its own slot. So the cache is only appended to, never repeated or reordered, and K beams
cost about one pass over K tokens. Prompts of different length are padded on the right: causal attention never looks
there during the prompt, and the mask hides it afterwards.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from llmrec.errors import ModelError, RequestError
from llmrec.model.logits import OutputHead, plain

LAYERS = {"full_attention", "sliding_attention"}


class Attention:
    """Attention masks of our own, in the form that a decoder-only model of transformers takes.

    Attributes:
        window: how far sliding layers look back, in positions; None without such layers.
        kinds: the kinds of layers that the model has.
    """

    def __init__(self, inner: Any) -> None:
        """Read a plain model of transformers.

        Raises:
            ModelError: the model is not decoder-only, has layers other than full or sliding attention, or an attention
                kernel that takes no mask.
        """
        name, config = type(inner).__name__, inner.config.get_text_config()
        kinds = set(getattr(config, "layer_types", None) or [])
        self.window: int | None = getattr(config, "sliding_window", None)
        self.kinds = kinds or {"sliding_attention" if self.window else "full_attention"}
        if inner.config.is_encoder_decoder or not self.kinds <= LAYERS:
            raise ModelError(
                f"{name} has {', '.join(sorted(self.kinds - LAYERS)) or 'an encoder'}, whose state branches cannot "
                "share: use a decoder-only model with full or sliding attention."
            )
        if "flash" in str(config._attn_implementation) or "flex" in str(config._attn_implementation):
            raise ModelError(
                f"{name} was loaded with {config._attn_implementation}, which takes no tree mask: load it with "
                "attn_implementation='sdpa' (or 'eager')."
            )
        self.sdpa = config._attn_implementation == "sdpa"
        self.dtype: torch.dtype = inner.get_input_embeddings().weight.dtype

    def mask(self, sees: Tensor, places: Tensor, slots: Tensor) -> Tensor | dict[str, Tensor]:
        """The (rows, 1, queries, slots) `attention_mask`, by kind of layer where the model has two kinds.

        Args:
            sees: (rows, queries, slots) bool, whether a query may attend to a slot at all.
            places: (rows, queries) position of each query in its own sequence.
            slots: (rows, slots) position of the token in each slot.
        """
        masks = {"full_attention": self._mask(sees)}
        if "sliding_attention" in self.kinds and self.window is not None:
            near = slots[:, None, :] > places[:, :, None] - self.window
            masks["sliding_attention"] = self._mask(sees & near)
        return masks if len(self.kinds) == 2 else masks[next(iter(self.kinds))]

    def _mask(self, sees: Tensor) -> Tensor:
        if self.sdpa:  # bool fits whatever type attention computes in, which a quantised model does not tell
            return sees[:, None]
        mask = torch.zeros(sees.shape, dtype=self.dtype, device=sees.device)
        return mask.masked_fill_(~sees, torch.finfo(self.dtype).min)[:, None]


@dataclass
class Logits:
    """Logits of the next symbol, for a grid of query positions.

    Attributes:
        symbols: (rows, queries, n_symbols) float32 logits of the tokens of the symbols.
        total: (rows, queries) float32 logsumexp over the whole vocabulary; None where `prefill` was not asked for it.
    """

    symbols: Tensor
    total: Tensor | None

    def at(self, rows: np.ndarray, queries: np.ndarray, symbols: np.ndarray) -> np.ndarray:
        """(n,) float64 logits of single symbols."""
        place = tuple(torch.from_numpy(part).to(self.symbols.device) for part in (rows, queries, symbols))
        return self.symbols[place].cpu().numpy().astype(np.float64)

    def grid(self, queries: np.ndarray, symbols: np.ndarray) -> np.ndarray:
        """(rows, n) float64 logits of the same queries and symbols in every row."""
        query, symbol = (torch.from_numpy(part).to(self.symbols.device) for part in (queries, symbols))
        return self.symbols[:, query, symbol].cpu().numpy().astype(np.float64)

    def totals(self) -> np.ndarray:
        """(rows, queries) float64, the whole vocabulary's logsumexp."""
        assert self.total is not None, "the scorer was not asked for the whole vocabulary"
        return self.total.cpu().numpy().astype(np.float64)


@dataclass
class Branches:
    """State between steps: the shared cache, and which of its slots each branch attends to.

    Attributes:
        cache: keys and values of the padded prompts, then of every branch token so far.
        token_ids: (n_symbols,) int64, the model's token of each symbol.
        whole: whether logits come with the whole vocabulary's logsumexp.
        lengths: (rows, 1) int64 prompt tokens.
        places: (rows, slots) int64, position in its own sequence of the token in each cache slot.
        sees: (rows, queries, slots) bool, the slots that the latest branches attend to.
        depth: tokens since the prompt.
        logits: of the symbol after the latest branches; after the prompt itself there is one query a row.
    """

    cache: Any
    token_ids: Tensor
    whole: bool
    lengths: Tensor
    places: Tensor
    sees: Tensor
    depth: int
    logits: Logits


class Scorer:
    """Logits of branches after prompts, from a decoder-only model of transformers (Llama, Qwen, Gemma, Phi, ...).

    It runs under no_grad, not inference_mode: roll-outs run inside training, whose buffers must stay usable.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Use a model, whose weights may go on changing; errors as in `Attention`."""
        inner: Any = plain(model)
        config = inner.config.get_text_config()
        self.attention = Attention(inner)
        self.decoder, self.head = inner.get_decoder(), OutputHead(inner)
        self.limit: int = getattr(config, "max_position_embeddings", None) or 2**31
        self.vocabulary: int = inner.get_input_embeddings().weight.shape[0]
        self.device: torch.device = inner.device
        self.dtype: torch.dtype = inner.get_input_embeddings().weight.dtype
        self.model: Any = inner
        self.head_checked = False

    @torch.no_grad()
    def beginning(self, tokens: Sequence[int]) -> DynamicCache:
        """Keys and values of the tokens that some prompts begin with, computed once for all of them."""
        cache = DynamicCache()  # without the config: sliding layers keep every slot, and the mask does the sliding
        if len(tokens):
            ids = torch.tensor([list(tokens)], device=self.device)
            self.decoder(input_ids=ids, past_key_values=cache, use_cache=True)
        return cache

    @torch.no_grad()
    def prefill(
        self,
        prompts: Sequence[Sequence[int]],
        token_ids: np.ndarray,
        depth: int = 1,
        whole: bool = False,
        before: DynamicCache | None = None,
    ) -> Branches:
        """Run the prompts, once.

        Args:
            prompts: token ids of each row; lengths may differ.
            token_ids: (n_symbols,) the model's token of each symbol.
            depth: tokens that will follow, for checking that they fit.
            whole: also compute the logsumexp over the whole vocabulary, here and at every step.
            before: of what all prompts go on from, see `beginning`; left as it was.

        Raises:
            RequestError: no prompts, an empty prompt, or one longer than the model's window leaves room for.
            ModelError: a token outside the model's vocabulary, a model in training mode, or an output head that does
                more than a linear map, scale and soft cap.
        """
        if self.decoder.training:
            raise ModelError(
                "The model is in training mode, where dropout makes scores random: call model.eval() first."
            )
        if not self.head_checked:
            self._check_head()
        past = before.get_seq_length() if before else 0
        ids, lengths = self._padded(prompts, past + depth)
        tokens = torch.from_numpy(np.asarray(token_ids, np.int64)).to(self.device)
        if tokens.min() < 0 or tokens.max() >= self.vocabulary:
            raise ModelError(
                f"The codes use tokens {int(tokens.min())} to {int(tokens.max())}, but the model has "
                f"{self.vocabulary}: give it the model trained on this catalogue, or add the new tokens to it."
            )
        cache = copy.deepcopy(before) if before else self.beginning([])
        if past and len(ids) > 1:
            cache.batch_repeat_interleave(len(ids))
        hidden = self.decoder(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state
        last = hidden[torch.arange(len(ids), device=ids.device)[:, None], lengths - 1]
        lengths = lengths + past
        places = torch.arange(past + ids.shape[1], device=ids.device).expand(len(ids), -1)
        sees = (places < lengths)[:, None]
        return Branches(cache, tokens, whole, lengths, places, sees, 0, self._logits(last, tokens, whole))

    @torch.no_grad()
    def step(self, state: Branches, symbols: np.ndarray, parents: np.ndarray) -> None:
        """Grow every branch by one symbol; `state` then holds the new branches and their logits.

        Args:
            symbols: (rows, queries) the new symbol of each branch; rows with fewer branches repeat any.
            parents: (rows, queries) which of the latest queries of the row each grows from.
        """
        parent = torch.from_numpy(np.asarray(parents, np.int64)).to(self.device)
        sees = state.sees.gather(1, parent[..., None].expand(-1, -1, state.sees.shape[2]))
        own = torch.eye(parent.shape[1], dtype=torch.bool, device=self.device).expand(len(parent), -1, -1)
        state.sees = torch.cat([sees, own], 2)
        places = (state.lengths + state.depth).expand(parent.shape)
        state.places = torch.cat([state.places, places], 1)
        state.depth += 1
        state.logits = self._branch(state, symbols, places, state.places, state.sees)

    @torch.no_grad()
    def tree(self, state: Branches, symbols: np.ndarray, depths: np.ndarray, above: np.ndarray) -> Logits:
        """(rows, nodes, n_symbols) logits after every node of one tree that hangs on every prompt, in a single pass.

        Args:
            state: fresh from `prefill`; left as it was.
            symbols: (nodes,) symbol that leads into each node.
            depths: (nodes,) symbols since the prompt, 1 for the first.
            above: (nodes, nodes) bool, whether the second node is the first or an ancestor of it.
        """
        rows, nodes = len(state.lengths), len(symbols)
        own = torch.from_numpy(above).to(self.device).expand(rows, -1, -1)
        sees = torch.cat([state.sees.expand(-1, nodes, -1), own], 2)
        places = state.lengths + torch.from_numpy(np.asarray(depths, np.int64)).to(self.device) - 1
        slots = torch.cat([state.places, places], 1)
        logits = self._branch(state, np.broadcast_to(symbols, (rows, nodes)), places, slots, sees)
        state.cache.crop(-nodes)
        return logits

    def bytes_per_query(self, slots: int, n_symbols: int) -> int:
        """About how many bytes one query position of one row takes at the peak of a pass over so many slots."""
        config = self.decoder.config.get_text_config()
        heads, hidden = config.num_attention_heads, config.hidden_size
        inside = 2 * heads * slots + 3 * config.intermediate_size + 8 * hidden + 2 * config.num_hidden_layers * hidden
        return inside * torch.finfo(self.dtype).bits // 8 + 12 * n_symbols + 4 * slots

    @torch.no_grad()
    def _check_head(self) -> None:
        """Refuse a model whose logits differ from those of our own head, which would make scores silently wrong."""
        ids = torch.zeros((1, 2), dtype=torch.long, device=self.device)
        tokens = torch.arange(min(self.vocabulary, 64), device=self.device)
        truth = self.model(input_ids=ids, use_cache=False).logits.float()[..., tokens]
        ours = self._logits(self.decoder(input_ids=ids, use_cache=False).last_hidden_state, tokens, False).symbols
        if not torch.allclose(ours, truth, rtol=0.05, atol=0.05 * float(truth.abs().max())):
            raise ModelError(
                f"The output head of {type(self.model).__name__} does more than a linear map, scale and soft "
                "cap, so items cannot be scored token by token: use another model, or teach llmrec/model/logits.py it."
            )
        self.head_checked = True

    def _branch(self, state: Branches, symbols: np.ndarray, places: Tensor, slots: Tensor, sees: Tensor) -> Logits:
        """Append a grid of tokens to the cache and run them; `sees` says what each attends to."""
        tokens = state.token_ids[torch.from_numpy(np.array(symbols, np.int64)).to(self.device)]
        mask = self.attention.mask(sees, places, slots)
        hidden = self.decoder(
            input_ids=tokens, attention_mask=mask, position_ids=places, past_key_values=state.cache, use_cache=True
        ).last_hidden_state
        return self._logits(hidden, state.token_ids, state.whole)

    def _logits(self, hidden: Tensor, tokens: Tensor, whole: bool) -> Logits:
        """Logits of the symbols alone; those of the whole vocabulary are summed in pieces and never kept."""
        symbols = self.head.of_tokens(hidden, tokens)
        if not whole:
            return Logits(symbols, None)
        if len(tokens) == self.vocabulary:
            return Logits(symbols, symbols.logsumexp(-1))
        pieces = hidden.flatten(0, 1).split(max(1, 2**24 // self.vocabulary))
        return Logits(symbols, torch.cat([self.head(piece).logsumexp(-1) for piece in pieces]).view(hidden.shape[:2]))

    def _padded(self, prompts: Sequence[Sequence[int]], depth: int) -> tuple[Tensor, Tensor]:
        """(rows, longest) token ids padded on the right, and (rows, 1) lengths."""
        sizes = np.array([len(prompt) for prompt in prompts], np.int64)
        if not len(sizes) or sizes.min() == 0:
            raise RequestError("A prompt without tokens cannot be gone on from: pass at least one token a prompt.")
        if sizes.max() + depth > self.limit:
            raise RequestError(
                f"Prompt {int(sizes.argmax())} has {int(sizes.max())} tokens and its answer {depth}, but the model's "
                f"window is {self.limit}: shorten the history."
            )
        ids = np.zeros((len(sizes), int(sizes.max())), np.int64)
        inside = np.arange(ids.shape[1]) < sizes[:, None]
        ids[inside] = np.concatenate([np.asarray(prompt, np.int64) for prompt in prompts])
        return torch.from_numpy(ids).to(self.device), torch.from_numpy(sizes[:, None]).to(self.device)
