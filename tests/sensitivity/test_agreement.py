from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from bitwright.errors import InvalidInput
from bitwright.sensitivity.agreement import spearman_interval


def test_the_value_is_scipys_also_with_ties():
    generator = np.random.default_rng(0)
    x = generator.integers(0, 8, 40)
    y = x + generator.integers(0, 5, 40)
    assert spearman_interval(x, y).value == pytest.approx(spearmanr(x, y).statistic, abs=1e-12)


def test_each_resample_is_scipys_correlation_of_the_drawn_policies():
    generator = np.random.default_rng(1)
    x = generator.normal(size=30)
    y = x + generator.normal(size=30)
    draws = np.random.default_rng(7).integers(0, 30, (200, 30))
    brute = [spearmanr(x[i], y[i]).statistic for i in draws]
    found = spearman_interval(x, y, resamples=200, seed=7)
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(brute, (0.025, 0.975))), abs=1e-12)
    assert found.method == "bootstrap"


@pytest.mark.parametrize(("sign", "value"), [(1, 1.0), (-1, -1.0)])
def test_a_monotone_prediction_is_perfect(sign, value):
    x = np.arange(20)
    found = spearman_interval(x, sign * np.exp(x))
    assert (found.value, found.low, found.high) == pytest.approx((value, value, value))


def test_more_policies_make_a_narrower_interval():
    generator = np.random.default_rng(2)
    x = generator.normal(size=400)
    y = x + generator.normal(size=400)
    few, many = spearman_interval(x[:40], y[:40]), spearman_interval(x, y)
    assert many.high - many.low < 0.5 * (few.high - few.low)


def test_resamples_of_one_policy_are_left_out():
    found = spearman_interval([1, 2, 3], [1, 3, 2], resamples=500)
    assert -1 <= found.low <= found.value <= found.high <= 1


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ([1, 2], [1, 2], "at least 3 policies, got 2"),
        ([1, 2, 3], [1, 2], "as many scores as measured values, got 3 and 2"),
        ([1, 2, np.nan], [1, 2, 3], "scores must be finite"),
        ([1, 2, 3], [5, 5, 5], "measured must differ between policies"),
    ],
)
def test_what_has_no_order_is_refused(x, y, message):
    with pytest.raises(InvalidInput, match=message):
        spearman_interval(x, y)
