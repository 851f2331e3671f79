"""nano: plain transformers can load it, and its tokenizer gives back whatever a title holds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from llmrec.errors import ModelError
from llmrec.indexing.catalogue import Catalogue
from llmrec.model import folder as model_folder
from llmrec.model import nano
from llmrec.model.vocabulary import add_tokens, token_ids
from llmrec.recipe import Model

TEXTS = ["Which item is this? Heat; year: 1995 Answer: ", "What is the item?", " Toy Story; genres: children's, comedy"]

# Runs where llmrec cannot be imported: what a stranger with transformers alone sees.
STRANGER = """
import json, sys
class Wall:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "llmrec":
            raise ImportError("llmrec is not here")
sys.meta_path.insert(0, Wall())
from transformers import AutoModelForCausalLM, AutoTokenizer
import torch
model, tokenizer = AutoModelForCausalLM.from_pretrained(sys.argv[1]), AutoTokenizer.from_pretrained(sys.argv[1])
ids = tokenizer(sys.argv[2], return_tensors="pt")["input_ids"]
with torch.inference_mode():
    logits = model(ids).logits[0, -1]
assert "llmrec" not in sys.modules
print(json.dumps({"ids": ids[0].tolist(), "logits": logits.tolist(), "kind": type(model).__name__,
                  "missing": sorted(set(tokenizer.get_vocab().values()) - set(range(len(logits))))}))
"""


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory):
    return nano.train_tokenizer(TEXTS, 400, tmp_path_factory.mktemp("tokenizer"))


def test_a_stranger_with_transformers_alone_loads_the_same_model(tiny_run: Path) -> None:
    folder = tiny_run / "train-1-sft" / "model"
    prompt = "Recommend. " + Catalogue.load(tiny_run / "catalogue").code_texts[3]
    done = subprocess.run([sys.executable, "-c", STRANGER, str(folder), prompt], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    model, own, _ = model_folder.load(folder)
    ids = own(prompt)["input_ids"]
    with torch.inference_mode():
        logits = model(torch.tensor([ids])).logits[0, -1]
    assert told["ids"] == ids
    assert told["kind"] == "LlamaForCausalLM"
    assert told["missing"] == []
    np.testing.assert_allclose(told["logits"], logits.float().numpy(), atol=1e-5)


@pytest.mark.parametrize(
    "text",
    ["Amélie", "千と千尋の神隠し", "🎬 (2001)", "L.A.  Confidential", "it's", "a\u200bb", "naïve ‹x›", "½ & <b>"],
)
def test_odd_titles_come_back(tokenizer, text: str) -> None:
    nano.check_round_trip(tokenizer, text)


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])))
def test_any_title_after_a_prompt_comes_back(tokenizer, title: str) -> None:
    """Control characters never get here (`plain` takes them out), nor do angle brackets (`neutral`)."""
    text = f"Say: {title.replace('<', '‹').replace('▁', '_')}."
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert tokenizer.unk_token_id not in ids


def test_a_code_is_one_token_a_level_wherever_it_stands(tiny_run: Path) -> None:
    catalogue = Catalogue.load(tiny_run / "catalogue")
    tokenizer = AutoTokenizer.from_pretrained(tiny_run / "train-1-sft" / "model")
    ids = token_ids(tokenizer, catalogue.tokens)
    assert len(set(ids.tolist())) == len(catalogue.tokens)
    for item in (0, 7, 39):
        code = ids[catalogue.codes[item]].tolist()
        for before, after in (("", ""), ("word", "word"), (" ", " "), (catalogue.code_texts[1], ".")):
            found = tokenizer(before + catalogue.code_texts[item] + after, add_special_tokens=False)["input_ids"]
            places = [place for place in range(len(found)) if found[place : place + len(code)] == code]
            assert places, (before, found, code)


def test_tokens_are_added_once_and_rows_are_padded(tmp_path: Path) -> None:
    tokenizer = nano.train_tokenizer(TEXTS, 400, tmp_path)
    before = len(tokenizer)
    rows = add_tokens(tokenizer, ["<a_0>", "<a_1>"])
    assert rows % 64 == 0 and before + 2 <= rows < before + 2 + 64
    assert token_ids(tokenizer, ["<a_1>", "<a_0>"]).tolist() == [before + 1, before]
    with pytest.raises(ModelError, match="already holds 1 code-like"):
        add_tokens(tokenizer, ["<a_1>", "<a_2>"])
    with pytest.raises(ModelError, match=r"lacks 1 of the catalogue's 2 item tokens, such as '<b_9>'"):
        token_ids(tokenizer, ["<a_1>", "<b_9>"])


@pytest.mark.parametrize("heads", [2, 4])
def test_nano_has_the_shape_that_the_recipe_says(tokenizer, heads: int) -> None:
    model = nano.build(Model(width=128, layers=3, heads=heads), tokenizer, 192, 448)
    config = model.config
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (128, 3, heads)
    assert config.max_position_embeddings == 192
    assert model.get_input_embeddings().weight.shape == (448, 128)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_another_folder_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="is not a model folder of llmrec"):
        model_folder.load(tmp_path)


def test_a_model_folder_that_lost_its_weights_is_told_in_words(tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "llmrec.json").write_text((tiny_run / "train-1-sft" / "model" / "llmrec.json").read_text())
    with pytest.raises(ModelError, match="cannot be loaded"):
        model_folder.load(tmp_path)


def test_a_vocabulary_smaller_than_the_characters_of_the_texts_says_how_large_it_must_be(tmp_path: Path) -> None:
    texts = ["".join(map(chr, range(0x4E00, 0x4E00 + 100)))]  # 100 characters, 256 bytes and 3 special pieces
    with pytest.raises(ModelError, match=r"100 different characters.*model\.vocabulary to at least (\d+)") as error:
        nano.train_tokenizer(texts, 300, tmp_path)
    least = int(str(error.value).rstrip(".").split()[-1])
    assert len(nano.train_tokenizer(texts, least, tmp_path)) <= least
    with pytest.raises(ModelError):
        nano.train_tokenizer(texts, least - 3, tmp_path)
