"""Fetching against a file server on this machine: resumed, checked, never half-used."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from llmrec.data import fetch as fetching
from llmrec.data.fetch import REGISTRY, download_folder, fetch
from llmrec.data.sources import read
from llmrec.errors import DataError
from llmrec.recipe import Data


@dataclass
class Shelf:
    """What a server gives, and what it was asked: path → bytes; `cuts` bytes after which a line breaks, once each."""

    files: dict[str, bytes] = field(default_factory=dict)
    cuts: list[int] = field(default_factory=list)
    asked: list[tuple[str, str]] = field(default_factory=list)
    address: str = ""


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shelf]:
    """A server of files that knows ranges, on a port of its own; the cache is in a folder of the test's."""
    monkeypatch.setenv("LLMREC_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LLMREC_DATA", raising=False)
    monkeypatch.setattr(fetching, "CHUNK", 64)
    shelf = Shelf()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            name = self.path.lstrip("/")
            shelf.asked.append((name, self.headers.get("Range", "")))
            if name not in shelf.files:
                self.send_error(404)
                return
            body = shelf.files[name]
            stamp = hashlib.md5(body).hexdigest()
            begin = (
                int(self.headers["Range"].removeprefix("bytes=").removesuffix("-")) if "Range" in self.headers else 0
            )
            same = self.headers.get("If-Range") == stamp
            self.send_response(206 if begin and same else 200)
            rest = body[begin:] if begin and same else body
            self.send_header("Content-Length", str(len(rest)))
            self.send_header("ETag", stamp)
            self.end_headers()
            self.wfile.write(rest[: shelf.cuts.pop(0)] if shelf.cuts and not name.endswith(".md5") else rest)

        def log_message(self, *words: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    shelf.address = f"http://127.0.0.1:{server.server_address[1]}"
    yield shelf
    server.shutdown()
    server.server_close()


def archive(extra: str = "") -> bytes:
    """ml-32m.zip, small."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as opened:
        ratings = "".join(f"{user},{film},4.0,{1000 + film}\n" for user in range(9) for film in range(9))
        opened.writestr("ml-32m/ratings.csv", f"userId,movieId,rating,timestamp\n{ratings}")
        opened.writestr(
            "ml-32m/movies.csv", "movieId,title,genres\n" + "".join(f"{n},F{n} (2000),Drama\n" for n in range(9))
        )
        opened.writestr("ml-32m/README.txt", "terms" + extra)
    return out.getvalue()


def publish(shelf: Shelf, body: bytes) -> None:
    shelf.files |= {
        "ml-32m.zip": body,
        "ml-32m.zip.md5": f"MD5 (ml-32m.zip) = {hashlib.md5(body).hexdigest()}".encode(),
    }


def test_an_archive_is_fetched_checked_unpacked_and_read(shelf: Shelf) -> None:
    publish(shelf, archive())
    told: list[float] = []
    folder = fetch("ml-32m", mirror=shelf.address, progress=lambda file, done: told.append(done))
    assert told == sorted(told) and told[-1] == 1
    assert sorted(path.name for path in folder.iterdir()) == ["fetched.json", "ml-32m"]
    assert read(Data(source="ml-32m")).items.num_rows == 9
    asked = len(shelf.asked)
    fetch("ml-32m", mirror=shelf.address)
    assert len(shelf.asked) == asked  # it is there: nobody is asked


def test_a_line_that_is_cut_is_taken_up_where_it_was(shelf: Shelf) -> None:
    publish(shelf, archive())
    shelf.cuts = [300, 200]
    fetch("ml-32m", mirror=shelf.address)
    assert shelf.asked[:3] == [("ml-32m.zip", ""), ("ml-32m.zip", "bytes=300-"), ("ml-32m.zip", "bytes=500-")]


def test_a_fetch_that_gave_up_goes_on_in_the_next_one(shelf: Shelf) -> None:
    publish(shelf, archive())
    shelf.cuts = [50] * fetching.TRIES
    with pytest.raises(DataError, match="repeat the command to resume"):
        fetch("ml-32m", mirror=shelf.address)
    assert not (download_folder("ml-32m") / "ml-32m").exists()
    fetch("ml-32m", mirror=shelf.address)
    assert ("ml-32m.zip", f"bytes={50 * fetching.TRIES}-") in shelf.asked


def test_a_file_that_changed_on_the_way_is_begun_again(shelf: Shelf) -> None:
    publish(shelf, archive())
    shelf.cuts = [50] * fetching.TRIES
    with pytest.raises(DataError):
        fetch("ml-32m", mirror=shelf.address)
    publish(shelf, archive(extra=" and more"))
    folder = fetch("ml-32m", mirror=shelf.address)
    assert (folder / "ml-32m" / "README.txt").read_text() == "terms and more"


def test_a_wrong_checksum_is_kept_aside_and_never_used(shelf: Shelf) -> None:
    publish(shelf, archive())
    shelf.files["ml-32m.zip"] = archive(extra="!")
    with pytest.raises(DataError, match=r"wrong checksum .* kept as .*ml-32m\.zip\.wrong"):
        fetch("ml-32m", mirror=shelf.address)
    assert [path.name for path in download_folder("ml-32m").iterdir()] == ["ml-32m.zip.wrong"]
    with pytest.raises(DataError):
        read(Data(source="ml-32m"))


def test_what_is_no_archive_is_kept_aside(shelf: Shelf) -> None:
    publish(shelf, b"<html>moved</html>")
    with pytest.raises(DataError, match="is not a zip archive"):
        fetch("ml-32m", mirror=shelf.address)


def test_files_without_a_published_checksum_are_remembered(shelf: Shelf) -> None:
    names = ("reviews_Home_5.json.gz", "meta_Home.json.gz")
    shelf.files = {name: gzip.compress(name.encode()) for name in names}
    folder = fetch("amazon-reviews-2014", "Home", shelf.address)
    assert json.loads((folder / "fetched.json").read_text()).keys() == set(names)
    (folder / names[0]).unlink()  # lost, and since then its makers changed it
    shelf.files[names[0]] += b"more"
    with pytest.raises(DataError, match="wrong checksum"):
        fetch("amazon-reviews-2014", "Home", shelf.address)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("amazon-reviews-2018", "fetched by category"),
        ("ml-100k", "comes with `llmrec setup`"),
        ("netflix", "cannot be fetched. These data sets can: ml-1m"),
        ("ml-1m", "answers 404 Not Found"),
    ],
)
def test_what_cannot_be_fetched_says_why(name: str, words: str, shelf: Shelf) -> None:
    with pytest.raises(DataError, match=words):
        fetch(name, mirror=shelf.address)


def test_the_verb_prints_the_licence_and_where_it_went(shelf: Shelf) -> None:
    publish(shelf, archive())
    command = [sys.executable, "-m", "llmrec.cli.main", "data", "fetch", "ml-32m", "--mirror", shelf.address]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "no redistribution" in done.stderr and REGISTRY["ml-32m"].page in done.stderr
    assert done.stdout.strip() == str(download_folder("ml-32m"))


def test_every_set_says_how_large_it_is_and_on_what_terms() -> None:
    for name, origin in REGISTRY.items():
        assert all((origin.about, origin.size, origin.licence)), name
        assert origin.page.startswith("https://")
        assert all(url.startswith("https://") for url in origin.urls)
