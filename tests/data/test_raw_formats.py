"""Raw formats as their makers describe them, written small by these tests, and read."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest

from llmrec.data import dataset as data
from llmrec.data.dataset import Dataset
from llmrec.data.raw import BadRow, Scan
from llmrec.data.sources import RawData, read
from llmrec.errors import DataError
from llmrec.recipe import Data


def rows(raw: RawData) -> list[dict[str, object]]:
    """The interactions, wherever they are, as rows."""
    if isinstance(raw.interactions, Scan):
        return (raw.interactions.db or duckdb).sql(raw.interactions.query).to_arrow_table().to_pylist()
    return raw.interactions.to_pylist()


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes the folder of a set in $LLMREC_DATA."""
    monkeypatch.setenv("LLMREC_DATA", str(tmp_path))
    monkeypatch.setenv("LLMREC_CACHE", str(tmp_path / "cache"))

    def make(name: str) -> Path:
        (tmp_path / name).mkdir(parents=True)
        return tmp_path / name

    return make


@pytest.mark.parametrize("inside", ["", "ml-1m"], ids=["folder", "as unpacked"])
def test_movielens_1m(inside: str, at_home: Callable[[str], Path]) -> None:
    folder = at_home("ml-1m") / inside
    folder.mkdir(exist_ok=True)
    (folder / "ratings.dat").write_bytes(b"1::1193::5::978300760\n1::73::3::978302109\n2::1193::4::978298413\n")
    films = (
        "1193::One Flew Over the Cuckoo's Nest (1975)::Drama\n73::Misérables, Les (1995)::Drama|Musical\n"
        '9::"Quoted": A Film (2000)::Comedy\n'
    )
    (folder / "movies.dat").write_bytes(films.encode("latin-1"))
    raw = read(Data(source="ml-1m"))
    assert rows(raw)[0] == {"user_id": "1", "item_id": "1193", "timestamp": 978300760, "rating": 5.0}
    assert raw.unit == "seconds" and "GroupLens" in raw.origin["licence"]
    assert raw.items.to_pylist() == [
        {"item_id": "1193", "title": "One Flew Over the Cuckoo's Nest", "year": "1975", "genres": "Drama"},
        {"item_id": "73", "title": "Misérables, Les", "year": "1995", "genres": "Drama, Musical"},
        {"item_id": "9", "title": '"Quoted": A Film', "year": "2000", "genres": "Comedy"},
    ]


def test_movielens_32m(at_home: Callable[[str], Path]) -> None:
    folder = at_home("ml-32m")
    (folder / "ratings.csv").write_text("userId,movieId,rating,timestamp\n1,17,4.0,944249077\n1,25,1.5,944250228\n")
    (folder / "movies.csv").write_text(
        'movieId,title,genres\n17,"Sense, and a Comma (1995)",Drama|Romance\n25,No Year,(no genres listed)\n'
    )
    raw = read(Data(source="ml-32m"))
    assert rows(raw)[1] == {"user_id": "1", "item_id": "25", "timestamp": 944250228, "rating": 1.5}
    titles = [(row["title"], row["year"]) for row in raw.items.to_pylist()]
    assert titles == [("Sense, and a Comma", "1995"), ("No Year", None)]


REVIEWS = {  # user u, item b, rating 4, 2014-07-01 08:00 UTC, "it works", "fine", as each edition writes it
    "amazon-reviews-2014": {
        "reviewerID": "u", "asin": "b", "reviewerName": "N", "helpful": [2, 3], "reviewText": "it works",
        "overall": 4.0, "summary": "fine", "unixReviewTime": 1404201600, "reviewTime": "07 1, 2014",
    },
    "amazon-reviews-2018": {
        "overall": 4.0, "vote": "5", "verified": True, "reviewTime": "07 1, 2014", "reviewerID": "u", "asin": "b",
        "style": {"DatasetSize:": " L"}, "reviewText": "it works", "summary": "fine", "unixReviewTime": 1404201600,
        "image": ["https://example.org/1.jpg"],
    },
    "amazon-reviews-2023": {
        "rating": 4.0, "title": "fine", "text": "it works", "images": [], "asin": "variant", "parent_asin": "b",
        "user_id": "u", "timestamp": 1404201600123, "helpful_vote": 0, "verified_purchase": True,
    },
}  # fmt: skip
ITEMS = {  # the same lamp, as each edition writes it
    "amazon-reviews-2014": {
        "asin": "b", "title": "Lamp &amp; Shade", "price": 12.5, "brand": "Lux", "salesRank": {"Home": 3},
        "categories": [["Home", "Lamps"], ["Gifts"]], "description": "It shines.", "related": {"also_bought": ["c"]},
    },
    "amazon-reviews-2018": {
        "category": ["Home", "Lamps"], "description": ["It", "<br />shines."], "title": "Lamp &amp; Shade",
        "brand": "Lux", "rank": ["#3 in Home"], "price": "$12.50", "asin": "b", "also_buy": ["c"], "details": {},
    },
    "amazon-reviews-2023": {
        "main_category": "Home", "title": "Lamp & Shade", "average_rating": 4.1, "features": ["bright"],
        "description": ["It shines."], "price": 12.5, "store": "Lux", "categories": ["Home", "Lamps"],
        "parent_asin": "b", "bought_together": None,
    },
}  # fmt: skip
NAMES = {
    "amazon-reviews-2014": ("reviews_Home_5.json", "meta_Home.json"),
    "amazon-reviews-2018": ("Home.json", "meta_Home.json"),
    "amazon-reviews-2023": ("Home.jsonl", "meta_Home.jsonl"),
}
LAMP = {
    "item_id": "b", "title": "Lamp & Shade", "brand": "Lux", "category": "Home > Lamps", "description": "It shines.",
    "price": 12.5,
}  # fmt: skip


def lines(edition: str, values: list[dict], items: bool = False) -> str:
    """Lines of a file: metadata of 2014 is Python, all else JSON."""
    as_python = items and edition == "amazon-reviews-2014"
    return "".join(f"{value!r}\n" if as_python else json.dumps(value) + "\n" for value in values)


def write(path: Path, text: str, zipped: bool = True) -> Path:
    if zipped:
        path = path.with_name(path.name + ".gz")
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


@pytest.mark.parametrize("zipped", [True, False], ids=["gz", "plain"])
@pytest.mark.parametrize("edition", REVIEWS)
def test_amazon_reviews_of_a_category(edition: str, zipped: bool, at_home: Callable[[str], Path]) -> None:
    folder = at_home(edition)
    for name, text in zip(
        NAMES[edition], (lines(edition, [REVIEWS[edition]]), lines(edition, [ITEMS[edition]] * 2, True)), strict=True
    ):
        write(folder / name, text, zipped)
    raw = read(Data.model_validate({"source": edition, "category": "Home"}))
    assert rows(raw) == [
        {
            "user_id": "u",
            "item_id": "b",
            "timestamp": 1404201600,
            "rating": 4.0,
            "review": "it works",
            "summary": "fine",
        }
    ]
    assert raw.items.to_pylist() == [LAMP]
    assert raw.dropped == [] and raw.unit == "seconds"


def test_amazon_files_may_be_several_and_named_in_the_recipe(tmp_path: Path) -> None:
    edition = "amazon-reviews-2023"
    for month in (1, 2):
        own = [REVIEWS[edition] | {"user_id": f"u{n}", "timestamp": 1404201600123 + n} for n in range(month, month + 3)]
        write(tmp_path / f"log-{month}.jsonl", lines(edition, own))
    meta = write(tmp_path / "meta.jsonl", lines(edition, [ITEMS[edition]]))
    given = {"interactions": str(tmp_path / "log-*.jsonl.gz"), "items": str(meta)}
    assert len(rows(read(Data.model_validate({"source": edition, **given})))) == 6


def test_a_metadata_row_against_an_earlier_one_is_left_out_and_told(at_home: Callable[[str], Path]) -> None:
    edition = "amazon-reviews-2018"
    folder = at_home(edition)
    write(folder / "Home.json", lines(edition, [REVIEWS[edition]]))
    write(folder / "meta_Home.json", lines(edition, [ITEMS[edition], ITEMS[edition] | {"title": "Another lamp"}]))
    raw = read(Data.model_validate({"source": edition, "category": "Home"}))
    assert raw.items.to_pylist() == [LAMP]
    expected = "item 'b' differs from its first row (meta_Home.json.gz, line 1)"
    assert raw.dropped == [BadRow("contradiction", "meta_Home.json.gz, line 2", expected)]


@pytest.mark.parametrize(
    ("price", "read_as"),
    [
        ("$1,234.50", 1234.5),
        ("from 14.99", 14.99),
        ("$3 - $9", 3.0),
        (".a-box{color:red}", None),
        ("", None),
        (None, None),
        ("—", None),
    ],
)
def test_prices_as_the_editions_write_them(
    price: object, read_as: float | None, at_home: Callable[[str], Path]
) -> None:
    edition = "amazon-reviews-2018"
    folder = at_home(edition)
    write(folder / "Home.json", lines(edition, [REVIEWS[edition]]))
    write(folder / "meta_Home.json", lines(edition, [ITEMS[edition] | {"price": price}]))
    assert read(Data.model_validate({"source": edition, "category": "Home"})).items["price"].to_pylist() == [read_as]


def test_broken_lines_are_told_with_their_line_and_counted_against_the_limit(at_home: Callable[[str], Path]) -> None:
    edition = "amazon-reviews-2014"
    folder = at_home(edition)
    whole, nobody = lines(edition, [REVIEWS[edition]]), lines(edition, [REVIEWS[edition] | {"reviewerID": None}])
    write(folder / "reviews_Home_5.json", whole + '{"reviewerID": "u", \n' + nobody + whole)
    write(folder / "meta_Home.json", lines(edition, [ITEMS[edition]], True) + "{'asin': nothing}\n{'title': 'x'}\n")
    wanted = {"source": edition, "category": "Home"}
    with pytest.raises(DataError, match=r"4 row\(s\) do not parse \(data.max_bad_rows allows 3\)"):
        read(Data.model_validate(wanted | {"max_bad_rows": 3}))
    raw = read(Data.model_validate(wanted | {"max_bad_rows": 4}))
    assert len(rows(raw)) == 2
    assert [(row.kind, row.place) for row in raw.dropped] == [
        ("malformed", "reviews_Home_5.json.gz, line 2"),
        ("missing", "reviews_Home_5.json.gz, line 3"),
        ("malformed", "meta_Home.json.gz, line 2"),
        ("malformed", "meta_Home.json.gz, line 3"),
    ]


@pytest.mark.parametrize("part", [0, 1], ids=["reviews", "metadata"])
def test_a_gz_that_was_cut_short_is_refused(part: int, at_home: Callable[[str], Path]) -> None:
    edition = "amazon-reviews-2023"
    folder = at_home(edition)
    texts = (lines(edition, [REVIEWS[edition] | {"text": str(n**7)} for n in range(3000)]),
             lines(edition, [ITEMS[edition] | {"parent_asin": str(n**7)} for n in range(3000)]))  # fmt: skip
    for number, (name, text) in enumerate(zip(NAMES[edition], texts, strict=True)):
        path = write(folder / name, text)
        if number == part:
            path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError, match=r"Home\.jsonl\.gz cannot be read: .* Fetch it again"):
        read(Data.model_validate({"source": edition, "category": "Home"}))


def test_a_title_of_a_million_letters_is_a_title(at_home: Callable[[str], Path]) -> None:
    edition = "amazon-reviews-2023"
    folder = at_home(edition)
    write(folder / "Home.jsonl", lines(edition, [REVIEWS[edition] | {"text": "y" * 1_000_000}]))
    write(folder / "meta_Home.jsonl", lines(edition, [ITEMS[edition] | {"title": "x" * 1_000_000}]))
    raw = read(Data.model_validate({"source": edition, "category": "Home"}))
    assert len(raw.items["title"][0].as_py()) == len(str(rows(raw)[0]["review"])) == 1_000_000


def test_without_a_category_or_its_files_the_next_step_is_told(at_home: Callable[[str], Path]) -> None:
    at_home("amazon-reviews-2014")
    with pytest.raises(DataError, match=r"needs data\.category=NAME"):
        read(Data(source="amazon-reviews-2014"))
    with pytest.raises(DataError, match="llmrec data fetch amazon-reviews-2014 --category Beauty"):
        read(Data(source="amazon-reviews-2014", category="Beauty"))
    with pytest.raises(DataError, match="Or fetch it: llmrec data fetch ml-32m"):
        read(Data(source="ml-32m"))


def test_a_raw_category_goes_through_to_histories(at_home: Callable[[str], Path], tmp_path: Path) -> None:
    edition = "amazon-reviews-2018"
    folder = at_home(edition)
    log = [REVIEWS[edition] | {"reviewerID": f"u{u}", "asin": f"b{(u + n) % 6}", "unixReviewTime": 1404201600 + n}
           for u in range(8) for n in range(5)]  # fmt: skip
    write(folder / "Home.json", lines(edition, log))
    write(folder / "meta_Home.json", lines(edition, [ITEMS[edition] | {"asin": f"b{n}"} for n in range(50)]))
    facts = data.make(Data.model_validate({"source": edition, "category": "Home", "k_core": 5}), 0, tmp_path)
    dataset = Dataset.load(tmp_path)
    assert (facts["users"], facts["items"]) == (8, 6)  # of a raw catalogue, items with events are kept
    assert dataset.interactions["review"].to_pylist() == ["it works"] * 40
