"""What a case may know: held against a walk through every event."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rate_world import data_of, world, write_ratings

from llmrec.errors import DataError, PromptError
from llmrec.rate import ratings as rated
from llmrec.rate.cases import build_cases, rating_templates, render_prompts, sample_cases
from llmrec.rate.rating_model import training_windows
from llmrec.rate.ratings import TEST, TRAIN, Ratings
from llmrec.recipe import Data


@pytest.mark.parametrize("split", rated.SPLITS)
def test_a_case_knows_what_a_walk_through_the_log_finds(tmp_path: Path, split: rated.RatingSplit) -> None:
    log = world(tmp_path, split)
    cases = sample_cases(log, TEST, None, 4, 0)
    for row, event in enumerate(cases.events):
        of_user = [e for e in range(len(log.values)) if log.users[e] == log.users[event]]
        known = [e for e in of_user if (log.parts[e] == TRAIN if split == "random" else e < event)]
        assert cases.known[row].tolist() == known
        assert [e for e in cases.history[row] if e >= 0] == [e for e in known if e < event][-4:]


@pytest.mark.parametrize("split", rated.SPLITS)
def test_nothing_held_out_is_read_but_users_and_items_of_cases(tmp_path: Path, split: rated.RatingSplit) -> None:
    """Every prompt, and every prediction of every baseline, stays when the test ratings that come last are changed."""
    from llmrec.rate.baselines import BASELINES

    log = world(tmp_path, split)
    last = {int(log.users[event]): event for event in np.flatnonzero(log.parts == TEST)}
    cases = build_cases(log, np.array(sorted(last.values())), 5)
    other = log.values.copy()
    other[cases.events] = 6 - other[cases.events]
    changed = Ratings(**{**vars(log), "values": other})
    assert render_prompts(changed, cases) == render_prompts(log, cases)
    for name, fit in BASELINES.items():
        if name != "small transformer":  # trained; its inputs are the same function's
            np.testing.assert_array_equal(fit(changed, 0).predict(cases), fit(log, 0).predict(cases), err_msg=name)


def test_a_temporal_split_has_one_moment_and_a_random_one_the_shares(tmp_path: Path) -> None:
    assert world(tmp_path / "a", "temporal").facts["split"] == "temporal"
    log = world(tmp_path / "b")
    assert np.isclose(np.mean(log.parts == TRAIN), 0.8, atol=0.05)
    assert len(sample_cases(log, TEST, 20, 3, 0)) == 20
    assert len(sample_cases(log, TEST, 10**6, 3, 0)) == len(sample_cases(log, TEST, None, 3, 0))


def test_orders_tell_the_same_ratings(tmp_path: Path) -> None:
    log = world(tmp_path)
    cases = sample_cases(log, TEST, 30, 6, 0)
    for order in ("newest first", "shuffled"):
        told = cases.with_history_order(order, 1)
        assert (np.sort(told.history) == np.sort(cases.history)).all()
        assert (told.history != cases.history).any()
    backwards = cases.with_history_order("newest first", 0).history
    full = (cases.history >= 0).all(axis=1)
    assert (backwards[full] == cases.history[full, ::-1]).all()


def test_prompts_name_history_candidate_and_scale_and_examples_are_solved(tmp_path: Path) -> None:
    log = world(tmp_path)
    cases = sample_cases(log, TEST, 5, 3, 0)
    for number in range(1, len(rating_templates()) + 1):
        prompt = render_prompts(log, cases, number)[0]
        shown = [
            f"- {log.titles[log.items[e]]} ({log.genres[log.items[e]]}): {log.values[e]:g}" for e in cases.history[0]
        ]
        assert "\n".join(shown) in prompt
        assert log.titles[log.items[cases.events[0]]] in prompt
        assert log.scale.description in prompt
    few = render_prompts(log, cases, shots=4)
    parts = few[0].split("\nAssistant: ")
    assert len(parts) == 5
    assert len({part.split("\n")[0] for part in parts[1:]} & set(log.scale.labels)) == 4  # one of each rating in turn
    assert all(prompt.startswith(few[0].rsplit("\nUser: ", 1)[0]) for prompt in few)
    with pytest.raises(PromptError, match=r"no template 9: it has 1 to 5"):
        render_prompts(log, cases, 9)
    with pytest.raises(PromptError, match="Lower --shots"):
        render_prompts(log, cases, shots=10**6)


@pytest.mark.parametrize("share", [0.05, 0.2, 1.0])
def test_a_share_of_the_training_ratings_is_that_share_and_part_of_a_larger_one(tmp_path: Path, share: float) -> None:
    log = world(tmp_path)
    chosen = training_windows(log, 7, share, 0)
    count = sum(map(len, chosen))
    assert share * len(log.train) <= count < share * len(log.train) + 7
    whole = np.concatenate(training_windows(log, 7, 1.0, 0))
    assert sorted(whole.tolist()) == log.train.tolist()
    assert np.concatenate(chosen).tolist() == whole[:count].tolist()


@pytest.mark.parametrize(
    ("shape", "values"),
    [((1, 5, 1), 5), ((0.5, 5, 0.5), 10), ((1, 100, 1), 100)],
)
def test_the_scale_is_found_in_the_ratings(tmp_path: Path, shape: tuple[float, float, float], values: int) -> None:
    recipe = write_ratings(tmp_path, *shape, users=300)
    found = rated.load_ratings(data_of(recipe), "random", 0).scale
    assert (found.low, found.high, found.step, len(found.values)) == (*shape, values)


def test_missing_ratings_are_told_and_if_that_many_may_be_left_out_and_counted(tmp_path: Path) -> None:
    data = data_of(write_ratings(tmp_path, spoil="missing"))
    with pytest.raises(DataError, match=r"(?s)160 row.*log\.csv, line 2: stars is missing"):
        rated.load_ratings(data, "random", 0)
    log = rated.load_ratings(data.model_copy(update={"max_bad_rows": 160}), "random", 0)
    assert log.facts["left out"] == {"malformed rows": 160}
    assert log.facts["ratings"] == 640


def test_events_that_a_prepared_source_left_unrated_are_left_out_and_counted(tmp_path: Path, monkeypatch: Any) -> None:
    """A set whose reader lets empty ratings through, as MovieLens' CSV reader does."""
    folder = tmp_path / "ml-latest-small"
    folder.mkdir()
    (folder / "movies.csv").write_text("movieId,title,genres\n1,A (1990),Drama\n2,B (1991),Comedy|Drama\n")
    rows = [
        f"{user},{film},{'' if user == 1 else film + 3},{user * 10 + film}" for user in (1, 2, 3) for film in (1, 2)
    ]
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n" + "\n".join(rows) + "\n")
    monkeypatch.setenv("LLMREC_DATA", str(tmp_path))
    log = rated.load_ratings(Data(source="ml-latest-small"), "random", 0)
    assert (log.facts["left out"], log.facts["ratings"]) == ({"without a rating": 2}, 4)
    assert (log.titles, log.genres) == (["A", "B"], ["Drama", "Comedy, Drama"])


@pytest.mark.parametrize(
    ("spoil", "scale", "words"),
    [
        ("outside", "1:5", "1 of 800 ratings are not on the scale of 1 .* is 99, by user 'u7' of item"),
        ("", "1:3", "ratings are not on the scale of 1 .worst. to 3 .best."),
        ("", "0.5:5.5", "not on the scale"),
    ],
)
def test_ratings_off_the_scale_are_told_with_user_and_item(tmp_path: Path, spoil: str, scale: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        rated.load_ratings(data_of(write_ratings(tmp_path, spoil=spoil)), "random", 0, scale)


def test_a_log_without_ratings_or_with_measurements_is_told_in_words(tmp_path: Path) -> None:
    recipe = write_ratings(tmp_path)
    recipe.write_text(recipe.read_text().replace(", columns: {rating: stars}", ""))
    with pytest.raises(DataError, match=r"carry no rating.*data\.columns\.rating"):
        rated.load_ratings(data_of(recipe), "random", 0)
    with pytest.raises(DataError, match="no steps of a scale"):
        rated.RatingScale.infer(np.random.default_rng(0).normal(size=500))
    with pytest.raises(DataError, match="up to 5 and then from 99 to 99, with nothing between"):
        rated.RatingScale.infer(np.array([1, 2, 3, 4, 5, 99]))
    with pytest.raises(DataError, match="up to 0 and then from 80 to 100"):
        rated.RatingScale.infer(np.array([0, 80, 90, 95, 100]))
    assert rated.RatingScale.infer(np.array([-1, 1])).values.tolist() == [-1, 1]  # two ratings are no slip
    with pytest.raises(DataError, match="every rating is 3"):
        rated.RatingScale.infer(np.full(9, 3.0))


def test_the_embedded_data_set_is_read_by_the_common_reader() -> None:
    log = rated.load_ratings(Data(source="ml-100k"), "random", 42)
    assert (log.facts["ratings"], log.scale.labels) == (100_000, ["1", "2", "3", "4", "5"])
    assert "Star Wars" in log.titles
    assert "Action, Adventure" in log.genres[log.titles.index("Star Wars")]


def test_ml_1m_is_read_by_the_common_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "ml-1m"
    folder.mkdir()
    (folder / "movies.dat").write_bytes(
        "1::Misérables, Les (1995)::Drama|Musical\n2::B (1991)::Comedy\n".encode("latin-1")
    )
    (folder / "ratings.dat").write_text(
        "".join(f"{u}::{i}::{1 + (u + i) % 5}::{u * 9 + i}\n" for u in range(9) for i in (1, 2))
    )
    monkeypatch.setenv("LLMREC_DATA", str(tmp_path))
    log = rated.load_ratings(Data(source="ml-1m"), "random", 0)
    assert (log.facts["ratings"], log.scale.labels) == (18, ["1", "2", "3", "4", "5"])
    assert (log.titles, log.genres) == (["Misérables, Les", "B"], ["Drama, Musical", "Comedy"])


@pytest.mark.parametrize("edition", ["2014", "2018", "2023"])
def test_amazon_ratings_are_read_by_the_common_reader(edition: str, tmp_path: Path, monkeypatch: Any) -> None:
    """Reviews and items in the words of each edition; the brand, or category, says of which kind an item is."""
    folder = tmp_path / f"amazon-reviews-{edition}"
    folder.mkdir()
    old = edition != "2023"
    user, item, stars, moment = (
        ("reviewerID", "asin", "overall", "unixReviewTime")
        if old
        else ("user_id", "parent_asin", "rating", "timestamp")
    )
    reviews = [
        {user: f"u{u}", item: f"b{i}", stars: 1.0 + (u * i) % 5, moment: 1_404_201_600 * (1 if old else 1000) + u}
        for u in range(9) for i in range(1, 3)
    ]  # fmt: skip
    items = [{item: f"b{i}", "title": f"Lamp {i}", "brand" if old else "store": "Lux"} for i in (1, 2)]
    names = {"2014": "reviews_Home_5.json", "2018": "Home.json", "2023": "Home.jsonl"}[edition]
    (folder / names).write_text("".join(json.dumps(review) + "\n" for review in reviews))
    meta = "meta_Home.json" + ("l" if edition == "2023" else "")
    (folder / meta).write_text("".join((repr(one) if edition == "2014" else json.dumps(one)) + "\n" for one in items))
    monkeypatch.setenv("LLMREC_DATA", str(tmp_path))
    data = Data.model_validate({"source": f"amazon-reviews-{edition}", "category": "Home"})
    log = rated.load_ratings(data, "temporal", 0)
    assert (log.facts["ratings"], log.scale.labels) == (18, ["1", "2", "3", "4", "5"])
    assert sorted(log.values.tolist()) == sorted(review[stars] for review in reviews)
    assert (sorted(log.titles), log.genres) == (["Lamp 1", "Lamp 2"], ["Lux", "Lux"])


def test_a_source_of_purchases_alone_names_sources_of_ratings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "amazon-beauty-2014"
    folder.mkdir()
    pq.write_table(pa.table({"user_id": ["u"], "item_id": ["b"], "timestamp": [1]}), folder / "interactions.parquet")
    pq.write_table(pa.table({"item_id": ["b"], "title": ["Lamp"]}), folder / "items.parquet")
    monkeypatch.setenv("LLMREC_DATA", str(tmp_path))
    with pytest.raises(DataError, match=r"carry no rating.* such as ml-100k or amazon-reviews-2014"):
        rated.load_ratings(Data(source="amazon-beauty-2014"), "random", 0)
