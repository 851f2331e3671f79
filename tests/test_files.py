"""Files are whole or absent; hashes know content and nothing else; a full disk is told in words."""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmrec.errors import RunError
from llmrec.files import (
    atomic_file,
    atomic_folder,
    hash_file,
    hash_folder,
    hash_json,
    read_json,
    unusable,
    write_json,
    write_text,
)
from llmrec.stage_record import is_stage


def names(folder: Path) -> list[str]:
    """What a folder holds, hidden things as well."""
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "before")
    with pytest.raises(ZeroDivisionError), atomic_file(tmp_path / "a") as temporary:
        temporary.write_text("half of w")
        raise ZeroDivisionError
    assert (tmp_path / "a").read_text() == "before"
    assert names(tmp_path) == ["a"]


def test_a_folder_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "a") as temporary:
        (temporary / "old").write_text("before")
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "a", lambda folder: True) as temporary:
        (temporary / "new").write_text("half")
        raise ZeroDivisionError
    assert names(tmp_path / "a") == ["old"]
    assert names(tmp_path) == ["a"]


def test_a_new_folder_takes_the_place_of_the_old_one_whole(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with atomic_folder(tmp_path / "a", lambda folder: True) as temporary:
            (temporary / name).write_text("")
    assert names(tmp_path / "a") == ["new"]
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_folder_with_files_of_somebody_else_is_never_replaced(when: str, tmp_path: Path) -> None:
    def fill() -> None:
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "mine").write_text("kept")

    if when == "before":
        fill()
    with (
        pytest.raises(RunError, match=r"a holds files that llmrec is not known to have made"),
        atomic_folder(tmp_path / "a") as temporary,
    ):
        (temporary / "ours").write_text("")
        fill()
    assert (tmp_path / "a" / "mine").read_text() == "kept"
    assert names(tmp_path) == ["a"]


def test_links_files_and_devices_are_never_replaced_by_a_folder(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine").write_text("kept")
    for name, kind in (("link", "a link"), ("dangling", "a link"), ("file", "no folder"), ("pipe", "no folder")):
        path = tmp_path / name
        match name:
            case "link":
                path.symlink_to(tmp_path / "elsewhere")
            case "dangling":
                path.symlink_to(tmp_path / "nowhere")
            case "file":
                path.write_text("kept")
            case "pipe":
                os.mkfifo(path)
        with pytest.raises(RunError, match=f"{name} is {kind}, and is not replaced"), atomic_folder(path, bool):
            pass
    assert (tmp_path / "elsewhere" / "mine").read_text() == (tmp_path / "file").read_text() == "kept"


def test_a_failure_while_a_folder_is_replaced_puts_the_old_one_back(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old").write_text("before")
    with pytest.raises(FileNotFoundError), atomic_folder(tmp_path / "a", lambda folder: True) as temporary:
        shutil.rmtree(temporary)
    assert (tmp_path / "a" / "old").read_text() == "before"
    assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("ending", ["partial", "replaced"])
def test_what_a_killed_process_left_is_cleared_and_what_others_call_so_is_not(ending: str, tmp_path: Path) -> None:
    script = (
        "import os, pathlib, sys\nfrom llmrec.files import atomic_folder\n"
        "with atomic_folder(pathlib.Path(sys.argv[1])) as folder: (folder / 'half').touch(); os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", script, tmp_path / "killed"], check=False)
    assert names(tmp_path) == [".killed.partial"]
    (tmp_path / f".a.{ending}").mkdir()
    (tmp_path / f".a.{ending}" / "mine").write_text("kept")
    for name in ("a", "killed"):
        with atomic_folder(tmp_path / name) as temporary:
            (temporary / "b").write_text("")
        assert names(tmp_path / name) == ["b"]
    assert names(tmp_path) == [f".a.{ending}", "a", "killed"]
    assert (tmp_path / f".a.{ending}" / "mine").read_text() == "kept"


def test_a_file_takes_the_place_of_nothing_but_a_file(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name, kind in (("folder", "a folder"), ("pipe", "no regular file")):
        with pytest.raises(RunError, match=f"{name} is {kind}"):
            write_text(tmp_path / name, "new")
    assert names(tmp_path) == ["folder", "pipe"]


def test_a_name_that_cannot_be_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("kept")
    (tmp_path / "round").symlink_to(tmp_path / "round")
    for bad in ("x" * 300, "a\0b", "file/below", "round/below"):
        for kind in (atomic_file, atomic_folder):
            with pytest.raises(RunError, match="--out DIR"), kind(tmp_path / bad):
                pass
    assert names(tmp_path) == ["file", "round"]


def test_another_file_that_cannot_be_read_is_told_by_its_own_name(tmp_path: Path) -> None:
    words = r"^/elsewhere/log\.csv cannot be used: permission is denied"
    with pytest.raises(RunError, match=words), atomic_folder(tmp_path / "a"):
        raise OSError(errno.EACCES, "no", "/elsewhere/log.csv")


@pytest.mark.parametrize("kind", [atomic_file, atomic_folder])
@pytest.mark.parametrize("reader", ["Python", "NumPy", "Arrow"])
@pytest.mark.parametrize("place", ["data/loop", "loop", "a-loop", ".hidden/loop"])
def test_a_file_beside_what_is_made_is_named_where_it_cannot_be_read(place, reader, kind, tmp_path: Path) -> None:
    """Also where it lies in the same folder, as a stage does that another one reads."""
    read = {"Python": Path.read_bytes, "NumPy": np.load, "Arrow": pq.ParquetFile}[reader]
    loop = tmp_path / "run" / place
    loop.parent.mkdir(parents=True, exist_ok=True)
    loop.symlink_to(loop)
    with pytest.raises(RunError) as caught, kind(tmp_path / "run" / "a"):
        read(loop)
    assert str(caught.value).startswith(f"{loop} cannot be used: its links go round in a circle. See that ")


@pytest.mark.parametrize("name", ["part", "folder/part"])
def test_a_part_of_what_is_made_that_cannot_be_written_is_not_named_as_another_file(name, tmp_path: Path) -> None:
    with (
        pytest.raises(RunError, match=rf"cannot write {tmp_path}/a: .*--out DIR"),
        atomic_folder(tmp_path / "a") as made,
    ):
        (made / "folder").mkdir()
        (made / name).symlink_to(made / name)
        (made / name).write_text("")
    with pytest.raises(RunError, match=rf"cannot write {tmp_path}/file/b/a: a file is in the way"):
        (tmp_path / "file").write_text("")
        with atomic_folder(tmp_path / "file" / "b" / "a"):
            pass


def test_why_a_file_cannot_be_used_is_known_of_every_reader(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for read in (Path.read_bytes, np.load, pq.ParquetFile, lambda path: pa.memory_map(str(path))):
        with pytest.raises(OSError) as caught:
            read(tmp_path / "loop")
        assert unusable(caught.value) == f"{tmp_path}/loop cannot be used: its links go round in a circle."
    assert unusable(OSError(errno.EIO, os.strerror(errno.EIO), "a")) is None


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("kind", [atomic_file, atomic_folder])
def test_a_disk_that_takes_no_more_is_told_in_words_and_nothing_is_left(kind, code: int, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot write .*/a: .*--out DIR"), kind(tmp_path / "a"):
        raise OSError(code, os.strerror(code))
    assert names(tmp_path) == []


def test_an_unknown_failure_of_the_system_is_not_explained_away(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Input/output"), atomic_file(tmp_path / "a"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_stage_that_may_not_be_read_is_not_taken_for_something_else(tmp_path: Path) -> None:
    write_json(tmp_path / "made.json", {"inputs": {}, "output": "", "seed": 1, "facts": {}})
    assert is_stage(tmp_path)
    (tmp_path / "made.json").chmod(0)
    with pytest.raises(RunError, match=r"made\.json cannot be read \(Permission denied\)"):
        is_stage(tmp_path)


def test_json_that_is_missing_or_broken_says_which_file(tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"a\.json is missing"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_text("{")
    with pytest.raises(RunError, match=r"a\.json is not valid JSON"):
        read_json(tmp_path / "a.json")


def test_json_comes_back_and_refuses_what_json_cannot_say(tmp_path: Path) -> None:
    value = {"z": [1, 2.5, None, "é\u2028"], "a": {}}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", float("nan"))
    assert read_json(tmp_path / "a.json") == value


def test_hashes_are_of_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    assert hash_file(tmp_path / "a") == hashlib.sha256(b"content").hexdigest()
    assert hash_json({"a": 1, "b": 2}) == hash_json({"b": 2, "a": 1}) != hash_json({"a": 1, "b": 3})


def test_the_hash_of_a_folder_knows_names_and_contents_but_not_hidden_or_made_files(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a").write_text("1")
    first = hash_folder(tmp_path)
    for extra in (".hidden", "made.json", "sub/.x"):
        (tmp_path / extra).write_text("anything")
    os.utime(tmp_path / "sub" / "a", (0, 0))
    assert hash_folder(tmp_path) == first
    (tmp_path / "sub" / "a").rename(tmp_path / "a")
    assert hash_folder(tmp_path) != first


def test_a_result_takes_the_place_of_a_result_alone(tmp_path: Path) -> None:
    from llmrec.results.record import write_result

    for _ in range(2):
        write_result(tmp_path / "new.json", "python scripts/x.py", {"speed": 1})
    for content in ("{}", "[]", "3", "not JSON"):
        (tmp_path / "mine.json").write_text(content)
        with pytest.raises(RunError, match=r"mine\.json is "):
            write_result(tmp_path / "mine.json", "python scripts/x.py", {"speed": 1})
        assert (tmp_path / "mine.json").read_text() == content
