"""One row for a prompt and all the answers to it: every answer is a branch that sees the prompt and itself alone.

The prompt is computed once, however many answers stand against one another. A row holds the prompt, then each answer
but for its last token; positions go on from the prompt's end in every branch, and a mask keeps branches apart, so each
answer scores what it would score behind a prompt of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmrec.decode.scorer import Attention
from llmrec.model.logits import OutputHead, plain
from llmrec.train.loss import target_logprobs
from llmrec.train.packing import IGNORE

PADDING = -1  # the branch of what is no token


def plant(prompts: Sequence[np.ndarray], answers: Sequence[np.ndarray]) -> dict[str, Tensor]:
    """Rows of prompts and their answers.

    Args:
        prompts: (length,) tokens of each, at least one.
        answers: (answers, longest) tokens of those to each prompt, padded at the end by -1; an answer of -1 alone is
            none. All of one shape.

    Returns:
        input_ids, position_ids, branch: (rows, width) int64; the branch is 0 in the prompt, n in the n-th answer,
        PADDING behind the last. ends: (rows,) where each prompt ends. places: (rows, answers, longest - 1) where the
        tokens of each answer stand, but for its last. answers: (rows, answers, longest), IGNORE where there is none.
    """
    table = np.stack(answers)
    inside = table[..., 1:] >= 0  # a token stands in the row where another follows it
    lengths = np.array([len(prompt) for prompt in prompts])
    width = int((lengths + inside.sum((1, 2))).max())
    ids, places, branch = (np.full((len(prompts), width), fill, np.int64) for fill in (0, 0, PADDING))
    stands = np.zeros(inside.shape, np.int64)
    for row, prompt in enumerate(prompts):
        mine, level = np.nonzero(inside[row])
        parts = slice(len(prompt), len(prompt) + len(mine))
        ids[row, : len(prompt)], places[row, : len(prompt)], branch[row, : len(prompt)] = prompt, range(len(prompt)), 0
        ids[row, parts], places[row, parts] = table[row, mine, level], len(prompt) + level
        branch[row, parts], stands[row, mine, level] = mine + 1, np.arange(parts.start, parts.stop)
    found = {"input_ids": ids, "position_ids": places, "branch": branch, "ends": lengths - 1, "places": stands}
    return {name: torch.from_numpy(value) for name, value in found.items()} | {
        "answers": torch.from_numpy(np.where(table >= 0, table, IGNORE).astype(np.int64))
    }


def visible(branch: Tensor) -> Tensor:
    """(rows, width, width) bool, whether a token sees another: before it, in the prompt or in its own branch."""
    width = branch.shape[1]
    earlier = torch.ones(width, width, dtype=torch.bool, device=branch.device).tril()
    mine = (branch[:, None, :] == 0) | (branch[:, None, :] == branch[:, :, None])
    return mine & earlier


def answer_logprobs(model: Any, tree: dict[str, Tensor]) -> Tensor:
    """Log-probability of each token of each answer, over the whole vocabulary.

    Args:
        model: of transformers, or inside peft's.
        tree: as `plant` made it.

    Returns:
        (rows, answers, longest) float32 in nats; 0 where there is no token.
    """
    first, rest, answers = *_states(model, tree), tree["answers"]
    head = OutputHead(model)
    after = head(first).log_softmax(-1)
    begun = after.gather(1, answers[..., 0].clamp(min=0)) * (answers[..., 0] != IGNORE)
    wanted = answers[..., 1:] != IGNORE
    scores = target_logprobs(rest[wanted], answers[..., 1:][wanted], head)
    followed = torch.zeros(wanted.shape, device=scores.device).masked_scatter(wanted, scores)
    return torch.cat([begun[..., None], followed], 2)


def policy_logprobs(
    model: Any, tree: dict[str, Tensor], allowed: Tensor, tokens: Tensor, symbols: Tensor, temperature: float = 1.0
) -> Tensor:
    """As `answer_logprobs`, of the masked and renormalised policy: what constrained sampling draws from.

    Args:
        model: of transformers, or inside peft's.
        tree: as `plant` made it.
        allowed: (rows, answers, longest, n_symbols) bool, what may stand at each place of each answer.
        tokens: (n_symbols,) the model's token of each symbol.
        symbols: (rows, answers, longest) the symbol at each place, any where there is none.
        temperature: divides the logits.
    """
    first, rest, head = *_states(model, tree), OutputHead(model)
    states = torch.cat([first[:, None, None].expand(-1, rest.shape[1], 1, -1), rest], 2)
    there = tree["answers"] != IGNORE
    logits = torch.zeros(allowed.shape, device=states.device)
    spots = there.clone()
    spots[..., 0] = False
    logits[spots] = head.of_tokens(states[spots], tokens) / temperature
    begun = head.of_tokens(first, tokens) / temperature
    logits = torch.cat([begun[:, None, None].expand(-1, rest.shape[1], 1, -1), logits[:, :, 1:]], 2)
    logits = logits.masked_fill(~allowed & there[..., None], -torch.inf)
    chosen = logits.gather(3, symbols[..., None])[..., 0]
    return torch.where(there, chosen - logits.logsumexp(3), 0.0)


def _states(model: Any, tree: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Last hidden states: (rows, width) at the end of each prompt; (rows, answers, longest - 1, width) in answers."""
    inner = plain(model)
    sees, places = visible(tree["branch"]), tree["position_ids"]
    mask = Attention(inner).mask(sees, places, places)
    hidden = inner.get_decoder()(
        input_ids=tree["input_ids"], position_ids=places, attention_mask=mask, use_cache=False
    ).last_hidden_state
    row = torch.arange(len(hidden), device=hidden.device)
    return hidden[row, tree["ends"]], hidden[row[:, None, None], tree["places"]]
