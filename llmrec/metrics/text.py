"""How near generated text is to a reference: words in common, as BLEU and ROUGE count them.

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


def _same(texts: Sequence[str], references: Sequence[str]) -> None:
    if len(texts) != len(references) or not len(texts):
        raise ValueError(f"Each text needs its reference; got {len(texts)} texts and {len(references)} references.")
