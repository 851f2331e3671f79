"""Hooks of mkdocs: add files outside docs/ that pages link to (README, results, recipes, …) to the site."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
README = ("README.md", "readme.md")  # mkdocs takes README.md for the site's first page, which is index.md
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
                name = str(target.relative_to(ROOT)).replace(*README)
                files.append(File.generated(config, name, abs_src_path=str(target)))
                waiting += [target] if target.suffix == ".md" else []
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Remove `../` and `docs/` from links, since all pages are at the site's root."""
    return re.sub(r"\]\((?:\.\./|docs/)([\w./-]+)", lambda match: f"]({match[1].replace(*README)}", markdown)
