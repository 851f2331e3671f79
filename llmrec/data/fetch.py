"""Fetching a data set from its makers: resumed where it stopped, checked, never half-used."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Callable
from pathlib import Path

from llmrec.checked import read_checked
from llmrec.data.origins import ORIGINS, Origin, fetched
from llmrec.errors import DataError
from llmrec.files import atomic_folder, explain_disk, hash_file, write_json

TRIES = 5
CHUNK = 1 << 20
KNOWN = "fetched.json"
"""In the set's folder: file → SHA-256 of what was fetched; a later fetch of the same file must give the same."""

Tell = Callable[[str, float], None]  # file, share done (0 to 1)


def fetch(
    name: str, category: str | None = None, mirror: str | None = None, tell: Tell = lambda file, done: None
) -> Path:
    """Fetch a data set into the cache; does nothing where it is there already.

    Args:
        name: a key of `ORIGINS` that has addresses.
        category: of Amazon's, as its files name it, such as Beauty.
        mirror: an address below which the same files lie, instead of the makers'.
        tell: told how far each file is.

    Returns:
        The folder.

    Raises:
        DataError: nothing to fetch by that name, no answer, or a wrong checksum (what came is kept aside).
    """
    origin = _origin(name, category)
    folder = fetched(name)
    with explain_disk(folder):
        folder.mkdir(parents=True, exist_ok=True)
    for address in origin.addresses:
        address = address.format(category=category)
        file = address.rsplit("/", 1)[-1]
        if mirror:
            address = f"{mirror.rstrip('/')}/{file}"
        if _is_here(folder, file):
            tell(file, 1.0)
            continue
        arrived = _download(address, folder, file, tell)
        _check(arrived, address, file, origin, folder)
        _keep(arrived, folder, file)
    return folder


def _origin(name: str, category: str | None) -> Origin:
    able = [known for known, origin in ORIGINS.items() if origin.addresses]
    if name not in able:
        words = "comes with `llmrec setup`" if name == "ml-100k" else "cannot be fetched"
        raise DataError(f"'{name}' {words}. What can be: {', '.join(able)}")
    origin = ORIGINS[name]
    if origin.by_category and not category:
        raise DataError(f"{name} is fetched by category. Name one: llmrec data fetch {name} --category Beauty")
    return origin


def _is_here(folder: Path, file: str) -> bool:
    whole = (folder / file).is_file() or (folder / file.removesuffix(".zip")).is_dir()
    return whole and file in _known(folder)


def _known(folder: Path) -> dict[str, str]:
    remedy = "Delete the file, and fetch the set again."
    known: dict[str, str] = read_checked(folder / KNOWN, dict[str, str], remedy) if (folder / KNOWN).is_file() else {}
    return known


def _download(address: str, folder: Path, file: str, tell: Tell) -> Path:
    """The file as `FILE.part`, whole; goes on from what is there, and tries again where the line is cut."""
    part = folder / f"{file}.part"
    why = ""
    for attempt in range(TRIES):
        try:
            if _receive(address, part, lambda done: tell(file, done)):
                return part
            why = "the answer ended early"
        except urllib.error.HTTPError as error:
            if error.code == 416:  # what is here is as long as the file or longer: begin again
                part.unlink(missing_ok=True)
            elif error.code < 500:
                raise DataError(
                    f"{address} answers {error.code} {error.reason}. Look for its new address at the set's page, "
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


def _check(arrived: Path, address: str, file: str, origin: Origin, folder: Path) -> None:
    """Hold what came against the checksum that is known, published, or remembered."""
    wanted = dict(origin.md5).get(file) or (_published(f"{address}.md5") if origin.published else None)
    found = _md5(arrived) if wanted else hash_file(arrived)
    wanted = wanted or _known(folder).get(file)
    if wanted and found != wanted:
        aside = folder / f"{file}.wrong"
        arrived.replace(aside)
        raise DataError(
            f"{file} has the wrong checksum ({found[:12]}…, expected {wanted[:12]}…). It was not used and is kept as "
            f"{aside}. Its makers may have changed it: see {origin.page}; delete {folder / KNOWN} to accept a new one."
        )


def _published(address: str) -> str | None:
    """The hexadecimal digits of a checksum file, in either of the forms that md5 writes."""
    with contextlib.suppress(OSError, http.client.HTTPException):
        request = urllib.request.Request(address, headers={"User-Agent": "llmrec"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            words = answer.read(4096).decode("ascii", "replace").split()
        return next(
            (word.lower() for word in words if len(word) == 32 and set(word.lower()) <= set("0123456789abcdef")), None
        )
    return None


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()


def _keep(arrived: Path, folder: Path, file: str) -> None:
    """Put the file in its place, archives unpacked, and remember its checksum."""
    checksum = hash_file(arrived)
    if file.endswith(".zip"):
        with atomic_folder(folder / file.removesuffix(".zip")) as inside:
            _unpack(arrived, inside, file)
        arrived.unlink()
    else:
        arrived.replace(folder / file)
    write_json(folder / KNOWN, _known(folder) | {file: checksum})


def _unpack(archive: Path, target: Path, file: str) -> None:
    """An archive's files without the folder that holds them all."""
    try:
        with zipfile.ZipFile(archive) as opened:
            for member in opened.infolist():
                relative = Path(*Path(member.filename).parts[1:]) if "/" in member.filename else Path(member.filename)
                place = (target / relative).resolve()
                if member.is_dir() or not place.is_relative_to(target.resolve()):
                    continue
                place.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(member) as source, place.open("wb") as out:
                    while block := source.read(CHUNK):
                        out.write(block)
    except zipfile.BadZipFile as error:
        aside = archive.with_name(f"{file}.wrong")
        archive.replace(aside)
        raise DataError(f"{file} is no archive ({error}). It was not used and is kept as {aside}.") from error
