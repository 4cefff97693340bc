"""Confidence intervals of shares and means: Wilson's for shares, the bootstrap for the rest."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from bitwright.errors import InvalidData, InvalidInput
from bitwright.values import Figure, Interval, Measure

Array = npt.NDArray[np.float64]
Statistic = Callable[[npt.NDArray[np.int64]], Array]
"""(r, n) indices of samples -> (r,) values."""

CHUNK_VALUES = 1 << 22  # resampled values held at once
FEW = 16  # distinct values up to which a resample is drawn as counts


def wilson(successes: int, trials: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a share (Wilson 1927): honest near 0 and 1 and for few trials.

    Args:
        successes: number of successes.
        trials: number of independent trials, at least 1.
        level: confidence level, between 0 and 1.

    Raises:
        InvalidInput: more successes than trials, no trial, or a level outside (0, 1).
    """
    z = NormalDist().inv_cdf((1 + _checked_level(level)) / 2)
    if trials < 1 or not 0 <= successes <= trials:
        raise InvalidInput(f"successes must be between 0 and the number of trials, got {successes} of {trials}")
    share = successes / trials
    scale = 1 + z * z / trials
    center = (share + z * z / (2 * trials)) / scale
    half = z / scale * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    # At the ends the formula gives the share itself but for rounding.
    low = 0.0 if successes == 0 else max(0.0, center - half)
    high = 1.0 if successes == trials else min(1.0, center + half)
    return Interval(share, low, high, level, "wilson")


def bootstrap_mean(values: Any, resamples: int = 1000, seed: int = 0, level: float = 0.95) -> Interval:
    """Percentile bootstrap interval of a mean (Efron 1979).

    Args:
        values: (n,) one value per independent sample.
        resamples: how many times the samples are drawn anew.
        seed: of the draws.
        level: confidence level, between 0 and 1.

    Raises:
        InvalidData: fewer than 2 values, or one that is not finite.
        InvalidInput: ``resamples`` or ``level`` out of range.
    """
    kept = _checked_values(values)
    low, high = ends(_resampled_means(kept, resamples, seed), level)
    return Interval(float(kept.mean()), low, high, level, "bootstrap")


def paired_bootstrap(first: Any, second: Any, resamples: int = 1000, seed: int = 0, level: float = 0.95) -> Interval:
    """Bootstrap interval of mean(first) - mean(second), both measured on the same samples.

    Samples are drawn together with their pair, so what both have in common cancels. For right/wrong values (0 or 1)
    one pair is added in each direction before drawing (Bonett and Price 2012): without it two models that agree on all
    of a few samples would get the interval [0, 0], as if their equality were proven. For other shares of which none
    differs, the interval is what Wilson's says of the samples that may differ, each by 1 at most.

    Args:
        first: (n,) values, e.g. of the quantized model.
        second: (n,) values of the same samples, e.g. of the float model.
        resamples: how many times the pairs are drawn anew.
        seed: of the draws.
        level: confidence level, between 0 and 1.

    Raises:
        InvalidData: fewer than 2 pairs, different lengths, or a value that is not finite.
        InvalidInput: ``resamples`` or ``level`` out of range.
    """
    one, two = _checked_values(first), _checked_values(second)
    if one.shape != two.shape:
        raise InvalidData(f"paired values must have the same length, got {one.size} and {two.size}")
    change = one - two
    drawn_from = change
    if np.isin(one, (0.0, 1.0)).all() and np.isin(two, (0.0, 1.0)).all():
        drawn_from = np.append(change, (-1.0, 1.0))
    low, high = ends(_resampled_means(drawn_from, resamples, seed), level)
    if not change.any() and min(one.min(), two.min()) >= 0 and max(one.max(), two.max()) <= 1:
        low, high = beyond(low, high, len(change), level)
    value = float(change.mean())
    return Interval(value, min(low, value), max(high, value), level, "paired bootstrap")


def beyond(low: float, high: float, count: int, level: float) -> tuple[float, float]:
    """The ends of an interval of a change of shares, widened where none of ``count`` samples shows one."""
    most = wilson(0, count, level).high
    return min(low, -most), max(high, most)


def resample(statistic: Callable[[npt.NDArray[np.int64]], Array], count: int, resamples: int, seed: int) -> Array:
    """(resamples,) values of a statistic that maps (r, count) sample indices to (r,) values; memory is bounded."""
    _check_resamples(resamples)
    generator = np.random.default_rng(seed)
    rows = max(1, CHUNK_VALUES // count)
    return np.concatenate(
        [
            statistic(generator.integers(0, count, (min(rows, resamples - start), count)))
            for start in range(0, resamples, rows)
        ]
    )


def _resampled_means(values: Array, resamples: int, seed: int) -> Array:
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) > FEW:
        return resample(lambda index: np.asarray(values[index].mean(1)), values.size, resamples, seed)
    # Drawing how often each distinct value comes is the same distribution, at a cost that does not grow with n.
    _check_resamples(resamples)
    drawn = np.random.default_rng(seed).multinomial(values.size, counts / values.size, size=resamples)
    return np.asarray(drawn @ distinct / values.size)


def ends(means: Array, level: float) -> tuple[float, float]:
    """The two quantiles between which the middle ``level`` of the values lie."""
    tail = (1 - _checked_level(level)) / 2
    low, high = np.quantile(means, (tail, 1 - tail))
    return float(low), float(high)


def _check_resamples(resamples: int) -> None:
    if resamples < 100:
        raise InvalidInput(f"resamples must be at least 100, got {resamples}")


def _checked_level(level: float) -> float:
    if not 0 < level < 1:
        raise InvalidInput(f"level must be between 0 and 1, got {level}")
    return level


def _checked_values(values: Any) -> Array:
    kept = np.asarray(values, dtype=np.float64).reshape(-1)
    if kept.size < 2:
        raise InvalidData(f"an interval needs at least 2 samples, got {kept.size}")
    if not np.isfinite(kept).all():
        raise InvalidData("an interval needs finite values, got NaN or infinity")
    return kept


@dataclass(frozen=True)
class Metered:
    """A metric of the user's over some samples.

    Attributes:
        value: over all of them.
        parts: (G,) its values on groups of them, weighted by their sizes, whose mean is the value; none where the
            metric is not a mean over samples, as with the area under a curve.
    """

    value: float
    parts: Array


@dataclass(frozen=True)
class Draws:
    """How intervals are made.

    Attributes:
        resamples: bootstrap draws, at least 100.
        seed: of the draws.
        level: confidence level, between 0 and 1.
    """

    resamples: int = 1000
    seed: int = 0
    level: float = 0.95

    def mean(self, values: Array, share: bool = False) -> Interval:
        """Of the mean of (n,) values, one for each sample: Wilson's where they are yes or no, or the bootstrap's."""
        if share and np.isin(values, (0.0, 1.0)).all():
            return wilson(round(values.sum()), len(values), self.level)
        return bootstrap_mean(values, self.resamples, self.seed, self.level)

    def of(self, statistic: Statistic, count: int, method: str = "bootstrap") -> Interval:
        """Of any statistic that maps (r, n) indices of samples to (r,) values."""
        value = float(statistic(np.arange(count)[None])[0])
        drawn = resample(statistic, count, self.resamples, self.seed)
        low, high = ends(drawn, self.level)
        return Interval(value, min(low, value), max(high, value), self.level, method)

    def given(self, name: str, value: Metered, reference: Metered) -> Figure:
        """A figure of the user's, of the quantized and the float model; with intervals if it is a mean over samples."""
        change = value.value - reference.value
        if not len(value.parts) or not len(reference.parts):
            found = [Interval(v, v, v, self.level, "none") for v in (value.value, reference.value, change)]
            return Figure(Measure(name, name), *found)
        made = (self.resamples, self.seed, self.level)
        own, exact = bootstrap_mean(value.parts, *made), bootstrap_mean(reference.parts, *made)
        return Figure(Measure(name, name), own, exact, paired_bootstrap(value.parts, reference.parts, *made))

    def figure(self, measure: Measure, ours: Array, floats: Array | None = None) -> Figure:
        """The mean of (n,) values; with the float model's on the same samples, and the change."""
        value = self.mean(ours, measure.unit == "share")
        if floats is None:
            return Figure(measure, value)
        change = paired_bootstrap(ours, floats, self.resamples, self.seed, self.level)
        return Figure(measure, value, self.mean(floats, measure.unit == "share"), change)

    def figure_of(self, measure: Measure, ours: Statistic, floats: Statistic, count: int) -> Figure:
        """Any statistic of both models; samples are drawn together with their pair for the change."""
        change = self.of(lambda index: ours(index) - floats(index), count, "paired bootstrap")
        if measure.unit == "share" and change.low == change.high == 0:
            low, high = beyond(0, 0, count, self.level)
            change = replace(change, low=low, high=high)
        return Figure(measure, self.of(ours, count), self.of(floats, count), change)
