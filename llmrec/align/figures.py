"""Figures beside the loss: sums since they were last told, kept on the device."""

from __future__ import annotations

from torch import Tensor


class Figures:
    """Means over all rows that were added since they were last told."""

    def __init__(self) -> None:
        self.sums: dict[str, tuple[Tensor, int]] = {}

    def add(self, values: dict[str, Tensor]) -> None:
        """Take in values of any shape; each counts once. What has none is left out."""
        for name, value in values.items():
            if value.numel():
                total, count = self.sums.get(name, (0, 0))
                self.sums[name] = total + value.detach().float().sum(), count + value.numel()

    def told(self) -> dict[str, float]:
        """Name → mean, and a fresh start."""
        found = {name: float(total) / count for name, (total, count) in self.sums.items()}
        self.sums = {}
        return found
