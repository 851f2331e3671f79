"""Metrics of predicted ratings, of scores that tell good from bad, and of generated text.

Texts are scored by the packages that papers compare by: sacrebleu (Post 2018) and rouge-score, Google's.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmrec import resources


def rmse(predicted: np.ndarray, given: np.ndarray) -> float:
    """Root of the mean squared error, in rating points; both (rows,).

    Raises:
        ValueError: the shapes differ, there are no rows, or a value is not finite.
    """
    return float(np.sqrt(np.mean(_errors(predicted, given) ** 2)))


def mae(predicted: np.ndarray, given: np.ndarray) -> float:
    """Mean absolute error, in rating points; as `rmse`."""
    return float(np.mean(np.abs(_errors(predicted, given))))


def auc(scores: np.ndarray, liked: np.ndarray) -> float:
    """Chance that a liked row scores above one that is not, ties counting half; NaN if all are alike.

    Args:
        scores: (rows,) larger is better.
        liked: (rows,) bool.

    Raises:
        ValueError: the shapes differ, or a score is not finite.
    """
    scores, liked = np.asarray(scores, np.float64), np.asarray(liked, bool)
    if scores.shape != liked.shape or not np.isfinite(scores).all():
        raise ValueError("AUC needs one finite score for each label.")
    # Mann and Whitney's statistic; rows of equal scores have their mean rank, from 1.
    _, group, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[group]
    good = int(liked.sum())
    pairs = good * (len(liked) - good)
    return float((ranks[liked].sum() - good * (good + 1) / 2) / pairs) if pairs else float("nan")


def _errors(predicted: np.ndarray, given: np.ndarray) -> np.ndarray:
    predicted, given = np.asarray(predicted, np.float64), np.asarray(given, np.float64)
    if predicted.shape != given.shape or not len(given) or not np.isfinite(predicted - given).all():
        raise ValueError(
            f"Ratings need one finite prediction each; got {predicted.shape} predictions of {given.shape} ratings. "
            "Leave out, and report, rows whose answer could not be read."
        )
    return predicted - given


def bleu(texts: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU-4, 0 to 100, with sacrebleu's tokenizer `13a`.

    Raises:
        LlmrecError: sacrebleu is not installed.
        ValueError: not as many texts as references, or none.
    """
    _check_texts(texts, references)
    import sacrebleu

    return float(sacrebleu.corpus_bleu(list(texts), [list(references)]).score)


def rouge(texts: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
    """`rouge1`, `rouge2`, `rougeL` → (rows,) F-measure, 0 to 1, words stemmed; errors as of `bleu`."""
    _check_texts(texts, references)
    from rouge_score.rouge_scorer import RougeScorer

    kinds = ["rouge1", "rouge2", "rougeL"]
    scorer = RougeScorer(kinds, use_stemmer=True)
    rows = [scorer.score(reference, text) for text, reference in zip(texts, references, strict=True)]
    return {kind: np.array([row[kind].fmeasure for row in rows]) for kind in kinds}


def _check_texts(texts: Sequence[str], references: Sequence[str]) -> None:
    if len(texts) != len(references) or not len(texts):
        raise ValueError(f"Each text needs its reference; got {len(texts)} texts and {len(references)} references.")
    resources.require_extras("text")
