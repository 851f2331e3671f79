"""Kinds of answer: what may come next, against every answer that there is."""

from itertools import permutations

import numpy as np
import pytest
import torch
from decode_truth import SYMBOLS, TOKENS, random_codes, tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.decode.filters import BatchFilters, Filter
from llmrec.decode.grammar import OUTSIDE, ItemProcessor, OutputGrammar, mask_logits, separator_tokens
from llmrec.errors import ModelError
from llmrec.indexing.trie import Trie

END, MENTION, SEPARATOR = 2, 60, [5, 6]
VOCABULARY = 97


def reader(codes):
    return OutputGrammar(Trie.build(codes, SYMBOLS), TOKENS, END, SEPARATOR, MENTION)


def allowed(given, mode, answers, filters=None, room=None):
    """Set of tokens that each answer may go on with."""
    table = np.full((len(answers), max(map(len, answers))), -1)
    for row, answer in enumerate(answers):
        table[row, : len(answer)] = answer
    logits = torch.zeros(len(answers), VOCABULARY)
    compiled = BatchFilters(given.trie, filters, len(answers))
    mask_logits(logits, np.arange(len(answers)), table, compiled, given, mode, room)
    return [set(torch.isfinite(row).nonzero().ravel().tolist()) for row in logits]


def tokens_of(code):
    return [int(TOKENS[symbol]) for symbol in code]


def every_list(codes, items):
    """Every answer of mode `items`: all orders of all choices of the items, with the end."""
    for count in range(1, len(items) + 1):
        for chosen in permutations(items, count):
            parts = [tokens_of(codes[item]) for item in chosen]
            yield [*[token for part in parts for token in [*SEPARATOR, *part]][len(SEPARATOR) :], END]


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_a_list_goes_on_with_exactly_what_some_list_of_different_allowed_items_goes_on_with(seed):
    random = np.random.default_rng(seed)
    codes = random_codes(random, 5)
    given = reader(codes)
    deny = random.permutation(5)[: random.integers(0, 4)].tolist()
    lists = list(every_list(codes, [item for item in range(5) if item not in deny]))
    kinds = [Filter.of(given.trie, deny=deny), Filter.of(given.trie, allow=sorted(set(range(5)) - set(deny)))]
    kinds.append(Filter.of(given.trie, allow=np.isin(np.arange(5), deny, invert=True)))
    prefixes = [one[: random.integers(0, len(one))] for one in (lists[i] for i in random.integers(0, len(lists), 12))]
    truth = [{one[len(prefix)] for one in lists if one[: len(prefix)] == prefix} for prefix in prefixes]
    for kind in kinds:
        assert allowed(given, "items", prefixes, [kind] * len(prefixes)) == truth


def test_a_list_that_fits_nowhere_and_one_that_has_ended_may_only_end():
    given = reader([(0, 1), (2,)])
    first, second = tokens_of((0, 1)), tokens_of((2,))
    answers = [[*first, 9], [*first, END], [*first, *SEPARATOR, *second], [first[1]], [*first, *SEPARATOR, first[0]]]
    assert allowed(given, "items", answers) == [{END}] * 5
    with pytest.raises(ModelError, match="separator"):
        OutputGrammar(given.trie, TOKENS, END).parse(np.array([[1]]), "items")


def words_or_code(codes, answer):
    """The slow way through a chat: None for free words, else the tokens that may go on with the code."""
    inside = None
    for token in answer:
        if token == MENTION:
            inside = []
        elif inside is not None:
            inside = [*inside, token]
            begun = [tokens_of(code) for code in codes if tokens_of(code)[: len(inside)] == inside]
            inside = None if not begun or inside in begun else inside
    if inside is None:
        return None
    return {code[len(inside)] for code in map(tokens_of, codes) if code[: len(inside)] == inside}


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_after_a_mention_a_chat_goes_on_with_a_real_code_and_elsewhere_with_any_word(seed):
    random = np.random.default_rng(seed)
    codes = random_codes(random, 8)
    given, words = reader(codes), set(range(VOCABULARY)) - set(TOKENS.tolist())
    answers = []
    for _ in range(10):
        answer: list[int] = []
        for _ in range(random.integers(0, 4)):
            answer += random.integers(3, 60, random.integers(0, 4)).tolist()
            answer += [MENTION, *tokens_of(codes[random.integers(0, 8)])]
        answers.append(answer[: random.integers(0, len(answer) + 1)])
    truth = [words_or_code(codes, answer) for answer in answers]
    expected = [words if one is None else one for one in truth]
    assert allowed(given, "chat", answers) == expected
    reach = given.tokens_needed("chat")
    assert reach is not None
    assert allowed(given, "chat", [answer[-reach:] for answer in answers]) == expected  # the tail tells


def test_nothing_is_begun_that_would_be_cut_short_or_that_no_item_could_follow():
    given = reader([(0, 1), (2, 3)])
    first, words = tokens_of((0, 1)), set(range(VOCABULARY)) - set(TOKENS.tolist())
    for room, may in ((3, True), (2, False)):
        assert (MENTION in allowed(given, "chat", [[9]], room=np.array([room]))[0]) is may
    for room, may in ((4, True), (3, False)):
        assert (SEPARATOR[0] in allowed(given, "items", [first], room=np.array([room]))[0]) is may
    assert allowed(given, "chat", [[9]], [Filter.of(given.trie, allow=[])]) == [words - {MENTION}]
    for answer in ([9, MENTION], [OUTSIDE]):  # a model that knows no mention
        assert allowed(OutputGrammar(given.trie, TOKENS, END), "chat", [answer]) == [words]


def test_a_chat_says_no_id_that_the_tokenizer_does_not_know():
    trie, words = Trie.build([(0, 1), (2, 3)], SYMBOLS), set(range(90)) - set(TOKENS.tolist())
    given = OutputGrammar(trie, TOKENS, END, SEPARATOR, MENTION, vocab_size=90)
    after = set(TOKENS[[0, 2]].tolist())  # an item's tokens come whatever their ids
    assert allowed(given, "chat", [[9], [9, MENTION], [9, 95]]) == [words, after, words]


@pytest.mark.parametrize("mode", ["items", "chat"])
def test_generate_names_only_real_and_allowed_items_whole(mode):
    codes = random_codes(np.random.default_rng(3), 12)
    given, model = reader(codes), tiny("qwen3")
    deny = Filter.of(given.trie, deny=range(6))
    processor = ItemProcessor(
        given.trie, TOKENS, 4, END, [None, deny], mode=mode, separator=SEPARATOR, mention=MENTION, max_new_tokens=24
    )
    prompts = torch.tensor(np.random.default_rng(1).integers(3, 60, (2, 4)))
    torch.manual_seed(0)
    inside = torch.ones_like(prompts)
    options = {"do_sample": True, "temperature": 3.0, "num_return_sequences": 20, "max_new_tokens": 24}
    out = model.generate(prompts, attention_mask=inside, logits_processor=[processor], **options)
    named = [items_named(answer, codes) for answer in out[:, 4:].tolist()]
    assert all(item is not None for items in named for item in items)
    assert all(item >= 6 for items in named[20:] for item in items)
    assert sum(map(len, named)) > 40 if mode == "items" else sum(map(len, named)) > 3
    if mode == "items":
        assert all(items and len(set(items)) == len(items) for items in named)


def items_named(answer, codes):
    """Item of each run of item tokens; None for a run that is no code."""
    known = {tuple(tokens_of(code)): item for item, code in enumerate(codes)}
    runs: list[list[int]] = [[]]
    for token in answer:
        runs = [*runs[:-1], [*runs[-1], token]] if token in TOKENS else [*runs, []]
    return [known.get(tuple(run)) for run in runs if run]


def test_the_separator_is_what_stands_between_item_tokens(tiny_run):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_run / "train-1-sft" / "model")
    between = separator_tokens(tokenizer, "<a_0>")
    assert between and "".join(tokenizer.convert_ids_to_tokens(between)).strip("Ġ▁ ")[0] == ","
    assert tokenizer.decode(tokenizer("<a_0>, <a_1>", add_special_tokens=False)["input_ids"]) == "<a_0>, <a_1>"
