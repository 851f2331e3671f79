"""Files are whole or absent; hashes know content and nothing else; a full disk is told in words."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from llmrec.errors import RunError
from llmrec.files import (
    atomic_file,
    atomic_folder,
    hash_file,
    hash_folder,
    hash_json,
    read_json,
    write_json,
    write_text,
)


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
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "a") as temporary:
        (temporary / "new").write_text("half")
        raise ZeroDivisionError
    assert names(tmp_path / "a") == ["old"]
    assert names(tmp_path) == ["a"]


def test_a_new_folder_takes_the_place_of_the_old_one_whole(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with atomic_folder(tmp_path / "a") as temporary:
            (temporary / name).write_text("")
    assert names(tmp_path / "a") == ["new"]


def test_what_a_killed_process_left_half_written_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / ".a.partial").mkdir()
    (tmp_path / ".a.partial" / "junk").write_text("half")
    with atomic_folder(tmp_path / "a") as temporary:
        (temporary / "b").write_text("")
    assert names(tmp_path / "a") == ["b"]


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("kind", [atomic_file, atomic_folder])
def test_a_disk_that_takes_no_more_is_told_in_words_and_nothing_is_left(kind, code: int, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"cannot write .*/a: .*--out DIR"), kind(tmp_path / "a"):
        raise OSError(code, os.strerror(code))
    assert names(tmp_path) == []


def test_an_unknown_failure_of_the_system_is_not_explained_away(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="Input/output"), atomic_file(tmp_path / "a"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))


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
