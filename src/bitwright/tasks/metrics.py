"""Metrics of the user's own: (outputs, targets) -> one number over all samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from bitwright.errors import InvalidData, InvalidInput
from bitwright.graph.batches import cut
from bitwright.tasks.base import called
from bitwright.tasks.intervals import Metered

GROUPS = 200
"""Most parts of the samples on which a metric is computed for its interval."""
SAME = 1e-5


def metered(metrics: Mapping[str, Callable[..., Any]], outputs: Any, targets: Any) -> dict[str, Metered]:
    """The metrics of all samples, and of groups of them where they are means over the samples.

    Raises:
        InvalidInput: a metric that fails, or does not return a number.
        InvalidData: one that is not finite.
    """
    return {name: _metered(name, function, outputs, targets) for name, function in metrics.items()}


def _metered(name: str, function: Callable[..., Any], outputs: Any, targets: Any) -> Metered:
    value = _number(name, called(name, function, outputs, targets))
    none = Metered(value, np.empty(0))
    count = next((len(v) for v in tree_leaves(outputs) if isinstance(v, Tensor) and v.dim()), 0)
    if count < 2:
        return none

    def parts(groups: int) -> np.ndarray:
        edges = np.linspace(0, count, groups + 1).round().astype(int)
        found = []
        for start, stop in zip(edges[:-1], edges[1:], strict=True):
            index = torch.arange(count)
            _, pair = cut(((index,), {"outputs": outputs, "targets": targets}), int(start), int(stop))
            one = _number(name, function(pair["outputs"], pair["targets"]))
            found.append(one * (stop - start) * groups / count)
        return np.asarray(found, dtype=np.float64)

    try:
        if not _mean_of(parts(2), value):
            return none
        groups = parts(min(count, GROUPS))
    except Exception:
        return none
    return Metered(value, groups) if _mean_of(groups, value) else none


def _mean_of(parts: np.ndarray, value: float) -> bool:
    return abs(float(parts.mean()) - value) <= SAME * max(abs(value), float(np.abs(parts).max()), 1e-12)


def _number(name: str, value: Any) -> float:
    try:
        found = float(value)
    except (TypeError, ValueError, RuntimeError):
        raise InvalidInput(f"{name} must return one number, got {type(value).__name__}") from None
    if not math.isfinite(found):
        raise InvalidData(f"{name} must return a finite number, got {found}")
    return found
