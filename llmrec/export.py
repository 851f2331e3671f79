"""Export a run's recommender as one self-contained folder for transformers, vLLM and llmrec.

DIR/  config.json  *.safetensors  tokenizer*  generation_config.json    files of Hugging Face's libraries
      llmrec.json  README.md                                            prompts of the model, the model card
      recommender.json                                                  what recommends: the model, or an ensemble
      catalogue/                                                        items, codes
      collaborative/NAME/                                               collaborative models of an ensemble
      adapter/                                                          trained adapters, if any
"""

from __future__ import annotations

import os
import shutil
import warnings
from pathlib import Path
from typing import Any

from llmrec.card import Facts, base_name, card, measured
from llmrec.checked import read_checked
from llmrec.decode.recommender_spec import RecommenderSpec, iter_nodes, write_spec
from llmrec.errors import RunError
from llmrec.files import atomic_folder, explain_disk, write_json
from llmrec.indexing.catalogue import Catalogue
from llmrec.model.loading import config_from
from llmrec.recipe import Model
from llmrec.run.layout import RunFolder, recipe_of
from llmrec.run.plan import plan
from llmrec.run.recommender import collaborative_stages, describe
from llmrec.run.run_lock import is_below
from llmrec.stage_record import RECORD_FILE, read_record

ADAPTER = "adapter"
_LEFT_OUT = {RECORD_FILE, "README.md"}  # peft's card names the base by its path on this machine


def export(run: Path, target: Path) -> Path:
    """Write a run's recommender and a model card into a new folder, atomically; return the folder.

    Args:
        target: a missing or empty folder.

    Raises:
        RunError: nothing was trained in the run, its stages are of two recipes, files were changed, the target is not
            empty, or the disk is full.
        CodeError: the catalogue is damaged.
    """
    source = RunFolder(run)
    source.require_run()
    spec, recipe = describe(run), recipe_of(run)
    stages, catalogue = plan(recipe), source.stage(spec["catalogue"])
    collaborative = collaborative_stages(stages, spec)
    target = _checked_target(target, run)
    with atomic_folder(target) as folder:
        exported = _copy_models(source, spec, folder, recipe.model)
        for stage in (catalogue, *(source.stage(stage.name) for stage in collaborative)):
            _copy(source, stage, stage, folder / stage.relative_to(run))
        write_spec(folder, exported)
        trained = [(spec.config, read_record(source.stage(spec.name))) for spec in stages if spec.kind == "train"]
        judged = measured(source, [plan(recipe, "test")[-1], plan(recipe, "valid")[-1]], recipe.seed)
        facts = _facts(exported, Catalogue.load(catalogue), folder, recipe.model)
        facts |= {"source": recipe.data.source, "data": read_record(source.data)["facts"]}
        facts |= {"trained": trained, "metrics": judged}
        (folder / "README.md").write_text(card(Facts(**facts)), encoding="utf-8")
    return target


def _copy_models(run: RunFolder, spec: RecommenderSpec, folder: Path, model: Model) -> RecommenderSpec:
    """Copy the language models, the first into the folder, others below it; return the spec with these folders."""
    names = [node["folder"] for node in iter_nodes(spec["recommender"]) if node["kind"] == "generative"]
    folders: dict[str, str] = {}
    for name in names:
        folders.setdefault(name, f"models/{len(folders) + 1}" if folders else ".")
    for name, copied in folders.items():
        trained = run.stage(name).parent
        _copy(run, trained, run.stage(name), folder / copied)
        _use_cache(folder / copied)
        if (trained / ADAPTER).is_dir():
            _copy(run, trained, trained / ADAPTER, folder / copied / ADAPTER)
            _name_base(folder / copied / ADAPTER, model)
    return spec | {"recommender": _with_folders(spec["recommender"], folders)}  # type: ignore[return-value]


def _with_folders(node: dict[str, Any], folders: dict[str, str]) -> dict[str, Any]:
    """A node of a spec with new folders of language models."""
    result = node | ({"folder": folders[node["folder"]]} if node.get("folder") in folders else {})
    if "members" in node:
        members = node["members"]
        result["members"] = [each | {"recommender": _with_folders(each["recommender"], folders)} for each in members]
    return result


def _checked_target(target: Path, run: Path) -> Path:
    """The target as an absolute path; a RunError if it is not empty, or inside the run."""
    with explain_disk(target):
        target = Path(os.path.realpath(target))
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            kind = "is a folder with files in it" if target.is_dir() else "is a file"
            raise RunError(f"{target} {kind}, and an export overwrites nothing. Name a folder that does not exist yet.")
        if is_below(target, run):
            raise RunError(f"{target} is inside the run, whose parts may be replaced. Name a folder outside of {run}.")
    if os.path.ismount(target):
        raise RunError(f"{target} is a mount point, which cannot be replaced. Name a folder inside: {target / 'model'}")
    return target


def _copy(run: RunFolder, stage: Path, source: Path, target: Path) -> None:
    """Copy the files of a stage, and warn about files that the stage did not write.

    Permissions are not copied: weights are readable only by their owner, and an export is shared.

    Raises:
        RunError: a file is a link, which could lead to any file of this machine.
    """
    written, strays = read_record(stage)["files"], []
    for file in sorted(source.rglob("*")):
        inside = file.relative_to(source)
        if file.relative_to(stage).as_posix() not in written:
            hidden = any(part.startswith(".") for part in inside.parts)
            strays += [inside.as_posix()] if not file.is_dir() and file.name != RECORD_FILE and not hidden else []
        elif Path(os.path.realpath(file)) != Path(os.path.realpath(run.path)) / file.relative_to(run.path):
            raise RunError(
                f"{file} is a link, or below one. Only files of the run are exported: replace the link by the file."
            )
        elif inside.as_posix() not in _LEFT_OUT:
            (target / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target / inside)
    if strays:
        warnings.warn(
            f"left out of the export, since no stage wrote them: {', '.join(strays)} (in {source})", stacklevel=2
        )


def _use_cache(folder: Path) -> None:
    """Enable the cache in config.json, which training disables: `generate` is slow without it."""
    config = read_checked(folder / "config.json", dict[str, Any])
    for part in (config, config.get("text_config")):
        if isinstance(part, dict) and "use_cache" in part:
            part["use_cache"] = True
    write_json(folder / "config.json", config)


def _name_base(adapter: Path, model: Model) -> None:
    config = read_checked(adapter / "adapter_config.json", dict[str, Any])
    config["base_model_name_or_path"] = base_name(model)
    write_json(adapter / "adapter_config.json", config)


def _facts(exported: RecommenderSpec, catalogue: Catalogue, folder: Path, model: Model) -> dict[str, Any]:
    """Contents of the card that depend on the exported files."""
    tokenizer, config = (
        read_checked(folder / name, dict[str, Any]) for name in ("tokenizer_config.json", "config.json")
    )
    members = exported["recommender"].get("members", [])
    return {
        "name": exported["name"],
        "model": model,
        "members": [(each["weight"], Path(each["recommender"]["folder"]).name or model.name) for each in members],
        "example": (catalogue.ids_of([0])[0], catalogue.titles_of([0])[0], catalogue.codes_as_text([0])[0].as_py()),
        "levels": catalogue.codes.shape[1],
        "chat": (folder / "chat_template.jinja").is_file() or bool(tokenizer.get("chat_template")),
        "dtype": str(config.get("dtype", "auto")),
        "rows": config_from(folder).get_text_config().vocab_size,
        "adapter": (folder / ADAPTER).is_dir(),
    }
