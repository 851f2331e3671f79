"""The softmax over what the catalogue allows: against brute force over the trie, and where it stands aside."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llmrec.errors import ModelError
from llmrec.indexing.catalogue import Catalogue
from llmrec.train import sft, trie_softmax
from llmrec.train.loss import supervised_loss
from llmrec.train.packing import IGNORE
from llmrec.train.trie_softmax import TrieSoftmax

FIRST = 40  # the model's token of symbol 0; below it stand words


def catalogue(longest: int = 3) -> Catalogue:
    """30 items; the first level has 4 tokens, the second 5, the last one of each item's own, and a spare."""
    draw = np.random.default_rng(0)
    codes = np.column_stack([draw.integers(4, size=30), draw.integers(5, size=30), np.arange(30)])
    items = pa.table({"item_id": [str(number) for number in range(30)]})
    symbols = codes + np.array([0, 4, 9])
    if longest == 2:  # items of the first number on the first level have each a second number of its own, and no third
        first = np.flatnonzero(codes[:, 0] == 0)[:5]
        symbols = np.vstack([symbols[codes[:, 0] > 0], symbols[first]])
        symbols[-len(first) :, 1:] = np.column_stack([np.arange(len(first)) + 4, np.full(len(first), -1)])
        items = items.slice(0, len(symbols))
    return Catalogue.of_symbols(items, symbols.astype(np.int32), [4, 5, 31], "own")


NEW = np.arange(FIRST, FIRST + 40)


def truth(logits: torch.Tensor, tokens: list[int], at: int, codes: np.ndarray) -> torch.Tensor:
    """Log-probability of the token at a place among those that any item has behind the same prefix."""
    level = next(number for number, edge in enumerate((4, 9, 40)) if tokens[at] < FIRST + edge)
    before = tokens[at - level : at]
    options = sorted({int(code[level]) + FIRST for code in codes if (code[:level] + FIRST).tolist() == before})
    return logits[tokens[at]] - torch.logsumexp(logits[options], 0)


@pytest.mark.parametrize(("dense", "gathered"), [(1024, 2**24), (0, 2**24), (0, 8 * 3), (6, 1)])
def test_code_tokens_compete_with_what_items_have_in_their_place(
    dense: int, gathered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values and gradients; words, the end, a spare token and a code that no item has compete with all tokens."""
    monkeypatch.setattr(trie_softmax, "DENSE", dense)
    monkeypatch.setattr(trie_softmax, "GATHERED", gathered)
    known = catalogue()
    draw = np.random.default_rng(1)
    histories = [known.codes[draw.integers(30, size=5)] + FIRST for _ in range(3)]
    tokens = [[1, 7, *history.ravel().tolist(), 2] for history in histories]
    tokens[0][4] = FIRST + 39  # the spare token stands for an item's own
    strange = next(pair for pair in np.ndindex(4, 5) if list(pair) not in (known.codes[:, :2] - [0, 4]).tolist())
    tokens[1][5:8] = [FIRST + strange[0], FIRST + 4 + strange[1], FIRST + 9]
    ids = torch.tensor(tokens)
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 1}
    llama = LlamaForCausalLM(LlamaConfig(vocab_size=80, tie_word_embeddings=True, **shape))
    given = {"input_ids": ids, "labels": ids.clone(), "position_ids": torch.arange(18).expand(3, -1)}
    given["labels"][:, :2] = IGNORE
    loss = supervised_loss(llama, **given, trie=TrieSoftmax.of(known, NEW, "train.0.loss")).loss
    logits = llama(input_ids=ids).logits.float()
    wanted = []
    for row, line in enumerate(tokens):
        for at in range(2, 18):
            before = logits[row, at - 1]
            alone = line[at] < FIRST or (row, at) in [(0, 4), (1, 6), (1, 7)]
            wanted.append(torch.log_softmax(before, 0)[line[at]] if alone else truth(before, line, at, known.codes))
    torch.testing.assert_close(loss, -torch.stack(wanted).mean())
    parameters = list(llama.parameters())
    for one, other in zip(
        torch.autograd.grad(loss, parameters, retain_graph=True),
        torch.autograd.grad(-torch.stack(wanted).mean(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-4)


def test_smoothing_shares_with_siblings_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    known = catalogue()
    found, states, rows = TrieSoftmax.of(known, NEW, "x"), torch.randn(30, 8), torch.randn(80, 8)
    tokens = torch.from_numpy(known.codes.astype(np.int64)) + FIRST
    depth, prefix = found.locate(tokens, torch.arange(30), torch.full((30,), 2))
    assert (depth == 2).all()
    values = {}
    for name, dense in (("dense", 1024), ("gathered", 0)):
        monkeypatch.setattr(trie_softmax, "DENSE", dense)
        values[name] = found.logprobs(states, tokens[:, 2], 2, prefix, rows, smoothing=0.3)
    torch.testing.assert_close(values["dense"], values["gathered"])
    for item, code in enumerate(known.codes):
        twins = np.flatnonzero((known.codes[:, :2] == code[:2]).all(1))
        chances = torch.log_softmax((rows[FIRST + known.codes[twins, 2]] @ states[item]), 0)
        want = 0.7 * chances[list(twins).index(item)] + 0.3 * chances.mean()
        torch.testing.assert_close(values["dense"][item], want)


def test_a_wide_first_level_is_scored_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token of each item's own alone: all are siblings, and gathering them for each position would be slow."""
    items = pa.table({"item_id": [str(item) for item in range(30)]})
    found = TrieSoftmax.of(Catalogue.of_symbols(items, np.arange(30, dtype=np.int32)[:, None], [30]), NEW, "x")
    monkeypatch.setattr(trie_softmax, "DENSE", 8)
    monkeypatch.setattr(TrieSoftmax, "_gathered", None)
    states, rows, tokens = torch.randn(30, 8), torch.randn(80, 8), torch.arange(30) + FIRST
    scores = found.logprobs(states, tokens, 0, torch.zeros(30, dtype=torch.long), rows)
    torch.testing.assert_close(scores, torch.log_softmax(states @ rows[FIRST : FIRST + 30].T, 1).diagonal())


def test_a_shorter_code_ends_where_it_ends() -> None:
    known = catalogue(longest=2)
    ends = np.flatnonzero(known.codes[:, 2] < 0)
    found = TrieSoftmax.of(known, NEW, "x")
    tokens = torch.from_numpy(known.codes[ends, :2].astype(np.int64)) + FIRST
    depth, _ = found.locate(tokens, torch.arange(len(ends)), torch.ones(len(ends), dtype=torch.long))
    assert (depth == 1).all()


@pytest.mark.parametrize(("tied", "bias"), [(False, False), (True, True)])
def test_a_head_that_is_not_the_embedding_is_refused(tied: bool, bias: bool) -> None:
    table, head = torch.nn.Embedding(80, 8), torch.nn.Linear(8, 80, bias=bias)
    head.weight = table.weight if tied else head.weight
    model = SimpleNamespace(get_output_embeddings=lambda: head, get_input_embeddings=lambda: table)
    job = SimpleNamespace(name="train.0", model=SimpleNamespace(base="mine"))
    with pytest.raises(ModelError, match=r"train.0.loss: trie needs a base whose output layer is its embedding"):
        sft._trie_softmax(job, None, SimpleNamespace(model=model, new=NEW))  # type: ignore[arg-type]


def test_codes_that_share_tokens_between_places_are_refused() -> None:
    items = pa.table({"item_id": ["a", "b"]})
    shared = Catalogue.of_symbols(items, np.array([[0, 1], [1, 0]], np.int32), [2])
    with pytest.raises(ModelError, match=r"train.0.loss: trie needs codes whose levels have tokens of their own"):
        TrieSoftmax.of(shared, np.array([5, 6]), "train.0.loss")
