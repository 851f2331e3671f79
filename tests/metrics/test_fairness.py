"""Item fairness: the ends of every scale are met to the bit, and moving exposure to the poorer never counts against."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmrec.metrics.beyond_accuracy import CORRECTED, Exposure, gini_weighted

SHAPES = [(7, 3, 10), (40, 5, 12), (3, 2, 50), (11, 4, 44), (10, 3, 10), (1000, 10, 1682)]


def most_uneven(lists: int, k: int, n: int) -> np.ndarray:
    return np.tile(np.arange(k), (lists, 1))


def most_even(lists: int, k: int, n: int) -> np.ndarray:
    return (np.arange(lists * k) % n).reshape(lists, k)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("name", CORRECTED)
def test_corrected_measures_are_exactly_0_and_1_at_the_ends(name, shape):
    fair = name != "gini"
    uneven, even = (CORRECTED[name](Exposure.of(make(*shape), shape[2])) for make in (most_uneven, most_even))
    if name == "fsat" and shape[0] * shape[1] < shape[2]:
        assert np.isnan([uneven, even]).all()
    else:
        assert (uneven, even) == ((0, 1) if fair else (1, 0))


@pytest.mark.parametrize("name", CORRECTED)
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_moving_exposure_from_richer_to_poorer_never_makes_a_measure_less_fair(name, seed):
    rng = np.random.default_rng(seed)
    shown = Exposure.of(np.stack([rng.permutation(9)[:3] for _ in range(8)]), 9)
    rich, poor = int(shown.counts.argmax()), int(shown.counts.argmin())
    moved = shown.counts.copy()
    moved[rich] -= 1
    moved[poor] += 1
    if moved[rich] < moved[poor]:
        return
    before, after = CORRECTED[name](shown), CORRECTED[name](Exposure(moved, 8, 3))
    # One item leaving its even share may be all that satisfied it: FSat is the measure that can fall.
    assert (after <= before + 1e-12) if name == "gini" else (after >= before - 1e-12 or name == "fsat")
    assert 0 <= after <= 1


def test_corrected_measures_by_hand():
    # Counts 2, 1, 1, 0 of two lists of two: Jain 4^2 / (4 * 6), entropy 1.5 of 2 bits, three of four items shown.
    shown = Exposure.of(np.array([[0, 1], [0, 2]]), 4)
    # Least: two items twice each (Jain 1/2, 1 bit of 2, two of four items). Most: each item once (1, 2 bits, all).
    assert CORRECTED["jain"](shown) == pytest.approx((16 / 24 - 1 / 2) / (1 - 1 / 2))
    assert CORRECTED["entropy"](shown) == pytest.approx((1.5 - 1) / (2 - 1))
    assert (CORRECTED["qf"](shown), CORRECTED["fsat"](shown)) == (pytest.approx(1 / 2), pytest.approx(1 / 2))


def test_places_further_down_are_worth_less_exposure():
    apart, stacked = np.array([[0, 1], [1, 0]]), np.array([[0, 1], [0, 1]])
    assert gini_weighted(apart, 2) == pytest.approx(0)
    assert gini_weighted(stacked, 2) > 0


def test_where_only_one_allocation_can_be_a_corrected_measure_has_no_value():
    everything = Exposure.of(most_uneven(5, 4, 4), 4)
    assert all(np.isnan(measure(everything)) for measure in CORRECTED.values())
    with pytest.raises(ValueError, match="short"):
        Exposure.of(np.array([[0, -1]]), 4)
