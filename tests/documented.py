"""Blocks and commands of the documentation, for the tests that run them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(path: Path, language: str) -> list[str]:
    """The fenced blocks of a page that are in some language."""
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.M | re.S)


def commands(path: Path) -> list[str]:
    """Every line of every `sh` block of a page, without comments; a line that ends with \\ goes on."""
    text = "\n".join(blocks(path, "sh")).replace("\\\n", " ")
    lines = (re.sub(r"(^|\s+)#.*", "", line) for line in text.splitlines())
    return [re.sub(r"\s+", " ", line).strip() for line in lines if line.strip()]
