"""The item trie against a dictionary of prefixes, and what it refuses."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.decode.filters import BatchFilters, Filter, Subset
from llmrec.errors import CodeError, RequestError
from llmrec.indexing.trie import ROOT, Trie


def walk(trie, prefixes):
    """(rows,) node of each row's symbols, -1 where no code begins so; rows are padded at the end by -1."""
    nodes = np.zeros(len(prefixes), np.int64)
    for symbols in prefixes.T:
        nodes = np.where(symbols == -1, nodes, trie.child(nodes, symbols))
    return nodes


@st.composite
def catalogues(draw):
    """Prefix-free codes, in any order: a set of codes without those that begin another."""
    codes = draw(st.sets(st.lists(st.integers(0, 4), min_size=1, max_size=4).map(tuple), min_size=1, max_size=40))
    free = [code for code in codes if not any(other != code and other[: len(code)] == code for other in codes)]
    return draw(st.permutations(free))


@given(catalogues())
def test_trie_allows_exactly_what_a_dictionary_of_prefixes_allows(codes):
    trie = Trie.build(codes, 5)
    continuations = {}
    for code in codes:
        for length in range(len(code)):
            continuations.setdefault(code[:length], set()).add(code[length])
    for prefix, expected in continuations.items():
        node = walk(trie, np.array([prefix], np.int64).reshape(1, -1))
        source, symbol, child = trie.children(node)
        assert set(symbol.tolist()) == expected and len(symbol) == len(expected) and not source.any()
        assert walk(trie, np.array([[*prefix, int(s)] for s in symbol])).tolist() == child.tolist()
        outside = [[*prefix, s] for s in range(5) if s not in expected]
        assert (walk(trie, np.array(outside, np.int64).reshape(-1, len(prefix) + 1)) == -1).all()
        assert trie.item_at(node).tolist() == [-1]


@given(catalogues())
def test_every_code_leads_to_its_item_and_back(codes):
    trie = Trie.build(codes, 5)
    padded = np.full((len(codes), 4), -1)
    for item, code in enumerate(codes):
        padded[item, : len(code)] = code
    assert trie.item_at(walk(trie, padded)).tolist() == list(range(len(codes)))
    assert (trie.code(np.arange(len(codes))) == padded[:, : trie.depth]).all()
    again = Trie.build(padded, 5)
    assert all((getattr(again, name) == getattr(trie, name)).all() for name in ("order", "start", "stop", "symbol"))
    assert [codes[item] for item in trie.order] == sorted(codes)
    assert (trie.stop[ROOT] - trie.start[ROOT]) == len(codes) == len(trie)


@settings(max_examples=60)
@given(catalogues(), st.randoms(use_true_random=False))
def test_a_filter_leaves_the_items_that_sets_leave(codes, random):
    trie, every = Trie.build(codes, 5), range(len(codes))
    filters, truth = [], []
    for kind in ("none", "deny", "allow", "mask", "subset", "both"):
        deny = {i for i in every if random.random() < 0.4}
        allow = {i for i in every if random.random() < 0.6}
        mask = np.array([i in allow for i in every])
        given_allow = {"none": None, "deny": None, "allow": sorted(allow), "mask": mask}.get(kind, Subset(trie, mask))
        deny = set() if kind in ("none", "allow", "mask", "subset") else deny
        filters.append(None if kind == "none" else Filter.of(trie, sorted(deny), given_allow))
        truth.append((set(every) if given_allow is None else allow) - deny)
    batch_filters = BatchFilters(trie, filters, len(filters))
    for row, left in enumerate(truth):
        nodes = np.arange(len(trie.start))
        counts = batch_filters.count_allowed(np.full(len(nodes), row), trie.start, trie.stop)
        under = [[int(i) for i in trie.order[trie.start[n] : trie.stop[n]] if int(i) in left] for n in nodes]
        assert counts.tolist() == [len(items) for items in under]
        inner = nodes[~trie.is_leaf(nodes)]
        source, _, child = trie.children(inner)
        assert (
            batch_filters.keep_children(np.full(len(inner), row), inner, source, child) == (counts[child] > 0)
        ).all()
        some = np.flatnonzero(counts)
        first = batch_filters.first_allowed(np.full(len(some), row), trie.start[some], trie.stop[some])
        assert trie.order[first].tolist() == [under[n][0] for n in some]


def test_codes_longer_than_one_sorting_word_are_sorted_all_the_same():
    random = np.random.default_rng(0)
    codes = random.integers(0, 2**20, (500, 7))
    codes[:, :4] = codes[:5, :4].repeat(100, 0)
    trie = Trie.build(codes, 2**20)
    assert [tuple(codes[i]) for i in trie.order] == sorted(map(tuple, codes.tolist()))


@pytest.mark.parametrize(
    ("codes", "says"),
    [
        ([(1, 2), (1, 3), (1, 2)], "1 of 3 items repeat another item's code .*indexing.collisions"),
        ([(1, 2), (1,)], "beginning of another code .*item 1's of item 0's.* end symbol"),
        ([(1, 2), ()], "item 1.*at least one symbol"),
        ([], "no items"),
        ([(1, 5)], "outside 0..4 at level 1"),
        ([(1, -3)], "negative"),
        (np.array([[1, -1, 2]]), "padding"),
        (np.array([[0.5]]), "whole numbers"),
    ],
)
def test_codes_that_cannot_be_told_apart_or_read_are_refused(codes, says):
    with pytest.raises(CodeError, match=says):
        Trie.build(codes, 5)


def test_a_filter_that_names_unknown_items_is_refused():
    trie = Trie.build([(0,), (1,)], 2)
    for bad in ({"deny": [2]}, {"allow": [-1]}):
        with pytest.raises(RequestError, match="items 0 to 1"):
            Filter.of(trie, **bad)
    with pytest.raises(RequestError, match="bool for each of the 2 items"):
        Filter.of(trie, allow=np.ones(3, bool))
    with pytest.raises(RequestError, match="2 filters for 3"):
        BatchFilters(trie, [None, None], 3)
