"""Answers are read strictly: surely a rating, or nothing."""

from __future__ import annotations

import pytest

from llmrec.errors import DataError
from llmrec.rate.answers import parse_rating
from llmrec.rate.ratings import RatingScale

STARS = RatingScale(1, 5, 1)
READ = {
    "4": 4, " 4\n": 4, "4.": 4, "4.0": 4, "4,0": 4, "4!": 4, "(4)": 4, "= 4": 4, "~4": 4, "**4**": 4, "'4'": 4,
    "about 4": 4, "four": 4, "Four stars.": 4, "one": 1, "one star": 1, "one and a half stars": 1.5, "3½": 3.5,
    "3 1/2": 3.5, "three and a half": 3.5, "4/5": 4, "4 / 5": 4, "3.5/5": 3.5, "4 out of 5": 4, "five out of five": 5,
    "2 of 5": 2, "5 stars out of 5": 5, "5/5 stars": 5, "4-star": 4, "rating of 3,5 stars": 3.5, "4,5": 4.5, "4.7": 4.7,
    "Rating: 4": 4, "The rating is 4.": 4, "I'd rate it 4 out of 5": 4, "I'd give Se7en (1995) 4 stars": 4,
    "Rating: 4 (because they liked 3 others)": 4, "4 - a great film": 4, "4\n\nExplanation: they saw 10 films": 4,
    "<think>5? no</think>3": 3, "★★★★": 4, "★★★★☆": 4, "⭐⭐⭐": 3, "４": 4, "4 4": 4,
}  # fmt: skip
NOT_READ = [
    "", "None", "N/A", "inf", "nan", "I cannot predict a rating.", "As a language model, I have no opinions.",
    "No one can say", "4-5", "4–5", "3 to 4", "4 or 5", "three to four", "between 3 and 4", "0", "6", "10", "-4", "−4",
    "8/10", "6/5", "4 out of 10", "4/5 or 3/5", "80%", "4+", "4th", "1st", "1e0", "4.5.1", "1,000", "1995", "4\n5\n3",
    "Toy Story 2: 4", "they saw 3 of them, 2 films twice", "★" * 7, "<think>4",
]  # fmt: skip


@pytest.mark.parametrize("answer", READ)
def test_a_rating_said_in_any_way_is_read(answer: str) -> None:
    assert parse_rating(answer, STARS) == READ[answer]


@pytest.mark.parametrize("answer", NOT_READ)
def test_what_is_not_surely_a_rating_is_not_guessed_at(answer: str) -> None:
    assert parse_rating(answer, STARS) is None


@pytest.mark.parametrize(
    ("answer", "scale", "rating"),
    [
        ("0.5", RatingScale(0.5, 5, 0.5), 0.5),
        ("87", RatingScale(1, 100, 1), 87),
        ("87/100", RatingScale(1, 100, 1), 87),
        ("87 out of 100", RatingScale(1, 100, 1), 87),
        ("4/5", RatingScale(1, 100, 1), None),
        ("101", RatingScale(1, 100, 1), None),
        ("0", RatingScale(0, 10, 1), 0),
        ("8/10", RatingScale(0, 10, 1), 8),
    ],
)
def test_other_scales_have_other_ratings(answer: str, scale: RatingScale, rating: float | None) -> None:
    assert parse_rating(answer, scale) == rating


@pytest.mark.parametrize("scale", [STARS, RatingScale(0.5, 5, 0.5), RatingScale(1, 100, 1), RatingScale(0, 10, 0.25)])
def test_every_rating_as_we_write_it_is_read_back(scale: RatingScale) -> None:
    assert [parse_rating(word, scale) for word in scale.labels] == scale.values.tolist()


@pytest.mark.parametrize("text", ["5", "a:b", "5:1", "1:5:0.3", "0:1000", "1:5:1:1", "1:nan", "1:5:0", "1:inf"])
def test_no_scale_is_told_in_words(text: str) -> None:
    with pytest.raises(DataError, match=r"--scale"):
        RatingScale.parse(text)


def test_liked_is_four_of_five_whatever_the_steps() -> None:
    assert (STARS.liked_from, RatingScale(0.5, 5, 0.5).liked_from, RatingScale(0, 10, 1).liked_from) == (4, 4, 8)
