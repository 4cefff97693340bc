"""Dense prediction: a class at each position, from logits (N, K, ...): segmentation, labels of tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from bitwright.errors import InvalidData, InvalidInput
from bitwright.tasks.base import TASKS, Answer, Evidence, Values, whole
from bitwright.tasks.classification import IGNORED, Classes, Head, check_classes
from bitwright.tasks.intervals import Array, Draws
from bitwright.tasks.outputs import Named
from bitwright.values import Figure, Measure

MEAN_IOU = Measure("mean-iou", "Mean IoU", "share")
_OVERLAP = "overlap "


@TASKS.register
class Dense(Classes):
    """A class at each position: logits (N, K, ...), class numbers (N, ...).

    Every figure is an average over the positions of each sample, then over the samples; the mean intersection over
    union alone is of all positions together, the mean over the classes. There is no margin: a sample has as many
    decisions as positions, so FIT takes the place of Margin-FIT.

    Args:
        ignore: the target of positions that do not count; PyTorch's own, -100, never counts.
        last: whether the classes are the last axis of the logits, (N, ..., K), as where tokens are classified.
        options: see :class:`~bitwright.tasks.classification.Classes`.
    """

    name, does, order = "dense", "a class at each position, from logits (N, K, ...): segmentation, tokens", 20
    further = (MEAN_IOU,)

    def __init__(self, *data: Any, ignore: int | None = None, last: bool = False, **options: Any) -> None:
        super().__init__(*data, **options)
        self.ignore, self.last = whole("ignore", ignore), last

    def _chosen(self, outputs: Named, targets: Any) -> list[tuple[str, Tensor, Any]]:
        if self.last:
            outputs = {name: value.movedim(-1, 1) if value.dim() > 2 else value for name, value in outputs.items()}
        return super()._chosen(outputs, targets)

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

    def own(self, answer: Answer) -> Values:
        """Accuracy and loss; and for the mean IoU, what predictions and targets share and cover in each sample."""
        heads = {name: head for name, head in answer.read.items() if head.targets is not None}
        return {**super().own(answer), **{_OVERLAP + name: overlap(head) for name, head in heads.items()}}

    def figures(self, evidence: Evidence, draws: Draws) -> dict[str, Figure]:
        """The mean IoU, averaged over the outputs, behind accuracy."""
        found = super().figures(evidence, draws)
        names = [name for name in evidence.ours if name.startswith(_OVERLAP)]
        if not names:
            return found

        def statistic(columns: Any) -> Any:
            return lambda index: np.mean([mean_iou(columns[name], index) for name in names], axis=0)

        made = draws.figure_of(MEAN_IOU, statistic(evidence.ours), statistic(evidence.floats), evidence.samples)
        first = {name: figure for name, figure in found.items() if name == "accuracy"}
        return {**first, MEAN_IOU.name: made, **found}


def overlap(head: Head) -> Tensor:
    """(N, 2, K) positions of each class that are predicted and true, and that are one of the two at least."""
    assert head.targets is not None
    samples, classes = head.logits.shape[:2]
    predicted, wanted = head.predicted.reshape(samples, -1), head.targets.long().reshape(samples, -1)
    counted = torch.ones_like(wanted, dtype=torch.bool) if head.counted is None else head.counted.reshape(samples, -1)
    place = torch.arange(samples, device=wanted.device)[:, None] * classes

    def counts(values: Tensor, where: Tensor) -> Tensor:
        return (place + values)[where].bincount(minlength=samples * classes).view(samples, classes)

    shared = counts(wanted, counted & (predicted == wanted))
    return torch.stack((shared, counts(wanted, counted) + counts(predicted, counted) - shared), 1).double()


def mean_iou(overlaps: Array, index: npt.NDArray[np.int64]) -> Array:
    """(r,) mean over the classes that occur of intersection over union, all positions of the samples together.

    Of (N, 2, K) overlaps, see :func:`overlap`, at (r, n) samples.
    """
    times = np.zeros((len(index), len(overlaps)))
    np.add.at(times, (np.arange(len(index))[:, None], index), 1.0)
    shared, covered = np.moveaxis((times @ overlaps.reshape(len(overlaps), -1)).reshape(len(index), 2, -1), 1, 0)
    there = covered > 0
    return np.asarray((shared / np.where(there, covered, 1.0)).sum(1) / there.sum(1))


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
