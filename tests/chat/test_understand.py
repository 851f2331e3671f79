"""What is made of words, on the titles and genres of MovieLens 100K."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from llmrec.chat.store import FEW, CatalogueItem, Store
from llmrec.chat.titles import Titles
from llmrec.chat.understand import READ, Understanding
from llmrec.chat.words import key, words


def named(ears, text):
    """(title and year, whether it is liked, whether that is sure) of every mention."""
    things = ears.store.items
    found = ears.read(text).mentions
    return [
        (f"{things[one.match.items[0]].title} {things[one.match.items[0]].columns['year']}", one.liked, one.match.sure)
        for one in found
        if one.match.items
    ]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("I liked Toy Story and Heat", [("Toy Story 1995", True, True), ("Heat 1995", True, True)]),
        ("i liked toy story and heat", [("Toy Story 1995", True, True), ("Heat 1995", True, True)]),
        ("I hated Twister, it was boring", [("Twister 1996", False, True)]),
        ("Fargo was boring", [("Fargo 1996", False, True)]),
        ("liked the godfahter", [("Godfather, The 1972", True, True)]),
        ("I liked Sabrina (1954)", [("Sabrina 1954", True, True)]),
        ("Ich mag Toy Story", [("Toy Story 1995", True, True)]),
        ("something like Alien but funny", [("Alien 1979", True, True)]),
        ("nothing like Alien please", [("Alien 1979", False, True)]),
        ("I like the heat of summer", [("Heat 1995", True, True)]),  # a title and a word: taken as said after "like"
        ("what a speed, such heat", []),
        ("any drama?", []),
    ],
)
def test_titles_are_found_and_told_liked_from_not(ears, text, expected):
    assert named(ears, text) == expected


def test_every_title_in_quotes_is_that_item_or_asked_about_with_it(ears):
    keys = [key(thing.title) for thing in ears.store.items]
    for number in range(0, len(keys), 4):
        thing = ears.store.items[number]
        title = thing.title.replace('"', "")
        mentions = ears.read(f'I liked "{title}" a lot').mentions
        assert len(mentions) == 1 and number in ears.titles.exact(key(thing.title))
        match = mentions[0].match
        assert number in match.items if keys.count(keys[number]) <= 3 else match.items
        if match.sure:
            assert match.items[0] == number or ears.titles.alike([number, match.items[0]])


def test_titles_with_two_letters_swapped_are_found_or_asked_about_and_hardly_ever_taken_for_others(ears):
    draw = np.random.default_rng(0)
    found = wrong = 0
    chosen = [at for at in draw.permutation(len(ears.store)).tolist() if len(ears.store.items[at].title) > 7][:150]
    for number in chosen:
        title = ears.store.items[number].title
        at = int(draw.integers(1, len(title) - 2))
        typed = title[:at] + title[at + 1] + title[at] + title[at + 2 :]
        match = ears.titles.match(typed)
        found += number in match.items
        wrong += match.sure and match.items[0] != number and not ears.titles.alike([number, match.items[0]])
    assert found >= 0.95 * len(chosen) and wrong <= 0.02 * len(chosen)


def test_two_films_of_one_name_are_asked_about_and_a_year_decides(ears):
    asked = ears.read("I liked Sabrina").mentions[0].match
    assert len(asked.items) == 2 and not asked.sure
    assert {ears.store.items[at].columns["year"] for at in asked.items} == {"1954", "1995"}


def test_what_is_not_there_is_said_to_be_unknown(ears):
    mention = ears.read('I liked "Full Moonlight Serenade of the Frog"').mentions[0]
    assert mention.plain and not mention.match.items


@pytest.mark.parametrize(
    "text, wishes",
    [
        ("a comedy please", ["Comedy"]),
        ("something funny", ["Comedy"]),
        ("kids movies", ["Children's"]),
        ("science fiction or film noir", ["Sci-Fi or Film-Noir"]),
        ("a romantic comedy", ["Romance", "Comedy"]),
        ("no horror or war, but a comedy from the 90s", ["not Horror", "not War", "Comedy", "year 1990 to 1999"]),
        ("no horror, from the 90s", ["not Horror", "year 1990 to 1999"]),
        ("I don't like horror, I want comedies", ["not Horror", "Comedy"]),
        ("no horror. A western!", ["not Horror", "Western"]),
        ("anything but documentaries", ["not Documentary"]),
        ("not from the nineties", ["not year 1990 to 1999"]),
        ("between 1950 and 1960", ["year 1950 to 1960"]),
        ("before 1960", ["year at most 1959"]),
        ("newer than 1990", ["year 1990 or more"]),
        ("from 2050", ["year 2050"]),
        ("no newer than 1990 thriller", ["Thriller"]),
        ("2001: A Space Odyssey", []),  # a title, and no year
        ("I liked Speed", []),
    ],
)
def test_wishes_are_read_and_negations_kept(ears, text, wishes):
    read = [str(wish) for wish in ears.read(text).constraints]
    assert read == wishes if "no newer" not in text else "Thriller" in str(read)


def test_every_genre_is_a_wish_and_with_no_before_it_a_denial(ears):
    for value in ears.store.columns["genres"].holders:
        said = value.lower()
        assert [str(one) for one in ears.read(f"I want {said} films").constraints] == [value]
        assert [str(one) for one in ears.read(f"no {said} please").constraints] == [f"not {value}"]


def test_cards_are_spoken_of_by_number(ears):
    assert ears.read("I like 2, not 5").cards == {2: True, 5: False}
    assert ears.read("the first one is great").cards == {1: True}
    assert ears.read("something like the second one but funny").like_this == 2
    assert ears.read("like this but newer").like_this == 1 and ears.read("like this but newer").relations == ["newer"]
    assert ears.read("the last one please").cards == {-1: True}


@pytest.mark.parametrize(
    "text", ["asdf qwer zxcv", "!!!", "", "Je voudrais un film drôle", "给我推荐一部电影", "🎬" * 50]
)
def test_what_says_nothing_is_nothing(ears, text):
    assert ears.read(text).nothing


def test_a_long_message_is_read_in_part(ears):
    long = "I liked Toy Story. " + "and then some more words, Anna Belle Smith said " * 300
    assert len(long) > 10_000 > READ
    mentions = ears.read(long).mentions
    assert mentions[0].text == "Toy Story" and all(one.stop <= READ for one in mentions)


PIECES = ["no", "like", "the", "Heat", "1990s", "2", "comedy", "or", '"', "'", "(", ",", ".", "this", "newer", "7"]


@settings(max_examples=150, deadline=None)
@example(text='":"')
@given(st.text(max_size=300) | st.lists(st.sampled_from(PIECES)).map(" ".join))
def test_no_text_breaks_it(ears, text):
    read = ears.read(text)
    for mention in read.mentions:
        assert 0 <= mention.start <= mention.stop <= len(text)
        assert all(0 <= item < len(ears.store) for item in mention.match.items)


def test_brands_and_prices_of_a_shop_are_wishes_too():
    brands = [f"Maker{number}" for number in range(FEW + 5)] + ["Simple"]
    things = [
        CatalogueItem(f"p{at}", f"Cream {at} for hands", "", {"brand": brand, "price": 2.0 * at})
        for at, brand in enumerate(brands)
    ]
    store = Store("shop", things)
    ears = Understanding(store, Titles(store))
    assert [str(one) for one in ears.read("a cream by maker7 under $20").constraints] == ["Maker7", "price at most 20"]
    assert [str(one) for one in ears.read("a cream between 10 and 20 dollars").constraints] == ["price 10 to 20"]
    assert [str(one) for one in ears.read("at least 30 euros").constraints] == ["price 30 or more"]
    assert [str(one) for one in ears.read("something simple").constraints] == []  # a word, not the brand Simple
    assert [str(one) for one in ears.read("something from Simple").constraints] == ["Simple"]
    assert [str(one) for one in ears.read("something cheap").constraints] == [
        f"price at most {np.quantile(2.0 * np.arange(len(brands)), 0.25):g}"
    ]


def test_words_are_compared_without_case_accents_and_apostrophes():
    assert key("Children’s Café") == key("childrens CAFE") == ("childrens", "cafe")
    assert [word.start for word in words("a, bc")] == [0, 3]
