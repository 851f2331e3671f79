"""How near generated text is to a reference: words in common (BLEU, ROUGE), and nearness of meaning by vectors.

Scores come from the packages that papers compare by: sacrebleu (Post 2018) and rouge-score, Google's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmrec import extras


def bleu(texts: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU-4, 0 to 100, with sacrebleu's tokenizer `13a`.

    Raises:
        LlmrecError: sacrebleu is not installed.
        ValueError: not as many texts as references, or none.
    """
    _same(texts, references)
    extras.need("text")
    import sacrebleu

    return float(sacrebleu.corpus_bleu(list(texts), [list(references)]).score)


def bleu_of_rows(texts: Sequence[str], references: Sequence[str]) -> np.ndarray:
    """(rows,) sentence BLEU, 0 to 100, smoothed by sacrebleu's default. Its mean is not the corpus BLEU.

    Raises:
        LlmrecError, ValueError: as `bleu`.
    """
    _same(texts, references)
    extras.need("text")
    import sacrebleu

    scores = [sacrebleu.sentence_bleu(text, [given]).score for text, given in zip(texts, references, strict=True)]
    return np.array(scores)


def rouge(texts: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
    """`rouge1`, `rouge2`, `rougeL` → (rows,) F-measure, 0 to 1, words stemmed.

    Raises:
        LlmrecError: rouge-score is not installed.
        ValueError: as `bleu`.
    """
    _same(texts, references)
    extras.need("text")
    from rouge_score.rouge_scorer import RougeScorer

    kinds = ["rouge1", "rouge2", "rougeL"]
    scorer = RougeScorer(kinds, use_stemmer=True)
    rows = [scorer.score(given, text) for text, given in zip(texts, references, strict=True)]
    return {kind: np.array([row[kind].fmeasure for row in rows]) for kind in kinds}


def similarity(vectors: np.ndarray, references: np.ndarray) -> np.ndarray:
    """(rows,) cosine of each text's vector and its reference's, both (rows, dimensions); 0 where one is nothing.

    Raises:
        ValueError: the shapes differ.
    """
    if vectors.shape != references.shape:
        raise ValueError(f"Each text needs the vector of its reference; got {vectors.shape} and {references.shape}.")
    lengths = np.linalg.norm(vectors, axis=1) * np.linalg.norm(references, axis=1)
    product = np.einsum("rd,rd->r", vectors, references)
    return np.divide(product, lengths, out=np.zeros(len(vectors), np.float64), where=lengths > 0)


def _same(texts: Sequence[str], references: Sequence[str]) -> None:
    if len(texts) != len(references) or not len(texts):
        raise ValueError(f"Each text needs its reference; got {len(texts)} texts and {len(references)} references.")
