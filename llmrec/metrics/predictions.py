"""Metrics of predicted ratings, of binary scores, and of generated text.

Texts are scored by the packages that papers use: sacrebleu (Post 2018) and Google's rouge-score.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from llmrec import resources


def rmse(predicted: np.ndarray, actual: np.ndarray) -> float:
    """Root mean squared error, in rating points; both (rows,).

    Raises:
        ValueError: the shapes differ, there are no rows, or a value is not finite.
    """
    return float(np.sqrt(np.mean(_errors(predicted, actual) ** 2)))


def mae(predicted: np.ndarray, actual: np.ndarray) -> float:
    """Mean absolute error, in rating points; arguments and errors of `rmse`."""
    return float(np.mean(np.abs(_errors(predicted, actual))))


def auc(scores: np.ndarray, positive: np.ndarray) -> float:
    """Area under the ROC curve: probability that a positive row scores above a negative one; ties count half.

    Args:
        scores: (rows,) larger is better.
        positive: (rows,) bool; with one class alone the result is NaN.

    Raises:
        ValueError: the shapes differ, or a score is not finite.
    """
    scores, positive = np.asarray(scores, np.float64), np.asarray(positive, bool)
    if scores.shape != positive.shape or not np.isfinite(scores).all():
        raise ValueError("AUC needs one finite score for each label.")
    # Mann-Whitney statistic; rows with equal scores get their mean rank, from 1.
    _, group, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[group]
    count = int(positive.sum())
    pairs = count * (len(positive) - count)
    return float((ranks[positive].sum() - count * (count + 1) / 2) / pairs) if pairs else float("nan")


def _errors(predicted: np.ndarray, actual: np.ndarray) -> np.ndarray:
    predicted, actual = np.asarray(predicted, np.float64), np.asarray(actual, np.float64)
    if predicted.shape != actual.shape or not len(actual) or not np.isfinite(predicted - actual).all():
        raise ValueError(
            f"Ratings need one finite prediction each; got {predicted.shape} predictions of {actual.shape} ratings. "
            "Leave out, and report, rows whose answer could not be read."
        )
    return predicted - actual


def bleu(texts: Sequence[str], references: Sequence[str]) -> float:
    """Corpus BLEU-4, 0 to 100, with sacrebleu's tokenizer `13a`.

    Raises:
        LlmrecError: sacrebleu is not installed.
        ValueError: the numbers of texts and references differ, or there are none.
    """
    _check_texts(texts, references)
    import sacrebleu

    return float(sacrebleu.corpus_bleu(list(texts), [list(references)]).score)


def rouge(texts: Sequence[str], references: Sequence[str]) -> dict[str, np.ndarray]:
    """`rouge1`, `rouge2`, `rougeL` → (rows,) F-measure, 0 to 1, with stemming; errors of `bleu`."""
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
