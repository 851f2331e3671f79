"""A data set that changed on disk is read again, wherever it was found."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmrec.files import read_json
from llmrec.recipe import Recipe
from llmrec.run import execute


def test_a_set_found_by_its_name_is_read_again_when_its_files_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "sets" / "ml-latest-small"
    folder.mkdir(parents=True)
    monkeypatch.setenv("LLMREC_DATA", str(tmp_path / "sets"))
    ratings = [f"{user},{film},4.0,{film}" for user in range(3) for film in range(4)]
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + "\n".join(ratings))
    (folder / "movies.csv").write_text("movieId,title,genres\n" + "".join(f"{film},F,Drama\n" for film in range(4)))
    recipe = Recipe.model_validate({"data": {"source": "ml-latest-small"}})
    made = tmp_path / "run" / "data" / "made.json"

    def counted() -> tuple[int, float]:
        execute.run(recipe, tmp_path / "run", until="data")
        return read_json(made)["facts"]["interactions"], made.stat().st_mtime_ns

    first = counted()
    assert first[0] == 12 and counted() == first
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + "\n".join(ratings[:-1]))
    assert counted()[0] == 11
    (folder / "movies.csv").write_text("movieId,title,genres\n" + "".join(f"{film},G,Drama\n" for film in range(4)))
    before = made.stat().st_mtime_ns
    assert counted()[1] > before
