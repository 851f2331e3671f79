"""nano: a small Llama trained from scratch, with its own SentencePiece tokenizer; plain transformers can load it."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import sentencepiece
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from llmrec.errors import ModelError
from llmrec.files import write_json
from llmrec.model.loading import tokenizer_from
from llmrec.recipe import Model

_OTHER_PIECES = 256 + 3 + 1  # besides the characters of the texts: bytes, <unk>, <s> and </s>, the space


def train_tokenizer(texts: Iterable[str], vocabulary: int, folder: Path) -> PreTrainedTokenizerBase:
    """Train a SentencePiece BPE tokenizer with byte fallback and save it for `AutoTokenizer`.

    Args:
        texts: training prompts and titles, without item codes.
        vocabulary: maximum number of pieces.
        folder: to write into.

    Raises:
        ModelError: the vocabulary is smaller than the texts need, or decoding does not restore a text.
    """
    texts = sorted(set(texts))
    characters = len(set().union(*texts) - {" "})
    if vocabulary < characters + _OTHER_PIECES:
        raise ModelError(
            f"a vocabulary of {vocabulary} pieces is too small for texts with {characters} different characters. Raise "
            f"model.vocabulary to at least {characters + _OTHER_PIECES}."
        )
    folder.mkdir(parents=True, exist_ok=True)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=vocabulary,
        hard_vocab_limit=False,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        character_coverage=1.0,
        max_sentence_length=1 << 20,
        num_threads=1,
        minloglevel=2,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    config = {
        "tokenizer_class": "LlamaTokenizer",
        "add_bos_token": True,
        "legacy": False,
        "clean_up_tokenization_spaces": False,
        "bos_token": "<s>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "pad_token": "</s>",
    }
    write_json(folder / "tokenizer_config.json", config)
    tokenizer = tokenizer_from(folder)
    for text in texts[:: max(1, len(texts) // 500)]:
        check_round_trip(tokenizer, text)
    return tokenizer


def check_round_trip(tokenizer: PreTrainedTokenizerBase, text: str) -> None:
    """Raise ModelError if decoding the tokens of a text does not restore it."""
    decoded = str(tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"], skip_special_tokens=False))
    if decoded.strip() != text.strip():
        raise ModelError(
            f"the tokenizer does not give a text back: '{text}' became '{decoded}'. This is a bug; please report it."
        )


def build(model: Model, tokenizer: PreTrainedTokenizerBase, window: int, vocabulary: int) -> PreTrainedModel:
    """Make a Llama with random weights for `window` positions and `vocabulary` embedding rows, padding included."""
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=model.width,
        intermediate_size=-(-model.width * 8 // 3 // 32) * 32,
        num_hidden_layers=model.layers,
        num_attention_heads=model.heads,
        num_key_value_heads=model.heads,
        max_position_embeddings=window,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)
