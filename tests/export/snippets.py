"""The code in a model card, so that tests can run it."""

from __future__ import annotations

import re
from pathlib import Path


def blocks(folder: Path) -> dict[str, str]:
    """The card's Python snippets, by the library that they are about."""
    found = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    return dict(zip(("llmrec", "vllm", "transformers"), found, strict=True))
