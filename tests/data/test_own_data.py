"""Files as people have them: what is seen in them, what is told of them, and that the readers cope."""

from __future__ import annotations

from pathlib import Path

import own_sets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmrec.data import recipe_generator
from llmrec.data.columns import profile_column, read_times
from llmrec.data.schema_inference import Schema, infer_schema, matches_name, words
from llmrec.data.sources import read
from llmrec.data.validate import ValidationReport, check
from llmrec.errors import DataError
from llmrec.recipe import Data


def plan(paths: list[Path]) -> tuple[Schema, Data]:
    """What `llmrec init --yes` decides about files."""
    found = infer_schema(paths)
    items = paths[0].parent / "derived.csv" if found.one_file else None
    if items:
        recipe_generator.derive_items(found, items, force=True)
    return found, recipe_generator.data_config(found, items)


def checked(paths: list[Path]) -> ValidationReport:
    found, data = plan(paths)
    return check(data, recipe_generator.text_columns(found))


EXPECTED = {
    "shop": ("Customer No.", "Article", "Order Date", "Article", "Article Name", ["Article Name", "Colour"]),
    "log": ("user.id", "event.item", "event.ts", "id", "name", ["name", "genres"]),
    "small": ("user_id", "book_id", None, "id", "title", ["title", "author"]),
}


@pytest.mark.parametrize("name", EXPECTED)
@pytest.mark.parametrize("turned", [False, True])
def test_columns_are_found_whatever_the_order_of_the_files(name: str, turned: bool, tmp_path: Path) -> None:
    paths = own_sets.SETS[name](tmp_path)
    found = infer_schema(paths[::-1] if turned else paths)
    assert (found.user, found.item, found.timestamp, found.key, found.title, found.text) == EXPECTED[name]


def test_contents_decide_where_names_say_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("a,b,c\n" + "".join(f"{n % 7},x{n % 5},{n}\n" for n in range(40)))
    (tmp_path / "b.csv").write_text("d,e\n" + "".join(f"x{n},A thing called {n}\n" for n in range(5)))
    asked: list[str] = []

    def ask(question: str, best: str, answers: list[str]) -> str:
        asked.append(question)
        return best

    found = infer_schema([tmp_path / "b.csv", tmp_path / "a.csv"], ask)
    assert (found.log.path.name, found.user, found.item, found.key, found.title) == ("a.csv", "a", "b", "d", "e")
    assert asked == ["Which column of a.csv is the user?"]


def test_files_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("user,item,time\nu,i,1\nu,j,2\n")
    (tmp_path / "b.csv").write_text("item,title\nx,one\ny,two\n")
    with pytest.raises(DataError, match="do not belong together"):
        infer_schema([tmp_path / "a.csv", tmp_path / "b.csv"])


def test_names_that_agree_weigh_more_than_numbers_that_happen_to(tmp_path: Path) -> None:
    rows = "".join(f"{user},{item},{item % 5 + 1}\n" for user in range(20) for item in range(8))
    (tmp_path / "a.csv").write_text("user,item,rating\n" + rows)
    (tmp_path / "b.csv").write_text("item,title\n1,One thing\n2,Another thing\n")  # all else is without text
    found = infer_schema([tmp_path / "a.csv", tmp_path / "b.csv"])
    assert (found.item, found.key, found.rating) == ("item", "item", "rating")


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("CustomerID", ["customer", "id"]),
        ("Customer No.", ["customer", "no"]),
        ("event.item", ["event", "item"]),
        ("userId", ["user", "id"]),
    ],
)
def test_names_are_taken_apart(name: str, parts: list[str]) -> None:
    assert words(name) == parts
    assert not matches_name("category", ("at",)), "short words must stand alone"


def test_the_shop_s_rows_are_all_read_but_the_broken_ones(tmp_path: Path) -> None:
    _, data = plan(own_sets.shop(tmp_path))
    with pytest.warns(UserWarning) as told:
        raw = read(data)
    assert {str(note.message).split(":")[0].split(",")[0] for note in told} == {"orders.csv"}
    # 900 orders, 9 written twice, and two lines that were put in broken, one with no customer, one with no date
    assert raw.interactions.num_rows == 909
    assert len(raw.dropped) == 3
    titles = dict(zip(raw.items["item_id"].to_pylist(), raw.items["title"].to_pylist(), strict=True))
    assert set(raw.items["Colour"].to_pylist()) == set(own_sets.COLOURS[:8])
    assert titles["A-003"] == "Käsebrett rot", "Latin letters of the old till and UTF-8 give the same title"
    assert titles["A-020"] == 'Salzstreuer "blau"\nmit Deckel'


def test_the_check_of_the_shop_names_lines(tmp_path: Path) -> None:
    (path,) = own_sets.shop(tmp_path)
    found = checked([path])
    lines = path.read_bytes().split(b"\n")
    by_kind = {problem.kind: problem for problem in found.problems}
    assert set(by_kind) == {"missing", "unparsed", "malformed", "encoding", "repeated"}
    for kind, start in {"missing": b"5001;;", "malformed": b"5000;00012;", "unparsed": b"5002;"}.items():
        line = int(by_kind[kind].places[0].split("line ")[1].split(":")[0])
        assert lines[line - 1].startswith(start)
    assert by_kind["repeated"].count == 9
    for place in by_kind["repeated"].places:
        line = int(place.split("line ")[1])
        assert lines[line - 1] == lines[line - 3]  # a blank line stands between
    assert any("semicolons" in note for note in found.notes)
    assert any("day-first dates, from 2023-01-01" in note for note in found.notes)


def test_the_check_of_the_log_knows_milliseconds_and_unknown_items(tmp_path: Path) -> None:
    found = checked(own_sets.log(tmp_path))
    assert {problem.kind for problem in found.problems} == {"missing", "malformed", "unknown"}
    assert any("milliseconds since 1970, from 2023-11-1" in note for note in found.notes)


def test_a_clean_set_has_no_problems(tmp_path: Path) -> None:
    assert checked(own_sets.small(tmp_path)).problems == []


def test_every_other_kind_of_problem_is_found(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(
        "user_id,item_id,timestamp,qty\n"
        + "".join(f"u{n % 3},{n % 5 + 1:03d},{1_500_000_000 + n},{n}\n" for n in range(30))
        + "u1,1,12,many\n"
    )
    (tmp_path / "items.csv").write_text(
        "item_id,title\n001,One\n002,\n003,Three\n004,Four\n005," + "x" * 600 + "\n003,Drei\n"
    )
    found = {problem.kind: problem for problem in checked([tmp_path / "log.csv", tmp_path / "items.csv"]).problems}
    assert set(found) == {"contradiction", "mixed", "unknown", "textless", "long", "times"}
    assert found["contradiction"].places == [
        "items.csv, line 7: item '003' differs from its first row (items.csv, line 4)"
    ]
    assert found["mixed"].places == ["log.csv, line 32: qty is 'many'"]
    assert "leading zeros" in found["unknown"].message
    assert found["unknown"].places == ["log.csv, line 32: item '1'"]
    assert found["textless"].places == ["items.csv, line 3: item '002'"]
    assert found["long"].places == ["items.csv, line 6: 600 characters"]
    assert found["times"].places == ["log.csv, line 32: timestamp '12' is read as 1970-01-01"]


@pytest.mark.parametrize("words", ["is missing", "does not parse", "differs from its first row", "not UTF-8"])
def test_words_in_a_file_do_not_decide_the_kind_of_a_problem(words: str, tmp_path: Path) -> None:
    log, items = tmp_path / f"log {words}.csv", tmp_path / "items.csv"
    rows = [f"u{n % 3};i {words};{1_500_000_000 + n}" for n in range(9)]
    rows += [f"u1;i {words};soon {words}", f";i {words};1500000000", "u1;a;1;too many"]
    log.write_text("user_id;item_id;timestamp\n" + "\n".join(rows) + "\n")
    items.write_text(f"item_id,title\ni {words},One\ni {words},Two\n")
    data = Data(source="files", interactions=str(log), items=str(items))
    found = {problem.kind: problem.count for problem in check(data, ["title"]).problems}
    assert found == {"missing": 1, "unparsed": 1, "malformed": 1, "contradiction": 1, "mixed": 1}


def test_a_column_of_words_about_dates_is_text(tmp_path: Path) -> None:
    words = pa.table({"c": ["it tells days from months", "days from months", "more days from months"]})
    assert profile_column(words, "c").kind == "text"
    assert profile_column(pa.table({"c": ["3/4/2021", "5/6/2021", "7/8/2021"]}), "c").kind == "time"


def column(*values: object) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values)])


@pytest.mark.parametrize(
    ("values", "day_first", "seconds"),
    [
        (("14.07.2017", "2017-07-14 02:40"), None, [1_499_990_400, 1_500_000_000]),
        (("14/7/2017 02:40:00",), None, [1_500_000_000]),
        (("7/14/2017 2:40 AM", "7/4/2017 2:40 PM"), None, [1_500_000_000, 1_499_179_200]),
        (("7/4/2017",), True, [1_491_523_200]),
        (("7/4/2017",), False, [1_499_126_400]),
        (
            ("14 July 2017", "Jul 14, 2017 02:40", "2017-07-14 02:40", "07 14, 2017", "of late"),
            None,
            [1_499_990_400, 1_500_000_000, 1_500_000_000, 1_499_990_400, None],
        ),
    ],
)
def test_dates_that_begin_with_days_or_months_or_name_them(
    values: tuple[str, ...], day_first: bool, seconds: list[int]
) -> None:
    assert read_times(column(*values), "f", "c", day_first).seconds.to_pylist() == seconds


def test_dates_that_could_be_either_are_asked_about() -> None:
    with pytest.raises(DataError, match=r"is ambiguous .*data\.day_first=true"):
        read_times(column("3/4/2021", "5/6/2021"), "f", "c")


ROWS = 'user_id{0}item_id{0}timestamp\nJosé{0}"i{0}1"{0}1\nu{0}i2{0}2\n'


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "cp1252"])
def test_delimiters_and_encodings_are_seen(mark: str, encoding: str, tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes(ROWS.format(mark).encode(encoding))
    (tmp_path / "items.csv").write_text("item_id,title\ni2,two\n")
    data = Data(source="files", interactions=str(tmp_path / "log.csv"), items=str(tmp_path / "items.csv"))
    if (mark, encoding) in ((",", "utf-8"), (",", "utf-8-sig")):
        found = read(data)
    else:
        with pytest.warns(UserWarning, match=r"log\.csv"):
            found = read(data)
    assert found.interactions["user_id"].to_pylist() == ["José", "u"]
    assert found.interactions["item_id"].to_pylist() == [f"i{mark}1", "i2"]


def test_an_encoding_can_be_given_and_must_fit(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_bytes("user_id,item_id,timestamp\nИван,i1,1\n".encode("cp1251"))
    (tmp_path / "items.csv").write_text("item_id,title\ni1,Ёлка\n", encoding="utf-8")
    data = Data(
        source="files", interactions=str(tmp_path / "log.csv"), items=str(tmp_path / "items.csv"), encoding="cp1251"
    )
    with pytest.warns(UserWarning, match="read as cp1251"):
        found = read(data)
    assert found.interactions["user_id"].to_pylist() == ["Иван"]
    assert found.items["title"].to_pylist() == ["Ёлка"]
    for wrong in ("shift_jis_2004", "latin-9000"):
        with pytest.raises(DataError, match=rf"data.encoding: {wrong} does not fit log.csv"):
            read(data.model_copy(update={"encoding": wrong}))


def test_whole_numbers_that_pandas_made_floats_are_ids_as_they_were(tmp_path: Path) -> None:
    table = pa.table({"user_id": [123456789012.0, None], "item_id": [7.0, 8.0], "timestamp": [1, 2]})
    pq.write_table(table, tmp_path / "log.parquet")
    (tmp_path / "items.csv").write_text("item_id,title\n7,seven\n")
    data = Data(
        source="files", interactions=str(tmp_path / "log.parquet"), items=str(tmp_path / "items.csv"), max_bad_rows=1
    )
    assert read(data).interactions.select(["user_id", "item_id"]).to_pylist() == [
        {"user_id": "123456789012", "item_id": "7"}
    ]


def test_nested_ids_of_mixed_kinds_have_no_quotes(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"u": {"id": 1}, "i": "a"}\n{"u": {"id": "007"}, "i": "a"}\n')
    (tmp_path / "items.csv").write_text("item_id,title\na,A\n")
    data = Data(
        source="files",
        interactions=str(tmp_path / "log.jsonl"),
        items=str(tmp_path / "items.csv"),
        columns={"user_id": "u.id", "item_id": "i", "item_key": "item_id", "timestamp": None},
    )
    assert read(data).interactions["user_id"].to_pylist() == ["1", "007"]


SHOP_ITEMS = "id,title\n" + "".join(f"{n},Thing number {n}\n" for n in range(9))


def own(folder: Path, log: str, items: str = SHOP_ITEMS) -> list[Path]:
    """A log and a catalogue, as files."""
    (folder / "log.csv").write_text(log)
    (folder / "items.csv").write_text(items)
    return [folder / "log.csv", folder / "items.csv"]


def test_a_log_without_a_header_is_refused(tmp_path: Path) -> None:
    rows = [f"u{n % 4},{n % 9},{1_700_000_000 + n}" for n in range(40)]
    with pytest.raises(DataError, match=r"log.csv, line 1: u0, 0, 1700000000: this looks like a row"):
        infer_schema(own(tmp_path, "\n".join(rows) + "\n"))
    assert infer_schema(own(tmp_path, "\n".join(["user,item,time", *rows]) + "\n")).user == "user"


def test_a_column_that_is_named_user_is_the_user_though_there_is_one(tmp_path: Path) -> None:
    rows = [f"u1,{n % 9},{1_700_000_000 + n % 7}" for n in range(20)]
    found = infer_schema(own(tmp_path, "\n".join(["user,item,time", *rows]) + "\n"))
    assert (found.user, found.timestamp) == ("user", "time")


def test_where_nobody_can_be_tested_that_is_a_problem(tmp_path: Path) -> None:
    rows = [f"u{n},{n % 9},{1_700_000_000 + n}" for n in range(20)]
    [problem] = checked(own(tmp_path, "\n".join(["user,item,time", *rows]) + "\n")).problems
    assert (problem.kind, problem.count) == ("short", 20)


def test_a_rating_that_is_not_all_numbers_is_told(tmp_path: Path) -> None:
    rows = [f"u{n % 3},{n % 9},{'3,5' if n % 2 else 4},{1_700_000_000 + n}".replace("3,5", '"3,5"') for n in range(20)]
    found = infer_schema(own(tmp_path, "\n".join(["user,item,rating,time", *rows]) + "\n"))
    assert found.rating is None
    assert "rating: not 'rating', since not all its values are numbers (such as '3,5')" in found.why


def test_ids_that_differ_in_what_other_programs_add_are_told(tmp_path: Path) -> None:
    rows = [f"u{n % 3},{n % 9}.0,{1_700_000_000 + n}" for n in range(20)]
    with pytest.raises(DataError, match=r"'item' and 'id' would without upper case, leading zeros or a final .0"):
        infer_schema(own(tmp_path, "\n".join(["user,item,time", *rows]) + "\n", SHOP_ITEMS.replace("\n", "\n00")[:-2]))
