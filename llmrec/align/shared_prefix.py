"""One row for a prompt and all its answers: each answer attends to the prompt and to itself only.

The prompt is computed once for all its answers. A row holds the prompt, then each answer without its last token. The
positions of every answer follow the prompt's, and a mask separates answers, so each answer has the log-probability that
it has in a row of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmrec.decode.scorer import Attention
from llmrec.model.logits import OutputHead, unwrap_peft
from llmrec.train.loss import target_logprobs
from llmrec.train.packing import IGNORE

PADDING = -1  # segment of padding


def build_shared_prefix_batch(prompts: Sequence[np.ndarray], answers: Sequence[np.ndarray]) -> dict[str, Tensor]:
    """Build rows of prompts and their answers.

    Args:
        prompts: (length,) tokens of each, at least one.
        answers: for each prompt (answers, longest) tokens, padded at the end by -1; all of one shape. An answer of
            padding alone is none.

    Returns:
        input_ids, position_ids, segments: (rows, width) int64; the segment is 0 in the prompt, n in the n-th answer,
        PADDING after the last. prompt_ends: (rows,) column of each prompt's last token. columns: (rows, answers,
        longest - 1) column of each answer token but the last. answers: (rows, answers, longest) tokens, IGNORE where
        there is none.
    """
    table = np.stack(answers)
    inside = table[..., 1:] >= 0  # a token is an input where another one follows it
    lengths = np.array([len(prompt) for prompt in prompts])
    width = int((lengths + inside.sum((1, 2))).max())
    ids, positions, segments = (np.full((len(prompts), width), fill, np.int64) for fill in (0, 0, PADDING))
    columns = np.zeros(inside.shape, np.int64)
    for row, prompt in enumerate(prompts):
        answer, level = np.nonzero(inside[row])
        head, rest = slice(len(prompt)), slice(len(prompt), len(prompt) + len(answer))
        ids[row, head], positions[row, head], segments[row, head] = prompt, range(len(prompt)), 0
        ids[row, rest], positions[row, rest] = table[row, answer, level], len(prompt) + level
        segments[row, rest], columns[row, answer, level] = answer + 1, np.arange(rest.start, rest.stop)
    batch = {
        "input_ids": ids,
        "position_ids": positions,
        "segments": segments,
        "prompt_ends": lengths - 1,
        "columns": columns,
        "answers": np.where(table >= 0, table, IGNORE).astype(np.int64),
    }
    return {name: torch.from_numpy(value) for name, value in batch.items()}


def visible(segments: Tensor) -> Tensor:
    """(rows, width, width) bool attention mask: earlier tokens of the prompt and of the same segment."""
    width = segments.shape[1]
    earlier = torch.ones(width, width, dtype=torch.bool, device=segments.device).tril()
    return earlier & ((segments[:, None, :] == 0) | (segments[:, None, :] == segments[:, :, None]))


def answer_logprobs(model: Any, batch: dict[str, Tensor]) -> Tensor:
    """Log-probability of each token of each answer, over the whole vocabulary.

    Args:
        model: of transformers, or inside peft's.
        batch: from `build_shared_prefix_batch`.

    Returns:
        (rows, answers, longest) float32 in nats; 0 where there is no token.
    """
    first, rest, answers = *_states(model, batch), batch["answers"]
    head, mask = OutputHead(model), answers != IGNORE
    first_scores = head(first).log_softmax(-1).gather(1, answers[..., 0].clamp(min=0)) * mask[..., 0]
    rest_mask = mask[..., 1:]
    scores = target_logprobs(rest[rest_mask], answers[..., 1:][rest_mask], head)
    rest_scores = torch.zeros(rest_mask.shape, device=scores.device).masked_scatter(rest_mask, scores)
    return torch.cat([first_scores[..., None], rest_scores], 2)


def policy_logprobs(
    model: Any, batch: dict[str, Tensor], allowed: Tensor, tokens: Tensor, symbols: Tensor, temperature: float = 1.0
) -> Tensor:
    """As `answer_logprobs`, under the masked and renormalised policy that constrained sampling uses.

    Args:
        model: of transformers, or inside peft's.
        batch: from `build_shared_prefix_batch`.
        allowed: (rows, answers, longest, n_symbols) bool, the symbols allowed at each level of each answer.
        tokens: (n_symbols,) the model's token of each symbol.
        symbols: (rows, answers, longest) the symbol at each level, any value where there is none.
        temperature: divides the logits.
    """
    first, rest, head = *_states(model, batch), OutputHead(model)
    mask = batch["answers"] != IGNORE
    first_logits = head.of_tokens(first, tokens) / temperature
    rest_logits = torch.zeros(rest.shape[:3] + allowed.shape[3:], device=rest.device)
    rest_logits[mask[..., 1:]] = head.of_tokens(rest[mask[..., 1:]], tokens) / temperature
    logits = torch.cat([first_logits[:, None, None].expand(-1, rest.shape[1], 1, -1), rest_logits], 2)
    logits = logits.masked_fill(~allowed & mask[..., None], -torch.inf)
    chosen = logits.gather(3, symbols[..., None])[..., 0]
    return torch.where(mask, chosen - logits.logsumexp(3), 0.0)


def _states(model: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Last hidden states: (rows, width) at the end of each prompt; (rows, answers, longest - 1, width) in answers."""
    inner = unwrap_peft(model)
    positions = batch["position_ids"]
    mask = Attention(inner).mask(visible(batch["segments"]), positions, positions)
    hidden = inner.get_decoder()(
        input_ids=batch["input_ids"], position_ids=positions, attention_mask=mask, use_cache=False
    ).last_hidden_state
    row = torch.arange(len(hidden), device=hidden.device)
    return hidden[row, batch["prompt_ends"]], hidden[row[:, None, None], batch["columns"]]
