"""Rows of new tokens: where they start, on both sides; how far training moved them, and what is not let through."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from tiny_bases import CODES, FAMILIES, WIDTHS, WORDS, base, catalogue, examples

from llmrec.errors import ModelError
from llmrec.files import write_json
from llmrec.model import embeddings as start
from llmrec.model.base import tiny_base
from llmrec.model.embeddings import ItemInfo, Snapshot, check_embeddings, embedding_weights, initializer, ridge
from llmrec.model.vocabulary import MENTION, MULTIPLE
from llmrec.train.encode import Encoded, used
from llmrec.train.initial_model import item_info

TEXTS = [f"film {number} {'drama' if number < 6 else 'western'}" for number in range(len(CODES))]
NAMES = ["mean", "text", "centroids", "vectors", "random"]


def about(tokens: int = sum(WIDTHS) + 1, dim: int = 6, seed: int = 0) -> ItemInfo:
    """Texts and centroids of the twelve items; the separating level and the mention have no centroid."""
    draw = np.random.default_rng(seed)
    levels = np.append(np.repeat(np.arange(3), WIDTHS), -1)
    places = np.where((levels >= 0) & (levels < 2), 1.0, np.nan)[:, None] * draw.normal(size=(tokens, dim))
    texts = [draw.integers(3, 90, size=draw.integers(1, 6)).tolist() for _ in CODES]
    vectors = draw.normal(size=(len(CODES), dim)).astype(np.float32)
    return ItemInfo(catalogue().codes, levels, texts, places.astype(np.float32), vectors)


def table(rows: int = 100, width: int = 16) -> torch.Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(1)) * 0.3 + 0.1


def noise(tokens: int = sum(WIDTHS) + 1, width: int = 16) -> torch.Tensor:
    return torch.randn(tokens, width, generator=torch.Generator().manual_seed(2))


def texts_of(token: int, facts: ItemInfo, old: torch.Tensor) -> list[torch.Tensor]:
    """The mean row of the text of every item whose code holds a token."""
    pairs = zip(facts.texts, facts.codes.tolist(), strict=True)
    return [old[torch.tensor(words)].mean(0) for words, code in pairs if token in code]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["llama", "phi", "gemma2"])
@pytest.mark.parametrize("values", NAMES)
def test_growing_leaves_old_rows_bit_for_bit_and_tells_new_ones_apart(
    values: str, name: str, tied: bool, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    plain, _ = tiny_base(FAMILIES[name], WORDS, tmp_path, tied)
    before = {side: weight.detach().clone() for side, weight in embedding_weights(plain).items()}
    model, tokenizer, new = base(name, tied, tmp_path, initial=initializer(values, about))
    after = embedding_weights(model)
    assert list(after) == (["input"] if tied else ["input", "output"])
    for side, rows in after.items():
        assert torch.equal(rows[: len(before[side])], before[side])
        assert len(rows) % MULTIPLE == 0 and len(tokenizer) <= len(rows) < len(tokenizer) + MULTIPLE
        assert torch.isfinite(rows).all()
        assert len(torch.unique(rows[new], dim=0)) == len(new)
    if not tied:
        assert not torch.equal(after["input"][new], after["output"][new])
    head = model.get_output_embeddings()
    if name == "phi":
        torch.testing.assert_close(head.bias[new], head.bias[: new.min()].mean().expand(len(new)))
        assert len(head.bias) == len(head.weight)


def test_rows_start_near_the_mean_unless_the_recipe_says_otherwise(tmp_path: Path) -> None:
    one, _, new = base("llama", True, tmp_path)
    other, _, _ = base("llama", True, tmp_path, initial=initializer("mean", about))
    assert torch.equal(embedding_weights(one)["input"], embedding_weights(other)["input"])
    old = embedding_weights(one)["input"][: new.min()]
    draw = torch.randn(len(new), old.shape[1], generator=torch.Generator().manual_seed(3))
    assert torch.equal(embedding_weights(one)["input"][new], old.mean(0) + 0.5 * old.std(0) * draw)


def test_random_rows_are_as_long_as_the_base_s() -> None:
    found = start.random(table(), noise())
    torch.testing.assert_close(found.norm(dim=1), table().norm(dim=1).square().mean().sqrt().expand(len(found)))


def test_text_rows_are_means_of_means_spread_as_the_base_is() -> None:
    facts, old = about(), table()
    found = start.text(old, noise(), facts)
    apart = (old - old.mean(0)).norm(dim=1).square().mean().sqrt()
    for level in range(3):
        here = [token for token in np.flatnonzero(facts.levels == level) if token in facts.codes]
        raw = torch.stack([torch.stack(texts_of(token, facts, old)).mean(0) for token in here])
        torch.testing.assert_close(found[here].mean(0), old.mean(0), atol=1e-5, rtol=0)
        torch.testing.assert_close((found[here] - old.mean(0)).norm(dim=1).square().mean().sqrt(), apart)
        shape = (raw - raw.mean(0)) / (raw - raw.mean(0)).norm()
        ours = (found[here] - old.mean(0)) / (found[here] - old.mean(0)).norm()
        torch.testing.assert_close(ours, shape, atol=1e-5, rtol=0)
    spare = np.flatnonzero(np.isin(np.arange(len(found)), facts.codes, invert=True))
    assert len(spare) == 3  # two spare tokens, and the one that announces an item
    torch.testing.assert_close(found[spare], start.mean(old, noise())[spare])


@pytest.mark.parametrize("penalty", [1e-3, 1.0, 50.0])
def test_the_ridge_map_is_scikit_learn_s(penalty: float) -> None:
    draw = np.random.default_rng(0)
    given, wanted = draw.normal(size=(40, 7)) + 2, draw.normal(size=(40, 5)) - 1
    truth = Ridge(alpha=penalty).fit(given, wanted).coef_.T
    ours = ridge(torch.from_numpy(given), torch.from_numpy(wanted), penalty)
    np.testing.assert_allclose(ours.numpy(), truth, rtol=1e-8, atol=1e-10)


def test_centroid_rows_are_the_ridge_map_of_centroids_fitted_on_items() -> None:
    facts, old = about(), table()
    found = start.centroids(old, noise(), facts)
    vectors = np.nan_to_num(facts.centroids)[facts.codes].sum(1)
    means = np.stack([old[torch.tensor(words)].mean(0).numpy() for words in facts.texts])
    scatter = ((vectors - vectors.mean(0)) ** 2).sum() / vectors.shape[1]
    truth = Ridge(alpha=start.RIDGE * scatter).fit(vectors, means)
    for level in range(2):
        here = np.flatnonzero(facts.levels == level)
        mapped = facts.centroids[here] @ truth.coef_.T
        cosine = torch.nn.functional.cosine_similarity(
            found[here] - old.mean(0), torch.from_numpy(mapped - mapped.mean(0)), dim=1
        )
        torch.testing.assert_close(cosine, torch.ones(len(here)), atol=1e-4, rtol=0)
    rest = np.flatnonzero(facts.levels != 0)[WIDTHS[1] :]
    torch.testing.assert_close(found[rest], start.mean(old, noise())[rest])


def test_rows_from_vectors_add_up_to_the_vectors_where_every_item_has_a_token_of_its_own() -> None:
    """Inner products between items' summed rows are those of their centred vectors, before each level is spread."""
    draw = np.random.default_rng(3)
    vectors = draw.normal(size=(6, 5)).astype(np.float32)
    codes = np.stack([np.arange(6) % 2, 2 + np.arange(6)], axis=1)
    facts = ItemInfo(codes, np.array([0, 0, *[1] * 6]), [[1]] * 6, None, vectors)
    rows = start.vectors(torch.zeros(50, 8), torch.zeros(8, 8), facts)
    assert (rows == 0).all(), "about a base without spread there is no way to go"
    base = table(50, 8)
    rows = (start.vectors(base, noise(8, 8), facts) - base.mean(0)).double().numpy()
    centred = vectors - vectors.mean(0)
    groups = np.stack([centred[::2].mean(0), centred[1::2].mean(0)])
    rest = centred - groups[codes[:, 0]]
    for found, truth in ((rows[:2], groups - groups.mean(0)), (rows[2:], rest - rest.mean(0))):
        np.testing.assert_allclose(
            found @ found.T / np.trace(found @ found.T), truth @ truth.T / np.trace(truth @ truth.T), atol=1e-5
        )


def test_items_alike_in_text_start_with_rows_alike(tmp_path: Path) -> None:
    """Two kinds of films in two clusters: first tokens of one kind start nearer to each other than to the other's."""
    facts = about()
    half = ItemInfo(facts.codes, facts.levels, [[5, 6] if code[0] < 2 else [7, 8] for code in facts.codes], None)
    found = start.text(table(), noise(), half)[:4]
    apart = torch.cdist(found, found)
    assert max(apart[0, 1], apart[2, 3]) < min(apart[0, 2], apart[0, 3], apart[1, 2], apart[1, 3])


def test_what_a_run_knows_of_its_items_is_read_from_its_folder(tmp_path: Path) -> None:
    (tmp_path / "items").mkdir()
    (tmp_path / "catalogue").mkdir()
    write_json(tmp_path / "items" / "texts.json", TEXTS)
    _, tokenizer = tiny_base("llama", WORDS, tmp_path / "tokenizer")
    new = sum(WIDTHS) + 1
    without = item_info(tmp_path / "items", tmp_path / "catalogue", catalogue(), new, tokenizer)
    assert without.centroids is None and [tokenizer.decode(text).strip() for text in without.texts] == TEXTS
    books = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
    np.save(tmp_path / "catalogue" / "codebooks.npy", books)
    places = item_info(tmp_path / "items", tmp_path / "catalogue", catalogue(), new, tokenizer).centroids
    np.testing.assert_array_equal(places[[0, 1, 2]], books[0])
    np.testing.assert_array_equal(places[[4, 5, 6]], books[1])
    assert np.isnan(places[[3, *range(7, new)]]).all()


def test_centroids_without_codebooks_are_refused_with_another_choice() -> None:
    with pytest.raises(ModelError, match=r"model\.init_tokens: centroids.*keeps no codebooks.*Set it to text"):
        initializer("centroids", lambda: ItemInfo(CODES, np.zeros(3, int), [[1]] * len(CODES), None))


# --- how far rows moved


def trained_side(distances: dict[str, float], tied: bool, folder: Path) -> tuple:
    """A model whose rows of some tokens were moved by hand."""
    model, _, new = base("llama", tied, folder)
    before, names = Snapshot.of(model, new), [*catalogue().tokens, MENTION]
    with torch.no_grad():
        for rows in embedding_weights(model).values():
            for token, distance in distances.items():
                rows[new[names.index(token)], 0] += distance
    return before, model, new, names


def everything(new: np.ndarray, but: tuple[int, ...] = ()) -> dict[str, np.ndarray]:
    seen = np.isin(np.arange(len(new)), but, invert=True)
    return {"input": seen, "output": seen}


def test_the_report_gives_distances_by_side_and_spares_apart(tmp_path: Path) -> None:
    tokens = catalogue().tokens
    before, model, new, names = trained_side(dict.fromkeys(tokens[:-2], 0.5) | {tokens[-1]: 3.0}, False, tmp_path)
    spare = np.isin(np.arange(len(new)), catalogue().codes, invert=True)
    seen = everything(new, (len(new) - 1, len(new) - 3))
    facts = check_embeddings(before, model, new, names, seen, spare, False)
    reserved = {"tokens": 2, "mean distance": 1.5, "unmoved": 1}
    side = {"tokens": 10, "mean distance": 0.5, "unmoved": 0, "reserved": reserved}
    assert facts == {"input": side, "output": side}


def test_used_rows_that_did_not_move_stop_the_run_and_are_named(tmp_path: Path) -> None:
    tokens = catalogue().tokens
    before, model, new, names = trained_side(dict.fromkeys(tokens[2:], 0.5), True, tmp_path)
    spare = np.zeros(len(new), bool)
    with pytest.raises(ModelError, match=r"2 of 12 item tokens .* did not move on the input side \(<a_0>, <a_1>\)"):
        check_embeddings(before, model, new, names, everything(new, (12,)), spare, True)
    assert (
        check_embeddings(before, model, new, names, everything(new, (0, 1, 12)), spare, True)["input"]["unmoved"] == 2
    )


def test_an_old_row_that_moved_stops_the_run_unless_it_may(tmp_path: Path) -> None:
    before, model, new, names = trained_side(dict.fromkeys([*catalogue().tokens, MENTION], 0.5), True, tmp_path)
    with torch.no_grad():
        embedding_weights(model)["input"][5, 5] += 1e-6
    given = (before, model, new, names, everything(new), np.zeros(len(new), bool))
    with pytest.raises(
        ModelError, match=r"the base's own tokens changed on the input side.*model\.base_embeddings: trained"
    ):
        check_embeddings(*given, False)
    assert check_embeddings(*given, True)["input"]["unmoved"] == 0


def test_used_tokens_are_those_that_get_a_gradient(tmp_path: Path) -> None:
    """Truth from torch: rows of an untied model whose gradient is not zero (input), and supervised tokens (output)."""
    model, tokenizer, new = base("llama", False, tmp_path)
    parts = examples(tokenizer, 3)
    tokens = np.concatenate([parts[0].tokens, new[:1]])  # a token that nothing supervised follows
    parts[0] = Encoded(tokens, np.append(parts[0].supervised, False))
    for part in parts:
        logits = model(torch.from_numpy(part.tokens)[None]).logits[0, :-1]
        losses = torch.nn.functional.cross_entropy(logits, torch.from_numpy(part.tokens)[1:], reduction="none")
        losses[torch.from_numpy(part.supervised)[1:]].sum().backward()
    found = used(parts, new)
    touched = embedding_weights(model)["input"].grad[new].abs().sum(1) > 0
    np.testing.assert_array_equal(found["input"], touched.numpy())
    wanted = {token for part in parts for token in part.tokens[1:][part.supervised[1:]].tolist()}
    np.testing.assert_array_equal(found["output"], [token in wanted for token in new.tolist()])
