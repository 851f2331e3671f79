"""Strict reading of a rating out of an answer: one number that is surely meant as the rating, or nothing.

An answer that names several different numbers, a range, a refusal or a number off the scale is not read: it counts
against the parse rate instead of being guessed at.
"""

from __future__ import annotations

import re
import unicodedata

from llmrec.rate.scale import Scale

_WORDS = {
    "zero": "0",
    "two": "2",
    "three": "3",
    "four": "4",
    "five": "5",
    "six": "6",
    "seven": "7",
    "eight": "8",
    "nine": "9",
    "ten": "10",
}
_ONE = re.compile(r"^\W*one\W*$|\bone(?=[\s-]*(?:stars?\b|out of|and a half))", re.I)  # not "no one can say"
_NUMBER = r"(?<![\w.,\-−+/])(\d+(?:[.,]\d{1,2})?)(?![\w%+°]|[.,]\d)"  # 1,000 is a thousand, not one
_LONE = re.compile(r"\W*" + _NUMBER + r"\W*")
_TIMES = re.compile(_NUMBER + r"\s*(?:/|out of|of|von|sur|de)\s*" + r"(\d+(?:[.,]0+)?)(?![\w%]|[.,]\d)")
_RANGE = re.compile(r"\d\s*(?:-|–|—|~|to|or|and|through|bis|…|\.\.+)\s*\d|\bbetween\b|\beither\b", re.I)
_NEGATIVE = re.compile(r"(?:^|[\s:(])[-−]\s*\d")
_MARKED = re.compile(
    r"\b(?:rating|score|answer|rate|verdict)\b\W*(?:(?:is|of|would be|will be|it|a|an|at|as|be|s)\b\W*)*" + _NUMBER,
    re.I,
)
_STARS = re.compile(_NUMBER + r"[\s-]*(?:stars?|sterne?|★|⭐)", re.I)
_GLYPHS = re.compile(r"[★⭐]\ufe0f?")
_HALF = re.compile(r"(\d)\s*(?:½|1/2|and a half\b)")
_THINKING = re.compile(r"<think>.*?(?:</think>|$)", re.S)


def parse(answer: str, scale: Scale) -> float | None:
    """The rating that an answer gives, or None where it gives none for sure.

    Numbers between two steps are taken as they are (4.5 on a scale of whole stars). A fraction counts where it is of
    the highest rating (4/5), a run of stars where their number is on the scale.
    """
    text = _plain(answer)
    lines = [line for line in text.splitlines() if line.strip()]
    if [bool(_LONE.fullmatch(line)) for line in lines][:2] == [True, False]:
        text = lines[0]  # the answer, and then an explanation that nobody asked for
    if _NEGATIVE.search(text):
        return None
    fractions = [(_float(value), _float(whole)) for value, whole in _TIMES.findall(text)]
    if fractions:
        values = {value for value, whole in fractions if whole == scale.high}
        return _one(values, scale) if len(values) == len(set(fractions)) else None
    if _RANGE.search(text):
        return None
    for pattern in (_STARS, _MARKED):
        if found := pattern.findall(text):
            return _one({_float(value) for value in found}, scale)
    if not re.search(r"\d", text):
        glyphs = len(_GLYPHS.findall(text))
        return _one({float(glyphs)}, scale) if glyphs else None
    numbers = re.findall(_NUMBER, text)
    digits = re.findall(r"\d+(?:[.,]\d+)*", text)
    return _one({_float(number) for number in numbers}, scale) if len(numbers) == len(digits) else None


def _plain(answer: str) -> str:
    """Wide digits narrow, number words as digits, emphasis gone, halves as decimals."""
    text = _THINKING.sub(" ", answer).replace("½", " 1/2")
    text = unicodedata.normalize("NFKC", text).replace("⁄", "/")
    text = re.sub(r"[*_`\"'“”]+", "", text)
    text = _ONE.sub("1", text)
    text = re.sub(r"\b(" + "|".join(_WORDS) + r")\b", lambda word: _WORDS[word[1].lower()], text, flags=re.I)
    return _HALF.sub(lambda half: f"{half[1]}.5", text)


def _one(values: set[float], scale: Scale) -> float | None:
    if len(values) != 1:
        return None
    value = values.pop()
    return value if scale.low <= value <= scale.high else None


def _float(text: str) -> float:
    return float(text.replace(",", "."))
