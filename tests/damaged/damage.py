"""Ways to damage a folder: each takes the folder and changes files of it, as a bad copy or somebody hostile would."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import load_file, save_file

from llmrec.indexing.catalogue import ItemCatalogue, hash_codes
from llmrec.indexing.ids import flat

Damage = Callable[[Path], object]
CODE = "from pathlib import Path\nPath(__file__).with_name('ran').write_text('x')\n"


def content(name: str, data: bytes) -> Damage:
    """Other content of a file."""
    return lambda folder: (folder / name).write_bytes(data)


def part(name: str, share: float) -> Damage:
    """Only the beginning of a file."""

    def damage(folder: Path) -> None:
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: int(share * len(whole))])

    return damage


def without(name: str) -> Damage:
    """No such file."""
    return lambda folder: (folder / name).unlink()


def special(name: str, make: Callable[[Path], None]) -> Damage:
    """Something else in the place of a file: a folder, a pipe, a link."""

    def damage(folder: Path) -> None:
        (folder / name).unlink()
        make(folder / name)

    return damage


def changed(name: str, **keys: Any) -> Damage:
    """A JSON file with other keys; `...` takes a key out, and a function changes its value."""

    def damage(folder: Path) -> None:
        value = json.loads((folder / name).read_text())
        for key, new in keys.items():
            value[key] = new(value[key]) if callable(new) else new
            if new is ...:
                del value[key]
        (folder / name).write_text(json.dumps(value))

    return damage


def nested(name: str, *path: str | int, value: Any = ...) -> Damage:
    """A JSON file with another value somewhere inside; `...` takes the key out."""

    def damage(folder: Path) -> None:
        whole = here = json.loads((folder / name).read_text())
        for key in path[:-1]:
            here = here[key]
        here[path[-1]] = value
        if value is ...:
            del here[path[-1]]
        (folder / name).write_text(json.dumps(whole))

    return damage


def array(name: str, change: Callable[[np.ndarray], Any]) -> Damage:
    """Another array in a .npy file."""

    def damage(folder: Path) -> None:
        file = io.BytesIO()
        np.save(file, change(np.load(folder / name)), allow_pickle=True)
        (folder / name).write_bytes(file.getvalue())

    return damage


def table(name: str, change: Callable[[pa.Table], pa.Table]) -> Damage:
    """Another table in a Parquet file."""
    return lambda folder: pq.write_table(change(pq.read_table(folder / name)), folder / name)


def column(name: str, make: Callable[[list[Any]], Any]) -> Callable[[pa.Table], pa.Table]:
    """A table with another column in the place of one."""
    return lambda old: old.set_column(old.column_names.index(name), name, pa.array(make(old[name].to_pylist())))


def signed(change: Damage) -> Damage:
    """A change of a catalogue folder, with its hash made to fit: no mishap, but somebody's purpose."""

    def damage(folder: Path) -> None:
        change(folder)
        about, codes = json.loads((folder / "catalogue.json").read_text()), np.load(folder / "codes.npy")
        ids = flat(pq.read_table(folder / "items.parquet")["item_id"]).fill_null("")
        changed("catalogue.json", hash=hash_codes(ids, codes, about["tokens"]), items=len(ids))(folder)

    return in_catalogue(damage)


def in_catalogue(change: Damage) -> Damage:
    """A change of the catalogue in a folder; models of it and the catalogue go on fitting one another."""

    def damage(folder: Path) -> None:
        change(folder / "catalogue")
        about = json.loads((folder / "catalogue" / "catalogue.json").read_text())
        for note in [*folder.glob("llmrec.json"), *folder.glob("train-*/model/llmrec.json")]:
            changed(note.name, catalogue=about["hash"])(note.parent)

    return damage


def renamed(folder: Path) -> None:
    """The items of a catalogue folder, under other ids."""
    table("items.parquet", column("item_id", lambda old: [f"x{at}" for at in range(len(old))]))(folder)


def uncoded(folder: Path) -> None:
    """A catalogue folder of items without codes."""
    ItemCatalogue(pq.read_table(folder / "items.parquet")).save(folder)


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Damage:
    """Other weights, in a whole file."""

    def damage(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})

    return damage


def pickled(folder: Path) -> None:
    """The same weights, pickled."""
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


def code_of_model(folder: Path) -> None:
    """A model that only its own Python code could load."""
    (folder / "own_model.py").write_text(CODE + "class Config: pass\nclass Model: pass\n")
    auto = {"AutoConfig": "own_model.Config", "AutoModelForCausalLM": "own_model.Model"}
    changed("config.json", model_type="own", auto_map=auto)(folder)


def code_of_tokenizer(folder: Path) -> None:
    """A tokenizer that only its own Python code could load."""
    (folder / "own_words.py").write_text(CODE + "class Words: pass\n")
    auto = {"AutoTokenizer": ["own_words.Words", None]}
    changed("tokenizer_config.json", tokenizer_class="Words", auto_map=auto)(folder)


def adapters(folder: Path) -> None:
    """Adapters of a base elsewhere, in the folder of a whole model."""
    elsewhere = folder.with_name("elsewhere")
    shutil.copytree(folder, elsewhere)
    about = {"base_model_name_or_path": str(elsewhere), "peft_type": "LORA", "r": 1, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(about))


def both(*changes: Damage) -> Damage:
    """Several, one after the other."""

    def damage(folder: Path) -> None:
        for change in changes:
            change(folder)

    return damage


def link(target: str) -> Callable[[Path], None]:
    """A link to a place outside the folder."""
    return lambda path: path.symlink_to(target)


def moved_out(name: str) -> Damage:
    """A file that is a link to the same file elsewhere, as the cache of a hub has them."""

    def damage(folder: Path) -> None:
        elsewhere = folder.with_name(f"elsewhere-{Path(name).name}")
        shutil.move(folder / name, elsewhere)
        (folder / name).symlink_to(elsewhere)

    return damage


def fifo(path: Path) -> None:
    """A pipe, from which reading never ends."""
    os.mkfifo(path)


def copied(folder: Path, target: Path, damage: Damage) -> Path:
    shutil.copytree(folder, target)
    damage(target)
    return target
