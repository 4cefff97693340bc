"""How well predictions order policies as measurements do."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bitwright.errors import InvalidInput
from bitwright.tasks.intervals import ends, resample
from bitwright.values import Interval

Array = npt.NDArray[np.float64]


def spearman_interval(
    scores: Any, measured: Any, resamples: int = 1000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Spearman's rank correlation with a bootstrap interval over the policies.

    Args:
        scores: (n,) predictions, one for each policy.
        measured: (n,) measurements of the same policies. The sign is the plain one: predicted harm against accuracy
            is negative where the prediction is good.
        resamples: how many times the policies are drawn anew.
        seed: of the draws.
        level: confidence level, between 0 and 1.

    Raises:
        InvalidInput: fewer than 3 policies, different lengths, values that are not finite, or all equal.
    """
    x, y = (np.asarray(v, dtype=np.float64).reshape(-1) for v in (scores, measured))
    if x.size != y.size:
        raise InvalidInput(f"there must be as many scores as measured values, got {x.size} and {y.size}")
    if x.size < 3:
        raise InvalidInput(f"a rank correlation needs at least 3 policies, got {x.size}")
    for name, values in (("scores", x), ("measured", y)):
        if not np.isfinite(values).all():
            raise InvalidInput(f"{name} must be finite, got NaN or infinity")
        if (values == values[0]).all():
            raise InvalidInput(f"{name} must differ between policies for a rank correlation, all are {values[0]}")
    value = float(_correlations(x[None], y[None])[0])
    drawn = resample(lambda index: _correlations(x[index], y[index]), x.size, resamples, seed)
    # A resample of one policy over and over has no correlation.
    low, high = ends(drawn[np.isfinite(drawn)], level)
    return Interval(value, min(low, value), max(high, value), level, "bootstrap")


def _correlations(x: Array, y: Array) -> Array:
    """(r,) rank correlations of the rows of two (r, n) arrays; ties share their mean rank."""
    from scipy.stats import rankdata

    a, b = (rankdata(v, axis=1) - (v.shape[1] + 1) / 2 for v in (x, y))
    spread = np.sqrt((a * a).sum(1) * (b * b).sum(1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((a * b).sum(1) / spread)
