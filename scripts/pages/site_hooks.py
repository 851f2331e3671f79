"""Hooks of mkdocs: what pages link to outside docs/ (README, results, recipes, …) is on the site, too."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
LINK = re.compile(r"\]\(([\w./-]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files of the repository that a page links to, and those that these pages link to."""
    waiting = sorted(Path(config.docs_dir).glob("*.md"))
    seen = set(waiting)
    while waiting:
        page = waiting.pop()
        for link in LINK.findall(page.read_text(encoding="utf-8")):
            target = (page.parent / link).resolve()
            if target in seen or not target.is_file() or not target.is_relative_to(ROOT):
                continue  # a link to nothing stays one, which `mkdocs build --strict` refuses
            seen.add(target)
            if not target.is_relative_to(config.docs_dir):
                files.append(File.generated(config, str(target.relative_to(ROOT)), abs_src_path=str(target)))
                waiting += [target] if target.suffix == ".md" else []
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """All pages lie side by side at the site's root, so links lose `../` and `docs/`."""
    return re.sub(r"\]\((?:\.\./|docs/)([\w./-]+)", r"](\1", markdown)
