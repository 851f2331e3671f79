"""SASRec: a causal transformer over item vectors, trained with the softmax over all items.

Source: Kang and McAuley 2018, arXiv 1808.09781. As published it is trained with binary cross-entropy on one sampled
negative; with the softmax over all items it is far better (Klenitskiy and Vasilev 2023, arXiv 2309.07602), so that is
the baseline. We differ in norms before blocks, a start token before each history (so that an empty one has a
prediction), and a cosine schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from llmrec.collaborative.array_model import ArrayModel, Shape, torch_device
from llmrec.collaborative.factors import canonical
from llmrec.contracts import Memory, ScoreKind, Sequences, Sizes
from llmrec.recipe.collaborative import SasRecSpec
from llmrec.seed import stream

IGNORED = -100  # target of a position without one
ROWS = 256  # whose scores the loss computes at a time


class SasRec(ArrayModel):
    """Scores every item as the next one of a history by its last `window` items."""

    Spec = SasRecSpec
    score_kind: ScoreKind = "logits"
    spec: SasRecSpec
    network: SequenceNetwork

    def _fit(self, train: Sequences, progress: Callable[[float], None]) -> None:
        """Train on every item of every row; the state of torch's global generators does not change."""
        train, spec, rng = canonical(train), self.spec, stream(self.spec.seed, "sasrec")
        device = torch_device(spec.device, spec.kind)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(spec.seed)
            self.network = self._new_network().to(device).train()
            optimizer = torch.optim.AdamW(
                self.network.parameters(), lr=spec.learning_rate, weight_decay=spec.weight_decay
            )
            total = max(1, spec.epochs * -(-len(train) // spec.batch))
            schedule = torch.optim.lr_scheduler.OneCycleLR(
                optimizer, spec.learning_rate, total_steps=total + 1, pct_start=0.05, cycle_momentum=False
            )
            for epoch in range(spec.epochs):
                order = rng.permutation(len(train))
                for start in range(0, len(train), spec.batch):
                    rows = order[start : start + spec.batch]
                    loss = self.network.loss(*self._padded([train[int(row)] for row in rows]))
                    optimizer.zero_grad()
                    loss.backward()
                    nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
                    optimizer.step()
                    schedule.step()
                progress((epoch + 1) / spec.epochs)
        self.network.eval()

    @torch.inference_mode()
    def score(self, histories: Sequences) -> np.ndarray:
        """(rows, n_items) float32 logits."""
        scores, batch = np.empty((len(histories), len(self.items)), dtype=np.float32), self.spec.batch
        for start in range(0, len(histories), batch):
            stop = min(start + batch, len(histories))
            rows = [histories[row][-self.spec.window :] for row in range(start, stop)]
            # A placeholder for the item to come, so that the position before it reads the whole history.
            inputs, _ = self._padded([np.append(row, 0) for row in rows])
            last = self.network(inputs)[torch.arange(len(rows)), torch.tensor([len(row) for row in rows])]
            scores[start:stop] = self.network.logits(last).cpu().numpy()
        return scores

    def memory(self, sizes: Sizes, rows: int = 1024) -> Memory:
        """The network, its gradients and Adam's two moments; activations of a batch; logits of some rows."""
        spec = self.spec
        weights = (sizes.items + spec.window + 2) * (spec.width + 1) + spec.layers * 13 * spec.width**2
        batch = min(spec.batch, sizes.users)
        positions = batch * min(spec.window, max(1, sizes.events))
        activations = positions * (spec.layers * (80 * spec.width + 20 * spec.heads * spec.window) + 80 * spec.width)
        fit = 36 * weights + activations + 16 * ROWS * sizes.items + 500 * sizes.users + 24 * sizes.events
        scoring = min(spec.batch, rows) * (spec.window * spec.width * 60 + 8 * sizes.items)
        return Memory(fit, 4 * weights + scoring + 4 * rows * sizes.items)

    def item_vectors(self) -> np.ndarray:
        """(n_items, width) float32, the input and output vectors of the network."""
        return self.network.items.weight.detach().cpu().numpy()[: len(self.items)]

    def _new_network(self) -> SequenceNetwork:
        spec = self.spec
        return SequenceNetwork(len(self.items), spec.width, spec.layers, spec.heads, spec.window, spec.dropout)

    def _shapes(self) -> Mapping[str, Shape]:
        with torch.device("meta"):
            network = self._new_network()
        return {f"network.{name}": ("float32", *value.shape) for name, value in network.state_dict().items()}

    def _state(self) -> dict[str, np.ndarray]:
        return {f"network.{name}": value.cpu().numpy() for name, value in self.network.state_dict().items()}

    def _set_state(self, arrays: Mapping[str, np.ndarray]) -> None:
        with torch.device("meta"):
            self.network = self._new_network()
        state = {name.removeprefix("network."): torch.from_numpy(array.copy()) for name, array in arrays.items()}
        self.network.load_state_dict(state, assign=True)
        self.network.to(torch_device(self.spec.device, self.spec.kind)).eval()

    def _padded(self, rows: list[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Inputs (the start token, all items but the last) and targets, both (rows, positions).

        Rows are padded on the right; of a long one the last `window` + 1 items are kept.
        """
        clipped = [row[-self.spec.window - 1 :] for row in rows]
        longest = max(map(len, clipped))
        inputs, targets = np.zeros((len(clipped), longest), np.int64), np.full((len(clipped), longest), IGNORED)
        inputs[:, 0] = self.network.n_items
        for number, row in enumerate(clipped):
            inputs[number, 1 : len(row)] = row[:-1]
            targets[number, : len(row)] = row
        device = self.network.bias.device
        return torch.from_numpy(inputs).to(device), torch.from_numpy(targets).to(device)


class SequenceNetwork(nn.Module):
    """A causal transformer with one table of vectors for input and output; item `n_items` is the start token."""

    def __init__(self, n_items: int, width: int, layers: int, heads: int, window: int, dropout: float) -> None:
        super().__init__()
        self.n_items = n_items
        self.items = nn.Embedding(n_items + 1, width)
        self.positions = nn.Embedding(window + 1, width)
        self.blocks = nn.ModuleList(TransformerBlock(width, heads, dropout) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.bias = nn.Parameter(torch.zeros(n_items))
        for table in (self.items, self.positions):
            nn.init.normal_(table.weight, std=0.02)

    def forward(self, inputs: Tensor) -> Tensor:
        """(rows, positions) item numbers → (rows, positions, width); a position attends to itself and earlier ones."""
        states = self.dropout(self.items(inputs) + self.positions.weight[: inputs.shape[1]])
        for block in self.blocks:
            states = block(states)
        return self.norm(states)

    def logits(self, states: Tensor) -> Tensor:
        """(…, width) → (…, n_items)."""
        return functional.linear(states, self.items.weight[: self.n_items], self.bias)

    def loss(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy in nats over the positions with a target; logits are computed only for these."""
        supervised = targets != IGNORED
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16):
            states = self(inputs)[supervised].float()
        return softmax_loss(states, self.items.weight[: self.n_items], self.bias, targets[supervised])


class TransformerBlock(nn.Module):
    """Attention and a feed-forward network, each after a norm and with a residual connection."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads, self.rate = heads, dropout
        self.attention_norm, self.feed_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.project_in, self.project_out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.feed = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.dropout = nn.Dropout(dropout)

    def forward(self, states: Tensor) -> Tensor:
        """(rows, positions, width), causal."""
        rows, positions, width = states.shape
        projected = self.project_in(self.attention_norm(states))
        heads = projected.view(rows, positions, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = heads
        rate = self.rate if self.training else 0.0
        attended = functional.scaled_dot_product_attention(query, key, value, dropout_p=rate, is_causal=True)
        states = states + self.dropout(self.project_out(attended.transpose(1, 2).reshape(rows, positions, width)))
        return states + self.dropout(self.feed(self.feed_norm(states)))


class SoftmaxLoss(torch.autograd.Function):
    """`softmax_loss` and its gradients with respect to states, weight and bias.

    The usual loss reads and writes the scores of a batch, (rows, items) in float32, six times. Here the scores of a few
    rows at a time stay in the cache, and only the gradients, computed in the forward pass, are kept.
    """

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, precision: torch.dtype
    ) -> Tensor:
        low = weight.to(precision)
        loss, grad_states = states.new_zeros(()), torch.empty_like(states)
        grad_weight, grad_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        for start in range(0, len(states), ROWS):
            rows, target = states[start : start + ROWS].to(precision), targets[start : start + ROWS, None]
            logits = (rows @ low.T).float() + bias
            total = logits.logsumexp(1, keepdim=True)
            loss += (total - logits.gather(1, target)).sum()
            grad_logits = logits.sub_(total).exp_()
            grad_logits.scatter_add_(1, target, torch.full_like(target, -1, dtype=grad_logits.dtype))
            slope = grad_logits.to(precision)
            grad_states[start : start + ROWS] = slope @ low
            grad_weight += slope.T @ rows
            grad_bias += grad_logits.sum(0)
        ctx.save_for_backward(grad_states, grad_weight, grad_bias)
        return loss / len(states)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        scale = grad_outputs[0] / len(ctx.saved_tensors[0])
        return *(scale * gradient for gradient in ctx.saved_tensors), None, None


def softmax_loss(
    states: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, precision: torch.dtype = torch.bfloat16
) -> Tensor:
    """Mean cross-entropy in nats of states · weightᵀ + bias.

    Args:
        states: (rows, width) float32, at least one row.
        weight: (items, width) float32.
        bias: (items,) float32.
        targets: (rows,) int64 item of each row.
        precision: of the products; sums are in float32.
    """
    return SoftmaxLoss.apply(states, weight, bias, targets, precision)
