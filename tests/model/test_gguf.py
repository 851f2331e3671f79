"""The plain copy of a GGUF file: the same model and words, made once, and again where it was harmed."""

import gguf
import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from llmrec.model.base import COPY_META, load_gguf, plain_copy

WORDS = ["<s>", "</s>", *"abcdefgh", "ab", "cd"]
WIDTH, HIDDEN = 32, 64


@pytest.fixture
def file(tmp_path):
    """A Llama of one layer, its matrices in four bits."""
    draw, path = np.random.default_rng(0), tmp_path / "base" / "tiny.gguf"
    path.parent.mkdir()
    writer = gguf.GGUFWriter(path, "llama")
    for name, value in {
        "context_length": 64,
        "embedding_length": WIDTH,
        "block_count": 1,
        "feed_forward_length": HIDDEN,
        "head_count": 2,
        "head_count_kv": 2,
        "layer_norm_rms_eps": 1e-5,
        "rope_freq_base": 1e4,
        "vocab_size": len(WORDS),
    }.items():
        getattr(writer, f"add_{name}")(value)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(WORDS)
    writer.add_token_types([3, 3, *[1] * (len(WORDS) - 2)])
    writer.add_token_merges(["a b", "c d"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    shapes = {"token_embd": (len(WORDS), WIDTH), "output": (len(WORDS), WIDTH)}
    shapes |= {f"blk.0.attn_{one}": (WIDTH, WIDTH) for one in ("q", "k", "v", "output")}
    shapes |= {"blk.0.ffn_gate": (HIDDEN, WIDTH), "blk.0.ffn_up": (HIDDEN, WIDTH), "blk.0.ffn_down": (WIDTH, HIDDEN)}
    kind = gguf.GGMLQuantizationType.Q4_1
    for name, shape in shapes.items():
        packed = gguf.quants.quantize(draw.normal(size=shape).astype(np.float32), kind)
        writer.add_tensor(f"{name}.weight", packed, raw_dtype=kind)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_copy_is_the_model_and_the_words_of_its_file(file, tmp_path, dtype):
    model, tokenizer = load_gguf(file, dtype)
    folder = plain_copy(file, tmp_path / "plain")
    again = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    truth, found = model.state_dict(), again.state_dict()
    assert truth.keys() == found.keys() and all(torch.equal(truth[name], found[name]) for name in truth)
    assert model(torch.arange(9)[None]).logits.equal(again(torch.arange(9)[None]).logits)
    words = AutoTokenizer.from_pretrained(folder)
    assert words("abcdhg")["input_ids"] == tokenizer("abcdhg")["input_ids"] == [10, 11, 9, 8]
    assert (words.get_vocab(), words.eos_token) == (tokenizer.get_vocab(), tokenizer.eos_token)


def test_a_copy_is_made_once_and_again_where_it_or_its_file_is_another(file, tmp_path):
    folder = plain_copy(file, tmp_path / "plain")
    weights = folder / "model.safetensors"
    made, content = weights.stat().st_mtime_ns, weights.read_bytes()
    assert plain_copy(file, folder) == folder and weights.stat().st_mtime_ns == made
    weights.write_bytes(content[:-1] + b"x")
    assert plain_copy(file, folder) == folder and weights.read_bytes() == content
    note = (folder / COPY_META).read_text()
    for damaged in ("{", "[]", "{}"):
        (folder / COPY_META).write_text(damaged)
        assert plain_copy(file, folder) == folder and (folder / COPY_META).read_text() == note
    file.write_bytes(file.read_bytes() + b"\0")  # GGUF readers look at no byte past the last tensor
    plain_copy(file, folder)
    assert (folder / COPY_META).read_text() != note and sorted(tmp_path.iterdir()) == [file.parent, folder]


def test_where_no_copy_can_be_kept_there_is_none(file, tmp_path):
    (tmp_path / "plain").write_text("a file where the folder should be")
    assert plain_copy(file, tmp_path / "plain") is None


def test_a_folder_of_somebody_else_where_the_copy_would_be_stays(file, tmp_path):
    plain = tmp_path / "plain"
    plain.mkdir()
    (plain / "mine").write_text("kept")
    assert plain_copy(file, plain) is None
    assert (plain / "mine").read_text() == "kept"
