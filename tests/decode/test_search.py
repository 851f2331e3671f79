"""Beam search and exact scoring against plain forward passes and against `generate`."""

import copy

import numpy as np
import pytest
import torch
from decode_truth import FAMILIES, SIZES, SYMBOLS, TOKENS, brute_force, random_codes, random_prompts, tiny
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.decode.exact import score_all, score_nodes
from llmrec.decode.filters import Filter, Subset
from llmrec.decode.scorer import Scorer
from llmrec.decode.search import beam_search
from llmrec.errors import ModelError, RequestError
from llmrec.indexing.trie import Trie

CLOSE = {"rtol": 0, "atol": 5e-5}


def random_filter(random, trie, prefer=None):
    """No filter, denied items, allowed items, a large subset, or a subset with denied items."""
    items = len(trie)
    some = random.permutation(items)[: random.integers(0, items + 1)]
    mask = random.random(items) < 0.5
    kind = random.integers(0, 5) if prefer is None else prefer
    options = [None, {"deny": some}, {"allow": some}, {"allow": mask}, {"deny": some, "allow": Subset(trie, mask)}]
    left = set(range(items))
    if kind in (1, 4):
        left -= set(some.tolist())
    if kind == 2:
        left &= set(some.tolist())
    if kind in (3, 4):
        left &= set(np.flatnonzero(mask).tolist())
    return (Filter.of(trie, **options[kind]) if options[kind] else None), sorted(left)


@pytest.mark.parametrize("normalize_over", ["catalogue", "allowed", "vocabulary"])
@pytest.mark.parametrize("family", FAMILIES)
def test_beams_for_the_whole_catalogue_rank_as_brute_force_and_exact_scoring_do(family, normalize_over):
    random = np.random.default_rng(3)
    codes = random_codes(random, 25)
    trie, model = Trie.build(codes, SYMBOLS), tiny(family)
    prompts = random_prompts(random, 3)
    truth = np.array([brute_force(model, codes, prompt, normalize_over) for prompt in prompts])
    ranked = beam_search(Scorer(model), trie, TOKENS, prompts, 25, normalize_over=normalize_over)
    np.testing.assert_allclose(ranked.scores, np.take_along_axis(truth, ranked.items, 1), **CLOSE)
    assert (ranked.items == np.argsort(-truth, 1)).all()
    np.testing.assert_allclose(score_all(Scorer(model), trie, TOKENS, prompts, normalize_over), truth, **CLOSE)
    if normalize_over != "vocabulary":
        np.testing.assert_allclose(np.exp(truth).sum(1), 1, rtol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_that_go_on_from_one_beginning_are_scored_as_whole_prompts_are(family):
    random = np.random.default_rng(7)
    trie, scorer = Trie.build(random_codes(random, 12), SYMBOLS), Scorer(tiny(family))
    shared, *prompts = random_prompts(random, 5)
    beginning, vocabulary = scorer.cache_prefix(shared), np.arange(SIZES["vocab_size"])
    for rows in (prompts, prompts[:1]):
        symbols = random.integers(3, 70, (len(rows), 1))
        parted = scorer.prefill(rows, vocabulary, full_vocabulary=True, prefix=beginning)
        whole = scorer.prefill([shared + row for row in rows], vocabulary, full_vocabulary=True)
        scores = [score_nodes(scorer, trie, state, "vocabulary") for state in (parted, whole)]
        np.testing.assert_allclose(*scores, **CLOSE)
        for state in (parted, whole):
            scorer.step(state, symbols, np.zeros_like(symbols))
        torch.testing.assert_close(parted.logits.symbols, whole.logits.symbols, rtol=0, atol=5e-5)
        torch.testing.assert_close(parted.logits.total, whole.logits.total, rtol=0, atol=5e-5)
        for row, prompt in enumerate(rows):
            truth = scorer.model(torch.tensor([[*shared, *prompt, *symbols[row]]])).logits[0, -1].float()
            torch.testing.assert_close(parted.logits.symbols[row, 0], truth, rtol=0, atol=5e-5)


@pytest.mark.parametrize("normalize_over", ["catalogue", "allowed", "vocabulary"])
def test_filtered_search_and_scores_are_brute_force_over_what_is_left(normalize_over):
    random = np.random.default_rng(4)
    codes = random_codes(random, 25)
    trie, model = Trie.build(codes, SYMBOLS), tiny("llama")
    prompts = random_prompts(random, 6)
    filters, left = zip(*(random_filter(random, trie, row % 5) for row in range(6)), strict=True)
    truth = np.array([brute_force(model, codes, p, normalize_over, a) for p, a in zip(prompts, left, strict=True)])
    exact = score_all(Scorer(model), trie, TOKENS, prompts, normalize_over, filters)
    np.testing.assert_allclose(exact, truth, **CLOSE)
    ranked = beam_search(Scorer(model), trie, TOKENS, prompts, 25, filters=filters, normalize_over=normalize_over)
    for row, allowed in enumerate(left):
        assert ranked.items[row, : len(allowed)].tolist() == np.argsort(-truth[row])[: len(allowed)].tolist()
        assert (ranked.items[row, len(allowed) :] == -1).all()
        assert np.isneginf(ranked.scores[row, len(allowed) :]).all()
        np.testing.assert_allclose(
            ranked.scores[row, : len(allowed)], np.sort(truth[row])[::-1][: len(allowed)], **CLOSE
        )


@pytest.mark.slow("a thousand searches beside brute force, a minute")
@settings(max_examples=1000, deadline=None)
@given(
    st.integers(0, 2**32), st.sampled_from(sorted(FAMILIES)), st.sampled_from(["catalogue", "allowed", "vocabulary"])
)
def test_every_result_is_valid_distinct_allowed_and_scored_exactly(seed, family, normalize_over):
    random = np.random.default_rng(seed)
    codes = random_codes(random, int(random.integers(1, 40)))
    trie, prompts = Trie.build(codes, SYMBOLS), random_prompts(random, int(random.integers(1, 5)))
    filters, left = zip(*(random_filter(random, trie) for _ in prompts), strict=True)
    k = int(random.integers(1, 12))
    beams = k + int(random.integers(0, 5))
    ranked = beam_search(Scorer(tiny(family)), trie, TOKENS, prompts, k, beams, filters, normalize_over)
    exact = score_all(Scorer(tiny(family)), trie, TOKENS, prompts, normalize_over, filters)
    for items, scores, allowed, truth in zip(ranked.items, ranked.scores, left, exact, strict=True):
        found = items[items >= 0]
        assert len(found) == min(k, len(allowed)) and (items[len(found) :] == -1).all()
        assert len(set(found.tolist())) == len(found) and set(found.tolist()) <= set(allowed)
        assert (np.diff(scores[: len(found)]) <= 0).all()
        np.testing.assert_allclose(scores[: len(found)], truth[found], **CLOSE)


@pytest.mark.parametrize("family", ["llama", "gemma2", "phi3"])
def test_batch_order_and_padding_change_nothing(family):
    random = np.random.default_rng(5)
    trie, scorer = Trie.build(random_codes(random, 60), SYMBOLS), Scorer(tiny(family))
    prompts = random_prompts(random, 6)
    filters = [random_filter(random, trie, row % 5)[0] for row in range(6)]
    whole = beam_search(scorer, trie, TOKENS, prompts, 8, filters=filters)
    order = random.permutation(6)
    mixed = beam_search(scorer, trie, TOKENS, [prompts[i] for i in order], 8, filters=[filters[i] for i in order])
    assert (mixed.items == whole.items[order]).all()
    for row in range(6):
        alone = beam_search(scorer, trie, TOKENS, prompts[row : row + 1], 8, filters=filters[row : row + 1])
        assert (alone.items[0] == whole.items[row]).all()
        np.testing.assert_allclose(alone.scores[0], whole.scores[row], **CLOSE)


@pytest.mark.parametrize("beams", [4, 9])
def test_vocabulary_scores_and_items_are_those_of_generate_with_a_dictionary_trie(beams):
    random = np.random.default_rng(6)
    table = np.unique(random.integers(0, 4, (150, 3)) + np.array([0, 4, 8]), axis=0)
    codes, model = [tuple(code) for code in table.tolist()], tiny("llama")
    prompts = [random.integers(3, 70, 9).tolist() for _ in range(4)]
    item_of = {tuple(int(TOKENS[s]) for s in code): item for item, code in enumerate(codes)}
    following = {}
    for code in item_of:
        for length in range(3):
            following.setdefault(code[:length], set()).add(code[length])
    out = model.generate(
        torch.tensor(prompts),
        attention_mask=torch.ones(4, 9, dtype=torch.long),
        num_beams=beams,
        num_return_sequences=beams,
        max_new_tokens=3,
        length_penalty=0.0,
        do_sample=False,
        prefix_allowed_tokens_fn=lambda _, ids: sorted(following[tuple(ids[9:].tolist())]),
        return_dict_in_generate=True,
        output_scores=True,
    )
    items = [item_of[tuple(ids[9:].tolist())] for ids in out.sequences]
    ours = beam_search(Scorer(model), Trie.build(codes, SYMBOLS), TOKENS, prompts, beams, normalize_over="vocabulary")
    assert ours.items.reshape(-1).tolist() == items
    # generate masks after its log-softmax, so its scores are over the whole vocabulary
    np.testing.assert_allclose(ours.scores.reshape(-1), out.sequences_scores.numpy(), **CLOSE)


def test_exact_scoring_does_not_depend_on_the_memory_it_is_given():
    random = np.random.default_rng(7)
    trie, scorer = Trie.build(random_codes(random, 80), SYMBOLS), Scorer(tiny("gemma3"))
    prompts = random_prompts(random, 3)
    for normalize_over in ("catalogue", "allowed", "vocabulary"):
        roomy = score_all(scorer, trie, TOKENS, prompts, normalize_over)
        for memory in (1, 400_000):
            np.testing.assert_allclose(
                score_all(scorer, trie, TOKENS, prompts, normalize_over, memory=memory), roomy, **CLOSE
            )


def test_equally_likely_items_come_in_the_order_of_their_codes():
    model = tiny("llama")
    head = model.lm_head.weight.data.clone()
    try:
        model.lm_head.weight.data.zero_()
        codes = [(3, 1), (0, 2), (3, 0), (1, 1), (0, 1), (1, 0)]
        ranked = beam_search(Scorer(model), Trie.build(codes, SYMBOLS), TOKENS, [[5], [6, 7]], 4)
    finally:
        model.lm_head.weight.data.copy_(head)
    assert ranked.items.tolist() == [[4, 1, 5, 3]] * 2  # codes (0, 1), (0, 2), (1, 0), (1, 1)
    np.testing.assert_allclose(ranked.scores, np.log(1 / 6), atol=1e-6)  # 1/3 for the first symbol, 1/2 for the second


def test_a_catalogue_of_one_item_gives_that_item_with_certainty():
    for codes in ([(4,)], [(4, 2, 7)]):
        trie, scorer = Trie.build(codes, SYMBOLS), Scorer(tiny("qwen3"))
        ranked = beam_search(scorer, trie, TOKENS, [[5, 6], [9]], 3)
        assert ranked.items.tolist() == [[0, -1, -1]] * 2
        assert ranked.scores[:, 0].tolist() == [0, 0]
        assert score_all(scorer, trie, TOKENS, [[5, 6]]).tolist() == [[0]]
        nothing = beam_search(scorer, trie, TOKENS, [[5, 6]], 2, filters=[Filter.of(trie, deny=[0])])
        assert nothing.items.tolist() == [[-1, -1]] and np.isneginf(nothing.scores).all()


def test_one_beam_takes_the_likeliest_symbol_at_every_level():
    random = np.random.default_rng(8)
    codes, model = random_codes(random, 50), tiny("mistral")
    prompts = random_prompts(random, 4)
    found = beam_search(Scorer(model), Trie.build(codes, SYMBOLS), TOKENS, prompts, 1, 1)
    for prompt, item in zip(prompts, found.items[:, 0], strict=True):
        prefix = ()
        while prefix not in codes:
            ids = torch.tensor([[*prompt, *(int(TOKENS[s]) for s in prefix)]])
            logits = model(ids).logits[0, -1].detach().numpy()
            prefix += (
                max({c[len(prefix)] for c in codes if c[: len(prefix)] == prefix}, key=lambda s: logits[TOKENS[s]]),
            )
        assert codes[item] == prefix


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_half_precision_and_eager_attention_stay_close(family):
    random = np.random.default_rng(9)
    trie, prompts = Trie.build(random_codes(random, 30), SYMBOLS), random_prompts(random, 4)
    exact = score_all(Scorer(tiny(family, attention="eager")), trie, TOKENS, prompts)
    eager = beam_search(Scorer(tiny(family, attention="eager")), trie, TOKENS, prompts, 30)
    np.testing.assert_allclose(eager.scores, np.take_along_axis(exact, eager.items, 1), **CLOSE)
    half = tiny(family, torch.bfloat16, "eager")
    ranked = beam_search(Scorer(half), trie, TOKENS, prompts, 30)
    mine = score_all(Scorer(half), trie, TOKENS, prompts)
    np.testing.assert_allclose(ranked.scores, np.take_along_axis(mine, ranked.items, 1), atol=0.5)
    assert np.corrcoef(mine.ravel(), exact.ravel())[0, 1] > 0.98


def test_requests_and_models_that_cannot_be_answered_are_refused():
    trie, scorer = Trie.build([(0, 1), (2, 3)], SYMBOLS), Scorer(tiny("llama"))
    for bad, says in [
        ({"k": 0}, "at least one item"),
        ({"k": 3, "beams": 2}, "as many beams"),
        ({"k": 1, "prompts": [[5], []]}, "without tokens"),
        ({"k": 1, "prompts": [[5] * 63]}, "63 tokens and its answer 2.*window is 64"),
        ({"k": 1, "normalize_over": "none"}, "catalogue, allowed, vocabulary"),
        ({"k": 1, "filters": [None, None]}, "2 filters for 1"),
    ]:
        with pytest.raises(RequestError, match=says):
            beam_search(scorer, trie, TOKENS, **{"prompts": [[5]], **bad})
    with pytest.raises(ModelError, match="the model has 97"):
        beam_search(scorer, trie, TOKENS + 20, [[5]], 1)
    model = tiny("llama")
    model.train()
    try:
        with pytest.raises(ModelError, match="training mode"):
            beam_search(scorer, trie, TOKENS, [[5]], 1)
    finally:
        model.eval()


@pytest.mark.parametrize("extra", [{}, {"trainable_token_indices": TOKENS.tolist()}, {"modules_to_save": ["lm_head"]}])
def test_a_model_with_adapters_is_scored_as_its_own_forward_pass_scores(extra):
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(
        copy.deepcopy(tiny("llama")),
        peft.LoraConfig(target_modules=["q_proj", "down_proj"], init_lora_weights=False, **extra),
    ).eval()
    for name, weight in model.named_parameters():
        if "trainable_tokens" in name:
            weight.data.add_(torch.randn_like(weight) * 0.3)
    random = np.random.default_rng(10)
    codes, prompts = random_codes(random, 15), random_prompts(random, 2)
    for normalize_over in ("catalogue", "allowed", "vocabulary"):
        truth = np.array([brute_force(model, codes, prompt, normalize_over) for prompt in prompts])
        ranked = beam_search(
            Scorer(model), Trie.build(codes, SYMBOLS), TOKENS, prompts, 15, normalize_over=normalize_over
        )
        np.testing.assert_allclose(ranked.scores, np.take_along_axis(truth, ranked.items, 1), **CLOSE)
