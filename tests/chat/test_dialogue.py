"""Dialogues over a real server: every card is a real item that the words allow."""

from __future__ import annotations

import os
import signal

import numpy as np
import pytest

from llmrec.chat.choose import State
from llmrec.chat.client import Client, Declined, OwnServer, ServerDown
from llmrec.chat.dialogue import ChatService, say
from llmrec.chat.store import ItemConstraint, SemanticIndex
from llmrec.items import read_vectors
from llmrec.run.layout import RunFolder


@pytest.fixture
def dialogue(counter):
    return counter.dialogue(5)


def cards(dialogue):
    return [card.item_id for card in dialogue.state.cards]


def column(dialogue, name):
    return [dialogue.store.items[dialogue.store.number[one]].columns[name] for one in cards(dialogue)]


def test_likes_dislikes_and_wishes_of_a_dialogue_hold_in_every_turn_after(dialogue):
    first = dialogue.hear('I liked "Film number 12 eee" and "Film number 13 fff"')
    assert first.changed and dialogue.state.liked == ["i12", "i13"] and len(cards(dialogue)) == 5
    shown = cards(dialogue)
    dialogue.hear("I like 2, not 1")
    assert dialogue.state.liked[-1] == shown[1] and dialogue.state.disliked == [shown[0]]
    dialogue.hear("a comedy, but no western")
    assert set(column(dialogue, "kind")) == {"comedy"}
    shown = cards(dialogue)
    reply = dialogue.hear("show me others")
    assert set(column(dialogue, "kind")) == {"comedy"}
    assert "some come again" in reply.words or not {*cards(dialogue)} & {*shown}
    reply = dialogue.hear("show me others")  # ten comedies, two of them liked, are all
    assert "some come again" in reply.words and set(column(dialogue, "kind")) == {"comedy"}
    assert not {*cards(dialogue)} & {*dialogue.state.liked, *dialogue.state.disliked}
    dialogue.hear("clear filters")
    assert not dialogue.state.constraints
    ids = {thing.item_id for thing in dialogue.store.items}
    assert {*dialogue.state.shown} <= ids


def test_a_new_wish_takes_the_place_of_the_old_one_and_denials_stay(dialogue):
    dialogue.hear("I liked film number 2 ccc. No western")
    dialogue.hear("a comedy")
    assert [str(one) for one in dialogue.state.constraints] == ["not western", "comedy"]
    dialogue.hear("a documentary")
    assert [str(one) for one in dialogue.state.constraints] == ["not western", "documentary"]
    dialogue.hear("a western")
    assert [str(one) for one in dialogue.state.constraints] == ["western"]


def test_a_wish_that_nothing_fulfils_is_said_and_the_nearest_are_those_of_a_sorted_list(dialogue):
    reply = dialogue.hear("something from 2050")
    years = np.array([thing.columns["year"] for thing in dialogue.store.items])
    assert "all of this: year 2050" in reply.words
    assert sorted(column(dialogue, "year")) == sorted(years[np.argsort(-years)][:5].tolist())
    reply = dialogue.hear("a comedy")  # what cannot be had is not asked for again
    assert "all of this" not in reply.words and set(column(dialogue, "kind")) == {"comedy"}
    assert dialogue.hear("a comedy").words == say("same")


def test_filters_are_what_brute_force_says_whatever_the_wishes(counter):
    chooser, draw = counter.parts[1], np.random.default_rng(3)
    things = chooser.store.items
    for _ in range(12):
        kind, no, low = (
            str(draw.choice(["drama", "comedy"])),
            str(draw.choice(["western", "drama"])),
            int(draw.integers(1970, 2000)),
        )
        state = State(
            liked=["i7"],
            constraints=[
                ItemConstraint("kind", values=(kind,)),
                ItemConstraint("kind", False, (no,)),
                ItemConstraint("year", low=low),
            ],
        )
        right = {t.item_id for t in things if t.columns["kind"] == kind != no and t.columns["year"] >= low} - {"i7"}
        chosen = chooser.select(state, 40 if right else 5)
        if right:
            assert {things[at].item_id for at in chosen.items} == right and not chosen.missed
        else:
            assert chosen.missed and all(things[at].columns["kind"] != no for at in chosen.items)


def test_of_two_likely_titles_one_is_asked_for(dialogue):
    reply = dialogue.hear('I liked "Film number 1"')
    assert "Did you mean" in reply.words and not dialogue.state.liked
    offered = dialogue.state.question.offered
    dialogue.hear("2")
    assert dialogue.state.liked == [offered[1]]
    dialogue.hear('I liked "Film number 1"')
    dialogue.hear("none of them")
    assert dialogue.state.liked == [offered[1]] and dialogue.state.question is None


@pytest.mark.parametrize("text", ["asdf qwer", "你好", "", "x" * 10_000])
def test_gibberish_changes_nothing_and_says_what_could_be_said(dialogue, text):
    dialogue.hear("I liked film number 2 ccc")
    before = cards(dialogue)
    reply = dialogue.hear(text)
    assert not reply.changed and cards(dialogue) == before and "comedy" in reply.words


def test_free_words_move_what_means_the_same_up(counter):
    chooser = counter.parts[1]
    plain = chooser.select(State(liked=["i7"]), 40).items
    asked = chooser.select(State(liked=["i7"], about="ddd"), 40).items
    near = chooser.index.to_text("ddd")
    assert sorted(plain) == sorted(asked) and near[asked[:5]].mean() > near[plain[:5]].mean()


def test_the_vectors_of_a_run_are_used_and_an_export_has_its_own_made(counter, hostile_run, tmp_path):
    store = counter.parts[1].store
    saved = read_vectors(RunFolder(hostile_run).items, len(store))
    assert np.array_equal(counter.parts[1].index.vectors, saved)
    assert not np.array_equal(SemanticIndex.of(store, "hashing", tmp_path).vectors, saved)


def test_a_server_that_dies_is_said_to_be_down_what_was_said_is_kept_and_a_new_one_is_met(hostile_run):
    server = OwnServer(hostile_run, "transformers")
    server.start()
    try:
        counter = ChatService(Client(server.url, server.key, rest=0.05), None)  # as a guest of somebody else's server
        dialogue = counter.dialogue(5)
        counter.turn(dialogue, lambda: dialogue.hear("I liked film number 2 ccc"))
        os.kill(server._child.process.pid, signal.SIGTERM)
        server._child.process.wait()
        reply = counter.turn(dialogue, lambda: dialogue.hear("a comedy"))
        assert (
            reply.down and say("down") in reply.words and [str(one) for one in dialogue.state.constraints] == ["comedy"]
        )
        with pytest.raises(ServerDown, match="llmrec serve"):
            counter.client.version()
        counter.own = server  # as the chat that started it: the next turn starts it again
        reply = counter.turn(dialogue, lambda: dialogue.hear("no western"))
        assert reply.words.startswith(say("back")) and set(column(dialogue, "kind")) == {"comedy"}
    finally:
        server.stop()


def test_a_wrong_key_is_declined_in_the_servers_own_words(server):
    with pytest.raises(Declined, match="key"):
        Client(server.url, "wrong").version()
