from __future__ import annotations

import math

import numpy as np
import pytest

from bitwright.errors import InvalidData, InvalidInput
from bitwright.tasks import bootstrap_mean, paired_bootstrap, wilson
from bitwright.tasks import intervals as module
from bitwright.tasks.intervals import Draws
from bitwright.values import Measure


def _roots(successes: int, trials: int, z: float) -> tuple[float, float]:
    """Wilson's interval by its definition: the shares p with |share - p| = z sqrt(p (1 - p) / n)."""
    share = successes / trials
    a, b, c = 1 + z * z / trials, -(2 * share + z * z / trials), share * share
    root = math.sqrt(b * b - 4 * a * c)
    return (-b - root) / (2 * a), (-b + root) / (2 * a)


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (1, 10), (5, 10), (10, 10), (776, 846), (99999, 100000)])
def test_wilson_solves_its_quadratic_equation(successes, trials):
    found = wilson(successes, trials)
    low, high = _roots(successes, trials, 1.959963984540054)
    assert found.value == successes / trials
    assert found.low == pytest.approx(low, abs=1e-11)
    assert found.high == pytest.approx(high, abs=1e-11)
    assert (found.level, found.method) == (0.95, "wilson")


def test_wilson_of_all_and_none_stays_within_0_and_1():
    assert wilson(0, 7).low == 0.0
    assert wilson(7, 7).high == 1.0
    assert wilson(7, 7).low < 0.7


def test_wilson_is_wider_at_a_higher_level():
    assert wilson(8, 10, 0.99).low < wilson(8, 10, 0.95).low < wilson(8, 10, 0.5).low


@pytest.mark.parametrize(("share", "trials"), [(0.9, 846), (0.99, 100), (0.5, 30)])
def test_wilson_covers_the_true_share_as_often_as_it_says(share, trials):
    drawn = np.random.default_rng(0).binomial(trials, share, 4000)
    found = {k: wilson(int(k), trials) for k in np.unique(drawn)}
    covered = np.mean([found[k].low <= share <= found[k].high for k in drawn])
    assert 0.92 <= covered <= 0.985


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3, 2), "successes must be between 0 and the number of trials, got 3 of 2"),
        ((0, 0), "got 0 of 0"),
        ((-1, 5), "got -1 of 5"),
        ((1, 2, 1.0), "level must be between 0 and 1, got 1.0"),
    ],
)
def test_wilson_refuses_what_is_no_share(arguments, message):
    with pytest.raises(InvalidInput, match=message):
        wilson(*arguments)


def test_bootstrap_of_a_mean_has_the_width_of_the_normal_interval():
    values = np.random.default_rng(1).normal(2.0, 3.0, 2000)
    found = bootstrap_mean(values, resamples=4000)
    half = 1.96 * values.std() / math.sqrt(values.size)
    assert found.value == pytest.approx(values.mean())
    assert found.high - found.value == pytest.approx(half, rel=0.08)
    assert found.value - found.low == pytest.approx(half, rel=0.08)
    assert found.method == "bootstrap"


def test_bootstrap_covers_the_true_mean_as_often_as_it_says():
    generator = np.random.default_rng(2)
    covered = 0
    for seed in range(400):
        found = bootstrap_mean(generator.exponential(1.0, 80), resamples=400, seed=seed)
        covered += found.low <= 1.0 <= found.high
    assert 0.90 <= covered / 400 <= 0.98


def test_counts_and_indices_draw_the_same_distribution(monkeypatch):
    values = np.repeat([0.0, 1.0, 5.0], [50, 30, 20])
    by_counts = bootstrap_mean(values, resamples=8000)
    monkeypatch.setattr(module, "FEW", 0)
    by_indices = bootstrap_mean(values, resamples=8000)
    assert by_counts.low == pytest.approx(by_indices.low, rel=0.03)
    assert by_counts.high == pytest.approx(by_indices.high, rel=0.03)


def test_chunks_only_bound_the_memory(monkeypatch):
    values = np.random.default_rng(3).normal(size=50)
    whole = bootstrap_mean(values, resamples=300, seed=5)
    monkeypatch.setattr(module, "CHUNK_VALUES", 50 * 7)
    assert bootstrap_mean(values, resamples=300, seed=5) == whole


def test_the_same_seed_gives_the_same_interval():
    values = np.random.default_rng(3).normal(size=50)
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(values, seed=1)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)


def test_pairing_cancels_what_both_have_in_common():
    generator = np.random.default_rng(4)
    common = generator.normal(0, 10, 500)
    found = paired_bootstrap(common + generator.normal(0.5, 0.1, 500), common)
    assert found.value == pytest.approx(0.5, abs=0.02)
    assert found.high - found.low < 0.03
    assert found.method == "paired bootstrap"


def test_equal_models_are_not_proven_equal_by_a_few_samples():
    right = np.ones(20)
    few, many = paired_bootstrap(right, right), paired_bootstrap(np.ones(2000), np.ones(2000))
    assert few.value == 0
    assert few.low == pytest.approx(-few.high, abs=0.02)
    assert 0.04 < few.high < 0.2
    assert 0 < many.high < 0.002


@pytest.mark.parametrize(("worse", "better", "count"), [(0.01, 0.005, 300), (0.05, 0.02, 846), (0.2, 0.2, 60)])
def test_paired_bootstrap_covers_the_true_change_as_often_as_it_says(worse, better, count):
    generator = np.random.default_rng(5)
    covered = 0
    for seed in range(600):
        kinds = generator.choice([-1, 0, 1], count, p=[worse, 1 - worse - better, better])
        second = np.where(kinds == -1, 1, np.where(kinds == 1, 0, 1))
        found = paired_bootstrap(second + kinds, second, resamples=400, seed=seed)
        covered += found.low <= better - worse <= found.high
    assert 0.92 <= covered / 600 <= 0.995


def test_intervals_hold_their_value():
    generator = np.random.default_rng(6)
    for seed in range(50):
        first, second = generator.integers(0, 2, (2, 6))
        found = paired_bootstrap(first, second, seed=seed)
        assert found.low <= found.value <= found.high


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: bootstrap_mean([1.0]), InvalidData, "at least 2 samples, got 1"),
        (lambda: bootstrap_mean([1.0, math.nan]), InvalidData, "finite values"),
        (lambda: bootstrap_mean(range(50), resamples=3), InvalidInput, "resamples must be at least 100, got 3"),
        (lambda: bootstrap_mean([0, 1], resamples=3), InvalidInput, "resamples must be at least 100, got 3"),
        (lambda: bootstrap_mean([0, 1], level=95), InvalidInput, "level must be between 0 and 1, got 95"),
        (lambda: paired_bootstrap([0, 1], [0, 1, 1]), InvalidData, "must have the same length, got 2 and 3"),
    ],
)
def test_what_has_no_interval_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


@pytest.mark.parametrize(
    ("count", "flips"), [(20, (0.02, 0.005)), (50, (0.01, 0.0)), (200, (0.05, 0.05)), (200, (0.1, 0.02))]
)
def test_changes_of_accuracy_are_covered(count, flips):
    """In 300 draws of answers, the interval holds the true change in 95 %, or a little less or more."""
    generator, hits = np.random.default_rng(count), 0
    for seed in range(300):
        better, worse, _ = generator.multinomial(count, [*flips, 1 - sum(flips)])
        first, second = np.zeros(count), np.zeros(count)
        first[:better] = second[better : better + worse] = 1
        found = paired_bootstrap(first, second, 200, seed)
        hits += found.low <= flips[0] - flips[1] <= found.high
    assert hits >= 0.92 * 300


@pytest.mark.parametrize("shares", [np.full(12, 0.75), np.linspace(0, 1, 12), np.ones(12)])
def test_equal_shares_of_few_samples_are_not_proven_equal(shares):
    found = paired_bootstrap(shares, shares)
    assert found.value == 0
    assert found.low < -0.1
    assert found.high > 0.1
    if not np.isin(shares, (0, 1)).all():
        assert found.high == pytest.approx(wilson(0, 12).high)


def test_equal_values_of_any_size_have_no_bound():
    assert paired_bootstrap(np.arange(12), np.arange(12)).high == 0


def test_a_statistic_without_a_change_is_not_proven_equal():
    def mean(index):
        return np.linspace(0, 1, 10)[index].mean(1)

    figure = Draws(resamples=200).figure_of(Measure("map", "mAP", "share"), mean, mean, 10)
    assert (figure.change.low, figure.change.high) == pytest.approx((-wilson(0, 10).high, wilson(0, 10).high))
    assert Draws(resamples=200).figure_of(Measure("loss", "Loss"), mean, mean, 10).change.high == 0
