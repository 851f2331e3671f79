"""Ids, titles, notes and paths are printed as text: rich reads no markup in them, and a terminal no commands."""

from __future__ import annotations

import json
import re
import shutil
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.table import Table

from llmrec.cli import screen
from llmrec.cli.main import main
from llmrec.cli.screen import plain

Call = Callable[..., tuple[int, str, str]]
NASTY = [
    "[red]text[/red]",
    "[/]",
    "[/bold]",
    "[link=http://x]a[/link]",
    ":heart:",
    "a\x1b[31mb",
    "\x1b]0;title\x07",
    "\x9b2J",
]
NASTY += ["\r\b", "line\nError: forged", "\u202egnp.exe", "\udcff", "\\[x]", "[", "a\x00b", "\x7f"]


@pytest.fixture
def llmrec(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """The command line, in this process: exit code, output, messages."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["llmrec", *map(str, arguments)])
        monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
        monkeypatch.setenv("COLUMNS", "300")
        code = 0
        try:
            main()
        except SystemExit as stop:
            code = int(stop.code or 0)
        told = capsys.readouterr()
        return code, told.out, re.sub(r"\r?.*it/s\]\n?", "", told.err)  # bars of other libraries

    return call


def steers(text: str) -> set[str]:
    """Characters of an output that a terminal would obey."""
    return {char for char in text if char != "\n" and plain(char) != char}


@pytest.mark.parametrize("text", NASTY)
def test_text_stays_text_on_a_line_in_a_table_and_in_json(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("name", title=text, caption=text)
    table.add_column(text)
    table.add_row(text, text)
    screen.screen.print(f"id {plain(text)} end")
    assert capsys.readouterr().out == f"id {plain(text)} end\n"
    for printed in (text, table):
        screen.screen.print(printed, width=200)
        out = capsys.readouterr().out
        assert not steers(out)
        assert all(part in out for part in plain(text.split("\n")[0]).split())
    screen.say({"id": text})
    out = capsys.readouterr().out
    assert not steers(out)
    assert json.loads(out) == {"id": text}


def test_plain_leaves_ordinary_text_of_any_script_alone() -> None:
    for text in ("Amélie", "七人の侍\u3000完全版", "👩‍👩‍👧", "می‌خواهم", "שלום", "a [b] \\c {d}", "x\u00a0y"):
        assert plain(text) == text
    assert plain("a\x1bb\tc\nd") == "a\\x1bb\\tc\\nd"


@pytest.mark.parametrize("name", ["[red]mine", "[/]", "a\x1b[31mb", "\u202emine", ":heart:"])
def test_a_run_and_a_recipe_of_any_name_are_printed_by_it(
    name: str, llmrec: Call, world: Path, tiny_run: Path, tmp_path: Path
) -> None:
    here = tmp_path / name.replace("/", "∕") / "[bold]"  # a slash that may stand in a name
    shutil.copytree(world.parent, here)
    recipe = (here / "recipe.yaml").rename(here / f"{here.parent.name}.yaml")
    code, out, err = llmrec("run", recipe, "--until", "data", "--out", here / "run")
    assert code == 0, err
    assert not steers(out + err)
    assert f"{plain(here.parent.name)} → {plain(here)}" in err
    assert f"Done up to data: {plain(here)}" in err
    code, out, err = llmrec("recommend", here / "none", "--history", "i1")
    assert code == 2 and plain(here) in err and not steers(err)


@pytest.mark.parametrize("item", NASTY)
def test_an_item_that_is_not_known_is_named_as_text(item: str, llmrec: Call, tiny_run: Path) -> None:
    code, out, err = llmrec("recommend", tiny_run, "--history", f"i1,{item}")
    assert (code, len(out.splitlines())) == (0, 10), err
    assert "note: left out of the history" in err
    assert not steers(err)
    code, out, err = llmrec("recommend", tiny_run, "--user", item)
    assert code == 2 and "there is no user" in err and not steers(err)


@pytest.mark.parametrize("words", NASTY)
def test_an_override_and_a_name_that_cannot_be_are_quoted_as_text(words: str, llmrec: Call, world: Path) -> None:
    for arguments in ((world, f"{words}=1"), (words,), (world, f"data.since={words}"), (world, "--until", words)):
        code, _, err = llmrec("run", *arguments)
        assert code == 2 and err.count("Error: ") - err.count("\nError: forged") >= 1
        assert "Traceback" not in err and not steers(err)


VERBS = [
    *(("report", "{}"), ("evaluate", "{}"), ("train", "{}"), ("run", "{}"), ("run", "{}.yaml"), ("reproduce", "{}")),
    *(("recommend", "{}", "--history", "i1"), ("recommend", "{}", "--all-users", "--out", "o.parquet")),
    *(("export", "{}", "new"), ("index", "show", "{}"), ("index", "add", "{}", "items.csv"), ("data", "show", "{}")),
    *(("data", "check", "{}"), ("compare", "{}", "{}"), ("tasks", "show", "{}"), ("init", "{}")),
    ("rate", "--data", "{}.yaml"),
]  # fmt: skip


@pytest.mark.parametrize("verb", VERBS, ids=lambda verb: " ".join(verb))
def test_a_name_that_cannot_be_is_one_message_in_every_verb(
    verb: tuple[str, ...], llmrec: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("round").symlink_to("round")
    Path("file").write_text("kept")
    for name in ("x" * 300, "round", "round/below", "file/below", "\udcff", ""):
        code, out, err = llmrec(*(part.format(name) for part in verb))
        assert code == 2 and err.count("Error: ") == 1, (name, err)
        assert "Traceback" not in err and not steers(err) and not out
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "round"]


def test_titles_and_ids_of_a_file_are_text_in_every_verb(llmrec: Call, tmp_path: Path) -> None:
    ids = [
        f"{nasty}{number}"
        for number, nasty in enumerate(["[/]", "[red]", "\x1b[31m", ":heart:", "\u202e", "\x9b2J"] * 4)
    ]
    log = [{"user_id": f"[/]{user}", "item_id": ids[(user + place) % len(ids)], "timestamp": place}
           for user in range(20) for place in range(8)]  # fmt: skip
    lines = [json.dumps({"item_id": item, "title": f"Film {item}\x1b[2J[/]"}) for item in ids]
    (tmp_path / "[log].jsonl").write_text("\n".join(map(json.dumps, log)))
    (tmp_path / "items.jsonl").write_text("\n".join(lines))
    (tmp_path / "mine.yaml").write_text(
        "data: {source: files, interactions: '[log].jsonl', items: items.jsonl}\nitems: {encoder: hashing}\n"
        "indexing: {levels: 2, width: 4}\ntasks: {history: 4}\ntrain: [{epochs: 1, batch: 2, learning_rate: 1.0e-2}]\n"
        "launch: {report_to: []}\n"
        "model: {width: 64, heads: 2, layers: 1, vocabulary: 400}\nevaluate: {ranking: [hr@2], beams: 4}\n"
    )
    run = tmp_path / "run"
    for arguments in (
        ("run", tmp_path / "mine.yaml", "--out", run),
        ("recommend", run, "--user", "[/]1"),
        ("recommend", run, "--user", "[/]1", "--json"),
        ("index", "show", run),
        ("index", "compare", run, run),
        ("compare", run, run),
        ("report", run),
        ("data", "show", run),
        ("data", "check", tmp_path / "mine.yaml"),
        ("tasks", "show", run),
        ("evaluate", run),
    ):
        code, out, err = llmrec(*arguments)
        assert code in (0, 1), err
        assert not steers(out + err), arguments
