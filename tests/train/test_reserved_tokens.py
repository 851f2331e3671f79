"""Reserved tokens are trained: which items get one, that it depends on the seed alone, and what it is for."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from tiny_bases import CODES, WIDTHS, base, catalogue
from transformers import AutoTokenizer

from llmrec.decode.generative import TransformersEngine
from llmrec.indexing.catalogue import Catalogue
from llmrec.model.embeddings import embedding_weights
from llmrec.model.vocabulary import token_ids
from llmrec.recipe import Sft
from llmrec.tasks import examples
from llmrec.train import sft
from llmrec.train.augment import ReservedTokens
from llmrec.train.encode import Encoded, encode_examples
from llmrec.train.packing import PackedRows

NEW = np.arange(100, 100 + sum(WIDTHS) + 1)


def reserved(share: float = 0.3, seed: int = 1, stage: int = 1) -> ReservedTokens:
    found = ReservedTokens.of(catalogue(), NEW, share, seed, stage)
    assert found is not None
    return found


def sequence(items: list[int]) -> np.ndarray:
    """Tokens of some items, words between them."""
    return np.concatenate([[5, *NEW[catalogue().codes[item]], 6] for item in items]).astype(np.int64)


def test_reserved_tokens_are_those_of_the_last_level_that_no_item_has() -> None:
    assert reserved().free.tolist() == NEW[[10, 11]].tolist()
    assert reserved().spans.ends.tolist() == NEW[7:12].tolist()
    assert reserved().following == {
        tuple(NEW[[a, 4 + b]].tolist()): int(NEW[7 + (a + b) % 3 + 1]) for a in range(4) for b in range(3)
    }
    assert ReservedTokens.of(catalogue(), NEW, 0.0, 1, 1) is None
    full = Catalogue.of(catalogue().items, CODES, [4, 3, 3])
    assert ReservedTokens.of(full, NEW, 0.3, 1, 1) is None


def test_only_last_tokens_change_and_an_item_has_one_reserved_token_throughout_an_example() -> None:
    tokens = sequence([3, 5, 3, 7, 5, 3])
    changed = 0
    for number in range(200):
        worn = reserved()(tokens, number)
        away = np.flatnonzero(worn != tokens)
        assert np.isin(tokens[away], reserved().spans.ends).all()
        free = [{*reserved().free.tolist(), reserved().following[tuple(tokens[at - 2 : at].tolist())]} for at in away]
        assert all(token in choice for token, choice in zip(worn[away].tolist(), free, strict=True))
        ends = worn.reshape(-1, 5)[:, 3]
        assert len(set(ends[[0, 2, 5]])) == len(set(ends[[1, 4]])) == 1
        changed += len(set(np.flatnonzero(ends != tokens.reshape(-1, 5)[:, 3])) & {0, 1, 3})
    assert 0.25 < changed / 600 < 0.35  # three different items, each with a chance of .3
    assert tokens.tolist() == sequence([3, 5, 3, 7, 5, 3]).tolist()


def test_replacements_depend_on_seed_stage_and_example_alone() -> None:
    tokens = sequence(list(range(12)))

    def replaced(number: int, **given: int) -> list[int]:
        return reserved(**given)(tokens, number).tolist()

    assert replaced(4) == replaced(4)
    assert len({tuple(replaced(number)) for number in range(20)}) > 10
    assert replaced(4) != replaced(4, seed=2) and replaced(4) != replaced(4, stage=2)


@pytest.fixture(scope="module")
def tokenizer(tiny_run: Path):
    return AutoTokenizer.from_pretrained(tiny_run / "train-1-sft" / "model")


def test_prompt_and_answer_have_the_same_token_and_masks_stay(tiny_run: Path, tokenizer) -> None:
    """An item's code in the prompt and in the answer of one example is one item, with the same token."""
    own, table = Catalogue.load(tiny_run / "catalogue"), examples.load(tiny_run / "tasks")
    substitute = ReservedTokens.of(own, token_ids(tokenizer, own.tokens), 0.5, 7, 1)
    assert substitute is not None
    plain = encode_examples(table, tokenizer, 512)
    worn = encode_examples(table, tokenizer, 512, substitute)
    assert any((one.tokens != other.tokens).any() for one, other in zip(plain, worn, strict=True))
    seen: set[int] = set()
    for one, other in zip(plain, worn, strict=True):
        assert (one.supervised == other.supervised).all()
        away = one.tokens != other.tokens
        seen |= set(other.tokens[away].tolist())
        places = np.flatnonzero(np.isin(one.tokens, substitute.spans.ends))
        codes = [tuple(one.tokens[place + 1 - substitute.spans.longest : place + 1]) for place in places]
        assert len(set(zip(codes, other.tokens[places].tolist(), strict=True))) == len(set(codes))
    assert set(substitute.free.tolist()) <= seen


def test_reserved_tokens_of_a_run_are_used_and_change(tiny_run: Path, tokenizer) -> None:
    facts = json.loads((tiny_run / "train-1-sft" / "made.json").read_text())["facts"]["new rows"]["input"]
    assert facts["unmoved"] == 0 and facts["reserved"]["tokens"] > 0
    assert facts["reserved"]["unmoved"] == 0 and facts["reserved"]["mean distance"] > 0


LEARNABLE = np.array([*([a, b, 0] for a in range(4) for b in range(3)), [3, 2, 1]], np.int32)  # 2 to 4 are spare


def of(codes: np.ndarray) -> Catalogue:
    names = [f"i{number}" for number in range(len(codes))]
    return Catalogue.of(pa.table({"item_id": names, "title": names}), codes.astype(np.int32), WIDTHS)


def encoded(words, new: np.ndarray, substitute: ReservedTokens | None, number: int) -> Encoded:
    """Three items in their order round the catalogue."""
    items = [(number + step) % len(LEARNABLE) for step in range(3)]
    tokens = np.array([words.bos_token_id, *new[of(LEARNABLE).codes[items]].ravel()])
    return Encoded(substitute(tokens, number) if substitute else tokens, np.arange(10) > 0)


@pytest.mark.parametrize(("tied", "number"), [(True, 3), (False, 3), (True, 1)], ids=["tied", "untied", "next number"])
def test_a_new_item_can_win_against_its_twin(tied: bool, number: int, tmp_path: Path) -> None:
    """A fifth of item 0's occurrences is replaced, half by the prefix's next number, half by three reserved tokens."""
    beside: dict[float, float] = {}
    twin, stage = of(np.concatenate([LEARNABLE, [[0, 0, number]]])), Sft(epochs=10, batch=4, learning_rate=1e-2)
    for share in (0.0, 0.2):
        model, words, new = base("llama", tied, tmp_path / "tokenizer")
        untrained = embedding_weights(model)["input"].detach()[new[[9, 10, 11]]].clone()
        substitute = ReservedTokens.of(of(LEARNABLE), new, share, 0, 1)
        rows = PackedRows([encoded(words, new, substitute, case) for case in range(130)], 64, np.random.default_rng(0))
        sft.train(model, rows, stage, 0, tmp_path / f"{share}", 0.0, lambda done: None)
        moved = (embedding_weights(model)["input"][new[[9, 10, 11]]] - untrained).norm(dim=1)
        assert share == 0 or moved.min() > 0.01
        engine = TransformersEngine(model.eval(), twin.trie, token_ids(words, catalogue().tokens))
        scores = engine.score([[words.bos_token_id, *new[twin.codes[11]]]])[0]
        beside[share] = float(np.exp(scores[-1] - scores[0]))
    assert 0.01 < beside[0.2] < 0.6  # a tenth by the next number, a thirtieth by each reserved token
    assert beside[0.0] < (0.5 if number == 1 else 1e-3) * beside[0.2]
