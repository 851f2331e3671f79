"""The speed of data: rows against plain loops, the long log in small, what is refused."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from pathlib import Path

import pytest

import data_peer
from data import Size, measure
from llmrec.errors import DataError


def test_rows_beside_the_peer_s_are_those_of_plain_loops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_peer, "PIECE", 100)
    data_peer.write_reviews(tmp_path, 3000)
    data_peer.prepare(tmp_path)
    log = [json.loads(line) for line in (tmp_path / "Bench.json").read_text().splitlines()]
    while True:
        counts = Counter(row["reviewerID"] for row in log) + Counter(row["asin"] for row in log)
        left = [row for row in log if counts[row["reviewerID"]] >= 5 and counts[row["asin"]] >= 5]
        if len(left) == len(log):
            break
        log = left
    had: dict[str, list[str]] = defaultdict(list)
    cases = []
    for row in sorted(log, key=lambda row: row["unixReviewTime"]):
        history = had[row["reviewerID"]]
        if history:
            cases.append((row["reviewerID"], " ".join(history[-10:]), row["asin"]))
        history.append(row["asin"])
    assert len(cases) > 1000 and max(map(len, had.values())) > 11
    bounds = [0, int(len(cases) * 0.8), int(len(cases) * 0.9), len(cases)]
    for split, first, last in zip(("train", "valid", "test"), bounds, bounds[1:], strict=False):
        lines = (tmp_path / "ours" / f"{split}.tsv").read_text().splitlines()
        assert sorted(tuple(line.split("\t")) for line in lines) == sorted(cases[first:last])


def test_a_log_goes_through_and_its_figures_are_written(tmp_path: Path) -> None:
    size = Size(events=20_000, users=500, memory=1.0)
    log, metrics = (measure(part, size, tmp_path, None, tmp_path) for part in ("log", "metrics"))
    found = json.loads(log.read_text())["figures"]
    assert found["interactions"] == 20_000 and 0 < found["kept"]["test users"] == found["test cases"] <= 1000
    assert json.loads(metrics.read_text())["figures"]["lists"] == 500


def test_a_peer_that_is_not_there_is_asked_for(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--peer must be a checkout of MiniOneRec"):
        measure("peer", Size(), tmp_path, tmp_path, tmp_path)
