"""Somebody's own files: every kind is read alike, and every problem is told with its file and line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmrec.data.sources import RawData, read
from llmrec.errors import DataError
from llmrec.recipe import Data

EVENTS = [("u1", "i1", 100), ("u1", "i2", 200), ("u2", "i1", 300)]


def write(folder: Path, log: str, items: str = "item_id,title\ni1,one\ni2,two\n", name: str = "log.csv") -> Data:
    (folder / name).write_text(log)
    (folder / "items.csv").write_text(items)
    return Data(source="files", interactions=str(folder / name), items=str(folder / "items.csv"))


def of(source: Data, **changes: object) -> Data:
    return Data.model_validate(source.model_dump() | changes)


def rows(found: RawData) -> list[tuple[str, str, int]]:
    table = found.interactions
    return list(zip(*(table[name].to_pylist() for name in ("user_id", "item_id", "timestamp")), strict=True))


def separated(mark: str) -> str:
    return (
        mark.join(["user_id", "item_id", "timestamp"]) + "\n" + "".join(f"{mark.join(map(str, e))}\n" for e in EVENTS)
    )


def as_json() -> str:
    nested = [{"user_id": u, "item": {"about": {"id": i}}, "timestamp": t} for u, i, t in EVENTS]
    return "".join(json.dumps(line) + "\n" for line in nested)


@pytest.mark.parametrize("kind", ["csv", "tsv", "csv.gz", "CSV", "jsonl", "jsonl.gz", "ndjson", "parquet"])
def test_every_kind_of_file_gives_the_same_rows(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"log 1 [new].{kind}"  # a name that a shell or DuckDB could take for a pattern
    text = as_json() if "json" in kind else separated("\t" if kind == "tsv" else ",")
    if kind == "parquet":
        (tmp_path / "log.csv").write_text(text)
        duckdb.sql(f"COPY (FROM '{tmp_path / 'log.csv'}') TO '{path}' (FORMAT parquet)")
    else:
        path.write_bytes(gzip.compress(text.encode()) if kind.endswith("gz") else text.encode())
    source = of(write(tmp_path, "", name="unused.csv"), interactions=str(path))
    if "json" in kind:
        source = of(source, columns={"item_id": "item.about.id", "item_key": "item_id"})
    assert rows(read(source)) == EVENTS


def test_lines_that_end_one_way_here_and_another_there_are_still_lines(tmp_path: Path) -> None:
    """What a line appended on another system looks like."""
    source = write(tmp_path, "")
    head, *rest = separated(",").splitlines()
    (tmp_path / "log.csv").write_bytes(f"{head}\r\n{rest[0]}\r\n{rest[1]}\n{rest[2]}\r\n".encode())
    assert rows(read(source)) == EVENTS
    (tmp_path / "log.csv").write_bytes(f"{head}\r\n{rest[0]}\r\n{rest[1]}\n{rest[2]}\r\nu\n".encode())
    with pytest.raises(DataError, match=r"log\.csv, line 5: Expected Number of Columns: 3 Found: 1"):
        read(source)


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_line_ends_and_byte_order_marks_change_nothing(end: str, mark: str, tmp_path: Path) -> None:
    source = write(tmp_path, "")
    (tmp_path / "log.csv").write_bytes((mark + separated(",").replace("\n", end)).encode())
    assert rows(read(source)) == EVENTS


def test_ids_that_are_numbers_here_and_text_there_are_text_without_quotes(tmp_path: Path) -> None:
    log = '{"user_id": 1, "item_id": "007", "timestamp": 1}\n{"user_id": "b", "item_id": "8", "timestamp": 2}\n'
    assert rows(read(write(tmp_path, log, name="log.jsonl"))) == [("1", "007", 1), ("b", "8", 2)]


@pytest.mark.parametrize(
    ("times", "seconds"),
    [
        (["1500000000", "1500000001.7"], [1_500_000_000, 1_500_000_001]),
        (["1500000000000", "1500000001999"], [1_500_000_000, 1_500_000_001]),
        (["1500000000000000", "1500000001000000"], [1_500_000_000, 1_500_000_001]),
        (["2017-07-14T02:40:00Z", "2017-07-14T04:40:01+02:00"], [1_500_000_000, 1_500_000_001]),
        (["2017-07-14 02:40:00", "2017-07-14 02:40:01.9"], [1_500_000_000, 1_500_000_001]),
        (["1971-01-01", "1971-01-02"], [365 * 86400, 366 * 86400]),
    ],
    ids=["seconds", "milliseconds", "microseconds", "ISO with zones", "ISO without", "early dates"],
)
@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_times_are_seconds_however_they_are_written(
    times: list[str], seconds: list[int], kind: str, tmp_path: Path
) -> None:
    pairs = [("u", f"i{place}", time) for place, time in enumerate(times)]
    if kind == "csv":
        log = "user_id,item_id,timestamp\n" + "".join(f"{u},{i},{t}\n" for u, i, t in pairs)
    else:
        lines = ({"user_id": u, "item_id": i, "timestamp": float(t) if t[:4] == "1500" else t} for u, i, t in pairs)
        log = "".join(json.dumps(line) + "\n" for line in lines)
    found = read(write(tmp_path, log, name=f"log.{kind}"))
    assert found.interactions["timestamp"].to_pylist() == seconds
    assert found.unit == "seconds"


def test_without_times_the_order_of_the_file_is_the_order_of_time(tmp_path: Path) -> None:
    source = of(write(tmp_path, "user_id,item_id\nb,i2\na,i1\n"), columns={"timestamp": None})
    found = read(source)
    assert (rows(found), found.unit) == ([("b", "i2", 0), ("a", "i1", 1)], "position")


def test_a_missing_column_is_named_with_those_there_are_and_the_key_to_set(tmp_path: Path) -> None:
    source = write(tmp_path, "user,item_id,timestamp\nu,i1,1\n")
    with pytest.raises(DataError) as caught:
        read(source)
    message = str(caught.value)
    assert "log.csv has no column 'user_id'" in message
    assert "user, item_id, timestamp" in message
    assert "data.columns.user_id=NAME" in message


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "empty"), ("user_id,item_id,timestamp\n", "no rows below its header"), ("\n", "line 1: the first line must")],
    ids=["nothing", "header", "blank"],
)
def test_an_empty_file_is_called_empty(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=words):
        read(write(tmp_path, text))


HEADER = "user_id,item_id,timestamp\n"


@pytest.mark.parametrize(
    ("log", "told"),
    [
        (HEADER + "u,i1,1\nu,i2,soon\n", "log.csv, line 3: timestamp 'soon' does not parse"),
        (HEADER + 'u,"i\n1",1\nu,i2,soon\n', "log.csv, line 4: timestamp 'soon' does not parse"),
        (HEADER + 'u,"i\n1",1\nu,i2\n', "log.csv, line 4: Expected Number of Columns: 3 Found: 2"),
        (HEADER + "u,i1,1\n\n\nu,i2,1,9\n", "log.csv, line 5: Expected Number of Columns: 3 Found: 4"),
        (HEADER + "u,i1,1\n\nu,,1\n", "log.csv, line 4: item_id is missing"),
        (HEADER + "u,i1,1\n  ,i1,1\n", "log.csv, line 3: user_id is missing"),
        (HEADER + 'u,i1,1\nu,"i2,1\n', "log.csv, line 3: Value with unterminated quote found"),
        (
            HEADER.replace("\n", "\r\n") + "u,i1,1\r\nu,i2\r\n",
            "log.csv, line 3: Expected Number of Columns: 3 Found: 2",
        ),
    ],
    ids=["cell", "after newline", "short after newline", "long", "no item", "blank user", "quote", "windows"],
)
def test_a_row_that_does_not_parse_is_told_with_its_line(log: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(write(tmp_path, log))
    assert told in str(caught.value).splitlines()
    assert str(caught.value).endswith("drop them with data.max_bad_rows=1")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('{"user_id": "u", ', "log.jsonl, line 4: not JSON"),
        ('{"user_id": "u", "timestamp": 3}', "log.jsonl, line 4: item_id is missing"),
        (
            '{"user_id": "u", "item_id": "i1", "timestamp": "soon"}',
            "log.jsonl, line 4: timestamp 'soon' does not parse",
        ),
        ("{}", "log.jsonl, line 4: no field has a value"),
    ],
)
def test_a_json_line_that_does_not_parse_is_told_with_its_line(line: str, told: str, tmp_path: Path) -> None:
    good = '{"user_id": "u", "item_id": "i1", "timestamp": 1}\n'
    with pytest.raises(DataError) as caught:
        read(write(tmp_path, f"{good}{good}\n{line}\n", name="log.jsonl"))
    assert told in str(caught.value)


def test_bad_rows_are_dropped_as_many_as_the_recipe_allows_and_each_is_told(tmp_path: Path) -> None:
    log = HEADER + "u,i1,1\nu,i2\nu,i2,soon\nu,,4\nu,i2,5\n"
    source = write(tmp_path, log, items="item_id,title\ni1,one\n,nameless\ni2,two\n")
    with pytest.raises(DataError, match=r"4 row\(s\) do not parse \(data.max_bad_rows allows 3\)"):
        read(of(source, max_bad_rows=3))
    found = read(of(source, max_bad_rows=4))
    assert rows(found) == [("u", "i1", 1), ("u", "i2", 5)]
    assert found.items["item_id"].to_pylist() == ["i1", "i2"]
    assert [(row.kind, row.place) for row in found.dropped] == [
        ("malformed", "log.csv, line 3"),
        ("unparsed", "log.csv, line 4"),
        ("missing", "log.csv, line 5"),
        ("missing", "items.csv, line 3"),
    ]


def test_a_row_bad_in_two_columns_is_one_bad_row(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"1 row\(s\) do not parse"):
        read(write(tmp_path, HEADER + "u,i1,1\nu,i1,3\n,i1,soon\n"))


def test_a_column_named_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has the column 'item_id' more than once"):
        read(write(tmp_path, "user_id,item_id,item_id\nu,i,i\n"))


def test_an_unknown_kind_of_file_is_told_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no reader for '\.xlsx'\. Known: \.csv"):
        read(write(tmp_path, "x", name="log.xlsx"))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    source = of(write(tmp_path, separated(",")), items=str(tmp_path / "nowhere.csv"))
    with pytest.raises(DataError, match=r"there is no file .*nowhere\.csv"):
        read(source)


@pytest.mark.parametrize("name", ["log.parquet", "log.csv.gz", "log.jsonl.gz"])
def test_a_file_that_is_not_what_its_name_says_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{name} cannot be read"):
        read(write(tmp_path, separated(","), name=name))


def test_prepared_sets_say_which_variable_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLMREC_DATA", raising=False)
    with pytest.raises(DataError, match="export LLMREC_DATA=FOLDER"):
        read(Data(source="amazon-beauty-2014"))


def test_facts_count_rows_and_name_files(tmp_path: Path) -> None:
    from llmrec.data import dataset as data

    (tmp_path / "made").mkdir()
    facts = data.make(write(tmp_path, HEADER + "u,i1,1\nu,i2,2\nu,i1,3\n"), 0, tmp_path / "made")
    assert (facts["users"], facts["items"], facts["interactions"]) == (1, 2, 3)
    assert facts["files"] == "log.csv; items.csv"


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
def test_a_gz_that_was_cut_short_is_refused(kind: str, tmp_path: Path) -> None:
    events = "".join(f"u{n},i{n**7},{n}\n" for n in range(3000))
    text = HEADER + events if kind == "csv" else (HEADER + events).replace(",", "\t")
    if kind == "jsonl":
        text = "".join(json.dumps({"user_id": f"u{n}", "item_id": n**7, "timestamp": n}) + "\n" for n in range(3000))
    source = write(tmp_path, "", name=f"log.{kind}.gz")
    path = tmp_path / f"log.{kind}.gz"
    path.write_bytes(gzip.compress(text.encode())[: len(text) // 8])
    with pytest.raises(DataError, match=rf"log\.{kind}\.gz cannot be read"):
        read(source)


def test_a_title_of_a_million_letters_is_a_title(tmp_path: Path) -> None:
    found = read(write(tmp_path, HEADER + "u,i1,1\n", items=f"item_id,title\ni1,{'x' * 1_000_000}\n"))
    assert len(found.items["title"][0].as_py()) == 1_000_000


@pytest.mark.parametrize("packed", [False, True])
def test_a_quote_that_is_never_closed_takes_no_rows_along_in_silence(packed: bool, tmp_path: Path) -> None:
    log = (
        HEADER + "".join(f"u{n},i1,{n}\n" for n in range(20)) + 'u,"i2,1\n' + "".join(f"v{n},i1,1\n" for n in range(30))
    )
    source = write(tmp_path, log)
    if packed:
        (tmp_path / "log.csv.gz").write_bytes(gzip.compress(log.encode()))
        source = of(source, interactions=str(tmp_path / "log.csv.gz"))
    with pytest.raises(
        DataError, match=r"line 22: a quote \(\"\) opens a value there that is never closed, so the 30 "
    ):
        read(of(source, max_bad_rows=1 << 40))


def test_lines_that_a_quote_takes_in_count_as_rows_that_do_not_parse(tmp_path: Path) -> None:
    log = HEADER + 'u,i1,1\nu,"i2,1\nu,i1,2\nu,i1,3\nv,i1"\nv,i1,9\n'
    with pytest.raises(DataError, match="4 row") as caught:
        read(write(tmp_path, log))
    assert 'log.csv, line 5: part of a value whose quote (") opens in line 3' in str(caught.value)
    assert rows(read(of(write(tmp_path, log), max_bad_rows=4))) == [("u", "i1", 1), ("v", "i1", 9)]


@pytest.mark.parametrize("line", ["[1, 2]", '"hello"', "7"])
def test_a_line_of_json_that_is_no_object_is_named(line: str, tmp_path: Path) -> None:
    text = as_json().splitlines()
    source = write(tmp_path, "\n".join([*text[:2], line, *text[2:]]) + "\n", name="log.jsonl")
    with pytest.raises(DataError, match=r"log.jsonl, line 3: .* is not an object with fields"):
        read(source)


def test_a_parquet_log_with_a_damaged_footer_is_one_known_error(tmp_path: Path) -> None:
    write(tmp_path, HEADER)
    pq.write_table(pa.table({"user_id": ["u"], "item_id": ["i1"], "timestamp": [1]}), tmp_path / "log.parquet")
    content = bytearray((tmp_path / "log.parquet").read_bytes())
    content[-60:-8] = b"\xff" * 52  # the magic and the length of the footer stay
    (tmp_path / "log.parquet").write_bytes(content)
    data = Data(source="files", interactions=str(tmp_path / "log.parquet"), items=str(tmp_path / "items.csv"))
    with pytest.raises(DataError, match=r"log\.parquet cannot be read"):
        read(data)
