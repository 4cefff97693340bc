"""A task: the data and the measures that a flow works with, in one value."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from bitwright.errors import InvalidInput
from bitwright.evaluation.outputs import Loss
from bitwright.graph.batches import as_batches

Metric = Callable[[Any, Any], float]


@dataclass(frozen=True)
class Task:
    """What a network is for.

    Attributes:
        calibration: batches (inputs, targets) of training data; everything is chosen on them.
        evaluation: batches (inputs, targets) of test data; they only say whether the target holds.
        loss: (outputs, targets) -> (N,) losses; None for cross-entropy.
        metric: (outputs, targets) -> number, larger being better, over all of the evaluation data at once; it decides
            instead of accuracy whether the target holds, a point being 0.01 of it. None for accuracy.
        name: a word for reports.

    Raises:
        InvalidData: batches that are no iterables of (inputs, targets).
        InvalidInput: a loss or metric that cannot be called.
    """

    calibration: Iterable[Any]
    evaluation: Iterable[Any]
    loss: Loss | None = None
    metric: Metric | None = None
    name: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "calibration", as_batches(self.calibration))
        object.__setattr__(self, "evaluation", as_batches(self.evaluation))
        for what in ("loss", "metric"):
            function = getattr(self, what)
            if function is not None and not callable(function):
                raise InvalidInput(f"{what} must be a function (outputs, targets), got {type(function).__name__}")
