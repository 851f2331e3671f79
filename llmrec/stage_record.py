"""made.json: the record of a finished stage, written last, so that a folder with one is complete."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from llmrec.checked import read_checked
from llmrec.errors import RunError
from llmrec.files import hash_file, hash_json

RECORD_FILE = "made.json"
LAYOUT = 2  # version of run folders; folders of other versions are refused and not changed
_UNHASHED = (RECORD_FILE, "log.jsonl")  # log.jsonl has seconds, so it differs between two runs of the same recipe


class FileRecord(TypedDict):
    """State of a file when its stage finished."""

    size: int
    mtime_ns: int
    sha256: str


@with_config(ConfigDict(extra="allow"))
class StageRecord(TypedDict):
    """Content of made.json.

    The result depends on `config`, `inputs` (name → SHA-256), `version` and `seed`; `key` is their hash. `files` are
    the files that the stage wrote, and `output` is their hash. The other keys are for people.
    """

    layout: int
    key: str
    version: int
    config: Any
    inputs: dict[str, str]
    seed: int
    files: dict[str, FileRecord]
    output: str
    facts: dict[str, Any]
    versions: dict[str, str]
    device: str
    seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    commit: NotRequired[str]
    peak: NotRequired[dict[str, int]]


def read_record(folder: Path) -> StageRecord:
    """Read made.json of a finished stage; RunError where it is missing, damaged or of another version of llmrec."""
    path = folder / RECORD_FILE
    layout = read_checked(path, dict[str, Any]).get("layout", 1)
    if layout != LAYOUT:
        raise RunError(
            f"{folder} was made by another version of llmrec (layout {layout}; this one writes {LAYOUT}). Nothing in "
            "it was changed. Use that version, or make the run again elsewhere: llmrec run RECIPE --out DIR"
        )
    made: StageRecord = read_checked(path, StageRecord)
    return made


def is_stage(folder: Path) -> bool:
    """Whether a folder is a stage of a run of any version: its made.json has the keys that all versions write.

    Raises:
        RunError: made.json cannot be read.
    """
    try:
        made = json.loads((folder / RECORD_FILE).read_bytes())
    except PermissionError as error:
        raise RunError(
            f"{folder / RECORD_FILE} cannot be read ({error.strerror}). See that you may read it."
        ) from error
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(made, dict) and made.keys() >= {"inputs", "output", "seed", "facts"}


def file_records(folder: Path) -> dict[str, FileRecord]:
    """File → record, of all files below a folder, without hidden ones and those that differ between equal runs."""
    result: dict[str, FileRecord] = {}
    for file in sorted(folder.rglob("*")):
        inside = file.relative_to(folder)
        if file.is_file() and file.name not in _UNHASHED and not any(part.startswith(".") for part in inside.parts):
            result[inside.as_posix()] = _record(file)
    return result


def output_hash(files: dict[str, FileRecord]) -> str:
    """SHA-256 of the names and contents of files."""
    return hash_json([[name, files[name]["sha256"]] for name in sorted(files)])


def check_unchanged(folder: Path, made: StageRecord, all_files: bool = True) -> None:
    """Check that the files of a stage did not change. Contents are read only where size or time differ.

    Args:
        all_files: whether a missing file is an error; False where weights are on another machine.

    Raises:
        RunError: names a file that is missing or changed.
    """
    for name, record in made["files"].items():
        path = folder / name
        if not path.is_file():
            if not all_files:
                continue
            raise RunError(f"{path} is missing. {_remedy(folder)}")
        stat = path.stat()
        same = stat.st_size == record["size"] and stat.st_mtime_ns == record["mtime_ns"]
        if not same and (stat.st_size != record["size"] or hash_file(path) != record["sha256"]):
            raise RunError(f"{path} was changed after it was made. {_remedy(folder)}")


def _record(file: Path) -> FileRecord:
    stat = file.stat()
    return {"size": stat.st_size, "mtime_ns": stat.st_mtime_ns, "sha256": hash_file(file)}


def _remedy(folder: Path) -> str:
    return f"Put it back, or delete {folder} and make it again with `llmrec run`."
