"""Pieces: SentencePiece over the codes of the log, so that what often stands together in a code becomes one token.

Source: Singh et al. 2024, "Better Generalization with Semantic IDs", arXiv 2306.08121: SentencePiece over semantic
IDs, each weighted by how often it is seen. Popular items get short codes. A piece never reaches from one item into the
next. We merge pairs (BPE), since the unigram trainer passes over strings that only one code has, however popular.
"""

from __future__ import annotations

import io

import numpy as np
import sentencepiece

from llmrec.errors import CodeError
from llmrec.indexing.codes import squeeze

FILE = "pieces.model"
_FIRST = 0xF0000  # a plane of characters that no text has


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
            f"indexing.pieces: {vocabulary} leaves no room beside {n_symbols} tokens that must be pieces. Raise it."
        )
    lines = [text for text, times in zip(_texts(codes), seen, strict=True) for _ in range(1 + int(times))]
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
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
    rows = pieces.encode(_texts(codes), out_type=int)
    table = np.full((len(rows), codes.shape[1]), -1, np.int32)
    for number, row in enumerate(rows):
        table[number, : len(row)] = np.array(row) - 1  # piece 0 is the unknown one, which no code has
    return squeeze(table), pieces.get_piece_size() - 1


def _texts(codes: np.ndarray) -> list[str]:
    return ["".join(chr(_FIRST + symbol) for symbol in row if symbol >= 0) for row in codes.tolist()]
