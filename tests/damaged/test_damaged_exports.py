"""Exports that others made or that were copied badly end in one message, and no code of theirs ever runs."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from damage import (
    Damage,
    adapters,
    array,
    both,
    changed,
    code_of_model,
    code_of_tokenizer,
    column,
    content,
    copied,
    fifo,
    in_catalogue,
    link,
    moved_out,
    nested,
    part,
    pickled,
    signed,
    special,
    table,
    uncoded,
    weights,
    without,
)

import llmrec
from llmrec.errors import LlmrecError

HISTORY = ["i1", "i2", "i3"]
TEXTS = {
    "missing": without,
    "empty": lambda name: content(name, b""),
    "cut": lambda name: part(name, 0.5),
    "no text": lambda name: content(name, b'{"\xff": 1}'),
    "null": lambda name: content(name, b"null"),
    "a list": lambda name: content(name, b"[]"),
    "nothing in it": lambda name: content(name, b"{}"),
    "100,000 brackets": lambda name: content(name, b"[" * 100_000),
    "5,000 digits": lambda name: content(name, b'{"format": ' + b"9" * 5000 + b"}"),
    "a folder": lambda name: special(name, Path.mkdir),
    "a pipe": lambda name: special(name, fifo),
    "a link to nothing": lambda name: special(name, link("/nowhere/at/all")),
    "a link to a device": lambda name: special(name, link("/dev/zero")),
}
TABLES = {key: TEXTS[key] for key in ("missing", "empty", "cut", "no text", "a pipe", "a link to a device")}
NUMBERS = TABLES | {
    "pickled": lambda name: array(name, lambda old: np.array([{}, None], object)),
    "words": lambda name: array(name, lambda old: np.array(["a", "b"])),
    "two axes more": lambda name: array(name, lambda old: old[None, None]),
}
CATALOGUE, CODES = "catalogue/catalogue.json", "catalogue/codes.npy"
NOTE, DESCRIPTION = "llmrec.json", "recommender.json"
FIRST = np.arange(40)[:, None] == 0  # the row of the first of forty items


def elsewhere(folder: Path) -> None:
    """The whole export beside the folder, too."""
    shutil.copytree(folder, folder.with_name("elsewhere"))


def within(node: dict[str, object], _: int) -> dict[str, object]:
    """An ensemble of one recommender."""
    return {"kind": "ensemble", "members": [{"weight": 1, "depth": 1, "recommender": node}]}


def every(names: list[str], kinds: dict[str, Callable[[str], Damage]]) -> dict[str, Damage]:
    """Each kind of damage to each file."""
    return {f"{name}: {kind}": make(name) for name in names for kind, make in kinds.items()}


REFUSED: dict[str, Damage] = {
    **every([NOTE, DESCRIPTION, CATALOGUE, "config.json", "tokenizer.json"], TEXTS),
    **every(["catalogue/items.parquet", "model.safetensors"], TABLES),
    **every([CODES], NUMBERS),
    # the note
    "note without a prompt": changed(NOTE, prompt=...),
    "note with a further key": changed(NOTE, beam=3),
    "note of another type": changed(NOTE, history="8"),
    "note of no history": changed(NOTE, history=0),
    "note of null": changed(NOTE, held_out_prompt=None),
    "prompt without its slot": changed(NOTE, prompt="What comes next?"),
    "prompt with a slot that there is not": changed(NOTE, prompt="{history} for {item}"),
    "prompt that reaches into objects": changed(NOTE, prompt="{history.__class__}"),
    "prompt with its slot twice": changed(NOTE, prompt="{history} {history}"),
    "prompt with a format": changed(NOTE, prompt="{history:>999999999}"),
    "prompt with a broken brace": changed(NOTE, held_out_prompt="{history"),
    "search prompt with another slot": changed(NOTE, search="{history}"),
    "note of another catalogue": changed(NOTE, catalogue="0" * 64),
    "note of a path for a hash": changed(NOTE, catalogue="../.."),
    # the description
    "description without a recommender": changed(DESCRIPTION, recommender=...),
    "description of a number for a truth value": changed(DESCRIPTION, exclude_seen=1),
    "description of another format": changed(DESCRIPTION, format=2),
    "description with a further key": changed(DESCRIPTION, model="."),
    "description of no kind": nested(DESCRIPTION, "recommender", "kind"),
    "description of no known kind": nested(DESCRIPTION, "recommender", "kind", value="oracle"),
    "description of a kind that is a list": nested(DESCRIPTION, "recommender", "kind", value=[]),
    "description of no beams": nested(DESCRIPTION, "recommender", "beams", value=0),
    "description of a word for beams": nested(DESCRIPTION, "recommender", "beams", value="many"),
    "description without beams": nested(DESCRIPTION, "recommender", "beams"),
    "description without a folder": nested(DESCRIPTION, "recommender", "folder"),
    "description of a number for a folder": nested(DESCRIPTION, "recommender", "folder", value=3),
    "description with a further key of its kind": nested(DESCRIPTION, "recommender", "more", value=3),
    "model in a folder above": both(elsewhere, nested(DESCRIPTION, "recommender", "folder", value="../elsewhere")),
    "catalogue in a folder above": both(elsewhere, changed(DESCRIPTION, catalogue="../elsewhere/catalogue")),
    "model in any folder": both(
        elsewhere,
        lambda folder: nested(DESCRIPTION, "recommender", "folder", value=str(folder.parent / "elsewhere"))(folder),
    ),
    "model in a folder that there is not": nested(DESCRIPTION, "recommender", "folder", value="models/2"),
    # the catalogue
    "catalogue without a hash": changed(CATALOGUE, hash=...),
    "catalogue without tokens": changed(CATALOGUE, tokens=...),
    "catalogue with a further key": changed(CATALOGUE, more=1),
    "catalogue of fewer items than it says": changed(CATALOGUE, items=41),
    "catalogue without codes": in_catalogue(uncoded),
    "catalogue of no kind": changed(CATALOGUE, suffix="somehow"),
    "catalogue of another format": changed(CATALOGUE, format="1"),
    "catalogue that extends words": changed(CATALOGUE, extends="0" * 64),
    "tokens of numbers": changed(CATALOGUE, tokens=list(range(22))),
    "tokens twice": signed(changed("catalogue.json", tokens=lambda old: [*old, old[0]])),
    "tokens out of order": signed(changed("catalogue.json", tokens=lambda old: [*old[8:], *old[:8]])),
    "items without ids": table("catalogue/items.parquet", lambda old: old.drop_columns(["item_id"])),
    "items with numbers for ids": signed(table("items.parquet", column("item_id", lambda old: list(range(len(old)))))),
    "items with an empty id": signed(table("items.parquet", column("item_id", lambda old: [None, *old[1:]]))),
    "items twice": signed(table("items.parquet", column("item_id", lambda old: [old[1], *old[1:]]))),
    "items of half the catalogue": table("catalogue/items.parquet", lambda old: old.slice(0, 20)),
    "items in another order": table("catalogue/items.parquet", lambda old: old.take(pa.array(range(39, -1, -1)))),
    "codes of fewer items": array(CODES, lambda old: old[:-1]),
    "codes of more items": array(CODES, lambda old: np.append(old, old[:1], axis=0)),
    "codes of fractions": array(CODES, lambda old: old.astype(np.float32)),
    "codes of longer numbers": array(CODES, lambda old: old.astype(np.int64)),
    "codes of others": array(CODES, lambda old: old[::-1].copy()),
    "codes that repeat": signed(array("codes.npy", lambda old: np.append(old[1:2], old[1:], axis=0))),
    "codes that begin others": signed(array("codes.npy", lambda old: np.where(FIRST, np.append(old[1, :2], -1), old))),
    "codes of tokens that there are not": signed(array("codes.npy", lambda old: old + 1000)),
    "codes of negative tokens": signed(array("codes.npy", lambda old: old - 3)),
    "a code of nothing": signed(array("codes.npy", lambda old: np.where(FIRST, -1, old))),
    "a code with a gap": signed(array("codes.npy", lambda old: np.where(FIRST & (np.arange(3) == 1), -1, old))),
    "codes of no level": signed(array("codes.npy", lambda old: old[:, :0])),
    # configuration and weights
    "config of no layers": changed("config.json", num_hidden_layers=0),
    "config of fewer layers": changed("config.json", num_hidden_layers=1),
    "config of more layers": changed("config.json", num_hidden_layers=3),
    "config of a million million layers": changed("config.json", num_hidden_layers=10**12),
    "config without layers": changed("config.json", num_hidden_layers=...),
    "config of another kind of model": changed("config.json", model_type="bert"),
    "config of an encoder and a decoder": changed("config.json", model_type="t5"),
    "config of no known model": changed("config.json", model_type="nobody-knows-it"),
    "config of no model": changed("config.json", model_type=...),
    "config of fewer tokens": changed("config.json", vocab_size=64),
    "config of a million million tokens": changed("config.json", vocab_size=10**12),
    "config of other sizes": changed("config.json", hidden_size=32),
    "config of negative sizes": changed("config.json", intermediate_size=-1),
    "config that asks for a kernel": changed("config.json", attn_implementation="somebody/kernels"),
    "weights cut by a byte": part("model.safetensors", 0.999999),
    "weights that lack one": weights(lambda old: old.pop("model.layers.1.mlp.up_proj.weight")),
    "weights with one more": weights(lambda old: old.update(more=torch.zeros(1))),
    "weights of another shape": weights(lambda old: old.update({"model.norm.weight": torch.ones(7)})),
    "weights that are no numbers": weights(lambda old: old["model.norm.weight"].fill_(torch.nan)),
    "weights without end": weights(lambda old: old["model.embed_tokens.weight"][300].fill_(torch.inf)),
    "pickled weights": pickled,
    "weights elsewhere": both(without("model.safetensors"), content("model.safetensors.index.json", b"[]")),
    "adapters beside the weights": adapters,
    # words
    "tokenizer of other words": nested("tokenizer.json", "added_tokens", value=[]),
    "tokenizer that breaks at work": nested("tokenizer.json", "post_processor", "special_tokens", value={}),
    "tokenizer with no model": nested("tokenizer.json", "model", value={}),
    "tokenizer of strange end tokens": changed("tokenizer_config.json", eos_token=[]),
    "tokenizer config: a list": content("tokenizer_config.json", b"[]"),
    "special tokens cut": content("special_tokens_map.json", b'{"eos_token": "'),
    "chat template that is none": content("chat_template.jinja", b"{% for"),
    "chat template that says nothing": content("chat_template.jinja", b"hello"),
    "chat template that raises": content("chat_template.jinja", b"{{ raise_exception('no') }}"),
    "chat template that reaches out": content("chat_template.jinja", b"{{ messages.__class__.__mro__[1].x() }}"),
    # code
    "a model of its own code": code_of_model,
    "a tokenizer of its own code": code_of_tokenizer,
}
"""What must end in an error of ours."""

_MEMBERS = (DESCRIPTION, "recommender", "members")
_SAVED = "collaborative/markov/collaborative.json"
REFUSED_ENSEMBLES: dict[str, Damage] = {
    **every([_SAVED, "collaborative/ease/collaborative.json"], TEXTS),
    **every(["collaborative/markov/starts.npy", "collaborative/ease/weights.npy"], NUMBERS),
    "members: none": nested(*_MEMBERS, value=[]),
    "members: a word": nested(*_MEMBERS, value="all"),
    "members: words": nested(*_MEMBERS, value=["all"]),
    "a member of no weight": nested(*_MEMBERS, 1, "weight"),
    "a member of a negative weight": nested(*_MEMBERS, 1, "weight", value=-0.5),
    "a member of infinite weight": nested(*_MEMBERS, 1, "weight", value=float("inf")),
    "a member of a word for a weight": nested(*_MEMBERS, 1, "weight", value="all"),
    "members of weights that sum to nothing": both(
        nested(*_MEMBERS, 0, "weight", value=0), nested(*_MEMBERS, 1, "weight", value=0)
    ),
    "a member of no depth": nested(*_MEMBERS, 1, "depth", value=0),
    "a member of a word for a depth": nested(*_MEMBERS, 1, "depth", value="deep"),
    "a member that is no recommender": nested(*_MEMBERS, 1, "recommender", value="markov"),
    "a member with a further key": nested(*_MEMBERS, 1, "more", value=1),
    "a member of items that there are not": nested(*_MEMBERS, 1, "recommender", "items", value="items"),
    "a member of items above": both(
        elsewhere, nested(*_MEMBERS, 1, "recommender", "items", value="../elsewhere/catalogue")
    ),
    "members within members without end": nested(
        *_MEMBERS, value=[{"weight": 1, "depth": 1, "recommender": functools.reduce(within, range(100), {})}]
    ),
    "a part of a member missing": lambda folder: shutil.rmtree(folder / "collaborative" / "ease-recent"),
    "a member of other items": changed(_SAVED, item_ids="0" * 64),
    "a member of no known model": changed(_SAVED, model="oracle"),
}
"""What must end in an error of ours, in an export of an ensemble."""

AS_BEFORE: dict[str, Damage] = {
    "nothing": lambda folder: None,
    "links as in the cache of a hub": both(*(moved_out(name) for name in ("model.safetensors", CATALOGUE, NOTE))),
    "no health": without("catalogue/health.json"),
    "no quantizer": without("catalogue/codebooks.npy"),
    "no card": without("README.md"),
    "items without titles": table("catalogue/items.parquet", lambda old: old.drop_columns(["title"])),
    "damaged generation settings": content("generation_config.json", b"{"),
    "code that is not needed": changed("config.json", auto_map={"AutoModelForCausalLM": "own_model.Model"}),
}
"""What changes no recommendation."""


@pytest.fixture(scope="module")
def expected(whole: Path) -> list[tuple[str, float]]:
    return recommended(whole)


def recommended(folder: Path) -> list[tuple[str, float]]:
    return llmrec.load(folder).recommend(HISTORY, 5)


@pytest.mark.parametrize("damage", REFUSED)
def test_a_damaged_export_ends_in_one_message(damage: str, whole: Path, tmp_path: Path, asked: list[str]) -> None:
    folder = copied(whole, tmp_path / "export", REFUSED[damage])
    with pytest.raises(LlmrecError) as caught:
        recommended(folder)
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message and len(message) < 1000 and "trust_remote_code" not in message
    assert not asked and not (folder / "ran").exists()


@pytest.mark.parametrize("damage", REFUSED_ENSEMBLES)
def test_a_damaged_export_of_an_ensemble_ends_in_one_message(
    damage: str, whole_ensemble: Path, tmp_path: Path, asked: list[str]
) -> None:
    folder = copied(whole_ensemble, tmp_path / "export", REFUSED_ENSEMBLES[damage])
    with pytest.raises(LlmrecError) as caught:
        recommended(folder)
    message = str(caught.value)
    assert str(folder) in message and "\n" not in message and len(message) < 1000 and not asked


@pytest.mark.parametrize("damage", AS_BEFORE)
def test_what_is_not_needed_changes_nothing(
    damage: str, whole: Path, tmp_path: Path, expected: list[tuple[str, float]], asked: list[str]
) -> None:
    assert recommended(copied(whole, tmp_path / "export", AS_BEFORE[damage])) == expected and not asked
