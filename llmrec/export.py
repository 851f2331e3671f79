"""Export: a run's recommender as one folder to share, which transformers, vLLM and llmrec open with nothing beside it.

DIR/  config.json  *.safetensors  tokenizer*  generation_config.json    what Hugging Face's libraries read
      llmrec.json  README.md                                            prompts of the model, the model card
      recommender.json                                                  what recommends: the model, or an ensemble
      catalogue/                                                        items, codes
      collaborative/NAME/                                               collaborative models of an ensemble
      adapter/                                                          as trained, where adapters were
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
from llmrec.run.ownership import is_below
from llmrec.run.plan import plan
from llmrec.run.recommender import collaborative_stages, describe
from llmrec.stage_record import RECORD_FILE, read_record

ADAPTER = "adapter"
_LEFT_OUT = {RECORD_FILE, "README.md"}  # peft's card names the base by its path on this machine


def export(run: Path, target: Path) -> Path:
    """Write all that a run recommends by, and a model card, into a new folder, whole or not at all.

    Args:
        run: a run folder.
        target: where to; absent or empty.

    Returns:
        The folder.

    Raises:
        RunError: nothing was trained in the run, it holds stages of two recipes or files that were changed, the target
            holds something, or the disk takes no more.
        CodeError: the catalogue is not whole.
    """
    source = RunFolder(run)
    source.require_run()
    described, recipe = describe(run), recipe_of(run)
    stages, catalogue = plan(recipe), source.stage(described["catalogue"])
    fitted = collaborative_stages(stages, described)
    target = _free(target, run)
    with atomic_folder(target) as folder:
        exported = _with_models(source, described, folder, recipe.model)
        for stage in (catalogue, *(source.stage(spec.name) for spec in fitted)):
            _copy(source, stage, stage, folder / stage.relative_to(run))
        write_spec(folder, exported)
        trained = [(spec.config, read_record(source.stage(spec.name))) for spec in stages if spec.kind == "train"]
        judged = measured(source, [plan(recipe, "test")[-1], plan(recipe, "valid")[-1]], recipe.seed)
        facts = _facts(exported, Catalogue.load(catalogue), folder, recipe.model)
        facts |= {"source": recipe.data.source, "data": read_record(source.data)["facts"]}
        facts |= {"trained": trained, "metrics": judged}
        (folder / "README.md").write_text(card(Facts(**facts)), encoding="utf-8")
    return target


def _with_models(run: RunFolder, described: RecommenderSpec, folder: Path, model: Model) -> RecommenderSpec:
    """Copy the language models of a recommender: the first into the folder itself, others below it.

    Returns:
        The description with the new places of the models.
    """
    found = [node["folder"] for node in iter_nodes(described["recommender"]) if node["kind"] == "generative"]
    places: dict[str, str] = {}
    for name in found:
        places.setdefault(name, f"models/{len(places) + 1}" if places else ".")
    for name, place in places.items():
        trained = run.stage(name).parent
        _copy(run, trained, run.stage(name), folder / place)
        _use_cache(folder / place)
        if (trained / ADAPTER).is_dir():
            _copy(run, trained, trained / ADAPTER, folder / place / ADAPTER)
            _name_base(folder / place / ADAPTER, model)
    return described | {"recommender": _moved(described["recommender"], places)}  # type: ignore[return-value]


def _moved(node: dict[str, Any], places: dict[str, str]) -> dict[str, Any]:
    """A node of a description with other folders of language models."""
    moved = node | ({"folder": places[node["folder"]]} if node.get("folder") in places else {})
    if "members" in node:
        moved["members"] = [one | {"recommender": _moved(one["recommender"], places)} for one in node["members"]]
    return moved


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


def _copy(run: RunFolder, stage: Path, source: Path, target: Path) -> None:
    """Copy the files that a stage wrote into a folder of it, and name those that it did not write.

    Contents alone: weights are written for their owner's eyes only, and an export is to be shared.

    Raises:
        RunError: a link is among them, which could lead to any file of this machine.
    """
    known, strays = read_record(stage)["files"], []
    for file in sorted(source.rglob("*")):
        inside = file.relative_to(source)
        if file.relative_to(stage).as_posix() not in known:
            hidden = any(part.startswith(".") for part in inside.parts)
            strays += [inside.as_posix()] if not file.is_dir() and file.name != RECORD_FILE and not hidden else []
        elif Path(os.path.realpath(file)) != Path(os.path.realpath(run.path)) / file.relative_to(run.path):
            raise RunError(
                f"{file} is a link, or below one. Only a run's own files are shared: put the file itself there."
            )
        elif inside.as_posix() not in _LEFT_OUT:
            (target / inside).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target / inside)
    if strays:
        warnings.warn(f"left out of the export, as no file of a run: {', '.join(strays)} (in {source})", stacklevel=2)


def _use_cache(folder: Path) -> None:
    """Turn the cache on in config.json, which training turned off: `generate` is slow without."""
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
    """What the card says of the files that are exported."""
    tokenizer, config = (
        read_checked(folder / name, dict[str, Any]) for name in ("tokenizer_config.json", "config.json")
    )
    members = exported["recommender"].get("members", [])
    return {
        "name": exported["name"],
        "model": model,
        "members": [(one["weight"], Path(one["recommender"]["folder"]).name or model.name) for one in members],
        "example": (catalogue.ids_of([0])[0], catalogue.titles_of([0])[0], catalogue.codes_as_text([0])[0].as_py()),
        "levels": catalogue.codes.shape[1],
        "chat": (folder / "chat_template.jinja").is_file() or bool(tokenizer.get("chat_template")),
        "dtype": str(config.get("dtype", "auto")),
        "rows": config_from(folder).get_text_config().vocab_size,
        "adapter": (folder / ADAPTER).is_dir(),
    }
