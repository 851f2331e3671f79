"""Rounds, mask and requests of the vLLM engine, without vLLM: a plain forward pass answers in its place."""

import numpy as np
import pytest
import torch
from decode_truth import SYMBOLS, TOKENS, random_codes, random_prompts, tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.decode.filters import BatchFilters, Filter
from llmrec.decode.grammar import OUTSIDE, OutputGrammar, mask_logits
from llmrec.decode.scorer import Scorer
from llmrec.decode.search import beam_search
from llmrec.decode.vllm_engine import StepResult, search_steps
from llmrec.decode.vllm_request import CATALOGUE_VARIABLE, default_catalogue, parse_request
from llmrec.errors import CodeError, ModelError, RequestError
from llmrec.indexing.catalogue import Catalogue
from llmrec.indexing.trie import Trie

END = 2


def only_items(logits, rows, answers, reader, filters=None):
    return mask_logits(logits, rows, answers, BatchFilters(reader.trie, filters, len(rows)), reader)


def answered(model, reader, ask):
    """What vLLM says: its sampled token first, then the likeliest, over logits that the mask went over."""
    with torch.no_grad():
        logits = model(torch.tensor([ask.tokens])).logits[0, -1:].clone()
    answer = np.full((1, reader.trie.depth), -1)
    begun = ask.tokens[ask.answer_start :]
    answer[0, : len(begun)] = begun
    only_items(logits, np.array([0]), answer, reader)
    logprobs = logits.log_softmax(-1)[0]
    top = logprobs.topk(ask.logprobs)
    return StepResult([int(logprobs.argmax()), *top.indices.tolist()], [float(logprobs.max()), *top.values.tolist()])


def search(model, trie, prompts, *arguments, **more):
    reader, replies = OutputGrammar(trie, TOKENS, END), None
    run = search_steps(trie, TOKENS, prompts, *arguments, **more)
    while True:
        try:
            asks = run.send(replies)
        except StopIteration as end:
            return end.value
        replies = [answered(model, reader, ask) for ask in asks]


def random_filter(random, trie):
    some = random.permutation(len(trie))[: random.integers(0, len(trie) + 1)]
    kinds = [None, {"deny": some}, {"allow": some}, {"allow": random.random(len(trie)) < 0.5, "deny": some[:3]}]
    kind = kinds[random.integers(0, 4)]
    return kind and Filter.of(trie, **kind)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_rounds_find_what_beam_search_finds(seed):
    random = np.random.default_rng(seed)
    trie = Trie.build(random_codes(random, int(random.integers(1, 40))), SYMBOLS)
    prompts = random_prompts(random, 3)
    filters = [random_filter(random, trie) for _ in prompts]
    k = int(random.integers(1, 12))
    beams = k + int(random.integers(0, 5))
    model = tiny("llama")
    ours = search(model, trie, prompts, k, beams, filters)
    truth = beam_search(Scorer(model), trie, TOKENS, prompts, k, beams, filters)
    assert (ours.items == truth.items).all()
    np.testing.assert_allclose(ours.scores, truth.scores, rtol=0, atol=5e-5)


def test_a_round_never_asks_for_more_log_probabilities_than_a_prefix_has_children():
    trie = Trie.build([(0, 3), (0, 4), (1, 5), (1, 6), (2, 7)], SYMBOLS)
    deny = [Filter.of(trie, deny=[0, 1])]
    first = search_steps(trie, TOKENS, [[5, 6]], 1, filters=deny).send(None)
    assert [(ask.tokens, ask.answer_start, ask.logprobs) for ask in first] == [([5, 6], 2, 2)]  # the best may be denied
    assert search_steps(trie, TOKENS, [[5]], 9, filters=deny).send(None)[0].logprobs == 3


def test_requests_that_make_no_sense_and_servers_without_the_processor_are_refused():
    trie = Trie.build([(0, 1), (2, 3)], SYMBOLS)
    for bad, says in [
        ({"k": 0}, "at least one item"),
        ({"k": 3, "beams": 2}, "as many beams"),
        ({"k": 1, "filters": [None, None]}, "2 filters for 1"),
    ]:
        with pytest.raises(RequestError, match=says):
            next(search_steps(trie, TOKENS, [[5]], **bad))
    for wrong in (StepResult([60], [-0.1]), StepResult([int(TOKENS[1])], [-0.1]), StepResult([], [])):
        run = search_steps(trie, TOKENS, [[5]], 1)
        next(run)
        with pytest.raises(ModelError, match="item processor"):
            run.send([wrong])


def test_the_mask_lets_through_what_follows_each_answer_and_touches_no_other_row():
    trie = Trie.build([(0, 3), (0, 4), (1,)], SYMBOLS)
    answers = np.full((6, 2), -1)
    answers[1, 0], answers[2, 0], answers[3, 0] = TOKENS[0], TOKENS[1], TOKENS[0]
    answers[4, 0], answers[5, 0] = 60, OUTSIDE  # begin no item
    allowed = [{0, 1}, {3, 4}, None, {4}, None, None]
    filters = [None, None, None, Filter.of(trie, deny=[0]), None, None]
    rows = np.array([0, 1, 2, 4, 5, 7])
    logits = torch.arange(8 * 97.0).view(8, 97)
    masked = logits.clone()
    lost = only_items(masked, rows, answers, OutputGrammar(trie, TOKENS, END), filters)
    assert lost.tolist() == [False, False, False, False, True, True]
    assert (masked[[3, 6]] == logits[[3, 6]]).all()
    for row, symbols in zip(rows, allowed, strict=True):
        tokens = {END} if symbols is None else {int(TOKENS[s]) for s in symbols}
        finite = set(torch.isfinite(masked[row]).nonzero().ravel().tolist())
        assert finite == tokens
        assert all(masked[row, token] == logits[row, token] for token in tokens)


def test_a_batch_in_which_every_answer_has_ended_may_only_end():
    reader, masked = OutputGrammar(Trie.build([(1,)], SYMBOLS), TOKENS, END), torch.zeros(2, 97)
    assert not only_items(masked, np.arange(2), np.full((2, 1), TOKENS[1]), reader).any()
    assert torch.isfinite(masked).nonzero().tolist() == [[0, END], [1, END]]


def test_what_a_request_asks_is_read_or_refused(tiny_run):
    catalogue = Catalogue.load(tiny_run / "catalogue")
    assert parse_request(None, catalogue) is None and parse_request({"session": 1}, catalogue) is None
    plain = parse_request({"items": "item"}, catalogue)
    assert (plain.start, plain.filter) == (None, None)
    some = parse_request({"items": "item", "answer_start": 3, "deny": ["i4", "i2"], "allow": ["i4", "i5"]}, catalogue)
    numbers = catalogue.trie.order[some.filter.allow]
    assert some.start == 3 and [catalogue.item_ids[number] for number in numbers] == ["i5"]
    every = catalogue.item_ids
    for bad, says in [
        ({"items": "items?"}, "is not known"),
        ({"deny": ["i1"]}, 'add "items": "item"'),
        ({"items": "item", "deny": ["i1", "i111"]}, "lacks: 'i111'. Did you mean"),
        ({"items": "item", "deny": [1]}, "item ids as strings"),
        ({"items": "item", "allow": "i1"}, "item ids as strings"),
        ({"items": "item", "deny": every}, "no item at all"),
        ({"items": "item", "allow": ["i1"], "deny": ["i1"]}, "no item at all"),
        ({"items": "item", "allow": []}, "no item at all"),
        ({"items": "item", "answer_start": -1}, "no place in the prompt"),
        ({"items": "item", "answer_start": "5"}, "no place in the prompt"),
    ]:
        with pytest.raises(RequestError, match=says.replace("?", r"\?")):
            parse_request(bad, catalogue)


def test_a_server_that_was_not_told_its_catalogue_says_how(monkeypatch, tiny_run):
    monkeypatch.delenv(CATALOGUE_VARIABLE, raising=False)
    with pytest.raises(CodeError, match="LLMREC_CATALOGUE=runs"):
        default_catalogue()
    monkeypatch.setenv(CATALOGUE_VARIABLE, str(tiny_run / "catalogue"))
    assert default_catalogue() is default_catalogue()
