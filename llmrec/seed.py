"""One seed for a run, and an independent stream of random numbers for every use of it."""

from __future__ import annotations

import random
import zlib

import numpy as np


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """A generator for one named use; streams of different names never share numbers."""
    return np.random.default_rng([seed, *(zlib.crc32(str(name).encode()) for name in names)])


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and torch, for code that draws from their global generators."""
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
