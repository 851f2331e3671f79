"""Export: a run's model as one folder to share, which transformers, vLLM and llmrec open with nothing else beside it.

DIR/  config.json  *.safetensors  tokenizer*  generation_config.json    what Hugging Face's libraries read
      llmrec.json  README.md                                            our note, the model card
      catalogue/                                                        items, codes
      adapter/                                                          as trained, where adapters were
"""

from __future__ import annotations

import os
import shutil
import warnings
from dataclasses import asdict
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from llmrec.card import Facts, base_name, card, measured
from llmrec.checked import read_checked
from llmrec.decode.recommender import as_judged
from llmrec.errors import RunError
from llmrec.files import atomic_folder, explain_disk, write_json
from llmrec.indexing.catalogue import Catalogue
from llmrec.indexing.catalogue_file import FILES
from llmrec.model import folder as model_folder
from llmrec.model.folder import NOTE
from llmrec.model.loading import config_from
from llmrec.pipeline import trained_folder
from llmrec.run_files import MADE, MadeOfData, read_training, trained_folders
from llmrec.run_folder import is_below

_LEFT_OUT = {MADE, "README.md"}  # peft's card names the base by its path on this machine
_MODEL = (  # what transformers writes, beside the files of the tokenizer's own kind
    *("config.json", "generation_config.json", "model.safetensors", "model-?????-of-?????.safetensors"),
    *("model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    *("added_tokens.json", "chat_template.jinja", "additional_chat_templates/*.jinja", NOTE),
)
_ADAPTER = ["adapter_config.json", "adapter_model.safetensors", "vocabulary.json"]


def export(run: Path, target: Path) -> Path:
    """Write a run's last model, its catalogue and a model card into a new folder, whole or not at all.

    Args:
        run: a run folder.
        target: where to; absent or empty.

    Returns:
        The folder.

    Raises:
        RunError: nothing was trained in the run, model and catalogue do not belong together, the target holds
            something, or the disk takes no more.
        CodeError: the catalogue is not whole.
    """
    trained, catalogue = trained_folder(run), Catalogue.load(run / "catalogue")
    if model_folder.read_note(trained / "model").catalogue != catalogue.hash:
        raise RunError(
            f"{trained} was trained on another catalogue than {run / 'catalogue'} holds now: the run was begun again "
            f"and not finished. Finish it first: llmrec run {run / 'recipe.yaml'} --out {run}"
        )
    target = _free(target, run)
    tokenizer, note = model_folder.load_words(trained / "model")
    with atomic_folder(target) as folder:
        _copy(trained / "model", folder, [*_MODEL, *tokenizer.vocab_files_names.values()])
        write_json(folder / NOTE, asdict(as_judged(note, run)))
        _usable(folder)
        _copy(run / "catalogue", folder / "catalogue", catalogue_files())
        if (trained / "adapter").is_dir():
            _copy(trained / "adapter", folder / "adapter", _ADAPTER)
            _name_base(folder / "adapter", trained)
        (folder / "README.md").write_text(card(_facts(run, trained, catalogue, folder)), encoding="utf-8")
    return target


def _free(target: Path, run: Path) -> Path:
    """The target as an absolute path that can be made.

    Raises:
        RunError: something is there already, or it lies in the run.
    """
    with explain_disk(target):
        target = Path(os.path.realpath(target))
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            what = "is a folder with files in it" if target.is_dir() else "is a file"
            raise RunError(f"{target} {what}, and an export overwrites nothing. Name a folder that is not there yet.")
        if is_below(target, run):
            raise RunError(f"{target} lies in the run, whose parts may be replaced. Name a folder outside of {run}.")
    if os.path.ismount(target):
        raise RunError(f"{target} is a mount point, which cannot be replaced. Name a folder inside: {target / 'model'}")
    return target


def catalogue_files() -> list[str]:
    """Names of the files that a catalogue folder may hold."""
    from llmrec.indexing.frozen import KEPT  # it brings faiss along

    return [*FILES, *KEPT]


def _copy(source: Path, target: Path, names: list[str]) -> None:
    """Copy the files that belong into a folder, and name those that do not.

    Contents alone: weights are written for their owner's eyes only, and an export is to be shared.

    Args:
        names: of the files, as patterns, by their path in the folder.

    Raises:
        RunError: a link is among them, which could lead to any file of this machine.
    """
    strays = []
    for file in sorted(source.rglob("*")):
        inside = file.relative_to(source).as_posix()
        if not any(fnmatchcase(inside, name) for name in names):
            strays += [inside] if not file.is_dir() and inside not in _LEFT_OUT and not inside.startswith(".") else []
            continue
        if source.is_symlink() or file.is_symlink() or not file.is_file():
            raise RunError(
                f"{file} is a link, or no file. Only a run's own files are shared: put the file itself there."
            )
        (target / inside).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target / inside)
    if strays:
        warnings.warn(f"left out of the export, as no file of a run: {', '.join(strays)} (in {source})", stacklevel=2)


def _usable(folder: Path) -> None:
    """Training turns the cache off in config.json, which would make somebody's `generate` slow."""
    config = read_checked(folder / "config.json", dict[str, Any])
    for part in (config, config.get("text_config")):
        if isinstance(part, dict) and "use_cache" in part:
            part["use_cache"] = True
    write_json(folder / "config.json", config)


def _name_base(adapter: Path, trained: Path) -> None:
    config = read_checked(adapter / "adapter_config.json", dict[str, Any])
    config["base_model_name_or_path"] = base_name(read_training(trained)["recipe"]["model"])
    write_json(adapter / "adapter_config.json", config)


def _facts(run: Path, trained: Path, catalogue: Catalogue, folder: Path) -> Facts:
    tokenizer, config = (
        read_checked(folder / name, dict[str, Any]) for name in ("tokenizer_config.json", "config.json")
    )
    return Facts(
        name=run.resolve().name,
        data=read_checked(run / "data" / MADE, MadeOfData),
        trained=[read_training(stage) for stage in trained_folders(run)],
        metrics=measured(trained),
        example=(catalogue.ids_of([0])[0], catalogue.titles_of([0])[0], catalogue.codes_as_text([0])[0].as_py()),
        levels=catalogue.codes.shape[1],
        chat=(folder / "chat_template.jinja").is_file() or bool(tokenizer.get("chat_template")),
        dtype=str(config.get("dtype", "auto")),
        rows=config_from(folder).get_text_config().vocab_size,
        adapter=(folder / "adapter").is_dir(),
    )
