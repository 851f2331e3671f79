"""Pieces: SentencePiece over the codes of the log, so that what often stands together in a code becomes one token.

Source: Singh et al. 2024, "Better Generalization with Semantic IDs", arXiv 2306.08121: SentencePiece over semantic
IDs, each weighted by how often it is seen. Popular items get short codes. A piece never reaches from one item into the
next. We merge pairs (BPE), since the unigram trainer passes over strings that only one code has, however popular.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

import numpy as np
import sentencepiece

from llmrec.errors import CodeError
from llmrec.indexing.codes import squeeze

FILE = "pieces.model"
_FIRST = 0xF0000  # a plane of characters that no text has
_BLOCK = 1 << 14  # codes that are Python strings at once


def fit(codes: np.ndarray, seen: np.ndarray, n_symbols: int, vocabulary: int) -> bytes:
    """Train pieces.

    Args:
        codes: (items, longest) int32 symbols, padded at the end by -1.
        seen: (items,) how often each stands in the training part.
        n_symbols: every one of them is a piece, so that every code can be spelled.
        vocabulary: pieces.

    Returns:
        The model's file.

    Raises:
        CodeError: fewer pieces than symbols.
    """
    if vocabulary <= n_symbols:
        raise CodeError(
            f"indexing.bpe_vocab: {vocabulary} leaves no room beside {n_symbols} tokens that must be pieces. Raise it."
        )
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=_counted(codes, seen),
        input_format="tsv",  # a code and how often it counts, instead of a line for every event
        model_writer=model,
        model_type="bpe",
        vocab_size=vocabulary + 1,
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


def cut(model: bytes, codes: np.ndarray) -> tuple[np.ndarray, int]:
    """Codes in pieces.

    Args:
        model: as `fit` made it.
        codes: (items, longest) int32 symbols, padded at the end by -1.

    Returns:
        (items, longest) int32 numbers of pieces, padded at the end by -1, and how many pieces there are.
    """
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    table = np.full(codes.shape, -1, np.int32)
    for first, texts in _texts(codes):
        rows = pieces.encode(texts, out_type=int)
        lengths = np.array([len(row) for row in rows])
        inside = np.arange(codes.shape[1]) < lengths[:, None]
        # piece 0 is the unknown one, which no code has
        table[first : first + len(texts)][inside] = np.concatenate(rows) - 1
    return squeeze(table), pieces.get_piece_size() - 1


def _counted(codes: np.ndarray, seen: np.ndarray) -> Iterator[str]:
    """A line for each item: its code, and how often it counts."""
    for first, texts in _texts(codes):
        for text, times in zip(texts, seen[first : first + len(texts)].tolist(), strict=True):
            yield f"{text}\t{1 + times}"


def _texts(codes: np.ndarray) -> Iterator[tuple[int, list[str]]]:
    """Blocks of codes as texts of one character a symbol, and the number of the first code of each."""
    for first in range(0, len(codes), _BLOCK):
        block = codes[first : first + _BLOCK]
        characters = np.where(block >= 0, block + _FIRST, 0).astype(np.uint32)  # numpy ends a text at its zeros
        yield first, characters.view(f"U{codes.shape[1]}")[:, 0].tolist()
