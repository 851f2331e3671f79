"""Random numbers: one seed for a run, and an independent generator for every use of it."""

from __future__ import annotations

import random
import zlib

import numpy as np


def stream(seed: int, *names: str | int) -> np.random.Generator:
    """A random generator for one named use; generators of different names are independent."""
    return np.random.default_rng([seed, *(zlib.crc32(str(name).encode()) for name in names)])


def seed_everything(seed: int) -> None:
    """Seed the global generators of Python, NumPy and torch."""
    import torch

    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
