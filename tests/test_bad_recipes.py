"""Recipes that cannot be read, whatever is in them: each ends in one RecipeError that says what, where, what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.errors import RecipeError
from llmrec.recipe_file import dump, load, read

PATH = Path("mine.yaml")
FILES = "data: {source: files, interactions: %s, items: i.csv}\n"
HUGE = "9" * 5000
NESTED = 3000

# name → text of the recipe, and words that the message holds
TEXTS: dict[str, tuple[str | bytes, str]] = {
    # encodings and YAML itself
    "utf-16": ("seed: 1\n".encode("utf-16"), "UTF-8"),
    "latin-1": ("items: {text: [título]}\n".encode("latin-1"), "UTF-8"),
    "binary": (bytes(range(256)), "UTF-8"),
    "nul byte": (b"seed: 1\x00\n", "mine.yaml"),
    "control character": (b"seed: \x07\n", "mine.yaml"),
    "tab": ("data:\n\tsource: files\n", "line 2"),
    "list": ("- 1\n- 2\n", "mapping"),
    "scalar": ("just words\n", "mapping"),
    "number": ("42\n", "mapping"),
    "list of a scalar": ("[[[]]]\n", "mapping"),
    "two documents": ("seed: 1\n---\nseed: 2\n", "line 2"),
    "open bracket": ("data: [\n", "line"),
    "open quote": ('data: "\n', "line"),
    "unknown anchor": ("data: *nowhere\n", "line 1"),
    "percent": ("%YAML 9.9\n---\nseed: 1\n", "mine.yaml"),
    "indented wrongly": ("data:\n  source: files\n interactions: x\n", "line 3"),
    "brackets": ("a: " + "[" * NESTED + "]" * NESTED, "deep"),
    "braces": ("a: " + "{a: " * NESTED + "1" + "}" * NESTED, "deep"),
    "dashes": ("- " * NESTED + "1", "deep"),
    "brackets left open": ("a: " + "[" * NESTED, "mine.yaml"),
    "nested questions": ("? " * NESTED + "1", "deep"),
    "bomb": (
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True))
        + "items: {text: *i}\n",
        "unknown key 'a'",
    ),
    "bomb where it fits": (
        "caps: &a {x: 1, y: 1}\nitems: {text: [&b [*a, *a], &c [*b, *b], &d [*c, *c], [*d, *d]]}\n",
        "items.text.0",
    ),
    "anchor in itself": ("data: &a {world: *a}\n", "mine.yaml"),
    "list in itself": ("evaluate: {ranking: &a [*a]}\n", "mine.yaml"),
    # keys
    "number for a key": ("1: 2\n", "unknown key '1'"),
    "true for a key": ("on: 1\n", "line 1: unknown key 'on'"),
    "null for a key": ("null: 1\n", "line 1: unknown key 'null'"),
    "day for a key": ("2014-01-01: 1\n", "unknown key '2014-01-01'"),
    "list for a key": ("? [1, 2]\n: 3\n", "line 1"),
    "mapping for a key": ("? {a: 1}\n: 3\n", "line 1"),
    "number for a key inside": ("data: {1: 2}\n", "data.1"),
    "null for a key inside": ("tasks: {null: 2}\n", "tasks.null"),
    "number for a task": ("tasks: {max_examples: {1: 2}}\n", "max_examples"),
    "merges of much": (
        "".join(f"a{n}: &a{n} {{{', '.join(f'k{n}-{k}: 1' for k in range(100))}}}\n" for n in range(11))
        + f"data: {{<<: [{', '.join(f'*a{n}' for n in range(11))}]}}\n",
        "line 12",
    ),
    "larger than a recipe": ("# " + "x" * 1_000_001, "larger"),
    "merge of a number": ("data: {<<: 1}\n", "line 1"),
    "empty key": ("'': 1\n", "unknown key ''"),
    "long key": ("k" * 100_000 + ": 1\n", "mine.yaml"),
    "keys that look alike": ("".join(f"sede{n}: 1\n" for n in range(2000)), "1980 more"),
    "keys inside that look alike": ("data:\n" + "".join(f"  sourc{n}: 1\n" for n in range(2000)), "1980 more"),
    "many wrong values": ("evaluate: {ranking: [" + "x, " * 5000 + "]}\n", "4980 more"),
    "escape in a key": ('"\\e[31mred": 1\n', "unknown key"),
    # tags
    "python object": ("seed: !!python/object/apply:os.getpid []\n", "line 1"),
    "python name": ("seed: !!python/name:os.system\n", "line 1"),
    "python module": ("seed: !!python/module:os\n", "line 1"),
    "tag of somebody": ("data: !mine {a: 1}\n", "line 1"),
    "no int": ("seed: !!int x\n", "line 1"),
    "empty int": ("seed: !!int ''\n", "line 1"),
    "no float": ("seed: !!float x\n", "line 1"),
    "no bool": ("seed: !!bool x\n", "line 1"),
    "no timestamp": ("seed: !!timestamp x\n", "line 1"),
    "no binary": ("seed: !!binary '*'\n", "line 1"),
    "no set": ("seed: !!set 1\n", "line 1"),
    "set": ("data: !!set {a, b}\n", "data"),
    "no pairs": ("seed: !!omap 1\n", "line 1"),
    "no mapping": ("data: !!map 1\n", "line 1"),
    "no list": ("items: {text: !!seq 1}\n", "line 1"),
    "octal": ("seed: 0o9\n", "seed"),
    "signs alone": ("seed: !!int '-'\n", "line 1"),
    "underscores": ("seed: 0x_\n", "line 1"),
    # days
    "no such month": ("data: {since: 2014-13-45}\n", "data.since"),
    "no such month, quoted": ("data: {since: '2014-13-45'}\n", "data.since"),
    "no such day": ("data: {until: 2015-02-29}\n", "data.until"),
    "no such hour": ("data: {until: '2015-02-28 25:00'}\n", "data.until"),
    "no such hour, unquoted": ("data: {until: 2015-02-28 25:00:00}\n", "data.until"),
    "year nought": ("data: {since: 0000-01-01}\n", "data.since"),
    "no day": ("data: {since: yesterday}\n", "data.since"),
    "number for a day": ("data: {since: 2014}\n", "data.since"),
    "zone": ("data: {since: 2014-01-01T00:00:00+99:00}\n", "data.since"),
    # numbers
    "seed of 2^63": (f"seed: {2**63}\n", "9223372036854775807"),
    "negative seed": ("seed: -1\n", "0"),
    "seed of 5000 digits": (f"seed: {HUGE}\n", "line 1"),
    "seed of 5000 digits, quoted": (f"seed: '{HUGE}'\n", "seed"),
    "seed of 4000 digits": (f"seed: {HUGE[:4000]}\n", "seed"),
    "seed of 5000 hexadecimal digits": (f"seed: 0x{'f' * 5000}\n", "seed"),
    "true for a seed": ("seed: true\n", "seed"),
    "world's seed": (f"data: {{synthetic: {{seed: {2**64}}}}}\n", "data.synthetic.seed"),
    "half a seed": ("seed: 1.5\n", "seed"),
    "epochs of nan": ("train: [{epochs: .nan}]\n", "train.0.epochs"),
    "epochs of inf": ("train: [{epochs: .inf}]\n", "train.0.epochs"),
    "epochs of 1e999": ("train: [{epochs: 1.0e999}]\n", "train.0.epochs"),
    "epochs of 5000 digits": (f"train: [{{epochs: {HUGE}}}]\n", "line 1"),
    "epochs of 400 digits": (f"train: [{{epochs: {HUGE[:400]}}}]\n", "train.0.epochs"),
    "true for epochs": ("train: [{epochs: true}]\n", "train.0.epochs"),
    "rate of inf": ("train: [{learning_rate: .inf}]\n", "train.0.learning_rate"),
    "true for a weight": ("tasks: {rating: true}\n", "tasks.rating"),
    "true for a cap": ("tasks: {max_examples: {rating: true}}\n", "tasks.max_examples: rating: should be a number"),
    "weight of inf": ("tasks: {rating: .inf}\n", "tasks.rating"),
    "rating of nan": ("data: {min_rating: .nan}\n", "data.min_rating"),
    "batch of 2^64": (f"train: [{{batch: {2**64}}}]\n", "train.0.batch"),
    "history of 10^30": (f"tasks: {{history: {10**30}}}\n", "tasks.history"),
    "reward of inf": ("train: [{}, {method: grpo, rewards: {hit: .inf}}]\n", "train.1.rewards.hit"),
    "width of 2^70 by 2^69": (f"model: {{width: {2**70}, heads: {2**65}}}\n", "model.width"),
    "metric of 5000 digits": (f"evaluate: {{ranking: [hr@{HUGE}]}}\n", "evaluate.ranking.0"),
    "metric of 10^12": ("evaluate: {ranking: ['hr@1000000000000'], beams: 50}\n", "evaluate"),
    # shapes
    "scalar for a part": ("data: 3\n", "data"),
    "list for a part": ("model: [1]\n", "model"),
    "null for a part": ("model: null\n", "model"),
    "mapping for a list": ("train: {epochs: 1}\n", "train"),
    "scalar for a stage": ("train: [3]\n", "train.0"),
    "null for a stage": ("train: [null]\n", "train.0"),
    "list for a stage": ("train: [[]]\n", "train.0"),
    "list for a method": ("train: [{method: [sft]}]\n", "train.0"),
    "mapping for a method": ("train: [{method: {}}]\n", "train.0"),
    "number for a method": ("train: [{method: 7}]\n", "train.0"),
    "prefer for a method": ("train: [{}, {method: prefer}]\n", "train.1"),
    "mapping for text": ("items: {text: [{}]}\n", "items.text.0"),
    "list for a mixture": ("tasks: {mixture: [p5]}\n", "tasks.mixture"),
    "list for columns": ("data: {columns: []}\n", "data.columns"),
    # names of files
    "nul in a path": (FILES % '"a\\0b"', "line 1"),
    "half a character in a path": (FILES % '"a\\uD800b"', "line 1"),
    "half a character in text": ('items: {text: ["\\uD800"]}\n', "line 1"),
    "nul in a base": ('model: {base: "a\\0b"}\n', "line 1"),
    "name of 300 letters": (FILES % ("x" * 300), "data.interactions"),
    "path of 5000 letters": (FILES % ("x/" * 2500 + "a.csv"), "data.interactions"),
    "cache of 300 letters": ("tasks: {oracle: {by: replay, cache: %s}}\n" % ("x" * 300), "tasks.oracle.cache"),
    "empty path": (FILES % "''", "interactions"),
    "number for a path": (FILES % "5", "data.interactions"),
}  # fmt: skip

OVERRIDES: dict[str, tuple[str, str]] = {
    "no key": ("=x", "=x"),
    "nothing": ("", "'='"),
    "only dots": ("...=1", "'...=1' has an empty key"),
    "two dots": ("data..source=files", "data..source"),
    "dot at the end": ("data.=1", "'data.=1' has an empty key"),
    "far number": ("train.99999999999.epochs=2", "below 1"),
    "negative number": ("train.-1.epochs=2", "below 1"),
    "number of 5000 digits": (f"train.{HUGE}.epochs=2", "below 1"),
    "superscript": ("train.².epochs=2", "below 1"),
    "below a number": ("train.0.epochs.1=2", "below 'train.0.epochs'"),
    "below a default": ("data.source.x=2", "data.source: Input should be"),
    "below nothing": ("evaluate.category_column.x=2", "evaluate"),
    "deep": (".".join("a" * 3000) + "=1", "override"),
    "brackets": ("seed=" + "[" * NESTED + "]" * NESTED, "deep"),
    "seed of 5000 digits": (f"seed={HUGE}", "is no int"),
    "seed of 2^63": (f"seed={2**63}", "9223372036854775807"),
    "true": ("seed=true", "seed"),
    "nan": ("train.0.epochs=.nan", "train.0.epochs"),
    "no such day": ("data.since=2014-13-45", "data.since"),
    "tag": ("seed=!!int x", "seed=!!int x"),
    "python object": ("seed=!!python/object/apply:os.getpid []", "seed="),
    "nul": ("data.category=a\0b", "override"),
    "escaped nul": ('data.interactions="a\\0b"', "override"),
    "undecodable byte": ("data.category=\udcff", "override"),
    "undecodable key": ("da\udcffta=1", "override"),
    "escape": ("\x1b[31m=1", "override"),
    "unknown anchor": ("seed=*a", "override"),
    "two documents": ("seed=1\n---\n2", "override"),
    "list of a key": ("train={}", "train"),
    "part away": ("data=null", "data"),
    "long": ("x" * 100_000 + "=1", "override"),
    "stages from nothing": ("train.7.epochs=2", "below 1"),
}


def refused(text: str | bytes, overrides: list[str], folder: Path) -> str:
    """The message of the one error that a recipe ends in."""
    path = folder / PATH
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RecipeError) as caught:
        load(path, overrides)
    return str(caught.value)


def check(message: str, words: str) -> None:
    assert words in message
    assert "mine.yaml" in message or "override" in message
    assert len(message) < 10_000, "nobody reads more"
    assert all(char.isprintable() or char == "\n" for char in message), "control characters are shown, not sent"


@pytest.mark.parametrize("name", TEXTS)
def test_a_bad_recipe_is_one_message_that_names_the_place(name: str, tmp_path: Path) -> None:
    text, words = TEXTS[name]
    check(refused(text, [], tmp_path), words)


@pytest.mark.parametrize("name", OVERRIDES)
def test_a_bad_override_is_one_message_that_names_it(name: str, tmp_path: Path) -> None:
    override, words = OVERRIDES[name]
    check(refused("train:\n- {epochs: 1}\n", [override], tmp_path), words)


@pytest.mark.parametrize("day", ["2014-01-31", "'2014-01-31'", "2014-01-31 23:59", "2014-01-31T23:59:01"])
def test_a_day_is_taken_with_quotes_and_without(day: str) -> None:
    assert read(f"data: {{since: {day}}}\n", PATH).data.since == day.strip("'")


@pytest.mark.parametrize(
    "text", ["", "\n", "# nothing\n", "\ufeffseed: 42\n", "seed: 1\nseed: 42\n", "---\nseed: 42\n...\n", "seed: 42\r\n"]
)
def test_what_is_unusual_and_clear_is_taken(text: str, tmp_path: Path) -> None:
    (tmp_path / PATH).write_bytes(text.encode())
    assert load(tmp_path / PATH).seed == 42


def test_tiny_takes_every_number_of_processes() -> None:
    from llmrec.recipe import shrink

    for processes in (1, 2, 3, 7, 8, 16):
        recipe = read("", PATH, [f"launch.processes={processes}", f"train.0.batch={processes}"])
        assert shrink(recipe).train[0].pass_rows(processes) >= 1


GOOD = """\
seed: 7
data: {source: files, interactions: log.csv, items: items.csv, since: 2014-01-01, k_core: 5}
items: {text: [title, brand]}
indexing:
  method: rq-kmeans
  levels: 3
tasks: {mixture: lc-rec, history: 20, max_examples: {rating: 10}, oracle: {by: replay, cache: a.jsonl}}
model: {base: nano, width: 128}
train:
  - {method: sft, epochs: 2, learning_rate: 3.0e-3}
  - method: s-dpo
    negatives: {random: 4}
evaluate: {ranking: [hr@5, ndcg@10]}
"""
ODD = ["<<: ", "&a ", "*a", "!!int ", "!!python/name:os ", "\\0", '"\\ud800"', ".inf", "9" * 5000, "2014-13-45", "true"]
ODD += ["null", "0x", "1e999", "- " * 60, "[" * 60, "\0", "\x85", "\u2028", "🎬", *"[]{}:,#&*!|>'\"%@`?-\t\n ~="]
PIECES = st.one_of(st.text(max_size=4), st.sampled_from(ODD))


@settings(max_examples=400, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(GOOD)), st.integers(0, 12), PIECES), min_size=1, max_size=4))
def test_no_change_of_a_recipe_ends_in_anything_but_a_recipe_or_its_error(changes: list[Any]) -> None:
    text = GOOD
    for place, gone, piece in changes:
        text = text[:place] + piece + text[place + gone :]
    try:
        recipe = read(text, PATH)
    except RecipeError as error:
        assert str(error)
    else:
        assert read(dump(recipe), PATH) == recipe
