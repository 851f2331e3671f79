"""Data sets that can be had elsewhere, where they lie, and fetching them: resumed where it stopped, checked.

Addresses are those that their makers publish. MovieLens publishes an MD5 beside each archive; the Amazon files have no
published checksum, so what is fetched first is remembered and later fetches are held against it.
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
KNOWN = "fetched.json"  # in the set's folder: file → SHA-256 of what was fetched; a later fetch must give the same
_GROUPLENS = "https://files.grouplens.org/datasets/movielens"
_SNAP = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles"
_MCAULEY = "https://mcauleylab.ucsd.edu/public_datasets/data"

Tell = Callable[[str, float], None]  # file, share done (0 to 1)


@dataclass(frozen=True)
class RegistryEntry:
    """Where a data set comes from.

    Attributes:
        about, size, licence: in words; the full terms are at `page`.
        addresses: files to fetch; `{category}` stands for a category of Amazon's.
        md5: file name → checksum, where it is known beforehand.
        published: whether each address has its checksum beside it, at `ADDRESS.md5`.
    """

    about: str
    size: str
    licence: str
    page: str
    addresses: tuple[str, ...] = ()
    md5: tuple[tuple[str, str], ...] = ()
    published: bool = False

    @property
    def by_category(self) -> bool:
        """Whether a category must be named."""
        return any("{category}" in address for address in self.addresses)


_LENS = "GroupLens: research use, credit in publications; no redistribution or commercial use without permission"
_AMAZON = "no licence stated: made for research (McAuley); reviews belong to their authors"

REGISTRY: dict[str, RegistryEntry] = {
    "ml-100k": RegistryEntry(
        "MovieLens 100K, carried by a package (`llmrec setup`)",
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
        published=True,
    ),
    "ml-latest-small": RegistryEntry(
        "MovieLens latest-small; its makers change it from time to time",
        "610 users, 9,742 films, 100,836 ratings; 1 MB",
        _LENS,
        "https://grouplens.org/datasets/movielens/latest/",
        (f"{_GROUPLENS}/ml-latest-small.zip",),
        published=True,
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
    """Folders that a data set may lie in: $LLMREC_DATA/NAME first, then where `llmrec data fetch` puts it."""
    root = os.environ.get("LLMREC_DATA")
    return [*([Path(root) / name] if root else []), download_folder(name)]


def download_folder(name: str) -> Path:
    """The folder that `llmrec data fetch NAME` fills."""
    return resources.cache_folder() / "data" / name


def find_folder(name: str) -> Path:
    """The first of `places` that is there.

    Raises:
        DataError: none is.
    """
    for place in candidate_folders(name):
        if place.is_dir():
            return place
    remedy = f" Or fetch it: llmrec data fetch {name}" if REGISTRY[name].addresses else ""
    root = os.environ.get("LLMREC_DATA")
    where = f"{root} has no folder {name}" if root else "the variable LLMREC_DATA is not set"
    raise DataError(
        f"data.source: {name} is read from $LLMREC_DATA/{name}, but {where}. Set it: export LLMREC_DATA=FOLDER{remedy}"
    )


def attribution(name: str) -> dict[str, str]:
    """What a stage's facts say of a data set: its name and licence."""
    return {"source": REGISTRY[name].about, "licence": REGISTRY[name].licence}


def fetch(
    name: str, category: str | None = None, mirror: str | None = None, tell: Tell = lambda file, done: None
) -> Path:
    """Fetch a data set into the cache; does nothing where it is there already.

    Args:
        name: a key of `REGISTRY` that has addresses.
        category: of Amazon's, as its files name it, such as Beauty.
        mirror: an address below which the same files lie, instead of the makers'.
        tell: called with the progress of each file.

    Returns:
        The folder.

    Raises:
        DataError: nothing to fetch by that name, no answer, or a wrong checksum (what came is kept aside).
    """
    able = [known for known, origin in REGISTRY.items() if origin.addresses]
    if name not in able:
        words = "comes with `llmrec setup`" if name == "ml-100k" else "cannot be fetched"
        raise DataError(f"'{name}' {words}. What can be: {', '.join(able)}")
    origin, folder = REGISTRY[name], download_folder(name)
    if origin.by_category and not category:
        raise DataError(f"{name} is fetched by category. Name one: llmrec data fetch {name} --category Beauty")
    with explain_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for address in origin.addresses:
        address = address.format(category=category)
        file = address.rsplit("/", 1)[-1]
        if mirror:
            address = f"{mirror.rstrip('/')}/{file}"
        whole = (folder / file).is_file() or (folder / file.removesuffix(".zip")).is_dir()
        if whole and file in _known(folder):
            tell(file, 1.0)
            continue
        arrived = _download(address, folder / f"{file}.part", partial(tell, file))
        _check(arrived, address, origin, folder / file)
        checksum = hash_file(arrived)
        if file.endswith(".zip"):
            with atomic_folder(folder / file.removesuffix(".zip")) as inside:
                _unpack(arrived, inside, folder / f"{file}.wrong")
            arrived.unlink()
        else:
            arrived.replace(folder / file)
        write_json(folder / KNOWN, _known(folder) | {file: checksum})
    return folder


def _known(folder: Path) -> dict[str, str]:
    remedy = "Delete the file, and fetch the set again."
    known: dict[str, str] = read_checked(folder / KNOWN, dict[str, str], remedy) if (folder / KNOWN).is_file() else {}
    return known


def _download(address: str, part: Path, tell: Callable[[float], None]) -> Path:
    """The whole file as `FILE.part`; goes on from what is there, and tries again where the line is cut."""
    why = ""
    for attempt in range(TRIES):
        try:
            if _receive(address, part, tell):
                return part
            why = "the answer ended early"
        except urllib.error.HTTPError as error:
            if error.code == 416:  # what is here is as long as the file or longer: begin again
                part.unlink(missing_ok=True)
            elif error.code < 500:
                raise DataError(
                    f"{address} answers {error.code} {error.reason}. Schema for its new address at the set's page, "
                    "and name it with --mirror."
                ) from error
            why = str(error)
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            why = str(getattr(error, "reason", error))
        if attempt + 1 < TRIES:
            time.sleep(min(2**attempt, 8) * 0.1)
    raise DataError(
        f"{address} could not be fetched ({why}). What came is kept; the same command goes on where it was."
    )


def _receive(address: str, part: Path, tell: Callable[[float], None]) -> bool:
    """One request for the bytes that are missing; whether all have come."""
    have = part.stat().st_size if part.is_file() else 0
    stamp = part.with_suffix(".stamp")  # names the version that the bytes are of
    request = urllib.request.Request(address, headers={"User-Agent": "llmrec"})
    if have and stamp.is_file():
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", stamp.read_text())
    with urllib.request.urlopen(request, timeout=60) as answer, explain_disk(part):
        goes_on = answer.status == 206
        version = answer.headers.get("ETag") or answer.headers.get("Last-Modified")
        stamp.unlink(missing_ok=True)
        if version:
            stamp.write_text(version)
        begin = have if goes_on else 0
        expected = begin + int(answer.headers["Content-Length"]) if "Content-Length" in answer.headers else None
        with part.open("ab" if goes_on else "wb") as out:
            while block := answer.read(CHUNK):
                out.write(block)
                tell(out.tell() / expected if expected else 0.0)
            size = out.tell()
    if expected is not None and size < expected:
        return False
    stamp.unlink(missing_ok=True)
    return True


def _check(arrived: Path, address: str, origin: RegistryEntry, target: Path) -> None:
    """Compare the checksum with the one that is known, published, or remembered."""
    wanted = dict(origin.md5).get(target.name) or (_published(f"{address}.md5") if origin.published else None)
    if wanted:
        with arrived.open("rb") as file:
            found = hashlib.file_digest(file, "md5").hexdigest()
    else:
        wanted, found = _known(target.parent).get(target.name), hash_file(arrived)
    if wanted and found != wanted:
        aside = target.with_name(f"{target.name}.wrong")
        arrived.replace(aside)
        raise DataError(
            f"{target.name} has the wrong checksum ({found[:12]}…, expected {wanted[:12]}…). It was not used and is "
            f"kept as {aside}. Its makers may have changed it: see {origin.page}; delete {target.parent / KNOWN} to "
            "accept a new one."
        )


def _published(address: str) -> str | None:
    """The hexadecimal digits of a checksum file, in either of the forms that md5 writes."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        request = urllib.request.Request(address, headers={"User-Agent": "llmrec"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            words = answer.read(4096).decode("ascii", "replace").lower().split()
        return next((word for word in words if re.fullmatch("[0-9a-f]{32}", word)), None)
    return None


def _unpack(archive: Path, target: Path, aside: Path) -> None:
    """An archive's files without the folder that holds them all; a broken archive is moved aside."""
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
        raise DataError(f"{aside.stem} is no archive ({error}). It was not used and is kept as {aside}.") from error
