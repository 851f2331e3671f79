"""The speed of decoding: the same work by both sides, catalogues of the shape that is named."""

import numpy as np

import decode_step
from decode import Size, measure_part
from decode_peers import dictionary_generate
from decode_step import CHILDREN, grid_codes
from decode_subject import WIDTHS, skewed_codes
from llmrec.decode.scorer import Scorer
from llmrec.decode.search import beam_search
from llmrec.files import read_json
from llmrec.indexing.catalogue import Catalogue
from llmrec.indexing.trie import Trie
from llmrec.model import folder as model_folder
from llmrec.model.vocabulary import token_ids


def test_the_peer_finds_the_items_that_we_find(tiny_run):
    model, tokenizer, _ = model_folder.load(tiny_run / "train-1-sft" / "model")
    catalogue = Catalogue.load(tiny_run / "catalogue")
    tokens = token_ids(tokenizer, catalogue.tokens)
    random = np.random.default_rng(0)
    prompts = [random.integers(10, 300, length).tolist() for length in (5, 9, 7)]
    out = dictionary_generate(model, catalogue, tokens)(prompts, 4)
    theirs = out[:, -catalogue.trie.depth :].reshape(3, 4, -1).tolist()
    ours = beam_search(Scorer(model), catalogue.trie, tokens, prompts, 4, normalize_over="vocabulary")
    assert theirs == tokens[catalogue.codes[ours.items]].tolist()


def test_codes_are_distinct_and_skewed_whatever_their_number():
    for items in (50, 5_000, 300_000):
        codes = skewed_codes(np.random.default_rng(0), items)
        assert len(np.unique(codes, axis=0)) == items and codes.max() < WIDTHS[0]
    counts = np.bincount(np.unique(codes[:, :3], axis=0, return_counts=True)[1])
    assert counts[1] > 0 and len(counts) > 20


def test_the_grid_has_prefixes_with_the_numbers_of_children_that_it_names():
    for items in (10_000, 200_000):
        trie = Trie.build(grid_codes(items), 1024)
        nodes = np.arange(trie.level[3], trie.level[4])
        assert set(np.diff(trie.first_child)[nodes].tolist()) == set(CHILDREN)
        assert abs(len(trie) / items - 1) < 0.01


def test_a_result_holds_every_size_and_says_how_it_was_measured(tmp_path, monkeypatch):
    monkeypatch.setattr(decode_step, "alone", lambda work, *arguments: work(*arguments))  # a process takes seconds
    result = read_json(measure_part("step", Size(step_items=(10_000,), repeats=3), "float32", tmp_path))
    assert result["command"] == "python scripts/speed/decode.py step --dtype float32" and result["threads"] > 0
    found = result["figures"]["10000"]
    assert set(found["children"]) == {str(count) for count in CHILDREN}
    assert len(found["search"]["seen_ms"]["steps"]) == 4 and found["build_s"] > 0
    assert set(result["figures"]["growth"]) == {"step_ms", "seen_ms"}
