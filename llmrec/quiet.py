"""Silence for what other packages print on the terminal: their bars and notes would tear ours apart."""

from __future__ import annotations

import logging
import os


def quieten() -> None:
    """Turn off bars and notes that are nothing to act on. Must be called before transformers is imported."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")  # transformers' Loading weights, Writing model shards
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # offers a kernel for CPUs that nothing of ours uses
