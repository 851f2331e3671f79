"""The notebook of the tour runs from top to bottom."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import llmrec
from llmrec import resources
from llmrec.evaluate.files import read_metrics
from llmrec.run.layout import RunFolder

TOUR = Path(__file__).parent.parent / "docs" / "tour.ipynb"


def printed(notebook: nbformat.NotebookNode, words: str) -> list[str]:
    """Lines that the one cell with these words printed."""
    [cell] = [cell for cell in notebook.cells if cell.cell_type == "code" and words in cell.source]
    return "".join(part.text for part in cell.outputs if part.get("name") == "stdout").strip().splitlines()


@pytest.mark.slow("a whole notebook, 40 s")
def test_the_tour_runs_from_top_to_bottom_and_shows_what_its_run_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not all(resources.is_downloaded(name) for name in ("ml-100k", "minilm-l6")):
        pytest.skip("MovieLens 100K and MiniLM are not in the cache: `llmrec setup` fetches them")
    monkeypatch.setenv("LLMREC_TOUR", str(tmp_path))
    notebook = nbformat.read(TOUR, as_version=4)
    NotebookClient(notebook, timeout=600, kernel_name="python3").execute()
    [run] = map(RunFolder, tmp_path.iterdir())
    assert run.report.is_file()
    figures = read_metrics(run.evaluation("test"))["systems"]
    for system, metrics in figures.items():
        [line] = [line for line in printed(notebook, "write_report(") if line.split()[0] == system]
        assert all(f"{name} {value['mean']:.3f}" in line for name, value in metrics.items())
    recommender = llmrec.load(run.path)
    titles, number = recommender.catalogue.titles, recommender.catalogue.item_number
    history = ["50", "181", "172"]
    shown = printed(notebook, "recommender = llmrec.load(")
    assert shown[0] == str([titles[number[item]] for item in history])
    lines = [f"{score:7.2f}  {titles[number[item]]}" for item, score in recommender.recommend(history, 10)]
    assert shown[1:] == lines
