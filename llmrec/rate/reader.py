"""A decoder whose last hidden states are read as ratings, and the predictor made of it.

Classes: one for each step of the scale, whose rows start as the language model's own rows for the words; the prediction
is the mean over their probabilities. Regression: one number from the last position, how far a rating lies from where
prediction starts: the training mean, or what the user + item bias says.

Source: Kang et al. 2023, arXiv 2305.06474, section 3.3; starting from biases is ours.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutput

from llmrec.errors import ModelError
from llmrec.rate.baselines import Bias, GlobalMean
from llmrec.rate.cases import Cases
from llmrec.rate.rows import Row, Rows
from llmrec.train.packing import IGNORE

Head = Literal["classification", "regression"]
Start = Literal["mean", "bias"]
STARTS: dict[Start, type[GlobalMean]] = {"mean": GlobalMean, "bias": Bias}

SWIFT = 10.0
"""What regression's head says counts this often: its weights start at 0, and Adam moves them by small steps."""


class Reader(nn.Module):
    """A decoder and a head that reads ratings off its last hidden states.

    Args:
        language: a causal language model; its decoder is used, its output head only to start classes from.
        head: kind of head.
        words: tokens of each step of the scale, for classes.
        spread: what regression says is in these, rating points.
    """

    def __init__(self, language: Any, head: Head, words: list[list[int]], spread: float) -> None:
        super().__init__()
        self.decoder, self.kind, self.spread = language.get_decoder(), head, spread
        width = language.config.get_text_config().hidden_size
        self.head = nn.Linear(width, len(words) if head == "classification" else 1)
        nn.init.zeros_(self.head.bias)
        if head == "classification":
            rows = language.get_output_embeddings().weight.detach().float()
            self.head.weight.data = torch.stack([rows[tokens].mean(0) for tokens in words])
        else:
            nn.init.zeros_(self.head.weight)  # adds nothing at first
        self.decoder.get_input_embeddings().weight.requires_grad_(False)

    def freeze(self, trained: int) -> None:
        """Keep all layers but the last few as they are.

        Args:
            trained: how many are trained; 0 for all of them.

        Raises:
            ModelError: the decoder has fewer.
        """
        layers = self.decoder.layers
        if trained > len(layers):
            raise ModelError(f"the model has {len(layers)} layers, so {trained} cannot be trained. Lower --layers.")
        for layer in layers[: len(layers) - trained] if trained else ():
            layer.requires_grad_(False)

    def get_base_model(self) -> Any:
        """The model of transformers inside."""
        return self.decoder

    def get_input_embeddings(self) -> nn.Module:
        """Rows of tokens."""
        return self.decoder.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        """The head, in the place of rows of tokens."""
        return self.head

    def loss(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        labels: Tensor,
        targets: Tensor,
        num_items_in_batch: Tensor | int | None = None,
    ) -> CausalLMOutput:
        """What takes the place of the forward pass while training: the mean loss over the places with a label.

        Args:
            input_ids, position_ids: (rows, length); positions restart where another history begins.
            labels: (rows, length) int64 event whose rating is read off at each place; IGNORE elsewhere.
            targets: (events,) float32, the step's number for classes, for regression how far the rating lies from
                where its prediction starts.
            num_items_in_batch: labels of the whole step; None for those given.
        """
        states = self.decoder(input_ids=input_ids, position_ids=position_ids, use_cache=False).last_hidden_state
        wanted = labels != IGNORE
        found = self.head(states[wanted].to(self.head.weight.dtype)).float()
        truth = targets.to(found.device)[labels[wanted]]
        if self.kind == "classification":
            total = nn.functional.cross_entropy(found, truth.long(), reduction="sum")
        else:
            total = nn.functional.mse_loss(SWIFT * found[:, 0], truth / self.spread, reduction="sum")
        return CausalLMOutput(loss=total / (len(truth) if num_items_in_batch is None else num_items_in_batch))  # type: ignore[arg-type]  # it says FloatTensor, and means any

    def read(self, states: Tensor, values: np.ndarray) -> np.ndarray:
        """(rows,) off (rows, width) states: mean of the scale's `values` over classes, or what regression adds."""
        found = self.head(states.to(self.head.weight.dtype)).double()
        if self.kind == "classification":
            return found.softmax(-1).cpu().numpy() @ values
        return found[:, 0].cpu().numpy() * (SWIFT * self.spread)


class FineTuned:
    """A `Predictor` from a fine-tuned language model.

    Args:
        start: what regression adds to; classes need none.
        tokens: of a batch.
    """

    def __init__(self, reader: Reader, rows: Rows, start: GlobalMean, tokens: int = 8192) -> None:
        self.reader, self.rows, self.start, self.tokens = reader.eval(), rows, start, tokens

    def predict(self, cases: Cases) -> np.ndarray:
        """(cases,) predicted ratings, within the scale."""
        found, scale = self._read(cases), self.rows.ratings.scale
        return (
            found
            if self.reader.kind == "classification"
            else np.clip(self.start.predict(cases) + found, scale.low, scale.high)
        )

    @torch.inference_mode()
    def _read(self, cases: Cases) -> np.ndarray:
        rows, found = self.rows.cases(cases), np.empty(len(cases))
        order = sorted(range(len(rows)), key=lambda row: len(rows[row].tokens))
        size = max(1, self.tokens // max(len(row.tokens) for row in rows))
        for start in range(0, len(order), size):
            part = order[start : start + size]
            found[part] = self._batch([rows[row] for row in part])
        return found

    def prompt_tokens(self, cases: Cases) -> float:
        """Mean tokens of a prediction."""
        return float(np.mean([len(row.tokens) for row in self.rows.cases(cases)]))

    def _batch(self, rows: list[Row]) -> np.ndarray:
        device = next(self.reader.parameters()).device
        width = max(len(row.tokens) for row in rows)
        ids = torch.stack([_padded(row.tokens, width, 0) for row in rows]).to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            # Padding stands behind what is read, where a causal model cannot see it.
            states = self.reader.decoder(input_ids=ids, use_cache=False).last_hidden_state
        last = torch.tensor([int(row.reads[-1]) for row in rows], device=device)
        return self.reader.read(
            states[torch.arange(len(rows), device=device), last].float(), self.rows.ratings.scale.values
        )


def _padded(tokens: np.ndarray, width: int, value: int) -> Tensor:
    return nn.functional.pad(torch.from_numpy(tokens), (0, width - len(tokens)), value=value)
