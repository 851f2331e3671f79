"""Examples: what they say is what the log and the catalogue say; shards are the same however they are made."""

from __future__ import annotations

import random
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from task_world import TEXTS, source

from llmrec.data.dataset import Dataset
from llmrec.errors import DataError, RunError
from llmrec.indexing.catalogue import Catalogue
from llmrec.recipe import TASKS, Tasks
from llmrec.tasks import examples, templates
from llmrec.tasks import instances as task_instances
from llmrec.tasks.builder import ExampleBuilder, max_history
from llmrec.tasks.examples import load, make, stream_batches
from llmrec.tasks.inputs import TaskInputs

EVERY = dict.fromkeys(TASKS, 1.0)
DRAW = random.Random(5)
HISTORIES = [[DRAW.randrange(30) for _ in range(length)] for length in (9, 1, 5, 0, 12, 2, 7)]
EVENTS = sum(map(len, HISTORIES))


def worded() -> TaskInputs:
    """A source whose events have stars and words, some of them missing."""
    said = {
        name: [f"{name} {at}" if at % 3 else None for at in range(EVENTS)] for name in ("review", "summary", "hint")
    }
    said |= {"headline": said["summary"], "explanation": said["review"]}
    return source(HISTORIES, rating=[at % 9 / 2 + 0.5 for at in range(EVENTS)], **said)


def made(tasks: Tasks, one: TaskInputs, folder: Path, seed: int = 0, workers: int | None = None) -> list[dict]:
    folder.mkdir(exist_ok=True)
    make(tasks, one, seed, folder, workers)
    return load(folder).to_pylist()


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*.arrow"))}


def test_every_prompt_shows_the_codes_of_its_history_in_order(tiny_run: Path) -> None:
    dataset, codes = Dataset.load(tiny_run / "data"), Catalogue.load(tiny_run / "catalogue")
    train = dict(zip(dataset.user_ids, dataset.before("valid"), strict=True))
    held_out = {w.prompt.split("{")[0] for w in templates.load("next_item").held_out}
    for row in load(tiny_run / "tasks").to_pylist():
        for slot in row["slots"]:
            text = row["prompt"][slot["start"] : slot["stop"]]
            if slot["kind"] in ("history", "item"):
                assert text == codes.code_texts[codes.item_number[slot["item_id"]]]
        if row["task"] != "next_item":
            continue
        shown = [slot["item_id"] for slot in row["slots"]] + [row["item_id"]]
        own = [dataset.item_ids[item] for item in train[row["user_id"]]]
        assert any(own[start : start + len(shown)] == shown for start in range(len(own)))
        assert row["answer"] == codes.code_texts[codes.item_number[row["item_id"]]]
        assert not any(row["prompt"].startswith(template) for template in held_out)


def test_alignment_asks_both_ways_about_every_item(tiny_run: Path) -> None:
    codes = Catalogue.load(tiny_run / "catalogue")
    table = load(tiny_run / "tasks").to_pylist()
    for task in ("item_to_text", "text_to_item"):
        about = Counter(row["item_id"] for row in table if row["task"] == task)
        assert about == dict.fromkeys(codes.item_ids, 1)
    for row in table:
        if row["task"] == "item_to_text":
            assert codes.code_texts[codes.item_number[row["item_id"]]] in row["prompt"]
            assert codes.titles[codes.item_number[row["item_id"]]] in row["answer"]


@pytest.mark.parametrize("task", [task for task in TASKS if task not in ("preference", "item_search")])
def test_every_example_fits_a_template_that_trains_and_says_what_its_columns_say(task: str, tmp_path: Path) -> None:
    one, template = worded(), templates.load(task)
    rows = made(Tasks(mixture="none", positions="all", **{task: 1.0}), one, tmp_path)
    assert rows
    forms = [re.compile(_pattern(w.prompt) + "\x00" + _pattern(w.answer), re.S) for w in template.train]
    codes = dict(zip(one.item_ids.to_pylist(), one.codes.to_pylist(), strict=True))
    for row in rows:
        found = [form.fullmatch(row["prompt"] + "\x00" + row["answer"]) for form in forms]
        said = next(match for match in found if match).groupdict()
        assert said.get("item", codes[row["item_id"]]) == codes[row["item_id"]]
        assert said.get("user", row["user_id"]) == row["user_id"]
        if "rating" in said and task in ("rating", "review_rating"):
            assert float(said["rating"]) == row["label"]
        if "verdict" in said:
            assert said["verdict"] == ("yes" if row["label"] else "no")
        if row["candidates"]:
            assert row["candidates"][int(row["label"])] == row["item_id"]
        if "letter" in said:
            assert f"{said['letter']}: {codes[row['item_id']]}" in said["options"]


def _pattern(template: str) -> str:
    return "".join(
        re.escape(literal) + (f"(?P<{name}>.*?)" if name else "") for literal, name in templates.parts(template)
    )


def test_a_template_that_needs_a_hint_is_never_used_without_one(tmp_path: Path) -> None:
    one = worded()
    rows = made(Tasks(mixture="none", explanation=20.0), one, tmp_path)
    hints = [slot for row in rows for slot in row["slots"] if slot["kind"] == "hint"]
    assert hints and len(hints) < len(rows)
    assert all("None" not in row["prompt"] for row in rows)


def test_what_the_data_lack_is_left_out_and_counted(tmp_path: Path) -> None:
    counts = make(Tasks(**EVERY), source(HISTORIES), 0, tmp_path)
    skipped = counts["skipped"]
    assert isinstance(skipped, dict)
    assert skipped["rating"] == {"no rating": EVENTS} and counts["rating"] == 0
    assert skipped["review_title"] == {"no review": EVENTS}
    assert skipped["preference"] == {"no preference": 6}  # one user has no training event at all
    assert skipped["next_item"] == {"user with fewer than two training events": 2}
    assert skipped["item_search"]["no intention"] == 5


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_writes_the_same_files(workers: int, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(task_instances, "BLOCK", 6)
    tasks = Tasks(**EVERY, max_examples={"next_item": 3, "rating": 5})
    made(tasks, worded(), tmp_path / "one", workers=2)
    made(tasks, worded(), tmp_path / "other", workers=workers)
    assert content(tmp_path / "one") == content(tmp_path / "other")
    assert len(content(tmp_path / "one")) > 2 * len(TASKS)


def test_the_same_seed_gives_the_same_files_and_another_gives_others(tmp_path: Path) -> None:
    for place, seed in enumerate((1, 1, 2)):
        made(Tasks(**EVERY), worded(), tmp_path / str(place), seed)
    files = [content(tmp_path / str(place)) for place in range(3)]
    assert files[0] == files[1]
    assert all(files[0][name] != files[2][name] for name in files[0])


@pytest.mark.parametrize("cap", [1, 7, 10_000])
def test_a_cap_keeps_a_sample_over_all_shards(cap: int, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(task_instances, "BLOCK", 6)
    free = made(Tasks(mixture="none", rating=1.0), worded(), tmp_path / "free")
    capped = made(Tasks(mixture="none", rating=1.0, max_examples={"rating": cap}), worded(), tmp_path / "capped")
    assert len(capped) == min(cap, len(free))
    about = Counter((row["user_id"], row["item_id"], row["label"]) for row in capped)
    assert about <= Counter((row["user_id"], row["item_id"], row["label"]) for row in free)


def test_a_cap_is_uniform_over_cases() -> None:
    one, hits = source([list(range(20))] * 3), Counter[int]()
    for seed in range(300):
        builder = ExampleBuilder(Tasks(mixture="none", item_to_text=1.0, max_examples={"item_to_text": 3}), one, seed)
        hits.update(np.concatenate(builder._sampled["item_to_text"]).tolist())
    assert len(hits) == 30 and max(hits.values()) < 60  # 30 expected


def test_streams_and_loads_are_the_same_rows(tmp_path: Path) -> None:
    rows = made(Tasks(**EVERY), worded(), tmp_path)
    assert [row for batch in stream_batches(tmp_path) for row in batch.to_pylist()] == rows


def test_the_hub_library_streams_the_shards(tmp_path: Path) -> None:
    from datasets import load_dataset

    rows = made(Tasks(**EVERY), worded(), tmp_path)
    files = [str(path) for path in examples.shard_paths(tmp_path)]
    streamed = load_dataset("arrow", data_files=files, split="train", streaming=True)
    assert [row["prompt"] for row in streamed] == [row["prompt"] for row in rows]


def test_a_budget_of_tokens_cuts_codes_at_an_item(tmp_path: Path) -> None:
    one = source([list(range(12))])  # two tokens a code
    for tokens, items in ((1, 1), (2, 1), (7, 3), (1000, 20)):
        assert max_history(Tasks(history_tokens=tokens), one.levels) == items
    rows = made(Tasks(mixture="none", next_item=1.0, positions="all", history_tokens=7), one, tmp_path)
    assert max(len(row["slots"]) for row in rows) == 3
    assert rows[-1]["prompt"].endswith("".join(one.codes.to_pylist()[8:11]))


def test_a_user_with_one_event_is_no_trouble(tmp_path: Path) -> None:
    rows = made(Tasks(next_item=1, item_to_text=0, text_to_item=0, straightforward=1), source([[3], [1, 2]]), tmp_path)
    assert {row["user_id"] for row in rows} == {"u1"}


def test_no_examples_at_all_is_an_error_in_words(tmp_path: Path) -> None:
    nothing = Tasks(next_item=1, item_to_text=0, text_to_item=0)
    with pytest.raises(DataError, match=r"no training examples.*2 × user with fewer than two"):
        make(nothing, source([[0], []]), 0, tmp_path)
    with pytest.raises(RunError, match="holds no examples"):
        load(tmp_path)


def test_the_columns_are_a_contract(tmp_path: Path) -> None:
    made(Tasks(), source([[0, 1, 2]], TEXTS), tmp_path)
    names = ["prompt", "answer", "task", "user_id", "item_id", "weight", "loss_on", "slots", "candidates", "label"]
    assert load(tmp_path).schema.names == names
    assert pa.types.is_list(load(tmp_path).schema.field("slots").type)
