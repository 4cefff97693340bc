"""Samples by the input that they were made from: halves that share no input, and intervals from drawing inputs anew."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property

import numpy as np
import numpy.typing as npt

from bitwright.tasks.intervals import beyond, wilson
from bitwright.values import Interval

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
LEVEL = 0.95


def origins(cases: Iterable[tuple[str, int]]) -> npt.NDArray[np.int64]:
    """(N,) a number for each sample of some cases, one after the other: the same for an input under all its shifts.

    Args:
        cases: the name of the set that each is made from, and how many samples it has.
    """
    first: dict[str, int] = {}
    numbers = []
    for origin, samples in cases:
        start = first.setdefault(origin, len(first) << 32)
        numbers.append(start + np.arange(samples, dtype=np.int64))
    return np.concatenate(numbers)


def half(inputs: npt.NDArray[np.int64], seed: int) -> Mask:
    """Which samples to fit on; the others are to measure on. An input is on one side under all shifts."""
    names = np.unique(inputs)
    chosen = np.random.RandomState(seed).permutation(names)[: len(names) // 2]
    return np.isin(inputs, chosen)


class Inputs:
    """Samples of which some are shifts of the same input: means, with intervals that draw inputs with all their shifts.

    Args:
        numbers: (N,) of the input that each sample is a shift of.
        seed: of the draws.
        resamples: how many draws.
    """

    def __init__(self, numbers: npt.NDArray[np.int64], seed: int, resamples: int = 200) -> None:
        self._owners = np.unique(numbers, return_inverse=True)[1]
        self.count, self._seed, self._resamples = int(self._owners.max()) + 1, seed, resamples

    @cached_property
    def _draws(self) -> Array:
        """(resamples, inputs) how often each input counts."""
        generator, count = np.random.RandomState(self._seed), self.count
        rows = [np.bincount(generator.randint(0, count, count), minlength=count) for _ in range(self._resamples)]
        return np.array(rows, np.float64)

    def weights(self) -> Iterator[Array]:
        """(N,) how often each sample counts in each draw."""
        return (row[self._owners] for row in self._draws)

    def share(self, values: npt.ArrayLike, of: npt.ArrayLike | None = None) -> Interval:
        """The sum of (N,) values over that of others, which is above 0: of a mask and None, the share of the samples.

        Where the share is 0 or 1, the interval is Wilson's for one trial an input.
        """
        part = np.asarray(values, np.float64)
        whole = np.ones(len(part)) if of is None else np.asarray(of, np.float64)
        top, bottom = (np.bincount(self._owners, each, self.count) for each in (part, whole))
        value, drawn = float(top.sum() / bottom.sum()), self._draws @ bottom
        found = (self._draws @ top)[drawn > 0] / drawn[drawn > 0]
        if not top.any() or (top == bottom).all():
            inputs = int((bottom > 0).sum())
            edge = wilson(round(value * inputs), inputs, LEVEL)
            return Interval(value, edge.low, edge.high, LEVEL, "wilson")
        return between(value, found)

    def change(self, first: npt.ArrayLike, second: npt.ArrayLike) -> Interval:
        """The mean of (N,) values minus that of others of the same samples."""
        one, other = np.asarray(first, np.float64), np.asarray(second, np.float64)
        change, shares = one - other, min(one.min(), other.min()) >= 0 and max(one.max(), other.max()) <= 1
        sums, sizes = np.bincount(self._owners, change, self.count), np.bincount(self._owners, minlength=self.count)
        found = between(float(change.mean()), (self._draws @ sums) / (self._draws @ sizes))
        if change.any() or not shares:
            return found
        return Interval(0.0, *beyond(0.0, 0.0, self.count, LEVEL), LEVEL, "wilson")


def between(value: float, draws: Array) -> Interval:
    """A figure with the middle 95 % of its draws."""
    low, high = np.quantile(draws, (0.025, 0.975))
    return Interval(value, min(float(low), value), max(float(high), value), LEVEL, "bootstrap")
