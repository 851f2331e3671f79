"""The leaderboard says what results/ say, and every row of others has its paper and protocol."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

import leaderboard
from llmrec.files import read_json, write_json

ROOT = Path(__file__).parent.parent.parent


def test_the_committed_page_is_what_the_script_makes() -> None:
    page = (ROOT / "docs" / "leaderboard.md").read_text()
    assert page == leaderboard.page(ROOT), "results changed: type `python scripts/pages/leaderboard.py`"
    for link in re.findall(r"\]\((\.\./[^)]+)\)", page):
        assert (ROOT / "docs" / link).resolve().is_file(), link


def test_every_published_row_names_paper_split_and_where_it_was_read() -> None:
    told = yaml.safe_load((ROOT / "docs" / "published.yaml").read_text())
    assert set(told) <= set(leaderboard.SETS)
    for row in (row for rows in told.values() for row in rows):
        assert set(row) == {"system", "paper", "arxiv", "figures", "split", "picked", "seen", "read"}, row
        assert re.fullmatch(r"\d{4}\.\d{5}", row["arxiv"]), row
        assert len(row["figures"]) == 4 and all(one is None or 0 < one < 0.2 for one in row["figures"]), row
        assert any(row["figures"]), row


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout with one result of a recipe, and teachers."""
    (tmp_path / "docs").mkdir()
    shutil.copy(ROOT / "docs" / "published.yaml", tmp_path / "docs")
    interval = {"mean": 0.05, "low": 0.04, "high": 0.06}
    metrics = dict.fromkeys(leaderboard.SHOWN, interval)
    protocol = {"beams": 50, "exclude_seen": True, "users": 9, "items": 7}
    figures = {
        "protocol": protocol,
        "model": "nano",
        "systems": {
            "nano": metrics,
            "ease": metrics,
            "item-knn": dict.fromkeys(leaderboard.SHOWN, interval | {"mean": 0.03}),
        },
        "seeds": [{"seed": seed, "commit": "abc1234", "data hash": str(seed) * 32} for seed in (42, 43)],
    }
    told = {
        "recipe": {"name": "games-nano", "hash": "f" * 16, "yaml": "seed: 42\n"},
        "data": {"source": "amazon-games-2018", "hash": "d" * 64},
        "seeds": [42, 43],
        "looks": {"of this recipe": 2, "at this data": 5},
    }
    write_json(tmp_path / "results" / "games-nano.json", told | {"figures": figures})
    teachers = {
        "ease": {metric: {"mean": 0.0444, "low": 0.0433, "high": 0.0455} for metric in leaderboard.SHOWN},
        "markov": {"hr@10": {"mean": 0.06}, "ndcg@10": {"mean": 0.06}},
    }
    about = {"commit": "c0ffee1", "seed": 42, "data hash": "e" * 64}
    write_json(tmp_path / "results" / "teachers-amazon-games-2018.json", about | {"figures": teachers})
    return tmp_path


def test_own_rows_are_pinned_and_rows_stand_best_first(root: Path) -> None:
    page = leaderboard.page(root)
    assert "Beauty" not in page.split("## ", 1)[1], "a set without results is left out"
    table = [line.split(" | ")[0].strip("| *") for line in page.splitlines() if line.startswith("|")]
    assert table.index("Markov") < table.index("games-nano") < table.index("EASE")
    [pin] = [line for line in page.splitlines() if line.startswith("| games-nano | [games-nano](../recipes/")]
    assert "`ffffffffffff`" in pin and "| abc1234 | 42, 43 | 424242424242, 434343434343 | 2 of 5 |" in pin
    [ease, pin] = [line for line in page.splitlines() if line.startswith("| EASE |")]
    assert ".0444 | .0433 to .0455" in ease and "| c0ffee1 | 42 | eeeeeeeeeeee |" in pin, "as its own file has it"
    [knn, pin] = [line for line in page.splitlines() if line.startswith("| ItemKNN |")]
    assert ".0300 | .0400 to .0600" in knn and "| abc1234 |" in pin, "as the run has it that it was judged beside"
    assert "beams 50, items of the history left out, 9 users" in page


def test_a_result_of_some_users_or_of_another_rule_brings_no_teacher(root: Path) -> None:
    file = root / "results" / "games-nano.json"
    told = read_json(file)
    told["figures"]["protocol"]["exclude_seen"] = False
    write_json(file, told)
    assert "| EASE |" in leaderboard.page(root) and "ItemKNN" not in leaderboard.page(root)
    told["recipe"]["yaml"] = "data: {max_users: 100}\n"
    write_json(file, told)
    assert "games-nano" not in leaderboard.page(root).replace("games-nano.json", "")


def test_the_figure_shows_every_row_and_is_the_same_twice(root: Path) -> None:
    leaderboard.figures(root)
    file = root / "results" / "leaderboard-amazon-games-2018.svg"
    first = file.read_text()
    assert all(f">{name}<" in first for name in ("games-nano", "EASE", "Markov"))
    leaderboard.figures(root)
    assert file.read_text() == first


def test_ablations_beams_and_growth_stand_below_their_data_set(root: Path) -> None:
    metrics = {name: {"mean": 0.05, "low": 0.04, "high": 0.06} for name in ("hr@10", "ndcg@10")}
    worse = {"mean": -0.002, "low": -0.003, "high": -0.001, "p": 0.001}
    better = {"mean": 0.004, "low": 0.001, "high": 0.006, "p": 0.001}
    factors = {
        name: {"says": name, "metrics": metrics, "difference": dict.fromkeys(metrics, delta), "seconds": 12.4}
        for name, delta in (("more noise", worse), ("less noise", better))
    }
    about = {"source": "amazon-games-2018", "seed": 42, "protocol": {"users": 9}, "machine": {"device": "CPU"}}
    about["command"] = "python scripts/experiments/ablations.py games-nano"
    figures = {"base": metrics, "factors": factors, "same": [], "seconds": 10.0}
    write_json(root / "results" / "games-nano-ablations.json", about | {"figures": figures})
    stages = {"users": 4, "interactions": 20, "seconds": {"data": 1.2}, "peak MiB": {"data": {"memory": 99}}}
    write_json(root / "results" / "growth-games-nano.json", about | {"figures": {"0.25": stages}})
    ways = {"10": {"hr@10": 0.1, "ndcg@10": 0.05, "of the exact ten": 0.9, "seconds": 0.9}}
    write_json(root / "results" / "games-beams.json", about | {"users": 9, "figures": ways})
    page = leaderboard.page(root)
    assert "| less noise | .0500 | .0500 | +.0040 | +.0010 to +.0060 | 12 |" in page
    assert "| more noise | .0500 | .0500 | -.0020 | -.0030 to -.0010 | 12 |" in page
    assert "`python scripts/experiments/ablations.py games-nano`" in page
    assert page.index("less noise") < page.index("more noise")
    assert "| 4 | 20 | 1 s, 99 |" in page
    assert "| 10 | .1000 | .0500 | 0.900 | 100 |" in page
