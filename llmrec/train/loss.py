"""Log-probabilities of supervised tokens, from hidden states through the output head, and the loss of SFT.

Memory is bounded by chunks of positions whose logits are computed again in the backward pass. Chunks of the vocabulary
would need the rows of the head, which adapted, quantized and sharded heads do not expose.
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

CHUNK = 2**25  # logits per chunk: 128 MiB in float32. It does not change results
_CPU_POSITIONS = 1024  # per chunk on a CPU: larger tensors are freed to the system, and page-faulted in each step


@dataclass(frozen=True)
class LabelSmoothing:
    """Label smoothing over the tokens of the target's level of a code, since no other token can stand there.

    Attributes:
        share: of a target's probability, 0 to 1.
        level: (vocabulary,) int64 level of each token, -1 if it is in no code.
        tokens: level → (n,) int64 its tokens that items have.
    """

    share: float
    level: Tensor
    tokens: tuple[Tensor, ...]

    @classmethod
    def of(cls, catalogue: Catalogue, new: np.ndarray, share: float) -> LabelSmoothing:
        """For a catalogue whose symbols are the model tokens `new`, without reserved tokens that no item has."""
        level_of = np.repeat(np.arange(len(catalogue.widths)), catalogue.widths)
        used = np.unique(catalogue.codes[catalogue.codes >= 0])
        level = np.full(int(new.max()) + 1, -1)
        level[new[used]] = level_of[used]
        tokens = (torch.from_numpy(new[used[level_of[used] == number]]) for number in range(len(catalogue.widths)))
        return cls(share, torch.from_numpy(level), tuple(tokens))

    def smoothed(self, logits: Tensor, targets: Tensor, logprobs: Tensor) -> Tensor:
        """Mix the log-probability of each target with the mean over its level.

        Args:
            logits: (positions, vocabulary) float32.
            targets: (positions,) int64.
            logprobs: (positions,) float32, of the targets, in nats.

        Returns:
            (positions,) float32 in nats; unchanged for targets that are in no code.
        """
        known = targets.clamp(max=len(self.level) - 1)
        level = self.level.to(targets.device)[known].where(targets == known, -1)
        total = logits.gather(1, targets[:, None])[:, 0] - logprobs  # log-sum-exp
        for number, tokens in enumerate(self.tokens):
            rows = torch.nonzero(level == number)[:, 0]
            if len(rows) and len(tokens):
                mean = logits[rows][:, tokens.to(targets.device)].mean(1) - total[rows]
                logprobs = logprobs.index_put((rows,), (1 - self.share) * logprobs[rows] + self.share * mean)
        return logprobs


def target_logprobs(
    states: Tensor, targets: Tensor, head: Any, chunk: int = CHUNK, smoothing: LabelSmoothing | None = None
) -> Tensor:
    """Log-probability of the next token at each position.

    Args:
        states: (positions, width) last hidden states.
        targets: (positions,) int64, the next token at each.
        head: maps (positions, width) to (positions, vocabulary) logits: an `OutputHead`, or a layer of torch.
        chunk: logits at a time; if there are more, they are computed again in the backward pass.
        smoothing: mixes in the mean over the target's level.

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
    """Loss of SFT, as a replacement for `model.forward`: no logits are computed at unsupervised positions.

    Args:
        input_ids: (rows, length) int64.
        labels: (rows, length) int64, IGNORE at unsupervised positions; None, as in validation, for the forward pass of
            the model's class.
        num_items_in_batch: supervised tokens of the whole step, by which the loss is divided; None for those of the
            batch.
        trie: softmax of code tokens; None for the softmax over the vocabulary.
        inputs: other inputs of the decoder.

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
            index = torch.nonzero(depth == level)[:, 0]
            if len(index):
                weight, prefixes = head.layer.weight, prefix[index]
                logprobs = trie.logprobs(
                    states[index], targets[index], level, prefixes, weight, head.scale_logits, share
                )
                total = total + logprobs.sum()
        states, targets = states[depth < 0], targets[depth < 0]
    total = total + target_logprobs(states, targets, head, smoothing=smoothing).sum()
    return CausalLMOutput(loss=-total / (len(rows) if num_items_in_batch is None else num_items_in_batch))  # type: ignore[arg-type]  # it says FloatTensor, and means any
