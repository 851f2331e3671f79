"""The notebook of the tour runs from top to bottom."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from llmrec import embedded

TOUR = Path(__file__).parent.parent / "docs" / "tour.ipynb"


def test_the_tour_runs_from_top_to_bottom_and_recommends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if not all(embedded.is_fetched(name) for name in ("ml-100k", "minilm-l6")):
        pytest.skip("MovieLens 100K and MiniLM are not in the cache: `llmrec setup` fetches them")
    monkeypatch.setenv("LLMREC_TOUR", str(tmp_path))
    notebook = nbformat.read(TOUR, as_version=4)
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    assert "TINY = True" in notebook.cells[1].source
    assert (tmp_path / "tour-tiny" / "report.html").is_file()
    printed = "".join(part.text for part in notebook.cells[-3].outputs if part.get("name") == "stdout")
    assert len(printed.strip().splitlines()) == 11  # the history, and ten items
