"""SentencePiece BPE over item codes: frequent combinations of symbols become one token.

Source: Singh et al. 2024, "Better Generalization with Semantic IDs", arXiv 2306.08121: SentencePiece over semantic IDs,
weighted by frequency, so that popular items get short codes. A piece never spans two items. We use BPE because the
unigram trainer ignores strings that occur in a single code, however popular the item is.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import sentencepiece

from llmrec.errors import CodeError
from llmrec.indexing.codes import left_align

FILE = "pieces.model"
_FIRST = 0xF0000  # a private-use plane: no text has these characters
_BLOCK = 1 << 14  # codes that are Python strings at once


def fit(codes: np.ndarray, counts: np.ndarray, n_symbols: int, vocab_size: int) -> bytes:
    """Train a BPE model on codes weighted by training events; return the content of its file.

    Args:
        codes: (items, longest) int32 symbols, padded at the end by -1.
        counts: (items,) training events of each item.
        n_symbols: each symbol is a piece, so that every code can be written.
        vocab_size: pieces.

    Raises:
        CodeError: fewer pieces than symbols.
    """
    if vocab_size <= n_symbols:
        raise CodeError(
            f"indexing.bpe_vocab: {vocab_size} leaves no room beside {n_symbols} tokens that must be pieces. Raise it."
        )
    model, texts = io.BytesIO(), (text for _, block in _texts(codes) for text in block)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=(f"{text}\t{1 + count}" for text, count in zip(texts, counts.tolist(), strict=True)),
        input_format="tsv",  # a code and its weight, instead of one line per event
        model_writer=model,
        model_type="bpe",
        vocab_size=vocab_size + 1,
        hard_vocab_limit=False,
        character_coverage=1.0,
        required_chars="".join(chr(_FIRST + symbol) for symbol in range(n_symbols)),
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        split_by_unicode_script=False,
        split_by_number=False,
        split_by_whitespace=False,
        max_sentencepiece_length=codes.shape[1],
        num_threads=1,
        shuffle_input_sentence=False,
        minloglevel=2,
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
    )
    return model.getvalue()


def encode(model: bytes, codes: np.ndarray) -> tuple[np.ndarray, int]:
    """Encode (items, longest) symbols as (items, longest) piece numbers, both padded by -1; and count all pieces."""
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    table = np.full(codes.shape, -1, np.int32)
    for first, texts in _texts(codes):
        rows = processor.encode(texts, out_type=int)
        inside = np.arange(codes.shape[1]) < np.array([len(row) for row in rows])[:, None]
        # piece 0 is the unknown piece, which no code has
        table[first : first + len(texts)][inside] = np.concatenate(rows) - 1
    return left_align(table), processor.get_piece_size() - 1


def _texts(codes: np.ndarray) -> Iterator[tuple[int, list[str]]]:
    """Blocks of codes as strings of one character a symbol, with the number of the first code of each block."""
    for first in range(0, len(codes), _BLOCK):
        block = codes[first : first + _BLOCK]
        characters = np.where(block >= 0, block + _FIRST, 0).astype(np.uint32)  # numpy ends a string at its zeros
        yield first, characters.view(f"U{codes.shape[1]}")[:, 0].tolist()
