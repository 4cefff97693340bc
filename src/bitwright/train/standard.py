"""Training on the batches as they come."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from bitwright.train.strategy import Lesson, registered


@registered(name="standard", order=10, does="Trains on the batches as they come.", costs="one pass and its gradient")
def standard(lesson: Lesson, inputs: tuple[Any, ...], targets: Any) -> Tensor:
    """The losses of the batch."""
    return lesson(inputs, (1.0, targets))
