"""The documentation builds without a broken link, and its references are those of the code."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def call(*arguments: object) -> subprocess.CompletedProcess[str]:
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run([sys.executable, *map(str, arguments)], cwd=ROOT, env=quiet, capture_output=True, text=True)


def test_the_site_builds_and_every_link_leads_somewhere(tmp_path: Path) -> None:
    built = call("-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site")
    assert built.returncode == 0, built.stderr
    pages = {path.stem for path in (ROOT / "docs").glob("*.md")} - {"index"}
    assert "How a run is organised" in (tmp_path / "site" / "index.html").read_text(), "the first page is docs/index.md"
    assert len(pages) > 10 and all((tmp_path / "site" / page / "index.html").is_file() for page in pages)


def test_a_link_to_nothing_is_an_error(tmp_path: Path) -> None:
    page = tmp_path / "docs" / "index.md"
    page.parent.mkdir()
    page.write_text("[there](../results/none.json)")
    config = (ROOT / "mkdocs.yml").read_text().split("nav:")[0]
    for old, new in (("docs_dir: docs", f"docs_dir: {page.parent}"), ("scripts/", f"{ROOT}/scripts/")):
        config = config.replace(old, new)
    (tmp_path / "mkdocs.yml").write_text(config)
    built = call("-m", "mkdocs", "build", "--strict", "-f", tmp_path / "mkdocs.yml", "--site-dir", tmp_path / "site")
    assert built.returncode != 0 and "results/none.json" in built.stderr


def test_the_references_of_commands_and_keys_are_those_of_the_code() -> None:
    checked = call("scripts/pages/reference.py", "--check")
    assert checked.returncode == 0, checked.stderr
