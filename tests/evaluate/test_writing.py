"""P5's text tasks end to end: a model trained on a world's reviews writes about held-out ones, and is measured."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from llmrec.data.dataset import Dataset
from llmrec.evaluate.task_evaluator import read_number
from llmrec.files import read_json
from llmrec.recipe import Recipe
from llmrec.report import write_report
from llmrec.run import execute
from llmrec.run.layout import RunFolder
from llmrec.tasks import templates

RECIPE = {
    "data": {"source": "synthetic", "synthetic": {"users": 40, "items": 30, "events": 8}},
    "items": {"encoder": "hashing"},
    "indexing": {"levels": 2, "width": 8},
    "tasks": {
        "mixture": "none",
        "next_item": 1,
        "explanation": 1,
        "review_title": 1,
        "review_rating": 1,
        "templates": 2,
    },
    "model": {"base": "nano", "width": 32, "layers": 1, "heads": 1, "vocabulary": 400},
    "train": [{"method": "sft", "epochs": 6, "batch": 16, "learning_rate": 5e-3}],
    "evaluate": {
        "ranking": ["hr@5"],
        "beams": 5,
        "baselines": ["popularity"],
        "generation": ["explanation", "review_title", "review_rating", "review_summary"],
        "generation_cases": 25,
    },
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return execute.run(Recipe.model_validate(RECIPE), tmp_path_factory.mktemp("writing") / "run")


def test_only_held_out_events_are_asked_about_in_a_wording_of_training(run: Path) -> None:
    asked = pq.read_table(run / "evaluate-test" / "writing.parquet")
    dataset = Dataset.load(run / "data")
    events = dataset.part("test")
    held_out = {
        (dataset.user_ids[user], dataset.item_ids[item]) for user, item in zip(events.rows, events.items, strict=True)
    }
    pairs = zip(asked["user_id"].to_pylist(), asked["item_id"].to_pylist(), strict=True)
    assert set(pairs) <= held_out
    for task in ("explanation", "review_title", "review_rating", "review_summary"):
        begins = templates.load(task).train[0].prompt.split("{")[0]
        prompts = [row["prompt"] for row in asked.to_pylist() if row["task"] == task]
        assert len(prompts) == 25 and all(prompt.startswith(begins) for prompt in prompts)


def test_figures_are_those_of_the_answers_that_were_written_down(run: Path) -> None:
    told = read_json(run / "evaluate-test" / "writing.json")
    rows = pq.read_table(run / "evaluate-test" / "writing.parquet").to_pylist()
    assert told["protocol"]["data"].startswith("synthetic data: its words are made up")
    titles = [row for row in rows if row["task"] == "review_title"]
    same = sum(row["wrote"] == row["answer"].strip() for row in titles) / len(titles)
    assert told["tasks"]["review_title"]["systems"]["model"]["the very words"] == pytest.approx(same)
    stars = [row for row in rows if row["task"] == "review_rating"]
    trained = [float(e["rating"]) for e in Dataset.load(run / "data").interactions.to_pylist() if e["split"] == "train"]
    mean = sum(trained) / len(trained)
    said = [read_number(row["wrote"]) for row in stars]
    errors = [(mean if n is None else n) - float(row["answer"]) for n, row in zip(said, stars, strict=True)]
    found = told["tasks"]["review_rating"]["systems"]
    assert found["model"]["rmse"] == pytest.approx((sum(e * e for e in errors) / len(errors)) ** 0.5, abs=1e-6)
    assert found["mean"]["mae"] == pytest.approx(
        sum(abs(mean - float(r["answer"])) for r in stars) / len(stars), abs=1e-5
    )


def test_the_page_tells_what_it_writes_and_that_the_words_are_made_up(run: Path) -> None:
    page = write_report(RunFolder(run)).read_text()
    assert "What it writes" in page and "its words are made up" in page


@pytest.mark.parametrize(("text", "number"), [("4", 4), (" 3.5 stars", 3.5), ("4,5", 4.5), ("none", None), ("", None)])
def test_a_number_is_read_from_an_answer(text: str, number: float | None) -> None:
    assert read_number(text) == number
