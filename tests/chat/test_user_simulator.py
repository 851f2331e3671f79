"""Simulated guests, and the figures made from their dialogues by scripts/experiments/chat.py."""

from __future__ import annotations

import json

import numpy as np
import pytest

from chat import TURNS, K, _guests, _success, measure
from chat_user_simulator import SimulatedUser, play
from llmrec.data.dataset import Dataset


@pytest.fixture(scope="module")
def dataset(hostile_run):
    return Dataset.load(hostile_run / "data")


def test_guests_know_training_likes_and_want_what_was_held_out(counter, dataset):
    store = counter.parts[1].store
    guests = _guests(store, dataset, 20, 0)
    parts = {}
    for user, item, split in zip(
        *(dataset.interactions[name].to_pylist() for name in ("user_id", "item_id", "split")), strict=True
    ):
        parts.setdefault(user, {}).setdefault("train" if split == "train" else "held", []).append(store.number[item])
    everybody = [(part["train"][-3:], part["held"]) for part in parts.values()]
    assert len(guests) == 20 and all(one in everybody for one in guests)


@pytest.mark.parametrize("reads", [True, False])
def test_a_dialogue_shows_others_at_every_turn_and_none_that_are_known(counter, dataset, reads):
    store = counter.parts[1].store
    for at, (known, wanted) in enumerate(_guests(store, dataset, 3, 0)):
        guest = SimulatedUser(store, known, wanted, np.random.default_rng(at))
        dialogue = counter.dialogue(4)
        lists = play(guest, dialogue, 4, reads)
        shown = [one for cards in lists for one in cards]
        assert len(lists) == 4 and all(lists)
        if not reads:
            assert len({*shown}) == len(shown) and not dialogue.state.constraints
            assert not {*shown} & {store.items[one].item_id for one in known}
        else:
            assert dialogue.state.constraints


def test_success_turns_and_recall_are_those_counted_by_hand(counter):
    store = counter.parts[1].store
    ids = [thing.item_id for thing in store.items]
    nothing = [[ids[20]]] * TURNS
    hit = [[ids[20]], [ids[0]], [ids[21]], [ids[1], ids[0]], [ids[22]]]  # the first wanted in turn 2, the second in 4
    found = _success(store, [[0, 1], [2]], [hit, nothing], 0)
    assert [one["mean"] for one in found["success_at_turn"]] == [0, 0.5, 0.5, 0.5, 0.5]
    assert found["average_turns"]["mean"] == (2 + TURNS + 1) / 2
    assert found["recall@10_by_turn"] == [0, 0.25, 0, 0.5, 0]
    assert found["recall_of_all_shown_by_turn"] == [0, 0.25, 0.25, 0.5, 0.5]


def test_the_script_writes_what_it_measured_and_a_filter_gives_only_what_was_asked(hostile_run, tmp_path):
    paths = (measure(part, hostile_run, "hashing", 9, 0, tmp_path) for part in ("text", "dialogues"))
    text, dialogues = (json.loads(path.read_text())["figures"] for path in paths)
    for kind in ("next", "taste", "any"):
        judged = text["test"][kind]
        assert judged["users"] == 9 and judged["share_with"]["mean"] == 1.0
        assert judged["share_without"]["mean"] < 1
    # a filter leaves the order of the rest alone: who asks for a value of what they take next cannot lose it
    assert text["test"]["next"][f"hr@{K}"]["difference"]["low"] >= 0
    assert dialogues["guests"] == 9 and len(dialogues["difference"]) == TURNS
    for name in ("understanding", "clicks"):
        means = [one["mean"] for one in dialogues[name]["success_at_turn"]]
        assert means == sorted(means)
    assert (tmp_path / "chat-dialogues.svg").is_file()
