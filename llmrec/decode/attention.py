"""Which keys a query sees, said in the way that a model's attention takes it: masks of trees on prompts."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from llmrec.errors import ModelError

LAYERS = {"full_attention", "sliding_attention"}


class Attention:
    """How a decoder-only model of transformers takes a mask of our own.

    Attributes:
        window: how far sliding layers look back, in positions; None without such layers.
        kinds: the kinds of layers that the model has.
    """

    def __init__(self, inner: Any) -> None:
        """Look at a plain model of transformers.

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
        """What to pass as `attention_mask`; one for each kind of layer where the model has two.

        Args:
            sees: (rows, queries, slots) bool, whether a query may attend to a slot at all.
            places: (rows, queries) position of each query in its own sequence.
            slots: (rows, slots) position of the token in each slot.

        Returns:
            (rows, 1, queries, slots) masks.
        """
        masks = {"full_attention": self._as_it_is_taken(sees)}
        if "sliding_attention" in self.kinds and self.window is not None:
            near = slots[:, None, :] > places[:, :, None] - self.window
            masks["sliding_attention"] = self._as_it_is_taken(sees & near)
        return masks if len(self.kinds) == 2 else masks[next(iter(self.kinds))]

    def _as_it_is_taken(self, sees: Tensor) -> Tensor:
        if self.sdpa:  # bool fits whatever type attention computes in, which a quantised model does not tell
            return sees[:, None]
        mask = torch.zeros(sees.shape, dtype=self.dtype, device=sees.device)
        return mask.masked_fill_(~sees, torch.finfo(self.dtype).min)[:, None]
