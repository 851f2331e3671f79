"""A language model's decoder with a head that predicts ratings, and rating histories as its tokens.

A row is a header and lines `TITLE (GENRES): RATING`. The token before a rating is where the rating is predicted, so one
row supervises all ratings of a history. Parts of a row are tokenized alone and joined, so that training and prediction
see the same tokens.

Classification: one class for each step of the scale, whose weights start as the language model's own rows of these
words; the prediction is the mean over their probabilities. Regression: one number, added to a start: the training mean
or the user + item bias.

Source: Kang et al. 2023, arXiv 2305.06474, section 3.3; starting from biases is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.modeling_outputs import CausalLMOutput

from llmrec.errors import ModelError
from llmrec.rate.baselines import GlobalMean, UserItemBias
from llmrec.rate.cases import RatingCases
from llmrec.rate.ratings import Ratings
from llmrec.seed import stream
from llmrec.train.encode import Encoded
from llmrec.train.packing import IGNORE, PackedRows

Head = Literal["classification", "regression"]
Start = Literal["mean", "bias"]
STARTS: dict[Start, type[GlobalMean]] = {"mean": GlobalMean, "bias": UserItemBias}

OUTPUT_SCALE = 10.0
"""Factor on the output of regression: its weights start at 0, and Adam moves them by small steps."""
_ITEM_TOKENS = 32  # the most of a line before its rating


@dataclass(frozen=True)
class TokenizedHistory(Encoded):
    """Tokens of a history; `supervised` marks the token before each rating that is predicted.

    Attributes:
        events: (ratings,) int64 event of each predicted rating.
    """

    events: np.ndarray

    @property
    def positions(self) -> np.ndarray:
        """(ratings,) int64 positions at which ratings are predicted."""
        return np.flatnonzero(self.supervised)

    @property
    def labels(self) -> np.ndarray:
        """(length,) int64 event whose rating is predicted at each position; IGNORE at others."""
        labels = np.full(len(self.tokens), IGNORE)
        labels[self.supervised] = self.events
        return labels


class PackedHistories(PackedRows):
    """Several histories in a row; labels are event numbers."""

    def __init__(self, histories: list[TokenizedHistory], pack_length: int, seed: int) -> None:
        """Pack histories, in random order, into rows of `pack_length` tokens."""
        super().__init__(histories, pack_length, stream(seed, "rate", "pack"))
        self.labels = [history.labels for history in histories]

    def __getitem__(self, row: int) -> dict[str, Tensor]:
        """input_ids, position_ids, labels: (length,) int64."""
        labels = np.concatenate([self.labels[number] for number in self.rows[row]])
        return super().__getitem__(row) | {"labels": torch.from_numpy(labels)}


class HistoryTokenizer:
    """Tokenizes histories of one data set for one model.

    Attributes:
        labels: tokens of each step of the scale.
    """

    def __init__(self, ratings: Ratings, tokenizer: PreTrainedTokenizerBase) -> None:
        def tokens(texts: list[str]) -> list[list[int]]:
            return tokenizer(texts, add_special_tokens=False)["input_ids"]

        self.ratings, scale = ratings, ratings.scale
        self.header = tokenizer(f"One person's ratings, from {scale.description}, oldest first.\n")["input_ids"]
        (colon,) = tokens([":"])
        names = tokens([ratings.item_text(item) for item in range(ratings.n_items)])
        self.items = [name[: _ITEM_TOKENS - len(colon)] + colon for name in names]
        self.labels = tokens(scale.labels)
        self.line_ends = tokens([f" {label}\n" for label in scale.labels])

    def tokenize(self, events: np.ndarray, last_only: bool = False) -> TokenizedHistory:
        """Tokens of some events, oldest first; the last one's rating is left out, since nothing follows it.

        Args:
            last_only: predict only the last rating.
        """
        tokens, positions = list(self.header), []
        steps = self.ratings.scale.steps(self.ratings.values[events])
        for index, event in enumerate(events.tolist()):
            tokens += self.items[self.ratings.items[event]]
            positions.append(len(tokens) - 1)
            tokens += self.line_ends[steps[index]] if index < len(events) - 1 else []
        predicted = slice(-1, None) if last_only else slice(None)
        supervised = np.isin(np.arange(len(tokens)), positions[predicted])
        return TokenizedHistory(np.array(tokens), supervised, events[predicted])

    def tokenize_cases(self, cases: RatingCases) -> list[TokenizedHistory]:
        """The history of each case, and its item."""
        return [
            self.tokenize(np.append(history[history >= 0], event), last_only=True)
            for history, event in zip(cases.history, cases.events, strict=True)
        ]


def training_windows(ratings: Ratings, size: int, share: float, seed: int) -> list[np.ndarray]:
    """Windows of consecutive training ratings of one user, drawn until they hold a share of all training ratings.

    Args:
        size: the most ratings of a window.
        share: 0 to 1, of the training ratings.
        seed: a smaller share is part of a larger one with the same seed.

    Returns:
        Event numbers of each window.
    """
    train = ratings.train
    users = np.split(train, np.flatnonzero(np.diff(ratings.users[train])) + 1)
    windows = [events[start : start + size] for events in users for start in range(0, len(events), size)]
    order = stream(seed, "rate", "windows").permutation(len(windows))
    total = np.cumsum([len(windows[number]) for number in order])
    count = int(np.searchsorted(total, share * len(train) - 1e-9)) + 1
    return [windows[number] for number in order[:count]]


class RatingModel(nn.Module):
    """A decoder and a head that predicts ratings from its last hidden states.

    Args:
        language: a causal language model: its decoder is used, its output rows only to start classes.
        head: kind of head.
        labels: tokens of each step of the scale, for classes.
        spread: unit of regression, in rating points.
    """

    def __init__(self, language: Any, head: Head, labels: list[list[int]], spread: float) -> None:
        super().__init__()
        self.decoder, self.kind, self.spread = language.get_decoder(), head, spread
        width = language.config.get_text_config().hidden_size
        self.head = nn.Linear(width, len(labels) if head == "classification" else 1)
        nn.init.zeros_(self.head.bias)
        if head == "classification":
            rows = language.get_output_embeddings().weight.detach().float()
            self.head.weight.data = torch.stack([rows[tokens].mean(0) for tokens in labels])
        else:
            nn.init.zeros_(self.head.weight)  # adds nothing at first
        self.decoder.get_input_embeddings().weight.requires_grad_(False)

    def freeze_layers(self, trained: int) -> None:
        """Freeze all layers but the last few.

        Args:
            trained: layers that are trained; 0 for all of them.

        Raises:
            ModelError: the decoder has fewer.
        """
        layers = self.decoder.layers
        if trained > len(layers):
            raise ModelError(f"the model has {len(layers)} layers, so {trained} cannot be trained. Lower --layers.")
        for layer in layers[: len(layers) - trained] if trained else ():
            layer.requires_grad_(False)

    def get_base_model(self) -> Any:
        """The decoder, a model of transformers."""
        return self.decoder

    def get_input_embeddings(self) -> nn.Module:
        """Input rows of tokens."""
        return self.decoder.get_input_embeddings()

    def get_output_embeddings(self) -> nn.Module:
        """The head, in place of output rows of tokens."""
        return self.head

    def loss(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        labels: Tensor,
        targets: Tensor,
        num_items_in_batch: Tensor | int | None = None,
    ) -> CausalLMOutput:
        """Mean loss over the labelled positions; replaces the forward pass in training.

        Args:
            input_ids, position_ids: (rows, length); positions restart where another history begins.
            labels: (rows, length) int64 event whose rating is predicted at each position; IGNORE elsewhere.
            targets: (events,) float32, the index of the step for classes, the rating minus its start for regression.
            num_items_in_batch: labels of the whole step; None for those of `labels`.
        """
        states = self.decoder(input_ids=input_ids, position_ids=position_ids, use_cache=False).last_hidden_state
        labelled = labels != IGNORE
        outputs = self.head(states[labelled].to(self.head.weight.dtype)).float()
        truth = targets.to(outputs.device)[labels[labelled]]
        if self.kind == "classification":
            total = nn.functional.cross_entropy(outputs, truth.long(), reduction="sum")
        else:
            total = nn.functional.mse_loss(OUTPUT_SCALE * outputs[:, 0], truth / self.spread, reduction="sum")
        return CausalLMOutput(loss=total / (len(truth) if num_items_in_batch is None else num_items_in_batch))  # type: ignore[arg-type]  # it says FloatTensor, and means any

    def read(self, states: Tensor, values: np.ndarray) -> np.ndarray:
        """(rows,) of (rows, width) states: mean of the scale's `values` over classes, or the output of regression."""
        outputs = self.head(states.to(self.head.weight.dtype)).double()
        if self.kind == "classification":
            return outputs.softmax(-1).cpu().numpy() @ values
        return outputs[:, 0].cpu().numpy() * (OUTPUT_SCALE * self.spread)


class FineTunedPredictor:
    """Predicts ratings with a `RatingModel`.

    Args:
        start: regression is added to its predictions; classes do not use it.
        batch_tokens: of a batch.
    """

    def __init__(
        self, model: RatingModel, tokenizer: HistoryTokenizer, start: GlobalMean, batch_tokens: int = 8192
    ) -> None:
        self.model, self.tokenizer, self.start, self.batch_tokens = model.eval(), tokenizer, start, batch_tokens

    def predict(self, cases: RatingCases) -> np.ndarray:
        """(cases,) predicted ratings, within the scale."""
        outputs, scale = self._outputs(cases), self.tokenizer.ratings.scale
        if self.model.kind == "classification":
            return outputs
        return np.clip(self.start.predict(cases) + outputs, scale.low, scale.high)

    def prompt_tokens(self, cases: RatingCases) -> float:
        """Mean number of tokens of a case."""
        return float(np.mean([len(history.tokens) for history in self.tokenizer.tokenize_cases(cases)]))

    @torch.inference_mode()
    def _outputs(self, cases: RatingCases) -> np.ndarray:
        histories, outputs = self.tokenizer.tokenize_cases(cases), np.empty(len(cases))
        order = sorted(range(len(histories)), key=lambda row: len(histories[row].tokens))
        size = max(1, self.batch_tokens // max(len(history.tokens) for history in histories))
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            outputs[rows] = self._batch([histories[row] for row in rows])
        return outputs

    def _batch(self, histories: list[TokenizedHistory]) -> np.ndarray:
        device = next(self.model.parameters()).device
        # Padding stands behind the position that is read, where a causal model does not attend to it.
        tokens = [torch.from_numpy(history.tokens) for history in histories]
        ids = nn.utils.rnn.pad_sequence(tokens, batch_first=True).to(device)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            states = self.model.decoder(input_ids=ids, use_cache=False).last_hidden_state
        last = torch.tensor([int(history.positions[-1]) for history in histories], device=device)
        states = states[torch.arange(len(histories), device=device), last].float()
        return self.model.read(states, self.tokenizer.ratings.scale.values)
