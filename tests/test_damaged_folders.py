"""Folders that others made or that were copied badly end in one message, and no code of theirs ever runs."""

from __future__ import annotations

import ast
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pytest
import torch
from damaged import (
    Damage,
    adapters,
    array,
    both,
    changed,
    code_of_model,
    code_of_tokenizer,
    column,
    content,
    fifo,
    link,
    moved_out,
    nested,
    part,
    pickled,
    renamed,
    signed,
    special,
    table,
    trie,
    weights,
    without,
)
from typer.testing import CliRunner

import llmrec
from llmrec.cli.main import app
from llmrec.data.fetch import KNOWN, _known
from llmrec.errors import LlmrecError, ModelError, RunError
from llmrec.export import export
from llmrec.model.base import load_base
from llmrec.model.folder import load
from llmrec.model.merge import load_adapter, save_adapter
from llmrec.rate.study import Study

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
CATALOGUE, NOTE = "catalogue/catalogue.json", "llmrec.json"


def every(names: list[str], kinds: dict[str, Callable[[str], Damage]]) -> dict[str, Damage]:
    """Each kind of damage to each file."""
    return {f"{name}: {kind}": make(name) for name in names for kind, make in kinds.items()}


REFUSED: dict[str, Damage] = {
    **every([NOTE, CATALOGUE, "catalogue/trie.json", "config.json", "tokenizer.json"], TEXTS),
    **every(["catalogue/items.parquet", "catalogue/codes.parquet", "model.safetensors"], TABLES),
    **every([f"catalogue/trie.{name}.npy" for name in ("order", "first_child", "symbol")], NUMBERS),
    # the note
    "note without a prompt": changed(NOTE, prompt=...),
    "note with a further key": changed(NOTE, beam=3),
    "note of another type": changed(NOTE, history="8"),
    "note of a truth value": changed(NOTE, exclude_seen=1),
    "note of no history": changed(NOTE, history=0),
    "note of no beams": changed(NOTE, beams=-1),
    "note of null": changed(NOTE, held_out_prompt=None),
    "prompt without its slot": changed(NOTE, prompt="What comes next?"),
    "prompt with a slot that there is not": changed(NOTE, prompt="{history} for {user}"),
    "prompt that reaches into objects": changed(NOTE, prompt="{history.__class__}"),
    "prompt with its slot twice": changed(NOTE, prompt="{history} {history}"),
    "prompt with a format": changed(NOTE, prompt="{history:>999999999}"),
    "prompt with a broken brace": changed(NOTE, held_out_prompt="{history"),
    "search prompt with another slot": changed(NOTE, search="{history}"),
    "note of another catalogue": changed(NOTE, catalogue="0" * 64),
    "note of a path for a hash": changed(NOTE, catalogue="../.."),
    # the catalogue
    "catalogue without a hash": changed(CATALOGUE, hash=...),
    "catalogue without tokens": changed(CATALOGUE, tokens=...),
    "catalogue with a further key": changed(CATALOGUE, more=1),
    "catalogue of fewer items than it says": changed(CATALOGUE, items=41),
    "catalogue of no kind": changed(CATALOGUE, ends="somehow"),
    "catalogue of another format": changed(CATALOGUE, format="1"),
    "catalogue that extends words": changed(CATALOGUE, extends="0" * 64),
    "tokens of numbers": changed(CATALOGUE, tokens=list(range(22))),
    "tokens twice": signed(changed("catalogue.json", tokens=lambda old: [*old, old[0]])),
    "tokens out of order": signed(changed("catalogue.json", tokens=lambda old: [*old[8:], *old[:8]])),
    "items without ids": table("catalogue/items.parquet", lambda old: old.drop_columns(["item_id"])),
    "items with numbers for ids": signed(table("items.parquet", column("item_id", lambda old: list(range(len(old)))))),
    "items with an empty id": signed(table("items.parquet", column("item_id", lambda old: [None, *old[1:]]))),
    "items twice": signed(
        both(
            *(
                table(f"{name}.parquet", column("item_id", lambda old: [old[1], *old[1:]]))
                for name in ("items", "codes")
            )
        )
    ),
    "items of half the catalogue": table("catalogue/items.parquet", lambda old: old.slice(0, 20)),
    "items in another order": table("catalogue/items.parquet", lambda old: old.take(pa.array(range(39, -1, -1)))),
    "codes without codes": table("catalogue/codes.parquet", lambda old: old.drop_columns(["code"])),
    "codes of texts": table("catalogue/codes.parquet", column("code", lambda old: ["".join(code) for code in old])),
    "codes with null": table("catalogue/codes.parquet", column("code", lambda old: [None, *old[1:]])),
    "codes with an empty token": table("catalogue/codes.parquet", column("code", lambda old: [[None], *old[1:]])),
    "codes with a strange token": table("catalogue/codes.parquet", column("code", lambda old: [["<z_9>"], *old[1:]])),
    "codes that repeat": signed(table("codes.parquet", column("code", lambda old: [old[1], *old[1:]]))),
    "codes that begin others": signed(table("codes.parquet", column("code", lambda old: [old[1][:2], *old[1:]]))),
    "a code of nothing": signed(table("codes.parquet", column("code", lambda old: [[], *old[1:]]))),
    # the trie, with hashes that fit
    "trie in circles": trie(first_child=lambda old: np.where(np.arange(len(old)) < 3, 0, old)),
    "trie whose root is its child": trie(first_child=lambda old: np.zeros_like(old)),
    "trie of children that there are not": trie(first_child=lambda old: old + 1000),
    "trie of negative children": trie(first_child=lambda old: -old),
    "trie of items that there are not": trie(order=lambda old: old + 1000),
    "trie with an item twice": trie(order=lambda old: np.zeros_like(old)),
    "trie of items of others": trie(order=lambda old: old[::-1].copy()),
    "trie of ranges that there are not": trie(stop=lambda old: old + 1000),
    "trie of turned ranges": trie(start=lambda old: old[::-1].copy()),
    "trie of symbols that there are not": trie(symbol=lambda old: old + 200),
    "trie of fractions": trie(start=lambda old: old.astype(np.float64)),
    "trie of few nodes": trie(symbol=lambda old: old[:3]),
    "trie of no items": trie(order=lambda old: old[:0]),
    "trie of two axes": trie(start=lambda old: old[:, None]),
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


METRICS, CASES = "train-1-sft/eval/metrics.json", "train-1-sft/eval/per_user.parquet"
ALL = ("user", "evaluate", "report", "show", "export")
RUN: dict[str, tuple[Damage, tuple[str, ...]]] = {
    "made.json cut": (part("data/made.json", 0.5), ALL[:3]),
    "made.json of a list": (content("data/made.json", b"[]"), ALL[:3]),
    "made.json without a hash": (changed("train-1-sft/made.json", output=...), ("evaluate", "report", "export")),
    "made.json without inputs": (changed("train-1-sft/made.json", inputs=...), ("evaluate", "report")),
    "made.json of strange facts": (changed("data/made.json", facts=3), ALL[:3]),
    "made.json of a training without its base": (
        nested("train-1-sft/made.json", "recipe", "model", "base"),
        ("export",),
    ),
    "no items": (without("data/items.parquet"), ("user", "evaluate", "report", "show", "run")),
    "items that are a pipe": (special("data/items.parquet", fifo), ("user", "evaluate", "report", "show", "run")),
    "half of the interactions": (
        table("data/interactions.parquet", lambda old: old.slice(0, 420)),
        ("user", "evaluate", "show"),
    ),
    "made.json of no source": (nested("data/made.json", "recipe", "source"), ("export",)),
    "interactions cut": (part("data/interactions.parquet", 0.5), ("user", "evaluate")),
    "interactions without items": (
        table("data/interactions.parquet", lambda old: old.drop_columns(["item_id"])),
        ("user", "evaluate", "show"),
    ),
    "interactions with words for times": (
        table("data/interactions.parquet", column("timestamp", lambda old: ["x"] * len(old))),
        ("user", "evaluate"),
    ),
    "interactions without a user": (
        table("data/interactions.parquet", column("user_id", lambda old: [None, *old[1:]])),
        ("user", "evaluate"),
    ),
    "interactions of an item that the items lack": (
        table("data/interactions.parquet", column("item_id", lambda old: ["i99", *old[1:]])),
        ("user", "evaluate", "show"),
    ),
    "interactions of no split": (
        table("data/interactions.parquet", column("split", lambda old: ["later", *old[1:]])),
        ("evaluate", "show"),
    ),
    "interactions out of order": (
        table("data/interactions.parquet", lambda old: old.take(pa.array([*range(1, len(old)), 0]))),
        ("user", "evaluate", "show"),
    ),
    "items of the data twice": (
        table("data/items.parquet", column("item_id", lambda old: [old[1], *old[1:]])),
        ("user", "show"),
    ),
    "a catalogue of other items": (
        signed(renamed),
        ("user", "evaluate"),
    ),
    "texts of fewer items": (content("items/texts.json", b'["one"]'), ("run",)),
    "texts of numbers": (content("items/texts.json", b"[1, 2]"), ("run",)),
    "vectors cut": (part("items/vectors/hashing.npy", 0.5), ("evaluate", "show")),
    "vectors of other items": (array("items/vectors/hashing.npy", lambda old: old[:-1]), ("evaluate", "show")),
    "vectors that are no numbers": (array("items/vectors/hashing.npy", lambda old: old * np.nan), ("evaluate", "show")),
    "pickled vectors": (
        array("items/vectors/hashing.npy", lambda old: np.array([{}], object)),
        ("evaluate", "show"),
    ),
    "health without a level's width": (nested("catalogue/health.json", "levels", 0, "width"), ("report", "show")),
    "health of strange words": (changed("catalogue/health.json", verdict=3), ("report", "show")),
    "quantizer cut": (part("catalogue/codebooks.npy", 0.5), ("add",)),
    "quantizer of other widths": (array("catalogue/codebooks.npy", lambda old: old[:, :3]), ("add",)),
    "quantizer of infinity": (array("catalogue/codebooks.npy", lambda old: old + np.inf), ("add",)),
    "settings of no method": (changed("catalogue/indexing.json", method="magic"), ("add",)),
    "examples cut": (part("tasks/examples/next_item-00000.arrow", 0.5), ("tasks",)),
    "examples that are a pipe": (special("tasks/examples/next_item-00000.arrow", fifo), ("tasks",)),
    "examples of text": (content("tasks/examples/next_item-00000.arrow", b"hello"), ("tasks",)),
    "metrics cut": (part(METRICS, 0.5), ("report", "compare", "export")),
    "metrics without the model": (nested(METRICS, "systems", "nano"), ("report", "compare", "export")),
    "metrics of words": (nested(METRICS, "systems", "nano", "hr@1", "mean", value="good"), ("report", "compare")),
    "metrics of no protocol": (changed(METRICS, protocol=...), ("report", "compare", "export")),
    "metrics that are infinite": (nested(METRICS, "systems", "ease", "hr@1", "low", value=float("nan")), ("report",)),
    "differences of words": (nested(METRICS, "paired", "ease", value=[]), ("report",)),
    "cases cut": (part(CASES, 0.5), ("compare",)),
    "cases without figures": (table(CASES, lambda old: old.drop_columns(["nano hr@1"])), ("compare",)),
    "cases of words": (table(CASES, column("nano hr@1", lambda old: ["x"] * len(old))), ("compare",)),
    "cases without a figure": (table(CASES, column("nano hr@1", lambda old: [None, *old[1:]])), ("compare",)),
    "no cases": (table(CASES, lambda old: old.slice(0, 0)), ("compare",)),
    "examples of users without titles": (content("train-1-sft/eval/examples.json", b'[{"user_id": "1"}]'), ("report",)),
    "lists of words for ranks": (
        table("train-1-sft/eval/recommendations.parquet", column("rank", lambda old: ["x"] * len(old))),
        ("report",),
    ),
    "log of words": (content("train-1-sft/log.jsonl", b'{"step": 1, "loss": "low"}\n'), ("report",)),
    "log without steps": (content("train-1-sft/log.jsonl", b'{"loss": 1.0}\n'), ("report",)),
    "model: note of another type": (changed("train-1-sft/model/llmrec.json", history="8"), ("user", "evaluate")),
    "model: weights cut": (part("train-1-sft/model/model.safetensors", 0.5), ("user", "evaluate")),
}
"""Damage to a run, and the verbs that must end in an error of ours for it."""

BASES: dict[str, Damage] = {
    "code": code_of_model,
    "code of a tokenizer": code_of_tokenizer,
    "pickled weights": pickled,
    "adapters": adapters,
    "a weight missing": weights(lambda old: old.pop("model.layers.1.mlp.up_proj.weight")),
    "weights cut": part("model.safetensors", 0.5),
    "a weight that is no number": weights(lambda old: old["model.norm.weight"].fill_(torch.nan)),
    "a million million layers": changed("config.json", num_hidden_layers=10**12),
    "no configuration": without("config.json"),
    "a tokenizer that is none": content("tokenizer.json", b"{}"),
    "a pipe": special("config.json", fifo),
}
"""Damage to a base that a recipe names."""

ADAPTERS: dict[str, Damage] = {
    "no weights": without("adapter_model.safetensors"),
    "pickled weights": both(without("adapter_model.safetensors"), content("adapter_model.bin", b"x")),
    "weights cut": part("adapter_model.safetensors", 0.5),
    "no configuration": without("adapter_config.json"),
    "configuration cut": part("adapter_config.json", 0.5),
    "no known kind": changed("adapter_config.json", peft_type="magic"),
    "no vocabulary": without("vocabulary.json"),
    "a vocabulary of words": changed("vocabulary.json", rows="many"),
    "another vocabulary": changed("vocabulary.json", hash="0" * 64),
}
"""Damage to adapters that training left."""


class Hang(BaseException):
    """Something takes too long; no handler of exceptions catches it."""


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """A hang is a failure, and does not stall the tests."""

    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(scope="module")
def whole(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(tiny_run, tmp_path_factory.mktemp("exports") / "whole")


@pytest.fixture(scope="module")
def expected(whole: Path) -> list[tuple[str, float]]:
    return recommended(whole)


def recommended(folder: Path) -> list[tuple[str, float]]:
    return llmrec.load(folder).recommend(HISTORY, 5)


def copied(folder: Path, target: Path, damage: Damage) -> Path:
    shutil.copytree(folder, target)
    damage(target)
    return target


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was asked on the terminal; the answer is yes to everything."""
    questions: list[str] = []
    monkeypatch.setattr("builtins.input", lambda question="": questions.append(question) or "y")
    return questions


@pytest.mark.parametrize("damage", REFUSED)
def test_a_damaged_export_ends_in_one_message(damage: str, whole: Path, tmp_path: Path, asked: list[str]) -> None:
    folder = copied(whole, tmp_path / "export", REFUSED[damage])
    with pytest.raises(LlmrecError) as caught:
        recommended(folder)
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message and len(message) < 1000 and "trust_remote_code" not in message
    assert not asked and not (folder / "ran").exists()


@pytest.mark.parametrize("damage", AS_BEFORE)
def test_what_is_not_needed_changes_nothing(
    damage: str, whole: Path, tmp_path: Path, expected: list[tuple[str, float]], asked: list[str]
) -> None:
    assert recommended(copied(whole, tmp_path / "export", AS_BEFORE[damage])) == expected and not asked


@pytest.fixture(scope="module")
def verbs(tiny_run: Path, world: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Path], list[str]]:
    """Name of a use → the words of the command line for a run."""
    new = tmp_path_factory.mktemp("new") / "new.csv"
    new.write_text("item_id,title,kind\nnew,A new film,drama\n")

    def words(name: str, run: Path) -> list[str]:
        places = {"user": ["recommend", run, "--user", "u3"], "evaluate": ["evaluate", run], "report": ["report", run]}
        places |= {"compare": ["compare", run, tiny_run], "export": ["export", run, run.with_name("exported")]}
        places |= {"show": ["index", "show", run], "add": ["index", "add", run, new], "tasks": ["tasks", "show", run]}
        places |= {"run": ["run", world, "--out", run, "tasks.history=7", "--until", "tasks"]}
        return [str(word) for word in places[name]]

    return words


def ended(words: list[str]) -> BaseException | None:
    """What a command ended with."""
    return CliRunner().invoke(app, words).exception


@pytest.mark.parametrize("name", ["user", "evaluate", "report", "compare", "export", "show", "add", "tasks", "run"])
def test_every_use_of_a_whole_run_goes_well(
    name: str, tiny_run: Path, tmp_path: Path, verbs: Callable[[str, Path], list[str]]
) -> None:
    assert ended(verbs(name, copied(tiny_run, tmp_path / "run", lambda run: None))) is None


@pytest.mark.parametrize("damage", RUN)
def test_a_damaged_run_ends_in_one_message(
    damage: str, tiny_run: Path, tmp_path: Path, verbs: Callable[[str, Path], list[str]]
) -> None:
    harm, names = RUN[damage]
    run = copied(tiny_run, tmp_path / "run", harm)
    for name in names:
        error = ended(verbs(name, run))
        assert isinstance(error, LlmrecError), f"{name} ended in {error!r}"
        assert "\n" not in str(error) and len(str(error)) < 1000


@pytest.mark.parametrize("damage", BASES)
def test_a_damaged_base_of_a_recipe_ends_in_one_message(
    damage: str, whole: Path, tmp_path: Path, asked: list[str]
) -> None:
    folder = copied(whole, tmp_path / "base", BASES[damage])
    with pytest.raises(ModelError, match=r"^model\.base: .*/base cannot be loaded: .*\nGive nano, "):
        load_base(str(folder), torch.float32)
    assert not asked and not (folder / "ran").exists()


@pytest.mark.parametrize("damage", ADAPTERS)
def test_damaged_adapters_end_in_one_message(damage: str, whole: Path, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model, tokenizer, _ = load(whole)
    small = LoraConfig(r=1, target_modules=["q_proj"])
    save_adapter(get_peft_model(cast(Any, model), small), tokenizer, tmp_path / "adapter")
    ADAPTERS[damage](tmp_path / "adapter")
    with pytest.raises(ModelError, match="/adapter"):
        load_adapter(load(whole)[0], tokenizer, tmp_path / "adapter")


@pytest.mark.parametrize("text", ["{", "[]", "null", '{"a": 1}', '{"system": "a", "facts": {}, "predicted": [1.0]}'])
def test_a_damaged_file_of_a_study_or_of_a_fetched_set_ends_in_one_message(text: str, tmp_path: Path) -> None:
    study = Study(cast(Any, None), cast(Any, [0, 0]), tmp_path, 0)
    (tmp_path / "systems").mkdir()
    for file in (tmp_path / "systems" / "a.json", tmp_path / KNOWN):
        file.write_text(text)
    with pytest.raises(RunError, match=r"a\.json .*Delete the file"):
        study.kept()
    with pytest.raises(RunError, match=rf"{KNOWN} .*Delete the file"):
        _known(tmp_path)


def calls() -> Iterator[tuple[str, str, dict[str, object]]]:
    """Every call in llmrec: where, what is called, and arguments with names, those that are constants by value."""
    root = Path(llmrec.__file__).parent
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                named = {word.arg or "": getattr(word.value, "value", ...) for word in node.keywords}
                yield f"{path.relative_to(root)}:{node.lineno}", ast.unparse(node.func), named


def test_nothing_loads_code_or_pickles_from_a_folder() -> None:
    for where, name, named in calls():
        if name.endswith("from_pretrained") and not name.startswith("PeftModel"):
            assert named.get("trust_remote_code") is False, f"{where}: {name} without trust_remote_code=False"
        assert named.get("allow_pickle", False) is False, f"{where}: {name} unpickles"
        assert name != "torch.load" or named.get("weights_only") is True, f"{where}: torch.load unpickles"
        assert name.split(".")[0] not in ("pickle", "cloudpickle", "dill", "joblib"), f"{where}: {name}"
