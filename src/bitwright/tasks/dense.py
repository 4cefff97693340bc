"""Dense prediction: a class at each position, from logits (N, K, ...): segmentation, labels of tokens."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from bitwright.errors import InvalidData, InvalidInput
from bitwright.tasks.base import TASKS
from bitwright.tasks.classification import IGNORED, Classes, Head, check_classes


@TASKS.register
class Dense(Classes):
    """A class at each position: logits (N, K, ...), class numbers (N, ...).

    Every figure is an average over the positions of each sample, then over the samples. There is no margin: a sample
    has as many decisions as positions, so FIT takes the place of Margin-FIT.

    Args:
        ignore: the target of positions that do not count; PyTorch's own, -100, never counts.
        options: see :class:`~bitwright.tasks.classification.Classes`.
    """

    name, does, order = "dense", "a class at each position, from logits (N, K, ...): segmentation, tokens", 20

    def __init__(self, *data: Any, ignore: int | None = None, **options: Any) -> None:
        super().__init__(*data, **options)
        self.ignore = ignore

    def head(self, logits: Tensor, targets: Any) -> Head:
        """Logits (N, K, ...) with class numbers (N, ...)."""
        if logits.dim() < 2 or logits.shape[1] < 2:
            raise InvalidInput(
                f"the task '{self.name}' needs logits of shape (batch, classes, ...) with at least 2 classes, got "
                f"shape {tuple(logits.shape)}; name the output that holds them (output=), or wrap the model"
            )
        counted = counting(targets, self.ignore)
        check_classes(logits, targets, counted)
        return Head(logits, targets, counted)


def counting(targets: Any, ignore: int | None) -> Tensor | None:
    """Which positions count; None where all do.

    Raises:
        InvalidData: a sample none of whose positions counts.
    """
    if not isinstance(targets, Tensor) or targets.is_floating_point() or targets.dim() < 2:
        return None
    counted = targets != IGNORED
    if ignore is not None:
        counted &= targets != ignore
    if bool(counted.all()):
        return None
    if not bool(counted.flatten(1).any(1).all()):
        raise InvalidData("the targets of a sample are ignored at every position; leave such samples out")
    return counted
