"""SASRec with the full softmax: a causal transformer over item vectors, scored against the whole catalogue.

Source: Kang and McAuley 2018, arXiv 1808.09781. As published it learns from one sampled negative by binary
cross-entropy; with the softmax over all items it is far stronger (Klenitskiy and Vasilev 2023, arXiv 2309.07602), so
that is the bar. We differ in norms before blocks, a start token that opens each history (so that an empty one has a
prediction), and a cosine schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from llmrec.collaborative.array_model import ArrayModel, Shape, torch_device
from llmrec.collaborative.factors import canonical
from llmrec.collaborative.transformer import IGNORED, ROWS, SequenceNetwork
from llmrec.contracts import Memory, ScoreKind, Sequences, Sizes
from llmrec.recipe.collaborative import SasRecSpec
from llmrec.seed import stream


class SasRec(ArrayModel):
    """Scores every item as the next one of a history, from the last `window` items of it."""

    Spec = SasRecSpec
    score_kind: ScoreKind = "logits"
    spec: SasRecSpec
    network: SequenceNetwork

    def _fit(self, train: Sequences, progress: Callable[[float], None]) -> None:
        """Learn from every item of every row. torch's global generators are left as they were."""
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
        """(n_items, width) float32, the rows that items enter and leave the network by."""
        return self.network.items.weight.detach().cpu().numpy()[: len(self.items)]

    def _new_network(self) -> SequenceNetwork:
        spec = self.spec
        return SequenceNetwork(len(self.items), spec.width, spec.layers, spec.heads, spec.window, spec.dropout)

    def _declared(self) -> Mapping[str, Shape]:
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
        """What is read (the start token, all items but the last) and what is predicted, both (rows, positions).

        Rows are padded at their end; of a long one the last `window` + 1 items are kept.
        """
        kept = [row[-self.spec.window - 1 :] for row in rows]
        longest = max(map(len, kept))
        inputs, targets = np.zeros((len(kept), longest), np.int64), np.full((len(kept), longest), IGNORED)
        inputs[:, 0] = self.network.n_items
        for number, row in enumerate(kept):
            inputs[number, 1 : len(row)] = row[:-1]
            targets[number, : len(row)] = row
        device = self.network.bias.device
        return torch.from_numpy(inputs).to(device), torch.from_numpy(targets).to(device)
