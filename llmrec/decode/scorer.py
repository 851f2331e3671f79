"""Score continuations of prompts with a causal language model of transformers; branches share the prompt's cache.

The branches of a row are query positions of that one row. A 4D mask selects the keys that a branch attends to: those of
its parent, and its own. So the cache is only appended to, never repeated or reordered, and K beams cost about one pass
over K tokens. Prompts of different length are padded on the right: causal attention never reaches the padding during
the prompt, and the mask hides it afterwards.
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
from llmrec.model.logits import OutputHead, unwrap_peft

LAYERS = {"full_attention", "sliding_attention"}


def check_length(tokens: int, answer: int, window: int, name: str = "the prompt") -> None:
    """Raise a RequestError for a prompt without tokens, or if prompt and answer exceed the model's window."""
    if not tokens:
        raise RequestError(f"{name} is without tokens: pass at least one.")
    if tokens + answer > window:
        raise RequestError(
            f"{name} has {tokens} tokens and its answer {answer}, but the model's window is {window}: shorten the "
            "history or the query."
        )


class Attention:
    """Attention masks in the form that a decoder-only model of transformers takes.

    Attributes:
        window: positions that sliding layers look back; None without such layers.
        kinds: the kinds of layers in the model.
    """

    def __init__(self, inner: Any) -> None:
        """Read the configuration of a model of transformers.

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

    def mask(self, visible: Tensor, query_positions: Tensor, key_positions: Tensor) -> Tensor | dict[str, Tensor]:
        """The (rows, 1, queries, keys) `attention_mask`, by kind of layer where the model has two kinds.

        Args:
            visible: (rows, queries, keys) bool, whether a query may attend to a key at all.
            query_positions: (rows, queries) position of each query in its own sequence.
            key_positions: (rows, keys) position of each key in its own sequence.
        """
        masks = {"full_attention": self._mask(visible)}
        if "sliding_attention" in self.kinds and self.window is not None:
            near = key_positions[:, None, :] > query_positions[:, :, None] - self.window
            masks["sliding_attention"] = self._mask(visible & near)
        return masks if len(self.kinds) == 2 else masks[next(iter(self.kinds))]

    def _mask(self, visible: Tensor) -> Tensor:
        if self.sdpa:  # bool works for any dtype of attention, which a quantised model does not reveal
            return visible[:, None]
        mask = torch.zeros(visible.shape, dtype=self.dtype, device=visible.device)
        return mask.masked_fill_(~visible, torch.finfo(self.dtype).min)[:, None]


@dataclass
class Logits:
    """Logits of the next symbol, for a grid of query positions.

    Attributes:
        symbols: (rows, queries, n_symbols) float32 logits of the tokens of the symbols.
        total: (rows, queries) float32 logsumexp over the whole vocabulary; None unless `prefill` had `full_vocabulary`.
    """

    symbols: Tensor
    total: Tensor | None

    def gather(self, rows: np.ndarray, queries: np.ndarray, symbols: np.ndarray) -> np.ndarray:
        """(n,) float64 logits of single symbols."""
        index = tuple(torch.from_numpy(part).to(self.symbols.device) for part in (rows, queries, symbols))
        return self.symbols[index].cpu().numpy().astype(np.float64)

    def grid(self, queries: np.ndarray, symbols: np.ndarray) -> np.ndarray:
        """(rows, n) float64 logits of the same queries and symbols in every row."""
        query, symbol = (torch.from_numpy(part).to(self.symbols.device) for part in (queries, symbols))
        return self.symbols[:, query, symbol].cpu().numpy().astype(np.float64)

    def totals(self) -> np.ndarray:
        """(rows, queries) float64 logsumexp over the whole vocabulary."""
        assert self.total is not None, "prefill without full_vocabulary"
        return self.total.cpu().numpy().astype(np.float64)


@dataclass
class BranchState:
    """State between steps: the shared cache, and which of its entries each branch attends to.

    Attributes:
        cache: keys and values of the padded prompts, then of every branch token so far.
        token_ids: (n_symbols,) int64, the model's token of each symbol.
        full_vocabulary: whether logits have the logsumexp over the whole vocabulary.
        lengths: (rows, 1) int64 prompt tokens.
        position_ids: (rows, keys) int64, position in its own sequence of each token in the cache.
        attention_mask: (rows, queries, keys) bool, the cache entries that the newest branches attend to.
        depth: tokens since the prompt.
        logits: of the symbol after the newest branches; after the prompt there is one query per row.
    """

    cache: Any
    token_ids: Tensor
    full_vocabulary: bool
    lengths: Tensor
    position_ids: Tensor
    attention_mask: Tensor
    depth: int
    logits: Logits


class Scorer:
    """Logits of branches after prompts, from a decoder-only model of transformers (Llama, Qwen, Gemma, Phi, ...).

    Runs under no_grad, not inference_mode: roll-outs run inside training, whose buffers must stay usable.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Use a model, whose weights may change between calls; errors as in `Attention`."""
        inner: Any = unwrap_peft(model)
        config = inner.config.get_text_config()
        self.attention = Attention(inner)
        self.decoder, self.head = inner.get_decoder(), OutputHead(inner)
        self.max_length: int = getattr(config, "max_position_embeddings", None) or 2**31
        self.vocab_size: int = inner.get_input_embeddings().weight.shape[0]
        self.device: torch.device = inner.device
        self.dtype: torch.dtype = inner.get_input_embeddings().weight.dtype
        self.model: Any = inner
        self.head_checked = False

    @torch.no_grad()
    def cache_prefix(self, tokens: Sequence[int]) -> DynamicCache:
        """Compute keys and values of a prefix that several prompts share."""
        cache = DynamicCache()  # without the config: sliding layers keep every key, and the mask does the sliding
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
        full_vocabulary: bool = False,
        prefix: DynamicCache | None = None,
    ) -> BranchState:
        """Run the prompts, once.

        Args:
            prompts: token ids of each row; lengths may differ.
            token_ids: (n_symbols,) the model's token of each symbol.
            depth: tokens that will follow, to check that they fit.
            full_vocabulary: also compute the logsumexp over the whole vocabulary, here and at every step.
            prefix: of `cache_prefix`, which all prompts continue; not changed.

        Raises:
            RequestError: no prompts, an empty prompt, or one that is too long for the model's window.
            ModelError: a token outside the model's vocabulary, a model in training mode, or an output head that does
                more than a linear map, scale and soft cap.
        """
        if self.decoder.training:
            raise ModelError(
                "The model is in training mode, where dropout makes scores random: call model.eval() first."
            )
        if not self.head_checked:
            self._check_head()
        past = prefix.get_seq_length() if prefix else 0
        ids, lengths = self._padded(prompts, past + depth)
        tokens = torch.from_numpy(np.asarray(token_ids, np.int64)).to(self.device)
        if tokens.min() < 0 or tokens.max() >= self.vocab_size:
            raise ModelError(
                f"The codes use tokens {int(tokens.min())} to {int(tokens.max())}, but the model has "
                f"{self.vocab_size}: use the model trained on this catalogue, or add the new tokens to it."
            )
        cache = copy.deepcopy(prefix) if prefix else self.cache_prefix([])
        if past and len(ids) > 1:
            cache.batch_repeat_interleave(len(ids))
        hidden = self.decoder(input_ids=ids, past_key_values=cache, use_cache=True).last_hidden_state
        last = hidden[torch.arange(len(ids), device=ids.device)[:, None], lengths - 1]
        lengths = lengths + past
        position_ids = torch.arange(past + ids.shape[1], device=ids.device).expand(len(ids), -1)
        mask = (position_ids < lengths)[:, None]
        logits = self._logits(last, tokens, full_vocabulary)
        return BranchState(cache, tokens, full_vocabulary, lengths, position_ids, mask, 0, logits)

    @torch.no_grad()
    def step(self, state: BranchState, symbols: np.ndarray, parents: np.ndarray) -> None:
        """Extend branches by one symbol; `state` then holds the new branches and their logits.

        Args:
            symbols: (rows, queries) the new symbol of each branch; rows with fewer branches are padded by any.
            parents: (rows, queries) the query of the last step that each branch extends.
        """
        parent = torch.from_numpy(np.asarray(parents, np.int64)).to(self.device)
        inherited = state.attention_mask.gather(1, parent[..., None].expand(-1, -1, state.attention_mask.shape[2]))
        own = torch.eye(parent.shape[1], dtype=torch.bool, device=self.device).expand(len(parent), -1, -1)
        state.attention_mask = torch.cat([inherited, own], 2)
        positions = (state.lengths + state.depth).expand(parent.shape)
        state.position_ids = torch.cat([state.position_ids, positions], 1)
        state.depth += 1
        state.logits = self._forward(state, symbols, positions, state.position_ids, state.attention_mask)

    @torch.no_grad()
    def score_tree(self, state: BranchState, symbols: np.ndarray, depths: np.ndarray, ancestors: np.ndarray) -> Logits:
        """(rows, nodes, n_symbols) logits after every node of one tree that continues every prompt, in a single pass.

        Args:
            state: fresh from `prefill`; not changed.
            symbols: (nodes,) symbol that leads into each node.
            depths: (nodes,) symbols since the prompt, 1 for the first.
            ancestors: (nodes, nodes) bool, whether the second node is the first or an ancestor of it.
        """
        rows, nodes = len(state.lengths), len(symbols)
        in_tree = torch.from_numpy(ancestors).to(self.device).expand(rows, -1, -1)
        visible = torch.cat([state.attention_mask.expand(-1, nodes, -1), in_tree], 2)
        positions = state.lengths + torch.from_numpy(np.asarray(depths, np.int64)).to(self.device) - 1
        key_positions = torch.cat([state.position_ids, positions], 1)
        logits = self._forward(state, np.broadcast_to(symbols, (rows, nodes)), positions, key_positions, visible)
        state.cache.crop(-nodes)
        return logits

    def bytes_per_query(self, keys: int, n_symbols: int) -> int:
        """Estimate of the peak memory in bytes of one query position of one row, in a pass over so many keys."""
        config = self.decoder.config.get_text_config()
        heads, hidden = config.num_attention_heads, config.hidden_size
        values = 2 * heads * keys + 3 * config.intermediate_size + 8 * hidden + 2 * config.num_hidden_layers * hidden
        return values * torch.finfo(self.dtype).bits // 8 + 12 * n_symbols + 4 * keys

    @torch.no_grad()
    def _check_head(self) -> None:
        """Refuse a model whose logits differ from those of `OutputHead`: its scores would be silently wrong."""
        ids = torch.zeros((1, 2), dtype=torch.long, device=self.device)
        tokens = torch.arange(min(self.vocab_size, 64), device=self.device)
        expected = self.model(input_ids=ids, use_cache=False).logits.float()[..., tokens]
        actual = self._logits(self.decoder(input_ids=ids, use_cache=False).last_hidden_state, tokens, False).symbols
        if not torch.allclose(actual, expected, rtol=0.05, atol=0.05 * float(expected.abs().max())):
            raise ModelError(
                f"The output head of {type(self.model).__name__} does more than a linear map, scale and soft "
                "cap, so items cannot be scored token by token: use another model, or add it to llmrec/model/logits.py."
            )
        self.head_checked = True

    def _forward(
        self, state: BranchState, symbols: np.ndarray, positions: Tensor, key_positions: Tensor, visible: Tensor
    ) -> Logits:
        """Append a (rows, queries) grid of symbols to the cache and run it; other arguments as in `Attention.mask`."""
        tokens = state.token_ids[torch.from_numpy(np.array(symbols, np.int64)).to(self.device)]
        mask = self.attention.mask(visible, positions, key_positions)
        hidden = self.decoder(
            input_ids=tokens, attention_mask=mask, position_ids=positions, past_key_values=state.cache, use_cache=True
        ).last_hidden_state
        return self._logits(hidden, state.token_ids, state.full_vocabulary)

    def _logits(self, hidden: Tensor, tokens: Tensor, full_vocabulary: bool) -> Logits:
        """Logits of the symbols alone; the logsumexp over the whole vocabulary is computed in pieces."""
        symbols = self.head.of_tokens(hidden, tokens)
        if not full_vocabulary:
            return Logits(symbols, None)
        if len(tokens) == self.vocab_size:
            return Logits(symbols, symbols.logsumexp(-1))
        pieces = hidden.flatten(0, 1).split(max(1, 2**24 // self.vocab_size))
        return Logits(symbols, torch.cat([self.head(piece).logsumexp(-1) for piece in pieces]).view(hidden.shape[:2]))

    def _padded(self, prompts: Sequence[Sequence[int]], depth: int) -> tuple[Tensor, Tensor]:
        """(rows, longest) token ids padded on the right, and (rows, 1) lengths."""
        sizes = np.array([len(prompt) for prompt in prompts], np.int64)
        if not len(sizes):
            raise RequestError("There are no prompts: pass at least one.")
        for number in (int(sizes.argmin()), int(sizes.argmax())):
            check_length(int(sizes[number]), depth, self.max_length, f"prompt {number}")
        ids = np.zeros((len(sizes), int(sizes.max())), np.int64)
        filled = np.arange(ids.shape[1]) < sizes[:, None]
        ids[filled] = np.concatenate([np.asarray(prompt, np.int64) for prompt in prompts])
        return torch.from_numpy(ids).to(self.device), torch.from_numpy(sizes[:, None]).to(self.device)
