"""`llmrec data show` and `list`: figures are those of the rows."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from llmrec.data.dataset import Dataset
from llmrec.data.sources import SOURCES


def run(*arguments: str) -> str:
    command = [sys.executable, "-m", "llmrec.cli.main", "data", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_show_plots_the_long_tail(tiny_run: Path) -> None:
    shares = json.loads(run("show", str(tiny_run), "--json"))["interactions by tenth of the items"]
    counts = np.sort(np.bincount(Dataset.load(tiny_run / "data").histories.items, minlength=40))[::-1]
    assert shares == pytest.approx([counts[n : n + 4].sum() / counts.sum() for n in range(0, 40, 4)], abs=1e-4)
    lines = [line for line in run("show", str(tiny_run)).splitlines() if "█" in line]
    assert len(lines) == 10
    assert [line.count("█") for line in lines] == [round(60 * share) for share in shares]


def test_list_names_every_source_with_its_terms() -> None:
    told = {one["source"]: one for one in json.loads(run("list", "--json"))}
    assert set(told) == set(SOURCES)
    assert all(one["licence"] and one["size"] for name, one in told.items() if name not in ("files", "synthetic"))
