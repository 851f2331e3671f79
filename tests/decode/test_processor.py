"""The logits processor in somebody's own `generate`."""

import numpy as np
import pytest
import torch
from decode_truth import SYMBOLS, TOKENS, random_codes, tiny

from llmrec.decode.filters import Filter
from llmrec.decode.grammar import ItemProcessor
from llmrec.decode.scorer import Scorer
from llmrec.decode.search import beam_search
from llmrec.errors import CodeError, RequestError
from llmrec.indexing.trie import Trie

EOS = 2


def answers(out, codes):
    """Item of each generated answer; what is no code followed by the end and padding is no item."""
    items = []
    for ids in out.tolist():
        item = next((i for i, code in enumerate(codes) if ids[: len(code)] == [int(TOKENS[s]) for s in code]), -1)
        rest = ids[len(codes[item]) :] if item >= 0 else [EOS]
        items.append(item if set(rest) <= {EOS, 0} else -1)
    return items


@pytest.mark.parametrize(
    "how", [{"do_sample": True, "num_return_sequences": 6}, {"num_beams": 3, "num_return_sequences": 3}]
)
def test_generate_gives_only_allowed_items_and_then_the_end(how):
    random = np.random.default_rng(0)
    codes = random_codes(random, 30)
    trie, copies = Trie.build(codes, SYMBOLS), how["num_return_sequences"]
    prompts = torch.tensor(random.integers(3, 70, (4, 7)))
    filters = [None, Filter.of(trie, deny=range(20)), Filter.of(trie, allow=range(8)), None]
    processor = ItemProcessor(trie, TOKENS, 7, EOS, filters)
    torch.manual_seed(0)
    out = tiny("llama").generate(
        prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=6, logits_processor=[processor], **how
    )
    items = np.array(answers(out[:, 7:], codes)).reshape(4, copies)
    assert (items >= 0).all() and (items[1] >= 20).all() and (items[2] < 8).all()


def test_generate_with_more_beams_than_prefixes_ranks_as_beam_search_does():
    codes = [(0, 3), (0, 4), (1, 5), (1, 6), (2, 7)]
    trie, model = Trie.build(codes, SYMBOLS), tiny("qwen3")
    prompts = np.random.default_rng(1).integers(3, 70, (3, 5))
    out = model.generate(
        torch.tensor(prompts),
        attention_mask=torch.ones(3, 5, dtype=torch.long),
        num_beams=5,
        num_return_sequences=5,
        max_new_tokens=2,
        length_penalty=0.0,
        logits_processor=[ItemProcessor(trie, TOKENS, 5, EOS, outside="end")],
    )
    ours = beam_search(Scorer(model), trie, TOKENS, prompts.tolist(), 5, normalize_over="vocabulary")
    assert answers(out[:, 5:], codes) == ours.items.reshape(-1).tolist()


def test_what_is_allowed_follows_from_the_answer_alone():
    codes = [(0, 3), (0, 4), (1,)]
    processor = ItemProcessor(Trie.build(codes, SYMBOLS), TOKENS, 2, EOS)
    allowed = {(0,): {3, 4}, (): {0, 1}}
    rows = torch.tensor([[9, 9, TOKENS[0]], [8, 8, TOKENS[1]], [7, 7, TOKENS[0]]])
    for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2], [0, 1, 2]):  # reordered between calls, as beams are
        masked = processor(rows[order], torch.zeros(3, 97))
        for row, which in enumerate(order):
            expected = {EOS} if which == 1 else {int(TOKENS[s]) for s in allowed[(0,)]}
            assert set(torch.isfinite(masked[row]).nonzero().ravel().tolist()) == expected
    first = processor(rows[:, :2], torch.zeros(3, 97))
    assert set(torch.isfinite(first[0]).nonzero().ravel().tolist()) == {int(TOKENS[s]) for s in allowed[()]}


def test_an_answer_outside_the_trie_is_refused():
    trie = Trie.build([(0, 3), (0, 4), (1,)], SYMBOLS)
    scores = torch.zeros(2, 97)
    for tokens in ([TOKENS[5]], [60], [96]):
        with pytest.raises(CodeError, match=r"row 1 begins no allowed item.*prompt_length"):
            ItemProcessor(trie, TOKENS, 2, EOS)(torch.tensor([[9, 9, TOKENS[0]], [9, 9, *tokens]]), scores)
    with pytest.raises(CodeError, match="pass eos_token_id"):
        ItemProcessor(trie, TOKENS, 2, None)(torch.tensor([[9, 9, TOKENS[0]], [9, 9, TOKENS[1]]]), scores)
    with pytest.raises(CodeError, match="filter"):
        ItemProcessor(trie, TOKENS, 2, EOS, [Filter.of(trie, allow=[])])(torch.tensor([[9, 9], [9, 9]]), scores)
    with pytest.raises(RequestError, match="3 filters for 2 rows"):
        ItemProcessor(trie, TOKENS, 2, EOS, [None] * 3)(torch.tensor([[9, 9], [9, 9]]), scores)
