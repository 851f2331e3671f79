"""A run is written into a new or empty folder, or one that a run marked; nothing of anybody else's is ever replaced."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmrec.cli.main import main
from llmrec.errors import RunError
from llmrec.files import hash_folder
from llmrec.recipe_file import load
from llmrec.run import execute
from llmrec.run.layout import RunFolder
from llmrec.run.run_lock import lock

Call = Callable[..., tuple[int, str]]


def everything(folder: Path) -> dict[str, bytes | str]:
    """Every file and link below a folder → what it holds."""
    return {
        str(path.relative_to(folder)): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }


@pytest.fixture
def llmrec(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """The command line, in this process: exit code and messages."""

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["llmrec", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            main()
        return int(stop.value.code or 0), " ".join(capsys.readouterr().err.split())

    return call


@pytest.fixture(scope="module")
def made(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run up to its items; tests copy it."""
    return execute.run(load(world), tmp_path_factory.mktemp("made") / "run", "items")


def project(folder: Path, world: Path) -> Path:
    """A person's folder with a recipe and folders that are called like stages."""
    shutil.copytree(world.parent, folder)
    for name in ("data", "items", "train-1-sft"):
        (folder / name).mkdir()
        (folder / name / "mine.txt").write_text("kept")
    (folder / "train-1-sft" / "made.json").write_text('{"made": "by hand"}')
    return folder


@pytest.mark.parametrize("out", [".", "", "./", "data", "../project", "link", "data/.."])
def test_a_folder_with_files_of_somebody_else_is_left_as_it_is(
    out: str, llmrec: Call, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project(tmp_path / "project", world))
    Path("link").symlink_to("data")
    before = everything(tmp_path)
    for verb in ("run", "train"):
        code, err = llmrec(verb, "recipe.yaml", "--out", out)
        assert code == 2 and err.count("Error: ") == 1, err
        assert "--out" in err and "Traceback" not in err
    assert everything(tmp_path) == before


@pytest.mark.parametrize("name", ["mine.txt", ".git", ".lock", "recipe.yaml", "made.json", ".llmrec-partial"])
def test_one_file_makes_a_folder_somebody_else_s(name: str, world: Path, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / name).write_text("process 1 of mine")
    with pytest.raises(RunError, match=rf"has other files \({name}\) and is not a run"):
        execute.run(load(world), tmp_path / "run", "data")
    assert everything(tmp_path) == {f"run/{name}": b"process 1 of mine"}


def test_an_empty_folder_and_a_run_that_was_stopped_at_once_are_taken(world: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "stopped").mkdir()
    (tmp_path / "stopped" / ".lock").touch()
    for name in ("empty", "stopped"):
        assert (execute.run(load(world), tmp_path / name, "data") / "data" / "made.json").is_file()


@pytest.mark.parametrize("gone", [".lock", "data", "items", "data and items"])
def test_a_run_is_known_by_its_lock_or_by_a_stage(gone: str, made: Path, world: Path, tmp_path: Path) -> None:
    """As when it was copied without hidden files, or killed in its first stage."""
    run = Path(shutil.copytree(made, tmp_path / "run"))
    for name in gone.split(" and "):
        (run / name).unlink() if name == ".lock" else shutil.rmtree(run / name)
    execute.run(load(world), run, "items")
    assert hash_folder(run / "data") == hash_folder(made / "data")


@pytest.mark.parametrize("made_json", [None, "", "[]", "{", '{"key": 1}', "[" * 100_000, "9" * 5000])
def test_a_stage_without_our_mark_is_not_replaced(
    made_json: str | None, made: Path, world: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(made, tmp_path / "run"))
    shutil.rmtree(run / "items")
    (run / "items").mkdir()
    (run / "items" / "mine.txt").write_text("kept")
    if made_json is not None:
        (run / "items" / "made.json").write_text(made_json)
    before = everything(run)
    with pytest.raises(RunError, match=r"run/items is not a stage of a run .*Move it away"):
        execute.run(load(world, ["items.text=[title]"]), run, "items")
    assert everything(run) == before


@pytest.mark.parametrize("to", ["elsewhere", "nowhere", "items"])
def test_a_link_in_the_place_of_a_stage_is_not_followed_and_not_replaced(
    to: str, made: Path, world: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(made, tmp_path / "run"))
    shutil.move(run / "items", tmp_path / "elsewhere")
    (run / "items").symlink_to(tmp_path / to)
    before = everything(tmp_path)
    with pytest.raises(RunError, match="run/items is not a stage of a run"):
        execute.run(load(world, ["items.text=[title]"]), run, "items")
    assert everything(tmp_path) == before


def test_a_work_folder_that_is_a_link_is_refused(made: Path, world: Path, tmp_path: Path) -> None:
    """As in a folder that somebody sent: it could lead to another run, whose trained model would go."""
    run, other = (Path(shutil.copytree(made, tmp_path / name)) for name in ("run", "other"))
    shutil.copytree(made / "items", other / "train-1-sft")
    shutil.rmtree(run / ".work", ignore_errors=True)
    (run / ".work").symlink_to(other)
    before = everything(tmp_path)
    with pytest.raises(RunError, match=r"\.work is a link"):
        execute.run(load(world), run, "train")
    assert everything(tmp_path) == before


def test_what_a_person_put_into_a_run_outlives_it(made: Path, world: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made, tmp_path / "run"))
    for name in ("notes.txt", "train-my-notes/one.txt", "train-9-old/two.txt", "trained/three.txt", "train-1-x.txt"):
        (run / name).parent.mkdir(exist_ok=True)
        (run / name).write_text("kept")
    shutil.rmtree(run / "train-9-old")  # called like a stage, it would be refused: see above
    execute.run(load(world, ["items.text=[title]", "train.0.epochs=0.1", "evaluate.baselines=[]"]), run, "train")
    for name in ("notes.txt", "train-my-notes/one.txt", "trained/three.txt", "train-1-x.txt"):
        assert (run / name).read_text() == "kept"


def test_a_stage_of_another_plan_goes_and_a_link_to_one_stays(made: Path, world: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(made, tmp_path / "run"))
    shutil.copytree(made / "items", run / "train-2-sft")
    execute.run(load(world, ["train.0.epochs=0.1", "evaluate.baselines=[]"]), run, "train")
    assert not (run / "train-2-sft").exists()


@pytest.mark.parametrize("how", ["name", "link to the file", "link to the folder", "dots", "pattern"])
@pytest.mark.parametrize("key", ["interactions", "items"])
def test_a_recipe_that_reads_what_lies_in_its_run_is_refused(
    how: str, key: str, made: Path, world: Path, tmp_path: Path
) -> None:
    run = Path(shutil.copytree(made, tmp_path / "run"))
    file = world.parent / {"interactions": "log.csv", "items": "items.csv"}[key]
    shutil.copy(file, run / "items" / file.name)  # in a stage that is made anew
    place = run / "items" / file.name
    if how == "link to the file":
        (tmp_path / "link.csv").symlink_to(place)
        place = tmp_path / "link.csv"
    elif how == "link to the folder":
        (tmp_path / "away").symlink_to(run / "items")
        place = tmp_path / "away" / file.name
    elif how == "dots":
        place = tmp_path / "run" / "data" / ".." / "items" / file.name
    elif how == "pattern":
        place = tmp_path / "*" / "items" / f"{file.stem}*.csv"
    before = everything(run)
    with pytest.raises(RunError, match="is inside the run folder"):
        execute.run(load(world, [f"data.{key}={place}", "items.text=[title]"]), run, "items")
    assert everything(run) == before


def test_a_run_that_goes_on_from_itself_is_refused(made: Path, world: Path) -> None:
    with pytest.raises(RunError, match=r"model\.init_from .* is inside the run folder"):
        execute.run(load(world, [f"model.init_from={made}"]), made, "data")


def test_a_run_inside_a_stage_is_refused(made: Path, world: Path) -> None:
    for out in (made / "data" / "run", made / "items" / "a" / "b"):
        with pytest.raises(RunError, match=r"is inside .* a stage of a run"):
            execute.run(load(world), out, "data")
        assert not out.exists()


@pytest.mark.parametrize(
    "out",
    ["file", "file/below", "x" * 300, "dangling", "round", "round/below", "pipe", "socket", "/proc/self/run", "\udcff"],
)
def test_a_place_that_can_be_no_folder_is_one_message(out: str, llmrec: Call, world: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    os.mkfifo(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        here = Path.cwd()
        os.chdir(tmp_path)  # the name of a socket is short
        listening.bind("socket")
        os.chdir(here)
    before = everything(tmp_path)
    for verb in ("run", "train"):
        code, err = llmrec(verb, world, "--out", tmp_path / out)
        assert code == 2 and err.count("Error: ") == 1, err
        assert "Traceback" not in err
    assert everything(tmp_path) == before


@pytest.mark.parametrize(
    "out", ["~/run", "~nobody/run", "a'b", "a*b", "[a]", "{a}", "a b", "-a", "s3://a", "%a", "a;b"]
)
def test_a_run_is_written_where_it_is_said_whatever_the_name(
    out: str, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DuckDB and Arrow would take a name that begins with ~ for a home, and write there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    execute.run(load(world), Path(out), "data")
    assert (tmp_path / Path(out) / "data" / "interactions.parquet").is_file()
    assert [path.name for path in tmp_path.iterdir()] == [Path(out).parts[0]]


def test_a_home_that_the_shell_left_is_put_in(
    llmrec: Call, world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert llmrec("run", world, "--out=~/run", "--until", "data")[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["home"]
    code, err = llmrec("run", world, "--out=~nosuch/run", "--until", "data")
    assert code == 2 and "Write ./~nosuch/run" in err
    assert llmrec("run", world, "--out=./~nosuch/run", "--until", "data")[0] == 0
    assert (tmp_path / "~nosuch" / "run" / "data").is_dir()


def test_a_nul_in_a_name_is_one_message(world: Path) -> None:
    with pytest.raises(RunError, match="holds a NUL"):
        execute.run(load(world), Path("a\0b"), "data")


def test_the_lock_of_a_run_is_no_way_to_another_file(made: Path, world: Path, tmp_path: Path) -> None:
    """As in a folder that somebody sent: what a lock writes would cut the file that the link leads to."""
    run = Path(shutil.copytree(made, tmp_path / "run"))
    (tmp_path / "mine").write_text("kept")
    (run / ".lock").unlink()
    (run / ".lock").symlink_to(tmp_path / "mine")
    with pytest.raises(RunError, match="links"), lock(RunFolder(run)):
        pass
    assert (tmp_path / "mine").read_text() == "kept"


def test_made_json_of_every_version_marks_a_stage(tmp_path: Path) -> None:
    from llmrec.stage_record import is_stage

    known = {"recipe": {}, "inputs": {}, "output": "", "seed": 1, "facts": {}}
    for about, ours in ((known, True), (known | {"key": "", "peak": {}}, True), ({"recipe": {}}, False)):
        (tmp_path / "made.json").write_text(json.dumps(about))
        assert is_stage(tmp_path) is ours
