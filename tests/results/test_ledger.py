"""Looks at test parts: each leaves a whole line, whoever writes at the same time or is killed, and none is left out."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from llmrec import provenance, resources
from llmrec.cli.main import main
from llmrec.errors import RunError
from llmrec.files import read_json
from llmrec.recipe_file import dump, fingerprint, load, shipped_name
from llmrec.results import ledger
from llmrec.results.record import collect
from llmrec.run import execute

SHUT = ["train.0.epochs=0.5", "evaluate.ranking=[hr@1,hr@5]", "evaluate.beams=5", "evaluate.split=valid"]
LINE = {"run": "r", "recipe hash": "0", "seed": 1, "data": {}, "metrics": {}, "figures": "f"}
WRITER = f"""
import sys
from pathlib import Path
from llmrec.results import ledger
for number in range(int(sys.argv[3])):
    ledger.append(Path(sys.argv[1]), {LINE!r} | {{"why": sys.argv[2] * 3000, "seed": number}})
"""


def writer(book: Path, name: str, lines: int) -> subprocess.Popen[bytes]:
    """A process that adds so many long lines to a ledger."""
    return subprocess.Popen([sys.executable, "-c", WRITER, str(book), name, str(lines)])


def test_lines_of_several_writers_at_once_are_all_there_and_whole(tmp_path: Path) -> None:
    book = tmp_path / "results" / "ledger.jsonl"
    writers = [writer(book, name, 40) for name in "abcd"]
    assert [one.wait() for one in writers] == [0] * 4
    found = {(line["why"], line["seed"]) for line in ledger.read(book)}
    assert found == {(name * 3000, number) for name in "abcd" for number in range(40)}


def test_a_killed_writer_leaves_whole_lines(tmp_path: Path) -> None:
    book = tmp_path / "ledger.jsonl"
    for kill in range(3):
        one, before = writer(book, "k", 100_000), book.stat().st_size if book.is_file() else 0
        while not book.is_file() or book.stat().st_size < before + 20_000:
            assert one.poll() is None
            time.sleep(0.001)
        time.sleep(0.003 * kill)
        one.send_signal(signal.SIGKILL)
        one.wait()
    assert len(ledger.read(book)) >= 15
    assert book.read_bytes().endswith(b"\n")


@pytest.mark.parametrize(
    ("broken", "words"),
    [
        ('{"run": "r", "se', "line 2 is not JSON"),
        ("[1, 2]", "line 2 records no test evaluation: it lacks everything"),
        ('{"run": "r"}', "it lacks date, by, recipe hash"),
    ],
)
def test_a_broken_line_is_named_and_does_not_break_the_next(broken: str, words: str, tmp_path: Path) -> None:
    book = tmp_path / "ledger.jsonl"
    ledger.append(book, LINE)
    with book.open("a") as file:
        file.write(broken)  # without an end, as a torn write leaves it
    ledger.append(book, LINE | {"seed": 2})
    with pytest.raises(RunError, match=words):
        ledger.read(book)
    lines = book.read_text().splitlines()
    assert lines[1] == broken
    assert json.loads(lines[2])["seed"] == 2


@pytest.fixture(scope="module")
def shut(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is judged on validation."""
    return execute.run(load(world, SHUT), tmp_path_factory.mktemp("shut") / "run", "evaluate")


def call(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    """The command line, in this process."""
    monkeypatch.setattr(sys, "argv", ["llmrec", *map(str, arguments)])
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def test_a_run_judged_on_validation_opens_its_test_part_only_into_the_ledger(
    shut: Path, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    book, looked = tmp_path / "ledger.jsonl", shut / "evaluate-test"
    assert read_json(shut / "evaluate-valid" / "metrics.json")["protocol"]["target"] == "valid"
    assert call(monkeypatch, "evaluate", shut, "--split", "test") == 2
    assert "keeps its test part closed" in capsys.readouterr().err.replace("\n", " ")
    book.write_text("{}\n")
    assert call(monkeypatch, "evaluate", shut, "--test", "--ledger", book) == 2
    assert not looked.exists(), "nothing is looked at that could not be written down"

    book.unlink()
    assert call(monkeypatch, "evaluate", shut, "--test", "--ledger", book, "--why", "to see", "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    [line] = ledger.read(book)
    assert line["metrics"]["hr@5"][0] == pytest.approx(shown["systems"]["nano"]["hr@5"]["mean"], abs=1e-6)
    assert (line["why"], line["seed"], line["beams"], line["exclude_seen"]) == ("to see", 7, 5, False)
    assert line["recipe hash"] == fingerprint(load(world, SHUT))

    when = (looked / "made.json").stat().st_mtime_ns
    assert call(monkeypatch, "evaluate", shut, "--test", "--ledger", book) == 0
    assert len(ledger.read(book)) == 1, "a look that is known is not taken again"
    assert (looked / "made.json").stat().st_mtime_ns == when
    other = tmp_path / "other.jsonl"
    ledger.evaluate_test(shut, other, "", lambda *done: None)
    assert len(ledger.read(other)) == 1, "a ledger that lacks the look gets it"


def test_where_no_ledger_can_be_nothing_is_looked_at(shut: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for book in (tmp_path, tmp_path / "file" / "ledger.jsonl"):
        with pytest.raises(RunError, match="no ledger can be written"):
            ledger.evaluate_test(shut, book, "", lambda *done: None)


def test_without_git_there_is_a_name_and_no_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert provenance.commit() != "unknown" or not (Path(__file__).parents[2] / ".git").exists()
    monkeypatch.setenv("PATH", "")
    provenance._described.cache_clear()
    assert provenance.commit() == "unknown"
    provenance._described.cache_clear()
    assert provenance.author()
    monkeypatch.setenv(provenance.COMMIT, "abc1234")
    assert provenance.commit() == "abc1234"


def test_the_test_part_gives_the_figures_of_a_recipe_that_is_judged_on_it(
    shut: Path, world: Path, tmp_path: Path
) -> None:
    ledger.evaluate_test(shut, tmp_path / "ledger.jsonl", "", lambda *done: None)
    open_run = execute.run(load(world, SHUT[:-1]), tmp_path / "open", "evaluate")
    mine, theirs = (
        read_json(folder / "metrics.json") for folder in (shut / "evaluate-test", open_run / "evaluate-test")
    )
    assert mine == theirs


def test_recipes_are_the_same_but_for_seed_launch_and_where_files_lie(world: Path) -> None:
    assert fingerprint(load(world)) == fingerprint(load(world, ["seed=9", "launch.master_port=30000"]))
    assert fingerprint(load(world)) == fingerprint(load(world, ["data.items=elsewhere/items.csv"]))
    assert fingerprint(load(world)) != fingerprint(load(world, ["tasks.history=9"]))
    assert shipped_name(fingerprint(load(resources.recipe_path("quickstart"), ["seed=3"]))) == "quickstart"
    assert shipped_name(fingerprint(load(world))) is None


@pytest.mark.parametrize("change", ["train.0.label_smoothing=0.1", "evaluate.baselines=[markov]", "tasks.history=7"])
def test_a_run_that_holds_stages_of_two_recipes_is_recorded_nowhere(
    change: str, shut: Path, world: Path, tmp_path: Path
) -> None:
    """A run that was stopped on its way to another recipe names that one, and was made by the one before."""
    run, book = tmp_path / "run", tmp_path / "ledger.jsonl"
    shutil.copytree(shut, run)
    ledger.evaluate_test(run, book, "", lambda *done: None)
    before = book.read_text()
    (run / "recipe.yaml").write_text(dump(load(run / "recipe.yaml", [change])))
    with pytest.raises(RunError, match="as when a run with changes was stopped"):
        collect([run], (), book)
    if not change.startswith("evaluate"):
        with pytest.raises(RunError, match="as when a run with changes was stopped"):
            ledger.evaluate_test(run, book, "", lambda *done: None)
    assert book.read_text() == before
