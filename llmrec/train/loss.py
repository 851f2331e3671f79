"""The loss of all ways to train: hidden states at supervised positions → output head → log-probabilities.

Memory is bounded by cutting positions, not the vocabulary: as many positions as make `chunk` logits are computed at a
time, and again in the backward pass. Cutting the vocabulary would need the rows of every head, which adapted, quantised
and sharded heads do not give.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from llmrec.indexing.catalogue import Catalogue
from llmrec.model.logits import OutputHead, unwrap_peft
from llmrec.train.packing import IGNORE
from llmrec.train.trie_softmax import TrieSoftmax

CHUNK = 2**25  # logits computed at a time: 128 MiB in float32. Bounds memory, changes no number
_CPU_POSITIONS = 1024  # at a time on a CPU: larger tensors go back to the system, and each step faults them in


@dataclass(frozen=True)
class LabelSmoothing:
    """Gives a share of a code token's probability to all tokens of its level.

    Over the whole vocabulary it would teach the model to write words, or tokens of another level, within a code.

    Attributes:
        share: of a target's probability, 0 to 1.
        level: (vocabulary,) int64 level of each token, -1 of those that belong to no code.
        tokens: level → (n,) int64 the tokens of it that items have.
    """

    share: float
    level: Tensor
    tokens: tuple[Tensor, ...]

    @classmethod
    def of(cls, catalogue: Catalogue, new: np.ndarray, share: float) -> LabelSmoothing:
        """Of a catalogue whose symbols are the model's tokens `new`; reserved tokens that no item has are left out."""
        kind = np.repeat(np.arange(len(catalogue.widths)), catalogue.widths)
        used = np.unique(catalogue.codes[catalogue.codes >= 0])
        level = np.full(int(new.max()) + 1, -1)
        level[new[used]] = kind[used]
        tokens = (torch.from_numpy(new[used[kind[used] == number]]) for number in range(len(catalogue.widths)))
        return cls(share, torch.from_numpy(level), tuple(tokens))

    def smoothed(self, logits: Tensor, targets: Tensor, logprobs: Tensor) -> Tensor:
        """The log-probability of each target, mixed with the mean over its level.

        Args:
            logits: (positions, vocabulary) float32.
            targets: (positions,) int64.
            logprobs: (positions,) float32, of the targets, in nats.

        Returns:
            (positions,) float32 in nats; unchanged for targets in no code.
        """
        known = targets.clamp(max=len(self.level) - 1)
        level = self.level.to(targets.device)[known].where(targets == known, -1)
        total = logits.gather(1, targets[:, None])[:, 0] - logprobs  # what the logits are normalised by
        for number, tokens in enumerate(self.tokens):
            rows = torch.nonzero(level == number)[:, 0]
            if len(rows) and len(tokens):
                mean = logits[rows][:, tokens.to(targets.device)].mean(1) - total[rows]
                logprobs = logprobs.index_put((rows,), (1 - self.share) * logprobs[rows] + self.share * mean)
        return logprobs


def target_logprobs(
    states: Tensor, targets: Tensor, head: Any, chunk: int = CHUNK, smoothing: LabelSmoothing | None = None
) -> Tensor:
    """Log-probability of the token that follows each position.

    Args:
        states: (positions, width) last hidden states.
        targets: (positions,) int64, the token that follows each.
        head: maps (positions, width) to (positions, vocabulary) logits: an `OutputHead`, or a layer of torch.
        chunk: logits at once; where there are more, they are not kept for the backward pass but computed again.
        smoothing: makes the result a mean of log-probabilities.

    Returns:
        (positions,) float32 log-probabilities in nats.
    """

    def score(states: Tensor, targets: Tensor) -> Tensor:
        logits = head(states).float()
        logprobs = -nn.functional.cross_entropy(logits, targets, reduction="none")
        return smoothing.smoothed(logits, targets, logprobs) if smoothing else logprobs

    vocabulary = getattr(head, "vocabulary", None) or head.out_features
    most = max(1, chunk // int(vocabulary))
    scored = partial(checkpoint, score, use_reentrant=False) if len(targets) > most else score
    positions = min(most, _CPU_POSITIONS) if states.device.type == "cpu" else most
    parts = zip(states.split(positions), targets.split(positions), strict=True)
    return torch.cat([scored(state, target) for state, target in parts])


def supervised_loss(
    model: PreTrainedModel,
    input_ids: Tensor,
    labels: Tensor | None = None,
    num_items_in_batch: Tensor | int | None = None,
    smoothing: LabelSmoothing | None = None,
    trie: TrieSoftmax | None = None,
    **inputs: Any,
) -> CausalLMOutput:
    """Takes the place of `model.forward` while training: the loss, and no logits at unsupervised positions.

    Args:
        model: that trains.
        input_ids: (rows, length) int64.
        labels: (rows, length) int64, IGNORE where nothing is supervised; None, as in validation, for the model's own
            forward pass.
        num_items_in_batch: supervised tokens of the whole step, which the loss is divided by; None for those here.
        smoothing: label smoothing, where there is any.
        trie: what code tokens compete with; None for all tokens.
        inputs: others of the decoder.

    Returns:
        loss: minus the mean log-probability of supervised tokens, in nats.
    """
    if labels is None:
        return type(model).forward(model, input_ids=input_ids, **inputs)
    hidden = unwrap_peft(model).get_decoder()(input_ids=input_ids, use_cache=False, **inputs).last_hidden_state
    head = OutputHead(model)
    rows, columns = torch.nonzero(labels[:, 1:] != IGNORE, as_tuple=True)
    states, targets, total = hidden[rows, columns], labels[rows, columns + 1], hidden.new_zeros((), dtype=torch.float32)
    if trie is not None:
        trie, share = trie.to(states.device), smoothing.share if smoothing else 0.0
        depth, prefix = trie.locate(input_ids, rows, columns + 1)
        for level in range(len(trie.levels)):
            at = torch.nonzero(depth == level)[:, 0]
            if len(at):
                weight = head.layer.weight
                logprobs = trie.logprobs(states[at], targets[at], level, prefix[at], weight, head.scale_logits, share)
                total = total + logprobs.sum()
        states, targets = states[depth < 0], targets[depth < 0]
    total = total + target_logprobs(states, targets, head, smoothing=smoothing).sum()
    return CausalLMOutput(loss=-total / (len(rows) if num_items_in_batch is None else num_items_in_batch))  # type: ignore[arg-type]  # it says FloatTensor, and means any
