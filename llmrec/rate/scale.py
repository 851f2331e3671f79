"""The scale of the ratings: its steps, how each is written, and from where on a rating says "liked"."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from llmrec.errors import DataError

MOST_STEPS = 101
"""Steps of a scale at most: 0 to 100. More than that are measurements, not stars."""
LONELY = 0.6
"""Share of the range without a rating from which on one of its sides looks like a slip: 99 among 1 to 5."""


@dataclass(frozen=True)
class Scale:
    """Evenly spaced ratings from `low` to `high`."""

    low: float
    high: float
    step: float

    @classmethod
    def read(cls, text: str) -> Scale:
        """A scale as a person types it: `1:5`, or `0.5:5:0.5` with its step.

        Raises:
            DataError: not such words, or a scale that has no two steps, too many, or does not end on one.
        """
        try:
            low, high, step = (float(part) for part in [*text.split(":"), "1"][:3])
            whole = text.count(":") in (1, 2) and all(map(math.isfinite, (low, high, step)))
        except ValueError:
            whole = False
        if not whole:
            raise DataError(f"--scale is LOW:HIGH or LOW:HIGH:STEP, such as 1:5 or 0.5:5:0.5, not '{text}'.")
        steps = (high - low) / step if step > 0 else 0
        if steps < 1 or steps > MOST_STEPS - 1 or abs(steps - round(steps)) > 1e-6:
            raise DataError(
                f"--scale {text} has no whole number of steps from 1 to {MOST_STEPS - 1} between its ends. "
                "Give LOW:HIGH:STEP, such as 0.5:5:0.5."
            )
        return cls(low, high, step)

    @classmethod
    def of(cls, given: np.ndarray) -> Scale:
        """The scale that ratings lie on: from the lowest to the highest, by the widest step that meets all of them.

        Args:
            given: (ratings,) finite.

        Raises:
            DataError: all are alike, they are no steps of a scale, or some lie far off the rest.
        """
        seen = np.unique(np.round(given, 4))
        if len(seen) < 2:
            raise DataError(f"every rating is {seen[0]:g}: there is nothing to predict. Name the scale: --scale 1:5")
        gaps = np.round(np.diff(seen) * 1e4).astype(np.int64)
        step = float(np.gcd.reduce(gaps)) / 1e4
        if (seen[-1] - seen[0]) / step > MOST_STEPS - 1:
            raise DataError(
                f"ratings take {len(seen)} values from {seen[0]:g} to {seen[-1]:g}, which are no steps of a scale "
                f"(at most {MOST_STEPS} of them). Round them to steps, such as whole numbers from 1 to 100, first."
            )
        wide = int(np.argmax(gaps))
        if len(seen) > 2 and gaps[wide] / gaps.sum() > LONELY:
            raise DataError(
                f"ratings go up to {seen[wide]:g} and then from {seen[wide + 1]:g} to {seen[-1]:g}, with nothing "
                "between. Correct those that are wrong, or say that this is the scale: --scale LOW:HIGH:STEP"
            )
        return cls(float(seen[0]), float(seen[-1]), step)

    @cached_property
    def values(self) -> np.ndarray:
        """(steps,) every rating of the scale, lowest first."""
        return np.round(self.low + self.step * np.arange(round((self.high - self.low) / self.step) + 1), 4)

    @cached_property
    def words(self) -> list[str]:
        """Every rating as it is written in prompts: 3, 3.5."""
        return [f"{value:g}" for value in self.values]

    @property
    def said(self) -> str:
        """The scale as prompts name it."""
        steps = "" if self.step == 1 else f", in steps of {self.step:g}"
        return f"{self.low:g} (worst) to {self.high:g} (best){steps}"

    @property
    def liked(self) -> float:
        """From where on a rating says "liked": the first step in the upper quarter of the scale, 4 of 1 to 5."""
        return float(self.values[self.values >= self.low + 0.75 * (self.high - self.low) - 1e-6][0])

    def numbers(self, given: np.ndarray) -> np.ndarray:
        """(ratings,) int64 number of each rating's step, from 0."""
        return np.clip(np.round((given - self.low) / self.step), 0, len(self.values) - 1).astype(np.int64)

    def write(self, rating: float) -> str:
        """A rating in the words of the scale."""
        return self.words[int(self.numbers(np.array([rating]))[0])]

    def outside(self, given: np.ndarray) -> np.ndarray:
        """(ratings,) bool: which are no step of the scale."""
        on = np.abs(given - self.values[self.numbers(given)]) < 1e-3
        return ~on
