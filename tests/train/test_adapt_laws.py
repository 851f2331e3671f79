"""What each way of training promises beyond going through: what it costs, what it merges into, where it goes on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tiny_bases import base, catalogue, examples, train
from transformers import PreTrainedModel

from llmrec.errors import ModelError
from llmrec.model.adapt import adapt
from llmrec.model.embeddings import embedding_weights
from llmrec.model.merge import VOCABULARY, load_adapter, merge_adapters, merge_error, save_adapter
from llmrec.recipe import Adapt, Launch, Model, Recipe, Sft
from llmrec.train import sft
from llmrec.train.loss import supervised_loss
from llmrec.train.packing import PackedRows, collate

METHODS: list[Adapt] = ["full", "lora", "qlora", "embeddings-only"]


def settings(method: Adapt, **given: Any) -> Model:
    return Model(base="somebody/base", adapt=method, rank=4, **given)


def adapted(method: Adapt, folder: Path, name: str = "llama", tied: bool = False, **given: Any) -> tuple:
    """A model to train, its tokenizer, and how the plain one is made again."""

    def plain() -> PreTrainedModel:
        return base(name, tied, folder / "tokenizer")[0]

    model, tokenizer, new = base(name, tied, folder / "tokenizer")
    return adapt(model, settings(method, **given), None, new), tokenizer, new, plain


@pytest.mark.parametrize("tied", [True, False])
def test_old_rows_train_in_full_where_the_recipe_says_so_and_nowhere_else(tied: bool, tmp_path: Path) -> None:
    for chosen in ("trained", "frozen"):
        model, tokenizer, new, plain = adapted("full", tmp_path, tied=tied, base_embeddings=chosen)
        train(model, tokenizer, tmp_path / chosen, weight_decay=0.5)
        done = merge_adapters(model, tokenizer, tmp_path, plain)
        for after, before in zip(embedding_weights(done).values(), embedding_weights(plain()).values(), strict=True):
            same = (after[: new.min()] == before[: new.min()]).all(1)
            assert bool(same.all()) == (chosen == "frozen")
            worn = new[np.unique(catalogue().codes)]
            assert not (after[worn] == before[worn]).all(1).any()
    assert "forward" not in vars(done.get_output_embeddings())  # nothing is left of what held the rows


def test_nano_trains_all_its_rows_whatever_the_recipe_holds_of_old_ones(tmp_path: Path) -> None:
    model, tokenizer, new = base("llama", True, tmp_path / "tokenizer")
    before = embedding_weights(model)["input"].detach().clone()
    train(adapt(model, Model(base="nano"), None, new), tokenizer, tmp_path / "work")
    assert (embedding_weights(model)["input"][: new.min()] != before[: new.min()]).any(1).all()


@pytest.mark.parametrize("tied", [True, False])
def test_new_rows_cost_their_own_numbers_and_not_the_matrices(tied: bool, tmp_path: Path) -> None:
    model, _, new, _ = adapted("embeddings-only", tmp_path, tied=tied)
    count = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    assert count == len(new) * 64 * (1 if tied else 2)


def test_a_stage_may_train_less_than_the_recipe_s_model(tmp_path: Path) -> None:
    model, _, new = base("llama", True, tmp_path)
    chosen = adapt(model, settings("full"), "embeddings-only", new)
    assert [name for name, value in chosen.named_parameters() if value.requires_grad] == [
        name for name, _ in chosen.named_parameters() if "trainable_tokens_delta" in name
    ]


# --- QLoRA


def test_qlora_holds_linear_layers_in_four_bits_and_the_head_whole(tmp_path: Path) -> None:
    from bitsandbytes.nn import Linear4bit

    model, _, _, plain = adapted("qlora", tmp_path)
    kinds = {name: module for name, module in model.get_base_model().named_modules() if isinstance(module, Linear4bit)}
    linear = [name for name, module in plain().named_modules() if isinstance(module, torch.nn.Linear)]
    assert len(kinds) == len(linear) - 1
    for module in kinds.values():
        assert module.weight.quant_type == "nf4" and module.weight.quant_state.nested  # double quantization
        assert module.weight.dtype == torch.uint8


def test_a_qlora_merge_is_the_plain_base_and_the_adapter_not_the_dequantized_base(tmp_path: Path) -> None:
    model, tokenizer, _, plain = adapted("qlora", tmp_path)
    train(model, tokenizer, tmp_path / "work")
    layer = model.get_base_model().model.layers[1].mlp.up_proj
    low, high = (layer.lora_A["default"].weight.detach(), layer.lora_B["default"].weight.detach())
    truth = plain().model.layers[1].mlp.up_proj.weight.detach() + layer.scaling["default"] * high @ low
    assert high.abs().max() > 0
    done = merge_adapters(model, tokenizer, tmp_path, plain)
    torch.testing.assert_close(done.model.layers[1].mlp.up_proj.weight.detach(), truth, rtol=1e-5, atol=1e-6)
    assert all(value.dtype == torch.float32 for value in done.state_dict().values())


def test_the_cost_of_dequantizing_is_the_difference_of_two_models_on_supervised_tokens(tmp_path: Path) -> None:
    model, tokenizer, _, plain = adapted("qlora", tmp_path)
    train(model, tokenizer, tmp_path / "work")
    done, parts = merge_adapters(model, tokenizer, tmp_path, plain), examples(tokenizer, 5)
    told = merge_error(model, done, [(part.tokens, part.supervised) for part in parts])
    for name, one in (("loss as trained", model), ("loss merged", done)):
        rows = PackedRows(parts, 64, np.random.default_rng(0))
        loss = supervised_loss(one.eval(), **collate([rows[row] for row in range(len(rows))])).loss
        assert told[name] == pytest.approx(float(loss.detach()), abs=2e-5)
    assert 0 < told["mean logit difference"] < told["largest logit difference"]
    same = merge_error(done, done, [(part.tokens, part.supervised) for part in parts])
    assert same["largest logit difference"] == 0 and same["loss as trained"] == same["loss merged"]


# --- adapters on disk


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("method", ["lora", "embeddings-only"])
def test_an_adapter_comes_back_from_its_folder(method: Adapt, tied: bool, tmp_path: Path) -> None:
    model, tokenizer, _, plain = adapted(method, tmp_path, "phi", tied)
    train(model, tokenizer, tmp_path / "work")
    save_adapter(model, tokenizer, tmp_path / "adapter")
    ids = torch.from_numpy(examples(tokenizer, 1)[0].tokens)[None]
    with torch.no_grad():
        truth = model.eval()(ids).logits
        found = load_adapter(plain(), tokenizer, tmp_path / "adapter").eval()(ids).logits
    torch.testing.assert_close(found, truth, rtol=1e-5, atol=1e-5)


def test_an_adapter_of_another_vocabulary_is_refused(tmp_path: Path) -> None:
    model, tokenizer, _, plain = adapted("lora", tmp_path)
    save_adapter(model, tokenizer, tmp_path / "adapter")
    larger = plain()
    larger.resize_token_embeddings(len(embedding_weights(larger)["input"]) + 64, mean_resizing=False)
    with pytest.raises(ModelError, match=r"was trained with \d+ tokens in \d+ embedding rows.*base of its own run"):
        load_adapter(larger, tokenizer, tmp_path / "adapter")
    tokenizer.add_tokens(["<z_0>"])
    with pytest.raises(ModelError, match=r"vocabulary .*but the base has"):
        load_adapter(plain(), tokenizer, tmp_path / "adapter")


def test_an_adapter_of_another_shape_is_refused(tmp_path: Path) -> None:
    model, tokenizer, _, _ = adapted("lora", tmp_path)
    save_adapter(model, tokenizer, tmp_path / "adapter")
    assert (tmp_path / "adapter" / VOCABULARY).is_file()
    config = base("llama", False, tmp_path / "tokenizer")[0].config
    config.update({"hidden_size": 32, "head_dim": 16})
    with pytest.raises(ModelError, match="does not fit the base"):
        load_adapter(type(base("llama", False, tmp_path / "tokenizer")[0])(config), tokenizer, tmp_path / "adapter")


# --- the loop


@pytest.mark.parametrize("method", METHODS)
def test_checkpointed_activations_give_the_same_gradients(method: Adapt, tmp_path: Path) -> None:
    model, tokenizer, _, _ = adapted(method, tmp_path, "phi")
    rows = PackedRows(examples(tokenizer, 4), 64, np.random.default_rng(0))
    batch = collate([rows[row] for row in range(len(rows))])

    def gradients() -> dict[str, torch.Tensor]:
        model.zero_grad()
        torch.manual_seed(0)  # LoRA's dropout
        supervised_loss(model.train(), **batch).loss.backward()
        return {name: value.grad.clone() for name, value in model.named_parameters() if value.requires_grad}

    truth = gradients()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    assert model.get_base_model().is_gradient_checkpointing if method != "full" else model.is_gradient_checkpointing
    for name, value in gradients().items():
        torch.testing.assert_close(value, truth[name], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_training_ends_with_the_same_weights(method: Adapt, tmp_path: Path) -> None:
    class Killed(Exception):
        pass

    def kill(done: float) -> None:
        if done > 0.6:
            raise Killed

    stage = Sft(epochs=2, batch=2, learning_rate=1e-2, save_every=3)
    ends = []
    for stop in (False, True):
        work = tmp_path / str(stop)
        for progress in [kill] * stop + [lambda done: None]:
            torch.manual_seed(0)
            model, tokenizer, _, _ = adapted(method, tmp_path)
            rows = PackedRows(examples(tokenizer), 16, np.random.default_rng(0))
            try:
                sft.train(model, rows, stage, 0, work, 0.0, progress)
            except Killed:
                assert (work / "checkpoint-3").is_dir()
        ends.append({name: value for name, value in model.named_parameters() if value.requires_grad})
    assert all(torch.equal(value, ends[1][name]) for name, value in ends[0].items())


# --- recipes


def test_nano_is_trained_in_full_first() -> None:
    with pytest.raises(ValidationError, match="adapt: qlora needs a pretrained base"):
        Model(base="nano", adapt="qlora")
    with pytest.raises(ValidationError, match="init_tokens: text needs a pretrained base"):
        Model(base="nano", init_tokens="text")
    with pytest.raises(ValidationError, match=r"train\.0\.adapt: embeddings-only would leave nano's random weights"):
        Recipe(train=[Sft(adapt="embeddings-only")])
    assert Recipe(train=[Sft(), Sft(adapt="embeddings-only")]).train[1].adapt == "embeddings-only"


@pytest.mark.parametrize("strategy", ["fsdp", "deepspeed-zero3"])
def test_four_bit_weights_are_not_cut_up(strategy: str) -> None:
    with pytest.raises(ValidationError, match=rf"train\.1 adapts with qlora, whose 4-bit weights {strategy}"):
        Recipe(
            model=Model(base="somebody/base"),
            train=[Sft(), Sft(adapt="qlora")],
            launch=Launch.model_validate({"processes": 2, "strategy": strategy}),
        )
