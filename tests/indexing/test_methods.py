"""Every way to index items keeps one contract: unique codes, the same again, nothing of the future, room for more."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import sentencepiece
from index_world import WAYS, made, settings, world
from leaks import assert_no_future
from pydantic import ValidationError
from sklearn.metrics import adjusted_rand_score

from llmrec.contracts import Sequences
from llmrec.errors import CodeError
from llmrec.files import hash_folder
from llmrec.indexing import bpe, build, methods, new_items
from llmrec.indexing.catalogue import Catalogue
from llmrec.recipe import Indexing


@pytest.mark.parametrize("way", WAYS)
def test_a_code_leads_to_its_item_and_a_seed_to_its_codes(way: str, tmp_path: Path) -> None:
    one, again = made(way, tmp_path / "one"), made(way, tmp_path / "again")
    assert hash_folder(tmp_path / "one") == hash_folder(tmp_path / "again")
    assert (one.trie.code(np.arange(len(one.item_ids))) == one.codes).all()
    assert len(set(one.code_texts)) == len(one.item_ids)
    assert again.tokens == one.tokens


@pytest.mark.parametrize("way", WAYS)
def test_new_items_get_free_codes_and_old_ones_keep_theirs(way: str, tmp_path: Path) -> None:
    old, (data, text) = made(way, tmp_path / "old"), world()
    late = data.items.take(pa.array([3, 50, 3])).set_column(0, "item_id", pa.array(["x", "y", "z"]))
    (tmp_path / "new").mkdir()
    new_items.extend(
        tmp_path / "old", pa.concat_tables([data.items, late]), text[[*range(100), 3, 50, 3]], 1, tmp_path / "new"
    )
    new = Catalogue.load(tmp_path / "new")
    assert new.code_texts[:100] == old.code_texts
    assert len(set(new.code_texts)) == 103
    assert (new.tokens, new.suffix, new.extends) == (old.tokens, old.suffix, (old.hash,))
    if old.suffix == "dedup" and way != "balanced":  # shares bound old items, not new ones
        prefixes = [row[row >= 0][:-1].tolist() for row in new.codes]
        assert prefixes[100] == prefixes[102] == prefixes[3] or settings(way).fusion not in (
            "text",
            "concat",
            "weighted",
        )
    (tmp_path / "third").mkdir()
    new_items.extend(tmp_path / "new", new.items, text[[*range(100), 3, 50, 3]], 1, tmp_path / "third")
    assert Catalogue.load(tmp_path / "third").extends == (old.hash, new.hash)


@pytest.mark.parametrize("way", [way for way in WAYS if settings(way).behaves])
def test_no_code_knows_the_future(way: str, tmp_path: Path) -> None:
    def codes(data) -> Path:
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        made(way, folder, data)
        return folder

    assert_no_future(codes, world()[0])


def test_sequential_numbers_items_as_they_first_appear_and_strangers_last() -> None:
    train = Sequences.of([[4, 2], [], [2, 0]])
    digits = methods.sequential(train, 6, width=3, reserved=2).codes
    order = sorted(range(6), key=lambda item: digits[item].tolist())
    assert order == [4, 2, 0, 1, 3, 5]
    assert digits.shape[1] == 2  # eight numbers to base three


def test_collaborative_finds_the_groups_that_are_met_together() -> None:
    draw = np.random.default_rng(0)
    group = np.repeat(np.arange(4), 30)
    train = Sequences.of([draw.choice(np.flatnonzero(group == user % 4), 8, replace=False) for user in range(400)])
    codes = methods.collaborative(train, 120, 2, 4, np.ones((120, 1), np.float32), seed=1).codes
    assert adjusted_rand_score(group, codes[:, 0]) > 0.9


def test_an_item_that_nobody_had_shares_the_clusters_of_the_nearest_one() -> None:
    train = Sequences.of([[0, 1], [0, 1], [2, 3], [2, 3]])
    near = np.eye(5, dtype=np.float32)
    near[4] = near[3]
    codes = methods.collaborative(train, 5, 2, 2, near, seed=1).codes
    assert codes[4].tolist() == codes[3].tolist() != codes[0].tolist()


def test_titles_and_category_paths_are_spelled_word_by_word() -> None:
    items = pa.table(
        {"item_id": ["a", "b", "c"], "title": ["Toy Story 2", "Toy: Story", None], "path": ["A > B", "A", ""]}
    )
    drawn = methods.title(items)
    spelled = [[drawn.words[0][number] for number in row if number >= 0] for row in drawn.codes.tolist()]
    assert spelled == [["Toy", "Story", "2"], ["Toy", ":", "Story"], ["c"]]
    path = methods.category(items, "path", 3)
    assert path.words == {0: ["(none)", "A"], 1: ["B"]}
    assert path.codes.tolist() == [[1, 0], [1, -1], [0, -1]]
    with pytest.raises(CodeError, match="names the column 'colour', but items have: item_id, title, path"):
        methods.category(items, "colour", 3)


def test_a_new_item_of_an_unknown_category_goes_where_the_nearest_item_is(tmp_path: Path) -> None:
    data, text = world()
    made("category", tmp_path / "old")
    late = data.items.slice(7, 1).set_column(0, "item_id", pa.array(["x"]))
    late = late.set_column(late.column_names.index("category"), "category", pa.array(["never seen"]))
    (tmp_path / "new").mkdir()
    new_items.extend(
        tmp_path / "old", pa.concat_tables([data.items, late]), text[[*range(100), 7]], 1, tmp_path / "new"
    )
    codes = Catalogue.load(tmp_path / "new").codes
    assert codes[100, 0] == codes[7, 0]


def spelled(model: bytes, numbers: np.ndarray) -> list[list[int]]:
    """The symbols that rows of piece numbers, padded by -1, stand for."""
    read = sentencepiece.SentencePieceProcessor(model_proto=model)
    whole = ["".join(read.id_to_piece(number + 1) for number in row if number >= 0) for row in numbers.tolist()]
    return [[ord(char) - bpe._FIRST for char in text] for text in whole]


def test_pieces_put_together_are_the_code_and_popular_codes_are_short() -> None:
    draw = np.random.default_rng(0)
    codes = np.unique(draw.integers(0, 6, (80, 3)), axis=0).astype(np.int32) + np.array([0, 6, 12], np.int32)
    seen = np.where(np.arange(len(codes)) < 5, 500, 0)
    model = bpe.fit(codes, seen, 18, 60)
    numbers, count = bpe.encode(model, codes)
    assert spelled(model, numbers) == codes.tolist()
    assert numbers.max() < count <= 60
    lengths = (numbers >= 0).sum(axis=1)
    assert lengths[:5].max() <= 2 and lengths[:5].mean() < lengths[5:].mean()
    every = np.arange(18, dtype=np.int32)[:, None]  # a code that no item has can be spelled, too
    assert spelled(model, bpe.encode(model, every)[0]) == every.tolist()


def merged(lines: list[str], count: int, longest: int) -> list[str]:
    """The first pieces that byte-pair encoding makes of lines, one for every event, by counting all pairs each time."""
    words, found = [list(line) for line in lines], []
    while len(found) < count:
        pairs = Counter(pair for word in words for pair in pairwise(word) if len("".join(pair)) <= longest)
        best = min(pairs, key=lambda pair: (-pairs[pair], len("".join(pair)), "".join(pair)))
        found += ["".join(best)] if "".join(best) not in found else []
        for word in words:
            for at in range(len(word) - 2, -1, -1):
                if (word[at], word[at + 1]) == best:
                    word[at : at + 2] = ["".join(best)]
    return found


@pytest.mark.parametrize("block", [7, 1 << 14])
def test_pieces_are_those_of_a_text_with_a_line_for_every_event(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpe, "_BLOCK", block)
    draw = np.random.default_rng(0)
    codes = np.unique(draw.integers(0, 6, (80, 3)), axis=0).astype(np.int32) + np.array([0, 6, 12], np.int32)
    codes[::4, -1] = -1
    seen = draw.zipf(1.5, len(codes)).clip(max=300) - 1
    model = bpe.fit(codes, seen, 18, 60)
    texts = ["".join(chr(bpe._FIRST + symbol) for symbol in row if symbol >= 0) for row in codes.tolist()]
    lines = [text for text, times in zip(texts, seen.tolist(), strict=True) for _ in range(1 + times)]
    read = sentencepiece.SentencePieceProcessor(model_proto=model)
    assert [read.id_to_piece(number) for number in range(1, 31)] == merged(lines, 30, 3)
    cut = [[piece - 1 for piece in read.encode(text)] for text in texts]
    assert [[piece for piece in row if piece >= 0] for row in bpe.encode(model, codes)[0].tolist()] == cut


def test_memory_of_pieces_does_not_grow_with_events() -> None:
    codes = np.arange(12, dtype=np.int32).reshape(4, 3)
    tracemalloc.start()
    try:
        bpe.fit(codes, np.full(4, 250_000), 12, 14)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"method": "title", "collisions": "sinkhorn"}, "needs such a method"),
        ({"method": "item", "bpe_vocab": 50}, "codes of several levels"),
        ({"append": ["sequential"]}, "sequential and number come first"),
        ({"method": "item", "append": ["title"]}, "item comes last"),
    ],
)
def test_parts_that_do_not_fit_are_refused(wrong: dict, said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Indexing.model_validate(wrong)


@pytest.mark.parametrize(("value", "said"), [(0.0, "all zeros"), (np.nan, "not finite")])
def test_vectors_without_a_direction_are_refused_by_item(value: float, said: str, tmp_path: Path) -> None:
    data, text = world()
    broken = text.copy()
    broken[[4, 9]] = value
    with pytest.raises(CodeError, match=f"2 item.s. have a vector that is {said}: i4, i9"):
        build.make(Indexing(levels=2, width=8), data.items, broken, 1, tmp_path)


def test_a_method_of_behaviour_without_events_says_what_to_do(tmp_path: Path) -> None:
    data, text = world()
    with pytest.raises(CodeError, match=r"there are none\. Set it to text"):
        build.make(Indexing(levels=2, width=8, fusion="ppmi"), data.items, text, 1, tmp_path)
    with pytest.raises(CodeError, match="nothing to cluster"):
        build.make(Indexing(levels=2, width=8, method="collaborative"), data.items, text, 1, tmp_path)


def test_duplicate_vectors_get_codes_of_their_own(tmp_path: Path) -> None:
    data, text = world()
    alike = np.repeat(text[:1], 100, axis=0)
    for way in ("rq-kmeans", "balanced", "kmeans-tree", "pq"):
        (tmp_path / way).mkdir()
        build.make(settings(way), data.items, alike, 1, tmp_path / way)
        assert len(set(Catalogue.load(tmp_path / way).code_texts)) == 100
