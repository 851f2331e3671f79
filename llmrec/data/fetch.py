"""Registry of public data sets, and their download: resumed after an interruption, verified by checksum.

URLs are those of the publishers. MovieLens publishes an MD5 checksum beside each archive. The Amazon files have no
published checksum, so the checksum of the first download is recorded and later downloads must match it.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import re
import shutil
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from llmrec import resources
from llmrec.checked import read_checked
from llmrec.errors import DataError
from llmrec.files import atomic_folder, explain_disk, hash_file, write_json

TRIES = 5
CHUNK = 1 << 20
KNOWN = "fetched.json"  # in the data set's folder: file → SHA-256 of the first download
_GROUPLENS = "https://files.grouplens.org/datasets/movielens"
_SNAP = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
_MCAULEY = "https://mcauleylab.ucsd.edu/public_datasets/data"

Progress = Callable[[str, float], None]  # file, share done (0 to 1)


@dataclass(frozen=True)
class RegistryEntry:
    """A public data set.

    Attributes:
        about, size, licence: short texts; `page` has the full terms.
        urls: files to download; `{category}` is replaced by a category of Amazon.
        md5: file name → known checksum.
        md5_published: whether `URL.md5` has the checksum of each file.
    """

    about: str
    size: str
    licence: str
    page: str
    urls: tuple[str, ...] = ()
    md5: tuple[tuple[str, str], ...] = ()
    md5_published: bool = False

    @property
    def by_category(self) -> bool:
        """Whether a download needs a category."""
        return any("{category}" in url for url in self.urls)


_LENS = "GroupLens: research use, credit in publications; no redistribution or commercial use without permission"
_AMAZON = "no licence stated: made for research (McAuley); reviews belong to their authors"

REGISTRY: dict[str, RegistryEntry] = {
    "ml-100k": RegistryEntry(
        "MovieLens 100K, downloaded by `llmrec setup`",
        "943 users, 1,682 films, 100,000 ratings; 5 MB",
        resources.ASSETS["ml-100k"].licence,
        "https://grouplens.org/datasets/movielens/100k/",
    ),
    "ml-1m": RegistryEntry(
        "MovieLens 1M",
        "6,040 users, 3,883 films, 1,000,209 ratings; 6 MB",
        _LENS,
        "https://grouplens.org/datasets/movielens/1m/",
        (f"{_GROUPLENS}/ml-1m.zip",),
        (("ml-1m.zip", "c4d9eecfca2ab87c1945afe126590906"),),
    ),
    "ml-32m": RegistryEntry(
        "MovieLens 32M",
        "200,948 users, 87,585 films, 32,000,204 ratings; 240 MB",
        _LENS,
        "https://grouplens.org/datasets/movielens/32m/",
        (f"{_GROUPLENS}/ml-32m.zip",),
        md5_published=True,
    ),
    "ml-latest-small": RegistryEntry(
        "MovieLens latest-small; its publisher updates it from time to time",
        "610 users, 9,742 films, 100,836 ratings; 1 MB",
        _LENS,
        "https://grouplens.org/datasets/movielens/latest/",
        (f"{_GROUPLENS}/ml-latest-small.zip",),
        md5_published=True,
    ),
    "amazon-beauty-2014": RegistryEntry(
        "Amazon Beauty, the 5-core of the literature, prepared",
        "22,363 users, 12,101 items, 198,502 interactions; positions, no clock times",
        _AMAZON,
        "https://jmcauley.ucsd.edu/data/amazon/links.html",
    ),
    "amazon-games-2018": RegistryEntry(
        "Amazon Video Games as in LC-Rec, prepared",
        "50,546 users, 16,859 items, 452,989 interactions; positions, no clock times",
        _AMAZON,
        "https://nijianmo.github.io/amazon/",
    ),
    "amazon-reviews-2014": RegistryEntry(
        "Amazon Reviews 2014, raw: reviews (5-core) and metadata of a category",
        "24 categories, 83 million reviews in all",
        _AMAZON,
        "https://jmcauley.ucsd.edu/data/amazon/links.html",
        (f"{_SNAP}/reviews_{{category}}_5.json.gz", f"{_SNAP}/meta_{{category}}.json.gz"),
    ),
    "amazon-reviews-2018": RegistryEntry(
        "Amazon Reviews 2018, raw: reviews and metadata of a category",
        "29 categories, 233 million reviews in all",
        _AMAZON,
        "https://nijianmo.github.io/amazon/",
        (
            f"{_MCAULEY}/amazon_v2/categoryFiles/{{category}}.json.gz",
            f"{_MCAULEY}/amazon_v2/metaFiles2/meta_{{category}}.json.gz",
        ),
    ),
    "amazon-reviews-2023": RegistryEntry(
        "Amazon Reviews 2023, raw: reviews and metadata of a category",
        "33 categories, 571 million reviews in all",
        _AMAZON,
        "https://amazon-reviews-2023.github.io/",
        (
            f"{_MCAULEY}/amazon_2023/raw/review_categories/{{category}}.jsonl.gz",
            f"{_MCAULEY}/amazon_2023/raw/meta_categories/meta_{{category}}.jsonl.gz",
        ),
    ),
}


def candidate_folders(name: str) -> list[Path]:
    """Return the folders where a data set is looked for: $LLMREC_DATA/NAME, then the download folder."""
    root = os.environ.get("LLMREC_DATA")
    return [*([Path(root) / name] if root else []), download_folder(name)]


def download_folder(name: str) -> Path:
    """Return the folder that `llmrec data fetch NAME` writes to."""
    return resources.cache_folder() / "data" / name


def find_folder(name: str) -> Path:
    """Return the first of `candidate_folders` that exists.

    Raises:
        DataError: none exists.
    """
    for folder in candidate_folders(name):
        if folder.is_dir():
            return folder
    remedy = f" Or fetch it: llmrec data fetch {name}" if REGISTRY[name].urls else ""
    root = os.environ.get("LLMREC_DATA")
    reason = f"{root} has no folder {name}" if root else "the variable LLMREC_DATA is not set"
    raise DataError(
        f"data.source: {name} is read from $LLMREC_DATA/{name}, but {reason}. Set it: export LLMREC_DATA=FOLDER{remedy}"
    )


def attribution(name: str) -> dict[str, str]:
    """Return name and licence of a data set, for the facts of a stage."""
    return {"source": REGISTRY[name].about, "licence": REGISTRY[name].licence}


def fetch(
    name: str, category: str | None = None, mirror: str | None = None, progress: Progress = lambda file, done: None
) -> Path:
    """Download a data set into the cache, unless it is there, and return its folder.

    Args:
        name: a key of `REGISTRY` with URLs.
        category: a category of Amazon as in the file names, such as Beauty.
        mirror: base URL of the same files, instead of the publisher's.
        progress: called with the progress of each file.

    Raises:
        DataError: this data set cannot be downloaded, the server fails, or a checksum differs (the file is kept).
    """
    entry, folder = REGISTRY.get(name), download_folder(name)
    if not entry or not entry.urls:
        reason = "comes with `llmrec setup`" if name == "ml-100k" else "cannot be fetched"
        fetchable = ", ".join(name for name, entry in REGISTRY.items() if entry.urls)
        raise DataError(f"'{name}' {reason}. These data sets can: {fetchable}")
    if entry.by_category and not category:
        raise DataError(f"{name} is fetched by category. Name one: llmrec data fetch {name} --category Beauty")
    with explain_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for url in entry.urls:
        url = url.format(category=category)
        file = url.rsplit("/", 1)[-1]
        if mirror:
            url = f"{mirror.rstrip('/')}/{file}"
        complete = (folder / file).is_file() or (folder / file.removesuffix(".zip")).is_dir()
        if complete and file in _checksums(folder):
            progress(file, 1.0)
            continue
        part = _download(url, folder / f"{file}.part", partial(progress, file))
        _verify(part, url, entry, folder / file)
        checksum = hash_file(part)
        if file.endswith(".zip"):
            with atomic_folder(folder / file.removesuffix(".zip")) as target:
                _unpack(part, target, folder / f"{file}.wrong")
            part.unlink()
        else:
            part.replace(folder / file)
        write_json(folder / KNOWN, _checksums(folder) | {file: checksum})
    return folder


def _checksums(folder: Path) -> dict[str, str]:
    """Return file → SHA-256 of earlier downloads."""
    if not (folder / KNOWN).is_file():
        return {}
    checksums: dict[str, str] = read_checked(folder / KNOWN, dict[str, str], "Delete it, and fetch the data set again.")
    return checksums


def _download(url: str, part: Path, progress: Callable[[float], None]) -> Path:
    """Download a file as `FILE.part`; resume a partial file, and retry after a broken connection."""
    reason = ""
    for attempt in range(TRIES):
        try:
            if _receive(url, part, progress):
                return part
            reason = "the answer ended early"
        except urllib.error.HTTPError as error:
            if error.code == 416:  # the partial file is as long as the file or longer: start again
                part.unlink(missing_ok=True)
            elif error.code < 500:
                raise DataError(
                    f"{url} answers {error.code} {error.reason}. Look for its new address at the data set's page, "
                    "and name it with --mirror."
                ) from error
            reason = str(error)
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            reason = str(getattr(error, "reason", error))
        if attempt + 1 < TRIES:
            time.sleep(min(2**attempt, 8) * 0.1)
    raise DataError(f"{url} could not be fetched ({reason}). The partial file is kept: repeat the command to resume.")


def _receive(url: str, part: Path, progress: Callable[[float], None]) -> bool:
    """Request the missing bytes; return whether the file is complete."""
    have = part.stat().st_size if part.is_file() else 0
    stamp = part.with_suffix(".stamp")  # version (ETag) of the partial file
    request = urllib.request.Request(url, headers={"User-Agent": "llmrec"})
    if have and stamp.is_file():
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", stamp.read_text())
    with urllib.request.urlopen(request, timeout=60) as answer, explain_disk(part):
        resumed = answer.status == 206
        version = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        stamp.unlink(missing_ok=True)
        if version:
            stamp.write_text(version)
        begin = have if resumed else 0
        expected = begin + int(answer.headers["Content-Length"]) if "Content-Length" in answer.headers else None
        with part.open("ab" if resumed else "wb") as out:
            while block := answer.read(CHUNK):
                out.write(block)
                progress(out.tell() / expected if expected else 0.0)
            size = out.tell()
    if expected is not None and size < expected:
        return False
    stamp.unlink(missing_ok=True)
    return True


def _verify(part: Path, url: str, entry: RegistryEntry, target: Path) -> None:
    """Compare the checksum with the known, published or recorded one; raise DataError if it differs."""
    expected = dict(entry.md5).get(target.name) or (_published_md5(f"{url}.md5") if entry.md5_published else None)
    if expected:
        with part.open("rb") as file:
            checksum = hashlib.file_digest(file, "md5").hexdigest()
    else:
        expected, checksum = _checksums(target.parent).get(target.name), hash_file(part)
    if expected and checksum != expected:
        aside = target.with_name(f"{target.name}.wrong")
        part.replace(aside)
        raise DataError(
            f"{target.name} has the wrong checksum ({checksum[:12]}…, expected {expected[:12]}…). It was not used and "
            f"is kept as {aside}. The publisher may have changed it: see {entry.page}; delete {target.parent / KNOWN} "
            "to accept a new one."
        )


def _published_md5(url: str) -> str | None:
    """Return the digits of an md5 file, in the format of GNU or of BSD."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        request = urllib.request.Request(url, headers={"User-Agent": "llmrec"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            words = answer.read(4096).decode("ascii", "replace").lower().split()
        return next((word for word in words if re.fullmatch("[0-9a-f]{32}", word)), None)
    return None


def _unpack(archive: Path, target: Path, aside: Path) -> None:
    """Unpack an archive without its top folder; rename a broken archive to `aside`."""
    try:
        with zipfile.ZipFile(archive) as opened:
            for member in opened.infolist():
                relative = Path(*Path(member.filename).parts[1:]) if "/" in member.filename else Path(member.filename)
                place = (target / relative).resolve()
                if member.is_dir() or not place.is_relative_to(target.resolve()):
                    continue
                place.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(member) as source, place.open("wb") as out:
                    shutil.copyfileobj(source, out, CHUNK)
    except zipfile.BadZipFile as error:
        archive.replace(aside)
        raise DataError(
            f"{aside.stem} is not a zip archive ({error}). It was not used and is kept as {aside}."
        ) from error
